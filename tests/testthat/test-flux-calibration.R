x <- small_spectra(40)
fit <- small_fit(x, epochs = 12, flux_calibration = flux_calibration(1, amplitude = 1, shape = 0.2), init = "random")

# The polynomial that fits best, by least squares with expectations
fitted <- function(flux, ivar, model, sd) {
  p <- cbind(1, seq(-1, 1, length.out = length(model)))[, seq_along(sd), drop = FALSE] * model
  use <- ivar > 0 & is.finite(model)
  drop(solve(crossprod(p[use, ], ivar[use] * p[use, ]) + diag(1 / sd^2, length(sd)),
             crossprod(p[use, ], ivar[use] * flux[use]) + c(1, 0)[seq_along(sd)] / sd^2))
}

test_that("coefficients are those of a least-squares fit, and models are calibrated by them", {
  found <- predict(fit, x, "calibration", refine = 0, threads = 1)
  expect_identical(dimnames(found), list(x$id, c("amplitude", "c1", "amplitude_err", "c1_err")))
  plain <- decode(fit, encode(fit, x, refine = 0), x$z)
  wanted <- t(vapply(seq_along(x$z), function(i) fitted(x$flux[i, ], x$ivar[i, ], plain[i, ], c(1, 0.2)), numeric(2)))
  expect_equal(unname(found[, 1:2]), wanted, tolerance = 1e-4)
  t <- seq(-1, 1, length.out = ncol(plain))
  q <- found[, 1] + outer(found[, 2], t)
  observed <- predict(fit, x, "observed", refine = 0)
  expect_equal(observed, q * plain, tolerance = 1e-5)
  sums <- rowSums(x$ivar * (x$flux - observed)^2, na.rm = TRUE) + (found[, 1] - 1)^2 + found[, 2]^2 / 0.04
  expect_equal(predict(fit, x, "loss", refine = 0), sums / (2 * ncol(plain)), tolerance = 1e-4)
})

test_that("spectra with a wrong norm get the right one within its error, and a slope is found", {
  before <- predict(fit, x, "calibration", refine = 20)
  wrong <- x
  wrong$flux <- x$flux * 1.1
  wrong$ivar <- x$ivar / 1.21
  after <- predict(fit, wrong, "calibration", refine = 20)
  expect_equal(after[, "amplitude"] / before[, "amplitude"], rep(1.1, 40), tolerance = 0.02, ignore_attr = TRUE)
  expect_lt(stats::median(abs(after[, 1] / 1.1 - before[, 1]) / before[, "amplitude_err"]), 0.5)
  expect_equal(predict(fit, wrong, "chi2", refine = 20), predict(fit, x, "chi2", refine = 20), tolerance = 0.02)
})

test_that("errors are the scatter under noise", {
  i <- rep(1:4, 60)
  one <- x[1:4]
  model <- predict(fit, one, "observed", refine = 20)
  again <- x[i]
  seen <- is.finite(model)[i, ] & again$ivar > 0
  again$ivar[!seen] <- 0
  set.seed(1)
  again$flux <- ifelse(seen, model[i, ] + rnorm(length(seen)) / sqrt(pmax(again$ivar, 1e-10)), 0)
  found <- predict(fit, again, "calibration", refine = 20)
  deviation <- found[, 1:2] - rowsum(found[, 1:2], i)[i, ] / 60
  pulls <- deviation / found[, 3:4]
  expect_equal(sqrt(colMeans(pulls^2) * 60 / 59), c(1, 1), tolerance = 0.2, ignore_attr = TRUE)
  band <- reconstruct(fit, again, normalized = TRUE, se = TRUE, refine = 20)
  inside <- abs(band$model - model[i, ]) < band$se
  expect_equal(mean(inside[seen]), 0.683, tolerance = 0.1)
})

test_that("calibrations are kept in files, and updated", {
  path <- withr::local_tempfile(fileext = ".safetensors")
  write_model(fit, path)
  expect_identical(predict(read_model(path), x, "calibration"), predict(fit, x, "calibration"))
  results <- withr::local_tempfile(fileext = ".fits")
  predict(fit, x, c("latent", "calibration"), path = results, refine = 2)
  expect_equal(read_predictions(results)$calibration, predict(fit, x, "calibration", refine = 2), tolerance = 1e-6)
  expect_identical(update(fit, x, 1, progress = FALSE, threads = 1)$architecture$calibration_sd, c(1, 0.2))
  expect_output(print(flux_calibration(2)), "degree 2")
})

test_that("bad input is refused", {
  expect_error(small_fit(x, flux_calibration = 1), "flux_calibration()", class = "spender_error_invalid", fixed = TRUE)
  expect_error(flux_calibration(6), "degree", class = "spender_error_invalid")
  expect_error(predict(small_fit(x, epochs = 1), x, "calibration"), "no calibration", class = "spender_error_invalid")
  blind <- x[1]
  blind$ivar[] <- 0
  expect_warning(none <- predict(fit, blind, "calibration"), class = "spender_warning_coverage")
  expect_true(all(is.na(none)))
})

test_that("chi2, the likelihood and explore() take the calibrated model and count its coefficients", {
  both <- predict(fit, x, c("observed", "loss", "chi2"), refine = 2)
  sums <- rowSums(x$ivar * (x$flux - both$observed)^2, na.rm = TRUE)
  used <- rowSums(x$ivar > 0 & is.finite(both$observed))
  expect_equal(both$chi2, 2 * ncol(x$flux) * both$loss / (used - 4), tolerance = 1e-6)
  expect_equal(both$chi2, sums / (used - 4), tolerance = 0.05)
  expect_identical(attr(logLik(fit, x), "df"), 40 * 4)
  expect_equal(explore_quality(fit, x, explore_calibrated(fit, x))$chi2, unname(sums / (used - 4)), tolerance = 1e-6)
})
