#' Why pixels are masked
#'
#' Spectra keep of each pixel whether it has weight, not why it has none. This reads the files of some spectra again, those of their
#' catalogue's column `file`, and says for each masked pixel what it was: an artefact has reasons that a galaxy has not.
#'
#' @param x [spectra()] from [read_sdss()], or a survey of such; choose those of interest by `x[rows]`. The files must still be where they
#'   were.
#' @return A data frame with a row for each pixel of `x` without weight, in order: `id`, `pixel`, `wave` (Å, observed) and `reason`, the
#'   first of these that is true:
#'   * `"not in the file"`: the file does not have the pixel;
#'   * `"not finite"`: its flux or inverse variance is not a number;
#'   * names of the bits of SDSS's `and_mask` that are set, joined by `|`, such as `"BRIGHTSKY|BADSKYCHI"`; `"no mask"` where the
#'     pixel's mask is missing;
#'   * `"no weight"`: its inverse variance is 1e-6 or less;
#'   * `"sky line"`: none of these; the pixel is near a line that was masked when the file was read (`mask_sky`).
#' @section Errors: `spender_error_files` for a file that is not there, `spender_error_invalid` for spectra without files, or on another
#'   grid than SDSS's; those of [read_catalogue()].
#' @seealso [read_sdss()], [sky_lines()], [plot.spectra()]
#' @export
#' @examples
#' \dontrun{
#' x <- read_sdss("spectra")
#' reasons <- mask_reasons(x[1])
#' table(reasons$reason)
#' }
mask_reasons <- function(x) {
  check_source(x)
  catalogue <- as.data.frame(x)
  if (!"file" %in% names(catalogue)) abort("invalid", "`x` has no column `file` in its catalogue: it was not read from files of SDSS.")
  first <- tryCatch(check_log_grid(x$instrument), spender_error_grid = function(e) {
    abort("invalid", "Reasons are those of SDSS's files, and ", format(x$instrument), " is another grid.")
  })
  gone <- which(!file.exists(catalogue$file))
  if (length(gone)) abort("files", "There is no file ", catalogue$file[gone[1]], " any more.")
  x <- in_memory(x)
  parts <- lapply(seq_along(x$id), function(i) {
    pixel <- which(x$ivar[i, ] == 0)
    pixels <- read_catalogue(catalogue$file[i], c("flux", "ivar", "loglam", "and_mask"), hdu = 1)
    row <- match(pixel, round((pixels$loglam - first) / 1e-4) + 1)
    mask <- pixels$and_mask[row]
    reason <- rep("sky line", length(pixel)) # what is true and stands last here wins
    reason[which(pixels$ivar[row] <= 1e-6)] <- "no weight"
    flagged <- which(mask != 0)
    reason[flagged] <- mask_names(mask[flagged])
    reason[is.na(mask)] <- "no mask"
    reason[!is.finite(pixels$flux[row]) | !is.finite(pixels$ivar[row])] <- "not finite"
    reason[is.na(row)] <- "not in the file"
    data.frame(id = rep(x$id[i], length(pixel)), pixel, wave = x$instrument$wave[pixel], reason)
  })
  none <- data.frame(id = character(), pixel = integer(), wave = double(), reason = character())
  do.call(rbind, c(list(none), parts))
}

# SPPIXMASK of SDSS: names of bits, counted from 0
mask_bits <- c(NOPLUG = 0, BADTRACE = 1, BADFLAT = 2, BADARC = 3, MANYBADCOLUMNS = 4, MANYREJECTED = 5, LARGESHIFT = 6, BADSKYFIBER = 7,
               NEARWHOPPER = 8, WHOPPER = 9, SMEARIMAGE = 10, SMEARHIGHSN = 11, SMEARMEDSN = 12, NEARBADPIXEL = 16, LOWFLAT = 17,
               FULLREJECT = 18, PARTIALREJECT = 19, SCATTEREDLIGHT = 20, CROSSTALK = 21, NOSKY = 22, BRIGHTSKY = 23, NODATA = 24,
               COMBINEREJ = 25, BADFLUXFACTOR = 26, BADSKYCHI = 27, REDMONSTER = 28)

# "NOSKY|BRIGHTSKY" for each number, a negative one as two's complement; "BIT13" for a bit without a name
mask_names <- function(mask) {
  named <- paste0("BIT", 0:31)
  named[mask_bits + 1] <- names(mask_bits)
  known <- unique(mask)
  texts <- vapply(known, function(value) paste(named[(value %% 2^(1:32)) >= 2^(0:31)], collapse = "|"), "")
  texts[match(mask, known)]
}
