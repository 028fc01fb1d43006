fit <- small_fit(epochs = 10)

test_that("a misfit of the network is found, and none where there is none", {
  x <- simulate_spectra(200, instrument = small_instrument(), seed = 8)
  model <- predict(fit, x, "observed")
  seen <- is.finite(model) & x$ivar > 0
  model[!is.finite(model)] <- 0
  set.seed(1)
  missed <- model * (1 + 0.05 * rnorm(length(model)))
  x$ivar[seen] <- (20 / abs(model[seen]))^2
  x$ivar[!seen] <- 0
  noise <- ifelse(seen, rnorm(length(model)), 0) / sqrt(pmax(x$ivar, 1e-10))
  x$flux <- missed + noise
  found <- calibrate_models(fit, x, refine = 3)
  expect_named(found, c("wave", "relative", "n"))
  expect_identical(sum(found$n), as.numeric(sum(seen)))
  expect_true(all(head(found$n, -1) >= 4000) && all(diff(found$wave) > 0))
  expect_equal(mean(found$relative), 0.05, tolerance = 0.05)
  errors <- reconstruct(fit, x, normalized = TRUE, se = TRUE, refine = 3)
  with <- reconstruct(fit, x, normalized = TRUE, se = TRUE, refine = 3, calibration = found)
  expect_identical(with$model, errors$model)
  expect_equal(with$se[1, 1]^2 - errors$se[1, 1]^2, (found$relative[1] * errors$model[1, 1])^2, tolerance = 1e-6) # beyond the first piece
  within <- abs(with$model - missed)[seen] < with$se[seen]
  expect_equal(mean(within), 0.683, tolerance = 0.03)
  expect_lt(mean(abs(errors$model - missed)[seen] < errors$se[seen]), 0.3)
  spiked <- x
  spiked$flux[cbind(1:200, 100)] <- 1000 # glitches are not misfits: 200 of 5 standard deviations at most
  expect_lt(mean(calibrate_models(fit, spiked, refine = 0)$relative), 1.5 * mean(calibrate_models(fit, x, refine = 0)$relative))
  x$flux <- model + noise
  expect_lt(mean(calibrate_models(fit, x, refine = 3)$relative), 0.01)
})

test_that("calibrations are checked", {
  x <- small_spectra()
  expect_error(reconstruct(fit, x, calibration = data.frame()), "se = TRUE", class = "spender_error_invalid")
  expect_error(reconstruct(fit, x, se = TRUE, calibration = 1), "calibrate_models", class = "spender_error_invalid")
  blind <- x[1:2]
  blind$ivar[] <- 0
  expect_error(suppressWarnings(calibrate_models(fit, blind)), "has none", class = "spender_error_invalid")
  few <- calibrate_models(fit, x[1:2])
  expect_identical(nrow(few), 1L)
  expect_true(all(reconstruct(fit, x[1:2], se = TRUE, calibration = few)$se > 0, na.rm = TRUE))
})
