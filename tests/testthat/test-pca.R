gappy_spectra <- function(n) {
  x <- small_spectra(n)
  set.seed(2)
  x$ivar[sample(length(x$ivar), length(x$ivar) / 10)] <- 0
  x$ivar[3, ] <- 0
  x$ivar[4, -(60:61)] <- 0 # fewer pixels than components
  x
}

test_that("components, scores and losses are those of plain R", {
  x <- gappy_spectra(70)
  pca <- spectra_pca(x, components = 4, iterations = 8)
  oracle <- spectra_pca_r(x, 4, 8)
  expect_equal(pca$mean, oracle$mean, tolerance = 1e-7)
  expect_equal(pca$components, oracle$components, tolerance = 1e-6)
  data <- to_restframe(x, oracle$wave_rest)
  scores <- weighted_fit(sweep(data$flux, 2, oracle$mean), data$weight, oracle$components)
  x$ivar[3, 100] <- 1e-9 # has a result
  expect_equal(unname(predict(oracle, x, "latent"))[-3, ], scores[-3, ], tolerance = 1e-6)
  observed <- t(vapply(seq_along(x$z), function(i) {
    stats::approx(oracle$wave_rest, oracle$mean + scores[i, ] %*% oracle$components, x$instrument$wave / (1 + x$z[i]))$y
  }, x$instrument$wave))
  expect_equal(unname(predict(oracle, x, "observed"))[-3, ], observed[-3, ], tolerance = 1e-6)
  squares <- x$ivar * (x$flux - observed)^2
  expect_equal(unname(predict(pca, x, "loss"))[-3], rowSums(squares, na.rm = TRUE)[-3] / 502, tolerance = 1e-6)
})

test_that("the same bits for any number of threads, in memory and from a survey in parts", {
  x <- gappy_spectra(40)
  x$norm[7] <- NA
  survey <- write_survey(x, withr::local_tempfile(fileext = ".fits"))
  y <- as_spectra(survey)
  pca <- spectra_pca(y, components = 3, iterations = 3, threads = 1)
  expect_identical(spectra_pca(y, components = 3, iterations = 3, threads = 2), pca)
  expect_identical(spectra_pca(survey, components = 3, iterations = 3), pca)
  whole <- pca_pass(pca, y, TRUE, 1)
  expect_identical(pca_pass(pca, survey, TRUE, 1, size = 16), whole)
  for (type in c("latent", "rest", "observed", "loss")) {
    expect_identical(suppressWarnings(predict(pca, survey, type)), suppressWarnings(predict(pca, y, type)))
  }
  expect_warning(predict(pca, survey, "loss"), "no norm", class = "spender_warning_no_norm") |> suppressWarnings()
  expect_identical(dim(predict(pca, y[0], "latent")), c(0L, 3L))
  expect_error(spectra_pca(survey[1:3], 3), "less than the number", class = "spender_error_invalid")
})
