# Principal components as spectra_pca() found them before the core did: what the core must find.

spectra_pca_r <- function(x, components, iterations, wave_rest = restframe_grid(x$instrument, 1, 0.5, NULL)) {
  data <- to_restframe(x, wave_rest)
  withr::local_seed(1)
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
