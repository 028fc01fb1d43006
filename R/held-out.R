#' Spectra that a fit was validated on
#'
#' Whether a spectrum trains or validates is decided by a hash of the id of its object and the fit's `split_seed`. Comparisons with other
#' methods, such as [spectra_pca()], belong on spectra that neither was trained on.
#'
#' @param fit A fit from [spender()].
#' @param x The [spectra()] or the survey that the fit was trained on, or others: then the ones that it would have held out.
#' @return The ids of the spectra held out, in the order of `x`; `x[held_out(fit, x)]` are the spectra.
#' @section Errors: `spender_error_invalid` for a fit that does not say how it was validated, as models of other programs do not.
#' @export
#' @examples
#' x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' held_out(fit, x)
#' mean(predict(fit, x[held_out(fit, x)], "chi2"))
held_out <- function(fit, x) {
  check_fit(fit)
  check_source(x)
  t <- fit$training
  if (is.null(t$validation) || is.null(t$split_seed)) {
    abort("invalid", "The fit does not say which spectra it was validated on: it was not trained by spender().")
  }
  known <- which(!is.na(x$norm))
  if (!inherits(x, "survey")) known <- known[has_valid_pixel(x$ivar)[known]]
  x <- x[known]
  ids <- if (inherits(x, "survey")) survey_ids(x) else x$id
  ids[!split_rows(x, t$validation, t$split_seed)]
}
