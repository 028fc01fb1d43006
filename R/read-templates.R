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
#' \dontrun{
#' # from https://github.com/desihub/redrock-templates
#' templates <- read_templates("rrtemplate-galaxy.fits")
#' simulate_spectra(10, templates = templates)
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
