test_that("whole numbers of a fit are written as such", {
  fit <- small_fit(small_spectra(12), epochs = 1, lsf = 5)
  expect_no_match(to_json(fit[c("architecture", "training")]), "integer|[^0-9.][0-9]+[.]0[^0-9]")
})

test_that("a fit learns, and its parts are what the documentation says", {
  x <- small_spectra(48)
  fit <- small_fit(x, epochs = 12, learning_rate = 5e-3)
  expect_s3_class(fit, "spender")
  expect_named(fit, c("architecture", "weights", "instrument", "wave_rest", "history", "training", "call"))
  expect_type(fit$weights, "raw")
  h <- fit$history
  expect_named(h, c("epoch", "train_loss", "validation_loss", "learning_rate", "seconds"))
  expect_equal(h$epoch, 1:12)
  expect_lt(h$train_loss[12], 0.7 * h$train_loss[1])
  expect_lt(h$train_loss[12], fit$training$flat_loss)
  expect_false(anyNA(h$validation_loss))
  expect_equal(fit$training$n_training + fit$training$n_validation, 48)
  expect_gt(fit$training$n_validation, 0)
})

test_that("the default restframe grid is the paper's", {
  sdss <- instrument("sdss")
  rest <- restframe_grid(sdss, 1, 0.5, NULL)
  expect_length(rest, 5881)
  expect_equal(range(rest), c(sdss$wave[1] / 1.5, sdss$wave[3921]), tolerance = 1e-7)
  expect_length(restframe_grid(sdss, 2, 0.5, NULL), 11762)
  expect_equal(rest, as_float32(rest))
})

test_that("the paper's network has the paper's number of parameters", {
  a <- new_architecture(spender_network(), 3921, 5881, 6, 0)
  table <- .Call(ffi_network_table, a)
  encoder <- startsWith(table$name, "encoder")
  expect_equal(round(sum(table$count[encoder]) / 1e6, 2), 3.16)
  expect_equal(round(sum(table$count[!encoder]) / 1e6, 2), 6.32)
})

test_that("the same seed gives the same bits for any number of threads, another seed does not", {
  x <- small_spectra()
  one <- small_fit(x, threads = 1, seed = 3)
  expect_identical(small_fit(x, threads = 2, seed = 3)$weights, one$weights)
  expect_identical(small_fit(x, threads = 1, seed = 3)$history[1:4], one$history[1:4])
  expect_false(identical(small_fit(x, threads = 1, seed = 4)$weights, one$weights))
})

test_that("training leaves R's random numbers and BLAS alone", {
  x <- small_spectra()
  set.seed(1)
  before <- .Random.seed
  small_fit(x)
  expect_identical(.Random.seed, before)
})

test_that("an id keeps its place in training or validation when others come and go", {
  id <- sprintf("a-%04d", 1:400)
  is_training <- split_by_id(id, 0.25, 1)
  expect_identical(split_by_id(rev(id), 0.25, 1), rev(is_training))
  expect_identical(split_by_id(id[50:90], 0.25, 1), is_training[50:90])
  expect_equal(mean(is_training), 0.75, tolerance = 0.08)
  expect_false(identical(split_by_id(id, 0.25, 2), is_training))
  expect_true(split_by_id("only", 0.95, 1))
})

test_that("the learning rate goes up and down once, and stays constant on demand", {
  rates <- small_fit(epochs = 10, validation = 0, learning_rate = 1e-3)$history$learning_rate
  expect_equal(which.max(rates), 3)
  expect_lt(rates[10], 1e-3 / 25)
  expect_equal(small_fit(schedule = "constant", learning_rate = 2e-3)$history$learning_rate, rep(2e-3, 3))
  by_epoch <- small_fit(epochs = 10, learning_rate = 1e-3, schedule = "epoch", cycle_momentum = TRUE)$history$learning_rate
  expect_equal(by_epoch[1], 1e-3 / 25)
  expect_equal(by_epoch[10], 1e-3 / 25 / 1e4)
})

test_that("update() starts a new cycle and goes on with the history", {
  x <- small_spectra()
  fit <- small_fit(x, epochs = 4)
  more <- update(fit, x, epochs = 2, threads = 1, progress = FALSE)
  expect_equal(more$history$epoch, 1:6)
  expect_identical(more$history[1:4, ], fit$history)
  expect_equal(more$training$batch_size, 8)
  expect_equal(more$training$epochs, 6)
  expect_false(identical(more$weights, fit$weights))
  expect_error(update(fit, x, epochs = 1, latents = 3), class = "spender_error_invalid")
})

test_that("best = TRUE keeps the weights of the lowest validation loss", {
  x <- small_spectra()
  fit <- small_fit(x, epochs = 8, best = TRUE, learning_rate = 0.05, schedule = "constant")
  held_out <- !split_by_id(x$id, 0.2, 1)
  expect_equal(mean(predict(fit, x, "loss", threads = 1)[held_out]), min(fit$history$validation_loss), tolerance = 1e-6)
})

test_that("an LSF is learned, kept fixed at rate 0, and sums to one", {
  x <- small_spectra()
  fit <- small_fit(x, lsf = 5, learning_rate = 1e-2)
  expect_named(lsf(fit), c("-2", "-1", "0", "1", "2"))
  expect_equal(sum(lsf(fit)), 1)
  expect_true(any(abs(lsf(fit) - c(0, 0, 1, 0, 0)) > 1e-4))
  fixed <- small_fit(x, lsf = 5, lsf_rate = 0)
  expect_equal(unname(lsf(fixed)), c(0, 0, 1, 0, 0))
  # a kernel to start from, held; one that may not go negative
  kernel <- c(1, 3, 4, 1.5, 0.5)
  held <- small_fit(x, lsf = kernel, lsf_rate = 0)
  expect_equal(unname(lsf(held)), kernel / 10, tolerance = 1e-6)
  free <- small_fit(x, lsf = 5, learning_rate = 1e-2, lsf_rate = 5)
  positive <- small_fit(x, lsf = 5, learning_rate = 1e-2, lsf_rate = 5, lsf_sign = "nonnegative")
  expect_true(all(lsf(positive) >= 0))
  expect_equal(positive$training$lsf_sign, "nonnegative")
  expect_true(all(lsf(update(positive, x, epochs = 2, progress = FALSE)) >= 0))
  expect_null(lsf(small_fit(x)))
})

test_that("the kernel that lsf() gives is the one that the model convolves with", {
  x <- small_spectra(6)
  fit <- small_fit(x, lsf = 5, learning_rate = 5e-2, epochs = 10)
  s <- encode(fit, x, threads = 1)
  with_lsf <- decode(fit, s, x$z, threads = 1)
  same_pixels <- instrument(c(fit$instrument$wave, 8016)) # another instrument: no LSF
  bare <- decode(fit, s, x$z, instrument = same_pixels, threads = 1)
  kernel <- lsf(fit)
  m <- 20:200
  convolved <- Reduce(`+`, lapply(-2:2, function(i) kernel[[as.character(i)]] * bare[, m - i]))
  expect_equal(unname(with_lsf[, m]), unname(convolved), tolerance = 1e-5)
})

test_that("options of the network train too", {
  x <- small_spectra()
  for (network in list(small_network(redshift_input = FALSE), small_network(weight_attention = TRUE),
                       small_network(decoder_activation = "leaky_relu"))) {
    fit <- small_fit(x, network = network, learning_rate = 5e-3, epochs = 6)
    expect_lt(fit$history$train_loss[6], fit$history$train_loss[1])
  }
})

test_that("spectra without a norm are left out and named", {
  x <- small_spectra()
  x$norm[c(2, 5)] <- NA
  expect_warning(fit <- small_fit(x), "2, 5", class = "spender_warning_no_norm")
  expect_equal(fit$training$n_training + fit$training$n_validation, 22)
})

test_that("redshifts off the restframe grid warn, and stop when less than half is covered", {
  x <- small_spectra()
  x$z[3] <- 0.6
  expect_warning(small_fit(x), "1 of 24", class = "spender_warning_coverage")
  x$z[3] <- 4
  expect_snapshot(small_fit(x), error = TRUE)
})

test_that("a callback sees every epoch and can stop", {
  seen <- 0
  fit <- small_fit(epochs = 9, callback = function(history) {
    seen <<- nrow(history)
    nrow(history) < 4
  })
  expect_equal(seen, 4)
  expect_equal(nrow(fit$history), 4)
})

test_that("an interrupt gives the fit of the epochs done", {
  interrupt <- function(history) {
    if (nrow(history) == 3) signalCondition(structure(class = c("interrupt", "condition"), list(message = "", call = NULL)))
    TRUE
  }
  expect_warning(fit <- small_fit(epochs = 9, callback = interrupt), "epoch 3", class = "spender_warning_interrupted")
  expect_equal(nrow(fit$history), 3)
  expect_true(all(is.finite(predict(fit, small_spectra(4), "loss", threads = 1))))
})

test_that("a loss that runs away is an error in the first epoch, and the last good fit later", {
  x <- small_spectra()
  x$flux[1, ] <- 1e30
  expect_error(small_fit(x), class = "spender_error_diverged")
  poison <- function(history) {
    if (nrow(history) == 2) stop(diverged_condition(3))
    TRUE
  }
  expect_warning(fit <- small_fit(epochs = 5, callback = poison), "epoch 2", class = "spender_warning_diverged")
  expect_equal(nrow(fit$history), 2)
})

test_that("bad arguments are named", {
  x <- small_spectra(4)
  expect_snapshot(error = TRUE, {
    spender(1:3)
    small_fit(x, latents = 0)
    small_fit(x, latents = 2.5)
    small_fit(x, lsf = 4)
    small_fit(x, lsf = c(1, 1))
    small_fit(x, lsf = c(-1, 3, 1), lsf_sign = "nonnegative")
    small_fit(x, epochs = NA)
    small_fit(x, validation = 1)
    small_fit(x, device = "tpu")
    small_fit(x, precision = "fp64")
    small_fit(x, threads = 0)
    small_fit(x, seed = -1)
    small_fit(x, callback = 3)
    small_fit(x, wave_rest = c(3, 2, 1))
    small_fit(x[integer()])
    spender_network(filters = c(8, 16))
    spender_network(kernels = c(5, 11, 20))
    spender_network(filters = c(8, 16, 31))
    spender(x, network = list())
  })
})

test_that("printing shows what a person wants first", {
  on_cpu()
  fit <- small_fit()
  fit$history$train_loss <- c(5, 0.5, 0.5)
  fit$history$validation_loss <- c(5, 0.6, 0.6)
  fit$history$seconds <- 1:3
  fit$training$flat_loss <- 2
  expect_snapshot(print(fit))
  expect_snapshot(print(summary(fit)), transform = function(lines) sub("spender [0-9.]+\\)", "spender VERSION)", lines))
})

test_that("check_lsf() tells kernels that data decide from those they do not", {
  x <- small_spectra(16)
  fit <- small_fit(x, lsf = c(1, 4, 3))
  # no step changes a held kernel: the two starts stay apart
  expect_warning(check <- check_lsf(fit, x, epochs = 1, lsf_rate = 0, progress = FALSE, threads = 1), "not decided",
                 class = "spender_warning_lsf")
  expect_false(check$agree)
  expect_equal(unname(check$kernels["from a delta", ]), c(0, 1, 0))
  expect_equal(unname(check$kernels[3, ]), rev(unname(lsf(fit))), tolerance = 1e-6)
  expect_equal(unname(check$kernels["fit", ]), unname(lsf(fit)))
  expect_silent(same <- check_lsf(fit, x, epochs = 1, lsf_rate = 0, tolerance = 2, progress = FALSE, threads = 1))
  expect_true(same$agree)
  expect_output(print(check), "not decided")
  expect_error(check_lsf(small_fit(x), x), "no line spread function", class = "spender_error_invalid")
})

test_that("devices() says what is here", {
  d <- devices()
  expect_true(all(c("cblas", "cfitsio", "cuda") %in% names(d$built)))
  expect_gte(d$cores, 1)
  expect_true(d$instructions %in% c("avx512", "avx2", "baseline"))
  expect_output(print(d), "built with")
  expect_output(print(d), paste0("vectors +", d$instructions))
})

test_that("a fit survives saveRDS", {
  x <- small_spectra(6)
  fit <- small_fit(x)
  path <- tempfile(fileext = ".rds")
  saveRDS(fit, path)
  expect_identical(encode(readRDS(path), x, threads = 1), encode(fit, x, threads = 1))
  unlink(path)
})

test_that("a forked child computes the same", {
  skip_on_os("windows")
  x <- small_spectra(6)
  fit <- small_fit(x, threads = 2)
  here <- encode(fit, x, threads = 2)
  child <- parallel::mclapply(1, function(i) encode(fit, x, threads = 2), mc.cores = 2)
  expect_identical(child[[1]], here)
})

test_that("the flat model's loss is what its formula says, for whatever rows", {
  x <- small_spectra(20)
  x$ivar[3, ] <- 0
  fit <- suppressWarnings(small_fit(x, epochs = 1))
  rows <- c(7, 3, 19, 7)
  found <- flat_model(x, fit$wave_rest[50:300], 5, rows)
  covered <- coverage(x$z, x$instrument$wave, fit$wave_rest[50:300], 5)
  plain <- vapply(rows, function(i) {
    inside <- seq_len(251) >= covered[i, "from"] & seq_len(251) <= covered[i, "to"]
    sum(x$ivar[i, inside] * (x$flux[i, inside] - 1)^2) / (2 * 251)
  }, 0)
  expect_equal(found$loss, mean(plain), tolerance = 1e-14)
  expect_equal(found$valid, mean(x$ivar[rows, ] > 0))
  # spectra that are left out do not count
  expect_warning(masked <- small_fit(x, epochs = 1), "rows 3\\.", class = "spender_warning_masked")
  expect_equal(masked$weights, small_fit(x[-3], epochs = 1)$weights)
  expect_error(suppressWarnings(small_fit(x[3], epochs = 1)), "no spectrum to train on", class = "spender_error_invalid")
  x <- x[-3]
  x$norm[2] <- NA
  expect_warning(without <- small_fit(x, epochs = 1), class = "spender_warning_no_norm")
  expect_equal(without$weights, small_fit(x[-2], epochs = 1)$weights)
  expect_equal(without$training[c("flat_loss", "valid_fraction", "n_training")],
               small_fit(x[-2], epochs = 1)$training[c("flat_loss", "valid_fraction", "n_training")])
})
