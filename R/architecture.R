#' The network's widths and options
#'
#' The defaults are the paper's network (Melchior et al. 2023, section 3): three convolutions, attention over the segments
#' that remain, and two multilayer perceptrons. Smaller widths make the small networks of examples and tests.
#'
#' @param filters Channels after each of the three convolutions. The last is split into values and attention keys, so it is even.
#' @param kernels Pixels of each convolution's kernel; odd.
#' @param pools Pixels of the max-pools after the first two convolutions; odd. The paper has no pool after the third.
#' @param encoder_hidden,decoder_hidden Units of the hidden layers. The paper's decoder wants many spectra; [fast_network()] has a smaller
#'   one.
#' @param redshift_input Is the redshift an input of the encoder's MLP, in addition to the features of the spectrum? Later published models
#'   leave it out, and a line spread function can only be found without it (see `vignette("spender")`).
#' @param weight_attention A second encoder reads the inverse variance and multiplies its keys into the attention
#'   (section 3.3 of the paper, where it is tried and rejected).
#' @param decoder_activation `"speculator"`, the learnable activation of equation 3, or `"leaky_relu"`.
#'
#' @return A list of class `spender_network`, to be given to [spender()].
#' @export
#' @examples
#' spender_network(filters = c(8, 16, 32), encoder_hidden = 16, decoder_hidden = c(16, 32))
spender_network <- function(filters = c(128, 256, 512), kernels = c(5, 11, 21), pools = kernels[1:2],
                            encoder_hidden = c(128, 64, 32), decoder_hidden = c(64, 256, 1024),
                            redshift_input = TRUE, weight_attention = FALSE,
                            decoder_activation = c("speculator", "leaky_relu")) {
  decoder_activation <- match.arg(decoder_activation)
  check_counts(filters, "filters", 3)
  check_counts(kernels, "kernels", 3)
  check_counts(pools, "pools", 2)
  check_counts(encoder_hidden, "encoder_hidden")
  check_counts(decoder_hidden, "decoder_hidden")
  check_flag(redshift_input, "redshift_input")
  check_flag(weight_attention, "weight_attention")
  if (any(kernels %% 2 == 0)) abort("invalid", "`kernels` must be odd, not ", enumerate(kernels), ".")
  if (any(pools %% 2 == 0)) abort("invalid", "`pools` must be odd, not ", enumerate(pools), ".")
  if (filters[3] %% 2 == 1) {
    abort("invalid", "The last of `filters` must be even: half are values, half attention keys. It is ", filters[3], ".")
  }
  structure(list(filters = as.numeric(filters), kernels = as.numeric(kernels), pools = c(as.numeric(pools), 1),
                 encoder_hidden = as.numeric(encoder_hidden), decoder_hidden = as.numeric(decoder_hidden),
                 redshift_input = redshift_input, weight_attention = weight_attention,
                 decoder_activation = decoder_activation, decoder_offset = 1),
            class = "spender_network")
}

#' A small network that learns fast
#'
#' [spender_network()] with 16, 32 and 64 channels and a decoder with one hidden layer of 128 units. With `spender(refine = TRUE)` it comes
#' nearest to the noise for its time: 20,000 simulated galaxies take six minutes on two cores, and others are then described to within
#' 2 % of the noise's loss. From 7,000 it comes three times as near to the noise in a minute as with the paper's decoder
#' (64, 256, 1024) in two and a half.
#'
#' @param ... Further arguments of [spender_network()].
#' @return A list of class `spender_network`, to be given to [spender()].
#' @export
#' @examples
#' fast_network()
#' x <- simulate_spectra(32, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' fit <- spender(x, latents = 4, network = fast_network(), refine = TRUE, epochs = 2, threads = 1,
#'                progress = FALSE)
fast_network <- function(...) spender_network(filters = c(16, 32, 64), decoder_hidden = 128, ...)

# The architecture that the core reads: the network's shape and the sizes that the data and the user decide.
new_architecture <- function(network, n_observed, n_rest, n_latent, lsf, calibration = NULL, resolution = FALSE) {
  numbers <- list(n_observed = n_observed, n_rest = n_rest, n_latent = n_latent)
  c(lapply(numbers, as.double), unclass(network), list(lsf = as.double(lsf)),
    if (!is.null(calibration)) list(calibration_sd = calibration$sd), if (resolution) list(resolution = TRUE))
}

count_parameters <- function(architecture) sum(.Call(ffi_network_table, architecture)$count)
