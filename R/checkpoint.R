# Checkpoints: the state of a training as a safetensors file, which is replaced in one step. Tensors: the parts of the state, `best` (the
# weights that the fit would have now), the other state of training_loop(), and the history. Metadata: the fingerprint of the training, and
# a digest of the tensors.

checkpoint_format <- "spender-checkpoint"
checkpoint_version <- "4"
# Names of the list that ffi_train_state() returns; trainings that average weights have `average`, too
state_parts <- c("epoch", "step", "step_in_epoch", "loss_count", "loss_sum", "weights", "m", "v")

check_checkpoint <- function(checkpoint, minutes, resume) {
  check_flag(resume, "resume")
  check_number(minutes, "checkpoint_minutes", 0, 1e6)
  if (is.null(checkpoint)) {
    if (resume) abort("invalid", "`resume` needs the `checkpoint` to go on from.")
    return()
  }
  check_path(checkpoint, "checkpoint")
  if (!dir.exists(dirname(checkpoint))) abort("io", "There is no folder ", dirname(checkpoint), " for the checkpoint.")
  if (file.exists(checkpoint) && !resume) {
    abort("exists", checkpoint, " exists already: `resume = TRUE` goes on from it; remove it to begin anew.")
  }
  # left by a killed program
  beside <- list.files(dirname(checkpoint), all.files = TRUE, full.names = TRUE)
  unlink(beside[startsWith(basename(beside), paste0(basename(checkpoint), ".tmp-"))])
}

# Fingerprint of a training: named strings that must match for a resumed run to be bit-identical.
training_identity <- function(part, options) {
  fit <- part$fit
  x <- part$x
  rows <- part$rows
  c(vapply(options, function(option) paste(if (is.numeric(option)) sprintf("%.17g", option) else as.character(option), collapse = " "), ""),
    network = to_json(fit$architecture), grids = digest_of(c(fit$instrument$wave, fit$wave_rest)), start = digest_of(fit$weights),
    spectra = paste(length(rows), digest_of(list(data_digest(x), as.double(rows)))), membership = digest_of(part$is_training))
}

# Writes checkpoints of a run when they are due, on the first of the ranks, and puts a run where one was.
checkpoint_keeper <- function(path, minutes, session, run, identity, ranks = NULL) {
  now <- function() proc.time()[["elapsed"]]
  kept_at <- now()
  # One that cannot be written is no reason to lose the training; the one before is still there. Ranks stop: with their number grows the
  # chance that it will be needed, and what their work costs.
  failed <- function(...) if (is.null(ranks)) warn("checkpoint", ...) else abort("io", ...)
  keep <- function() {
    if (!is_first(ranks)) return()
    tryCatch(write_checkpoint(path, identity, list(state = .Call(ffi_train_state, session), history = run$history, weights = run$weights,
                                                   lowest = run$lowest, kept = run$kept, seconds = now() - run$started,
                                                   unvalidated = run$unvalidated)),
             spender_error_io = function(e) failed("The checkpoint could not be written: ", conditionMessage(e), "."))
    kept_at <<- now()
  }
  list(
    keep = keep,
    keep_if_due = function() if (now() - kept_at >= 60 * minutes) keep(),
    restore = function() {
      kept <- from_first(ranks, function() read_checkpoint(path, identity, names(run$history)))
      .Call(ffi_train_restore, session, kept$state)
      run$unvalidated <- kept$unvalidated
      run$epoch <- kept$state$epoch - !is.null(kept$unvalidated)
      run$step <- kept$state$step
      run$begun <- c(at = now(), step = run$step)
      run$history <- kept$history
      run$weights <- kept$weights
      run$lowest <- kept$lowest
      run$kept <- kept$kept
      run$called <- run$epoch
      run$started <- now() - kept$seconds
    }
  )
}

write_checkpoint <- function(path, identity, kept) {
  block <- function(bytes) list(dtype = "F32", shape = length(bytes) / 4, data = bytes)
  number <- function(value) list(dtype = "F64", shape = length(value), data = value)
  state <- lapply(kept$state, function(part) if (is.raw(part)) block(part) else number(part))
  tensors <- c(state, list(best = block(kept$weights), lowest = number(kept$lowest), seconds = number(kept$seconds),
                           kept = number(kept$kept),
                           history = list(dtype = "F64", shape = c(ncol(kept$history), nrow(kept$history)),
                                          data = as.double(unlist(kept$history)))))
  if (!is.null(kept$unvalidated)) tensors$unvalidated <- number(kept$unvalidated)
  metadata <- c(format = checkpoint_format, version = checkpoint_version, identity, digest = checkpoint_digest(tensors))
  .Call(ffi_safetensors_write, path, tensors, metadata, TRUE)
}

checkpoint_digest <- function(tensors) digest_of(lapply(unname(tensors), `[[`, "data"))

# columns: names of the history's
read_checkpoint <- function(path, identity, columns = names(empty_history())) {
  damaged <- function(...) abort("checkpoint", basename(path), " is not a checkpoint, or damaged: ", ..., ". Remove it to begin anew.")
  file <- tryCatch(.Call(ffi_safetensors_read, path, NULL), spender_error_format = function(e) damaged(conditionMessage(e)))
  metadata <- as.list(file$metadata)
  if (!identical(metadata[["format"]], checkpoint_format)) damaged("it does not say that it is one")
  if (!identical(metadata[["version"]], checkpoint_version)) {
    damaged("it is of version ", metadata[["version"]], " of the format, not ", checkpoint_version)
  }
  state <- c(state_parts, intersect("average", names(file$tensors)))
  wanted <- c(state, "best", "lowest", "seconds", "kept", "history")
  if (!all(wanted %in% names(file$tensors))) damaged("it lacks ", enumerate(setdiff(wanted, names(file$tensors))))
  wanted <- c(wanted, intersect("unvalidated", names(file$tensors)))
  data <- lapply(file$tensors[wanted], function(t) if (t$dtype == "F32") writeBin(t$data, raw(), size = 4) else t$data)
  if (!identical(checkpoint_digest(lapply(data, function(d) list(data = d))), metadata[["digest"]])) damaged("its digest does not fit")
  names <- union(names(identity), "pieces") # which a training without them does not have
  other <- names[vapply(names, function(name) !identical(metadata[[name]], as.list(identity)[[name]]), NA)]
  if (length(other)) {
    abort("checkpoint", basename(path), " is of another training: not the same ", enumerate(gsub("_", " ", other)),
          ". Give the arguments it was begun with, or another file.")
  }
  history <- as.data.frame(matrix(data$history, ncol = length(columns), dimnames = list(NULL, columns)))
  list(state = data[state], history = history, weights = data$best, lowest = data$lowest, seconds = data$seconds, kept = data$kept,
       unvalidated = data$unvalidated)
}
