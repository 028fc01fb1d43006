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
#' Initial weights of linear layers preserve the variance of their input (He et al. 2015). With PyTorch's defaults, which the published code
#' uses, signals are initially hundreds of times weaker; training then finds one direction of the latents at a time, and misses weak ones,
#' such as the ratio within a doublet, in a usual number of epochs.
#'
#' @param x Observed [spectra()], or a survey from [open_survey()], which is read from its files during training: with the same
#'   seed, the same losses to the last bit as from memory. Or a list of these, one for each of several instruments, by names of your
#'   choice: each gets an encoder, and all one decoder, see [spender_joint].
#' @param latents Number of latents \eqn{S}.
#' @param superresolution Restframe pixels per observed pixel, at least 1. The default grid is uniform in Å from
#'   \eqn{\lambda_1 / (1 + z_{max})} to \eqn{\lambda_M} (vacuum), with `floor(M * (1 + z_max)) * superresolution` pixels: 5881 for SDSS.
#' @param lsf Pixels of the line spread function's kernel (odd), or 0 for none: it is learned from a delta. Or the kernel to start
#'   from, an odd number of weights in the order of [lsf()]; they are divided by their sum. The kernel is identifiable only
#'   under conditions that [lsf()] describes. Of several instruments, one for each in a list by their names (0 for those left out), or
#'   one for all.
#' @param lsf_rate Learning rate of the kernel as a multiple of the others'; 0 keeps it as it is.
#' @param lsf_sign `"free"`, or `"nonnegative"` to keep the kernel's weights from going below zero.
#' @param resolution Are models given the resolution of each spectrum (see [spectra()]) before they are compared with it? Restframe
#'   spectra are then those that an instrument without blur would see, as far as pixels and noise allow. `NULL`: if the spectra have one
#'   and `lsf` is 0. Such a fit can be applied only to spectra that have resolutions, in whatever form; [decode()] gives its models
#'   without any.
#' @param z_max Highest redshift that the default restframe grid covers.
#' @param wave_rest Restframe grid in Å (increasing), instead of the default one.
#' @param flux_calibration `NULL` for fluxes that are as good as their weights say, or [flux_calibration()]: the model of each spectrum is
#'   multiplied by a factor, or a low-order polynomial, that fits it best.
#' @param network Widths and options: [spender_network()], the paper's, or [fast_network()].
#' @param init Initial weights: `"random"`; `"simulated"`, those of a fit of simulated galaxies, which comes with the package, for networks
#'   with the `decoder_hidden` of [spender_network()] or [fast_network()]; or `"auto"`, these for up to 5000 spectra if they describe half
#'   of what a flat spectrum leaves of them. The decoder is interpolated to the restframe grid; the encoder's weights are used where it
#'   has `filters = c(16, 32, 64)` and defaults otherwise.
#' @param epochs,batch_size,learning_rate Training: passes over the data, spectra per step, and the highest learning rate of the 1Cycle
#'   schedule (Adam, warm-up over 30 % of the steps, cosine decay). `NULL` chooses by the number of training spectra \eqn{n}, see Defaults.
#' @param schedule `"step"` changes the learning rate every step, `"epoch"` every epoch (as the published code does),
#'   `"constant"` never.
#' @param cycle_momentum Let Adam's first moment decay cycle between 0.95 and 0.85, against the learning rate.
#' @param validation Fraction of the spectra held out, whose loss is reported after every epoch.
#' @param best Return the weights of the epoch with the lowest validation loss instead of the last epoch's? With `refine` only epochs after
#'   the change-over count.
#' @param refine Whether the decoder learns at refined latents (see [predict.spender()]) in the later part of the training: `FALSE`, as
#'   published; `TRUE`, in the second half; or the fraction of the training after which. The encoder then learns through the decoder without
#'   changing it. Such fits are meant to be used with refined latents; reported losses are those of the encoder's latents.
#' @param invariance `NULL`, or further losses that make the latents independent of redshift, from [spender_invariance()].
#' @param clip The gradient of the batch's mean loss is scaled to this norm if its norm is larger; `NULL`: never.
#' @param epsilon Adam's \eqn{\epsilon}, for the gradient of the batch's mean loss.
#' @param average Validate with, and return, averages of the weights over about this many last epochs instead of the weights: with \eqn{T}
#'   steps in these epochs, \eqn{\bar w \leftarrow \bar w + (w - \bar w) / \min(t, T)} after step \eqn{t}. They are for weights
#'   that keep moving to the end. The 1Cycle schedule brings them to rest, and averages over more than its last epochs lag behind: over 6
#'   of 24 epochs, they raised the loss of simulated galaxies from 0.587 to 0.600. 0: no averages.
#' @param pieces `NULL`, or a power of two: the gradient of each batch is computed in so many pieces and added up in a fixed order.
#'   Processes that `mpirun` or `srun` has started with the same program share them (see Ranks). The result depends on the number of
#'   pieces, not on that of processes.
#' @param device `"cpu"`, `"cuda"` (an error where no GPU can be used) or `"auto"`: a GPU if there is one, or what
#'   `options(spender.device = )` says (see [devices()]).
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
#' @param resume Continue from `checkpoint`, if that file exists: with the same data and arguments (except the number of threads and the
#'   callback) the fit has the bits of an uninterrupted one. The file identifies its training; other data or arguments are an error that
#'   names them.
#' @param progress Show a progress bar and the settings that were chosen? `NULL`: in interactive sessions. `FALSE` also leaves out the
#'   warnings about how good the fit is, which [print()] repeats.
#' @param callback A function called after every epoch with the history so far (a data frame); training ends early when it
#'   returns `FALSE`.
#' @param common Of two instruments: weight of a further loss that pulls latents together which an object has from both, see
#'   [spender_joint]. 0 leaves it out.
#'
#' @return A list of class `spender`: `architecture`, `weights` (float32, as raw bytes), `instrument`, `wave_rest` (Å),
#'   `history` (a data frame: `epoch`, `train_loss`, `validation_loss`, `learning_rate`, `seconds`), `training` (settings and facts of the
#'   training; `kept` is the row of `history` that the weights belong to) and `call`. It is a plain R object: [saveRDS()] keeps all of it,
#'   [write_model()] writes it for others. An interrupt returns the fit of the epochs done, with a warning. Of several instruments, a
#'   list of these of class `spender_joint`.
#'
#' @section Defaults: Of \eqn{n} training spectra, `epochs` is \eqn{60 (200/n)^{1/4}}, between 10 and 100; `batch_size` is the power of two
#'   nearest to \eqn{\sqrt n} from 8 to 64 on a CPU, to 1024 on a GPU; `learning_rate` is \eqn{10^{-3} \sqrt{8 b/w}}, between 1 and 3
#'   times \eqn{10^{-3}}, with \eqn{w} channels of the widest convolution and batches of \eqn{b \le 64}, and a twentieth of that
#'   where training starts from simulated galaxies (`init`). The published code trains on
#'   half a million spectra with a rate of \eqn{10^{-3}}, batches of 1024, and keeps the last epoch (`best = FALSE`).
#' @section How good is the fit: Losses lie between that of a flat spectrum and half the fraction of valid pixels, which a perfect model
#'   has; [print()] shows both, and how much of their difference the fit explains. A training ends with a warning if the fit is not better
#'   than flat (`spender_warning_fit_flat`), if its loss still fell fast (`spender_warning_fit_short`), or if it over-fits
#'   (`spender_warning_fit_overfit`): the validation loss rises while the training loss falls.
#' @section Convergence, and how many latents: The losses of `history` are those of the encoder's latents, which are not the best that the
#'   decoder could do; compare `predict(fit, x[held_out(fit, x)], "loss", refine = 2)`, or the refined loss of [summary()], with the perfect
#'   one.
#'   1. Look at `plot(fit)`. A validation loss that still falls in the last tenth of the epochs, beyond the wiggles of single epochs, wants
#'      more of them; since the rate decays to zero within the epochs asked for, start again with twice as many, or go on by
#'      [update()][update.spender()]. One that rises while the training loss falls over-fits: more spectra help, or `init`, or fewer
#'      `epochs`.
#'   2. Twice the epochs that change the refined loss by less than its standard error over the held-out spectra,
#'      `sd(loss) / sqrt(length(loss))`, are not needed.
#'   3. [choose_latents()] fits several numbers of latents and draws refined losses with those of a PCA and the noise: take the smallest
#'      number beyond which the refined loss falls by less than that error. SDSS galaxies take 6 to 10 (Melchior et al. 2023, table 1).
#'   4. The distribution of `predict(fit, x, "chi2", refine = 2)` says which spectra are not described: its median should be near 1, and its
#'      largest values belong to what is rare or wrong in the data.
#' @section Ranks: In a build with MPI (see [devices()] and the README), `mpirun -n 4 Rscript train.R` trains one fit with four
#'   processes, the ranks, if the program calls `spender(..., pieces = 4)`, or with any larger power of two: each computes its share of
#'   the pieces of each batch and of the validation, and all return the same fit. The number of ranks is a power of two, too. Batches,
#'   their order and the schedule are those of one process, and on the CPU the fit has the same bits for any number of ranks. The first
#'   rank shows progress, calls `callback`, and writes and reads the `checkpoint`; `resume` works with another number of ranks. What one
#'   rank cannot go on with, such as a full disk for the checkpoint, ends the training on all, with an error that names the rank and its
#'   host; so does a rank that does not answer for `getOption("spender.timeout", 50)` seconds, which should be longer than a step, a
#'   checkpoint or a callback takes. See `vignette("cluster")`.
#' @section Errors: `spender_error_invalid` for arguments that do not make sense, for redshifts with which the restframe grid
#'   covers less than half of a spectrum (rows named), and for nothing to train on; `spender_error_diverged` when the loss is
#'   no longer finite in the first epoch (later, the last finite epoch's fit is returned with a warning); `spender_error_checkpoint`
#'   where `checkpoint` is of another training, or damaged; `spender_error_ranks` for ranks with different data, arguments or builds,
#'   `spender_error_device` where another one has stopped or does not answer, `spender_error_io` on the one whose checkpoint cannot be
#'   written.
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
spender <- function(x, latents = 6, superresolution = 1, lsf = 0, lsf_rate = 1, lsf_sign = c("free", "nonnegative"), resolution = NULL,
                    z_max = 0.5, wave_rest = NULL, flux_calibration = NULL, network = spender_network(),
                    init = c("auto", "random", "simulated"), epochs = NULL, batch_size = NULL, learning_rate = NULL,
                    schedule = c("step", "epoch", "constant"), cycle_momentum = FALSE, validation = 0.15, best = TRUE,
                    refine = FALSE, invariance = NULL, clip = NULL, epsilon = 1e-8, average = 0, pieces = NULL, device = "auto",
                    precision = "fp16", threads = NULL, seed = 1, split_seed = seed, checkpoint = NULL, checkpoint_minutes = 10,
                    resume = FALSE, progress = NULL, callback = NULL, common = 0) {
  several <- check_sources(x)
  xs <- if (several) x else list(x)
  check_number(latents, "latents", 1, 4096, whole = TRUE)
  if (!is.null(invariance)) {
    if (missing(network)) network <- spender_network(redshift_input = FALSE)
    if (missing(refine)) refine <- FALSE
  }
  check_network(network)
  lsf_sign <- match.arg(lsf_sign)
  schedule <- match.arg(schedule)
  kernels <- Map(check_lsf_argument, lsf_of_each(lsf, xs, several), xs, MoreArgs = list(sign = lsf_sign))
  wave_rest <- restframe_grid(lapply(xs, `[[`, "instrument"), superresolution, z_max, wave_rest)
  check_number(seed, "seed", 0, 2^53, whole = TRUE)
  check_flux_calibration(flux_calibration)
  call <- match.call()
  fits <- Map(function(x, kernel) {
    own <- takes_resolution(resolution, x, length(kernel))
    new_fit(network, x$instrument, wave_rest, latents, kernel, flux_calibration, own, seed, call)
  }, xs, kernels)
  options <- mget(training_arguments())
  check_training(options) # before the start is read and tried
  check_common(common, xs, options)
  fits <- choose_starts(fits, xs, match.arg(init), device, precision, threads)
  if (several) train_jointly(fits, xs, options, common) else train(fits[[1]], x, options)
}

# A fit that is not trained yet. kernel: see check_lsf_argument()
new_fit <- function(network, instrument, wave_rest, latents, kernel, flux_calibration, resolution, seed, call) {
  architecture <- new_architecture(network, length(instrument$wave), length(wave_rest), latents, length(kernel), flux_calibration,
                                   resolution)
  fit <- structure(list(
    architecture = architecture,
    weights = .Call(ffi_network_fill, architecture, seed),
    instrument = instrument,
    wave_rest = wave_rest,
    history = empty_history(),
    training = list(),
    call = call
  ), class = "spender")
  if (is.null(kernel)) fit else set_lsf(fit, kernel)
}

# The line spread function to start from, of one instrument: the kernel given, a delta of as many pixels, or NULL for none
check_lsf_argument <- function(lsf, x, sign) {
  kernel <- if (length(lsf) > 1) check_kernel(lsf)
  lsf <- if (is.null(kernel)) lsf else length(kernel)
  check_number(lsf, "lsf", 0, whole = TRUE)
  if (lsf > 0 && lsf %% 2 == 0) abort("invalid", "`lsf` must be 0 or odd, not ", lsf, ".")
  if (lsf > length(x$instrument$wave)) {
    abort("invalid", "`lsf` must not be longer than a spectrum: it is ", lsf, " pixels, and the grid has ", length(x$instrument$wave), ".")
  }
  if (sign == "nonnegative" && any(kernel < 0)) {
    abort("invalid", "`lsf` has negative weights, which `lsf_sign = \"nonnegative\"` excludes.")
  }
  if (is.null(kernel) && lsf > 0) kernel <- replace(numeric(lsf), (lsf + 1) / 2, 1)
  kernel
}

# Whether models get the spectra's own resolutions
takes_resolution <- function(resolution, x, lsf) {
  if (is.null(resolution)) return(!is.null(x$resolution) && lsf == 0)
  check_flag(resolution, "resolution")
  if (resolution && is.null(x$resolution)) {
    abort("resolution", "`resolution = TRUE`, but these spectra have none: see the argument `resolution` of spectra().")
  }
  if (resolution && lsf > 0) abort("invalid", "`resolution` and `lsf` exclude each other: models get one of them.")
  resolution
}

#' Train a fit further
#'
#' A warm start: the weights are kept, the learning rate goes through a new cycle, and Adam's moments are reset. The history is continued.
#'
#' With `freeze = "decoder"` only the encoder and its line spread function learn, and the decoder keeps its bits. Spectra on another grid
#' than the fit's are then of a new instrument: an encoder of the same widths begins at random and learns to give latents that the decoder
#' understands. So an instrument can join a fit later, and its latents mean what the others' do.
#'
#' @param object A fit from [spender()] or [read_model()].
#' @param x [spectra()] or a survey on the fit's instrument.
#' @param epochs Further epochs.
#' @param freeze `NULL`, or `"decoder"`: it does not change.
#' @param lsf The line spread function of a new instrument, as in [spender()].
#' @param ... Arguments of [spender()] that concern training:
#'   `r code_list(setdiff(training_arguments(), "epochs"), Inf)`.
#'   Of those left out, rates, schedule, batch size, validation and seeds are as in the training before.
#' @return The fit, trained further; of a new instrument, a fit with the same decoder, whose history begins anew.
#' @seealso [spender_joint] for fits of several instruments.
#' @export
update.spender <- function(object, x, epochs, ..., freeze = NULL, lsf = 0) {
  check_source(x)
  check_freeze(freeze)
  if (!is.null(freeze) && !same_grid(object$instrument$wave, x$instrument$wave)) {
    object <- with_new_encoder(object, x, lsf, list(...)$seed)
  } else if (!identical(lsf, 0)) {
    abort("invalid", "`lsf` is for the encoder of a new instrument.")
  }
  check_same_grid(object, x)
  train(object, x, updated_options(object$training, epochs, list(...)), freeze)
}

# A fit with the decoder of another and an untrained encoder of the same widths, for the instrument of x
with_new_encoder <- function(fit, x, lsf, seed) {
  kernel <- check_lsf_argument(lsf, x, "free")
  seed <- if (is.null(seed)) fit$training$seed else seed
  seed <- if (is.null(seed)) 1 else seed
  check_number(seed, "seed", 0, 2^53, whole = TRUE)
  new <- fit
  new$architecture$n_observed <- length(x$instrument$wave)
  new$architecture$lsf <- length(kernel)
  new$weights <- .Call(ffi_network_fill, new$architecture, seed)
  if (!is.null(kernel)) new <- set_lsf(new, kernel)
  new$instrument <- x$instrument
  new$history <- empty_history()
  new$training <- fit$training[names(fit$training) %in% training_settings()]
  with_decoder(new, fit)
}

# Options of a further training: those given, or else those of the training before
updated_options <- function(before, epochs, given) {
  unknown <- setdiff(names(given), setdiff(training_arguments(), "epochs"))
  if (length(unknown) || length(given) && is.null(names(given))) {
    abort("invalid", "update() does not know the argument ", code_list(unknown), ".")
  }
  before <- before[intersect(setdiff(training_settings(), c("epochs", "best", "device", "precision")), names(before))]
  if (!is.null(before$invariance)) class(before$invariance) <- "spender_invariance" # a fit keeps a plain list
  options <- utils::modifyList(utils::modifyList(training_defaults(), before, keep.null = TRUE), given, keep.null = TRUE)
  options$epochs <- epochs
  if (is.null(options$split_seed)) options$split_seed <- options$seed
  options
}

# Names of the arguments of spender() that concern the training and not the network; update() takes them, too.
training_arguments <- function() {
  setdiff(names(formals(spender)), c("x", "latents", "superresolution", "lsf", "z_max", "wave_rest", "flux_calibration", "network", "init",
                                      "resolution", "common"))
}

# Of those, the ones that decide the result; a fit keeps them as `training`.
training_settings <- function() {
  setdiff(training_arguments(), c("threads", "checkpoint", "checkpoint_minutes", "resume", "progress", "callback"))
}

training_defaults <- function() {
  defaults <- formals(spender)[training_arguments()]
  defaults["split_seed"] <- list(NULL) # the seed
  lapply(defaults, function(default) {
    value <- eval(default)
    if (is.character(value)) value[1] else value # of choices, the first
  })
}

#' @export
print.spender <- function(x, ...) {
  a <- x$architecture
  say <- function(label, ...) cat_narrow(paste0(...), paste0("  ", formatC(label, width = -11)))
  cat_narrow(paste0("spender fit: ", a$n_latent, ngettext(a$n_latent, " latent, ", " latents, "),
                    format(count_parameters(a), big.mark = ",", decimal.mark = "."), " parameters"))
  say("observed", x$instrument$name, ", ", describe_grid(x$instrument$wave))
  say("restframe", describe_grid(x$wave_rest))
  say("LSF", if (a$lsf > 0) paste(a$lsf, "pixels") else if (uses_resolution(x)) "the resolution of each spectrum" else "none")
  t <- x$training
  if (length(t$n_training)) {
    say("trained", t$epochs, ngettext(t$epochs, " epoch", " epochs"), " on ", t$n_training, " spectra (z ",
        paste(format(t$z_range, digits = 3, trim = TRUE), collapse = " to "), "), ", t$device,
        if (identical(t$init, "simulated")) ", from simulated galaxies")
  }
  if (nrow(x$history)) {
    kept <- x$history[kept_epoch(x), ]
    say("loss", format(kept$train_loss, digits = 4), " training, ", format(kept$validation_loss, digits = 4), " validation",
        if (kept_epoch(x) < nrow(x$history)) paste0(", of epoch ", kept$epoch, ", whose weights these are"))
    if (length(t$refined_loss)) say("refined", format(t$refined_loss, digits = 4), " validation, at refined latents")
    if (is.finite(explained(x))) {
      say("explains", format(100 * explained(x), digits = 3), " % of the loss between a flat spectrum (",
          format(t$flat_loss, digits = 4), ") and a perfect model (", format(perfect_loss(x), digits = 4), ")")
    }
    for (sentence in fit_advice(x)) say("note", sentence)
  }
  invisible(x)
}

# Row of the history that the weights belong to: the last, or with `best` that of the lowest validation loss
kept_epoch <- function(fit) {
  n <- nrow(fit$history)
  kept <- fit$training$kept
  if (length(kept) == 1 && is.finite(kept) && kept >= 1 && kept <= n) kept else n
}

#' Summary of a fit
#'
#' @param object A fit from [spender()].
#' @param x `NULL`, or [spectra()], better not those of the training, or a survey: the losses of the fit on them are compared with the
#'   noise's, half the fraction of pixels with weight.
#' @param pca `NULL`, or principal components from [spectra_pca()] to compare with.
#' @param refine Steps of the refined latents of this comparison.
#' @param ... Not used.
#' @return A list of class `summary.spender`: `fit`, `parameters` (a data frame with the name, shape and number of elements of
#'   every tensor), `best_epoch`, `kept_epoch` (that of the weights), `seconds`, and with `x` `losses`, named means over the spectra:
#'   `encoder`, `refined`, `pca` if given, and `noise`, and `chi2`, quantiles of the reduced \eqn{\chi^2} at refined latents. Printed, it
#'   begins with sentences for the methods section of a paper.
#' @export
#' @examples
#' x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' unseen <- simulate_spectra(20, instrument = fit$instrument, seed = 2)
#' summary(fit, unseen, pca = spectra_pca(x, 2))$losses
summary.spender <- function(object, x = NULL, pca = NULL, refine = 3, ...) {
  check_dots("summary", ...)
  if (is.null(x) && !is.null(pca)) abort("invalid", "`pca` is compared on spectra: give `x`, too.")
  table <- .Call(ffi_network_table, object$architecture)
  h <- object$history
  compared <- if (!is.null(x)) compare_losses(object, x, pca, refine)
  structure(list(
    fit = object,
    parameters = data.frame(name = table$name, shape = vapply(table$pytorch_shape, paste, "", collapse = " x "), count = table$count),
    best_epoch = if (nrow(h) && any(!is.na(h$validation_loss))) h$epoch[which.min(h$validation_loss)] else NA,
    kept_epoch = if (nrow(h)) h$epoch[kept_epoch(object)] else NA,
    seconds = if (nrow(h)) h$seconds[nrow(h)] else NA,
    losses = compared$losses,
    chi2 = compared$chi2
  ), class = "summary.spender")
}

# What a paper would say of the fit
in_sentences <- function(summary) {
  fit <- summary$fit
  t <- fit$training
  number <- function(x) format(x, digits = 3, big.mark = ",")
  said <- paste0("An autoencoder after Melchior et al. (2023) with ", count(fit$architecture$n_latent, "latent"), " and ",
                 number(count_parameters(fit$architecture)), " parameters (R package spender ", utils::packageVersion("spender"), ")")
  if (!length(t$n_training)) return(paste0(said, "."))
  loss <- judged_loss(fit)
  held <- if (names(loss) == "training") "The mean training loss" else {
    paste0("The mean loss of ", if (length(t$n_validation)) paste0(number(t$n_validation), " "), "spectra that were held out",
           if (names(loss) == "refined validation") ", at refined latents,")
  }
  said <- c(
    said, " was trained on ", number(t$n_training), " spectra at redshifts ",
    paste(format(t$z_range, digits = 2, trim = TRUE), collapse = " to "), " for ", count(nrow(fit$history), "epoch"), " (batches of ",
    t$batch_size, ", learning rate ", number(t$learning_rate), ", seed ", t$seed,
    if (identical(t$init, "simulated")) ", starting from simulated galaxies", "). ", held, " is ", format(loss[[1]], digits = 4)
  )
  if (is.finite(explained(fit))) {
    said <- c(said, ", where a flat spectrum has ", format(t$flat_loss, digits = 4), " and a model without error ",
              format(perfect_loss(fit), digits = 4), ": the fit describes ", number(100 * explained(fit)),
              " % of what is above the noise")
  }
  if (length(summary$chi2)) {
    chi2 <- vapply(summary$chi2, number, "")
    said <- c(said, ". The reduced chi-squared of the spectra compared has a median of ", chi2[2], " (16 to 84 %: ", chi2[1], " to ",
              chi2[3], ") at refined latents")
  }
  paste0(c(said, "."), collapse = "")
}

compare_losses <- function(fit, x, pca, refine) {
  if (!is.null(pca) && !inherits(pca, "spender_pca")) abort("invalid", "`pca` must be from spectra_pca(), not ", describe(pca), ".")
  x <- in_memory(x)
  encoder <- predict(fit, x, "loss", refine = 0)
  known <- is.finite(encoder)
  x <- x[known]
  refined <- predict(fit, x, c("loss", "chi2"), refine = refine)
  list(losses = c(encoder = mean(encoder[known]), refined = mean(refined$loss), pca = if (!is.null(pca)) mean(predict(pca, x, "loss")),
                  noise = mean(x$ivar > 0) / 2),
       chi2 = stats::quantile(refined$chi2, c(0.16, 0.5, 0.84), na.rm = TRUE))
}

#' @export
print.summary.spender <- function(x, ...) {
  cat(strwrap(in_sentences(x)), "", sep = "\n")
  print(x$fit)
  if (length(x$losses)) {
    cat("  compared   ", paste(names(x$losses), vapply(x$losses, format, "", digits = 4), collapse = ", "), "\n", sep = "")
  }
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
