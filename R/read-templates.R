#' Read spectral templates
#'
#' Restframe spectra, or a basis of which spectra are sums, for the argument `templates` of [simulate_spectra()].
#'
#' @param file A FITS file whose first HDU is an image with a row for each template, placed in wavelength (Å, vacuum) by `CRVAL1`
#'   and `CDELT1`, in its logarithm with `LOGLAM` or `COEFF0` and `COEFF1`: as templates of Redrock, idlspec2d and many others are.
#'   Where the second HDU is an image with a column for each template, its rows are archetypes: sums of templates.
#' @return A list of `wave`, `flux` (one row per template) and `coefficients` (one row per archetype, or `NULL`).
#' @section Errors: `spender_error_io` when the file cannot be opened, `spender_error_format` when it is not as above,
#'   `spender_error_unsupported` in a build without CFITSIO.
#' @seealso [simulate_spectra()]
#' @export
#' @examples
#' # those of https://github.com/desihub/redrock-templates:   read_templates("rrtemplate-galaxy.fits")
#' # a file with one template, from 2500 to 9500 Angstrom by 0.5
#' template <- 1 - 0.2 * dnorm(seq(2500, 9500, by = 0.5), 5175, 20) / dnorm(0, 0, 20)
#' values <- list(SIMPLE = "T", BITPIX = -32, NAXIS = 2, NAXIS1 = length(template), NAXIS2 = 1,
#'                CRVAL1 = 2500, CDELT1 = 0.5)
#' cards <- sprintf("%-8s= %20s", names(values), unlist(values))
#' header <- sprintf("%-2880s", paste(sprintf("%-80s", c(cards, "END")), collapse = ""))
#' file <- tempfile(fileext = ".fits")
#' pixels <- writeBin(template, raw(), size = 4, endian = "big")
#' writeBin(c(charToRaw(header), pixels, raw(-length(pixels) %% 2880)), file)
#' if (devices()$built[["cfitsio"]]) {
#'   templates <- read_templates(file)
#'   str(templates)
#'   print(simulate_spectra(3, templates = templates, z_range = c(0.05, 0.2), seed = 1))
#' }
read_templates <- function(file) {
  check_path(file, "file")
  image <- .Call(ffi_read_image, file, 1)
  if (!is.finite(image$first) || !is.finite(image$step) || image$step <= 0) {
    abort("format", basename(file), " does not say where its pixels are: CRVAL1 and CDELT1, or COEFF0 and COEFF1.")
  }
  wave <- image$first + image$step * (seq_len(ncol(image$pixels)) - 1)
  coefficients <- tryCatch(.Call(ffi_read_image, file, 2)$pixels, spender_error_format = function(e) NULL)
  if (!is.null(coefficients) && ncol(coefficients) != nrow(image$pixels)) coefficients <- NULL
  list(wave = if (image$log) 10^wave else wave, flux = image$pixels, coefficients = coefficients)
}
