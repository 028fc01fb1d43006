# Outliers among spectra: p-values, reasons, and what must not be mixed up.

fitted <- local({
  kept <- NULL
  function() {
    if (is.null(kept)) {
      x <- small_spectra(300)
      x <- x[!is.na(x$norm)]
      fit <- small_fit(x, epochs = 8, validation = 0.4)
      density <- latent_density(x, fit, layers = 2, hidden = c(8, 8), epochs = 20, threads = 1, progress = FALSE)
      kept <<- list(x = x, fit = fit, density = density)
    }
    kept
  }
})

test_that("the density of spectra is that of their latents, calibrated by what the network did not learn from", {
  f <- fitted()
  held <- held_out(f$fit, f$x)
  d <- f$density
  expect_identical(sum(d$parts[c("stop", "calibrate")]), length(held))
  latents <- encode(f$fit, f$x, threads = 1)
  chi2 <- predict(f$fit, f$x, "chi2", threads = 1)
  same <- latent_density(latents, f$fit, chi2 = chi2, layers = 2, hidden = c(8, 8), epochs = 20, threads = 1, progress = FALSE)
  expect_identical(same$flow, d$flow)
  expect_equal(same$calibration, d$calibration)
})

test_that("p-values are ranks, q-values Benjamini and Hochberg's, and rows stay in order", {
  f <- fitted()
  x <- simulate_spectra(40, instrument = small_instrument(), seed = 8)
  found <- outliers(f$fit, x, f$density, threads = 1)
  expect_identical(found$id, x$id)
  expect_identical(found$z, x$z)
  expect_equal(found$log_p, unname(predict(f$density, encode(f$fit, x))))
  expect_equal(found$chi2, unname(predict(f$fit, x, "chi2")))
  reference <- f$density$calibration
  m <- length(reference$chi2)
  expect_equal(found$p_chi2, vapply(found$chi2, function(c) (1 + sum(reference$chi2 >= c)) / (m + 1), 0))
  expect_equal(found$p_latent, unname(predict(f$density, encode(f$fit, x), type = "p")))
  expect_equal(found$p, pmin(1, 2 * pmin(found$p_latent, found$p_chi2)))
  expect_equal(found$q, p.adjust(found$p, "BH"))
  expect_equal(found$masked, rowMeans(x$ivar == 0))
  expect_output(print(found[1:2, c("id", "z")]), "sim-000002")
  expect_output(print(found), "<outliers> [0-9]+ of 40 spectra at a false discovery rate of 0.1")
})

test_that("spectra that are far off, badly reconstructed, or both are found, with the reason", {
  f <- fitted()
  x <- simulate_spectra(30, instrument = small_instrument(), seed = 9, sn = 20, defects = FALSE)
  x$flux[1:5, ] <- x$flux[1:5, ] + rep(c(0, 3), length.out = 251)[col(x$flux[1:5, ])] # every other pixel
  found <- outliers(f$fit, x, f$density, fdr = 0.5, threads = 1)
  expect_true(all(found$reason[1:5] %in% c("reconstruction", "both")))
  expect_true(all(found$chi2[1:5] > max(found$chi2[-(1:5)])))
  # without the reference of chi^2 latents alone are judged
  alone <- f$density
  alone$calibration$chi2 <- NULL
  found <- outliers(f$fit, x, alone, fdr = 1, threads = 1)
  expect_identical(found$p, found$p_latent)
  expect_true(all(found$reason == "latent"))
})

test_that("a survey gives what its spectra give, and spectra without latents are NA", {
  f <- fitted()
  x <- simulate_spectra(12, instrument = small_instrument(), seed = 8, rest = FALSE)
  path <- withr::local_tempfile(fileext = ".fits")
  write_survey(x, path)
  expect_equal(outliers(f$fit, open_survey(path), f$density), outliers(f$fit, x, f$density), tolerance = 1e-5)
  x$norm[4] <- NA
  expect_warning(found <- outliers(f$fit, x, f$density), class = "spender_warning_no_norm")
  expect_identical(which(is.na(found$p)), 4L)
  expect_identical(which(is.na(found$reason) & is.na(found$q)), 4L)
})

test_that("latents of another fit are refused", {
  f <- fitted()
  x <- f$x[1:20]
  other <- small_fit(f$x, epochs = 1, seed = 2)
  expect_error(outliers(other, x, f$density), "of another fit", class = "spender_error_identity")
  expect_error(outliers(small_fit(f$x, epochs = 1, latents = 3), x, f$density), "2 columns, but `fit` has 3 latents",
               class = "spender_error_dimension")
  unknown <- f$density
  unknown["identity"] <- list(NULL)
  expect_warning(outliers(f$fit, x, unknown), "does not say which fit", class = "spender_warning_identity")
  expect_error(outliers(f$fit, x, 1), "`density` must come from", class = "spender_error_invalid")
  expect_error(latent_density(matrix(rnorm(300), 100), f$fit), "3 columns, but the latents of `fit` are 2", class = "spender_error_invalid")
})

test_that("a density given redshift takes it from the spectra", {
  f <- fitted()
  latents <- encode(f$fit, f$x, threads = 1)
  d <- latent_density(latents, f$fit, conditions = cbind(z = f$x$z), layers = 1, hidden = 8, epochs = 5, threads = 1, progress = FALSE)
  x <- f$x[1:8]
  found <- outliers(f$fit, x, d)
  expect_equal(found$log_p, unname(predict(d, latents[1:8, ], cbind(z = x$z))))
  expect_identical(outliers(f$fit, x, d, conditions = cbind(z = x$z)), found)
  d$conditions <- "mass"
  expect_error(outliers(f$fit, x, d), "no column `mass`", class = "spender_error_invalid")
})

test_that("the gallery shows the oddest, with what is known of them", {
  skip_if_not_installed("ggplot2")
  f <- fitted()
  x <- f$x[1:20]
  found <- outliers(f$fit, x, f$density)
  p <- plot_outliers(f$fit, x, found, n = 3)
  expect_s3_class(p, "spender_plot")
  expect_named(p$panels, c("flux1", "residuals1", "flux2", "residuals2", "flux3", "residuals3"))
  expect_identical(p$panels$flux1$labels$title, found$id[order(found$p, found$log_p)][1])
  path <- withr::local_tempfile(fileext = ".png")
  ggplot2::ggsave(path, p, width = 8, height = 6)
  expect_gt(file.size(path), 5000)
  expect_error(plot_outliers(f$fit, x[1:3], found), "both must be of the same spectra", class = "spender_error_dimension")
  expect_error(plot_outliers(f$fit, x, found, reason = "odd"), "`reason` must be some", class = "spender_error_invalid")
  expect_error(plot_outliers(f$fit, x, as.data.frame(found)), "must come from outliers", class = "spender_error_invalid")
})
