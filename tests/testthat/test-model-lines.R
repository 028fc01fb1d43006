narrow <- instrument(seq(4000, 8000, by = 4))
x <- simulate_spectra(60, narrow, z = rep(c(0.03, 0.1, 0.2, 0.28), 15), seed = 7)
fit <- small_fit(x)

test_that("errors from changes of the flux are the scatter that such changes make", {
  wave <- seq(6480, 6650, by = 0.8)
  l <- spectral_lines()
  at <- l$wave[match(c("NII_6550", "Halpha", "NII_6585"), l$name)]
  profile <- function(centre) dnorm(wave, centre, centre * 150 / 299792.458)
  truth <- 2 + 5 * profile(at[1]) + 40 * profile(at[2]) + 15 * profile(at[3])
  set.seed(3)
  changes <- cbind(0.8 * profile(at[2]), 0.1 * sin(wave / 9), rep(0.02, length(wave)), 0.3 * profile(at[3] + 0.5))
  fitted <- function(flux, ...) fit_group(wave, flux, NULL, at, ...)
  m <- fitted(truth, changes = changes)
  again <- lapply(1:300, function(i) fitted(truth + drop(changes %*% rnorm(4))))
  for (value in c("flux", "ew", "sigma", "velocity")) {
    scatter <- apply(vapply(again, `[[`, numeric(3), value), 1, sd)
    expect_equal(m[[paste0(value, "_err")]], scatter, tolerance = 0.15, info = value)
  }
  expect_true(all(is.na(fitted(truth)$ew_err)))
  kept <- fitted(truth, kept = c(10, 140), changes = changes)
  expect_equal(unlist(kept[1, c("velocity", "sigma")], use.names = FALSE), c(10, 140))
  expect_true(is.na(kept$sigma_err[1]) && kept$ew_err[1] > 0)
})

test_that("a model is measured as the data are where a line was observed, and in the restframe elsewhere", {
  some <- x[c(1, 2, which.max(x$z))]
  m <- measure_model_lines(fit, some, c("Hbeta", "Halpha"), refine = 3, physical = FALSE)
  expect_identical(m$row, rep(1:3, each = 2))
  expect_identical(m$observed, c(TRUE, TRUE, TRUE, TRUE, TRUE, FALSE)) # Halpha is beyond 8000
  columns <- c("flux", "ew", "sigma", "velocity", "continuum", "pixels")
  observed <- measure_lines(predict(fit, some, "observed", refine = 3), c("Hbeta", "Halpha"), wave = narrow$wave, z = some$z,
                            ivar = some$ivar)
  expect_equal(m[1:5, columns], observed[1:5, columns])
  rest <- measure_lines(predict(fit, some, "rest", refine = 3), c("Hbeta", "Halpha"), wave = fit$wave_rest)
  expect_equal(m[6, columns], rest[6, columns])
  expect_true(all(m$flux_err > 0 & m$ew_err > 0) && all(is.na(m$chi2)))
})

test_that("fluxes are in the units of the spectra's, as measure_lines() has them", {
  some <- x[1:3]
  m <- measure_model_lines(fit, some, c("Hbeta", "OIII_5008"))
  normalised <- measure_model_lines(fit, some, c("Hbeta", "OIII_5008"), physical = FALSE)
  for (column in c("flux", "flux_err", "continuum")) expect_equal(m[[column]], normalised[[column]] * rep(some$norm, each = 2))
  expect_identical(m[c("ew", "ew_err", "sigma", "velocity")], normalised[c("ew", "ew_err", "sigma", "velocity")])
  expect_equal(m$continuum, measure_lines(some, c("Hbeta", "OIII_5008"))$continuum, tolerance = 0.5)
})

test_that("errors are small where the noise is, and unknown where the spectrum does not determine the latents", {
  some <- x[1:3]
  some$ivar <- some$ivar * 1e4
  expect_true(all(measure_model_lines(fit, some, "Hbeta")$flux_err < 0.1 * measure_model_lines(fit, x[1:3], "Hbeta")$flux_err))
  some$norm[2] <- NA
  expect_warning(m <- measure_model_lines(fit, some, "Hbeta"), class = "spender_warning_no_norm")
  expect_identical(is.na(m$ew), c(FALSE, TRUE, FALSE))
  expect_identical(is.na(m$ew_err), c(FALSE, TRUE, FALSE))
  expect_identical(nrow(measure_model_lines(fit, x[0], "Hbeta")), 0L)
})

test_that("errors of an ensemble have its members' scatter, too", {
  ensemble <- spender_ensemble(x[1:16], members = 3, latents = 2, epochs = 2, batch_size = 8, network = small_network(), threads = 1,
                               progress = FALSE)
  e <- measure_model_lines(ensemble, x[1:3], "Hbeta")
  members <- lapply(ensemble, measure_model_lines, x[1:3], "Hbeta")
  flux <- vapply(members, `[[`, double(3), "flux")
  error <- vapply(members, `[[`, double(3), "flux_err")
  expect_equal(e$flux, rowMeans(flux))
  expect_equal(e$flux_err, sqrt(apply(flux, 1, var) + rowMeans(error^2)))
})

test_that("the misfit is found, outliers or not", {
  set.seed(5)
  n <- 2000
  ew <- rexp(n, 1 / 20)
  variance <- runif(n, 0.05, 0.5)
  deviation <- rnorm(n) * sqrt(variance + 0.4^2 + (0.05 * ew)^2)
  found <- likely_misfit(deviation, variance, ew)
  expect_equal(unlist(found), c(absolute = 0.4, relative = 0.05), tolerance = 0.2)
  expect_equal(central_width(deviation / sqrt(variance + line_misfit(found, ew)^2)), 1, tolerance = 1e-3)
  deviation[1:20] <- 100
  expect_equal(unlist(likely_misfit(deviation, variance, ew)), unlist(found), tolerance = 0.1)
  none <- likely_misfit(rnorm(n) * sqrt(variance) * 0.9, variance, ew)
  expect_identical(unlist(none), c(absolute = 0, relative = 0))
})

test_that("a calibration covers the deviations from spectra that were held out", {
  lines <- c("Hbeta", "OIII_5008", "Halpha")
  calibration <- calibrate_lines(fit, x, lines)
  expect_identical(calibration$line, lines)
  expect_lt(calibration$n[3], calibration$n[1])
  expect_true(all(calibration$pull_before[1:2] > 1.2)) # a fit of two epochs
  expect_true(all(abs(calibration$pull[1:2] - 1) < 0.35))
  expect_true(all(is.na(calibrate_lines(fit, x[1:12], "Hbeta")[, c("absolute", "relative", "pull_before", "pull")])))

  plain <- measure_model_lines(fit, x[1:4], lines[1:2])
  m <- measure_model_lines(fit, x[1:4], lines[1:2], calibration)
  expect_identical(m$ew, plain$ew)
  misfit <- line_misfit(calibration[match(m$line, calibration$line), ], m$ew)
  expect_equal(m$ew_err, sqrt(plain$ew_err^2 + misfit^2))
  expect_equal(m$flux_err, sqrt(plain$flux_err^2 + (misfit * plain$continuum)^2))
  expect_snapshot(error = TRUE, {
    measure_model_lines(fit, x[1:4], "NII_6585", calibration)
    measure_model_lines(fit, x[1:4], "Hbeta", list(1))
    measure_model_lines(fit, x[1:4], "Hbeta", refine = 0)
  })
})
