#' Measure emission and absorption lines
#'
#' Fits Gaussian lines on a sloped continuum,
#' \deqn{f_\lambda = a + b (\lambda - \lambda_0) + \sum_k \frac{F_k}{\sqrt{2\pi}\,\sigma_k}
#'   \exp\left(-\frac{(\lambda - \lambda_k (1 + v / c))^2}{2 \sigma_k^2}\right), \quad \sigma_k = \lambda_k \sigma_v / c,}
#' to each group of lines within 60 Å of each other: they share velocity and width, and each has its own flux. Fluxes and
#' continuum follow linearly from the other two (variable projection, Golub & Pereyra 1973), which are found by a trust region method
#' (Moré 1978) from a narrow and a wide start. Spectra are measured on several threads, some thousand a second on each.
#'
#' The fit is made in the restframe, of \eqn{(1 + z) f_\lambda}, so that fluxes are those observed and equivalent widths are
#' restframe ones. Widths include the instrument's (the LSF is not taken out), and a Balmer line's flux is the emission that remains
#' above the stars' absorption.
#'
#' @param x [spectra()]; a survey, which is read in parts; or a matrix with one spectrum in each row: model spectra from
#'   [predict.spender()] or [decode()].
#' @param lines Names of [spectral_lines()].
#' @param wave,z Where `x` is a matrix: wavelengths of its columns (Å, vacuum) and redshifts (0: restframe).
#' @param ivar Where `x` is a matrix: inverse variances; without them all pixels weigh alike and errors are `NA`.
#' @param window How far a group's fit reaches beyond its first and last line, Å in the restframe.
#' @param physical Where `x` are spectra or a survey: multiply fluxes by the norm, so that they are in the units of the file (1e-17
#'   erg/s/cm² for SDSS)? Otherwise they are in units of the normalised flux times Å.
#' @param sigma_max,velocity_max Limits of \eqn{\sigma_v} and \eqn{|v|}, km/s.
#' @param threads How many threads to use; `NULL`: as many as [devices()] says. The result does not depend on it.
#' @return A data frame, one row per spectrum and line, in order: `row` and `id` of the spectrum, `line`, `wave` (Å), `flux` and `flux_err`;
#'   `ew` and `ew_err`, the equivalent width in Å, positive in emission; `sigma` and `sigma_err`, `velocity` and `velocity_err` (km/s);
#'   `continuum` at the line; `chi2`, of the group's fit per degree of freedom, and `pixels`, their number. Errors are from the
#'   inverse variance. A line of which fewer than three valid pixels are within 10 Å, or none within three fitted widths, or whose
#'   group has too few, has `NA`, and so have normalised fluxes of a spectrum without a norm (with a warning).
#' @section Errors: `spender_error_invalid` naming the argument.
#' @seealso [classify_galaxies()], [fit_doublet()]
#' @export
#' @examples
#' x <- simulate_spectra(3, z = 0.05, seed = 3)
#' m <- measure_lines(x, c("Halpha", "NII_6585", "OIII_5008"))
#' m[, c("id", "line", "flux", "flux_err", "ew", "sigma")]
measure_lines <- function(x, lines = c("OII_3727", "OII_3730", "Hbeta", "OIII_4960", "OIII_5008", "NII_6550", "Halpha", "NII_6585",
                                       "SII_6718", "SII_6733"),
                          wave = NULL, z = 0, ivar = NULL, window = 40, physical = TRUE, sigma_max = 600, velocity_max = 600,
                          threads = NULL) {
  lines <- known_lines(lines)
  check_number(window, "window", 10, 1000)
  check_number(sigma_max, "sigma_max", 1, 1e4)
  check_number(velocity_max, "velocity_max", 0, 1e4)
  check_flag(physical, "physical")
  threads <- fit_threads(threads)
  out <- in_line_parts(x, wave, z, ivar, physical, function(data) {
    fit_groups(data, lines, window, sigma_max, velocity_max, threads = threads)
  })
  without_unit(out, x, physical, c("flux", "flux_err", "continuum"))
}

# The tables that f(data) makes of line_data(): of a survey part by part
in_line_parts <- function(x, wave, z, ivar, physical, f, size = 2048) {
  if (!inherits(x, "survey")) return(f(line_data(x, wave, z, ivar, physical)))
  tables <- list()
  in_parts(x, function(part, rows) {
    table <- f(line_data(part, physical = physical))
    table$row <- rows[table$row]
    tables[[length(tables) + 1]] <<- table
  }, size)
  do.call(rbind, tables)
}

# `lines` in each row of `x`, of line_data(), a data frame as measure_lines() returns: lines that are near each other share a fit. `kept` is
# a result for the same rows and lines whose velocities and widths are kept. `changes` (rows x pixels x k) are independent changes of the
# flux by one standard deviation each: errors then are the response of the fit to them; otherwise they follow from `ivar`.
fit_groups <- function(x, lines, window, sigma_max, velocity_max, kept = NULL, changes = NULL, threads = fit_threads(NULL)) {
  fit <- fit_lines(x, lines, window, sigma_max, velocity_max, kept, changes, threads)
  n <- nrow(x$flux)
  data.frame(row = rep(seq_len(n), each = nrow(lines)), id = rep(x$id, each = nrow(lines)), line = rep(lines$name, n),
             wave = rep(lines$wave, n), fit[setdiff(names(fit), "flux_with_next")])
}

# The same as a list of vectors, with the covariances of lines' fluxes and those of the next ones, `flux_with_next`. Neighbours more than
# `gap` Å apart are fitted by themselves.
fit_lines <- function(x, lines, window, sigma_max, velocity_max, kept = NULL, changes = NULL, threads = fit_threads(NULL), gap = 60) {
  n <- nrow(x$flux)
  shared <- list(wave = as.double(x$wave), centre = lines$wave, gap = gap, window = window, sigma_max = sigma_max,
                 velocity_max = velocity_max, threads = threads)
  .Call(ffi_lines, x$flux, x$ivar, as.double(x$z), if (is.null(x$unit)) rep(1, n) else x$unit, shared, kept$velocity, kept$sigma, changes)
}

# Normalised fluxes of spectra without a norm are not known.
without_unit <- function(out, x, physical, columns) {
  without <- if (!physical && inherits(x, c("spectra", "survey"))) which(is.na(x$norm))
  if (length(without)) {
    warn("no_norm", length(without), ngettext(length(without), " spectrum has", " spectra have"), " no norm: normalised fluxes of rows ",
         enumerate(without), " are NA.")
    out[out$row %in% without, columns] <- NA
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
#' @examples
#' wave <- seq(3690, 3770, by = 0.5)
#' line <- function(centre, flux, sigma) flux * dnorm(wave, centre, sigma)
#' two <- 1 + line(3727.09, 10, 0.7) + line(3729.88, 14, 0.7)
#' one <- 1 + line(3727.09, 10, 2.0) + line(3729.88, 14, 2.0)
#' fit_doublet(rbind(two, one), wave = wave)
fit_doublet <- function(x, lines = c("OII_3727", "OII_3730"), wave = NULL, z = 0, ivar = NULL, window = 25, sigma_max = 600,
                        velocity_max = 600, threads = NULL) {
  if (length(unique(lines)) != 2) abort("invalid", "`lines` must be two lines.")
  lines <- known_lines(lines)
  check_number(window, "window", 5, 1000)
  check_number(sigma_max, "sigma_max", 1, 1e4)
  check_number(velocity_max, "velocity_max", 0, 1e4)
  threads <- fit_threads(threads)
  out <- in_line_parts(x, wave, z, ivar, FALSE, function(data) {
    fit <- fit_lines(data, lines, window, sigma_max, velocity_max, threads = threads, gap = Inf)
    doublet_table(data$id, lines$wave, lapply(fit, matrix, ncol = 2, byrow = TRUE))
  })
  out <- without_unit(out, x, FALSE, c("flux", "flux_err"))
  out[setdiff(names(out), "row")]
}

# fit: matrices (n x 2) of what fit_lines() finds
doublet_table <- function(id, centres, fit) {
  flux <- fit$flux
  error <- function(direction) { # of a sum of both fluxes
    square <- rowSums(direction^2 * fit$flux_err^2) + 2 * direction[, 1] * direction[, 2] * fit$flux_with_next[, 1]
    sqrt(pmax(0, square))
  }
  ratio <- flux[, 2] / flux[, 1]
  relative <- cbind(-1 / flux[, 1], 1 / flux[, 2]) # of the ratio's logarithm
  data.frame(row = seq_along(id), id = id, ratio = ratio, ratio_err = abs(ratio) * error(relative), flux = rowSums(flux),
             flux_err = error(matrix(1, nrow(flux), 2)), sigma = fit$sigma[, 1], sigma_err = fit$sigma_err[, 1],
             dip = .Call(ffi_lines_dip, centres, flux, fit$sigma[, 1]))
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
#' @examples
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

# ---- what is fitted ----

known_lines <- function(names) {
  all <- spectral_lines()
  unknown <- setdiff(names, all$name)
  if (!is.character(names) || !length(names) || length(unknown)) {
    abort("invalid", "`lines` must be names of spectral_lines()", if (length(unknown)) paste0("; not known: ", enumerate(unknown)), ".")
  }
  all[all$name %in% names, ]
}

# Spectra or a matrix, as a list of flux, ivar (or NULL), wave, z, id, and the `unit` that the flux is to be multiplied by
line_data <- function(x, wave = NULL, z = 0, ivar = NULL, physical = FALSE) {
  if (inherits(x, "spectra")) {
    check_whole(x)
    unit <- if (physical) as.double(ifelse(is.na(x$norm), 1, x$norm)) else rep(1, length(x))
    return(list(flux = x$flux, ivar = x$ivar, wave = x$instrument$wave, z = x$z, id = x$id, unit = unit))
  }
  if (!is.numeric(x) || !is.matrix(x)) abort("invalid", "`x` must be spectra() or a matrix of model spectra, not ", describe(x), ".")
  if (!is.numeric(wave) || length(wave) != ncol(x) || any(!is.finite(wave)) || any(diff(wave) <= 0)) {
    abort("invalid", "`wave` must be the ", ncol(x), " increasing wavelengths of the columns of `x`.")
  }
  if (!is.numeric(z) || !length(z) %in% c(1, nrow(x)) || any(!is.finite(z))) {
    abort("invalid", "`z` must be one redshift or one for each of the ", nrow(x), " rows of `x`.")
  }
  if (!is.null(ivar) && (!is.numeric(ivar) || !identical(dim(ivar), dim(x)))) abort("invalid", "`ivar` must have the dimensions of `x`.")
  storage.mode(x) <- "double"
  if (!is.null(ivar)) storage.mode(ivar) <- "double"
  list(flux = x, ivar = ivar, wave = wave, z = rep_len(z, nrow(x)), unit = rep(1, nrow(x)),
       id = if (is.null(rownames(x))) as.character(seq_len(nrow(x))) else rownames(x))
}

light_speed <- 299792.458 # km/s
