# A fit with a history of our own
fit_with <- function(train, validation, flat = 2, valid = 0.86, n = 60, batch = 8, kept = length(train), ...) {
  fit <- structure(list(history = data.frame(epoch = seq_along(train), train_loss = train, validation_loss = validation,
                                             learning_rate = 1e-3, seconds = seq_along(train)),
                        training = list(flat_loss = flat, valid_fraction = valid, n_training = n, batch_size = batch, kept = kept, ...)),
                   class = "spender")
  fit
}

test_that("a good fit gets no advice, nor does one that nothing is known of", {
  good <- fit_with(c(1, 0.6, 0.4555, 0.455), c(1.1, 0.7, 0.48, 0.479))
  expect_identical(fit_advice(good), character())
  good$training$flat_loss <- NULL
  expect_identical(fit_advice(good), character())
  good$history <- empty_history()
  expect_identical(fit_advice(good), character())
  expect_identical(explained(good), NA_real_)
})

test_that("a fit that is not better than a flat spectrum says so, with both losses", {
  advice <- fit_advice(fit_with(c(150, 140, 139.9), c(140, 137, 136.2), flat = 117.3))
  expect_match(advice[["flat"]], "not better than a flat spectrum: its validation loss is 136, that of a flat spectrum 117", fixed = TRUE)
  # judged by the refined loss where there is one, and by the training loss where nothing was held out
  expect_false("flat" %in% names(fit_advice(fit_with(3, 3, refined_loss = 0.5))))
  expect_false(learned_refined(fit_with(3, 3, refined_loss = 0.5)))
  expect_match(fit_advice(fit_with(3, NA))[["flat"]], "its training loss is 3", fixed = TRUE)
})

test_that("over-fitting is told from training that ended well, with the numbers", {
  fit <- fit_with(c(1, 0.6, 0.5, 0.3), c(1.1, 0.7, 0.8, 0.9), kept = 2)
  expect_match(fit_advice(fit)[["overfit"]],
               "from epoch 2 to 4 the training loss fell from 0.6 to 0.3 while the validation loss rose from 0.7 to 0.9", fixed = TRUE)
  expect_match(fit_advice(fit)[["overfit"]], "the weights are those of epoch 2")
  fit$training$kept <- 4
  expect_match(fit_advice(fit)[["overfit"]], "best = TRUE")
  # noise of a validation loss is none, and a loss that rises with the training's is no over-fitting
  expect_false("overfit" %in% names(fit_advice(fit_with(c(1, 0.6, 0.5, 0.45), c(1.1, 0.70, 0.72, 0.73)))))
  expect_false("overfit" %in% names(fit_advice(fit_with(c(1, 0.6, 0.8, 0.9), c(1.1, 0.7, 0.8, 0.9)))))
  # a validation loss at the encoder's latents rises when the decoder begins to learn at refined ones
  expect_false("overfit" %in% names(fit_advice(fit_with(c(1, 0.6, 0.59, 0.58), c(1.1, 0.7, 0.9, 0.85), refine = TRUE))))
})

test_that("a training that was short says how many steps it made", {
  expect_match(fit_advice(fit_with(1.5, 1.6, n = 24))[["short"]], "short, 3 steps, and its loss still fell: from 1.5 in the last epoch")
  expect_match(fit_advice(fit_with(c(1.5, 1.2), c(1.6, 1.3)))[["short"]],
               "from 1.5 to 1.2 in the last epoch, where a perfect model has 0.43")
  expect_false("short" %in% names(fit_advice(fit_with(c(1.5, 1.2, 1.195), c(1.6, 1.3, 1.3))))) # it has settled, wherever
})

test_that("spender() warns unless it is told to be quiet, and print() repeats it", {
  x <- small_spectra(24)
  warnings <- character()
  fit <- withCallingHandlers(small_fit(x, epochs = 1, progress = NULL), spender_warning = function(w) {
    warnings <<- c(warnings, class(w)[1])
    invokeRestart("muffleWarning")
  })
  expect_true("spender_warning_fit_short" %in% warnings)
  expect_warning(small_fit(x, epochs = 1), NA)
  text <- gsub(" +", " ", paste(capture.output(print(fit)), collapse = " "))
  expect_match(text, "note +The|note +the")
  expect_match(text, paste0("perfect model \\(", format(perfect_loss(fit), digits = 4)))
  # not a constructed history: three dozen epochs at a high rate on few spectra
  fit <- suppressWarnings(small_fit(small_spectra(12), epochs = 150, learning_rate = 1e-2, progress = NULL))
  expect_true("overfit" %in% names(fit_advice(fit)))
})

test_that("settings come from the number of spectra, the network and the device, unless given", {
  cpu <- list(device = "cpu")
  none <- list(epochs = NULL, batch_size = NULL, learning_rate = NULL)
  plan <- function(n, filters = c(128, 256, 512), device = cpu) unlist(training_plan(none, n, list(filters = filters), device)[names(none)])
  expect_equal(plan(30)[["batch_size"]], 8)
  expect_true(all(diff(vapply(c(30, 200, 2000, 2e4, 2e5), function(n) plan(n)[["epochs"]], 0)) < 0))
  expect_equal(plan(1e9)[["epochs"]], 10)
  expect_equal(plan(1), c(epochs = 100, batch_size = 8, learning_rate = 1e-3))
  expect_gt(plan(1e6, device = list(device = "cuda"))[["batch_size"]], plan(1e6)[["batch_size"]])
  expect_gt(plan(200, c(16, 32, 64))[["learning_rate"]], plan(200)[["learning_rate"]])
  given <- list(epochs = 3, batch_size = 5, learning_rate = 0.1)
  expect_identical(training_plan(given, 100, list(filters = 8), cpu), given)
  fit <- spender(small_spectra(12), latents = 2, network = small_network(), threads = 1, progress = FALSE)
  expect_equal(nrow(fit$history), 100)
})

test_that("held_out() names the spectra that validated", {
  x <- small_spectra(40)
  x$norm[3] <- NA
  fit <- suppressWarnings(small_fit(x, split_seed = 4))
  ids <- held_out(fit, x)
  expect_length(ids, fit$training$n_validation)
  expect_equal(mean(predict(fit, x[ids], "loss")), fit$history$validation_loss[kept_epoch(fit)], tolerance = 1e-5)
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(x, path)
  expect_identical(held_out(fit, survey), ids)
  fit$training$split_seed <- NULL
  expect_error(held_out(fit, x), "does not say which", class = "spender_error_invalid")
})

test_that("reduced chi^2 does not count masked pixels, in memory and in files", {
  x <- small_spectra(12)
  x$ivar[2, 1:100] <- 0
  x$ivar[3, -(1:2)] <- 0 # as many pixels as latents
  fit <- small_fit(x)
  chi2 <- predict(fit, x, "chi2")
  model <- predict(fit, x)
  residual <- x$ivar * (x$flux - model)^2
  valid <- x$ivar > 0 & !is.na(model)
  wanted <- vapply(seq_along(x$z), function(i) sum(residual[i, valid[i, ]]) / (sum(valid[i, ]) - 2), 0)
  expect_equal(unname(chi2[-3]), wanted[-3], tolerance = 1e-5)
  expect_true(is.na(chi2[[3]]))
  path <- withr::local_tempfile(fileext = ".fits")
  predict(fit, x, "chi2", path = path)
  expect_equal(read_predictions(path), chi2, tolerance = 1e-6)
})
