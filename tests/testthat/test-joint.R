# Fits of several instruments with one decoder. tests/core/test-joint.c has what the core promises.

other_instrument <- function() instrument(seq(3800, 8400, by = 20), name = "other")

# 24 galaxies by one instrument, 18 by another; the first 8 are the same objects
two_instruments <- function() {
  x <- small_spectra(24, defects = FALSE)
  galaxies <- x$truth$parameters
  rows <- c(1:8, 1:10)
  y <- simulate_spectra(18, other_instrument(), z = c(x$z[1:8], seq(0.05, 0.3, length.out = 10)), galaxies = galaxies[rows, ],
                        sn = galaxies$sn[rows], defects = FALSE, seed = 9)
  y$id <- y$object <- c(x$id[1:8], paste0("y", 1:10))
  list(sdss = x, desi = y)
}

joint_fit <- function(x = two_instruments(), ...) small_fit(x, ...)

decoder_of <- function(fit) fit$weights[-seq_len(decoder_at(fit))]

test_that("one instrument in a list is an ordinary fit", {
  on_cpu()
  x <- small_spectra()
  alone <- small_fit(x)
  joint <- small_fit(list(sdss = x))
  expect_s3_class(joint, "spender_joint")
  expect_identical(joint$sdss$weights, alone$weights)
  columns <- names(alone$history) != "seconds"
  expect_identical(joint$sdss$history[columns], alone$history[columns])
  facts <- names(alone$training)
  expect_identical(joint$sdss$training[facts], alone$training[facts])
  expect_identical(small_fit(list(sdss = x), average = 1)$sdss$weights, small_fit(x, average = 1)$weights)
  expect_identical(small_fit(list(sdss = x), lsf = 3, refine = TRUE)$sdss$weights, small_fit(x, lsf = 3, refine = TRUE)$weights)
})

test_that("two instruments have one decoder, restframe and set of latents", {
  on_cpu()
  x <- two_instruments()
  fit <- joint_fit(x, lsf = list(sdss = 3))
  expect_named(fit, c("sdss", "desi"))
  for (one in fit) expect_s3_class(one, "spender")
  expect_identical(decoder_of(fit$sdss), decoder_of(fit$desi))
  expect_identical(fit$sdss$wave_rest, fit$desi$wave_rest)
  expect_lte(fit$sdss$wave_rest[1], as_float32(3800 / 1.5))
  expect_gte(max(fit$sdss$wave_rest), 8400)
  expect_length(lsf(fit$sdss), 3)
  expect_null(lsf(fit$desi))

  history <- attr(fit, "history")
  expect_named(history, c(names(fit$sdss$history), "train_sdss", "train_desi", "validation_sdss", "validation_desi"))
  n <- vapply(fit, function(one) one$training$n_training, 0)
  expect_equal(history$train_loss, (history$train_sdss * n[1] + history$train_desi * n[2]) / sum(n))
  m <- vapply(fit, function(one) one$training$n_validation, 0)
  expect_equal(history$validation_loss, (history$validation_sdss * m[1] + history$validation_desi * m[2]) / sum(m))
  expect_identical(history$validation_desi, fit$desi$history$validation_loss)
  kept <- kept_epoch(fit$desi)
  expect_identical(kept, as.numeric(which.min(history$validation_loss)))
  expect_equal(history$validation_desi[kept], mean(predict(fit$desi, x$desi[held_out(fit$desi, x$desi)], "loss", refine = 0)),
               tolerance = 1e-6)

  threads <- joint_fit(x, lsf = list(sdss = 3), threads = 2)
  expect_identical(lapply(fit, `[[`, "weights"), lapply(threads, `[[`, "weights"))
})

test_that("surveys and checkpoints give the same bits", {
  on_cpu()
  x <- two_instruments()
  in_folder({
    surveys <- Map(function(x, name) write_survey(x, paste0(name, ".fits")), x, names(x))
    for (common in c(0, 0.5)) {
      fit <- joint_fit(x, common = common)
      from_files <- joint_fit(surveys, common = common)
      expect_identical(lapply(from_files, `[[`, "weights"), lapply(fit, `[[`, "weights"))
      file <- paste0("state-", common, ".safetensors")
      stopped <- 0
      stopping <- function(history) {
        stopped <<- stopped + 1
        stopped < 2
      }
      joint_fit(x, common = common, checkpoint = file, callback = stopping)
      expect_message(resumed <- joint_fit(x, common = common, checkpoint = file, resume = TRUE), "Going on after epoch 2")
      expect_identical(lapply(resumed, `[[`, "weights"), lapply(fit, `[[`, "weights"))
      expect_identical(attr(resumed, "history")[-5], attr(fit, "history")[-5])
      other <- x
      other$desi$flux[1, 1] <- 2
      expect_error(joint_fit(other, common = common, checkpoint = file, resume = TRUE), "desi spectra", class = "spender_error_checkpoint")
    }
  })
})

test_that("objects in common are pulled together", {
  on_cpu()
  x <- two_instruments()
  apart <- function(fit) {
    latents <- encode(fit, list(sdss = x$sdss[1:8], desi = x$desi[1:8]))
    sqrt(sum((latents$sdss - latents$desi)^2) / sum(scale(latents$sdss, scale = FALSE)^2))
  }
  alone <- joint_fit(x, epochs = 100, best = FALSE)
  together <- joint_fit(x, epochs = 100, best = FALSE, common = 0.5)
  expect_lt(apart(together), 0.6 * apart(alone))
})

test_that("results are had by instrument", {
  x <- two_instruments()
  fit <- joint_fit(x, epochs = 1)
  both <- encode(fit, x)
  expect_named(both, c("sdss", "desi"))
  expect_identical(both$desi, encode(fit$desi, x$desi))
  expect_identical(encode(fit, x$desi), both$desi)
  expect_identical(predict(fit, x$sdss, "loss", instrument = "sdss"), predict(fit$sdss, x$sdss, "loss"))
  expect_identical(predict(fit, x["desi"]), list(desi = predict(fit$desi, x$desi)))
  expect_output(print(fit), "2 instruments")
  expect_identical(summary(fit)$instrument, c("sdss", "desi"))
  expect_s3_class(plot(fit), "ggplot")
  expect_s3_class(fit["desi"], "spender_joint")
})

test_that("a model file has all instruments under published names", {
  fit <- joint_fit(epochs = 2, lsf = list(desi = 3))
  file <- withr::local_tempfile(fileext = ".safetensors")
  write_model(fit, file)
  tensors <- names(.Call(ffi_safetensors_read, file, character())$tensors)
  expect_true(all(c("model.0.encoder.conv1.0.weight", "model.1.encoder.instrument.lsf.weight", "model.1.decoder.wave_rest",
                    "model.0.decoder.mlp.0.weight") %in% tensors))
  again <- read_model(file)
  for (of in names(fit)) expect_identical(again[[of]][names(again[[of]]) != "call"], fit[[of]][names(fit[[of]]) != "call"])
  expect_identical(attr(again, "history"), attr(fit, "history"))
  expect_identical(attr(again, "training"), attr(fit, "training"))
  expect_identical(read_model(file, instrument = "desi")$weights, fit$desi$weights)
  expect_identical(read_model(file, instrument = 1)$training, fit$sdss$training)
  expect_error(read_model(file, instrument = 3), "must be one of the models", class = "spender_error_invalid")
  # without our metadata, as another program would write it
  content <- joint_content(fit)
  .Call(ffi_safetensors_write, file, content$tensors, c(note = "none"), TRUE)
  foreign <- read_model(file)
  expect_s3_class(foreign, "spender_joint")
  expect_identical(lapply(unname(unclass_joint(foreign)), `[[`, "weights"), lapply(unname(unclass_joint(fit)), `[[`, "weights"))
})

test_that("an instrument joins a fit, whose decoder keeps its bits", {
  on_cpu()
  x <- two_instruments()
  fit <- joint_fit(x["sdss"], epochs = 20, wave_rest = seq(2500, 8500, by = 12))
  more <- update(fit, x["desi"], epochs = 20, freeze = "decoder", lsf = 3, progress = FALSE)
  expect_named(more, c("sdss", "desi"))
  expect_identical(decoder_of(more$desi), decoder_of(fit$sdss))
  expect_identical(more$sdss, fit$sdss)
  expect_length(lsf(more$desi), 3)
  h <- more$desi$history
  expect_identical(h$epoch, as.numeric(1:20))
  expect_lt(min(h$train_loss), 0.7 * h$train_loss[1])
  expect_identical(update(fit$sdss, x$desi, epochs = 20, freeze = "decoder", lsf = 3, progress = FALSE)$weights, more$desi$weights)
  again <- update(more, x["sdss"], epochs = 1, freeze = "decoder", progress = FALSE)
  expect_identical(decoder_of(again$sdss), decoder_of(fit$sdss))
  expect_false(identical(again$sdss$weights, fit$sdss$weights))
  together <- update(more, x, epochs = 2, progress = FALSE)
  expect_false(identical(decoder_of(together$sdss), decoder_of(fit$sdss)))
  expect_identical(decoder_of(together$sdss), decoder_of(together$desi))
  expect_identical(nrow(together$desi$history), 22L)
})

test_that("what does not make sense is an error that says so", {
  x <- two_instruments()
  expect_error(spender(unname(x)), "different names", class = "spender_error_invalid")
  expect_error(spender(list(a = x$sdss, a = x$desi)), "different names", class = "spender_error_invalid")
  expect_error(spender(list()), "different names", class = "spender_error_invalid")
  expect_error(spender(list(a = x$sdss, b = 1)), "x\\$b", class = "spender_error_invalid")
  far <- simulate_spectra(4, instrument(seq(15000, 16000, by = 50)), z = 0.1, seed = 1)
  expect_error(spender(list(a = x$sdss, far = far)), "a \\(2667 to 8000 .*\\) and far", class = "spender_error_invalid")
  empty <- x$desi
  empty$norm[] <- NA
  expect_error(suppressWarnings(joint_fit(list(sdss = x$sdss, desi = empty))), "^desi: There is no spectrum",
               class = "spender_error_invalid")
  expect_error(joint_fit(x, common = 1, refine = TRUE), "refine", class = "spender_error_invalid")
  expect_error(joint_fit(x["sdss"], common = 1), "two instruments", class = "spender_error_invalid")
  expect_error(joint_fit(x, clip = 1), "clip", class = "spender_error_invalid")
  expect_error(joint_fit(x, average = 1), "average", class = "spender_error_invalid")
  x$desi$id <- x$desi$object <- paste0("y", 1:18)
  expect_error(joint_fit(x, common = 1), "no id is in both", class = "spender_error_invalid")
  expect_error(joint_fit(x, lsf = list(boss = 3)), "not boss", class = "spender_error_invalid")
  fit <- joint_fit(x, epochs = 1)
  expect_error(encode(fit, x$sdss, instrument = "boss"), "not \"boss\"", class = "spender_error_invalid")
  expect_error(encode(fit, simulate_spectra(2, instrument(seq(4000, 8000, by = 9)), seed = 1)), "None of", class = "spender_error_invalid")
  expect_error(encode(fit, list(boss = x$sdss)), "boss", class = "spender_error_invalid")
  expect_error(encode(fit, list(sdss = x$desi)), "^sdss: ", class = "spender_error_grid")
  expect_error(update(fit, x["sdss"], 1), "all instruments", class = "spender_error_invalid")
  expect_error(update(fit, x, 1, freeze = "encoder"), "freeze", class = "spender_error_invalid")
  expect_error(reconstruct(fit, x$sdss), "fit\\$sdss", class = "spender_error_invalid")
})
