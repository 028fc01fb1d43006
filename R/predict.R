#' Apply a fit to spectra
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] or a survey on the fit's instrument, \eqn{n} of them. Of a survey no more than some thousand spectra are in
#'   memory at a time.
#' @param type The result: `"observed"`, the model in the observed frame (\eqn{n \times M}), `NA` where the restframe grid
#'   does not cover a pixel; `"rest"`, the restframe spectra (\eqn{n \times R}); `"latent"` (\eqn{n \times S}); `"loss"`
#'   (\eqn{n}), see [spender()]; or `"chi2"` (\eqn{n}), the reduced \eqn{\chi^2}, see Details. All but
#'   latents, loss and \eqn{\chi^2} are normalised fluxes; [reconstruct()] gives physical ones. `"covariance"` gives
#'   the covariances of the latents (see [vcov.spender()]), `"z"` the redshifts that fit best (see Details).
#' @param refine Number of Gauss-Newton steps by which latents are moved to their maximum of likelihood, starting from the encoder's; 0 for
#'   the encoder's latents, as published. Two or three steps are enough after a usual training.
#' @param robust `NULL` for normal errors, or the degrees of freedom of Student's t (3 to 5) for data with unmasked glitches, which refined
#'   latents would otherwise follow.
#' @param prior Whether refined latents have a normal prior: `TRUE` for that of the fit's training sample, or a list of `mean`
#'   (\eqn{S}) and `covariance` (\eqn{S \times S}).
#' @param refine_z Refine the redshift together with the latents? It goes to the nearest minimum.
#' @param device,precision,threads Where and how to compute, see [spender()]. In `"fp32"`, the default, a GPU and a CPU agree to
#'   rounding.
#' @param batch_size Spectra that are computed at a time; `NULL` for 64 on a CPU, 1024 on a GPU.
#' @param path A FITS file to write the result to, in parts, instead of returning it: a table `RESULTS` with a row for each spectrum. A
#'   program that was killed continues when it is called again. The file identifies the fit, the spectra, their ids and the type; an
#'   existing file of other ones is an error that names them. [read_predictions()] reads it.
#' @param overwrite Replace a file `path` that is there?
#' @param ... `newdata`, which other packages' models call `x`; anything else is an error.
#'
#' @details
#' With \eqn{y'(s)} the model of a spectrum \eqn{y} with weights \eqn{W}, and \eqn{J = \partial y' / \partial s}, a step is
#' \deqn{\delta = (A + \lambda\,\mathrm{diag} A)^{-1} (J^T W (y - y') - P (s - \mu)), \quad A = J^T W J + P,}
#' with a prior of mean \eqn{\mu} and precision \eqn{P} if there is one. It is taken if \eqn{\chi^2} falls; \eqn{\lambda} falls by 5 after a
#' step that is taken and rises by 10 after one that is not (Marquardt 1963). \eqn{A^{-1}} is the covariance of the latents. The encoder is
#' an approximate inverse of the decoder, learned once for all spectra; refined latents fit each spectrum, which lowers losses and makes
#' errors meaningful. They cost about as much as encoding for each two steps, and they follow glitches unless `robust` is given.
#'
#' `"chi2"` is \eqn{\sum_m w_m (y_m - y'_m)^2 / (N - S)} with the number \eqn{N} of pixels that have weight, `NA` unless \eqn{N > S}: 1 for
#' a model that is right, whatever is masked. The loss divides by twice the number of all pixels, so that a spectrum with many masked ones
#' has a low loss; to rank spectra by how badly they are described, use \eqn{\chi^2}.
#'
#' `"z"` is a matrix with columns `z`, `z_err`, `improvement` (of \eqn{\chi^2}, by moving latents and redshift) and `moved`, the change of
#' the redshift in units of its error: large values are redshifts that were wrong, or that ran away.
#'
#' @return A matrix with one row per spectrum, in order, with the spectra's ids as row names, or a named vector for `"loss"` and
#'   `"chi2"`; an array
#'   (\eqn{n \times S \times S}) for `"covariance"`, with `NA` where data and prior do not determine it.
#'   Spectra for which the fit has no result give rows of `NA`, and a warning: those without a norm (`spender_warning_no_norm`), and those
#'   without a valid pixel that the restframe grid covers (`spender_warning_coverage`).
#' @section Errors: `spender_error_grid` when the spectra are not on the fit's wavelength grid, `spender_error_exists` for a file of other
#'   results.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' predict(fit, x, "latent")
#' dim(predict(fit, x[1:3], "rest"))
predict.spender <- function(object, x, type = c("observed", "rest", "latent", "loss", "chi2", "covariance", "z"), device = "auto",
                            precision = "fp32", threads = NULL, batch_size = NULL, path = NULL, overwrite = FALSE, refine = NULL,
                            robust = NULL, prior = FALSE, refine_z = FALSE, ...) {
  type <- match.arg(type)
  if (missing(x)) {
    return(predict_newdata(object, type, device = device, precision = precision, threads = threads, batch_size = batch_size, path = path,
                           overwrite = overwrite, refine = refine, robust = robust, prior = prior, refine_z = refine_z, ...))
  }
  check_dots("predict", ...)
  check_source(x)
  check_same_grid(object, x)
  check_flag(overwrite, "overwrite")
  inference <- new_inference(object, type, refine, robust, prior, refine_z)
  if (!is.null(path)) {
    return(invisible(predict_to_file(object, x, type, inference, path, overwrite, device, precision, threads, batch_size)))
  }
  if (overwrite) abort("invalid", "`overwrite` is about the file `path`, and none is given.")
  device <- choose_device(device, precision, threads)
  shape_result(predict_all(object, x, type, inference, device, batch_size), object, type)
}

# Of spectra or a survey: a matrix with a row per spectrum
predict_all <- function(fit, x, type, inference, device, batch_size) {
  parts <- unknown <- list()
  take <- function(part, rows) {
    here <- unknown_rows(fit, part)
    unknown[[length(unknown) + 1]] <<- here
    parts[[length(parts) + 1]] <<- predict_rows(fit, part, here, type, inference, device, batch_size)
  }
  if (inherits(x, "survey")) in_parts(x, take) else take(x, seq_along(x$z))
  warn_unknown(unlist(unknown))
  do.call(rbind, parts)
}

# The matrix that ffi_predict() makes, as the user gets it
shape_result <- function(out, fit, type) {
  if (type %in% c("loss", "chi2")) return(out[, 1])
  if (type == "covariance") {
    names <- latent_names(fit)
    k <- sqrt(ncol(out))
    if (k > length(names)) names <- c(names, "z")
    return(array(out, c(nrow(out), k, k), list(rownames(out), names, names)))
  }
  out
}

latent_names <- function(fit) paste0("s", seq_len(fit$architecture$n_latent))

# predict() with `x` under the name that R's own models have for it
predict_newdata <- function(object, type, ..., newdata) {
  if (missing(newdata)) abort("invalid", "`x` must be spectra, or a survey of them; it is missing.")
  predict(object, newdata, type, ...)
}

# Of spectra in memory; rows without a result are NA.
predict_rows <- function(fit, x, unknown, type, inference, device, batch_size) {
  usable <- unknown == 0
  part <- if (all(usable)) x else x[usable]
  out <- run_network(fit, if (type == "chi2") "loss" else type, device, batch_size, flux = part$flux, ivar = part$ivar, z = part$z,
                     inference = inference)
  if (type == "chi2") out <- out * chi2_per_loss(fit, part)
  if (type == "z") {
    out <- cbind(z = out[, 1], z_err = out[, 2], improvement = 2 * (out[, 3] - out[, 4]), moved = (out[, 1] - part$z) / out[, 2])
  }
  if (!all(usable)) {
    all_rows <- matrix(NA_real_, length(x), ncol(out), dimnames = list(NULL, colnames(out)))
    all_rows[usable, ] <- out
    out <- all_rows
  }
  rownames(out) <- x$id
  out
}

# Reduced chi^2 of a loss of 1, for each row: its degrees of freedom are the valid pixels less the latents
chi2_per_loss <- function(fit, x) {
  covered <- coverage(x$z, x$instrument$wave, fit$wave_rest, fit$architecture$lsf)
  free <- .Call(ffi_flat_model, x$flux, x$ivar, as.double(seq_along(x$z)), covered, default_threads())$valid - fit$architecture$n_latent
  ifelse(free > 0, 2 * ncol(x$ivar) / free, NA_real_)
}

# Writes a table of results in parts. Rows that the file already has of the same fit, type and spectra are not computed again.
predict_to_file <- function(fit, x, type, inference, path, overwrite, device, precision, threads, batch_size) {
  check_path(path)
  device <- choose_device(device, precision, threads)
  path <- path.expand(path)
  check_not_source(path, x)
  name <- result_columns[[type]]
  wave <- if (type == "rest") fit$wave_rest else fit$instrument$wave
  ids <- if (inherits(x, "survey")) survey_ids(x) else x$id
  id_width <- max(1, nchar(to_ascii(ids), "bytes"))
  of <- result_identity(fit, x, type, ids, inference)
  done <- 0
  if (overwrite) unlink(path)
  if (file.exists(path)) {
    info <- .Call(ffi_survey_info, path)
    other <- differing_parts(info$prepared, of)
    if (length(other)) {
      abort("exists", path, " exists already and is of something else: not the same ", enumerate(other),
            ". `overwrite = TRUE` replaces it.")
    }
    done <- info$n
  }
  unknown <- integer()
  for (rows in parts_of(length(x), 2048)) {
    rows <- rows[rows > done]
    if (!length(rows) && (done > 0 || length(x))) next
    part <- in_memory(x[rows])
    here <- unknown_rows(fit, part)
    values <- predict_rows(fit, part, here, type, inference, device, batch_size)
    if (type == "covariance") values <- values[, lower_triangle(sqrt(ncol(values))), drop = FALSE]
    unknown[rows] <- here
    columns <- list(ID = ids[rows], Z = part$z, NORM = part$norm, VALUES = unname(values))
    names(columns)[4] <- name
    append_rows(columns, path, "RESULTS", wave, fit$instrument$name, list(ID = id_width), prepared = of)
  }
  warn_unknown(unknown)
  finish_survey(path)
  path
}

result_columns <- c(observed = "OBSERVED", rest = "REST", latent = "LATENT", loss = "LOSS", chi2 = "CHI2", covariance = "COVARIANCE",
                    z = "REDSHIFT")

# Places of the lower triangle of a k x k matrix, row by row, as files hold covariances
lower_triangle <- function(k) unlist(lapply(seq_len(k), function(a) a + k * (seq_len(a) - 1)))

#' Read predictions from a file
#'
#' @param path A file that [predict.spender()] wrote.
#' @return The result of `predict()`, in single precision: a matrix with one row per spectrum, named by their ids, or a
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
  check_path(path)
  info <- .Call(ffi_survey_info, path)
  name <- intersect(result_columns, info$columns)
  if (length(name) != 1) abort("format", basename(path), " does not hold predictions.")
  rows <- as.double(seq_len(info$n))
  values <- .Call(ffi_survey_matrix, path, info$n, name, rows)
  rownames(values) <- from_ascii(.Call(ffi_survey_columns, path, info$n, "ID", rows)$ID)
  values[is.nan(values)] <- NA
  switch(name,
    LOSS = ,
    CHI2 = values[, 1],
    REDSHIFT = `colnames<-`(values, c("z", "z_err", "improvement", "moved")),
    COVARIANCE = unpack_covariance(values),
    values
  )
}

unpack_covariance <- function(values) {
  k <- (sqrt(8 * ncol(values) + 1) - 1) / 2
  out <- matrix(NA_real_, nrow(values), k * k, dimnames = list(rownames(values), NULL))
  lower <- lower_triangle(k)
  out[, lower] <- values
  out[, (lower - 1) %/% k + 1 + k * ((lower - 1) %% k)] <- values # the mirrored places
  array(out, c(nrow(values), k, k), list(rownames(values), NULL, NULL))
}

# Takes flux and ivar, or latent.
run_network <- function(fit, type, device, batch_size, flux = NULL, ivar = NULL, z = NULL, latent = NULL,
                        instrument = fit$instrument, inference = encoder_only) {
  architecture <- fit$architecture
  weights <- fit$weights
  if (!identical(instrument$wave, fit$instrument$wave)) { # another instrument has another LSF: leave this one out
    architecture$lsf <- 0
    architecture$n_observed <- length(instrument$wave)
    weights <- .Call(ffi_network_carry, fit$architecture, weights, architecture)
  }
  .Call(ffi_predict, architecture, weights, instrument$wave, fit$wave_rest, flux, ivar, as.double(z), latent, type, inference,
        c(device, batch_size = min(choose_batch_size(batch_size, device), max(1, length(z)))))
}

#' Latents of spectra
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument.
#' @param se Give standard errors, too? They are those of [vcov.spender()], and meaningful for refined latents.
#' @param ... Passed on to [predict.spender()]: `refine`, `robust`, `prior`, `refine_z`, `device`, `precision`, `threads`, `batch_size`.
#' @return A matrix \eqn{n \times S} with one row per spectrum, in order; with `se = TRUE` a list of two such matrices, `latent` and `se`.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' encode(fit, x[1:3])
#' encode(fit, x[1:3], refine = 2, se = TRUE)
encode <- function(fit, x, se = FALSE, ...) {
  check_fit(fit)
  check_flag(se, "se")
  refuse_path("encode", "latent", ...)
  if (!se) {
    latents <- predict(fit, x, "latent", ...)
    colnames(latents) <- latent_names(fit)
    return(latents)
  }
  both <- predict_errors(fit, x, "latent_errors", ...)
  s <- seq_len(fit$architecture$n_latent)
  lapply(list(latent = both[, s, drop = FALSE], se = both[, -s, drop = FALSE]), `colnames<-`, latent_names(fit))
}

# Latents (or observed models) and their standard errors, side by side
predict_errors <- function(fit, x, type, device = "auto", precision = "fp32", threads = NULL, batch_size = NULL, refine = NULL,
                           robust = NULL, prior = FALSE, refine_z = FALSE, ...) {
  check_dots(if (type == "latent_errors") "encode" else "reconstruct", ...)
  check_source(x)
  check_same_grid(fit, x)
  inference <- new_inference(fit, type, refine, robust, prior, refine_z)
  predict_all(fit, x, type, inference, choose_device(device, precision, threads), batch_size)
}

#' Covariances of latents
#'
#' The inverse of the normal matrix of each spectrum at its latents, \eqn{(J^T W J + P)^{-1}} (see [predict.spender()]): the covariance of
#' refined latents under noise, if the inverse variances are right and the model can describe the spectrum.
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] or a survey on the fit's instrument.
#' @param ... Passed on to [predict.spender()]; unless `refine` is given, latents are refined by 2 steps.
#' @return An array \eqn{n \times S \times S}, with the redshift as last dimension if `refine_z = TRUE`; `NA` where data and prior do not
#'   determine it.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' vcov(fit, x[1])[1, , ]
vcov.spender <- function(object, x, ...) {
  refuse_path("vcov", "covariance", ...)
  if ("refine" %in% names(list(...))) predict(object, x, "covariance", ...) else predict(object, x, "covariance", refine = 2, ...)
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
  out <- run_network(fit, if (rest) "rest" else "observed", choose_device(device, precision, threads), batch_size, z = rep_len(z, nrow(s)),
                     latent = s,
                     instrument = if (rest) fit$instrument else instrument)
  rownames(out) <- rownames(s)
  out
}

#' The model's version of observed spectra
#'
#' @param fit A fit from [spender()] or [read_model()], or an ensemble, whose mean is returned.
#' @param x [spectra()] on the fit's instrument.
#' @param normalized Give the network's normalised flux instead of the physical one (normalised flux times the spectrum's norm)?
#' @param se Give standard errors, too? They are \eqn{(\mathrm{diag}\, J C J^T)^{1/2}} with the covariance \eqn{C} of the latents (see
#'   [vcov.spender()]) and the Jacobian \eqn{J} of the model: the scatter of refined models under noise, if the model can describe the
#'   spectrum. What it cannot describe is in the `calibration`.
#' @param calibration `NULL`, or the misfit of the network from [calibrate_models()], which adds to the errors in quadrature.
#' @param ... Passed on to [predict.spender()].
#' @return A matrix \eqn{n \times M} in the units of the observed flux, `NA` where the restframe grid does not cover a pixel; with
#'   `se = TRUE` a list of two such matrices, `model` and `se`.
#' @export
#' @inherit predict.spender examples
reconstruct <- function(fit, x, normalized = FALSE, se = FALSE, calibration = NULL, ...) {
  ensemble <- inherits(fit, "spender_ensemble")
  if (!ensemble) check_fit(fit)
  check_flag(normalized, "normalized")
  check_flag(se, "se")
  refuse_path("reconstruct", "observed", ...)
  if (ensemble && se) abort("invalid", "`se` is about the latents of one fit; `predict()` gives the standard deviation of an ensemble.")
  if (!is.null(calibration) && !se) abort("invalid", "`calibration` is about errors: give `se = TRUE`, too.")
  scale <- if (normalized) 1 else x$norm
  if (!se) {
    model <- predict(fit, x, "observed", ...)
    if (ensemble) model <- model$mean
    return(model * scale)
  }
  both <- predict_errors(fit, x, "observed_errors", ...)
  pixels <- seq_along(fit$instrument$wave)
  model <- both[, pixels, drop = FALSE]
  errors <- both[, -pixels, drop = FALSE]
  if (!is.null(calibration)) errors <- with_misfit(errors, model, x, calibration)
  list(model = model * scale, se = errors * scale)
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
  refuse_path("residuals", "observed", ...)
  x <- in_memory(x)
  difference <- x$flux - predict(object, x, "observed", ...)
  if (type == "response") return(difference)
  scaled <- difference * sqrt(x$ivar)
  scaled[x$ivar == 0] <- NA
  scaled
}
