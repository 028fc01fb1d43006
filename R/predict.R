#' Apply a fit to spectra
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] or a survey on the fit's instrument, \eqn{n} of them. Of a survey no more than some thousand spectra are in
#'   memory at a time.
#' @param type What is wanted: `"observed"`, the model in the observed frame (\eqn{n \times M}), `NA` where the restframe grid
#'   does not cover a pixel; `"rest"`, the restframe spectra (\eqn{n \times R}); `"latent"` (\eqn{n \times S}); or `"loss"`
#'   (\eqn{n}), see [spender()]. All but latents and loss are normalised fluxes; [reconstruct()] gives physical ones.
#' @param device,precision,threads Where and how to compute, see [spender()]. In `"fp32"`, the default, a GPU and a CPU agree to
#'   rounding.
#' @param batch_size Spectra that are computed at a time; `NULL` for 64 on a CPU, 1024 on a GPU.
#' @param path A FITS file to write the result to, in parts, instead of returning it: a table `RESULTS` with a row for each spectrum. A
#'   program that was killed goes on where it was when it is called again. [read_predictions()] reads it.
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
                            threads = NULL, batch_size = NULL, path = NULL, ...) {
  type <- match.arg(type)
  if (!is.null(path)) return(invisible(predict_to_file(object, x, type, path, device, precision, threads, batch_size)))
  if (inherits(x, "survey")) return(predict_survey(object, x, type, device, precision, threads, batch_size))
  check_spectra(x)
  check_same_grid(object, x)
  device <- choose_device(device, precision, threads)
  usable <- !is.na(x$norm)
  without_norm(x)
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

# The same of a survey, some thousand spectra at a time.
predict_survey <- function(fit, x, type, ...) {
  check_same_grid(fit, x)
  parts <- list()
  without_norm(x)
  in_parts(x, function(part, rows) {
    parts[[length(parts) + 1]] <<- predict_quietly(fit, part, type, ...)
  })
  if (type == "loss") do.call(c, parts) else do.call(rbind, parts)
}

# Of a part, where the whole has been warned about.
predict_quietly <- function(fit, x, type, ...) {
  withCallingHandlers(stats::predict(fit, x, type, ...), spender_warning_no_norm = function(w) invokeRestart("muffleWarning"))
}

# A table of results, part after part. What is there of the same fit, type and spectra is not computed again.
predict_to_file <- function(fit, x, type, path, ...) {
  if (!is.character(path) || length(path) != 1 || is.na(path)) abort("invalid", "`path` must be one file name, not ", describe(path), ".")
  check_source(x)
  check_same_grid(fit, x)
  path <- path.expand(path)
  name <- result_columns[[type]]
  wave <- if (type == "rest") fit$wave_rest else fit$instrument$wave
  of <- .Call(ffi_digest, c(fit$weights, writeBin(c(x$z, x$norm), raw()), charToRaw(type)))
  id_width <- if (inherits(x, "survey")) text_widths(x)$ID + 8 else max(1, nchar(to_ascii(x$id), "bytes")) # 8: for what makes ids unique
  done <- 0
  if (file.exists(path)) {
    info <- .Call(ffi_survey_info, path)
    if (!identical(info$instrument, of)) abort("exists", path, " exists already, and is not of this fit, type and spectra.")
    done <- info$n
  }
  without_norm(x)
  for (rows in parts_of(length(x), 2048)) {
    rows <- rows[rows > done]
    if (!length(rows) && (done > 0 || length(x))) next
    part <- in_memory(x[rows])
    values <- predict_quietly(fit, part, type, ...)
    columns <- list(ID = part$id, Z = part$z, NORM = part$norm, VALUES = if (is.matrix(values)) values else cbind(values))
    names(columns)[4] <- name
    append_rows(columns, path, "RESULTS", wave, of, list(ID = id_width))
  }
  finish_survey(path)
  path
}

result_columns <- c(observed = "OBSERVED", rest = "REST", latent = "LATENT", loss = "LOSS")

#' Read predictions from a file
#'
#' @param path A file that [predict.spender()] wrote.
#' @return What `predict()` would have returned, in single precision: a matrix with one row per spectrum, named by their ids, or a
#'   vector of losses.
#' @section Errors: `spender_error_format` for another file.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' path <- tempfile(fileext = ".fits")
#' predict(fit, x, "latent", path = path)
#' read_predictions(path)[1:3, ]
read_predictions <- function(path) {
  if (!is.character(path) || length(path) != 1 || is.na(path)) abort("invalid", "`path` must be one file name, not ", describe(path), ".")
  info <- .Call(ffi_survey_info, path)
  name <- intersect(result_columns, info$columns)
  if (length(name) != 1) abort("format", basename(path), " does not hold predictions.")
  rows <- as.double(seq_len(info$n))
  values <- .Call(ffi_survey_matrix, path, info$n, name, rows)
  rownames(values) <- from_ascii(.Call(ffi_survey_columns, path, info$n, "ID", rows)$ID)
  values[is.nan(values)] <- NA
  if (name == "LOSS") values[, 1] else values
}

without_norm <- function(x) {
  without <- which(is.na(x$norm))
  if (length(without)) {
    warn("no_norm", length(without), ngettext(length(without), " spectrum has", " spectra have"), " no norm: rows ", enumerate(without),
         " of the result are NA.")
  }
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
  x <- in_memory(x)
  difference <- x$flux - predict(object, x, "observed", ...)
  if (type == "response") return(difference)
  scaled <- difference * sqrt(x$ivar)
  scaled[x$ivar == 0] <- NA
  scaled
}
