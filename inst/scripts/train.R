#!/usr/bin/env Rscript
# Trains a model in batch, for clusters: reads spectra, calls spender(), writes the model. --help says all there is.

usage <- "
Train an autoencoder on galaxy spectra and write the model.

  Rscript train.R [options] INPUT ...
  Rscript \"$(Rscript -e 'cat(system.file(\"scripts/train.R\", package = \"spender\"))')\" [options] INPUT ...

INPUT: SDSS or BOSS files (spec-PLATE-MJD-FIBER.fits), folders of them, or .rds files of spectra(); or survey files, as
write_survey() makes them, which are read while training goes on and may be larger than memory.
Options are given as --name value or --name=value; flags take no value.
"

exit_codes <- "
Exit codes
  0  done: the model is written
  1  an error that nobody foresaw
  2  the command line is wrong
  3  no usable spectra in the input
  4  training failed (the loss diverged, or spender() refused its arguments)
  5  something could not be written, or exists already
  6  stopped by SIGINT or SIGTERM: the fit of the epochs done is written, if there is one
  7  stopped by SIGINT or SIGTERM with --checkpoint: the checkpoint is written, --resume goes on from it
"

# name, type, default as text, help. Types: number, numbers, text, flag (present or not), choice:a|b.
options_table <- local({
  row <- function(name, type, default, help) data.frame(name = name, type = type, default = default, help = help)
  rbind(
    row("output", "text", "model.safetensors", "the model to write"),
    row("latents-file", "text", "", "also write id, z, latents and loss of every spectrum as CSV"),
    row("history-file", "text", "", "also write the losses of every epoch as CSV"),
    row("fit-file", "text", "", "also write the fit as .rds"),
    row("overwrite", "flag", "", "replace files that exist"),
    row("start", "text", "", "a model to train further (update()); network options are then those of the model"),
    row("checkpoint", "text", "", "keep the state of the training in this file, to go on from"),
    row("checkpoint-minutes", "number", "10", "minutes between two checkpoints"),
    row("resume", "flag", "", "go on from --checkpoint, if the file is there; the result has the bits of an unbroken run"),
    row("quiet", "flag", "", "no line per epoch"),
    row("help", "flag", "", "print this and stop"),
    row("instrument", "choice:sdss|boss", "sdss", "grid to place SDSS files on"),
    row("simulate", "number", "", "train on this many simulated spectra instead of INPUT"),
    row("all", "flag", "", "take every spectrum with a norm, without select_galaxies()"),
    row("z-err-max", "number", "1e-4", "select_galaxies(): largest redshift error"),
    row("latents", "number", "6", "latents S"),
    row("superresolution", "number", "1", "restframe pixels per observed pixel"),
    row("lsf", "number", "0", "pixels of the line spread function's kernel (odd), 0 for none"),
    row("lsf-rate", "number", "1", "its learning rate as a multiple of the others'"),
    row("lsf-sign", "choice:free|nonnegative", "free", "may its weights go below zero?"),
    row("z-max", "number", "0.5", "highest redshift of the restframe grid, and of the selection"),
    row("wave-rest", "text", "", "a file of restframe wavelengths, one a line, instead of the default grid"),
    row("flux-calibration", "number", "", "degree of a polynomial that multiplies each spectrum's model; none if not given"),
    row("filters", "numbers", "128,256,512", "channels of the convolutions"),
    row("kernels", "numbers", "5,11,21", "pixels of their kernels"),
    row("pools", "numbers", "", "pixels of the first two max-pools; as the kernels if not given"),
    row("encoder-hidden", "numbers", "128,64,32", "units of the encoder's hidden layers"),
    row("decoder-hidden", "numbers", "64,256,1024", "units of the decoder's hidden layers"),
    row("no-redshift-input", "flag", "", "the encoder does not see the redshift; so with --invariance"),
    row("weight-attention", "flag", "", "a second encoder reads the inverse variance"),
    row("decoder-activation", "choice:speculator|leaky_relu", "speculator", "activation of the decoder"),
    row("init", "choice:auto|random|simulated", "auto", "initial weights; auto: of simulated galaxies for up to 5000 spectra like them"),
    row("epochs", "number", "", "passes over the data; 10 to 100, by the number of spectra, if not given"),
    row("batch-size", "number", "", "spectra per step; 8 to 64 on a CPU, to 1024 on a GPU, by the number of spectra, if not given"),
    row("learning-rate", "number", "", "highest learning rate; if not given, by the network's width and the start (init)"),
    row("schedule", "choice:step|epoch|constant", "step", "how often the learning rate changes"),
    row("cycle-momentum", "flag", "", "Adam's first moment decay cycles between 0.95 and 0.85"),
    row("validation", "number", "0.15", "fraction held out"),
    row("last", "flag", "", "keep the last epoch instead of that of the lowest validation loss"),
    row("refine", "flag", "", "the decoder learns at refined latents in the second half of the training"),
    row("refine-from", "number", "", "... after this fraction of the training"),
    row("invariance", "choice:none|sdss|desi", "none", "losses that make latents independent of redshift, with these published values"),
    row("invariance-form", "choice:scale-free|published", "scale-free", "... in this form"),
    row("clip", "number", "", "largest norm of the mean loss's gradient; not limited if not given"),
    row("epsilon", "number", "1e-8", "Adam's epsilon"),
    row("device", "choice:auto|cpu|cuda", "auto", "where to compute"),
    row("precision", "choice:fp32|tf32|fp16|bf16", "fp16", "of convolutions and activations on a GPU"),
    row("threads", "number", "", "threads; all cores if not given"),
    row("seed", "number", "1", "seed of initial weights and order"),
    row("split-seed", "number", "", "seed of validation membership; that of --seed if not given")
  )
})

stop_with <- function(code, ...) {
  message("train.R: ", ...)
  quit(save = "no", status = code)
}

print_help <- function() {
  cat(usage, "\nOptions\n", sep = "")
  kind <- sub("^choice:", "", options_table$type)
  kind[options_table$type == "flag"] <- ""
  kind <- sub("^(number|numbers|text)$", "<\\1>", kind)
  left <- format(trimws(paste0("--", options_table$name, " ", kind), "right"))
  default <- ifelse(nzchar(options_table$default), paste0(" [", options_table$default, "]"), "")
  cat(paste0("  ", left, "  ", options_table$help, default, "\n"), sep = "")
  cat(exit_codes)
}

parse_numbers <- function(text, name, many) {
  values <- suppressWarnings(as.numeric(strsplit(text, ",", fixed = TRUE)[[1]]))
  if (length(values) == 0 || anyNA(values) || (!many && length(values) != 1)) {
    stop_with(2, "--", name, " must be ", if (many) "numbers separated by commas" else "a number", ", not \"", text, "\"")
  }
  values
}

convert <- function(text, name, type) {
  if (type == "flag" || type == "text") return(text)
  if (type %in% c("number", "numbers")) return(parse_numbers(text, name, type == "numbers"))
  choices <- strsplit(sub("^choice:", "", type), "|", fixed = TRUE)[[1]]
  if (!text %in% choices) stop_with(2, "--", name, " must be one of ", paste(choices, collapse = ", "), ", not \"", text, "\"")
  text
}

# list(options, given: names of those on the command line, input)
parse_arguments <- function(arguments) {
  types <- stats::setNames(options_table$type, options_table$name)
  values <- Map(function(name, type, default) {
    if (type == "flag") FALSE else if (nzchar(default)) convert(default, name, type) else NULL
  }, options_table$name, options_table$type, options_table$default)
  input <- given <- character()
  while (length(arguments)) {
    word <- arguments[1]
    arguments <- arguments[-1]
    if (word == "--") {
      input <- c(input, arguments)
      break
    }
    if (!startsWith(word, "-") || word == "-") {
      input <- c(input, word)
      next
    }
    name <- sub("=.*", "", sub("^--?", "", word))
    if (name == "h") name <- "help"
    if (!name %in% names(types)) stop_with(2, "there is no option ", sub("=.*", "", word), "; --help lists them")
    given <- c(given, name)
    if (types[[name]] == "flag") {
      if (grepl("=", word, fixed = TRUE)) stop_with(2, "--", name, " takes no value")
      values[[name]] <- TRUE
    } else if (grepl("=", word, fixed = TRUE)) {
      values[[name]] <- convert(sub("^[^=]*=", "", word), name, types[[name]])
    } else {
      if (length(arguments) == 0) stop_with(2, "--", name, " needs a value")
      values[[name]] <- convert(arguments[1], name, types[[name]])
      arguments <- arguments[-1]
    }
  }
  list(options = values, given = given, input = input)
}

# Hours of training are not lost to a name that was taken, or to a folder that is not there.
check_outputs <- function(o) {
  if (o$resume && is.null(o$checkpoint)) stop_with(2, "--resume needs --checkpoint")
  if (!is.null(o$checkpoint) && file.exists(o$checkpoint) && !o$resume) stop_with(5, o$checkpoint, " exists; --resume goes on from it")
  for (path in c(o$output, o$`latents-file`, o$`history-file`, o$`fit-file`, o$checkpoint)) {
    folder <- dirname(path)
    if (!dir.exists(folder)) stop_with(5, "there is no folder ", folder, " to write ", basename(path), " to")
    if (file.access(folder, 2) != 0) stop_with(5, "the folder ", folder, " cannot be written to")
    if (file.exists(path) && !o$overwrite && !identical(path, o$checkpoint)) stop_with(5, path, " exists; --overwrite replaces it")
  }
}

# The input as one survey, NULL where it is something else.
open_surveys <- function(input) {
  if (any(dir.exists(input)) || any(grepl("\\.rds$", input, ignore.case = TRUE))) return(NULL)
  begins <- vapply(input, function(path) {
    bytes <- readBin(path, raw(), 2880)
    rawToChar(bytes[bytes > 0])
  }, "")
  if (!all(grepl("'WAVELENGTH'", begins, fixed = TRUE, useBytes = TRUE))) return(NULL)
  open_survey(input)
}

read_input <- function(o, input) {
  if (!is.null(o$simulate)) return(simulate_spectra(o$simulate, instrument = o$instrument, seed = o$seed))
  missing <- input[!file.exists(input)]
  if (length(missing)) stop_with(3, "there is no file or folder ", missing[1])
  surveys <- open_surveys(input)
  if (!is.null(surveys)) return(if (o$all) surveys[!is.na(surveys$norm)] else select_galaxies(surveys, z_max = o$`z-max`,
                                                                                              z_err_max = o$`z-err-max`))
  is_rds <- grepl("\\.rds$", input, ignore.case = TRUE)
  parts <- lapply(input[is_rds], function(path) {
    x <- tryCatch(readRDS(path), error = function(e) stop_with(3, path, ": ", conditionMessage(e)))
    if (!inherits(x, "spectra")) stop_with(3, path, " does not hold spectra()")
    x
  })
  if (any(!is_rds)) parts <- c(list(read_sdss(input[!is_rds], instrument = o$instrument, threads = o$threads, progress = FALSE)), parts)
  x <- do.call(c, parts)
  if (nrow(problems(x))) {
    shown <- utils::head(problems(x), 20)
    message(nrow(problems(x)), " with problems:\n", paste0("  ", ifelse(is.na(shown$id), shown$file, shown$id), ": ", shown$reason,
                                                           collapse = "\n"))
  }
  if (o$all) x[!is.na(x$norm)] else select_galaxies(x, z_max = o$`z-max`, z_err_max = o$`z-err-max`)
}

epoch_line <- function(history) {
  last <- history[nrow(history), ]
  message(sprintf("epoch %d  training %.5f  validation %.5f  %.0f s", as.integer(last$epoch), last$train_loss, last$validation_loss,
                  last$seconds))
  TRUE
}

fit_model <- function(o, given, x) {
  callback <- if (!o$quiet) epoch_line
  split_seed <- if (is.null(o$`split-seed`)) o$seed else o$`split-seed`
  training <- list(epochs = o$epochs, batch_size = o$`batch-size`, learning_rate = o$`learning-rate`, schedule = o$schedule,
                   cycle_momentum = o$`cycle-momentum`, validation = o$validation, best = !o$last, lsf_rate = o$`lsf-rate`,
                   lsf_sign = o$`lsf-sign`, refine = if (is.null(o$`refine-from`)) o$refine else o$`refine-from`,
                   invariance = if (o$invariance != "none") spender_invariance(o$invariance, o$`invariance-form`), clip = o$clip,
                   epsilon = o$epsilon, device = o$device,
                   precision = o$precision, threads = o$threads, seed = o$seed, split_seed = split_seed, checkpoint = o$checkpoint,
                   checkpoint_minutes = o$`checkpoint-minutes`, resume = o$resume, progress = NULL, callback = callback)
  if (!is.null(o$start)) {
    fit <- tryCatch(read_model(o$start), error = function(e) stop_with(3, conditionMessage(e)))
    fixed <- intersect(given, c("latents", "superresolution", "lsf", "wave-rest", "filters", "kernels", "pools", "encoder-hidden",
                                "decoder-hidden", "no-redshift-input", "weight-attention", "decoder-activation", "init",
                                "flux-calibration"))
    if (length(fixed)) stop_with(2, "--", fixed[1], " does not go with --start: the model decides it")
    return(do.call(update, c(list(fit, quote(x)), training)))
  }
  wave_rest <- if (!is.null(o$`wave-rest`)) {
    tryCatch(scan(o$`wave-rest`, quiet = TRUE), error = function(e) stop_with(2, "--wave-rest: ", conditionMessage(e)),
             warning = function(w) stop_with(2, "--wave-rest: ", conditionMessage(w)))
  }
  network <- spender_network(filters = o$filters, kernels = o$kernels, pools = if (is.null(o$pools)) o$kernels[1:2] else o$pools,
                             encoder_hidden = o$`encoder-hidden`, decoder_hidden = o$`decoder-hidden`,
                             redshift_input = !o$`no-redshift-input` && o$invariance == "none", weight_attention = o$`weight-attention`,
                             decoder_activation = o$`decoder-activation`)
  shape <- list(latents = o$latents, superresolution = o$superresolution, lsf = o$lsf, z_max = o$`z-max`, wave_rest = wave_rest,
                flux_calibration = if (!is.null(o$`flux-calibration`)) flux_calibration(o$`flux-calibration`),
                network = network, init = o$init)
  do.call(spender, c(list(quote(x)), shape, training))
}

write_outputs <- function(o, fit, x) {
  write_model(fit, o$output, overwrite = o$overwrite)
  if (!is.null(o$`fit-file`)) saveRDS(fit, o$`fit-file`)
  if (!is.null(o$`history-file`)) utils::write.csv(fit$history, o$`history-file`, row.names = FALSE)
  if (!is.null(o$`latents-file`)) {
    where <- list(fit, x, device = o$device, threads = o$threads)
    id <- if (inherits(x, "survey")) as.data.frame(x)$id else x$id
    table <- data.frame(id = id, z = x$z, do.call(encode, where), loss = do.call(predict, c(where, type = "loss")))
    utils::write.csv(table, o$`latents-file`, row.names = FALSE)
  }
}

main <- function() {
  parsed <- parse_arguments(commandArgs(TRUE))
  o <- parsed$options
  if (o$help) {
    print_help()
    return(0)
  }
  if (length(parsed$input) == 0 && is.null(o$simulate)) stop_with(2, "no INPUT was given; --help says more")
  if (length(parsed$input) && !is.null(o$simulate)) stop_with(2, "--simulate and INPUT exclude each other")
  check_outputs(o)
  suppressPackageStartupMessages(library(spender))
  utils::getFromNamespace("interrupt_on_sigterm", "spender")()

  x <- withCallingHandlers(
    tryCatch(read_input(o, parsed$input), spender_error = function(e) stop_with(3, conditionMessage(e))),
    spender_warning_files = function(w) invokeRestart("muffleWarning")) # the problems are listed
  if (length(x) == 0) stop_with(3, "no usable spectra in the input")
  message("Training on ", length(x), " spectra")

  interrupted <- FALSE
  fit <- withCallingHandlers(
    tryCatch(fit_model(o, parsed$given, x), spender_error = function(e) stop_with(4, conditionMessage(e))),
    spender_warning_interrupted = function(w) interrupted <<- TRUE,
    spender_warning = function(w) {
      message(conditionMessage(w))
      invokeRestart("muffleWarning")
    })
  if (interrupted && !is.null(o$checkpoint)) {
    message("train.R: stopped; --resume goes on from ", o$checkpoint)
    return(7)
  }
  if (interrupted && !isTRUE(nrow(fit$history) > 0)) stop_with(6, "stopped before the first epoch was done; nothing is written")
  tryCatch(write_outputs(o, fit, x), error = function(e) stop_with(5, conditionMessage(e)))
  message("Wrote ", o$output)
  if (interrupted) 6 else 0
}

status <- tryCatch(main(), interrupt = function(e) {
  message("train.R: stopped before training; nothing is written")
  6
}, error = function(e) {
  message("train.R: ", conditionMessage(e))
  1
})
quit(save = "no", status = status)
