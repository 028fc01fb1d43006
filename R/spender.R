#' Fit an autoencoder to galaxy spectra
#'
#' Trains the network of Melchior et al. (2023): an attentive convolutional encoder compresses a spectrum and its redshift to
#' `latents` numbers, a decoder makes a restframe spectrum of them, which is redshifted, resampled and convolved with the line
#' spread function to be compared with the observation. The loss of a spectrum with \eqn{M} pixels is (equation 1)
#' \deqn{\ell = \frac{1}{2M}\sum_m w_m (y_m - y'_m)^2,}
#' with inverse variances \eqn{w}, zero where a pixel is masked, missing, or outside the restframe grid. \eqn{M} counts masked
#' pixels too, so a perfect model's loss is half the valid fraction.
#'
#' Spectra without a norm (see [spectra()]) are left out, and said so. Whether a spectrum trains or validates is decided by a
#' hash of its id and `split_seed`, so it does not change when others are added. With the same data, seed and build the result is
#' the same to the last bit, whatever the number of threads.
#'
#' Linear layers start with weights that keep the variance of what passes them (He et al. 2015). The published code takes
#' PyTorch's, from which signals start hundreds of times weaker: then training finds one direction of the latents at a time, and
#' weak ones, such as the ratio within a doublet, not in a usual number of epochs.
#'
#' @param x Observed [spectra()], or a survey from [open_survey()], which is read from its files while training goes on: with the same
#'   seed, the same losses to the last bit as from memory.
#' @param latents Number of latents \eqn{S}.
#' @param superresolution Restframe pixels per observed pixel, at least 1. The default grid is uniform in Å from
#'   \eqn{\lambda_1 / (1 + z_{max})} to \eqn{\lambda_M} (vacuum), with `floor(M * (1 + z_max)) * superresolution` pixels: 5881 for SDSS.
#' @param lsf Pixels of the line spread function's kernel (odd), or 0 for none: it is learned from a delta. Or the kernel to start
#'   from, an odd number of weights in the order of [lsf()]; they are divided by their sum. What is learned is identifiable only
#'   under conditions that [lsf()] names.
#' @param lsf_rate Learning rate of the kernel as a multiple of the others'; 0 keeps it as it is.
#' @param lsf_sign `"free"`, or `"nonnegative"` to keep the kernel's weights from going below zero.
#' @param z_max Highest redshift that the default restframe grid covers.
#' @param wave_rest Restframe grid in Å (increasing), instead of the default one.
#' @param network Widths and options, see [spender_network()].
#' @param epochs,batch_size,learning_rate Training: passes over the data, spectra per step (`NULL`: 64 on a CPU, 1024 on a GPU), and
#'   the highest learning rate of the 1Cycle schedule (Adam, warm-up over 30 % of the steps, cosine decay).
#' @param schedule `"step"` changes the learning rate every step, `"epoch"` every epoch (as the published code does),
#'   `"constant"` never.
#' @param cycle_momentum Let Adam's first moment decay cycle between 0.95 and 0.85, against the learning rate.
#' @param validation Fraction of the spectra held out, whose loss is reported after every epoch.
#' @param best Return the weights of the epoch with the lowest validation loss instead of the last epoch's.
#' @param device `"cpu"`, `"cuda"` (an error where no GPU can be used, see [devices()]) or `"auto"`: a GPU if there is one.
#' @param precision On a GPU, how convolutions and their activations are rounded: `"fp32"`, not at all; `"tf32"`, operands of matrix
#'   products to 11 significant bits; `"fp16"`, operands and stored activations to 11 significant bits in 16, with a scale for each
#'   gradient that keeps its exponent in range, as exact as `"tf32"` and faster; `"bf16"`, to 8 significant bits. Sums,
#'   norms, small layers, weights and optimiser are fp32 in any case. On a CPU all is fp32.
#' @param threads Threads on the CPU; `NULL` for `getOption("spender.threads")`, else what the environment variable `OMP_NUM_THREADS`
#'   says, else all cores that this process may use (see [devices()]).
#' @param seed Seed of initial weights and order of the spectra; a whole number.
#' @param split_seed Seed of validation membership.
#' @param checkpoint A file to keep the state of the training in, or `NULL`. It is written every `checkpoint_minutes`, when training
#'   is interrupted, and at the end; a new one replaces the old one in one step, so there is always a whole one.
#' @param checkpoint_minutes Minutes between two checkpoints; 0 writes one several times a second.
#' @param resume Go on from `checkpoint`, if that file is there: with the same data and arguments (number of threads and the callback
#'   aside) the fit has the bits of one that was never interrupted. The file knows what training it is of, and other data or arguments are
#'   an error that names them.
#' @param progress Show a progress bar and say what was chosen?
#' @param callback A function called after every epoch with the history so far (a data frame); training ends early when it
#'   returns `FALSE`.
#'
#' @return A list of class `spender`: `architecture`, `weights` (float32, as raw bytes), `instrument`, `wave_rest` (Å),
#'   `history` (a data frame: `epoch`, `train_loss`, `validation_loss`, `learning_rate`, `seconds`), `training` (what it was trained with and on; `kept` is the row of `history` that the weights are of) and `call`. It
#'   is a plain R object: [saveRDS()] keeps all of it, [write_model()] writes it for others. An interrupt returns the fit of the
#'   epochs done, with a warning.
#'
#' @section Errors: `spender_error_invalid` for arguments that do not make sense, for redshifts with which the restframe grid
#'   covers less than half of a spectrum (rows named), and for nothing to train on; `spender_error_diverged` when the loss is
#'   no longer finite in the first epoch (later, the last finite epoch's fit is returned with a warning); `spender_error_checkpoint`
#'   where `checkpoint` is of another training, or damaged.
#' @references Melchior, P., Liang, Y., Hahn, C., Goulding, A. (2023), Autoencoding Galaxy Spectra I: Architecture, AJ 166, 74.
#'   <https://arxiv.org/abs/2211.07890>
#'
#'   He, K., Zhang, X., Ren, S., Sun, J. (2015), Delving Deep into Rectifiers, ICCV. <https://arxiv.org/abs/1502.01852>
#' @seealso [encode()], [predict.spender()], [reconstruct()], [write_model()], [plot_reconstruction()]
#' @export
#' @examples
#' x <- simulate_spectra(24, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = c(16, 32))
#' fit <- spender(x, latents = 2, epochs = 4, batch_size = 8, validation = 0.2, network = small,
#'                threads = 1, progress = FALSE)
#' fit
#' encode(fit, x[1:3])
spender <- function(x, latents = 6, superresolution = 1, lsf = 0, lsf_rate = 1, lsf_sign = c("free", "nonnegative"), z_max = 0.5,
                    wave_rest = NULL,
                    network = spender_network(), epochs = 100, batch_size = NULL, learning_rate = 1e-3,
                    schedule = c("step", "epoch", "constant"), cycle_momentum = FALSE, validation = 0.15, best = FALSE,
                    device = "auto", precision = "fp16", threads = NULL, seed = 1, split_seed = seed, checkpoint = NULL,
                    checkpoint_minutes = 10, resume = FALSE, progress = interactive(), callback = NULL) {
  check_source(x)
  check_number(latents, "latents", 1, 4096, whole = TRUE)
  check_network(network)
  kernel <- if (length(lsf) > 1) check_kernel(lsf)
  lsf <- if (is.null(kernel)) lsf else length(kernel)
  check_number(lsf, "lsf", 0, whole = TRUE)
  if (lsf > 0 && lsf %% 2 == 0) abort("invalid", "`lsf` must be 0 or odd, not ", lsf, ".")
  if (lsf > length(x$instrument$wave)) {
    abort("invalid", "`lsf` must not be longer than a spectrum: it is ", lsf, " pixels, and the grid has ", length(x$instrument$wave), ".")
  }
  lsf_sign <- match.arg(lsf_sign)
  if (lsf_sign == "nonnegative" && any(kernel < 0)) abort("invalid", "`lsf` has negative weights, which `lsf_sign = \"nonnegative\"` excludes.")
  wave_rest <- restframe_grid(x$instrument, superresolution, z_max, wave_rest)
  check_number(seed, "seed", 0, 2^53, whole = TRUE)
  check_number(split_seed, "split_seed", 0, 2^53, whole = TRUE)

  architecture <- new_architecture(network, length(x$instrument$wave), length(wave_rest), latents, lsf)
  fit <- structure(list(
    architecture = architecture,
    weights = .Call(ffi_network_fill, architecture, seed),
    instrument = x$instrument,
    wave_rest = wave_rest,
    history = empty_history(),
    training = list(),
    call = match.call()
  ), class = "spender")
  if (!is.null(kernel)) fit <- set_lsf(fit, kernel)
  train(fit, x, lsf_rate = lsf_rate, lsf_sign = lsf_sign, epochs = epochs, batch_size = batch_size, learning_rate = learning_rate,
        schedule = match.arg(schedule), cycle_momentum = cycle_momentum, validation = validation, best = best,
        device = device, precision = precision, threads = threads, seed = seed, split_seed = split_seed, checkpoint = checkpoint,
        checkpoint_minutes = checkpoint_minutes, resume = resume, progress = progress, callback = callback)
}

#' Train a fit further
#'
#' A warm start: the weights are kept, the learning rate goes through a new cycle, and Adam starts afresh. The history goes on.
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] or a survey on the fit's instrument.
#' @param epochs Further epochs.
#' @param ... Arguments of [spender()] that concern training: `batch_size`, `learning_rate`, `schedule`, `cycle_momentum`,
#'   `validation`, `best`, `lsf_rate`, `lsf_sign`, `device`, `precision`, `threads`, `seed`, `split_seed`, `checkpoint`,
#'   `checkpoint_minutes`, `resume`, `progress`, `callback`. Those left out are as in the
#'   training before.
#' @return The fit, trained further.
#' @export
update.spender <- function(object, x, epochs, ...) {
  check_source(x)
  check_same_grid(object, x)
  known <- c("batch_size", "learning_rate", "schedule", "cycle_momentum", "validation", "best", "lsf_rate", "lsf_sign", "device",
             "precision", "threads", "seed", "split_seed", "checkpoint", "checkpoint_minutes", "resume", "progress", "callback")
  given <- list(...)
  unknown <- setdiff(names(given), known)
  if (length(unknown) || length(given) && is.null(names(given))) {
    abort("invalid", "update() does not know the argument ", enumerate(paste0("`", unknown, "`")), ".")
  }
  before <- object$training[intersect(c("batch_size", "learning_rate", "schedule", "cycle_momentum", "validation", "lsf_rate",
                                        "lsf_sign", "seed", "split_seed"), names(object$training))]
  defaults <- list(batch_size = NULL, learning_rate = 1e-3, schedule = "step", cycle_momentum = FALSE, validation = 0.15,
                   best = FALSE, lsf_rate = 1, lsf_sign = "free", device = "auto", precision = "fp16", threads = NULL, seed = 1,
                   split_seed = NULL, checkpoint = NULL, checkpoint_minutes = 10, resume = FALSE, progress = interactive(), callback = NULL)
  arguments <- utils::modifyList(utils::modifyList(defaults, before, keep.null = TRUE), given, keep.null = TRUE)
  if (is.null(arguments$split_seed)) arguments$split_seed <- arguments$seed
  do.call(train, c(list(object, x, epochs = epochs), arguments))
}

# The training loop: steps happen in C, a fraction of a second at a time; progress, interrupts and history here.
train <- function(fit, x, lsf_rate, lsf_sign, epochs, batch_size, learning_rate, schedule, cycle_momentum, validation, best, device,
                  precision, threads = NULL, seed, split_seed = seed, checkpoint = NULL, checkpoint_minutes = 10, resume = FALSE,
                  progress, callback = NULL) {
  check_number(epochs, "epochs", 1, 1e9, whole = TRUE)
  check_number(learning_rate, "learning_rate", 0, 10)
  check_number(lsf_rate, "lsf_rate", 0, 1e3)
  check_number(validation, "validation", 0, 0.95)
  check_flag(cycle_momentum, "cycle_momentum")
  check_flag(best, "best")
  check_flag(progress, "progress")
  check_checkpoint(checkpoint, checkpoint_minutes, resume)
  if (!is.null(callback) && !is.function(callback)) abort("invalid", "`callback` must be a function, not ", describe(callback), ".")
  if (!is.character(lsf_sign) || !lsf_sign %in% c("free", "nonnegative")) {
    abort("invalid", "`lsf_sign` must be \"free\" or \"nonnegative\", not ", describe(lsf_sign), ".")
  }
  if (!is.character(schedule) || !schedule %in% c("step", "epoch", "constant")) {
    abort("invalid", "`schedule` must be \"step\", \"epoch\" or \"constant\", not ", describe(schedule), ".")
  }
  device <- choose_device(device, precision, threads)
  if (inherits(x, "survey")) check_unchanged(x)
  rows <- usable_for_fit(fit, x)
  if (inherits(x, "survey") && length(rows) < length(x)) { # numbers of rows only; spectra in memory are not copied
    x <- x[rows]
    rows <- seq_along(x$z)
  }
  n <- length(rows)
  z <- x$z[rows]
  is_training <- split_rows(x, validation, split_seed, rows)
  n_training <- sum(is_training)
  batch_size <- min(choose_batch_size(batch_size, device), n)
  steps_per_epoch <- ceiling(n_training / batch_size)
  if (progress) {
    cli::cli_inform(c(i = "Training on {n_training} spectr{?um/a}, validating on {n - n_training}; {device$device}, {device$name}, {device$precision}."))
  }

  data <- if (inherits(x, "survey")) list(paths = x$files$path, counts = x$files$n, rows = x$rows) else list(flux = x$flux, ivar = x$ivar, rows = as.double(rows))
  session <- .Call(ffi_train_open, fit$architecture, fit$weights, fit$instrument$wave, fit$wave_rest, data, z,
                   is_training, c(device, list(batch_size = batch_size, seed = seed, rate = learning_rate,
                                     total_steps = steps_per_epoch * epochs,
                                     steps_per_stage = if (schedule == "epoch") steps_per_epoch else 1,
                                     cycle_momentum = cycle_momentum, constant = schedule == "constant",
                                     lsf_factor = lsf_rate, lsf_nonnegative = lsf_sign == "nonnegative")))
  on.exit(.Call(ffi_train_close, session))

  run <- new_run(fit, epochs, best)
  keeper <- if (!is.null(checkpoint)) {
    checkpoint_keeper(checkpoint, checkpoint_minutes, session, run, training_identity(fit, x, rows, is_training, list(
      epochs = epochs, batch_size = batch_size, learning_rate = learning_rate, schedule = schedule, cycle_momentum = cycle_momentum,
      best = best, lsf_rate = lsf_rate, lsf_sign = lsf_sign, seed = seed, device = device$device, precision = device$precision
    )))
  }
  if (resume && file.exists(checkpoint)) {
    keeper$restore()
    message("Going on after epoch ", run$epoch, " of ", epochs, ", from ", basename(checkpoint), ".")
  } else if (resume) {
    message("There is no ", basename(checkpoint), " to resume from: the training begins.")
  }
  bar <- if (progress) cli::cli_progress_bar("Epochs", total = epochs * steps_per_epoch,
                                             format = "{cli::pb_bar} epoch {run$epoch}/{epochs}  loss {format(run$loss, digits = 4)}  {cli::pb_eta_str}")
  tick <- function(step) if (progress) cli::cli_progress_update(id = bar, set = step)
  outcome <- tryCatch(training_loop(session, run, keeper, tick, callback), interrupt = function(e) e, spender_diverged = function(e) e)
  if (!is.null(keeper) && !inherits(outcome, "spender_diverged")) keeper$keep()
  if (progress) cli::cli_progress_done(id = bar)

  if (inherits(outcome, "spender_diverged")) {
    if (run$epoch == 0) {
      abort("diverged", "The loss is not finite after ", run$step, " steps. Try a lower `learning_rate` than ",
            format(learning_rate), ", or look for extreme values of flux or ivar.")
    }
    warn("diverged", "The loss was no longer finite in epoch ", run$epoch + 1, "; the fit is that of epoch ", run$epoch,
         ". Try a lower `learning_rate`.")
  } else if (inherits(outcome, "interrupt")) {
    warn("interrupted", "Training was interrupted; the fit is that of ",
         if (run$epoch > 0) paste0("epoch ", run$epoch) else "the initial weights", ".")
  }

  fit$weights <- run$weights
  fit$history <- rbind(fit$history, run$history)
  fit$training <- list(
    epochs = nrow(fit$history), batch_size = batch_size, learning_rate = learning_rate, schedule = schedule,
    cycle_momentum = cycle_momentum, lsf_rate = lsf_rate, lsf_sign = lsf_sign, validation = validation, best = best,
    seed = seed, split_seed = split_seed, device = device$device, precision = device$precision,
    n_training = n_training, n_validation = n - n_training, z_range = range(z),
    kept = nrow(run$earlier) + run$kept
  )
  if (inherits(x, "survey")) {
    x <- a_part_of(x)
    rows <- seq_along(x$z)
  }
  flat <- flat_model(x, fit$wave_rest, fit$architecture$lsf, rows)
  fit$training[c("flat_loss", "valid_fraction")] <- list(flat$loss, flat$valid)
  fit
}

# What a training has reached: an environment with `epoch`, `history` (of this training; `earlier` is the fit's before), `weights`
# (those that the fit would have now), `lowest` validation loss, `loss` and `step`.
new_run <- function(fit, epochs, best) {
  list2env(list(epochs = epochs, best = best, earlier = fit$history, epoch = 0, history = empty_history(), weights = fit$weights,
                lowest = Inf, loss = NA_real_, step = 0, kept = 0, started = proc.time()[["elapsed"]]), parent = emptyenv())
}

training_loop <- function(session, run, keeper, tick, callback) {
  while (run$epoch < run$epochs) {
    # An interrupt comes between two steps of this loop, never between an epoch's last step and its line in the history.
    finished <- suspendInterrupts({
      state <- .Call(ffi_train_advance, session, 0.2)
      run$loss <- state$loss
      run$step <- state$step
      if (!is.finite(run$loss)) stop(diverged_condition(run$epoch + 1))
      if (state$epoch_finished) end_epoch(session, run, state)
      state$epoch_finished
    })
    tick(run$step)
    if (!is.null(keeper)) keeper$keep_if_due()
    if (finished && !is.null(callback) && identical(callback(rbind(run$earlier, run$history)), FALSE)) break
  }
  NULL
}

end_epoch <- function(session, run, state) {
  held_out <- .Call(ffi_train_validate, session)
  weights <- .Call(ffi_train_weights, session)
  # the epoch's last step may be the one that diverged
  if (is.nan(held_out) || is.infinite(held_out) || !.Call(ffi_all_finite, weights)) stop(diverged_condition(run$epoch + 1))
  run$epoch <- run$epoch + 1
  run$history <- rbind(run$history, data.frame(epoch = nrow(run$earlier) + run$epoch, train_loss = state$loss, validation_loss = held_out,
                                               learning_rate = state$learning_rate, seconds = proc.time()[["elapsed"]] - run$started))
  if (!run$best || is.na(held_out) || held_out < run$lowest) {
    run$weights <- weights
    run$kept <- run$epoch
    run$lowest <- min(run$lowest, held_out, na.rm = TRUE)
  }
}

diverged_condition <- function(epoch) {
  structure(class = c("spender_diverged", "condition"), list(message = paste("diverged in epoch", epoch), call = NULL))
}

empty_history <- function() {
  data.frame(epoch = numeric(), train_loss = numeric(), validation_loss = numeric(), learning_rate = numeric(),
             seconds = numeric())
}

# ---- what a fit needs of its data ----

check_spectra <- function(x, name = "x") {
  if (!inherits(x, "spectra")) {
    abort("invalid", "`", name, "` must be spectra, as made by spectra(), read_sdss() or simulate_spectra(); it is ",
          describe(x), ".")
  }
  check_whole(x, name)
}

# An object whose fields were changed by hand may not be one any more.
check_whole <- function(x, name = "x") {
  n <- length(x$z)
  width <- length(x$instrument$wave)
  for (field in c("flux", "ivar")) {
    if (!is.matrix(x[[field]]) || !is.double(x[[field]]) || !identical(dim(x[[field]]), c(n, width))) {
      abort("invalid", "`", name, "$", field, "` must be a matrix of numbers with a row for each of the ", n, " redshifts and a column for each of the ",
            width, " pixels; it is ", describe_shape(x[[field]]), ". Choose spectra by `x[rows]`, which keeps all fields together.")
    }
  }
  for (field in c("z", "norm", "id", if (!is.null(x$object)) "object")) {
    if (length(x[[field]]) != n || !(if (field %in% c("id", "object")) is.character else is.numeric)(x[[field]])) {
      abort("invalid", "`", name, "$", field, "` must have an element for each of the ", n, " redshifts; it is ", describe_shape(x[[field]]),
            ". Choose spectra by `x[rows]`, which keeps all fields together.")
    }
  }
  if (!is.data.frame(x$meta) || nrow(x$meta) != n) {
    abort("invalid", "`", name, "$meta` must be a data frame with a row for each of the ", n, " redshifts; it is ", describe_shape(x$meta), ".")
  }
}

describe_shape <- function(x) {
  if (is.null(x)) return("missing")
  if (length(dim(x)) == 2) return(paste(if (is.data.frame(x)) "a data frame" else paste("a", typeof(x), "matrix"), "of", paste(dim(x), collapse = " by ")))
  paste("a", class(x)[1], "of length", length(x))
}

# Spectra in memory or in files
check_source <- function(x) if (!inherits(x, "survey")) check_spectra(x)

# What is measured of all spectra in memory is measured of some thousand spread over a survey.
a_part_of <- function(x, most = 4096) {
  if (!inherits(x, "survey")) return(x)
  as_spectra(if (length(x) > most) x[round(seq(1, length(x), length.out = most))] else x)
}

ids_of <- function(x, rows) if (inherits(x, "survey")) survey_catalogue(x, "ID", x$rows[rows])$ID else x$id[rows]

# Objects that the spectra of some rows are of
objects_of <- function(x, rows) {
  if (inherits(x, "survey")) objects_in(survey_catalogue(x, name_columns(x), x$rows[rows])) else object_of(x)[rows]
}

# A survey's columns that name its spectra, and the objects that they say
name_columns <- function(x) c("ID", if (x$has_objects %in% TRUE) "OBJECT")
objects_in <- function(names) if (is.null(names$OBJECT)) names$ID else ifelse(is.na(names$OBJECT), names$ID, names$OBJECT)

check_network <- function(network) {
  if (!inherits(network, "spender_network")) {
    abort("invalid", "`network` must come from spender_network(); it is ", describe(network), ".")
  }
}

check_fit <- function(fit) {
  if (!inherits(fit, "spender")) {
    abort("invalid", "`fit` must be a fit from spender() or read_model(); it is ", describe(fit), ".")
  }
}

check_same_grid <- function(fit, x) {
  ours <- fit$instrument$wave
  theirs <- x$instrument$wave
  if (length(ours) != length(theirs) || any(abs(ours - theirs) > 1e-6 * ours)) {
    abort("grid", "The spectra's wavelength grid (", describe_grid(theirs), ") is not the fit's (", describe_grid(ours), ").")
  }
}

describe_grid <- function(wave) paste0(length(wave), " pixels, ", round(min(wave), 1), "-", round(max(wave), 1), " ", angstrom())

# Uniform in Angstrom, wide enough for every redshift up to z_max (paper, section 3.2); float32 values, as they are stored.
restframe_grid <- function(instrument, superresolution, z_max, wave_rest) {
  if (!is.null(wave_rest)) {
    if (!is.numeric(wave_rest) || length(wave_rest) < 2 || any(!is.finite(wave_rest)) || any(wave_rest <= 0) ||
        any(diff(as_float32(wave_rest)) <= 0)) {
      abort("invalid", "`wave_rest` must be at least two positive, increasing wavelengths.")
    }
    return(as_float32(wave_rest))
  }
  check_number(superresolution, "superresolution", 1, 100)
  check_number(z_max, "z_max", 0, 20)
  wave <- instrument$wave
  n <- floor(floor(length(wave) * (1 + z_max)) * superresolution)
  as_float32(seq(wave[1] / (1 + z_max), wave[length(wave)], length.out = n))
}

as_float32 <- function(x) .Call(ffi_float32, as.double(x))

# Pixels of each spectrum that the restframe grid covers at its redshift: columns from and to (one-based, to < from: none).
coverage <- function(z, wave, wave_rest, lsf = 0) .Call(ffi_coverage, as.double(z), wave, wave_rest, as.double(lsf))

# Rows to train on
usable_for_fit <- function(fit, x) {
  check_same_grid(fit, x)
  rows <- seq_along(x$z)
  without <- which(is.na(x$norm))
  if (length(without)) {
    warn("no_norm", length(without), ngettext(length(without), " spectrum has", " spectra have"),
         " no norm and ", ngettext(length(without), "is", "are"), " left out of the fit: rows ", enumerate(without), ".")
    rows <- rows[-without]
  }
  masked <- if (!inherits(x, "survey")) rows[!has_valid_pixel(x$ivar)[rows]]
  if (length(masked)) {
    warn("masked", length(masked), ngettext(length(masked), " spectrum has", " spectra have"), " no valid pixel and ",
         ngettext(length(masked), "is", "are"), " left out of the fit: rows ", enumerate(masked), ".")
    rows <- setdiff(rows, masked)
  }
  if (length(rows) == 0) abort("invalid", "There is no spectrum to train on.")
  wave <- fit$instrument$wave
  covered <- coverage(x$z[rows], wave, fit$wave_rest)
  fraction <- (covered[, "to"] - covered[, "from"] + 1) / length(wave)
  if (any(fraction < 0.5)) {
    far <- rows[fraction < 0.5]
    abort("invalid", "The restframe grid covers less than half of ", length(far), ngettext(length(far), " spectrum", " spectra"),
          " at ", ngettext(length(far), "its redshift", "their redshifts"), ": ", enumerate(paste0(ids_of(x, far), " (z = ", format(x$z[far], digits = 4, trim = TRUE), ")")),
          ". Leave them out, or give a larger `z_max` or a wider `wave_rest`.")
  }
  if (any(fraction < 1)) {
    warn("coverage", sum(fraction < 1), " of ", length(rows), " spectra reach beyond the restframe grid (",
         describe_grid(fit$wave_rest), "); their pixels there get no weight.")
  }
  rows
}

# TRUE trains, FALSE validates, by hash of the id; at least one trains.
split_by_id <- function(id, validation, seed) {
  is_training <- .Call(ffi_split, id, as.double(validation), as.double(seed))
  if (!any(is_training)) is_training[] <- TRUE
  is_training
}

split_rows <- function(x, validation, seed, rows = seq_along(x$z), part = 1e5) {
  if (!inherits(x, "survey")) return(split_by_id(object_of(x)[rows], validation, seed))
  is_training <- logical(length(x))
  for (rows in parts_of(length(x), part)) {
    is_training[rows] <- .Call(ffi_split, objects_of(x, rows), as.double(validation), as.double(seed))
  }
  if (!any(is_training)) is_training[] <- TRUE
  is_training
}

# Of rows of spectra: `loss`, of the model that is 1 everywhere, the spectrum that the normalisation makes of any galaxy and what a fit has to
# beat; `valid`, the share of the pixels that have weight.
flat_model <- function(x, wave_rest, lsf, rows = seq_along(x$z)) {
  covered <- coverage(x$z[rows], x$instrument$wave, wave_rest, lsf)
  found <- .Call(ffi_flat_model, x$flux, x$ivar, as.double(rows), covered, default_threads())
  list(loss = mean(found$loss), valid = mean(found$valid) / ncol(x$ivar))
}

# ---- looking at a fit ----

#' @export
print.spender <- function(x, ...) {
  a <- x$architecture
  cat("spender fit: ", a$n_latent, ngettext(a$n_latent, " latent, ", " latents, "),
      format(count_parameters(a), big.mark = ",", decimal.mark = "."), " parameters\n", sep = "")
  cat("  observed   ", x$instrument$name, ", ", describe_grid(x$instrument$wave), "\n", sep = "")
  cat("  restframe  ", describe_grid(x$wave_rest), "\n", sep = "")
  cat("  LSF        ", if (a$lsf > 0) paste(a$lsf, "pixels") else "none", "\n", sep = "")
  t <- x$training
  if (length(t$n_training)) {
    cat("  trained    ", t$epochs, ngettext(t$epochs, " epoch", " epochs"), " on ", t$n_training, " spectra (z ",
        paste(format(t$z_range, digits = 3, trim = TRUE), collapse = " to "), "), ", t$device, "\n", sep = "")
  }
  if (nrow(x$history)) {
    kept <- x$history[kept_epoch(x), ]
    cat("  loss       ", format(kept$train_loss, digits = 4), " training, ", format(kept$validation_loss, digits = 4), " validation",
        if (kept_epoch(x) < nrow(x$history)) paste0(", of epoch ", kept$epoch, ", whose weights these are"),
        if (length(t$flat_loss)) paste0(" (flat spectrum ", format(t$flat_loss, digits = 4), ")"), "\n", sep = "")
  }
  invisible(x)
}

# Row of the history that the weights are of: the last, or the best one where that was wanted.
kept_epoch <- function(fit) {
  n <- nrow(fit$history)
  kept <- fit$training$kept
  if (length(kept) == 1 && is.finite(kept) && kept >= 1 && kept <= n) kept else n
}

#' Summary of a fit
#'
#' @param object A fit from [spender()].
#' @param ... Not used.
#' @return A list of class `summary.spender`: `fit`, `parameters` (a data frame with the name, shape and number of elements of
#'   every tensor), `best_epoch`, `kept_epoch` (of which the weights are) and `seconds`.
#' @export
summary.spender <- function(object, ...) {
  check_dots("summary", ...)
  table <- .Call(ffi_network_table, object$architecture)
  h <- object$history
  structure(list(
    fit = object,
    parameters = data.frame(name = table$name, shape = vapply(table$pytorch_shape, paste, "", collapse = " x "), count = table$count),
    best_epoch = if (nrow(h) && any(!is.na(h$validation_loss))) h$epoch[which.min(h$validation_loss)] else NA,
    kept_epoch = if (nrow(h)) h$epoch[kept_epoch(object)] else NA,
    seconds = if (nrow(h)) h$seconds[nrow(h)] else NA
  ), class = "summary.spender")
}

#' @export
print.summary.spender <- function(x, ...) {
  print(x$fit)
  cat("  time       ", format(round(x$seconds, 1)), " s; lowest validation loss in epoch ", x$best_epoch, "\n\n", sep = "")
  print(x$parameters, row.names = FALSE)
  invisible(x)
}

#' @param x A fit.
#' @param ... Passed on to [plot_history()].
#' @rdname plot_history
#' @export
plot.spender <- function(x, ...) plot_history(x, ...)

#' The weights as R arrays
#'
#' @param object A fit from [spender()].
#' @param ... Not used.
#' @return A named list with the PyTorch names of the published code: convolution weights have dimensions (out, in, kernel),
#'   linear weights (out, in), all others are vectors.
#' @export
coef.spender <- function(object, ...) {
  check_dots("coef", ...)
  tensors <- .Call(ffi_network_export, object$architecture, object$weights)
  lapply(tensors, function(t) {
    shape <- dim(t)
    if (length(shape) < 2) return(as.vector(t))
    t
  })
}
