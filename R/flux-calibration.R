#' Flux calibration by the model
#'
#' For the argument `flux_calibration` of [spender()]: spectra whose norm is wrong, because the window of the norm is not covered,
#' masked or contaminated, or whose flux calibration drifts along the spectrum. The model \eqn{y'} of each is multiplied by a
#' polynomial of its own, whose coefficients are those that fit best,
#' \deqn{q(t) = \sum_k c_k P_k(t), \quad c = \arg\min \sum_m w_m (y_m - q(t_m) y'_m)^2 + \sum_k (c_k - \delta_{k0})^2 / \sigma_k^2,}
#' with Legendre's polynomials \eqn{P_k} over the pixels, \eqn{t} from -1 to 1. The minimum is found within each evaluation of the loss,
#' whose gradient is exact since it passes a minimum; losses and \eqn{\chi^2} have the second sum, too. Without the expectations
#' \eqn{\sigma_k} the amplitude of models would be arbitrary.
#'
#' `predict(fit, x, "calibration")` returns coefficients and their errors, with latents (and the redshift, where it is refined) unknown,
#' too: meaningful for refined latents. Observed models ([reconstruct()]) are calibrated; restframe models are not, and are normalised as
#' the training sample is on average. Where spectra do not cover the window of the norm, give [spectra()] a wide `window`: the amplitude
#' then is what their norms lack.
#'
#' @param degree Of the polynomial, 0 to 5; 0 is an amplitude alone.
#' @param amplitude,shape Expected standard deviations of \eqn{c_0} from 1 and of the other coefficients from 0.
#' @return A list of class `flux_calibration`.
#' @section Errors: `spender_error_invalid`, also where results of type `"calibration"` are asked of a fit without one.
#' @export
#' @examples
#' x <- simulate_spectra(32, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 4, network = small, flux_calibration = flux_calibration(1),
#'                threads = 1, progress = FALSE)
#' predict(fit, x[1:3], "calibration", refine = 4)
flux_calibration <- function(degree = 0, amplitude = 1, shape = 0.1) {
  check_number(degree, "degree", 0, 5, whole = TRUE)
  check_number(amplitude, "amplitude", 1e-6, 1e6)
  check_number(shape, "shape", 1e-6, 1e6)
  structure(list(sd = c(amplitude, rep(shape, degree))), class = "flux_calibration")
}

#' @export
print.flux_calibration <- function(x, ...) {
  cat("<flux calibration> polynomial of degree ", length(x$sd) - 1, "; expected deviations ", enumerate(format(x$sd)), "\n", sep = "")
  invisible(x)
}

check_flux_calibration <- function(x) {
  if (!is.null(x) && !inherits(x, "flux_calibration")) {
    abort("invalid", "`flux_calibration` must be NULL or come from flux_calibration(); it is ", describe(x), ".")
  }
}

calibration_terms <- function(fit) length(fit$architecture$calibration_sd)

calibration_names <- function(terms) {
  names <- c("amplitude", if (terms > 1) paste0("c", seq_len(terms - 1)))
  c(names, paste0(names, "_err"))
}
