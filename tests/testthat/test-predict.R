fitted_once <- NULL
fit_of <- function() {
  if (is.null(fitted_once)) fitted_once <<- small_fit(small_spectra(), lsf = 3)
  fitted_once
}

test_that("n rows in, n rows out, in order", {
  fit <- fit_of()
  x <- small_spectra(11)
  s <- encode(fit, x, threads = 1)
  expect_equal(dim(s), c(11, 2))
  expect_equal(rownames(s), x$id)
  expect_equal(colnames(s), c("s1", "s2"))
  expect_equal(dim(predict(fit, x, "rest", threads = 1)), c(11, length(fit$wave_rest)))
  expect_equal(dim(predict(fit, x, threads = 1)), c(11, 251))
  expect_length(predict(fit, x, "loss", threads = 1), 11)
  backwards <- encode(fit, x[11:1], threads = 1)
  expect_equal(backwards[11:1, ], s, tolerance = 1e-6)
  expect_equal(encode(fit, x, threads = 1, batch_size = 4), s, tolerance = 1e-6)
  expect_identical(encode(fit, x, threads = 2), s)
  expect_equal(dim(encode(fit, x[integer()], threads = 1)), c(0, 2))
  expect_equal(encode(fit, x[4], threads = 1), s[4, , drop = FALSE], tolerance = 1e-6)
})

test_that("the loss is the weighted squared difference to the model", {
  fit <- fit_of()
  x <- small_spectra(5)
  model <- predict(fit, x, threads = 1)
  by_hand <- rowSums(x$ivar * (x$flux - model)^2, na.rm = TRUE) / (2 * ncol(model))
  expect_equal(unname(predict(fit, x, "loss", threads = 1)), unname(by_hand), tolerance = 1e-6)
})

test_that("decoding the latents gives the reconstruction", {
  fit <- fit_of()
  x <- small_spectra(5)
  s <- encode(fit, x, threads = 1)
  expect_equal(unname(decode(fit, s, x$z, threads = 1)), unname(predict(fit, x, threads = 1)), tolerance = 1e-5)
  expect_equal(unname(decode(fit, s, threads = 1)), unname(predict(fit, x, "rest", threads = 1)), tolerance = 1e-5)
  expect_equal(dim(decode(fit, s[1, ], z = 0.1, threads = 1)), c(1, 251))
})

test_that("decode() goes to any grid by linear interpolation of the restframe", {
  fit <- fit_of()
  s <- encode(fit, small_spectra(3), threads = 1)
  wave <- seq(5000, 7000, by = 3)
  rest <- decode(fit, s, threads = 1)
  expected <- t(apply(rest, 1, function(y) approx(fit$wave_rest, y, wave / 1.2)$y))
  expect_equal(unname(decode(fit, s, z = 0.2, instrument = instrument(wave), threads = 1)), unname(expected), tolerance = 1e-5)
})

test_that("pixels that the restframe does not cover are NA, and only those", {
  fit <- fit_of()
  s <- matrix(0, 1, 2)
  model <- decode(fit, s, z = 1, threads = 1)
  wave <- fit$instrument$wave / 2
  covered <- which(wave >= fit$wave_rest[1])
  expect_equal(which(!is.na(model[1, ])), covered[-1]) # the LSF of 3 pixels reaches one further
})

test_that("reconstruct() is physical, residuals() are in sigma", {
  fit <- fit_of()
  x <- small_spectra(4)
  expect_equal(reconstruct(fit, x, threads = 1), reconstruct(fit, x, normalized = TRUE, threads = 1) * x$norm)
  r <- residuals(fit, x, threads = 1)
  expect_equal(is.na(r), x$ivar == 0 | is.na(predict(fit, x, threads = 1)), ignore_attr = TRUE)
  expect_equal(residuals(fit, x, "response", threads = 1), x$flux - predict(fit, x, threads = 1))
})

test_that("spectra without a norm give NA rows", {
  fit <- fit_of()
  x <- small_spectra(4)
  x$norm[2] <- NA
  expect_warning(s <- encode(fit, x, threads = 1), "rows 2", class = "spender_warning_no_norm")
  expect_true(all(is.na(s[2, ])))
  expect_false(anyNA(s[-2, ]))
})

test_that("coef() gives arrays in PyTorch's shapes", {
  w <- coef(fit_of())
  expect_equal(dim(w[["encoder.conv2.0.weight"]]), c(12, 8, 11))
  expect_equal(dim(w[["decoder.mlp.0.weight"]]), c(8, 2))
  expect_equal(dim(w[["encoder.mlp.0.weight"]]), c(16, 9))
  expect_length(w[["decoder.mlp.1.beta"]], 8)
})

test_that("misfits are named", {
  fit <- fit_of()
  other <- simulate_spectra(2, instrument = instrument(seq(4000, 8000, by = 20)), seed = 1)
  expect_error(encode(fit, other), class = "spender_error_grid")
  expect_snapshot(error = TRUE, {
    encode(fit, other)
    encode(fit, matrix(1, 2, 2))
    encode(list(), other)
    decode(fit, matrix(0, 2, 3))
    decode(fit, matrix(0, 2, 2), z = c(0, 0, 0))
    decode(fit, matrix(0, 2, 2), z = -2)
    predict(fit, small_spectra(2), threads = 1.5)
  })
})
