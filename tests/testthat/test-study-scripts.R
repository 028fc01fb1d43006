# The programs of inst/scripts that study the method, at the smallest scale.

study <- function(name, ...) {
  script <- system.file("scripts", name, package = "spender")
  output <- suppressWarnings(system2(file.path(R.home("bin"), "Rscript"), shQuote(c("--vanilla", script, ...)), stdout = TRUE,
                                     stderr = TRUE))
  list(status = if (is.null(attr(output, "status"))) 0L else attr(output, "status"), output = as.character(output))
}

test_that("study-lsf.R holds a kernel, finds one, and says how far both are from the truth", {
  skip_on_cran()
  result <- study("study-lsf.R", "spectra=40", "epochs=1", "starts=held,box")
  expect_equal(result$status, 0L, info = paste(result$output, collapse = "\n"))
  expect_match(result$output, "^truth +0.030  0.130  0.420  0.300  0.120$", all = FALSE)
  expect_match(result$output, "^held +0.000  0.000  1.000  0.000  0.000 +farthest from the truth 0.580", all = FALSE)
  expect_match(result$output, "^box .*asymmetry", all = FALSE)
  result <- study("study-lsf.R", "pixel=log")
  expect_equal(result$status, 1)
  expect_match(result$output, "not an option: pixel=log", all = FALSE)
})

test_that("study-truth.R asks a fit what it knows, and keeps the fit", {
  skip_on_cran()
  path <- withr::local_tempfile(fileext = ".rds")
  result <- study("study-truth.R", "spectra=60", "epochs=1", "held=40", "filters=8,8,16", "latents=2", paste0("fit=", path))
  expect_equal(result$status, 0L, info = paste(result$output, collapse = "\n"))
  for (word in c("noise", "extrapolation", "glitches", "attention", "latents")) expect_match(result$output, paste0("^", word), all = FALSE)
  expect_s3_class(readRDS(path), "spender")
})

test_that("study-invariance.R trains in each form and measures what was reached", {
  skip_on_cran()
  result <- study("study-invariance.R", "spectra=60", "epochs=2", "held=20", "filters=8,8,8", "latents=2", "pixels=251", "batch=16")
  expect_equal(result$status, 0L, info = paste(result$output, collapse = "\n"))
  for (form in c("none", "scale-free", "published")) {
    expect_match(result$output, paste0("^", form, " +fidelity .*scatter between redshifts"), all = FALSE)
  }
})

test_that("study-doublet.R compares two resolutions", {
  skip_on_cran()
  result <- study("study-doublet.R", "spectra=40", "epochs=1", "members=2", "held=10", "filters=8,8,8")
  expect_equal(result$status, 0L, info = paste(result$output, collapse = "\n"))
  expect_match(result$output, "^two peaks in the model: .*true restframe 100 %", all = FALSE)
  expect_match(result$output, "^ratio: correlation", all = FALSE)
})

test_that("study-dimensions.R makes a table beside the paper's, and goes on where it was", {
  skip_on_cran()
  path <- withr::local_tempfile(fileext = ".rds")
  arguments <- c("spectra=60", "held=20", "epochs=1", "filters=8,8,8", "hidden=8", "pca=30", paste0("output=", path))
  first <- study("study-dimensions.R", "latents=2", arguments)
  expect_equal(first$status, 0L, info = paste(first$output, collapse = "\n"))
  expect_equal(nrow(readRDS(path)$fits), 2)
  result <- study("study-dimensions.R", "latents=2,4", arguments)
  expect_false(any(grepl("^S = 2", result$output)))
  expect_match(result$output, "latents kind encoder refined +range +pca paper", all = FALSE)
  expect_match(result$output, "^noise .* 1 seeds, 40 training and 20 held-out spectra", all = FALSE)
  kept <- readRDS(path)
  expect_equal(nrow(kept$fits), 4)
  expect_equal(kept$pca$latents, c(2, 4))
  expect_true(all(kept$fits$refined <= kept$fits$encoder))
})

test_that("study-inference.R measures refined latents, and keeps the fit", {
  skip_on_cran()
  path <- withr::local_tempfile(fileext = ".rds")
  result <- study("study-inference.R", "spectra=60", "epochs=2", "filters=8,8,16", "hidden=16", "latents=2", "galaxies=3",
                  "realisations=4", "held=20", "faint=10", "threads=1", paste0("fit=", path))
  expect_equal(result$status, 0L, info = paste(result$output, collapse = "\n"))
  expect_match(result$output, "^scatter of latents under noise, over their errors: [0-9.]+ [0-9.]+$", all = FALSE)
  expect_match(result$output, "Student t of 3", all = FALSE)
  expect_equal(readRDS(path)$architecture$n_latent, 2)
})

test_that("study-density.R compares densities with the truth, and finds planted oddities", {
  skip_on_cran()
  result <- study("study-density.R", "rows=600", "held=200", "mclust=0", "samples=60", "epochs=2", "seeds=2", "spectra=120",
                  "latents=2", "passes=1", "step=16", "ordinary=20", "odd=3", "threads=1")
  expect_equal(result$status, 0L, info = paste(result$output, collapse = "\n"))
  for (word in c("gaussian", "ring", "moons", "tails", "banana")) expect_match(result$output, paste0("^", word, ".*spline"), all = FALSE)
  for (line in c("p-values of ordinary rows", "fit of 600 rows", "log p: ", "fraction found")) {
    expect_match(result$output, paste0("^", line), all = FALSE)
  }
})
