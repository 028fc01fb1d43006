#' Apply a fit to spectra
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument, \eqn{n} of them.
#' @param type What is wanted: `"observed"`, the model in the observed frame (\eqn{n \times M}), `NA` where the restframe grid
#'   does not cover a pixel; `"rest"`, the restframe spectra (\eqn{n \times R}); `"latent"` (\eqn{n \times S}); or `"loss"`
#'   (\eqn{n}), see [spender()]. All but latents and loss are normalised fluxes; [reconstruct()] gives physical ones.
#' @param device,precision,threads Where and how to compute, see [spender()]. In `"fp32"`, the default, a GPU and a CPU agree to
#'   rounding.
#' @param batch_size Spectra that are computed at a time; `NULL` for 64 on a CPU, 1024 on a GPU.
#' @param ... Not used.
#'
#' @return A matrix with one row per spectrum, in order, with the spectra's ids as row names, or a named vector for `"loss"`.
#'   Spectra without a norm give rows of `NA`, and a warning.
#' @section Errors: `spender_error_grid` when the spectra are not on the fit's wavelength grid.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' predict(fit, x, "latent")
#' dim(predict(fit, x[1:3], "rest"))
predict.spender <- function(object, x, type = c("observed", "rest", "latent", "loss"), device = "auto", precision = "fp32",
                            threads = NULL, batch_size = NULL, ...) {
  type <- match.arg(type)
  check_spectra(x)
  check_same_grid(object, x)
  device <- choose_device(device, precision, threads)
  usable <- !is.na(x$norm)
  if (!all(usable)) {
    warn("no_norm", sum(!usable), ngettext(sum(!usable), " spectrum has", " spectra have"), " no norm: rows ",
         enumerate(which(!usable)), " of the result are NA.")
  }
  part <- if (all(usable)) x else x[usable]
  out <- run_network(object, type, device, batch_size, flux = part$flux, ivar = part$ivar, z = part$z)
  if (!all(usable)) {
    all_rows <- matrix(NA_real_, length(x), ncol(out))
    all_rows[usable, ] <- out
    out <- all_rows
  }
  rownames(out) <- x$id
  if (type == "loss") out[, 1] else out
}

# flux and ivar, or latent: whatever the type needs
run_network <- function(fit, type, device, batch_size, flux = NULL, ivar = NULL, z = NULL, latent = NULL,
                        instrument = fit$instrument) {
  architecture <- fit$architecture
  weights <- fit$weights
  if (!identical(instrument$wave, fit$instrument$wave)) { # another instrument has another LSF: leave this one out
    weights <- without_lsf(architecture, weights)
    architecture$lsf <- 0
    architecture$n_observed <- length(instrument$wave)
  }
  .Call(ffi_predict, architecture, weights, instrument$wave, fit$wave_rest, flux, ivar, as.double(z), latent, type,
        c(device, batch_size = min(choose_batch_size(batch_size, device), max(1, length(z)))))
}

# The LSF stands first in the block of parameters, padded to 16 floats.
without_lsf <- function(architecture, weights) {
  if (architecture$lsf == 0) return(weights)
  weights[-seq_len(4 * 16 * ceiling(architecture$lsf / 16))]
}

#' Latents of spectra
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument.
#' @param ... Passed on to [predict.spender()]: `device`, `precision`, `threads`, `batch_size`.
#' @return A matrix \eqn{n \times S} with one row per spectrum, in order.
#' @export
#' @inherit predict.spender examples
encode <- function(fit, x, ...) {
  check_fit(fit)
  latents <- predict(fit, x, "latent", ...)
  colnames(latents) <- paste0("s", seq_len(ncol(latents)))
  latents
}

#' Spectra from latents
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param s Latents, a matrix \eqn{n \times S} or a vector for one spectrum.
#' @param z Redshifts, one per row of `s` or one for all; `NULL` for the restframe.
#' @param instrument Grid of the result where `z` is given: the fit's own (with its line spread function) by default, or any
#'   [instrument()] (without one).
#' @param device,precision,threads,batch_size As in [predict.spender()].
#' @return Normalised fluxes: \eqn{n \times R} on `fit$wave_rest` when `z` is `NULL`, else \eqn{n \times M} on the
#'   instrument's grid, `NA` where the restframe grid does not reach.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' s <- encode(fit, x[1:2])
#' dim(decode(fit, s))
#' dim(decode(fit, s, z = 0.1, instrument = instrument(seq(5000, 7000, by = 2))))
decode <- function(fit, s, z = NULL, instrument = NULL, device = "auto", precision = "fp32", threads = NULL,
                   batch_size = NULL) {
  check_fit(fit)
  if (is.numeric(s) && is.null(dim(s))) s <- matrix(s, 1)
  if (!is.numeric(s) || !is.matrix(s) || ncol(s) != fit$architecture$n_latent) {
    abort("invalid", "`s` must be a matrix with ", fit$architecture$n_latent, " columns, one per latent; it is ",
          if (is.matrix(s)) paste(nrow(s), "x", ncol(s)) else describe(s), ".")
  }
  storage.mode(s) <- "double"
  rest <- is.null(z)
  if (rest) z <- 0
  if (!is.numeric(z) || !length(z) %in% c(1, nrow(s)) || any(!is.finite(z)) || any(z <= -1)) {
    abort("invalid", "`z` must be one redshift or one for each of the ", nrow(s), " rows of `s`, finite and above -1.")
  }
  if (is.null(instrument)) instrument <- fit$instrument
  if (!inherits(instrument, "spender_instrument")) instrument <- instrument(instrument)
  out <- run_network(fit, if (rest) "rest" else "observed", choose_device(device, precision, threads), batch_size, z = rep_len(z, nrow(s)), latent = s,
                     instrument = if (rest) fit$instrument else instrument)
  rownames(out) <- rownames(s)
  out
}

#' The model's version of observed spectra
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument.
#' @param normalized Give the network's normalised flux instead of the physical one (normalised flux times the spectrum's norm)?
#' @param ... Passed on to [predict.spender()].
#' @return A matrix \eqn{n \times M} in the units of the observed flux, `NA` where the restframe grid does not cover a pixel.
#' @export
#' @inherit predict.spender examples
reconstruct <- function(fit, x, normalized = FALSE, ...) {
  check_fit(fit)
  check_flag(normalized, "normalized")
  model <- predict(fit, x, "observed", ...)
  if (normalized) model else model * x$norm
}

#' Residuals of a fit
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument.
#' @param type `"pearson"`: (flux - model) in units of its standard deviation, `NA` for pixels without weight; `"response"`: flux -
#'   model, normalised.
#' @param ... Passed on to [predict.spender()].
#' @return A matrix \eqn{n \times M}.
#' @export
residuals.spender <- function(object, x, type = c("pearson", "response"), ...) {
  type <- match.arg(type)
  difference <- x$flux - predict(object, x, "observed", ...)
  if (type == "response") return(difference)
  scaled <- difference * sqrt(x$ivar)
  scaled[x$ivar == 0] <- NA
  scaled
}
