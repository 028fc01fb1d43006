#' Why pixels are masked
#'
#' Spectra keep of each pixel whether it has weight, not why it has none. This reads the files of some spectra again, those of their
#' catalogue's column `file`, and says for each masked pixel what it was: an artefact has reasons that a galaxy has not.
#'
#' @param x [spectra()] from [read_sdss()] or [read_desi()], or a survey of such; choose those of interest by `x[rows]`. The files must
#'   still be where they were.
#' @return A data frame with a row for each pixel of `x` without weight, in order: `id`, `pixel`, `wave` (Å, observed) and `reason`, the
#'   first of these that is true:
#'   * `"not in the file"`: the file does not have the pixel (of DESI: none of its arms has);
#'   * `"not finite"`: its flux or inverse variance is not a number (of DESI: in one of its arms or exposures);
#'   * names of the bits that are set in its mask, joined by `|`; `"no mask"` where SDSS's mask is missing. Of SDSS, such as
#'     `"BRIGHTSKY|BADSKYCHI"`, those of `and_mask`, or of `or_mask` if the spectra were read by it. Of DESI, such as `"SOMEBADPIX|COSMIC"`,
#'     those of all arms and exposures that have the pixel, if none of them is good. A bit that has no name is called `BIT13`;
#'   * `"no weight"`: its inverse variance is 1e-6 or less;
#'   * `"sky line"`: none of these; the pixel is near a line that was masked when the file was read (`mask_sky`).
#' @section Errors: `spender_error_files` for a file that is not there, `spender_error_invalid` for spectra without files, or on another
#'   grid than SDSS's and DESI's; `spender_error_format` for a file that has no such spectrum any more; those of [read_catalogue()].
#' @references Names of bits: SPPIXMASK, <https://www.sdss4.org/dr17/algorithms/bitmasks/>; SPECMASK,
#'   <https://desidatamodel.readthedocs.io/en/latest/bitmasks.html>.
#' @seealso [read_sdss()], [read_desi()], [sky_lines()], [plot.spectra()]
#' @export
#' @examples
#' # a part of a made-up spectrum, as a file of SDSS
#' if (devices()$built[["cfitsio"]]) {
#'   x <- read_sdss(system.file("extdata", "spec-0001-51602-0001.fits.gz", package = "spender"))
#'   reasons <- mask_reasons(x)
#'   print(table(reasons$reason))
#'   print(reasons[grep("BRIGHTSKY", reasons$reason), ])
#' }
mask_reasons <- function(x) {
  check_source(x)
  catalogue <- as.data.frame(x)
  if (!"file" %in% names(catalogue)) {
    abort("invalid", "`x` has no column `file` in its catalogue: it was not read from files of SDSS or DESI.")
  }
  is_desi <- "targetid" %in% names(catalogue) && is_desi_grid(x$instrument)
  first <- if (!is_desi) {
    tryCatch(check_log_grid(x$instrument), spender_error_grid = function(e) {
      abort("invalid", "Reasons are those of SDSS's and DESI's files, and ", format(x$instrument), " is another grid.")
    })
  }
  gone <- which(!file.exists(catalogue$file))
  if (length(gone)) abort("files", "There is no file ", catalogue$file[gone[1]], " any more.")
  x <- in_memory(x)
  reasons <- if (is_desi) desi_reasons(x) else lapply(seq_along(x$id), function(i) sdss_reasons(x, i, first))
  parts <- Map(function(id, reason) {
    pixel <- reason$pixel
    data.frame(id = rep(id, length(pixel)), pixel, wave = x$instrument$wave[pixel], reason = reason$reason)
  }, x$id, reasons)
  none <- data.frame(id = character(), pixel = integer(), wave = double(), reason = character())
  do.call(rbind, c(list(none), unname(parts)))
}

# Masked pixels of spectrum i, and their reasons
sdss_reasons <- function(x, i, first) {
  pixel <- which(x$ivar[i, ] == 0)
  column <- if (identical(x$meta$mask[i], "or")) "or_mask" else "and_mask"
  pixels <- read_catalogue(x$meta$file[i], c("flux", "ivar", "loglam", column), hdu = 1)
  row <- match(pixel, round((pixels$loglam - first) / 1e-4) + 1)
  mask <- pixels[[column]][row]
  reason <- rep("sky line", length(pixel)) # what is true and stands last here wins
  reason[which(pixels$ivar[row] <= 1e-6)] <- "no weight"
  flagged <- which(mask != 0)
  reason[flagged] <- mask_names(mask[flagged], sdss_bits)
  reason[is.na(mask)] <- "no mask"
  reason[!is.finite(pixels$flux[row]) | !is.finite(pixels$ivar[row])] <- "not finite"
  reason[is.na(row)] <- "not in the file"
  list(pixel = pixel, reason = reason)
}

# The same of all spectra, file by file
desi_reasons <- function(x) {
  reasons <- vector("list", length(x$id))
  for (file in unique(x$meta$file)) {
    map <- desi_table(file, "FIBERMAP", c("TARGETID", "COADD_FIBERSTATUS", "FIBERSTATUS"))
    targets <- desi_rows(map)
    rows <- split(targets$rows, rep(seq_along(targets$counts), targets$counts))
    mine <- which(x$meta$file == file)
    at <- match(x$meta$targetid[mine], map$TARGETID[targets$first])
    if (anyNA(at)) abort("format", basename(file), " has no target ", x$meta$targetid[mine[is.na(at)][1]], " any more.")
    for (part in parts_of(length(mine), 64)) {
      raw <- .Call(ffi_desi_masks, file, as.double(length(map$TARGETID)), as.double(targets$counts[at[part]]),
                   as.double(unlist(rows[at[part]])), x$instrument$wave)
      for (k in seq_along(part)) {
        i <- mine[part[k]]
        pixel <- which(x$ivar[i, ] == 0)
        reason <- c("not in the file", "not finite", "no weight", "sky line")[raw$state[k, pixel] + 1]
        bits <- raw$bits[k, pixel]
        flagged <- which(reason == "no weight" & bits != 0)
        reason[flagged] <- mask_names(bits[flagged], desi_bits)
        reasons[[i]] <- list(pixel = pixel, reason = reason)
      }
    }
  }
  reasons
}

# SPPIXMASK of SDSS: names of bits, counted from 0
sdss_bits <- c(NOPLUG = 0, BADTRACE = 1, BADFLAT = 2, BADARC = 3, MANYBADCOLUMNS = 4, MANYREJECTED = 5, LARGESHIFT = 6, BADSKYFIBER = 7,
               NEARWHOPPER = 8, WHOPPER = 9, SMEARIMAGE = 10, SMEARHIGHSN = 11, SMEARMEDSN = 12, NEARBADPIXEL = 16, LOWFLAT = 17,
               FULLREJECT = 18, PARTIALREJECT = 19, SCATTEREDLIGHT = 20, CROSSTALK = 21, NOSKY = 22, BRIGHTSKY = 23, NODATA = 24,
               COMBINEREJ = 25, BADFLUXFACTOR = 26, BADSKYCHI = 27, REDMONSTER = 28)

# SPECMASK of DESI
desi_bits <- c(SOMEBADPIX = 0, ALLBADPIX = 1, COSMIC = 2, LOWFLAT = 3, BADFIBERFLAT = 4, BRIGHTSKY = 5, BADSKY = 6, BAD2DFIT = 7,
               NODATA = 8, BADFIBER = 9, BADCOLUMN = 10)

# "NOSKY|BRIGHTSKY" for each number, a negative one as two's complement; "BIT13" for a bit without a name
mask_names <- function(mask, bits) {
  named <- paste0("BIT", 0:31)
  named[bits + 1] <- names(bits)
  known <- unique(mask)
  texts <- vapply(known, function(value) paste(named[(value %% 2^(1:32)) >= 2^(0:31)], collapse = "|"), "")
  texts[match(mask, known)]
}
