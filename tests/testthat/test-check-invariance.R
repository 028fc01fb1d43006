test_that("scatter between redshifts is that of the definition", {
  base <- matrix(c(0, 1, 2, 3, 0, 2, 4, 6), 4)
  latents <- list(base, base + 0.1, base + 0.2)
  found <- scatter_between(latents)
  expect_equal(found$latents$within, c(0.1, 0.1))
  expect_equal(found$latents$between, apply(base, 2, sd))
  expect_equal(found$ratio, sqrt(0.02 / sum(apply(base, 2, var))))
})

test_that("R squared is near 1 for what the latents know, and about 0 for what they do not", {
  u <- .Call(ffi_uniforms, 3, 0, 400, 4)
  s <- stats::qnorm(u[, 1:3])
  group <- rep(1:100, 4)
  expect_gt(r_squared(s, s[, 1] - s[, 2]^2, group), 0.8)
  expect_lt(abs(r_squared(s, u[, 4], group)), 0.1)
  s[1, 1] <- 1e6 # one outlier changes little
  expect_lt(abs(r_squared(s, u[, 4], group)), 0.15)
})

test_that("check_invariance() sees galaxies at several redshifts, by simulation or interpolation", {
  x <- small_spectra(24)
  fit <- small_fit(x)
  check <- check_invariance(fit, x, threads = 1)
  expect_s3_class(check, "invariance_check")
  expect_equal(check$how, "simulation")
  expect_length(check$z, 4)
  expect_equal(dim(check$latents), c(2, 4))
  expect_true(check$ratio > 0 && check$r2 <= 1 && check$chance[["highest"]] < 1)
  expect_identical(check_invariance(fit, x, threads = 2), check)
  x$truth <- NULL
  seen <- check_invariance(fit, x, z = c(0.05, 0.1), most = 10, threads = 1)
  expect_equal(seen[c("how", "n", "z")], list(how = "interpolation", n = 10, z = c(0.05, 0.1)))
  expect_output(print(seen), "10 galaxies at z = 0.05, 0.10 by interpolation")
  expect_error(check_invariance(fit, x, z = 0.1), "`z`", class = "spender_error_invalid")
  expect_error(check_invariance(fit, x[1:2]), "at least 4", class = "spender_error_invalid")
})
