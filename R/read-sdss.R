#' Read SDSS, BOSS and SDSS-V spectra
#'
#' Reads the files that the Sloan Digital Sky Survey serves one per object (`spec-PLATE-MJD-FIBER.fits`, and
#' `spec-FIELD-MJD-CATALOGID.fits` of SDSS-V), several at a time, and prepares the spectra as [spectra()] does.
#'
#' @param files Names of files, or of folders: all `.fits` and `.fits.gz` in them and below.
#' @param instrument The grid to place the spectra on: an [instrument()] or its name. Its pixels must be SDSS's own, uniform by
#'   1e-4 in log10 of wavelength: nothing is resampled.
#' @param mask_sky,window As in [spectra()].
#' @param threads How many files to read at once; `NULL`: as many as [devices()] says.
#' @param progress Show a progress bar?
#'
#' @param resolution Read the column `wdisp`, the standard deviation of the line spread function at each pixel, too, as the spectra's
#'   `resolution` (see [spectra()])? Pixels for which it is 0 get what is between their neighbours'. Half as much memory again is used, and
#'   files are opened twice; one without the column cannot be used.
#'
#' @param mask Which pixels are masked: those with a bit of `and_mask` set (`"and"`), as the pipeline's authors advise for coadds of
#'   good exposures, or with one of `or_mask` (`"or"`), as has been advised for BOSS. A bit of the first is set if it is in the masks of
#'   all exposures that were combined, a bit of the second if it is in any of them, so that more pixels are lost.
#'
#' @details
#' HDU 1 gives `flux`, `ivar`, `loglam` and `and_mask` or `or_mask`, stored as any numeric type; a pixel with a bit of the mask set, or
#' whose mask is missing, gets ivar 0. Each pixel is assigned to the nearest pixel of the grid; pixels beyond its ends are dropped, grid
#' pixels that a file lacks get flux 0, ivar 0. HDU 2 gives the redshift and the catalogue: `file`, `plate`,
#' `mjd`, `fiber`, `class`, `subclass`, `z_err`, `zwarning`, `sn_median`, `plate_quality`,
#' `instrument` (`"SDSS"` or `"BOSS"`), `ra` and `dec` (degrees; of the fibre, or else of the object), each `NA` where the file has none; of
#' SDSS-V also `field`, `catalogid` and `sdss_id` (texts, as they
#' are 64-bit integers), and `plate_quality` is the quality of the field;
#' `mask`, `"or"`, where `or_mask` was asked for. Ids are `plate-mjd-fiber` as in file names (`0266-51602-0013`), or
#' `field-mjd-catalogid` (`015170-59255-04544940698`), from the file's own keys. HDUs and columns are those of data releases 9 to 19:
#' columns in either case, HDUs with or without a name.
#'
#' A file that cannot be used does not stop the others: it has no row in the result but one in [problems()], with the
#' reason, and a warning of class `spender_warning_files` counts them. Two files of one object both stay; the second gets a new
#' id and a row in [problems()].
#'
#' One spectrum takes 63 kB of memory on the SDSS grid.
#' @return [spectra()], in the order of `files`.
#' @section Errors:
#' `spender_error_unsupported` if the package was built without CFITSIO; `spender_error_files` for a folder without FITS files;
#' `spender_error_grid` if the grid is not uniform by 1e-4 in log10 wavelength.
#' @examples
#' # a folder of spectra:   x <- read_sdss("~/spectra/"); plot(x)
#' # a part of a made-up spectrum
#' if (devices()$built[["cfitsio"]]) {
#'   file <- system.file("extdata", "spec-0001-51602-0001.fits.gz", package = "spender")
#'   print(read_sdss(file))
#'   # more pixels are masked
#'   print(read_sdss(file, mask = "or"))
#' }
#'
#' # files that are no spectra are reported, and stop nothing
#' file <- tempfile(fileext = ".fits")
#' writeLines("This is not a spectrum.", file)
#' if (devices()$built[["cfitsio"]]) {
#'   x <- suppressWarnings(read_sdss(file))
#'   print(x)
#'   problems(x)$reason
#' }
#' @seealso [select_galaxies()], [read_desi()]
#' @export
read_sdss <- function(files, instrument = "sdss", mask_sky = TRUE, window = c(5300, 5850), threads = NULL,
                      progress = interactive(), resolution = FALSE, mask = c("and", "or")) {
  check_flag(resolution, "resolution")
  mask <- match.arg(mask)
  files <- expand_folders(files)
  instrument <- instrument(instrument)
  first <- check_log_grid(instrument)
  recipe <- c(preparation(instrument, mask_sky, window, TRUE, threads), mask = paste0(mask, "_mask"))
  raw <- .Call(ffi_read_sdss, files, recipe, first, reading_bar(progress, length(files)))
  sigma <- NULL
  if (resolution) {
    sigma <- matrix(0, length(files), length(instrument$wave))
    for (i in which(is.na(raw$problem))) {
      widths <- tryCatch(sdss_widths(files[i], first, ncol(sigma)), spender_error = conditionMessage)
      if (is.character(widths)) raw$problem[i] <- widths else sigma[i, ] <- widths
    }
  }

  good <- is.na(raw$problem)
  unread <- unread_inputs(files[!good], raw$problem[!good])
  if (resolution) sigma <- sigma[good, , drop = FALSE]
  if (!all(good)) raw <- lapply(raw, function(e) if (is.matrix(e)) e[good, , drop = FALSE] else e[good])
  warn_unread(unread, length(files))
  files <- files[good]
  named <- object_names(raw, files)
  id <- make.unique(named)
  problems <- read_problems(raw$found, named, id, files, window, unread)
  raw$zwarning <- as_integers(raw$zwarning)
  meta <- data.frame(file = files, raw[c("plate", "mjd", "fiber", "class", "subclass", "z_err", "zwarning", "sn_median",
                                         "plate_quality", "instrument", "ra", "dec")])
  if (mask == "or") meta$mask <- rep("or", nrow(meta))
  for (key in c("field", "catalogid", "sdss_id")) if (!all(is.na(raw[[key]]))) meta[[key]] <- raw[[key]] # of SDSS-V
  new_spectra(raw$flux, raw$ivar, raw$z, raw$norm, instrument, id, meta, problems, object = named,
              resolution = if (resolution) gaussian_widths(sigma))
}

# Standard deviations of the line spread function at the grid's pixels, in pixels. Where a file has none (0), they are interpolated.
sdss_widths <- function(file, first, m) {
  table <- .Call(ffi_read_catalogue, file, 2, c("loglam", "wdisp"))
  if (!is.numeric(table$wdisp)) abort("format", basename(file), " has no column 'wdisp' of numbers in HDU 1")
  pixel <- round((as.double(table$loglam) - first) / 1e-4) + 1
  known <- which(is.finite(pixel) & is.finite(table$wdisp) & table$wdisp > 0)
  if (!length(known)) abort("format", basename(file), " has a column 'wdisp' without any width")
  stats::approx(pixel[known], table$wdisp[known], seq_len(m), rule = 2, ties = "ordered")$y
}

# log10 of the first wavelength, once it is sure that SDSS's pixels fall on the grid's: half a tenth of a pixel is what
# single precision and other people's rounding may cost.
check_log_grid <- function(instrument) {
  position <- log10(instrument$wave) / 1e-4
  steps <- position - position[1] - (seq_along(position) - 1)
  if (max(abs(steps)) > 0.05 || abs(position[1] - round(position[1])) > 0.05) {
    abort("grid", "SDSS spectra are uniform by 1e-4 in log10 of wavelength, and the grid ", format(instrument),
          ", is not, or lies between their pixels. Use instrument(\"sdss\"), instrument(\"boss\") or a part of them.")
  }
  1e-4 * round(position[1])
}

# As in the names of the files; from there too where HDU 2 does not say.
object_names <- function(raw, files) {
  base <- sub("\\.fits(\\.gz)?$", "", basename(files), ignore.case = TRUE)
  complete <- !is.na(raw$plate) & !is.na(raw$mjd) & !is.na(raw$fiber)
  names <- sub("^spec-", "", base)
  names[complete] <- sprintf("%04d-%05d-%04d", raw$plate, raw$mjd, raw$fiber)[complete]
  in_field <- !complete & !is.na(raw$field) & !is.na(raw$mjd) & !is.na(raw$catalogid)
  padded <- paste0(strrep("0", pmax(0, 11 - nchar(raw$catalogid[in_field]))), raw$catalogid[in_field])
  names[in_field] <- sprintf("%06d-%05d-%s", raw$field[in_field], raw$mjd[in_field], padded)
  names
}
