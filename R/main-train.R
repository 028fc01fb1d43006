# `spender train`: spender() and update().

train_options <- function() {
  rbind(
    option("output", "text", "model.safetensors", "the model to write"),
    option("latents-file", "text", "", "also write id, z, latents and loss of every spectrum as CSV"),
    option("history-file", "text", "", "also write the losses of every epoch as CSV"),
    option("fit-file", "text", "", "also write the fit as .rds"),
    option("start", "text", "", "a model to train further (update()); network options are then those of the model"),
    option("checkpoint", "text", "", "keep the state of the training in this file, to go on from"),
    option("checkpoint-minutes", "number", "10", "minutes between two checkpoints"),
    option("resume", "flag", "", "go on from --checkpoint, if the file is there; the result has the bits of an unbroken run"),
    option("instrument", "choice:sdss|boss|desi", "sdss", "grid of SDSS or BOSS files; or files of DESI"),
    option("simulate", "number", "", "train on this many simulated spectra instead of INPUT"),
    option("all", "flag", "", "take every spectrum with a norm, without select_galaxies()"),
    option("z-err-max", "number", "", "select_galaxies(): largest redshift error; its default if not given"),
    option("latents", "number", "6", "latents S"),
    option("superresolution", "number", "1", "restframe pixels per observed pixel"),
    option("lsf", "number", "0", "pixels of the line spread function's kernel (odd), 0 for none"),
    option("lsf-rate", "number", "1", "its learning rate as a multiple of the others'"),
    option("lsf-sign", "choice:free|nonnegative", "free", "may its weights go below zero?"),
    option("resolution", "choice:auto|yes|no", "auto", "models get the resolution of each spectrum; auto: if they have one and no --lsf"),
    option("z-max", "number", "0.5", "highest redshift of the restframe grid, and of the selection"),
    option("wave-rest", "text", "", "a file of restframe wavelengths, one a line, instead of the default grid"),
    option("flux-calibration", "number", "", "degree of a polynomial that multiplies each spectrum's model; none if not given"),
    option("filters", "numbers", "128,256,512", "channels of the convolutions"),
    option("kernels", "numbers", "5,11,21", "pixels of their kernels"),
    option("pools", "numbers", "", "pixels of the first two max-pools; as the kernels if not given"),
    option("encoder-hidden", "numbers", "128,64,32", "units of the encoder's hidden layers"),
    option("decoder-hidden", "numbers", "64,256,1024", "units of the decoder's hidden layers"),
    option("no-redshift-input", "flag", "", "the encoder does not see the redshift; so with --invariance"),
    option("weight-attention", "flag", "", "a second encoder reads the inverse variance"),
    option("decoder-activation", "choice:speculator|leaky_relu", "speculator", "activation of the decoder"),
    option("init", "choice:auto|random|simulated", "auto", "initial weights; auto: of simulated galaxies for up to 5000 spectra like them"),
    option("epochs", "number", "", "passes over the data; 10 to 100, by the number of spectra, if not given"),
    option("batch-size", "number", "", "spectra per step; 8 to 64 on a CPU, to 1024 on a GPU, by the number of spectra, if not given"),
    option("learning-rate", "number", "", "highest learning rate; if not given, by the network's width and the start (init)"),
    option("schedule", "choice:step|epoch|constant", "step", "how often the learning rate changes"),
    option("cycle-momentum", "flag", "", "Adam's first moment decay cycles between 0.95 and 0.85"),
    option("validation", "number", "0.15", "fraction held out"),
    option("last", "flag", "", "keep the last epoch instead of that of the lowest validation loss"),
    option("refine", "flag", "", "the decoder learns at refined latents in the second half of the training"),
    option("refine-from", "number", "", "... after this fraction of the training"),
    option("invariance", "choice:none|sdss|desi", "none", "losses that make latents independent of redshift, with these published values"),
    option("invariance-form", "choice:scale-free|published", "scale-free", "... in this form"),
    option("average", "number", "0", "epochs over which weights are averaged; 0: none"),
    option("clip", "number", "", "largest norm of the mean loss's gradient; not limited if not given"),
    option("epsilon", "number", "1e-8", "Adam's epsilon"),
    option("pieces", "number", "", "compute batches in so many pieces, a power of two, which processes of mpirun share"),
    device_options("fp16"),
    option("seed", "number", "1", "seed of initial weights and order"),
    option("split-seed", "number", "", "seed of validation membership; that of --seed if not given"),
    common_options()
  )
}

# Options that a model to train further has decided
network_options <- c("latents", "superresolution", "lsf", "resolution", "wave-rest", "filters", "kernels", "pools", "encoder-hidden",
                     "decoder-hidden", "no-redshift-input", "weight-attention", "decoder-activation", "init", "flux-calibration")

run_train <- function(o, input, given) {
  if (o$resume && is.null(o$checkpoint)) usage("--resume needs --checkpoint")
  fixed <- intersect(given, network_options)
  if (!is.null(o$start) && length(fixed)) usage("--", fixed[1], " does not go with --start: the model decides it")
  need_input(o, input)
  if (!is.null(o$checkpoint) && file.exists(o$checkpoint) && !o$resume) {
    abort("exists", o$checkpoint, " exists; --resume goes on from it")
  }
  check_outputs(c(o$output, o$`latents-file`, o$`history-file`, o$`fit-file`, o$checkpoint), o$overwrite, o$checkpoint)
  x <- training_spectra(o, input)
  if (!length(x)) abort("files", "no usable spectra in the input")
  ranks <- join_ranks(!is.null(o$pieces))
  if (is_first(ranks)) message("Training on ", count(length(x), "spectrum", "spectra"))
  interrupted <- FALSE
  fit <- withCallingHandlers(train_model(o, x), spender_warning_interrupted = function(w) interrupted <<- TRUE)
  if (!is_first(ranks)) return(list(status = if (!interrupted) 0 else if (is.null(o$checkpoint)) 3 else 4, first = FALSE))
  if (interrupted && !is.null(o$checkpoint)) {
    message("spender train: stopped; --resume goes on from ", o$checkpoint)
    return(list(status = 4, checkpoint = o$checkpoint))
  }
  if (!isTRUE(nrow(fit$history) > 0)) {
    message("spender train: stopped before the first epoch was done; nothing is written")
    return(list(status = 3))
  }
  write_model(fit, o$output, overwrite = o$overwrite)
  if (!is.null(o$`fit-file`)) saveRDS(fit, o$`fit-file`)
  if (!is.null(o$`history-file`)) utils::write.csv(fit$history, o$`history-file`, row.names = FALSE)
  if (!is.null(o$`latents-file`)) {
    utils::write.csv(predict(fit, x, c("latent", "loss"), keep = character(), device = o$device, threads = o$threads), o$`latents-file`,
                     row.names = FALSE)
  }
  message("Wrote ", o$output)
  kept <- fit$history[kept_epoch(fit), ]
  list(status = if (interrupted) 3 else 0, output = o$output, spectra = length(x), epochs = nrow(fit$history),
       train_loss = kept$train_loss, validation_loss = kept$validation_loss)
}

training_spectra <- function(o, input) {
  if (!is.null(o$simulate)) return(simulate_spectra(o$simulate, instrument = o$instrument, seed = o$seed))
  x <- input_spectra(input, instrument(o$instrument), o)
  if (o$all) x[!is.na(x$norm)] else select_galaxies(x, z_max = o$`z-max`, z_err_max = o$`z-err-max`)
}

train_model <- function(o, x) {
  training <- list(epochs = o$epochs, batch_size = o$`batch-size`, learning_rate = o$`learning-rate`, schedule = o$schedule,
                   cycle_momentum = o$`cycle-momentum`, validation = o$validation, best = !o$last, lsf_rate = o$`lsf-rate`,
                   lsf_sign = o$`lsf-sign`, refine = if (is.null(o$`refine-from`)) o$refine else o$`refine-from`,
                   invariance = if (o$invariance != "none") spender_invariance(o$invariance, o$`invariance-form`), clip = o$clip,
                   epsilon = o$epsilon, average = o$average, pieces = o$pieces, device = o$device, precision = o$precision,
                   threads = o$threads, seed = o$seed,
                   split_seed = if (is.null(o$`split-seed`)) o$seed else o$`split-seed`, checkpoint = o$checkpoint,
                   checkpoint_minutes = o$`checkpoint-minutes`, resume = o$resume, progress = FALSE,
                   callback = if (!o$quiet) print_epoch)
  if (!is.null(o$start)) return(do.call(update, c(list(read_model(o$start), quote(x)), training)))
  network <- spender_network(filters = o$filters, kernels = o$kernels, pools = if (is.null(o$pools)) o$kernels[1:2] else o$pools,
                             encoder_hidden = o$`encoder-hidden`, decoder_hidden = o$`decoder-hidden`,
                             redshift_input = !o$`no-redshift-input` && o$invariance == "none", weight_attention = o$`weight-attention`,
                             decoder_activation = o$`decoder-activation`)
  shape <- list(latents = o$latents, superresolution = o$superresolution, lsf = o$lsf, z_max = o$`z-max`,
                resolution = if (o$resolution != "auto") o$resolution == "yes",
                wave_rest = if (!is.null(o$`wave-rest`)) read_wavelengths(o$`wave-rest`),
                flux_calibration = if (!is.null(o$`flux-calibration`)) flux_calibration(o$`flux-calibration`),
                network = network, init = o$init)
  do.call(spender, c(list(quote(x)), shape, training))
}

read_wavelengths <- function(path) {
  failed <- function(e) abort("files", "--wave-rest: ", conditionMessage(e))
  tryCatch(scan(path, quiet = TRUE), error = failed, warning = failed)
}

print_epoch <- function(history) {
  last <- history[nrow(history), ]
  message(sprintf("epoch %d  training %.5f  validation %.5f  %.0f s", as.integer(last$epoch), last$train_loss, last$validation_loss,
                  last$seconds))
  TRUE
}
