#' Apply a fit to spectra
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] or a survey on the fit's instrument, \eqn{n} of them. Of a survey no more than some thousand spectra are in
#'   memory at a time.
#' @param type The result: `"observed"`, the model in the observed frame (\eqn{n \times M}), `NA` where the restframe grid
#'   does not cover a pixel; `"rest"`, the restframe spectra (\eqn{n \times R}); `"latent"` (\eqn{n \times S}); `"loss"`
#'   (\eqn{n}), see [spender()]; or `"chi2"` (\eqn{n}), the reduced \eqn{\chi^2}, see Details. All but
#'   latents, loss and \eqn{\chi^2} are normalised fluxes; [reconstruct()] gives physical ones. `"covariance"` gives
#'   the covariances of the latents (see [vcov.spender()]), `"z"` the redshifts that fit best (see Details),
#'   `"calibration"` the coefficients of [flux_calibration()] and their errors. Several types, such as
#'   `c("latent", "loss", "rest")`, are taken from one pass; `"z"` is one of them only with `refine_z = TRUE`.
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
#' @param path A FITS file to write the result to, in parts, instead of returning it: a table `RESULTS` with a row for each spectrum
#'   (`ID`, `Z`, `NORM`, the columns of `keep`, and the results, in single precision). A program that was killed continues when it is called
#'   again. The file identifies the fit, the spectra, their ids and the type; an existing file of other ones is an error that names them.
#'   [read_predictions()] reads it.
#' @param part `NULL`, or the number of a part and that of all parts, such as `c(2, 8)`: only the second eighth of the spectra is computed,
#'   and written to a file of its own, `latents-2-of-8.fits` where `path` is `latents.fits`. Or `"rank"`, the part of this process among
#'   those that `mpirun` or `srun` has started; MPI is not needed. [join_predictions()] makes one file of all parts.
#' @param keep Names of columns of the catalogue that go with the result, such as `c("ra", "dec")`. Without `path`, the result is then a
#'   data frame (see Value).
#' @param progress Show a progress bar, with the rate and the time left? `NULL`: in interactive sessions.
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
#' `"chi2"` is \eqn{\sum_m w_m (y_m - y'_m)^2 / (N - S)} with the number \eqn{N} of pixels that have weight, `NA` unless \eqn{N > S}
#' (coefficients of a [flux_calibration()] are subtracted, too): 1 for a model that is right, whatever is masked. The loss
#' divides by twice the number of all pixels, so that a spectrum with many masked ones has a low loss; to rank spectra by how badly they
#' are described, use \eqn{\chi^2}.
#'
#' `"z"` is a matrix with columns `z`, `z_err`, `improvement` (of \eqn{\chi^2}, by moving latents and redshift) and `moved`, the change of
#' the redshift in units of its error: large values are redshifts that were wrong, or that ran away.
#'
#' @return With `path`, the name of the file, invisibly. Otherwise a matrix with one row per spectrum, in order, with the spectra's ids as
#'   row names, or a named vector for `"loss"` and `"chi2"`; an array
#'   (\eqn{n \times S \times S}) for `"covariance"`, with `NA` where data and prior do not determine it. Of several types, a list of these,
#'   named by type. With `keep`, a data frame of `id`, `z`, the columns kept, and the results: latents `s1`, `s2`, ..., `loss`, `chi2`; of
#'   `"z"` the columns of its matrix, `z_refined` first; of other types a matrix as one column named by the type.
#'   Spectra for which the fit has no result give rows of `NA`, and a warning: those without a norm (`spender_warning_no_norm`), and those
#'   without a valid pixel that the restframe grid covers (`spender_warning_coverage`).
#' @section Files: A file `path` is FITS. Its primary HDU `WAVELENGTH` has the observed wavelengths (Å, vacuum, doubles), or the restframe's
#'   if the file has `REST`. The table `RESULTS` has a row for each spectrum, in order:
#'
#'   | column | values | |
#'   |---|---|---|
#'   | `ID`, `Z`, `NORM` | text, 2 doubles | the spectrum; `NORM` is the flux that normalised fluxes are in units of, NaN for none |
#'   | those of `keep` | 1 each | under their names |
#'   | `LATENT` | S | |
#'   | `LOSS`, `CHI2` | 1 each | |
#'   | `COVARIANCE` | S (S + 1) / 2 | lower triangle, row by row: 11, 21, 22, 31, ...; with `refine_z` the redshift is the last row |
#'   | `REDSHIFT` | 4 | `z`, `z_err`, `improvement`, `moved` |
#'   | `CALIBRATION` | twice the degree plus 2 | coefficients, then their errors |
#'   | `OBSERVED`, `REST` | M, R | normalised fluxes |
#'   | `PADDING`, `ROWSUM` | 1 each | fills the row up; checksum of the row |
#'
#'   Results are single precision, NaN where there is none. The card `PREPARED` identifies fit, spectra, ids and type; the file of a part
#'   has a card `PART`, such as `2/8`. `vignette("python")` reads such files with astropy.
#' @section Errors: `spender_error_grid` when the spectra are not on the fit's wavelength grid, `spender_error_resolution` when they have no
#'   resolution and the fit was made with those of its spectra, `spender_error_exists` for a file of other
#'   results. `spender_error_format` for a damaged spectrum of a survey, and `spender_error_io` where reading or writing fails, or another
#'   program writes to `path`: the results before are in the file.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' predict(fit, x, "latent")
#' dim(predict(fit, x[1:3], "rest"))
#' predict(fit, x[1:3], c("latent", "loss"), keep = "class")
predict.spender <- function(object, x, type = c("observed", "rest", "latent", "loss", "chi2", "covariance", "z", "calibration"),
                            device = "auto", precision = "fp32", threads = NULL, batch_size = NULL, path = NULL, overwrite = FALSE,
                            refine = NULL, robust = NULL, prior = FALSE, refine_z = FALSE, keep = NULL, progress = NULL,
                            part = NULL, ...) {
  types <- if (missing(type)) "observed" else unique(vapply(type, match.arg, "", names(result_columns), USE.NAMES = FALSE))
  if (missing(x)) {
    return(predict_newdata(object, types, device = device, precision = precision, threads = threads, batch_size = batch_size, path = path,
                           part = part, overwrite = overwrite, refine = refine, robust = robust, prior = prior, refine_z = refine_z,
                           keep = keep, progress = progress, ...))
  }
  check_dots("predict", ...)
  check_source(x)
  check_same_grid(object, x)
  check_flag(overwrite, "overwrite")
  check_keep(keep, x)
  of_rank <- identical(part, "rank")
  part <- check_part(part, path)
  if ("calibration" %in% types && calibration_terms(object) == 0) {
    abort("invalid", "This fit has no calibration: it was made without `flux_calibration` of spender().")
  }
  inference <- new_inference(object, types, refine, robust, prior, refine_z)
  device <- name_rank(of_rank, part, choose_device(device, precision, threads))
  tick <- progress_bar("Spectra", length(part_rows(length(x$z), part)), shows_progress(progress))
  if (!is.null(path)) {
    return(invisible(name_rank(of_rank, part, predict_to_file(object, x, types, inference, path, part, overwrite, keep, device, batch_size,
                                                              tick))))
  }
  if (overwrite) abort("invalid", "`overwrite` is about the file `path`, and none is given.")
  values <- predict_all(object, x, types, inference, device, batch_size, tick)
  values <- Map(function(value, type) shape_result(value, type, latent_names(object)), values, types)
  if (!is.null(keep)) return(result_table(values, catalogue_of(x, keep)))
  if (length(types) > 1) values else values[[1]]
}

# Matrices with a row for each spectrum, named by types; rows without a result are NA, with a warning.
predict_all <- function(fit, x, types, inference, device, batch_size, tick = function(done) NULL) {
  out <- infer(fit, x, types, inference, device, batch_size, tick)
  warn_unknown(out$unknown)
  ids <- if (inherits(x, "survey")) survey_ids(x) else x$id
  lapply(out$values, `rownames<-`, ids)
}

# A matrix of results as the user gets it
shape_result <- function(value, type, latents) {
  switch(type,
    loss = ,
    chi2 = value[, 1],
    z = `colnames<-`(value, c("z", "z_err", "improvement", "moved")),
    calibration = `colnames<-`(value, calibration_names(ncol(value) / 2)),
    covariance = {
      k <- sqrt(ncol(value))
      names <- if (k > length(latents)) c(latents, "z") else latents
      array(value, c(nrow(value), k, k), list(rownames(value), names, names))
    },
    value
  )
}

latent_names <- function(fit) paste0("s", seq_len(fit$architecture$n_latent))

check_keep <- function(keep, x) {
  if (is.null(keep)) return(invisible())
  known <- if (inherits(x, "survey")) x$columns else names(x$meta)
  if (!is.character(keep) || anyNA(keep) || anyDuplicated(keep)) {
    abort("invalid", "`keep` must be different names of columns of the catalogue, not ", describe(keep), ".")
  }
  unknown <- setdiff(keep, c(known, "id", "z", "norm"))
  if (length(unknown)) {
    abort("invalid", "`keep`: the catalogue has no column ", code_list(unknown), "; it has ",
          if (length(known)) enumerate(known, 12) else "none", ".")
  }
}

# Some columns of the catalogue, of some rows: a list
kept_columns <- function(x, keep, rows = seq_along(x$z)) {
  if (!length(keep)) return(list())
  as.list(if (inherits(x, "survey")) survey_catalogue(x, keep, x$rows[rows]) else x$meta[rows, keep, drop = FALSE])
}

# A data frame of ids, redshifts and some columns of the catalogue
catalogue_of <- function(x, keep) {
  kept <- kept_columns(x, setdiff(keep, c("id", "z", "norm")))
  as.data.frame(c(list(id = if (inherits(x, "survey")) survey_ids(x) else x$id, z = x$z), if ("norm" %in% keep) list(norm = x$norm), kept),
                optional = TRUE)
}

# One data frame of a catalogue and of results, as predict() and read_predictions() return them
result_table <- function(values, catalogue) {
  row.names(catalogue) <- NULL
  for (type in names(values)) {
    value <- values[[type]]
    if (type == "latent") colnames(value) <- paste0("s", seq_len(ncol(value)))
    if (type == "z") colnames(value)[1] <- "z_refined"
    if (type %in% c("latent", "z", "calibration")) {
      catalogue <- cbind(catalogue, `rownames<-`(value, NULL))
    } else {
      catalogue[[type]] <- if (is.null(dim(value))) unname(value) else matrix(value, nrow(value))
    }
  }
  catalogue
}

# predict() with `x` under the name that R's own models have for it
predict_newdata <- function(object, type, ..., newdata) {
  if (missing(newdata)) abort("invalid", "`x` must be spectra, or a survey of them; it is missing.")
  predict(object, newdata, type, ...)
}

# Writes a table of results. Rows that the file already has of the same fit, types and spectra are not computed again.
predict_to_file <- function(fit, x, types, inference, path, part, overwrite, keep, device, batch_size, tick) {
  check_path(path)
  path <- part_path(path.expand(path), part)
  check_not_source(path, x)
  if (all(c("rest", "observed") %in% types)) {
    abort("invalid", "A file has one grid of wavelengths: results in the restframe and the observed frame go to two of them.")
  }
  keep <- setdiff(keep, c("id", "z", "norm"))
  ids <- result_ids(x, keep)
  of <- result_identity(fit, x, types, ids, inference)
  chosen <- part_rows(length(x$z), part)
  catalogue <- function(rows) {
    columns <- c(list(ID = ids$of(chosen[rows]), Z = x$z[rows], NORM = x$norm[rows]), lapply(kept_columns(x, keep, rows), plain_column))
    lapply(columns, function(column) if (is.character(column)) to_ascii(column) else column)
  }
  if (overwrite) remove_survey(path)
  if (!file.exists(path)) create_results(fit, x, types, inference, path, of, part, keep, ids$longest)
  info <- .Call(ffi_survey_info, path)
  other <- c(differing_parts(info$prepared, of), if (info$part != part_text(part)) "part")
  if (length(other)) {
    abort("exists", path, " exists already and is of something else: not the same ", enumerate(other),
          ". `overwrite = TRUE` replaces it.")
  }
  if (!is.null(part)) x <- x[chosen]
  if (info$finished && info$n == length(x$z)) return(path)
  warn_unknown(infer_to_file(fit, x, types, inference, device, batch_size, path, catalogue, tick))
  path
}

# longest: bytes of an id, at most
create_results <- function(fit, x, types, inference, path, of, part, keep, longest) {
  k <- fit$architecture$n_latent + inference$with_redshift
  floats <- c(observed = length(fit$instrument$wave), rest = length(fit$wave_rest), latent = fit$architecture$n_latent, loss = 1, chi2 = 1,
              covariance = k * (k + 1) / 2, z = 4, calibration = 2 * calibration_terms(fit))[types]
  kept <- kept_columns(x, keep, if (inherits(x, "survey")) seq_len(min(1, length(x))) else seq_along(x$z))
  check_columns(kept)
  taken <- toupper(keep) %in% result_columns
  if (any(taken)) abort("invalid", "A column of the catalogue cannot be called ", keep[taken][1], " in a file of results.")
  kept <- lapply(kept, plain_column)
  widths <- if (inherits(x, "survey")) text_widths(x) else list()
  columns <- c(list(ID = "", Z = x$z, NORM = x$norm), lapply(kept, function(v) if (is.character(v)) to_ascii(v) else v))
  widths$ID <- longest
  repeats <- column_repeats(columns, widths)
  .Call(ffi_survey_create, path, "RESULTS", if ("rest" %in% types) fit$wave_rest else fit$instrument$wave, fit$instrument$name, of,
        part_text(part), c(names(columns), unname(result_columns[types])), unname(c(column_types(columns), rep("E", length(types)))),
        as.double(c(repeats, floats)))
}

result_columns <- c(observed = "OBSERVED", rest = "REST", latent = "LATENT", loss = "LOSS", chi2 = "CHI2", covariance = "COVARIANCE",
                    z = "REDSHIFT", calibration = "CALIBRATION")

# Places of the lower triangle of a k x k matrix, row by row, as files hold covariances
lower_triangle <- function(k) unlist(lapply(seq_len(k), function(a) a + k * (seq_len(a) - 1)))

#' Read predictions from a file
#'
#' @param path A file that [predict.spender()] or [join_predictions()] wrote; or several, all parts of one.
#' @param table Return one data frame of the ids, redshifts, the columns that were kept and the results, as `predict()` does with `keep`?
#' @return The result of `predict()`, in single precision: a matrix with one row per spectrum, named by their ids, or a
#'   vector of losses; a list of these if the file has several types. With `table = TRUE` a data frame, see [predict.spender()].
#' @section Errors: `spender_error_format` for another file.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' path <- tempfile(fileext = ".fits")
#' predict(fit, x, c("latent", "loss"), path = path, keep = "class")
#' read_predictions(path)$latent[1:3, ]
#' head(read_predictions(path, table = TRUE))
read_predictions <- function(path, table = FALSE) {
  if (length(path) != 1) return(read_parts(path, table))
  check_path(path)
  check_flag(table, "table")
  info <- .Call(ffi_survey_info, path)
  types <- names(result_columns)[match(intersect(info$columns[info$types == "E"], result_columns), result_columns)]
  if (!length(types)) abort("format", basename(path), " does not hold predictions.")
  rows <- as.double(seq_len(info$n))
  kept <- info$columns[info$types != "E" & !info$columns %in% c("PADDING", "ROWSUM")]
  catalogue <- .Call(ffi_survey_columns, path, info$n, if (table) kept else "ID", rows)
  catalogue <- lapply(catalogue, function(column) if (is.character(column)) from_ascii(column) else column)
  values <- lapply(setNames(nm = types), function(type) {
    value <- .Call(ffi_survey_matrix, path, info$n, result_columns[[type]], rows)
    rownames(value) <- catalogue$ID
    value[is.nan(value)] <- NA
    switch(type,
      loss = ,
      chi2 = value[, 1],
      z = `colnames<-`(value, c("z", "z_err", "improvement", "moved")),
      calibration = `colnames<-`(value, calibration_names(ncol(value) / 2)),
      covariance = unpack_covariance(value),
      value
    )
  })
  if (!table) return(if (length(types) > 1) values else values[[1]])
  names(catalogue)[1:3] <- c("id", "z", "norm")
  result_table(values, as.data.frame(catalogue, optional = TRUE))
}

unpack_covariance <- function(values) {
  k <- (sqrt(8 * ncol(values) + 1) - 1) / 2
  out <- matrix(NA_real_, nrow(values), k * k, dimnames = list(rownames(values), NULL))
  lower <- lower_triangle(k)
  out[, lower] <- values
  out[, (lower - 1) %/% k + 1 + k * ((lower - 1) %% k)] <- values # the mirrored places
  array(out, c(nrow(values), k, k), list(rownames(values), NULL, NULL))
}

#' Latents of spectra
#'
#' @param fit A fit from [spender()] or [read_model()], of one instrument or several.
#' @param x [spectra()] on the fit's instrument; of several instruments a list of these, by their names, for a list of results.
#' @param se Give standard errors, too? They are those of [vcov.spender()], and meaningful for refined latents.
#' @param ... Passed on to [predict.spender()]: `refine`, `robust`, `prior`, `refine_z`, `device`, `precision`, `threads`, `batch_size`,
#'   `progress`.
#' @param instrument Of a fit of several instruments: the name of the spectra's, see [spender_joint]; `NULL` for the one with their grid.
#' @return A matrix \eqn{n \times S} with one row per spectrum, in order; with `se = TRUE` a list of two such matrices, `latent` and `se`.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' encode(fit, x[1:3])
#' encode(fit, x[1:3], refine = 2, se = TRUE)
encode <- function(fit, x, se = FALSE, ..., instrument = NULL) {
  if (inherits(fit, "spender_joint")) return(by_instrument(fit, x, instrument, function(fit, x) encode(fit, x, se, ...)))
  check_fit(fit)
  if (!is.null(instrument)) abort("invalid", "`instrument` is for fits of several instruments.")
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
                           robust = NULL, prior = FALSE, refine_z = FALSE, progress = NULL, ...) {
  check_dots(if (type == "latent_errors") "encode" else "reconstruct", ...)
  check_source(x)
  check_same_grid(fit, x)
  inference <- new_inference(fit, type, refine, robust, prior, refine_z)
  tick <- progress_bar("Spectra", length(x$z), shows_progress(progress))
  predict_all(fit, x, type, inference, choose_device(device, precision, threads), batch_size, tick)[[1]]
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
#' @param instrument Grid of the result where `z` is given: the fit's own (with its line spread function, but without any spectrum's
#'   `resolution`) by default, or any [instrument()] (without one).
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
  architecture <- fit$architecture
  weights <- fit$weights
  if (!rest && !identical(instrument$wave, fit$instrument$wave)) { # another instrument has another LSF: leave this one out
    architecture$lsf <- 0
    architecture$n_observed <- length(instrument$wave)
    weights <- .Call(ffi_network_carry, fit$architecture, weights, architecture)
  }
  device <- choose_device(device, precision, threads)
  wave <- if (rest) fit$instrument$wave else instrument$wave
  out <- .Call(ffi_decode, architecture, weights, wave, fit$wave_rest, s, as.double(rep_len(z, nrow(s))), if (rest) "rest" else "observed",
               c(device, batch_size = min(choose_batch_size(batch_size, device), max(1, nrow(s)))))
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
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' dim(reconstruct(fit, x[1:3]))
#' # with errors that follow from those of the latents
#' both <- reconstruct(fit, x[1:3], se = TRUE, refine = 2)
#' summary(as.vector(both$se / both$model))
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
