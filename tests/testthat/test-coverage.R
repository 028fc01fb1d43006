# A number that cannot be known is NA, with a warning.

test_that("losses and latents of spectra that the grid does not reach, or that are masked, are NA", {
  x <- small_spectra(6)
  fit <- small_fit(x, epochs = 1)
  y <- x
  y$z[2] <- 30 # beyond the restframe grid
  y$ivar[3, ] <- 0
  y$norm[4] <- NA
  for (type in c("loss", "latent", "rest", "observed")) {
    got <- withCallingHandlers(predict(fit, y, type), spender_warning = function(w) invokeRestart("muffleWarning"))
    rows <- if (type == "loss") is.na(got) else rowSums(!is.na(got)) == 0
    expect_identical(unname(which(rows)), 2:4, info = type)
    right <- predict(fit, x[c(1, 5, 6)], type)
    expect_identical(if (type == "loss") got[c(1, 5, 6)] else got[c(1, 5, 6), ], right)
  }
  expect_warning(expect_warning(predict(fit, y, "loss"), "rows 4 ", class = "spender_warning_no_norm"), "rows 2, 3 ",
                 class = "spender_warning_coverage")
  # said once of a survey, of an ensemble and of a file, with the rows of the whole
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(y, path)
  expect_warning(expect_warning(got <- predict(fit, survey, "loss"), class = "spender_warning_no_norm"), "rows 2, 3 ",
                 class = "spender_warning_coverage")
  expect_identical(unname(which(is.na(got))), 2:4)
  results <- withr::local_tempfile(fileext = ".fits")
  expect_warning(expect_warning(predict(fit, survey, "loss", path = results), class = "spender_warning_no_norm"),
                 class = "spender_warning_coverage")
  expect_identical(unname(which(is.na(read_predictions(results)))), 2:4)
  both <- new_ensemble(list(fit, fit))
  said <- 0
  withCallingHandlers(got <- predict(both, y, "loss")$mean, spender_warning = function(w) {
    said <<- said + 1
    invokeRestart("muffleWarning")
  })
  expect_equal(said, 2)
  expect_identical(unname(which(is.na(got))), 2:4)
})

test_that("principal components know what they do not know", {
  x <- small_spectra(30)
  pca <- spectra_pca(x, components = 2, iterations = 2)
  x$ivar[7, ] <- 0
  expect_warning(loss <- predict(pca, x, "loss"), "rows 7 ", class = "spender_warning_coverage")
  expect_identical(unname(which(is.na(loss))), 7L)
})

test_that("normalised line fluxes of a spectrum without a norm are NA, physical ones are not", {
  x <- simulate_spectra(2, z = 0.05, seed = 3)
  x$norm[2] <- NA
  expect_warning(m <- measure_lines(x, "Halpha", physical = FALSE), "rows 2 ", class = "spender_warning_no_norm")
  expect_identical(is.na(m$flux), c(FALSE, TRUE))
  expect_silent(measure_lines(x, "Halpha"))
  expect_identical(dim(measure_lines(x[0], c("Halpha", "Hbeta"))), c(0L, 15L))
  expect_identical(names(measure_lines(x[0])), names(measure_lines(x[1])))
  expect_identical(nrow(suppressWarnings(fit_doublet(x[0]))), 0L)
})
