#' Principal components of restframe spectra
#'
#' The linear model with as many numbers per galaxy as a fit has latents, for comparison: a mean and components of the restframe,
#' found by expectation maximisation over spectra with gaps and noise (Bailey 2012, PASP 124, 1015): scores from components and
#' components from scores, both by weighted least squares, in turns. Restframe pixels that fewer than three spectra for each
#' component cover have a mean only. Spectra are resampled to the
#' restframe grid once, linearly.
#'
#' @param x [spectra()]; those without a norm are left out.
#' @param components Number of components.
#' @param wave_rest Restframe grid (Å); by default [spender()]'s.
#' @param iterations Rounds of expectation maximisation.
#' @param z_max As in [spender()].
#' @param seed Of the random components it starts from.
#' @return A list of class `spender_pca`: `mean` (\eqn{R}), `components` (components \eqn{\times R}, orthonormal), `wave_rest`,
#'   `instrument`. [predict()] fits the components to spectra by weighted least squares.
#' @section Errors: `spender_error_invalid` naming the argument.
#' @export
#' @examples
#' x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' pca <- spectra_pca(x, components = 3)
#' mean(predict(pca, x, "loss"))
spectra_pca <- function(x, components = 6, wave_rest = NULL, iterations = 15, z_max = 0.5, seed = 1) {
  x <- in_memory(x)
  check_spectra(x)
  check_number(components, "components", 1, 1000, whole = TRUE)
  check_number(iterations, "iterations", 1, 1e4, whole = TRUE)
  check_number(seed, "seed", 0, .Machine$integer.max, whole = TRUE)
  wave_rest <- restframe_grid(x$instrument, 1, z_max, wave_rest)
  x <- x[!is.na(x$norm)]
  if (length(x) <= components) {
    abort("invalid", "`components` must be less than the number of spectra with a norm, which is ", length(x), ".")
  }
  data <- to_restframe(x, wave_rest)
  restore <- keep_random_state()
  on.exit(restore())
  set.seed(seed)
  total <- colSums(data$weight)
  average <- ifelse(total > 0, colSums(data$weight * data$flux) / pmax(total, 1e-300), 1)
  mean <- average
  enough <- colSums(data$weight > 0) >= 3 * (components + 1) # elsewhere a pixel has its average and no components
  basis <- t(qr.Q(qr(matrix(stats::rnorm(length(wave_rest) * components), ncol = components))))
  for (round in seq_len(iterations)) {
    scores <- weighted_fit(sweep(data$flux, 2, mean), data$weight, basis)
    # the same problem, pixel by pixel; the mean too, as each pixel is covered by spectra of its own
    by_pixel <- weighted_fit(t(data$flux), t(data$weight), rbind(1, t(scores)))
    mean <- ifelse(enough, by_pixel[, 1], average)
    basis <- t(qr.Q(qr(by_pixel[, -1, drop = FALSE] * enough)))
  }
  # about the mean galaxy, in order of the variance they carry
  scores <- weighted_fit(sweep(data$flux, 2, mean), data$weight, basis)
  mean <- mean + as.vector(colMeans(scores) %*% basis)
  turn <- svd(sweep(scores, 2, colMeans(scores)), nu = 0)$v
  structure(list(mean = mean, components = t(turn) %*% basis, wave_rest = wave_rest, instrument = x$instrument), class = "spender_pca")
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
  x <- in_memory(x)
  check_spectra(x)
  check_same_grid(object, x)
  data <- to_restframe(x, object$wave_rest)
  scores <- weighted_fit(sweep(data$flux, 2, object$mean), data$weight, object$components)
  unknown <- unknown_rows(object, x)
  warn_unknown(unknown)
  without <- function(rows) {
    rows[unknown > 0, ] <- NA
    rows
  }
  dimnames(scores) <- list(x$id, paste0("s", seq_len(ncol(scores))))
  if (type == "latent") return(without(scores))
  rest <- sweep(scores %*% object$components, 2, object$mean, "+")
  if (type == "rest") return(without(rest))
  wave <- x$instrument$wave
  observed <- t(vapply(seq_along(x$z), function(i) {
    stats::approx(object$wave_rest, rest[i, ], wave / (1 + x$z[i]))$y
  }, wave))
  rownames(observed) <- x$id
  if (type == "observed") return(without(observed))
  squares <- x$ivar * (x$flux - observed)^2
  squares[is.na(observed)] <- 0
  loss <- rowSums(squares) / (2 * length(wave))
  loss[unknown > 0] <- NA
  loss
}

#' @export
print.spender_pca <- function(x, ...) {
  cat("principal components: ", nrow(x$components), " of restframe spectra, ", describe_grid(x$wave_rest), "\n", sep = "")
  invisible(x)
}

# Flux and weight (n x R) on the restframe grid: linear interpolation of the flux; the weight is the lower neighbour's, less so
# where the grid is finer than the pixels, whose information would count twice.
to_restframe <- function(x, wave_rest) {
  wave <- x$instrument$wave
  density <- c(diff(wave_rest), wave_rest[length(wave_rest)] - wave_rest[length(wave_rest) - 1])
  pixel <- c(diff(wave), wave[length(wave)] - wave[length(wave) - 1])
  flux <- weight <- matrix(0, length(x$z), length(wave_rest))
  for (i in seq_along(x$z)) {
    rest <- wave / (1 + x$z[i])
    at <- findInterval(wave_rest, rest)
    inside <- at >= 1 & at < length(wave)
    left <- at[inside]
    t <- (wave_rest[inside] - rest[left]) / (rest[left + 1] - rest[left])
    w <- pmin(x$ivar[i, left], x$ivar[i, left + 1])
    flux[i, inside] <- ifelse(w > 0, (1 - t) * x$flux[i, left] + t * x$flux[i, left + 1], 0)
    weight[i, inside] <- w * pmin(1, density[inside] * (1 + x$z[i]) / pixel[left])
  }
  list(flux = flux, weight = weight)
}

# Coefficients (rows x k) of each row in a basis (k x columns) by weighted least squares, damped a little where weights are few.
weighted_fit <- function(y, weight, basis) {
  k <- nrow(basis)
  first <- rep(seq_len(k), k)
  second <- rep(seq_len(k), each = k)
  normal <- tcrossprod(weight, basis[first, , drop = FALSE] * basis[second, , drop = FALSE]) # rows x k^2
  right <- tcrossprod(weight * y, basis)
  diagonal <- (seq_len(k) - 1) * k + seq_len(k)
  size <- rowMeans(normal[, diagonal, drop = FALSE])
  normal[, diagonal] <- normal[, diagonal] + 1e-9 * size
  out <- matrix(0, nrow(y), k)
  for (i in which(size > 0)) out[i, ] <- solve(matrix(normal[i, ], k), right[i, ])
  out
}
