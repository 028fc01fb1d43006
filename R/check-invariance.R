#' How far latents depend on redshift
#'
#' Encodes the same galaxies as they would be seen at several redshifts, and compares the scatter of a galaxy's latents with that between
#' galaxies. Also, how well a regression predicts the redshift from the latents: as each galaxy is seen at each redshift, its evolution
#' cannot help.
#'
#' Simulated galaxies whose truth `x` has are simulated again at each redshift, without noise; those of `templates` and others are put there
#' by interpolation, as in [spender_invariance()] but without noise and mask: then pixels beyond the observed ones have flux and weight 0.
#'
#' The regression has all latents, their squares and products (standardised, within 3 standard deviations, with a ridge of 1 % of the number
#' of spectra); it is fitted to half of the galaxies and predicts the others, and the other way round. \eqn{R^2} is 1 less the ratio of the
#' squared errors to the variance of the redshifts, and negative where the mean predicts better. Chance is the same with each galaxy's
#' redshifts exchanged at random, 20 times.
#'
#' @param fit A fit from [spender()].
#' @param x [spectra()] that the fit was not trained on; of more than `most`, evenly spaced ones are taken.
#' @param z At least two redshifts. By default four, evenly spaced between the 10 % and the 90 % quantile of those of `x`.
#' @param most Number of galaxies, at least 4.
#' @param seed Seed of the exchanges.
#' @param threads As in [spender()].
#' @return A list of class `invariance_check`: `ratio`, the root of the summed variances of latents between a galaxy's redshifts over that
#'   between galaxies; `latents`, a data frame with a row for each latent: `between` and `within` (standard deviations) and their `ratio`;
#'   `r2`; `chance`, the mean and the highest of the exchanges' \eqn{R^2}; `z`, `n` (galaxies) and `how` (`"simulation"` or
#'   `"interpolation"`).
#' @seealso [spender_invariance()]
#' @export
#' @examples
#' x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x[1:24], latents = 2, epochs = 4, batch_size = 8, network = small, threads = 1,
#'                progress = FALSE)
#' check_invariance(fit, x[25:40])
check_invariance <- function(fit, x, z = NULL, most = 500, seed = 1, threads = NULL) {
  check_fit(fit)
  check_spectra(x)
  check_same_grid(fit, x)
  check_number(most, "most", 4, whole = TRUE)
  check_number(seed, "seed", 0, 2^53, whole = TRUE)
  x <- x[!is.na(x$norm) & has_valid_pixel(x$ivar)]
  if (length(x) < 4) abort("invalid", "`x` must have at least 4 spectra with a norm; it has ", length(x), ".")
  if (length(x) > most) x <- x[round(seq(1, length(x), length.out = most))]
  if (is.null(z)) z <- as.double(seq(stats::quantile(x$z, 0.1), stats::quantile(x$z, 0.9), length.out = 4))
  if (!is.numeric(z) || length(z) < 2 || any(!is.finite(z)) || any(z <= -1) || anyDuplicated(z)) {
    abort("invalid", "`z` must be at least two different redshifts above -1.")
  }
  simulated <- all(galaxy_columns %in% names(x$truth$parameters))
  latents <- lapply(as.double(z), function(at) {
    encode(fit, if (simulated) simulated_at(x, at) else interpolated_at(x, at, threads), threads = threads)
  })
  scatter <- scatter_between(latents)
  s <- do.call(rbind, latents)
  galaxy <- rep(seq_along(x$z), length(z))
  redshift <- rep(as.double(z), each = length(x))
  exchanged <- .Call(ffi_uniforms, as.double(seed), 0, as.double(length(redshift)), 20)
  chance <- apply(exchanged, 2, function(u) r_squared(s, redshift[order(galaxy, redshift)][order(order(galaxy, u))], galaxy))
  structure(c(scatter, list(r2 = r_squared(s, redshift, galaxy), chance = c(mean = mean(chance), highest = max(chance)), z = z,
                            n = length(x), how = if (simulated) "simulation" else "interpolation")), class = "invariance_check")
}

simulated_at <- function(x, z) {
  parameters <- x$truth$parameters
  lsf <- x$truth$shared$lsf
  simulate_spectra(length(x), instrument = x$instrument, z = z, galaxies = parameters, sn = parameters$sn,
                   lsf = if (length(lsf) > 1) lsf, resolution = parameters$resolution, noise = FALSE, defects = FALSE, rest = FALSE,
                   seed = 1)
}

interpolated_at <- function(x, z, threads) {
  threads <- if (is.null(threads)) default_threads() else threads
  moved <- .Call(ffi_move_spectra, x$flux, x$ivar, x$z, x$instrument$wave, z, as.double(threads))
  x$flux <- moved$flux
  x$ivar <- moved$ivar
  x$z[] <- z
  x$truth <- NULL
  x
}

# latents: a list with a matrix for each redshift, a row for each galaxy
scatter_between <- function(latents) {
  all <- simplify2array(latents) # galaxy, latent, redshift
  within <- colMeans(apply(all, 1:2, stats::var))
  between <- apply(rowMeans(all, dims = 2), 2, stats::var)
  list(ratio = sqrt(sum(within) / sum(between)),
       latents = data.frame(latent = seq_along(within), between = sqrt(between), within = sqrt(within), ratio = sqrt(within / between)))
}

# Out of sample, between two halves of the groups
r_squared <- function(s, y, group) {
  half <- group %% 2 == 0
  errors <- function(fitted, predicted) {
    centre <- colMeans(s[fitted, , drop = FALSE])
    spread <- pmax(apply(s[fitted, , drop = FALSE], 2, stats::sd), 1e-300)
    t <- pmin(pmax(scale(s, centre, spread), -3), 3)
    pairs <- which(upper.tri(diag(ncol(s)), diag = TRUE), arr.ind = TRUE)
    design <- cbind(t, t[, pairs[, 1], drop = FALSE] * t[, pairs[, 2], drop = FALSE])
    design <- sweep(design, 2, colMeans(design[fitted, , drop = FALSE]))
    ridge <- diag(sum(fitted) / 100, ncol(design))
    a <- design[fitted, , drop = FALSE]
    b <- solve(crossprod(a) + ridge, crossprod(a, y[fitted] - mean(y[fitted])))
    sum((y[predicted] - mean(y[fitted]) - design[predicted, , drop = FALSE] %*% b)^2)
  }
  1 - (errors(half, !half) + errors(!half, half)) / sum((y - mean(y))^2)
}

#' @export
print.invariance_check <- function(x, ...) {
  cat(x$n, " galaxies at z = ", paste(format(x$z, digits = 3), collapse = ", "), " by ", x$how, "\n", sep = "")
  cat("  scatter of latents between redshifts over that between galaxies: ", format(x$ratio, digits = 3), "; by latent ",
      paste(format(x$latents$ratio, digits = 2), collapse = " "), "\n", sep = "")
  cat("  redshift from latents: R2 ", format(x$r2, digits = 2), " out of sample; by chance ", format(x$chance[["mean"]], digits = 2),
      ", at most ", format(x$chance[["highest"]], digits = 2), "\n", sep = "")
  invisible(x)
}
