#' Measure lines of the model of spectra
#'
#' [measure_lines()] on the models of observed spectra. A line that was observed is measured on the observed pixels with the data's weights,
#' so that it compares with that of the data; any other one in the restframe, where all pixels weigh alike. Errors have three origins, which
#' add in quadrature:
#' * the noise of the spectrum: the covariance of its refined latents ([vcov.spender()]), carried through the decoder and the fit of the
#'   lines to first order;
#' * what training leaves open: of an ensemble ([spender_ensemble()]), the scatter of its members;
#' * what the network cannot describe, or has not learned: from a `calibration` on spectra that it was not trained on. It is often the
#'   largest of the three. The errors of velocities and widths do not have it. Of lines that were not observed it is a guess: the misfit
#'   was found on observed ones.
#'
#' @param fit A fit from [spender()] or an ensemble.
#' @param x Observed [spectra()].
#' @param lines Names of [spectral_lines()].
#' @param calibration From [calibrate_lines()], with all `lines`.
#' @param refine Steps by which latents are refined, at least 1 (see [predict.spender()]).
#' @param window,sigma_max,velocity_max As in [measure_lines()].
#' @param physical As in [measure_lines()].
#' @return A data frame as that of [measure_lines()], with a further column `observed`; of an ensemble, values are means
#'   over its members. Errors are `NA` where the spectrum does not determine the latents. Widths of observed lines include the
#'   instrument's.
#' @inheritSection measure_lines Errors
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' measure_model_lines(fit, x[1:2], "Halpha")[, c("id", "line", "flux", "flux_err", "ew", "ew_err")]
measure_model_lines <- function(fit, x, lines = c("OII_3727", "OII_3730", "Hbeta", "OIII_5008", "Halpha", "NII_6585"),
                                calibration = NULL, refine = 2, window = 40, physical = TRUE, sigma_max = 600, velocity_max = 600) {
  lines <- known_lines(lines)
  check_flag(physical, "physical")
  if (!is.null(calibration)) check_line_calibration(calibration, lines)
  x <- in_memory(x)
  out <- model_lines(fit, x, lines, refine, window, sigma_max, velocity_max)$table
  if (!is.null(calibration)) {
    misfit <- line_misfit(calibration[match(out$line, calibration$line), ], out$ew)
    out$ew_err <- sqrt(out$ew_err^2 + misfit^2)
    out$flux_err <- sqrt(out$flux_err^2 + (misfit * out$continuum)^2)
  }
  in_unit <- c("flux", "flux_err", "continuum") # spectra without a norm have none of them
  if (physical) out[in_unit] <- out[in_unit] * x$norm[out$row]
  out
}

#' Errors of a model's lines
#'
#' Compares equivalent widths of models ([measure_model_lines()]) with those of the data, for spectra that the fit was not trained on, and
#' finds the error that is needed beside those known:
#' \deqn{E[(W_\mathrm{model} - W_\mathrm{data})^2] = \sigma_\mathrm{data}^2 - \sigma_\mathrm{latents}^2 +
#'   \sigma_\mathrm{members}^2 + \tau^2, \quad \tau^2 = a^2 + (b W_\mathrm{model})^2.}
#' The latents' variance is subtracted because models are fitted to these very data: the two have their noise in common. \eqn{a} and
#' \eqn{b} are those most likely if deviations follow a Student t distribution with 5 degrees of freedom, which outliers do not move much,
#' and are then scaled so that 68.3 % of the deviations are within one error. The data's lines are fitted at the velocity and width of the
#' model's; weak ones would follow the noise otherwise.
#'
#' @inheritParams measure_model_lines
#' @param x [spectra()] that the fit was not trained on, such as `x[held_out(fit, x)]`: at least 20 for each line, better some hundred.
#' @return A data frame, one row per line: `line`; `n`, the number of spectra in which it was observed; `absolute` (\eqn{a}, Å) and
#'   `relative` (\eqn{b}); `pull_before` and `pull`, the half width of the interval that holds 68.3 % of the deviations, in units of the
#'   error without and with \eqn{\tau}: 1 where errors are right. `pull` is of spectra that did not enter \eqn{a} and \eqn{b} (ten
#'   parts, each calibrated by the others). `NA` for lines observed in fewer than 20 spectra.
#' @inheritSection measure_lines Errors
#' @seealso [held_out()]
#' @export
#' @examples
#' grid <- instrument(seq(4000, 8000, by = 8))
#' x <- simulate_spectra(60, z = rep(c(0.05, 0.1), 30), instrument = grid, seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x[1:30], latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' calibration <- calibrate_lines(fit, x[31:60], "Halpha")
#' calibration
#' measure_model_lines(fit, x[1:2], "Halpha", calibration)[, c("id", "ew", "ew_err")]
calibrate_lines <- function(fit, x, lines = c("OII_3727", "OII_3730", "Hbeta", "OIII_5008", "Halpha", "NII_6585"), refine = 2,
                            window = 40, sigma_max = 600, velocity_max = 600) {
  lines <- known_lines(lines)
  x <- in_memory(x)
  x <- x[!is.na(x$norm)]
  m <- model_lines(fit, x, lines, refine, window, sigma_max, velocity_max)
  data <- fit_groups(line_data(x, physical = FALSE), lines, window, sigma_max, velocity_max, kept = m$table)
  deviation <- m$table$ew - data$ew
  deviation[!m$table$observed] <- NA
  variance <- pmax(data$ew_err^2 - m$latents, 0.05 * data$ew_err^2) + m$members
  rows <- lapply(lines$name, function(name) {
    of <- which(m$table$line == name & is.finite(deviation) & is.finite(variance))
    row <- data.frame(line = name, n = length(of), absolute = NA_real_, relative = NA_real_, pull_before = NA_real_, pull = NA_real_)
    if (length(of) < 20) return(row)
    pulls <- numeric(length(of))
    for (fold in split(seq_along(of), seq_along(of) %% 10)) {
      other <- of[-fold]
      found <- likely_misfit(deviation[other], variance[other], m$table$ew[other])
      pulls[fold] <- deviation[of[fold]] / sqrt(variance[of[fold]] + line_misfit(found, m$table$ew[of[fold]])^2)
    }
    row[c("absolute", "relative")] <- likely_misfit(deviation[of], variance[of], m$table$ew[of])
    row$pull_before <- central_width(deviation[of] / sqrt(variance[of]))
    row$pull <- central_width(pulls)
    row
  })
  do.call(rbind, rows)
}

# Equivalent widths' error for what a network cannot describe, Å
line_misfit <- function(calibration, ew) sqrt(calibration$absolute^2 + (calibration$relative * ew)^2)

# Of a normal distribution about 0: its standard deviation
central_width <- function(x) unname(stats::quantile(abs(x), stats::pnorm(1) - stats::pnorm(-1)))

likely_misfit <- function(deviation, variance, ew) {
  degrees <- 5
  cost <- function(p) {
    scale <- sqrt(variance + exp(2 * p[1]) + exp(2 * p[2]) * ew^2)
    sum(log(scale) - stats::dt(deviation / scale, degrees, log = TRUE))
  }
  unit <- stats::median(sqrt(variance))
  starts <- list(c(log(unit) - 3, -6), c(log(unit), -2))
  tries <- lapply(starts, stats::optim, cost)
  p <- tries[[which.min(vapply(tries, `[[`, 0, "value"))]]$par
  found <- data.frame(absolute = exp(p[1]), relative = exp(p[2]))
  excess <- function(log_factor) {
    central_width(deviation / sqrt(variance + (exp(log_factor) * line_misfit(found, ew))^2)) - 1
  }
  limits <- log(c(1e-3, 1e3))
  factor <- if (excess(limits[1]) <= 0) 0 # the noise is enough
  else exp(stats::uniroot(excess, limits)$root)
  found * factor
}

check_line_calibration <- function(calibration, lines) {
  if (!is.data.frame(calibration) || !all(c("line", "absolute", "relative") %in% names(calibration))) {
    abort("invalid", "`calibration` must come from calibrate_lines(); it is ", describe(calibration), ".")
  }
  missing <- setdiff(lines$name, calibration$line)
  if (length(missing)) abort("invalid", "`calibration` does not have ", enumerate(missing), ".")
}

# Lines of the restframe models: `table`, as measure_lines() makes it, and two parts of the variance of equivalent widths, `latents` and
# `members`
model_lines <- function(fit, x, lines, refine, window, sigma_max, velocity_max) {
  check_spectra(x)
  check_number(window, "window", 10, 1000)
  check_number(sigma_max, "sigma_max", 1, 1e4)
  check_number(velocity_max, "velocity_max", 0, 1e4)
  check_number(refine, "refine", 1, 1000, whole = TRUE)
  if (!inherits(fit, "spender_ensemble")) {
    check_fit(fit)
    fit <- list(fit)
  }
  tables <- lapply(seq_along(fit), function(i) {
    latent <- predict_member(fit[[i]], x, "latent", warned = i > 1, refine = refine)
    roots <- covariance_roots(predict_member(fit[[i]], x, "covariance", warned = TRUE, refine = refine))
    parts <- lapply(parts_of(length(x), 128), function(rows) {
      model_lines_of(fit[[i]], x[rows], latent[rows, , drop = FALSE], roots[rows, , , drop = FALSE], lines, window, sigma_max, velocity_max)
    })
    do.call(rbind, parts)
  })
  out <- tables[[1]]
  out$row <- rep(seq_along(x), each = nrow(lines))[seq_len(nrow(out))]
  column <- function(name) matrix(vapply(tables, `[[`, out$flux, name), nrow(out))
  members <- function(name) if (length(tables) > 1) apply(column(name), 1, stats::var) else numeric(nrow(out))
  latents <- rowMeans(column("ew_err")^2)
  out$continuum <- rowMeans(column("continuum"))
  for (value in c("flux", "ew", "sigma", "velocity")) {
    error <- paste0(value, "_err")
    out[[error]] <- sqrt(rowMeans(column(error)^2) + members(value))
    out[[value]] <- rowMeans(column(value))
  }
  list(table = out, latents = latents, members = members("ew"))
}

# Of one fit and a few spectra, with roots of their latents' covariances. Latents move by each column of a root, and models by half the
# difference of the two directions. Lines that were observed are measured on the observed pixels, as the data's are, all others in the
# restframe.
model_lines_of <- function(fit, x, latent, roots, lines, window, sigma_max, velocity_max) {
  known <- which(is.finite(rowSums(latent)))
  sure <- known[is.finite(roots[known, 1, 1])]
  measure <- function(rows, z, wave, ivar) {
    model <- function(these, step = 0) {
      decode(fit, latent[these, , drop = FALSE] + step, z[match(these, rows)])
    }
    flux <- matrix(NA_real_, length(rows), length(wave))
    flux[rows %in% known, ] <- model(intersect(rows, known))
    changes <- array(NA_real_, c(dim(flux), ncol(latent)))
    these <- intersect(rows, sure)
    for (j in seq_len(ncol(latent))) {
      step <- matrix(roots[these, , j], length(these), ncol(latent))
      changes[rows %in% sure, , j] <- (model(these, step) - model(these, -step)) / 2
    }
    fit_groups(list(flux = flux, ivar = ivar, wave = wave, z = if (is.null(z)) numeric(length(rows)) else z, id = x$id[rows]), lines,
               window, sigma_max, velocity_max, changes = changes)
  }
  out <- measure(seq_along(x$z), x$z, fit$instrument$wave, x$ivar)
  out$observed <- is.finite(out$ew)
  unseen <- which(!out$observed & out$row %in% known)
  if (length(unseen)) {
    rows <- unique(out$row[unseen])
    rest <- measure(rows, NULL, fit$wave_rest, NULL)
    rest$row <- rows[rest$row]
    same <- match(paste(out$row, out$line)[unseen], paste(rest$row, rest$line))
    out[unseen, setdiff(names(rest), "chi2")] <- rest[same, setdiff(names(rest), "chi2")]
  }
  out$chi2 <- rep(NA_real_, nrow(out)) # a model has no noise
  out
}

# Lower Cholesky factors (n x S x S) of covariances, NA where there are none
covariance_roots <- function(covariance) {
  k <- dim(covariance)[2]
  for (i in seq_len(dim(covariance)[1])) {
    c <- matrix(covariance[i, , ], k)
    covariance[i, , ] <- if (anyNA(c)) NA else tryCatch(t(chol(c)), error = function(e) NA_real_)
  }
  covariance
}
