# The programs of inst/scripts that study the method, at the smallest scale.

test_that("study-lsf.R holds a kernel, finds one, and says how far both are from the truth", {
  skip_on_cran()
  script <- system.file("scripts", "study-lsf.R", package = "spender")
  output <- suppressWarnings(system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", shQuote(script), "spectra=40", "epochs=1",
                                                                            "starts=held,box"), stdout = TRUE, stderr = TRUE))
  expect_null(attr(output, "status"))
  expect_match(output, "^truth +0.030  0.130  0.420  0.300  0.120$", all = FALSE)
  expect_match(output, "^held +0.000  0.000  1.000  0.000  0.000 +farthest from the truth 0.580", all = FALSE)
  expect_match(output, "^box .*asymmetry", all = FALSE)
  output <- suppressWarnings(system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", shQuote(script), "pixel=log"), stdout = TRUE,
                                     stderr = TRUE))
  expect_equal(attr(output, "status"), 1)
  expect_match(output, "not an option: pixel=log", all = FALSE)
})
