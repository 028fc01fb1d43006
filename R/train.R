# Training: preparation, and the loop around the core's steps.

# options: a list of training_arguments(); freeze: NULL, or "decoder"
train <- function(fit, x, options, freeze = NULL) {
  check_training(options)
  ranks <- join_ranks(!is.null(options$pieces))
  trained <- with_ranks(ranks, train_with(ranks, fit, x, options, freeze))
  run <- trained$run # each rank by itself makes the same fit of it
  fit <- finished_fit(trained$part, run$weights, run$history, nrow(run$earlier) + run$kept, trained$settings, trained$device,
                      trained$bounds)
  if (is_first(ranks)) say_advice(fit, trained$options, trained$outcome)
  fit
}

# What ranks do together. ranks: NULL for one process
train_with <- function(ranks, fit, x, options, freeze) {
  device <- choose_device(options$device, options$precision, options$threads)
  part <- training_part(fit, x, options)
  n <- sum(part$is_training)
  options <- training_plan(options, n, fit$architecture, device, identical(fit$training$init, "simulated"))
  settings <- recorded_settings(options, device, length(part$rows))
  steps_per_epoch <- ceiling(n / settings$batch_size)
  bounds <- reference_losses(fit, part$x, part$rows)
  show <- is_first(ranks) && if (is.null(options$progress)) interactive() else options$progress
  if (show) {
    cli::cli_inform(c(i = paste("Training on {n} spectr{?um/a}, validating on {length(part$rows) - n};",
                                "{device$device}, {device$name}, {device$precision}."),
                      i = if (!is.null(ranks)) "{ranks$size} ranks on {length(unique(ranks$hosts))} host{?s}; batches in {options$pieces}.",
                      i = if (identical(fit$training$init, "simulated")) "Starting from a fit of simulated galaxies (`init`).",
                      i = paste("{options$epochs} epoch{?s} of {steps_per_epoch} step{?s}, batches of {settings$batch_size}, highest rate",
                                "{format(options$learning_rate)}. A flat spectrum has loss {format(bounds$flat_loss, digits = 3)},",
                                "a perfect model {format(bounds$valid_fraction / 2, digits = 3)}.")))
  }
  of <- if (!is.null(options$checkpoint) || !is.null(ranks)) training_identity(part, identified_settings(settings, freeze))
  check_same_ranks(ranks, c(build_identity(device), of, callback = as.character(!is.null(options$callback)),
                            checkpoint = as.character(!is.null(options$checkpoint)), resume = as.character(options$resume)))
  session <- .Call(ffi_train_open, fit$architecture, fit$weights, fit$instrument$wave, fit$wave_rest, source_of(fit, part$x, part$rows),
                   part$x$z[part$rows], part$is_training, core_options(part, settings, device, steps_per_epoch, freeze))
  on.exit(close_session(session))
  run <- new_run(list(fit), options, steps_per_epoch)
  outcome <- run_training(session, run, options, of, steps_per_epoch, n, show, ranks)
  list(part = part, run = run, settings = settings, device = device, bounds = bounds, options = options, outcome = outcome)
}

# What a training of one instrument reads: `fit`, the spectra `x`, the numbers of the `rows` that are used, and which of these train. Of a
# survey all are used; spectra in memory are not copied.
training_part <- function(fit, x, options) {
  if (inherits(x, "survey")) check_unchanged(x)
  rows <- usable_for_fit(fit, x)
  if (inherits(x, "survey") && length(rows) < length(x)) {
    x <- x[rows]
    rows <- seq_along(x$z)
  }
  list(fit = fit, x = x, rows = rows, is_training = split_rows(x, options$validation, options$split_seed, rows))
}

# The settings of a training of n spectra that its fit keeps
recorded_settings <- function(options, device, n) {
  settings <- options[training_settings()]
  settings$batch_size <- min(options$batch_size, n)
  settings["invariance"] <- list(if (!is.null(options$invariance)) unclass(options$invariance)) # model files hold plain lists
  settings[c("device", "precision")] <- device[c("device", "precision")]
  settings
}

identified_settings <- function(settings, freeze) {
  c(settings[setdiff(names(settings), c("validation", "split_seed"))], if (!is.null(freeze)) list(freeze = freeze))
}

# Runs the epochs of a session. of: the fingerprint for checkpoints; n: spectra of an epoch. Returns NULL, or the condition that ended it.
run_training <- function(session, run, options, of, steps_per_epoch, n, show, ranks = NULL) {
  keeper <- if (!is.null(options$checkpoint)) checkpoint_keeper(options$checkpoint, options$checkpoint_minutes, session, run, of, ranks)
  if (options$resume && from_first(ranks, function() file.exists(options$checkpoint))) {
    keeper$restore()
    if (is_first(ranks)) message("Going on after epoch ", run$epoch, " of ", options$epochs, ", from ", basename(options$checkpoint), ".")
  } else if (options$resume && is_first(ranks)) {
    message("There is no ", basename(options$checkpoint), " to resume from: the training begins.")
  }
  bar <- if (show) {
    cli::cli_progress_bar("Epochs", total = options$epochs * steps_per_epoch,
                          format = paste("{cli::pb_bar} epoch {run$epoch}/{run$epochs}  loss {format(run$loss, digits = 4)} ",
                                         "{training_rate(run, n / steps_per_epoch)}  {cli::pb_eta_str}"))
  }
  tick <- function(step) if (show) cli::cli_progress_update(id = bar, set = step)
  outcome <- suspendInterrupts({ # another one does not undo what the first has asked for
    outcome <- training_outcome(session, run, keeper, tick, options$callback, ranks)
    if (!is.null(keeper) && !inherits(outcome, "spender_diverged")) keeper$keep()
    run$history$seconds <- from_first(ranks, function() run$history$seconds)
    outcome
  })
  if (show) cli::cli_progress_done(id = bar)
  report_outcome(outcome, run, options$learning_rate)
  outcome
}

# The fit of a part with what its training found. history: of this training; kept: row of the whole history that the weights belong to
finished_fit <- function(part, weights, history, kept, settings, device, bounds) {
  fit <- part$fit
  x <- part$x
  rows <- part$rows
  is_training <- part$is_training
  fit$weights <- weights
  fit$history <- rbind(fit$history, history)
  settings$epochs <- as.double(nrow(fit$history))
  fit$training <- c(settings, fit$training[names(fit$training) %in% "init"],
                    list(n_training = as.double(sum(is_training)), n_validation = as.double(sum(!is_training)),
                         z_range = range(x$z[rows]), kept = kept))
  fit$training["prior"] <- list(latent_prior(fit, x, rows[is_training], device))
  if (learned_refined(fit)) fit$training$refined_loss <- refined_loss(fit, x, rows[!is_training], device)
  fit$training[names(bounds)] <- bounds
  fit
}

# Warns of what a fit's losses give reason to; of: its instrument
say_advice <- function(fit, options, outcome, of = NULL) {
  advice <- if (!isFALSE(options$progress) && is.null(outcome)) fit_advice(fit)
  for (kind in names(advice)) warn(paste0("fit_", kind), if (!is.null(of)) paste0(of, ": "), advice[[kind]])
}

# Losses between which those of a fit should be: of a flat spectrum, and by half the fraction of valid pixels
reference_losses <- function(fit, x, rows) {
  if (inherits(x, "survey")) {
    x <- a_part_of(x)
    rows <- seq_along(x$z)
  }
  flat <- flat_model(x, fit$wave_rest, footprint(fit, x), rows)
  list(flat_loss = flat$loss, valid_fraction = flat$valid)
}

check_training <- function(options) {
  if (!is.null(options$epochs)) check_number(options$epochs, "epochs", 1, 1e9, whole = TRUE)
  if (!is.null(options$batch_size)) check_number(options$batch_size, "batch_size", 1, 1e6, whole = TRUE)
  if (!is.null(options$learning_rate)) check_number(options$learning_rate, "learning_rate", 0, 10)
  check_number(options$lsf_rate, "lsf_rate", 0, 1e3)
  check_number(options$validation, "validation", 0, 0.95)
  check_number(options$seed, "seed", 0, 2^53, whole = TRUE)
  check_number(options$split_seed, "split_seed", 0, 2^53, whole = TRUE)
  for (flag in c("cycle_momentum", "best", if (!is.null(options$progress)) "progress")) check_flag(options[[flag]], flag)
  if (!isTRUE(options$refine) && !isFALSE(options$refine)) check_number(options$refine, "refine", 0, 1)
  check_invariance_argument(options$invariance)
  if (!is.null(options$invariance) && !isFALSE(options$refine)) {
    abort("invalid", "`invariance` does not go with `refine`: its losses are of the encoder's latents.")
  }
  if (!is.null(options$clip)) {
    check_number(options$clip, "clip", 0, 1e300)
    if (options$clip == 0) abort("invalid", "`clip` must be above 0: with 0 nothing would be learned.")
  }
  check_number(options$epsilon, "epsilon", 0, 1e300)
  check_number(options$average, "average", 0, 1e9)
  check_pieces(options$pieces, options$invariance)
  check_choice(options$lsf_sign, "lsf_sign", eval(formals(spender)$lsf_sign))
  check_choice(options$schedule, "schedule", eval(formals(spender)$schedule))
  check_checkpoint(options$checkpoint, options$checkpoint_minutes, options$resume)
  if (!is.null(options$callback) && !is.function(options$callback)) {
    abort("invalid", "`callback` must be a function, not ", describe(options$callback), ".")
  }
}

check_pieces <- function(pieces, invariance) {
  if (is.null(pieces)) return(invisible())
  check_number(pieces, "pieces", 1, 4096, whole = TRUE)
  if (log2(pieces) != round(log2(pieces))) abort("invalid", "`pieces` must be a power of two, not ", pieces, ".")
  if (!is.null(invariance)) abort("invalid", "`invariance` does not go with `pieces`: its losses are of all pairs of a batch.")
}

# The options that ffi_train_open() reads; share: NULL, or the part's in a training of several instruments
core_options <- function(part, settings, device, steps_per_epoch, freeze = NULL, share = NULL) {
  c(device, list(batch_size = settings$batch_size, seed = settings$seed, rate = settings$learning_rate,
                 total_steps = steps_per_epoch * settings$epochs,
                 steps_per_stage = if (settings$schedule == "epoch") steps_per_epoch else 1,
                 cycle_momentum = settings$cycle_momentum, constant = settings$schedule == "constant",
                 refine_from = refine_from(settings$refine, steps_per_epoch * settings$epochs),
                 lsf_factor = settings$lsf_rate, lsf_nonnegative = settings$lsf_sign == "nonnegative",
                 clip = if (is.null(settings$clip)) 0 else settings$clip, epsilon = settings$epsilon,
                 average = ceiling(settings$average * steps_per_epoch), pieces = settings$pieces, freeze_decoder = !is.null(freeze)),
    list(invariance = invariance_settings(settings$invariance, part$x, part$rows, settings$epochs), share = share))
}

# The step from which on the decoder learns at refined latents, NA for never
refine_from <- function(refine, steps) if (isFALSE(refine)) NA_real_ else floor(steps * if (isTRUE(refine)) 0.5 else refine)

# Spectra per second since the training began or was resumed
training_rate <- function(run, per_step) {
  seconds <- proc.time()[["elapsed"]] - run$begun[["at"]]
  paste0(format(signif((run$step - run$begun[["step"]]) * per_step / max(seconds, 1e-3), 3), big.mark = ","), "/s")
}

# How a training ended before its last epoch, if it did
report_outcome <- function(outcome, run, learning_rate) {
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
}

# State of a running training: an environment with `epoch`, `history` (of this training; `earlier` is the fit's before), `weights`
# (those that the fit would have now), `lowest` validation loss, `loss` and `step`, and `unvalidated`, losses and learning rate of an
# epoch whose steps are done but whose validation is not, or NULL. `called` is the last epoch whose end the callback knows, `ended` what it
# said. `refined_from` is the number of epochs, or NA, after
# which the decoder learns at refined latents; losses before are not compared with those after. Of several instruments, `weights` are those
# of all, one after the other, and `n_validation` the numbers of their spectra that validate, named.
new_run <- function(fits, options, steps_per_epoch, earlier = fits[[1]]$history, n_validation = NULL) {
  refined_from <- refine_from(options$refine, steps_per_epoch * options$epochs) / steps_per_epoch
  list2env(list(epochs = options$epochs, best = options$best && is.null(options$invariance), refined_from = refined_from,
                earlier = earlier, epoch = 0, history = empty_history(names(n_validation)),
                weights = unlist(lapply(unname(fits), `[[`, "weights")), lowest = Inf, loss = NA_real_, step = 0, kept = 0,
                unvalidated = NULL, called = 0, ended = FALSE, n_validation = n_validation, started = proc.time()[["elapsed"]],
                begun = c(at = proc.time()[["elapsed"]], step = 0)), parent = emptyenv())
}

# The loop, and how it ended; interrupts are allowed in the loop only. With ranks an interrupt of one is a request to all: they end after
# the same step. A scheduler interrupts all at once, and those that end by another's request have not seen their own yet.
training_outcome <- function(session, run, keeper, tick, callback, ranks) {
  repeat {
    outcome <- tryCatch(allowInterrupts(training_loop(session, run, keeper, tick, callback, ranks)), interrupt = function(e) e,
                        spender_diverged = function(e) e)
    if (is.null(ranks) || !inherits(outcome, "interrupt")) return(outcome)
    if (inherits(outcome, "spender_stopped")) {
      tryCatch(allowInterrupts(Sys.sleep(0)), interrupt = function(e) NULL)
      return(outcome)
    }
    .Call(ffi_train_stop, session)
  }
}

# Interrupts are handled between two things that are done: a result and its place in `run` belong together, and an interrupted loop, called
# again, goes on with what the other ranks do next.
training_loop <- function(session, run, keeper, tick, callback, ranks) {
  repeat {
    if (run$called < run$epoch && !is.null(callback)) suspendInterrupts(call_back(run, callback, ranks))
    if (run$ended || run$epoch >= run$epochs) return(NULL)
    suspendInterrupts(if (is.null(run$unvalidated)) step_on(session, run) else validate_on(session, run))
    tick(run$step)
    if (!is.null(keeper)) keeper$keep_if_due()
  }
}

# The callback itself can be interrupted, and is then called again, unless others are waiting for its answer.
call_back <- function(run, callback, ranks) {
  ends <- function() identical(callback(rbind(run$earlier, run$history)), FALSE)
  run$ended <- if (is.null(ranks)) allowInterrupts(ends()) else from_first(ranks, ends)
  run$called <- run$epoch
}

# Steps for a fraction of a second; an epoch is finished only when it is validated.
step_on <- function(session, run) {
  state <- .Call(ffi_train_advance, session, 0.2)
  if (state$stopped) stop(structure(class = c("spender_stopped", "interrupt", "condition"), list(message = "stopped", call = NULL)))
  run$loss <- state$loss
  run$step <- state$step
  if (!is.finite(run$loss)) stop(diverged_condition(run$epoch + 1))
  if (state$epoch_finished) run$unvalidated <- c(state$loss, state$learning_rate, if (!is.null(run$n_validation)) state$losses)
}

# Validates for a fraction of a second, which may end the epoch.
validate_on <- function(session, run) {
  held_out <- .Call(ffi_train_validate, session, 0.2)
  if (is.null(held_out)) return()
  weights <- .Call(ffi_train_weights, session)
  # the epoch's last step may be the one that diverged
  if (any(is.nan(held_out) | is.infinite(held_out)) || !.Call(ffi_all_finite, weights)) stop(diverged_condition(run$epoch + 1))
  run$epoch <- run$epoch + 1
  of_each <- c(run$unvalidated[-(1:2)], held_out)
  if (!is.null(run$n_validation)) held_out <- mean_of_known(held_out, run$n_validation)
  row <- data.frame(epoch = nrow(run$earlier) + run$epoch, train_loss = run$unvalidated[1], validation_loss = held_out,
                    learning_rate = run$unvalidated[2], seconds = proc.time()[["elapsed"]] - run$started)
  if (!is.null(run$n_validation)) row[loss_columns(names(run$n_validation))] <- as.list(of_each)
  run$history <- rbind(run$history, row)
  run$unvalidated <- NULL
  if (!is.na(run$refined_from) && run$epoch == floor(run$refined_from) + 1) run$lowest <- Inf
  if (!run$best || is.na(held_out) || held_out < run$lowest) {
    run$weights <- weights
    run$kept <- run$epoch
    run$lowest <- min(run$lowest, held_out, na.rm = TRUE)
  }
}

diverged_condition <- function(epoch) {
  structure(class = c("spender_diverged", "condition"), list(message = paste("diverged in epoch", epoch), call = NULL))
}

# instruments: NULL, or the names of those whose losses follow in columns of their own
empty_history <- function(instruments = NULL) {
  history <- data.frame(epoch = numeric(), train_loss = numeric(), validation_loss = numeric(), learning_rate = numeric(),
                        seconds = numeric())
  if (!is.null(instruments)) history[loss_columns(instruments)] <- rep(list(numeric()), 2 * length(instruments))
  history
}

loss_columns <- function(instruments) c(paste0("train_", instruments), paste0("validation_", instruments))

# Weighted by the numbers n of spectra; NA where nothing is known
mean_of_known <- function(losses, n) {
  known <- !is.na(losses)
  if (any(known)) sum((losses * n)[known]) / sum(n[known]) else NA_real_
}

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
          " at ", ngettext(length(far), "its redshift", "their redshifts"), ": ", enumerate(paste0(ids_of(x, far), " (z = ",
                                                                                                   format(x$z[far], digits = 4,
                                                                                                          trim = TRUE), ")")),
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

# Of rows of spectra: `loss`, that of a model that is 1 everywhere, which any fit should beat (spectra are normalised to a median of 1);
# `valid`, the share of the pixels that have weight.
flat_model <- function(x, wave_rest, lsf, rows = seq_along(x$z)) {
  covered <- coverage(x$z[rows], x$instrument$wave, wave_rest, lsf)
  found <- .Call(ffi_flat_model, x$flux, x$ivar, as.double(rows), covered, default_threads())
  list(loss = mean(found$loss), valid = mean(found$valid) / ncol(x$ivar))
}

# All spectra in memory, or an evenly spaced sample of a survey: enough for summary statistics
a_part_of <- function(x, most = 4096) {
  if (!inherits(x, "survey")) return(x)
  as_spectra(if (length(x) > most) x[round(seq(1, length(x), length.out = most))] else x)
}
