# One sentence per mistake, and what a newcomer tries first.

test_that("arguments that are not known are refused, with what was meant", {
  x <- small_spectra(6)
  fit <- small_fit(x, epochs = 1)
  expect_error(predict(fit, x, batchsize = 3), "`batchsize`.*Did you mean `batch_size`", class = "spender_error_invalid")
  ensemble <- spender_ensemble(x, members = 2, network = small_network(), latents = 2, epochs = 1, threads = 1, progress = FALSE)
  pca <- spectra_pca(x, components = 2)
  for (model in list(fit, ensemble, pca)) {
    expect_identical(predict(model, newdata = x, type = "rest"), predict(model, x, "rest"))
    expect_error(predict(model, x, newdata = x), "`newdata`", class = "spender_error_invalid")
    expect_error(predict(model), "must be spectra", class = "spender_error_invalid")
  }
  expect_error(predict(fit, x, "latent", "cpu", "fp32", NULL, NULL, NULL, FALSE, 0, NULL, FALSE, FALSE, NULL, NULL, NULL, 9), "too many",
               class = "spender_error_invalid")
  for (f in list(encode, reconstruct, residuals)) expect_error(f(fit, x, path = "a.fits"), "takes no `path`",
                                                               class = "spender_error_invalid")
  expect_error(encode(fit, x, thraeds = 1), "`threads`", class = "spender_error_invalid")
  expect_error(plot(fit, colour = 1), "`colour`", class = "spender_error_invalid")
  for (f in list(summary, coef)) expect_error(f(fit, digits = 3), "`digits`", class = "spender_error_invalid")
  for (f in list(summary, problems)) expect_error(f(x, digits = 3), "`digits`", class = "spender_error_invalid")
  survey <- write_survey(x, withr::local_tempfile(fileext = ".fits"))
  expect_error(survey[1, 2], "rows to choose", class = "spender_error_invalid")
  expect_error(spender(x, lsf = 1001), "longer than a spectrum: it is 1001 pixels, and the grid has 251", class = "spender_error_invalid")
})

test_that("units that look wrong are said, with the ones that are expected", {
  wave <- toy_grid()$wave
  flux <- matrix(1e4, 2, length(wave))
  expect_warning(x <- spectra(flux, 1 / flux^2 / 100, c(0.1, 0.1), wave), "looks like a unit", class = "spender_warning_unit")
  expect_true(all(is.na(x$norm)))
  expect_warning(spectra(flux, flux, c(0.1, 0.1), wave / 10), "500 to 700, look like nanometres", class = "spender_warning_unit")
  expect_warning(spectra(flux, flux, c(0.1, 0.1), wave, window = c(530, 585)), "`window`, 530 to 585", class = "spender_warning_unit")
  expect_silent(spectra(flux, flux, c(0.1, 0.1), wave))
})

test_that("sigma is another way of saying ivar", {
  wave <- toy_grid()$wave
  flux <- matrix(1, 1, length(wave))
  sigma <- matrix(rep_len(c(0.5, 0, NA, Inf, -1), length(wave)), 1)
  x <- spectra(flux, z = 0.1, wave = wave, sigma = sigma, normalize = FALSE, mask_sky = FALSE)
  expect_identical(x$ivar[1, 1:5], c(4, 0, 0, 0, 0))
  expect_error(spectra(flux, flux, 0.1, wave, sigma = sigma), "either `ivar` or `sigma`", class = "spender_error_invalid")
  expect_error(spectra(flux, z = 0.1, wave = wave), "either `ivar` or `sigma`", class = "spender_error_invalid")
})

test_that("wavelengths in air become those in vacuum", {
  # SDSS's and VALD's tables: H-beta, H-alpha, [O III], Ca II K
  air <- c(4861.325, 6562.801, 5006.843, 3933.663)
  expect_equal(wave_to_vacuum(air), c(4862.683, 6564.614, 5008.240, 3934.777), tolerance = 1e-6)
  expect_identical(wave_to_vacuum(c(a = 1500, b = NA)), c(a = 1500, b = NA))
  expect_error(wave_to_vacuum(0), class = "spender_error_invalid")
})

test_that("spectra are chosen as rows of data frames are", {
  g <- toy_spectra(4)
  g$meta$subclass <- c("STARBURST", NA, "AGN", "STARBURST")
  expect_error(g[g$meta$subclass == "STARBURST"], "NA for 1 spectrum \\(2\\).*which\\(\\)", class = "spender_error_invalid")
  expect_identical(subset(g, subclass == "STARBURST")$id, c("a", "d"))
  expect_identical(subset(g, z < 0.06)$id, c("a", "b"))
  expect_error(subset(g, z), "condition", class = "spender_error_invalid")
  expect_identical(vapply(lapply(g, function(s) s), function(s) s$id, ""), setNames(g$id, g$id))
  expect_error(g$meta <- data.frame(a = 1:3), "each of the 4 spectra", class = "spender_error_invalid")
  g$meta <- NULL
  expect_identical(dim(g$meta), c(4L, 0L))
})

test_that("what is returned is what is reported", {
  on_cpu() # a GPU trains and predicts in two precisions
  x <- small_spectra(20)
  fit <- small_fit(x, epochs = 12, learning_rate = 0.1, best = TRUE)
  kept <- kept_epoch(fit)
  expect_equal(kept, which.min(fit$history$validation_loss))
  expect_lt(kept, 12) # at this rate it gets worse again
  text <- paste(capture.output(print(fit)), collapse = " ")
  expect_match(text, paste0(format(fit$history$validation_loss[kept], digits = 4), " validation, of epoch ", kept))
  members <- summary(new_ensemble(list(fit)))
  expect_identical(members$validation_loss, fit$history$validation_loss[kept])
  expect_match(plot_history(fit)$labels$subtitle, paste0("^epoch ", kept, ", whose weights were kept"))
  held_out <- x[!split_rows(x, 0.2, fit$training$split_seed)]
  expect_equal(mean(predict(fit, held_out, "loss")), fit$history$validation_loss[kept], tolerance = 1e-5)
  path <- withr::local_tempfile(fileext = ".safetensors")
  write_model(fit, path)
  expect_identical(kept_epoch(read_model(path)), as.double(kept))
})

test_that("an ensemble can be drawn and reconstructs, many spectra go on several pages", {
  x <- small_spectra(20)
  members <- spender_ensemble(x, members = 2, latents = 2, epochs = 2, network = small_network(), threads = 1, progress = FALSE)
  withr::local_pdf(NULL)
  expect_s3_class(plot(members), "ggplot")
  expect_equal(reconstruct(members, x[1:2]), predict(members, x[1:2])$mean * x$norm[1:2])
  before <- graphics::par("mfrow")
  expect_silent(plot(x, rows = 1:20))
  expect_identical(graphics::par("mfrow"), before)
  expect_silent(graphics::plot(1:3))
})

test_that("no spectra give results of no rows", {
  x <- small_spectra(8)
  fit <- small_fit(x, epochs = 1)
  none <- x[0]
  expect_silent({
    expect_identical(dim(encode(fit, none)), c(0L, 2L))
    expect_identical(dim(reconstruct(fit, none)), c(0L, 251L))
    expect_identical(dim(residuals(fit, none)), c(0L, 251L))
    expect_identical(length(predict(fit, none, "loss")), 0L)
    expect_identical(dim(attention(fit, none))[1], 0L)
    expect_identical(dim(grad_fam(fit, none, "Halpha"))[1], 0L)
    expect_identical(dim(c(none, none)), c(0L, 251L))
    expect_identical(nrow(as.data.frame(none)), 0L)
    expect_identical(nrow(join_catalogue(none, data.frame(id = "a", mass = 1))$meta), 0L)
    survey <- write_survey(none, withr::local_tempfile(fileext = ".fits"))
    expect_identical(dim(predict(fit, survey, "latent")), c(0L, 2L))
    expect_identical(dim(as_spectra(survey)), c(0L, 251L))
  })
  expect_identical(length(classify_galaxies(measure_lines(none))), 0L)
  expect_identical(nrow(measure_model_lines(fit, none)), 0L)
})
