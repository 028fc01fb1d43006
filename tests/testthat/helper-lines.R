# The fits of measure_lines() as minpack.lm makes them: what the core must find. Two things set them apart: nls.lm() ends a thousandth of an
# error or so before the minimum, and derivatives by velocity and width are quotients of differences of 1 km/s. With `exact = TRUE` steps go
# on to the minimum, and the differences are 0.01 km/s.

# One group of lines in one spectrum: `lines`, a data frame in their order, and the covariance of their fluxes. `kept` is the velocity and
# width to keep. `changes` (pixels x k) are independent changes of the flux by one standard deviation each: errors then are the response of
# the fit to them; otherwise they follow from `ivar`.
fit_lines_r <- function(wave, flux, ivar, centres, sigma_max, velocity_max, kept = NULL, changes = NULL, exact = FALSE) {
  k <- length(centres)
  weighted <- !is.null(ivar)
  valid <- is.finite(flux) & (if (weighted) ivar > 0 else TRUE)
  covered <- vapply(centres, function(centre) sum(valid & abs(wave - centre) < 10) >= 3, NA)
  none <- data.frame(flux = rep(NA_real_, k), flux_err = NA_real_, ew = NA_real_, ew_err = NA_real_, sigma = NA_real_, sigma_err = NA_real_,
                     velocity = NA_real_, velocity_err = NA_real_, continuum = NA_real_, chi2 = NA_real_, pixels = sum(valid))
  used <- which(covered)
  if (!length(used) || sum(valid) < length(used) + 6 || anyNA(kept)) return(list(lines = none))
  wave <- wave[valid]
  middle <- mean(wave)
  w <- if (weighted) sqrt(ivar[valid]) else rep(1, length(wave))
  y <- flux[valid] * w
  lambda <- centres[used]
  profiles <- function(p) { # p: velocity, sigma
    vapply(lambda, function(l) stats::dnorm(wave, l * (1 + p[1] / light_speed), l * p[2] / light_speed), wave)
  }
  basis <- function(p) cbind(1, wave - middle, profiles(p)) * w
  residual <- function(p) stats::.lm.fit(basis(p), y)$residuals
  pixel <- stats::median(diff(wave)) / middle * light_speed
  smallest <- max(10, 0.3 * pixel)
  limits <- list(lower = c(-velocity_max, smallest), upper = c(velocity_max, max(sigma_max, 2 * smallest)))
  best <- if (!is.null(kept)) list(par = kept, deviance = sum(residual(kept)^2))
  else {
    # narrow and wide starts end in different minima where lines blend
    tries <- lapply(c(1, 2.2), function(factor) { # its only warning is that of a flat optimum, where errors say so
      suppressWarnings(minpack.lm::nls.lm(c(0, min(max(110, 1.2 * pixel) * factor, 0.9 * limits$upper[2])), limits$lower, limits$upper,
                                          residual, control = minpack.lm::nls.lm.control(maxiter = 100)))
    })
    best <- tries[[which.min(vapply(tries, function(t) t$deviance, 0))]]
    inside <- which(best$par > limits$lower & best$par < limits$upper)
    if (exact && length(inside)) polish(best, residual, inside, limits) else best
  }
  p <- best$par
  linear <- basis(p)
  beta <- stats::.lm.fit(linear, y)$coefficients
  fluxes <- beta[-(1:2)]

  h <- if (exact) c(0.01, 0.01) else c(1, 1) # km/s
  moved <- vapply(1:2, function(j) {
    up <- down <- p
    up[j] <- p[j] + h[j]
    down[j] <- p[j] - h[j]
    as.vector((profiles(up) - profiles(down)) %*% fluxes) * w / (2 * h[j])
  }, y)
  covariance_of <- function(jacobian) {
    scale <- sqrt(colSums(jacobian^2))
    if (any(!is.finite(scale)) || any(scale == 0)) return(NULL)
    jacobian <- sweep(jacobian, 2, scale, "/")
    inverse <- tryCatch(chol2inv(chol(crossprod(jacobian))), error = function(e) NULL)
    if (is.null(inverse)) return(NULL)
    if (!is.null(changes)) inverse <- tcrossprod(inverse %*% crossprod(jacobian, changes[valid, , drop = FALSE] * w))
    inverse / outer(scale, scale)
  }
  known <- weighted || !is.null(changes)
  moving <- if (is.null(kept)) which(p > limits$lower & p < limits$upper)
  covariance <- if (known) covariance_of(cbind(linear, moved[, moving, drop = FALSE]))
  m <- length(beta)
  # a line too weak to have a width, or beside masked pixels: errors at this velocity and width
  free <- !is.null(covariance) && !any(sqrt(diag(covariance)[m + seq_along(moving)]) > (limits$upper - limits$lower)[moving], na.rm = TRUE)
  if (known && !free) covariance <- covariance_of(linear)
  error_of <- function(j) if (is.null(covariance)) rep(NA_real_, length(j)) else sqrt(diag(covariance)[j])
  nonlinear_error <- rep(NA_real_, 2)
  if (free && length(moving)) nonlinear_error[moving] <- error_of(m + seq_along(moving))
  continuum <- beta[1] + beta[2] * (lambda - middle)
  ew_error <- vapply(seq_along(used), function(j) {
    if (is.null(covariance)) return(NA_real_)
    gradient <- numeric(nrow(covariance))
    gradient[c(1, 2, 2 + j)] <- c(-fluxes[j] / continuum[j]^2 * c(1, lambda[j] - middle), 1 / continuum[j])
    sqrt(max(0, drop(gradient %*% covariance %*% gradient)))
  }, 0)
  out <- none
  out$pixels <- length(wave)
  out$chi2 <- if (weighted) best$deviance / max(1, length(wave) - m - 2) else NA_real_
  out[used, c("flux", "flux_err", "ew", "ew_err", "continuum")] <-
    data.frame(fluxes, error_of(2 + seq_along(used)), fluxes / continuum, ew_error, continuum)
  out[used, c("velocity", "velocity_err", "sigma", "sigma_err")] <-
    data.frame(p[1], nonlinear_error[1], p[2], nonlinear_error[2])[rep(1, length(used)), ]
  list(lines = out, covariance = if (!is.null(covariance) && length(used) == k) covariance[2 + seq_len(k), 2 + seq_len(k), drop = FALSE])
}


# Goes on from where nls.lm() ended, by Newton's steps to where the gradient is 0; `inside`: parameters that are not at their limits.
polish <- function(best, residual, inside, limits) {
  at <- function(p) replace(best$par, inside, p)
  derivative <- function(f, p, h) {
    vapply(seq_along(p), function(j) {
      aside <- replace(numeric(length(p)), j, h)
      as.vector(f(p + aside) - f(p - aside)) / (2 * h)
    }, as.vector(f(p)))
  }
  gradient <- function(p) crossprod(derivative(function(p) residual(at(p)), p, 1e-3), residual(at(p)))
  p <- best$par[inside]
  for (round in 1:6) p <- p - solve(derivative(gradient, p, 0.05), gradient(p))
  deviance <- sum(residual(at(p))^2)
  if (any(at(p) < limits$lower | at(p) > limits$upper) || deviance > best$deviance * (1 + 1e-12)) return(best)
  list(par = at(p), deviance = deviance)
}

fit_groups_r <- function(x, lines, window, sigma_max, velocity_max, kept = NULL, changes = NULL, ...) {
  groups <- split(seq_len(nrow(lines)), cumsum(c(TRUE, diff(lines$wave) > 60)))
  rows <- lapply(seq_len(nrow(x$flux)), function(i) {
    rest <- x$wave / (1 + x$z[i])
    do.call(rbind, lapply(groups, function(group) {
      centres <- lines$wave[group]
      pixels <- which(rest >= min(centres) - window & rest <= max(centres) + window)
      before <- if (!is.null(kept)) kept[(i - 1) * nrow(lines) + group, ]
      at <- which.max(!is.na(before$sigma)) # lines that were covered share them
      fit <- fit_lines_r(rest[pixels], x$flux[i, pixels] * (1 + x$z[i]), if (!is.null(x$ivar)) x$ivar[i, pixels] / (1 + x$z[i])^2, centres,
                       sigma_max, velocity_max, if (!is.null(before)) c(before$velocity[at], before$sigma[at]),
                       if (!is.null(changes)) matrix(changes[i, pixels, ], length(pixels)) * (1 + x$z[i]), ...)
      data.frame(row = i, id = x$id[i], line = lines$name[group], wave = centres, fit$lines)
    }))
  })
  out <- do.call(rbind, rows)
  rownames(out) <- NULL
  out
}


# How far the sum of two Gaussians sinks between its peaks, over the lower peak
doublet_dip <- function(centres, flux, sigma) {
  if (anyNA(c(flux, sigma)) || any(flux <= 0)) return(NA_real_)
  s <- centres * sigma / light_speed
  at <- seq(centres[1] - 3 * s[1], centres[2] + 3 * s[2], length.out = 2001)
  sum <- flux[1] * stats::dnorm(at, centres[1], s[1]) + flux[2] * stats::dnorm(at, centres[2], s[2])
  inner <- which(diff(sign(diff(sum))) < 0) + 1
  if (length(inner) < 2) return(0)
  peaks <- range(inner)
  1 - min(sum[peaks[1]:peaks[2]]) / min(sum[peaks])
}

# The package's fit of one group to all pixels of one spectrum. changes: (pixels x k)
fit_group <- function(wave, flux, ivar, centres, kept = NULL, changes = NULL) {
  lines <- data.frame(name = paste0("line", seq_along(centres)), wave = centres)
  if (!is.null(kept)) kept <- data.frame(velocity = rep(kept[1], nrow(lines)), sigma = kept[2])
  if (!is.null(changes)) changes <- array(changes, c(1, dim(changes)))
  x <- list(flux = matrix(flux, 1), ivar = if (!is.null(ivar)) matrix(ivar, 1), wave = wave, z = 0, id = "1")
  fit_groups(x, lines, 1000, 600, 600, kept, changes)
}
