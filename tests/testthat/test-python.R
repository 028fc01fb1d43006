# Results as Python reads them, by the script of vignette("python").

python_with <- function(modules) {
  import <- shQuote(paste("import", paste(modules, collapse = ", ")))
  candidates <- c(Sys.getenv("SPENDER_PYTHON"), Sys.which("python3"), "/usr/bin/python3")
  python <- Find(function(python) {
    nzchar(python) && suppressWarnings(system2(python, c("-c", import), stdout = FALSE, stderr = FALSE)) == 0
  }, candidates)
  if (is.null(python)) skip(paste("no Python with", paste(modules, collapse = ", "), "(SPENDER_PYTHON names one)"))
  python
}

test_that("astropy reads latents and surveys, safetensors reads models, and numpy decodes as R does", {
  skip_on_cran()
  python <- python_with(c("numpy", "astropy", "safetensors"))
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  x <- small_spectra(24)
  fit <- small_fit(x)
  survey <- write_survey(x, path("survey.fits"))
  predict(fit, survey, c("latent", "loss", "covariance"), refine = 2, keep = "class", path = path("latents.fits"))
  write_model(fit, path("model.safetensors"))

  out <- system2(python, shQuote(c(system.file("scripts", "read-results.py", package = "spender"), folder)), stdout = TRUE)
  expect_null(attr(out, "status"))
  read <- jsonlite::fromJSON(out)
  results <- read_predictions(path("latents.fits"))
  expect_identical(read$ids, x$id)
  expect_identical(read$latents, unname(results$latent))
  expect_identical(read$losses, unname(results$loss))
  expect_identical(read$covariances, unname(results$covariance))
  expect_equal(read$errors, unname(encode(fit, x, refine = 2, se = TRUE)$se), tolerance = 1e-5)
  expect_identical(read$galaxies, x$meta$class == "GALAXY")

  expect_identical(read$wave, x$instrument$wave)
  expect_identical(read$norm, x$norm)
  flux <- as_float32(x$flux[1, ]) # files have single precision, and astropy multiplies in it
  expect_equal(read$flux, flux * x$norm[1], tolerance = 1e-6)
  expect_equal(read$ivar, as_float32(x$ivar[1, ]) / x$norm[1]^2, tolerance = 1e-6)

  expect_identical(read$wave_rest, fit$wave_rest)
  expect_equal(read$validation_loss, fit$history$validation_loss)
  ours <- .Call(ffi_network_export, fit$architecture, fit$weights)
  expect_true(all(names(ours) %in% names(read$weights)))
  for (name in names(ours)) {
    expect_equal(unlist(read$weights[[name]][[2]]), sum(float32_tensor(ours[[name]])$data), tolerance = 1e-12)
  }
  expect_equal(read$rest, unname(decode(fit, results$latent)), tolerance = 1e-5)
})
