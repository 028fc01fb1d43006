#' Log-likelihood of spectra under a fit
#'
#' \deqn{\ln L = \sum_i \sum_m \left[-\tfrac{1}{2} w_{im} (y_{im} - y'_{im})^2 + \tfrac{1}{2} \ln\frac{w_{im}}{2\pi}\right]}
#' over the pixels with weight that the model covers, with normal errors of the given inverse variances, for normalised fluxes. The latents
#' of each spectrum are refined and count as its parameters (`df`: spectra times latents); weights of the network do not, since they were
#' fitted to other spectra: give spectra that did not train (see [held_out()]). Then `AIC()` and differences compare fits of different
#' numbers of latents on the same spectra and pixels.
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument. Those without a norm, or without a pixel that the model covers, do not count.
#' @param refine Steps of refined latents, see [predict.spender()].
#' @param ... For `logLik()`, passed on to [predict.spender()].
#' @return `logLik()`: an object of class `logLik`, with `df`, and `nobs`, the number of pixels. `nobs()`: the number of spectra that
#'   trained the fit, `NA` where that is not known.
#' @export
#' @examples
#' x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' unseen <- simulate_spectra(10, instrument = fit$instrument, seed = 2)
#' logLik(fit, unseen)
#' nobs(fit)
logLik.spender <- function(object, x, refine = 3, ...) {
  if (missing(x)) abort("invalid", "logLik() needs spectra: a fit does not keep those that it was trained on.")
  x <- in_memory(x)
  check_spectra(x)
  loss <- predict(object, x, "loss", refine = refine, ...)
  known <- which(is.finite(loss))
  x <- x[known]
  from_to <- coverage(x$z, x$instrument$wave, object$wave_rest, footprint(object, x))
  pixel <- col(x$ivar)
  counted <- x$ivar > 0 & pixel >= from_to[, "from"] & pixel <= from_to[, "to"]
  terms <- object$architecture$n_latent + calibration_terms(object)
  structure(sum(-ncol(x$ivar) * loss[known]) + sum(log(x$ivar[counted] / (2 * pi))) / 2, df = length(known) * terms, nobs = sum(counted),
            class = "logLik")
}

#' @rdname logLik.spender
#' @export
nobs.spender <- function(object, ...) {
  check_dots("nobs", ...)
  n <- object$training$n_training
  if (length(n)) as.integer(n) else NA_integer_
}
