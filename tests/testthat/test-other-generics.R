# Methods of other packages' generics, likelihoods, and consoles that are narrow.

test_that("fits and spectra are data frames for those who want them", {
  skip_if_not_installed("generics")
  x <- small_spectra(30)
  fit <- small_fit(x)
  tensors <- as.data.frame(generics::tidy(fit))
  expect_identical(tensors$term, names(coef(fit)))
  expect_equal(sum(tensors$count), count_parameters(fit$architecture))
  expect_equal(tensors$mean[1], mean(coef(fit)[[1]]))
  row <- as.data.frame(generics::glance(fit))
  expect_identical(nrow(row), 1L)
  expect_identical(row$validation_loss, fit$history$validation_loss[kept_epoch(fit)])
  expect_identical(row$nobs, nobs(fit))
  expect_identical(row$perfect_loss, perfect_loss(fit))
  x$ivar[4, ] <- 0
  x$norm[4] <- NA
  expect_warning(table <- as.data.frame(generics::augment(fit, x, threads = 1)), "no norm", class = "spender_warning_no_norm")
  expect_identical(table$id, x$id)
  expect_equal(table$.chi2, suppressWarnings(unname(predict(fit, x, "chi2", refine = 2, threads = 1))))
  expect_equal(table$.s2_err[-4], unname(sqrt(vcov(fit, x[-4], threads = 1)[, 2, 2])), tolerance = 1e-6)
  expect_true(all(is.na(table[4, c(".s1", ".s1_err", ".loss", ".chi2")])))
  expect_error(generics::tidy(fit, x), class = "spender_error_invalid")
  skip_if_not_installed("tibble")
  expect_s3_class(generics::glance(fit), "tbl_df")
  expect_identical(as.data.frame(tibble::as_tibble(x)), as.data.frame(x))
  survey <- write_survey(x, withr::local_tempfile(fileext = ".fits"))
  expect_identical(tibble::as_tibble(survey)$z, x$z)
})

test_that("a model that was read has no training to speak of, and that is no error", {
  skip_if_not_installed("generics")
  fit <- small_fit()
  fit$training <- list()
  fit$history <- empty_history()
  row <- as.data.frame(generics::glance(fit))
  expect_identical(c(row$nobs, row$epochs), c(NA, 0L))
  expect_output(print(summary(fit)), "with 2 latents and 15,994\\s+parameters \\(R package spender")
})

test_that("autoplot() draws what plot() does", {
  skip_if_not_installed("ggplot2")
  fit <- small_fit()
  expect_equal(ggplot2::autoplot(fit)$data, plot(fit)$data)
  expect_identical(ggplot2::autoplot(fit, log = FALSE)$labels, plot(fit, log = FALSE)$labels)
})

test_that("log-likelihoods are sums of normal densities", {
  x <- small_spectra(12, z = rep(c(0.05, 0.35), 6)) # the restframe grid covers less of every second one
  fit <- suppressWarnings(small_fit(x, z_max = 0.2, latents = 2))
  x$norm[3] <- NA
  l <- suppressWarnings(logLik(fit, x, threads = 1))
  model <- suppressWarnings(reconstruct(fit, x, normalized = TRUE, refine = 3, threads = 1))
  counted <- x$ivar > 0 & is.finite(model)
  expect_true(any(!is.finite(model[2, ])))
  expected <- sum(stats::dnorm(x$flux[counted], model[counted], 1 / sqrt(x$ivar[counted]), log = TRUE))
  expect_equal(as.double(l), expected, tolerance = 1e-6)
  expect_identical(attr(l, "nobs"), sum(counted))
  expect_equal(attr(l, "df"), 22)
  expect_equal(stats::AIC(l), 2 * 22 - 2 * expected, tolerance = 1e-6)
  expect_error(logLik(fit), "does not keep", class = "spender_error_invalid")
  expect_identical(nobs(fit), as.integer(fit$training$n_training))
})

test_that("narrow consoles get narrow lines", {
  x <- small_spectra(30)
  fit <- small_fit(x, epochs = 1)
  page <- structure(list(path = paste0("/", strrep("long/", 3), "page.html"), spectra = NULL, n = 3L, bytes = 1e6), class = "spender_page")
  for (width in c(40, 60)) {
    withr::local_options(width = width)
    for (shown in list(fit, x, page)) {
      lines <- capture.output(print(shown))
      expect_lte(max(nchar(lines, "width")), width)
    }
  }
})
