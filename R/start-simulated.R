# Weights of fits of simulated galaxies (data-raw/simulated-start.R), as the start of a network with the same decoder: few spectra
# then only have to say in what they differ. There is one for the paper's decoder and one for that of fast_network(). The restframe grid
# may be another one, and the number of latents. The encoder's weights are taken where it has the same layers; elsewhere it begins at
# random, and learns from the decoder.

# The fit with the weights to start training from, and which ones, as `training$init`. "auto" takes those of simulated galaxies for up to
# `most` spectra, if they describe half of what a flat spectrum leaves of a sample of them.
choose_start <- function(fit, x, init, device, precision, threads, most = 5000) {
  fit$training$init <- "random"
  if (init == "random" || init == "auto" && length(x$z) > most) return(fit)
  start <- simulated_start(fit$architecture$decoder_hidden)
  unfit <- no_simulated_start(start, fit$architecture, fit$wave_rest)
  if (!is.null(unfit)) {
    if (init == "auto") return(fit)
    abort("invalid", "`init = \"simulated\"` does not go with this network: ", unfit, ".")
  }
  started <- fit
  started$weights <- with_simulated_start(start, fit$architecture, fit$weights, fit$wave_rest)
  started$training$init <- "simulated"
  if (init == "auto" && !describes_half(started, x, choose_device(device, precision, threads))) return(fit)
  started
}

# Of several instruments, one start: that which the first one's spectra choose, with the others' encoders, and the first one's decoder.
choose_starts <- function(fits, xs, init, device, precision, threads) {
  n <- sum(vapply(xs, function(x) length(x$z), 0L))
  if (init == "auto" && n > 5000) init <- "random"
  first <- choose_start(fits[[1]], xs[[1]], init, device, precision, threads)
  others <- lapply(fits[-1], function(fit) {
    with_decoder(choose_start(fit, NULL, first$training$init, device, precision, threads), first)
  })
  c(setNames(list(first), names(fits)[1]), others)
}

describes_half <- function(fit, x, device, most = 64) {
  x <- a_part_of(x[!is.na(x$norm)])
  x <- x[unknown_rows(fit, x) == 0]
  if (!length(x)) return(FALSE)
  if (length(x) > most) x <- x[round(seq(1, length(x), length.out = most))]
  flat <- flat_model(x, fit$wave_rest, footprint(fit, x))
  isTRUE(refined_loss(fit, x, seq_along(x$z), device, steps = 4) < (flat$loss + flat$valid / 2) / 2)
}

# NULL if there is none for a decoder with these hidden layers
simulated_start <- function(hidden) {
  path <- system.file("extdata", paste0("simulated-start-", paste(hidden, collapse = "-"), ".rds"), package = "spender")
  if (!nzchar(path)) return(NULL)
  start <- readRDS(path)
  unpack <- function(packed) {
    n <- prod(packed$shape)
    values <- readBin(packed$values, "integer", n, size = packed$bytes, signed = TRUE, endian = "little")
    array(values * rep(packed$scale, each = n / length(packed$scale)), packed$shape)
  }
  start$tensors <- c(lapply(start$tensors, unpack), start$exact)
  start
}

# Why a network cannot start from the simulated galaxies', or NULL
no_simulated_start <- function(start, architecture, wave_rest) {
  if (is.null(start) || architecture$decoder_activation != start$architecture$decoder_activation) {
    return("there is one for decoders with hidden layers of 64, 256 and 1024 units, or of 128, and the \"speculator\" activation")
  }
  within <- wave_rest >= start$wave_rest[1] & wave_rest <= start$wave_rest[length(start$wave_rest)]
  if (mean(within) < 0.5) return(paste0("more than half of its restframe grid is outside of ", describe_grid(start$wave_rest)))
  NULL
}

# Weights of `architecture` with those of the simulated galaxies where there are such, others as they are in `weights`
with_simulated_start <- function(start, architecture, weights, wave_rest) {
  new <- .Call(ffi_network_export, architecture, weights)
  old <- start$tensors
  s <- seq_len(min(architecture$n_latent, start$architecture$n_latent))
  learned <- which(start$wave_rest >= start$covered[1] & start$wave_rest <= start$covered[2])
  # beyond what the simulated galaxies covered: the mean of the nearest hundred pixels that they did
  on_grid <- function(y) {
    stats::approx(start$wave_rest[learned], y[learned], wave_rest, yleft = mean(y[utils::head(learned, 100)]),
                  yright = mean(y[utils::tail(learned, 100)]))$y
  }
  output <- paste0("decoder.mlp.", 3 * length(architecture$decoder_hidden))
  activation <- paste0("decoder.mlp.", 3 * length(architecture$decoder_hidden) + 1)
  for (name in grep("^decoder", names(old), value = TRUE)) {
    if (identical(dim(new[[name]]), dim(old[[name]])) || length(new[[name]]) == length(old[[name]])) new[[name]][] <- old[[name]]
  }
  new$decoder.mlp.0.weight[, s] <- old$decoder.mlp.0.weight[, s]
  new[[paste0(output, ".weight")]][] <- apply(old$left, 2, on_grid) %*% old$right
  for (name in c(paste0(output, ".bias"), paste0(activation, c(".beta", ".gamma")))) new[[name]][] <- on_grid(old[[name]])

  layers <- c("filters", "kernels", "pools", "encoder_hidden", "redshift_input")
  same <- vapply(layers, function(layer) isTRUE(all.equal(architecture[[layer]], start$architecture[[layer]])), NA)
  if (all(same) && !architecture$weight_attention) {
    last <- paste0("encoder.mlp.", 3 * length(architecture$encoder_hidden))
    for (name in setdiff(grep("^encoder", names(old), value = TRUE), paste0(last, c(".weight", ".bias")))) new[[name]][] <- old[[name]]
    new[[paste0(last, ".weight")]][s, ] <- old[[paste0(last, ".weight")]][s, ]
    new[[paste0(last, ".bias")]][s] <- old[[paste0(last, ".bias")]][s]
  }
  row_major <- function(x) if (length(dim(x)) < 2) as.double(x) else as.double(aperm(x))
  .Call(ffi_network_import, architecture, lapply(new, row_major))
}
