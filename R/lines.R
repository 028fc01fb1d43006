#' Measure emission and absorption lines
#'
#' Fits Gaussian lines on a sloped continuum,
#' \deqn{f_\lambda = a + b (\lambda - \lambda_0) + \sum_k \frac{F_k}{\sqrt{2\pi}\,\sigma_k}
#'   \exp\left(-\frac{(\lambda - \lambda_k (1 + v / c))^2}{2 \sigma_k^2}\right), \quad \sigma_k = \lambda_k \sigma_v / c,}
#' to each group of lines within 60 Å of each other: they share velocity and width, and each has its own flux. Fluxes and
#' continuum follow linearly from the other two, which are found by Levenberg-Marquardt steps (minpack.lm).
#'
#' The fit is made in the restframe, of \eqn{(1 + z) f_\lambda}, so that fluxes are those observed and equivalent widths are
#' restframe ones. Widths include the instrument's (the LSF is not taken out), and a Balmer line's flux is the emission that remains
#' above the stars' absorption.
#'
#' @param x [spectra()], or a matrix with one spectrum in each row: model spectra from [predict.spender()] or [decode()].
#' @param lines Names of [spectral_lines()].
#' @param wave,z Where `x` is a matrix: wavelengths of its columns (Å, vacuum) and redshifts (0: restframe).
#' @param ivar Where `x` is a matrix: inverse variances; without them all pixels weigh alike and errors are `NA`.
#' @param window How far a group's fit reaches beyond its first and last line, Å in the restframe.
#' @param physical Where `x` are spectra: multiply fluxes by the norm, so that they are in the units of the file (1e-17
#'   erg/s/cm² for SDSS)? Otherwise they are in units of the normalised flux times Å.
#' @param sigma_max,velocity_max Limits of \eqn{\sigma_v} and \eqn{|v|}, km/s.
#' @return A data frame, one row per spectrum and line, in order: `row` and `id` of the spectrum, `line`, `wave` (Å), `flux` and `flux_err`;
#'   `ew` and `ew_err`, the equivalent width in Å, positive in emission; `sigma` and `sigma_err`, `velocity` and `velocity_err` (km/s);
#'   `continuum` at the line; `chi2`, of the group's fit per degree of freedom, and `pixels`, their number. Errors are from the
#'   inverse variance. A line of which fewer than three valid pixels are within 10 Å, or whose group has too few, has `NA`, and so have
#'   normalised fluxes of a spectrum without a norm (with a warning).
#' @section Errors: `spender_error_missing_package` without minpack.lm, `spender_error_invalid` naming the argument.
#' @seealso [classify_galaxies()], [fit_doublet()]
#' @export
#' @examplesIf requireNamespace("minpack.lm", quietly = TRUE)
#' x <- simulate_spectra(3, z = 0.05, seed = 3)
#' m <- measure_lines(x, c("Halpha", "NII_6585", "OIII_5008"))
#' m[, c("id", "line", "flux", "flux_err", "ew", "sigma")]
measure_lines <- function(x, lines = c("OII_3727", "OII_3730", "Hbeta", "OIII_4960", "OIII_5008", "NII_6550", "Halpha", "NII_6585",
                                       "SII_6718", "SII_6733"),
                          wave = NULL, z = 0, ivar = NULL, window = 40, physical = TRUE, sigma_max = 600, velocity_max = 600) {
  need_minpack()
  lines <- known_lines(lines)
  check_number(window, "window", 10, 1000)
  check_number(sigma_max, "sigma_max", 1, 1e4)
  check_number(velocity_max, "velocity_max", 0, 1e4)
  check_flag(physical, "physical")
  x <- line_data(x, wave, z, ivar, physical)
  without_unit(fit_groups(x, lines, window, sigma_max, velocity_max), x, c("flux", "flux_err", "continuum"))
}

# Each group of `lines` in each row of `x`, of line_data(). `kept` is a result for the same rows and lines whose velocities and widths are
# kept. `changes` (rows x pixels x k) are as in fit_lines().
fit_groups <- function(x, lines, window, sigma_max, velocity_max, kept = NULL, changes = NULL) {
  groups <- split(seq_len(nrow(lines)), cumsum(c(TRUE, diff(lines$wave) > 60)))
  rows <- lapply(seq_len(nrow(x$flux)), function(i) {
    rest <- x$wave / (1 + x$z[i])
    do.call(rbind, lapply(groups, function(group) {
      centres <- lines$wave[group]
      pixels <- which(rest >= min(centres) - window & rest <= max(centres) + window)
      before <- if (!is.null(kept)) kept[(i - 1) * nrow(lines) + group, ]
      at <- which.max(!is.na(before$sigma)) # lines that were covered share them
      fit <- fit_lines(rest[pixels], x$flux[i, pixels] * (1 + x$z[i]), if (!is.null(x$ivar)) x$ivar[i, pixels] / (1 + x$z[i])^2, centres,
                       sigma_max, velocity_max, if (!is.null(before)) c(before$velocity[at], before$sigma[at]),
                       if (!is.null(changes)) matrix(changes[i, pixels, ], length(pixels)) * (1 + x$z[i]))
      data.frame(row = i, id = x$id[i], line = lines$name[group], wave = centres, fit$lines)
    }))
  })
  if (!length(rows)) return(no_lines())
  out <- do.call(rbind, rows)
  rownames(out) <- NULL
  out
}

# A measurement of no spectra
no_lines <- function() {
  none <- double()
  data.frame(row = integer(), id = character(), line = character(), wave = none, flux = none, flux_err = none, ew = none, ew_err = none,
             sigma = none, sigma_err = none, velocity = none, velocity_err = none, continuum = none, chi2 = none, pixels = integer())
}

# Normalised fluxes of spectra without a norm are not known.
without_unit <- function(out, x, columns) {
  if (length(x$without)) {
    warn("no_norm", length(x$without), ngettext(length(x$without), " spectrum has", " spectra have"),
         " no norm: normalised fluxes of rows ",
         enumerate(x$without), " are NA.")
    out[(if (is.null(out$row)) seq_len(nrow(out)) else out$row) %in% x$without, columns] <- NA
  }
  out
}

#' Fit a doublet
#'
#' The ratio and the resolution of two neighbouring lines, such as \[O II\] 3727, 3730, whose ratio depends on the density of the gas and
#' which super-resolution is to separate (Melchior et al. 2023, section 4.2). The fit is that of [measure_lines()]: two Gaussians
#' of one width and velocity on a sloped continuum.
#'
#' @inheritParams measure_lines
#' @param lines The two lines, by their names in [spectral_lines()].
#' @return A data frame, one row per spectrum: `id`; `ratio`, flux of the second line over that of the first (in \[O II\]: 3730 / 3727),
#'   and `ratio_err`; `flux`, their sum, and `flux_err`; `sigma`, `sigma_err`; and `dip`, how far the fitted lines' sum sinks between
#'   them, as a fraction of the lower peak: 0 where there is one peak only.
#' @inheritSection measure_lines Errors
#' @export
#' @examplesIf requireNamespace("minpack.lm", quietly = TRUE)
#' wave <- seq(3690, 3770, by = 0.5)
#' line <- function(centre, flux, sigma) flux * dnorm(wave, centre, sigma)
#' two <- 1 + line(3727.09, 10, 0.7) + line(3729.88, 14, 0.7)
#' one <- 1 + line(3727.09, 10, 2.0) + line(3729.88, 14, 2.0)
#' fit_doublet(rbind(two, one), wave = wave)
fit_doublet <- function(x, lines = c("OII_3727", "OII_3730"), wave = NULL, z = 0, ivar = NULL, window = 25, sigma_max = 600,
                        velocity_max = 600) {
  need_minpack()
  if (length(lines) != 2) abort("invalid", "`lines` must be two lines.")
  lines <- known_lines(lines)
  check_number(window, "window", 5, 1000)
  x <- line_data(x, wave, z, ivar, FALSE)
  rows <- lapply(seq_len(nrow(x$flux)), function(i) {
    rest <- x$wave / (1 + x$z[i])
    near <- which(rest >= lines$wave[1] - window & rest <= lines$wave[2] + window)
    fit <- fit_lines(rest[near], x$flux[i, near] * (1 + x$z[i]), if (!is.null(x$ivar)) x$ivar[i, near] / (1 + x$z[i])^2, lines$wave,
                     sigma_max, velocity_max)
    flux <- fit$lines$flux
    ratio <- flux[2] / flux[1]
    relative <- c(-1, 1) / flux # of the ratio's logarithm
    error <- function(direction) if (is.null(fit$covariance)) NA_real_ else sqrt(max(0, drop(direction %*% fit$covariance %*% direction)))
    data.frame(id = x$id[i], ratio = ratio, ratio_err = abs(ratio) * error(relative), flux = sum(flux), flux_err = error(c(1, 1)),
               sigma = fit$lines$sigma[1], sigma_err = fit$lines$sigma_err[1], dip = doublet_dip(lines$wave, flux, fit$lines$sigma[1]))
  })
  if (!length(rows)) {
    none <- double()
    return(data.frame(id = character(), ratio = none, ratio_err = none, flux = none, flux_err = none, sigma = none, sigma_err = none,
                      dip = none))
  }
  out <- do.call(rbind, rows)
  rownames(out) <- NULL
  without_unit(out, x, c("flux", "flux_err"))
}

#' Classify galaxies by their emission lines
#'
#' The subclasses of the Sloan Digital Sky Survey (footnote 2 of Melchior et al. 2023), from measured lines: a galaxy whose
#' H\eqn{\alpha}, H\eqn{\beta}, \[O III\] 5008 and \[N II\] 6585 are all detected in emission is
#' * `"AGN"`, where \eqn{\log_{10}([O III] / H\beta) > 0.7 - 1.2\,(\log_{10}([N II] / H\alpha) + 0.4)},
#' * otherwise `"STARBURST"` where the equivalent width of H\eqn{\alpha} exceeds 50 Å, else `"STARFORMING"`,
#'
#' and any of them is followed by `" BROADLINE"` where the lines are wider than 200 km/s (sigma) by five times the error, with
#' H\eqn{\alpha} detected at 10 times its error.
#'
#' @param lines From [measure_lines()], with errors.
#' @param threshold Flux over error from which on a line counts as detected.
#' @return A character vector, one element per spectrum, named by id; `NA` where a line is not detected or was not observed.
#' @section Errors: `spender_error_invalid` where one of the four lines was not measured.
#' @export
#' @examplesIf requireNamespace("minpack.lm", quietly = TRUE)
#' x <- simulate_spectra(6, z = 0.05, seed = 3)
#' data.frame(found = classify_galaxies(measure_lines(x)), true = x$meta$subclass)
classify_galaxies <- function(lines, threshold = 3) {
  check_number(threshold, "threshold", 0, 1e6)
  needed <- c("Halpha", "Hbeta", "OIII_5008", "NII_6585")
  columns <- c("row", "id", "line", "flux", "flux_err", "ew", "sigma", "sigma_err")
  if (!is.data.frame(lines) || !all(columns %in% names(lines))) {
    abort("invalid", "`lines` must come from measure_lines(); it is ", describe(lines), ".")
  }
  if (!nrow(lines)) return(setNames(character(), character()))
  missing <- setdiff(needed, lines$line)
  if (length(missing)) abort("invalid", "`lines` has no measurement of ", enumerate(missing), ".")
  of <- lapply(setNames(needed, needed), function(name) lines[lines$line == name, ])
  detected <- Reduce(`&`, lapply(of, function(m) m$flux > threshold * m$flux_err))
  detected[is.na(detected)] <- FALSE
  log_ratio <- function(a, b) suppressWarnings(log10(of[[a]]$flux / of[[b]]$flux))
  class <- emission_class(log_ratio("NII_6585", "Halpha"), log_ratio("OIII_5008", "Hbeta"), of$Halpha$ew, detected)
  broad <- of$Halpha$flux > 10 * of$Halpha$flux_err & of$Halpha$sigma - 200 > 5 * of$Halpha$sigma_err
  setNames(ifelse(!is.na(class) & broad %in% TRUE, paste(class, "BROADLINE"), class), of$Halpha$id)
}

# SDSS's criteria (algorithms/spectra of its documentation)
emission_class <- function(log_n2_halpha, log_o3_hbeta, ew_halpha, detected) {
  active <- log_o3_hbeta > 0.7 - 1.2 * (log_n2_halpha + 0.4)
  ifelse(!detected, NA, ifelse(active, "AGN", ifelse(ew_halpha > 50, "STARBURST", "STARFORMING")))
}

# ---- fits ----

need_minpack <- function() {
  if (!requireNamespace("minpack.lm", quietly = TRUE))
    abort("missing_package", "Line fits need the package minpack.lm: install.packages(\"minpack.lm\").")
}

known_lines <- function(names) {
  all <- spectral_lines()
  unknown <- setdiff(names, all$name)
  if (!is.character(names) || !length(names) || length(unknown)) {
    abort("invalid", "`lines` must be names of spectral_lines()", if (length(unknown)) paste0("; not known: ", enumerate(unknown)), ".")
  }
  all[all$name %in% names, ]
}

# Spectra or a matrix, as a list of flux, ivar (or NULL), wave, z and id
line_data <- function(x, wave = NULL, z = 0, ivar = NULL, physical = FALSE) {
  x <- in_memory(x)
  if (inherits(x, "spectra")) {
    norm <- if (physical) ifelse(is.na(x$norm), 1, x$norm) else 1
    return(list(flux = x$flux * norm, ivar = x$ivar / norm^2, wave = x$instrument$wave, z = x$z, id = x$id,
                without = if (!physical) which(is.na(x$norm))))
  }
  if (!is.numeric(x) || !is.matrix(x)) abort("invalid", "`x` must be spectra() or a matrix of model spectra, not ", describe(x), ".")
  if (!is.numeric(wave) || length(wave) != ncol(x) || any(!is.finite(wave)) || any(diff(wave) <= 0)) {
    abort("invalid", "`wave` must be the ", ncol(x), " increasing wavelengths of the columns of `x`.")
  }
  if (!is.numeric(z) || !length(z) %in% c(1, nrow(x)) || any(!is.finite(z))) {
    abort("invalid", "`z` must be one redshift or one for each of the ", nrow(x), " rows of `x`.")
  }
  if (!is.null(ivar) && (!is.numeric(ivar) || !identical(dim(ivar), dim(x)))) abort("invalid", "`ivar` must have the dimensions of `x`.")
  list(flux = x, ivar = ivar, wave = wave, z = rep_len(z, nrow(x)),
       id = if (is.null(rownames(x))) as.character(seq_len(nrow(x))) else rownames(x))
}

light_speed <- 299792.458 # km/s

# One group of lines in one spectrum: `lines`, a data frame in their order, and the covariance of their fluxes. `kept` is the velocity and
# width to keep. `changes` (pixels x k) are independent changes of the flux by one standard deviation each: errors then are the response of
# the fit to them; otherwise they follow from `ivar`.
fit_lines <- function(wave, flux, ivar, centres, sigma_max, velocity_max, kept = NULL, changes = NULL) {
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
    tries[[which.min(vapply(tries, function(t) t$deviance, 0))]]
  }
  p <- best$par
  linear <- basis(p)
  beta <- stats::.lm.fit(linear, y)$coefficients
  fluxes <- beta[-(1:2)]

  h <- c(1, 1) # km/s
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
