#' Principal components of restframe spectra
#'
#' The linear model with as many numbers per galaxy as a fit has latents, for comparison: a mean and components of the restframe,
#' found by expectation maximisation over spectra with gaps and noise (Bailey 2012, PASP 124, 1015): scores from components and
#' components from scores, both by weighted least squares, in turns. Restframe pixels that fewer than three spectra for each
#' component cover have a mean only. Spectra are resampled to the restframe grid linearly, some at a time: memory does not grow with their
#' number, and a survey is read once for each round.
#'
#' @param x [spectra()] or a survey; spectra without a norm are left out.
#' @param components Number of components.
#' @param wave_rest Restframe grid (Å); by default [spender()]'s.
#' @param iterations Rounds of expectation maximisation.
#' @param z_max As in [spender()].
#' @param seed Of the random components it starts from.
#' @param threads How many threads to use; `NULL`: as many as [devices()] says. The result does not depend on it.
#' @return A list of class `spender_pca`: `mean` (\eqn{R}), `components` (components \eqn{\times R}, orthonormal), `wave_rest`,
#'   `instrument`. [predict()] fits the components to spectra by weighted least squares.
#' @section Errors: `spender_error_invalid` naming the argument.
#' @export
#' @examples
#' x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' pca <- spectra_pca(x, components = 3)
#' mean(predict(pca, x, "loss"))
spectra_pca <- function(x, components = 6, wave_rest = NULL, iterations = 15, z_max = 0.5, seed = 1, threads = NULL) {
  check_source(x)
  check_number(components, "components", 1, 1000, whole = TRUE)
  check_number(iterations, "iterations", 1, 1e4, whole = TRUE)
  check_number(seed, "seed", 0, .Machine$integer.max, whole = TRUE)
  threads <- fit_threads(threads)
  wave_rest <- restframe_grid(x$instrument, 1, z_max, wave_rest)
  if (anyNA(x$norm)) x <- x[!is.na(x$norm)]
  if (length(x) <= components) {
    abort("invalid", "`components` must be less than the number of spectra with a norm, which is ", length(x), ".")
  }
  restore <- keep_random_state()
  on.exit(restore())
  set.seed(seed)
  model <- list(mean = numeric(length(wave_rest)), components = matrix(0, 0, length(wave_rest)), wave_rest = wave_rest,
                instrument = x$instrument)
  alone <- .Call(ffi_pca_solve, pca_pass(model, x, TRUE, threads)$sums, 0)
  average <- ifelse(alone$count > 0, alone$solution[, 1], 1)
  enough <- alone$count >= 3 * (components + 1) # elsewhere a pixel has its average and no components
  model$mean <- average
  model$components <- t(qr.Q(qr(matrix(stats::rnorm(length(wave_rest) * components), ncol = components))))
  for (round in seq_len(iterations)) {
    # pixel by pixel; the mean too, as each pixel is covered by spectra of its own
    by_pixel <- .Call(ffi_pca_solve, pca_pass(model, x, TRUE, threads)$sums, components)$solution
    model$mean <- ifelse(enough, model$mean + by_pixel[, 1], average)
    model$components <- t(qr.Q(qr(by_pixel[, -1, drop = FALSE] * enough)))
  }
  # about the mean galaxy, in order of the variance they carry
  scores <- pca_pass(model, x, FALSE, threads)$scores
  model$mean <- model$mean + as.vector(colMeans(scores) %*% model$components)
  turn <- svd(sweep(scores, 2, colMeans(scores)), nu = 0)$v
  model$components <- t(turn) %*% model$components
  structure(model, class = "spender_pca")
}

#' @param object From [spectra_pca()].
#' @param x [spectra()] on the same instrument.
#' @param type `"observed"` (\eqn{n \times M}), `"rest"` (\eqn{n \times R}), `"latent"` (the scores) or `"loss"`, as in [predict.spender()].
#' @param ... `newdata`, which other packages' models call `x`; anything else is an error.
#' @rdname spectra_pca
#' @export
predict.spender_pca <- function(object, x, type = c("observed", "rest", "latent", "loss"), ...) {
  type <- match.arg(type)
  if (missing(x)) return(predict_newdata(object, type, ...))
  check_dots("predict", ...)
  check_source(x)
  check_same_grid(object, x)
  parts <- unknown <- list()
  take <- function(part, rows) {
    here <- unknown_rows(object, part)
    out <- pca_rows(object, part, type)
    out[here > 0, ] <- NA
    unknown[[length(unknown) + 1]] <<- here
    parts[[length(parts) + 1]] <<- out
  }
  if (inherits(x, "survey")) in_parts(x, take) else take(x, seq_along(x$z))
  warn_unknown(unlist(unknown))
  out <- do.call(rbind, parts)
  if (type == "loss") out[, 1] else out
}

# Of spectra in memory, a matrix with a row for each
pca_rows <- function(pca, x, type) {
  threads <- fit_threads(NULL)
  scores <- pca_pass(pca, x, FALSE, threads)$scores
  dimnames(scores) <- list(x$id, paste0("s", seq_len(ncol(scores))))
  if (type == "latent") return(scores)
  if (type == "rest") return(sweep(scores %*% pca$components, 2, pca$mean, "+"))
  observed <- .Call(ffi_pca_observed, unname(scores), as.double(x$z), pca_grids(pca, threads), pca$mean, t(pca$components))
  rownames(observed) <- x$id
  if (type == "observed") return(observed)
  squares <- x$ivar * (x$flux - observed)^2
  squares[is.na(observed)] <- 0
  cbind(rowSums(squares) / (2 * ncol(observed)))
}

#' @export
print.spender_pca <- function(x, ...) {
  cat("principal components: ", nrow(x$components), " of restframe spectra, ", describe_grid(x$wave_rest), "\n", sep = "")
  invisible(x)
}

pca_grids <- function(pca, threads) list(wave = pca$instrument$wave, wave_rest = as.double(pca$wave_rest), threads = threads)

# Scores (n x components) of spectra or a survey, and with `add` the restframe pixels' sums over all of them, for ffi_pca_solve
pca_pass <- function(pca, x, add, threads, size = 2048) {
  scores <- list()
  sums <- if (add) numeric()
  take <- function(part, rows) {
    out <- .Call(ffi_pca_pass, part$flux, part$ivar, as.double(part$z), pca_grids(pca, threads), pca$mean, t(pca$components), sums)
    scores[[length(scores) + 1]] <<- out$scores
    sums <<- out$sums
  }
  if (inherits(x, "survey")) in_parts(x, take, size) else take(x, seq_along(x$z))
  list(scores = do.call(rbind, scores), sums = sums)
}
