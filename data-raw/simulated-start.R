# Makes inst/extdata/simulated-start-HIDDEN.rds, the weights that `init = "simulated"` starts from, for a decoder with these hidden
# layers: a fit of simulated galaxies, made small.
#   Rscript data-raw/simulated-start.R HIDDEN EPOCHS BATCH      (about seven minutes on two cores)
# for the paper's decoder 64-256-1024 20 64, for that of fast_network() 128 40 32
# - latents: 10, changed linearly so that those of the training spectra are uncorrelated with variance 1, in order of how much they change
#   the restframe spectrum. Networks with fewer latents take the first ones, for which the others are 0, their mean.
# - last layer of the decoder: rank 48, best for the hidden units' second moments.
# - all but the latents' layers as integers of 16 bits, of large matrices of 8, with a scale for each column.
library(spender)

arguments <- commandArgs(TRUE)
if (length(arguments) != 3) stop("usage: simulated-start.R HIDDEN EPOCHS BATCH")
hidden_layers <- as.numeric(strsplit(arguments[1], "-")[[1]])
rank <- 48
path <- paste0("build/simulated-start-fit-", arguments[1], ".rds")
dir.create("build", showWarnings = FALSE)
if (!file.exists(path)) {
  x <- simulate_spectra(20000, rest = FALSE, seed = 2026)
  network <- spender_network(filters = c(16, 32, 64), decoder_hidden = hidden_layers)
  saveRDS(spender(x, latents = 10, network = network, init = "random", epochs = as.numeric(arguments[2]), learning_rate = 3e-3,
                  batch_size = as.numeric(arguments[3]), validation = 0.05, refine = TRUE, progress = FALSE), path)
}
fit <- readRDS(path)
print(fit)
sample <- simulate_spectra(1500, seed = 2027)
s <- encode(fit, sample, refine = 3, prior = TRUE)
s <- s[apply(abs(scale(s)), 1, max) < 6, ]
w <- coef(fit)
output <- 3 * length(hidden_layers) # number of the decoder's last layer

# ---- latents ----
centre <- colMeans(s)
spread <- t(chol(stats::cov(s)))
step <- 0.05
change <- matrix(0, 10, 10)
for (i in seq(1, nrow(s), length.out = 40)) {
  moved <- decode(fit, rbind(t(s[i, ] + step * spread), t(s[i, ] - step * spread)))
  slope <- (moved[1:10, ] - moved[11:20, ]) / (2 * step)
  change <- change + tcrossprod(slope)
}
to_old <- spread %*% eigen(change)$vectors # old latents: centre + to_old %*% new ones
to_new <- solve(to_old)
w$decoder.mlp.0.bias <- w$decoder.mlp.0.bias + drop(w$decoder.mlp.0.weight %*% centre)
w$decoder.mlp.0.weight <- w$decoder.mlp.0.weight %*% to_old
last <- "encoder.mlp.9"
w[[paste0(last, ".bias")]] <- drop(to_new %*% (w[[paste0(last, ".bias")]] - centre))
w[[paste0(last, ".weight")]] <- to_new %*% w[[paste0(last, ".weight")]]

# ---- last layer ----
activate <- function(x, layer) {
  beta <- w[[paste0("decoder.mlp.", layer, ".beta")]]
  gamma <- w[[paste0("decoder.mlp.", layer, ".gamma")]]
  (gamma + (1 - gamma) / (1 + exp(-beta * x))) * x
}
hidden <- t(s %*% t(to_new)) - drop(to_new %*% centre)
for (layer in seq(0, output - 3, by = 3)) {
  hidden <- activate(w[[paste0("decoder.mlp.", layer, ".weight")]] %*% hidden + w[[paste0("decoder.mlp.", layer, ".bias")]], layer + 1)
}
moments <- eigen(tcrossprod(hidden) / ncol(hidden) + diag(1e-6 * mean(hidden^2), nrow(hidden)), symmetric = TRUE)
root <- moments$vectors %*% (sqrt(moments$values) * t(moments$vectors))
inverse <- moments$vectors %*% (t(moments$vectors) / sqrt(moments$values))
output_weight <- paste0("decoder.mlp.", output, ".weight")
parts <- svd(w[[output_weight]] %*% root, nu = rank, nv = rank)
cat("singular values 1, ", rank, ": ", parts$d[c(1, rank)], "\n")
w$left <- parts$u %*% diag(sqrt(parts$d[1:rank]))
w$right <- diag(sqrt(parts$d[1:rank])) %*% t(parts$v) %*% inverse
w[[output_weight]] <- NULL

# ---- storage ----
pack <- function(x) {
  bytes <- if (length(x) > 5e4) 1 else 2
  shape <- if (is.null(dim(x))) length(x) else dim(x)
  x <- matrix(x, ncol = if (length(shape) == 2) shape[2] else 1)
  scale <- apply(abs(x), 2, max) / (2^(8 * bytes - 1) - 1)
  scale[scale == 0] <- 1
  list(shape = shape, scale = scale, bytes = bytes,
       values = writeBin(as.integer(round(t(t(x) / scale))), raw(), size = bytes, endian = "little"))
}
exact <- c("decoder.mlp.0.weight", "decoder.mlp.0.bias", paste0(last, ".weight"), paste0(last, ".bias"))
covered <- c(fit$instrument$wave[1] / (1 + fit$training$z_range[2]), max(fit$wave_rest)) # by spectra that it was trained on
start <- list(architecture = fit$architecture, wave_rest = fit$wave_rest, covered = covered,
              tensors = lapply(w[setdiff(names(w), exact)], pack), exact = w[exact])
to <- paste0("inst/extdata/simulated-start-", arguments[1], ".rds")
saveRDS(start, to, compress = "xz")
cat(file.size(to) / 1e6, "MB\n")
