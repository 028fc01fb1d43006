invariance_small <- function(...) spender_invariance(period = 4, free_epochs = 1, z_range = c(0, 0.3), ...)
small_invariant <- function(x, ..., epochs = 4) small_fit(x, epochs = epochs, network = small_network(redshift_input = FALSE), ...)

test_that("presets hold the published values, arguments replace them", {
  sdss <- spender_invariance(form = "published")
  expect_equal(unclass(sdss)[c("sigma", "amplitude", "width", "slope", "period", "z_range", "fraction", "masked", "cycle_consistency")],
               list(sigma = 0.1, amplitude = 20, width = 1000, slope = 9.9, period = 100, z_range = c(0, 0.5), fraction = 1, masked = 0.05,
                    cycle_consistency = FALSE))
  desi <- spender_invariance("desi", sigma = 0.3)
  expect_equal(unclass(desi)[c("sigma", "amplitude", "width", "slope", "period", "z_range", "masked", "cycle_consistency", "form")],
               list(sigma = 0.3, amplitude = 30, width = 2000, slope = 1.9, period = 20, z_range = c(0, 0.8), masked = 0,
                    cycle_consistency = TRUE, form = "scale-free"))
  expect_output(print(desi), "scale-free.*sigma +0.3.*z_range +0.0, 0.8")
  # in short trainings k goes through its cycle, too, and rests at the end
  x <- small_spectra(4)
  short <- invariance_settings(sdss, x, 1:4, 20)
  expect_equal(short[c("period", "free_from")], list(period = 9, free_from = 18))
  long <- invariance_settings(sdss, x, 1:4, 1000)
  expect_equal(long[c("period", "free_from")], list(period = 100, free_from = 990))
})

test_that("wrong arguments are errors that name them", {
  x <- small_spectra(8)
  for (wrong in list(list(sigma = 0), list(fraction = 2), list(period = 1.5), list(z_range = c(1, 0)), list(median_range = 4000),
                     list(noise = -1), list(similarity = -1), list(cycle_consistency = 1))) {
    expect_error(do.call(spender_invariance, wrong), paste0("`", names(wrong), "`"), class = "spender_error_invalid")
  }
  expect_error(small_fit(x, invariance = list()), "`invariance` must be NULL or come from", class = "spender_error_invalid")
  expect_error(small_fit(x, invariance = spender_invariance(), refine = TRUE), "`refine`", class = "spender_error_invalid")
  expect_error(small_fit(x, invariance = spender_invariance(median_range = c(100, 200))), "between 100 and 200",
               class = "spender_error_invalid")
  expect_error(small_fit(x, clip = 0), "`clip`", class = "spender_error_invalid")
  expect_error(small_fit(x, epsilon = -1), "`epsilon`", class = "spender_error_invalid")
})

test_that("a training with all options has the same bits for any threads, from a survey, and resumed", {
  x <- small_spectra(40)
  train <- function(x, ..., threads = 1) {
    small_invariant(x, ..., threads = threads, invariance = invariance_small(), clip = 0.1, epsilon = 1e-6)
  }
  whole <- train(x)
  expect_identical(train(x, threads = 3)$weights, whole$weights)
  expect_identical(train(write_survey(x, withr::local_tempfile()))$weights, whole$weights)
  path <- withr::local_tempfile(fileext = ".safetensors")
  train(x, checkpoint = path, callback = function(history) nrow(history) < 2)
  resumed <- train(x, checkpoint = path, resume = TRUE)
  expect_identical(resumed$weights, whole$weights)
  expect_identical(resumed$history[1:4], whole$history[1:4])
  expect_error(small_invariant(x, invariance = invariance_small(), epsilon = 1e-6, checkpoint = path, resume = TRUE), "clip",
               class = "spender_error_checkpoint")
  expect_error(small_invariant(x, invariance = invariance_small(sigma = 0.2), clip = 0.1, epsilon = 1e-6, checkpoint = path, resume = TRUE),
               "invariance", class = "spender_error_checkpoint")
  plain <- small_invariant(x, clip = 0.1, epsilon = 1e-6)
  expect_false(identical(plain$weights, whole$weights))
  # copies go with the ids
  renamed <- x
  renamed$object <- renamed$id
  renamed$id <- rev(renamed$id)
  expect_false(identical(train(renamed)$weights, whole$weights))
})

test_that("averaged weights are those of the validation, survive a resume, and are steady at a constant rate", {
  x <- small_spectra(40)
  train <- function(average, ...) {
    small_fit(x, epochs = 20, schedule = "constant", learning_rate = 1e-2, best = FALSE, average = average, ...)
  }
  averaged <- train(2)
  held <- held_out(averaged, x)
  expect_equal(mean(predict(averaged, x[held], "loss", refine = 0)), averaged$history$validation_loss[20], tolerance = 1e-6)
  plain <- train(0)
  expect_identical(averaged$history$train_loss, plain$history$train_loss)
  unrest <- function(fit) stats::sd(diff(fit$history$validation_loss[11:20]))
  expect_lt(unrest(averaged), unrest(plain))
  expect_equal(averaged$training$average, 2)
  path <- withr::local_tempfile(fileext = ".safetensors")
  train(2, checkpoint = path, callback = function(history) nrow(history) < 3)
  expect_error(train(3, checkpoint = path, resume = TRUE), "average", class = "spender_error_checkpoint")
  resumed <- train(2, checkpoint = path, resume = TRUE)
  expect_identical(resumed$weights, averaged$weights)
  expect_identical(resumed$history[1:4], averaged$history[1:4])
  expect_error(train(-1), "`average`", class = "spender_error_invalid")
})

test_that("the last epoch is kept, the encoder does not see z by default, and update() goes on with the losses", {
  x <- small_spectra(40)
  fit <- spender(x, latents = 2, epochs = 3, batch_size = 16, validation = 0.2, threads = 1, progress = FALSE, init = "random",
                 invariance = invariance_small())
  expect_false(fit$architecture$redshift_input)
  expect_equal(fit$training$kept, 3)
  fit <- small_invariant(x, invariance = invariance_small())
  path <- withr::local_tempfile(fileext = ".safetensors")
  write_model(fit, path)
  read <- read_model(path)
  expect_equal(read$training$invariance, unclass(invariance_small()))
  again <- update(fit, x, 2, threads = 1, progress = FALSE)
  expect_identical(update(read, x, 2, threads = 1, progress = FALSE)$weights, again$weights)
  expect_false(identical(update(fit, x, 2, threads = 1, progress = FALSE, invariance = NULL)$weights, again$weights))
})

test_that("spectra move to another redshift as plain interpolation has it, and masked pixels stay masked", {
  x <- small_spectra(6)
  wave <- x$instrument$wave
  moved <- interpolated_at(x, 0.3, 2)
  expect_true(all(moved$z == 0.3))
  for (i in seq_along(x$z)) {
    at <- wave * (1 + x$z[i]) / 1.3
    flux <- stats::approx(wave, x$flux[i, ], at)$y
    ivar <- stats::approx(wave, x$ivar[i, ], at)$y
    masked <- stats::approx(wave, as.double(x$ivar[i, ] == 0), at)$y
    expect_equal(moved$flux[i, ], ifelse(is.na(flux), 0, flux), tolerance = 1e-5)
    expect_equal(moved$ivar[i, ], ifelse(is.na(ivar) | masked > 0, 0, ivar), tolerance = 1e-5)
    expect_identical(moved$ivar[i, ] == 0, is.na(ivar) | masked > 0)
  }
})

test_that("the glue of a training survives every wrong member of its invariance", {
  x <- small_spectra(6)
  fit <- small_fit(x, epochs = 1)
  settings <- invariance_settings(spender_invariance(), x, 1:6, 2)
  open <- function(settings) {
    training <- list(device = "cpu", threads = 1, precision = "fp32", batch_size = 4, seed = 1, rate = 1e-3, total_steps = 4,
                     steps_per_stage = 1, cycle_momentum = FALSE, constant = FALSE, lsf_factor = 1, lsf_nonnegative = FALSE,
                     refine_from = NA_real_, clip = 1, epsilon = 1e-8, average = 0, invariance = settings)
    session <- .Call(ffi_train_open, fit$architecture, fit$weights, fit$instrument$wave, fit$wave_rest,
                     list(flux = x$flux, ivar = x$ivar, rows = as.double(1:6)), x$z, rep(TRUE, 6), training)
    .Call(ffi_train_advance, session, 0)
    .Call(ffi_session_close, session)
  }
  open(settings)
  never <- list(NULL, "a", list(), c(1, 2, 3), raw(2), quote(a), globalenv())
  for (name in names(settings)) {
    for (value in never) {
      wrong <- settings
      wrong[name] <- list(value)
      expect_error(open(wrong), info = name)
    }
    for (value in list(NA, NaN, -1, Inf, 1e300, rep(NaN, 2), rep(-5, 6))) {
      wrong <- settings
      wrong[[name]] <- value
      try(open(wrong), silent = TRUE) # some are numbers that make no sense: nothing may break
    }
  }
  expect_true(TRUE)
})

# Cases of a file of the C core's vectors, which the losses of both backends are compared with
core_vectors <- function(name) {
  path <- test_path("..", "core", "vectors", paste0(name, ".txt"))
  if (!file.exists(path)) path <- file.path(Sys.getenv("SPENDER_VECTORS", "none"), paste0(name, ".txt"))
  skip_if_not(file.exists(path), paste("the core's vectors are not here:", path))
  words <- scan(path, "", quiet = TRUE)
  cases <- list()
  at <- 1
  while (at <= length(words)) {
    if (words[at] == "case") {
      cases[[length(cases) + 1]] <- list(name = words[at + 1])
      at <- at + 2
      next
    }
    count <- if (words[at] == "array") as.integer(words[at + 2]) else 0
    value <- as.numeric(if (words[at] == "array") words[at + 2 + seq_len(count)] else words[at + 2])
    cases[[length(cases)]][[words[at + 1]]] <- value
    at <- at + 3 + count
  }
  cases
}
by_rows <- function(values, n) matrix(values, n, byrow = TRUE)

test_that("the similarity loss is what plain R makes of its formula", {
  for (case in core_vectors("similarity")) {
    n <- case$n
    rest <- by_rows(case$rest, n)
    s <- by_rows(case$latent, n)
    window <- rest[, (case$start + 1):case$end, drop = FALSE]
    median <- apply(window, 1, function(x) sort(x)[(length(x) + 1) %/% 2])
    x <- rest / pmax(median, 1e-3)
    far <- near <- matrix(0, n, n)
    for (i in seq_len(n)) for (j in seq_len(n)) {
      far[i, j] <- sum(case$root^2 * (x[i, ] - x[j, ])^2)
      near[i, j] <- sum((s[i, ] - s[j, ])^2) / case$n_latent
    }
    if (case$scale_free == 1) {
      pairs <- max(1, n * (n - 1))
      far <- far / (sum(far) / pairs + 1e-12)
      near <- near / (sum(near) / pairs + 1e-12)
    }
    pair <- stats::plogis(case$slope * (near - far) - 2.5) + stats::plogis(-case$slope * (near - far) - 2.5)
    diag(pair) <- 0
    expect_equal(case$loss, rowSums(pair) / n, tolerance = 1e-5, info = case$name)
  }
})

test_that("the consistency loss is what plain R makes of its formula", {
  for (case in core_vectors("consistency")) {
    s <- by_rows(case$latent, case$n)
    copy <- by_rows(case$copy, case$copies)
    unit <- 1
    if (case$scale_free == 1) { # of neighbours in the batch, the last one's is the first
      steps <- rowSums((s - s[c(seq_len(case$n)[-1], 1), , drop = FALSE])^2) / (2 * case$n_latent)
      unit <- exp(mean(log(steps + 1e-12)))
    }
    apart <- rowSums((copy - s[seq_len(case$copies), , drop = FALSE])^2) / (case$n_latent * case$sigma^2 * unit)
    expect_equal(case$loss, stats::plogis(apart) - 0.5, tolerance = 1e-5, info = case$name)
  }
})
