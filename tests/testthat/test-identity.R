# What is kept says what it was made of.

test_that("results of other spectra, ids, fits or types are not gone on with", {
  x <- small_spectra(8)
  fit <- small_fit(x, epochs = 1)
  path <- withr::local_tempfile(fileext = ".fits")
  predict(fit, x, "latent", path = path)
  kept <- read_predictions(path)
  expect_identical(predict(fit, x, "latent", path = path), path)
  expect_identical(read_predictions(path), kept)
  flux <- ivar <- ids <- x
  flux$flux[3, 40] <- flux$flux[3, 40] + 1e-6
  ivar$ivar[8, 1] <- 0.5
  ids$id <- rev(ids$id)
  expect_error(predict(fit, flux, "latent", path = path), "the same spectra", class = "spender_error_exists")
  expect_error(predict(fit, ivar, "latent", path = path), "the same spectra", class = "spender_error_exists")
  expect_error(predict(fit, ids, "latent", path = path), "the same ids", class = "spender_error_exists")
  expect_error(predict(small_fit(x, epochs = 2), x, "latent", path = path), "the same fit", class = "spender_error_exists")
  expect_error(predict(fit, x, "loss", path = path), "the same type", class = "spender_error_exists")
  expect_error(predict(fit, x[1:7], "latent", path = path), class = "spender_error_exists")
  other <- fit
  other$architecture$decoder_offset <- 0
  expect_error(predict(other, x, "latent", path = path), "the same fit", class = "spender_error_exists")
  written <- withr::local_tempfile(fileext = ".safetensors")
  write_model(fit, written)
  expect_identical(predict(read_model(written), x, "latent", path = path), path)
  expect_identical(read_predictions(path), kept)
  predict(fit, flux, "latent", path = path, overwrite = TRUE)
  expect_equal(read_predictions(path), predict(fit, flux, "latent"), tolerance = 1e-6)
  expect_error(predict(fit, x, "latent", overwrite = TRUE), "`path`", class = "spender_error_invalid")
})

test_that("results of a survey know its rows by their checksums", {
  x <- small_spectra(8)
  fit <- small_fit(x, epochs = 1)
  one <- withr::local_tempfile(fileext = ".fits")
  two <- withr::local_tempfile(fileext = ".fits")
  path <- withr::local_tempfile(fileext = ".fits")
  predict(fit, write_survey(x, one), "loss", path = path)
  expect_identical(predict(fit, write_survey(x, two), "loss", path = path), path) # the same spectra elsewhere
  x$flux[2, 7] <- 3
  unlink(two)
  expect_error(predict(fit, write_survey(x, two), "loss", path = path), "the same spectra", class = "spender_error_exists")
})

test_that("columns of files have the digests that they have in memory, in any order, for any number of threads", {
  x <- small_spectra(300)
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(x, path)
  for (rows in list(1:300, 300:1, c(5, 9, 2), integer())) {
    y <- survey[rows]
    catalogue <- survey_catalogue(y, c("ID", "ROWSUM"))
    for (others in list(list(), list(c(1, NA), "a", list(TRUE, NULL)))) {
      ids <- column_digest(y, "ID", TRUE, others)
      expect_identical(ids, list(digest = digest_of(c(list(catalogue$ID), others)), longest = max(1, nchar(catalogue$ID)), plain = TRUE))
      expect_identical(column_digest(y, "ROWSUM", FALSE, others)$digest, digest_of(c(list(catalogue$ROWSUM), others)))
      for (threads in c(1, 2, 4, 8)) {
        expect_identical(.Call(ffi_survey_digest, path, 300, "ID", TRUE, y$rows, others, threads), ids)
      }
    }
  }
  expect_identical(data_digest(survey), digest_of(list(survey_catalogue(survey, "ROWSUM")$ROWSUM, survey$z, survey$norm)))
  expect_null(.Call(ffi_survey_digest, path, 300, "none", TRUE, survey$rows, list(), 1))
  expect_null(.Call(ffi_survey_digest, path, 300, "ID", FALSE, survey$rows, list(), 1))
})

test_that("ids that repeat, or have codes, are made unique before they are digested", {
  x <- small_spectra(4)
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(x, path)
  twice <- survey[c(1, 2, 1)]
  expect_false(column_digest(twice, "ID", TRUE, list())$plain)
  ids <- result_ids(twice, NULL)
  expect_identical(ids$digest, digest_of(list(survey_ids(twice))))
  expect_identical(ids$of(2:3), survey_ids(twice)[2:3])
  x$id <- x$object <- c("a", "b%41", "c", "d")
  unlink(path)
  survey <- write_survey(x, path)
  ids <- result_ids(survey, NULL)
  expect_identical(ids$of(1:4), x$id)
  expect_identical(ids$digest, digest_of(list(x$id)))
  expect_identical(ids$longest, 6)
})

test_that("a checkpoint of other spectra is refused, one with OutDec is not", {
  x <- small_spectra(12)
  y <- x
  y$flux[5, 9] <- y$flux[5, 9] + 0.01
  checkpoint <- withr::local_tempfile(fileext = ".safetensors")
  expect_message(first <- small_fit(x, epochs = 2, checkpoint = checkpoint, resume = TRUE), "no .* to resume from")
  expect_error(small_fit(y, epochs = 2, checkpoint = checkpoint, resume = TRUE), "the same spectra", class = "spender_error_checkpoint")
  withr::local_options(OutDec = ",")
  expect_message(again <- small_fit(x, epochs = 2, checkpoint = checkpoint, resume = TRUE), "after epoch 2 of 2")
  expect_identical(again$weights, first$weights)
})

test_that("a survey made otherwise is not gone on with", {
  skip_without_cfitsio()
  folder <- withr::local_tempdir()
  for (k in 1:2) write_sdss(file.path(folder, sprintf("spec-%d.fits", k)), object = list(FIBERID = list(type = "J", values = k)))
  path <- withr::local_tempfile(fileext = ".fits")
  write_survey(folder, path, progress = FALSE)
  expect_error(write_survey(folder, path, mask_sky = FALSE, progress = FALSE), "the same mask_sky", class = "spender_error_exists")
  expect_error(write_survey(folder, path, window = c(5000, 5800), progress = FALSE), "the same window", class = "spender_error_exists")
  expect_error(write_survey(folder, path, instrument = "boss", progress = FALSE), "the same wave", class = "spender_error_exists")
  write_sdss(file.path(folder, "spec-3.fits"), object = list(FIBERID = list(type = "J", values = 3)))
  expect_length(write_survey(folder, path, progress = FALSE), 3)
})

test_that("a model file with a flipped bit is refused wherever the bit is", {
  fit <- small_fit(epochs = 1)
  path <- withr::local_tempfile(fileext = ".safetensors")
  write_model(fit, path)
  expect_identical(read_model(path)$weights, fit$weights)
  bytes <- readBin(path, raw(), 1e7)
  header <- sum(as.integer(bytes[1:4]) * 256^(0:3))
  damaged <- withr::local_tempfile(fileext = ".safetensors")
  set.seed(1)
  places <- c(sample(header, 20), header + 8 + sample(length(bytes) - header - 8, 60))
  accepted <- 0
  for (at in places) {
    flipped <- bytes
    flipped[at + 8 * (at <= header)] <- xor(flipped[at + 8 * (at <= header)], as.raw(2^(at %% 8)))
    writeBin(flipped, damaged)
    got <- tryCatch(suppressWarnings(read_model(damaged)), error = function(e) e)
    # a bit in blanks or in the spelling of a name of metadata may be one that says nothing
    if (!inherits(got, "error")) {
      accepted <- accepted + !identical(got[c("weights", "wave_rest", "architecture", "history")],
                                        fit[c("weights", "wave_rest", "architecture", "history")])
    }
  }
  expect_equal(accepted, 0)
})

test_that("a survey file that is replaced or changed under an open survey is noticed", {
  x <- small_spectra(8)
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(x, path)
  unlink(path)
  x$flux[4, ] <- 2
  write_survey(x, path)
  for (use in list(as_spectra, as.data.frame, function(s) small_fit(s, epochs = 1),
                   function(s) predict(small_fit(x, epochs = 1), s, "loss"))) {
    expect_error(use(survey), "changed or replaced", class = "spender_error_changed")
  }
  survey <- open_survey(path)
  Sys.setFileTime(path, Sys.time() + 10) # the same rows: nothing to notice
  expect_length(as_spectra(survey), 8)
  unlink(path)
  write_survey(x[1:6], path)
  expect_error(as_spectra(survey), class = "spender_error_changed")
})
