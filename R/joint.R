# Fits of several instruments with one decoder: a list of ordinary fits that have the same decoder and restframe grid.

new_joint <- function(fits, history, training) structure(fits, history = history, training = training, class = "spender_joint")

# The line spread functions to start from: one for all, or a list with one for each instrument that has one
lsf_of_each <- function(lsf, xs, several) {
  if (!several || !is.list(lsf)) return(rep(list(lsf), length(xs)))
  unknown <- setdiff(names(lsf), names(xs))
  if (is.null(names(lsf)) || length(unknown)) {
    abort("invalid", "A list `lsf` must have names of instruments (", enumerate(names(xs)), ")",
          if (length(unknown)) paste0(", not ", enumerate(unknown)), ".")
  }
  lapply(setNames(nm = names(xs)), function(of) if (is.null(lsf[[of]])) 0 else lsf[[of]])
}

# A fit with the decoder of another, which stands at the end of the weights
with_decoder <- function(fit, from) {
  fit$weights <- c(fit$weights[seq_len(decoder_at(fit))], from$weights[-seq_len(decoder_at(from))])
  fit
}

# Bytes of the weights before the decoder's
decoder_at <- function(fit) {
  table <- .Call(ffi_network_table, fit$architecture)
  4 * min(table$offset[startsWith(table$name, "decoder.")])
}

check_common <- function(common, xs, options) {
  check_number(common, "common", 0, 1e6)
  if (length(xs) > 1 && !is.null(options$clip)) abort("invalid", "`clip` is for fits of one instrument.")
  if (length(xs) > 1 && !is.null(options$pieces)) abort("invalid", "`pieces` is for fits of one instrument.")
  if (length(xs) > 1 && options$average > 0) abort("invalid", "`average` is for fits of one instrument.")
  if (common == 0) return(invisible())
  if (length(xs) != 2) abort("invalid", "`common` pulls latents of two instruments together; there ", ngettext(length(xs), "is ", "are "),
                             length(xs), ".")
  if (!isFALSE(options$refine)) abort("invalid", "`common` does not go with `refine`: its loss is of the encoders' latents.")
}

# What fails or is warned of says which instrument it is about.
of_instrument <- function(name, expr) {
  named <- function(condition) {
    condition$message <- paste0(name, ": ", conditionMessage(condition))
    condition
  }
  withCallingHandlers(tryCatch(expr, spender_error = function(e) stop(named(e))), spender_warning = function(w) {
    if (startsWith(conditionMessage(w), paste0(name, ": "))) return()
    warning(named(w))
    invokeRestart("muffleWarning")
  })
}

# fits, xs: of each instrument, by name. history: of all together, before
train_jointly <- function(fits, xs, options, common = 0, history = empty_history(names(fits))) {
  check_training(options)
  device <- choose_device(options$device, options$precision, options$threads)
  parts <- Map(function(name, fit, x) of_instrument(name, training_part(fit, x, options)), names(fits), fits, xs)
  n <- vapply(parts, function(part) sum(part$is_training), 0L)
  all <- vapply(parts, function(part) length(part$rows), 0L)
  options <- training_plan(options, sum(n), fits[[1]]$architecture, device, identical(fits[[1]]$training$init, "simulated"))
  settings <- recorded_settings(options, device, sum(all))
  steps_per_epoch <- ceiling(sum(n) / settings$batch_size)
  pairs <- if (common > 0) common_objects(parts) else list(numeric(), numeric())
  bounds <- lapply(parts, function(part) reference_losses(part$fit, part$x, part$rows))
  show <- if (is.null(options$progress)) interactive() else options$progress
  if (show) {
    said <- paste0(names(parts), " ", n, " (validating on ", all - n, ")")
    cli::cli_inform(c(i = paste("Training on {said}; {device$device}, {device$name}, {device$precision}."),
                      i = if (common > 0) "{length(pairs[[1]])} object{?s} seen by both.",
                      i = paste("{options$epochs} epoch{?s} of {steps_per_epoch} step{?s}, batches of {settings$batch_size}, highest rate",
                                "{format(options$learning_rate)}.")))
  }
  session <- open_jointly(parts, n, pairs, settings, device, steps_per_epoch, common)
  on.exit(close_session(session))
  run <- new_run(fits, options, steps_per_epoch, history, all - n)
  of <- if (!is.null(options$checkpoint)) joint_identity(parts, settings, common)
  outcome <- run_training(session, run, options, of, steps_per_epoch, sum(n), show)

  settings_of <- function(k) { # for update() of one instrument
    settings$batch_size <- ceiling(settings$batch_size * n[[k]] / sum(n))
    settings
  }
  weights <- split_weights(run$weights, fits)
  done <- lapply(setNames(nm = names(fits)), function(k) {
    kept <- nrow(fits[[k]]$history) + run$kept
    finished_fit(parts[[k]], weights[[k]], history_of(run$history, k, nrow(fits[[k]]$history)), kept, settings_of(k), device, bounds[[k]])
  })
  for (k in names(done)) say_advice(done[[k]], options, outcome, k)
  new_joint(done, rbind(history, run$history), c(settings, list(common = common, kept = nrow(history) + run$kept)))
}

open_jointly <- function(parts, n, pairs, settings, device, steps_per_epoch, common) {
  arguments <- lapply(seq_along(parts), function(k) {
    part <- parts[[k]]
    share <- list(total = sum(n), pairs = as.double(pairs[[min(k, 2)]]), partner = if (length(pairs[[1]])) n[[3 - k]] else 0)
    list(source_of(part$fit, part$x, part$rows), part$x$z[part$rows], part$is_training,
         core_options(part, settings, device, steps_per_epoch, share = share))
  })
  first <- parts[[1]]$fit
  session <- do.call(.Call, c(list(ffi_train_open, first$architecture, first$weights, first$instrument$wave, first$wave_rest),
                              arguments[[1]]))
  opened <- FALSE
  on.exit(if (!opened) close_session(session))
  for (k in seq_along(parts)[-1]) {
    fit <- parts[[k]]$fit
    do.call(.Call, c(list(ffi_train_join, session, fit$architecture, fit$weights, fit$instrument$wave), arguments[[k]]))
  }
  .Call(ffi_train_joined, session, list(weight = common, sigma = 0.5, scale_free = TRUE))
  opened <- TRUE
  session
}

# Rows, of those that are used, of objects that train in both parts: the first spectrum of each, in the same order
common_objects <- function(parts) {
  objects <- lapply(parts, function(part) objects_of(part$x, part$rows))
  both <- intersect(objects[[1]][parts[[1]]$is_training], objects[[2]][parts[[2]]$is_training])
  if (!length(both)) abort("invalid", "`common` is about objects that both instruments have seen, and no id is in both.")
  lapply(seq_along(parts), function(k) {
    training <- which(parts[[k]]$is_training)
    as.double(training[match(both, objects[[k]][training])])
  })
}

joint_identity <- function(parts, settings, common) {
  options <- identified_settings(settings, NULL)
  of_parts <- Map(function(part, name) {
    of <- training_identity(part, list())
    setNames(of, paste0(name, "_", names(of)))
  }, parts, names(parts))
  c(training_identity(parts[[1]], options)[names(options)], common = sprintf("%.17g", common), unlist(unname(of_parts)))
}

split_weights <- function(weights, fits) {
  ends <- cumsum(vapply(fits, function(fit) length(fit$weights), 0))
  Map(function(fit, end) weights[end - length(fit$weights) + seq_along(fit$weights)], fits, ends)
}

# One instrument's part of the history of all
history_of <- function(history, name, before) {
  data.frame(epoch = as.double(before + seq_len(nrow(history))), train_loss = history[[paste0("train_", name)]],
             validation_loss = history[[paste0("validation_", name)]], learning_rate = history$learning_rate, seconds = history$seconds)
}
