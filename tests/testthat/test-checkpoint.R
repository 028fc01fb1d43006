train_small <- function(x, ..., epochs = 4) {
  spender(x, latents = 2, epochs = epochs, batch_size = 8, network = small_network(), validation = 0.2, threads = 1, progress = FALSE, ...)
}

test_that("a training that was stopped goes on to the same bits", {
  x <- small_spectra(40)
  whole <- train_small(x)
  path <- withr::local_tempfile(fileext = ".safetensors")
  stopped <- train_small(x, checkpoint = path, callback = function(history) nrow(history) < 2)
  expect_equal(nrow(stopped$history), 2)
  resumed <- train_small(x, checkpoint = path, resume = TRUE)
  expect_identical(resumed$weights, whole$weights)
  expect_identical(resumed$history[1:4], whole$history[1:4])
  expect_true(all(diff(resumed$history$seconds) >= 0))
  # a finished one is returned as it is
  expect_identical(train_small(x, checkpoint = path, resume = TRUE)$weights, whole$weights)
  # without a file, resuming is beginning
  expect_identical(train_small(x, checkpoint = withr::local_tempfile(), resume = TRUE)$weights, whole$weights)
})

test_that("a checkpoint can be of any step", {
  x <- small_spectra(40)
  whole <- train_small(x, device = "cpu", epochs = 2, learning_rate = 1e-3, best = FALSE)
  options <- list(device = "cpu", precision = "fp32", threads = 1, batch_size = 8, seed = 1, rate = 1e-3,
                  total_steps = 2 * ceiling(sum(split_by_id(x$id, 0.2, 1)) / 8),
                  steps_per_stage = 1, cycle_momentum = FALSE, constant = FALSE,
                  lsf_factor = 1, lsf_nonnegative = FALSE, refine_from = NA_real_, clip = 0, epsilon = 1e-8, average = 0)
  open <- function() {
    .Call(ffi_train_open, whole$architecture, .Call(ffi_network_fill, whole$architecture, 1), whole$instrument$wave, whole$wave_rest,
          list(flux = x$flux, ivar = x$ivar, rows = as.double(seq_along(x$z))), x$z, split_by_id(x$id, 0.2, 1), options)
  }
  for (steps in c(1, 2, 4, 5, 7)) {
    session <- open()
    for (i in seq_len(steps)) .Call(ffi_train_advance, session, 0)
    state <- .Call(ffi_train_state, session)
    .Call(ffi_session_close, session)
    session <- open()
    .Call(ffi_train_restore, session, state)
    epochs <- state$epoch
    losses <- c()
    while (epochs < 2) {
      now <- .Call(ffi_train_advance, session, 0)
      if (now$epoch_finished) {
        epochs <- epochs + 1
        losses <- c(losses, now$loss)
      }
    }
    expect_identical(.Call(ffi_train_weights, session), whole$weights)
    expect_identical(losses, utils::tail(whole$history$train_loss, length(losses)))
    .Call(ffi_session_close, session)
  }
})

test_that("the best epoch is kept across a stop", {
  x <- small_spectra(40)
  whole <- train_small(x, best = TRUE, learning_rate = 0.02)
  path <- withr::local_tempfile()
  train_small(x, best = TRUE, learning_rate = 0.02, checkpoint = path, callback = function(history) nrow(history) < 3)
  expect_identical(train_small(x, best = TRUE, learning_rate = 0.02, checkpoint = path, resume = TRUE)$weights, whole$weights)
})

test_that("update() goes on from checkpoints too, and from surveys", {
  x <- small_spectra(40)
  survey <- write_survey(x, withr::local_tempfile())
  fit <- train_small(x, epochs = 2)
  whole <- update(fit, x, 3, threads = 1, progress = FALSE)
  path <- withr::local_tempfile()
  update(fit, survey, 3, threads = 1, progress = FALSE, checkpoint = path, callback = function(history) nrow(history) < 4)
  resumed <- update(fit, survey, 3, threads = 1, progress = FALSE, checkpoint = path, resume = TRUE)
  expect_identical(resumed$weights, whole$weights)
  expect_identical(resumed$history[1:4], whole$history[1:4])
})

test_that("a checkpoint of something else is refused, and says why", {
  x <- small_spectra(24)
  folder <- withr::local_tempdir()
  local({
    withr::local_dir(folder)
    train_small(x, checkpoint = "kept.safetensors", epochs = 1)
    write_model(train_small(x, epochs = 1), "model.safetensors")
    bytes <- readBin("kept.safetensors", raw(), file.size("kept.safetensors"))
    writeBin(bytes[1:5000], "cut.safetensors")
    bytes[length(bytes) - 3000] <- xor(bytes[length(bytes) - 3000], as.raw(64))
    writeBin(bytes, "flipped.safetensors")
    expect_snapshot(error = TRUE, {
      train_small(x, epochs = 1, checkpoint = "kept.safetensors")
      train_small(x, epochs = 2, checkpoint = "kept.safetensors", resume = TRUE)
      train_small(x[1:20], epochs = 1, checkpoint = "kept.safetensors", resume = TRUE)
      train_small(x, epochs = 1, checkpoint = "model.safetensors", resume = TRUE)
      train_small(x, epochs = 1, checkpoint = "flipped.safetensors", resume = TRUE)
      train_small(x, epochs = 1, resume = TRUE)
      train_small(x, epochs = 1, checkpoint = 1)
      train_small(x, epochs = 1, checkpoint = "nowhere/kept")
    })
    expect_error(train_small(x, epochs = 1, checkpoint = "cut.safetensors", resume = TRUE), class = "spender_error_checkpoint")
  })
})

test_that("a checkpoint that cannot be written does not end the training", {
  x <- small_spectra(24)
  folder <- withr::local_tempdir()
  path <- file.path(folder, "sub", "kept")
  dir.create(dirname(path))
  warned <- 0
  fit <- withCallingHandlers(
    train_small(x, checkpoint = path, checkpoint_minutes = 0, callback = function(history) {
      unlink(dirname(path), recursive = TRUE)
      TRUE
    }),
    spender_warning_checkpoint = function(w) {
      warned <<- warned + 1
      invokeRestart("muffleWarning")
    })
  expect_gt(warned, 0)
  expect_identical(fit$weights, train_small(x)$weights)
})

test_that("a killed writer's file beside the checkpoint is cleared away", {
  x <- small_spectra(24)
  path <- file.path(withr::local_tempdir(), "kept")
  writeLines("", paste0(path, ".tmp-123-0"))
  writeLines("", paste0(path, ".other"))
  train_small(x, checkpoint = path, epochs = 1)
  expect_identical(list.files(dirname(path)), c("kept", "kept.other"))
})
