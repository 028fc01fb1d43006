#!/usr/bin/env Rscript
# Whether refined latents and their errors can be trusted, on simulated galaxies: scatter under noise, unmasked glitches, a signal-to-noise
# of 2 with and without a prior, spectra of which a tenth is left, and redshifts that are wrong.
#
#   Rscript study-inference.R [name=value ...]
#     spectra=20000  latents=10  filters=16,32,64  hidden=256,128  epochs=30  rate=3e-3  batch=32  change=0.5  steps=3
#     held=1000  galaxies=50  realisations=200  faint=300  threads=0 (all)  fit=FILE.rds (kept there, and not trained again)
# `change`: the fraction of the training after which the decoder learns at refined latents.
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(spectra = 20000, latents = 10, filters = "16,32,64", hidden = "256,128", epochs = 30, rate = 3e-3, batch = 32,
                             change = 0.5, steps = 3, held = 1000, galaxies = 50, realisations = 200, faint = 300, threads = 0, fit = ""))
threads <- if (options$threads > 0) options$threads
simulate <- function(n, ...) simulate_spectra(n, lsf = dnorm(-2:2), ...)

if (nzchar(options$fit) && file.exists(options$fit)) {
  fit <- readRDS(options$fit)
} else {
  x <- simulate(options$spectra, rest = FALSE, seed = 11)
  x$truth <- NULL
  network <- spender_network(filters = numbers(options$filters), decoder_hidden = numbers(options$hidden))
  fit <- spender(x, latents = options$latents, network = network, init = "random", epochs = options$epochs, learning_rate = options$rate,
                 batch_size = options$batch, refine = if (options$change < 1) options$change else FALSE, validation = 0.05,
                 threads = threads, progress = FALSE)
  if (nzchar(options$fit)) saveRDS(fit, options$fit)
}
print(fit)
steps <- options$steps
refined <- function(x, ...) encode(fit, x, refine = steps, threads = threads, ...)
say <- function(...) cat(sprintf(...), "\n", sep = "")
numbers_of <- function(x) paste(format(round(x, 3), nsmall = 3), collapse = " ")

# losses beyond that of the truth
held <- simulate(options$held, rest = FALSE, seed = 12)
noise <- rowMeans(held$ivar * (held$flux - held$truth$flux)^2) / 2
for (k in unique(c(0, 1, 2, steps))) {
  excess <- predict(fit, held, "loss", refine = k, threads = threads) - noise
  say("loss beyond the truth's, %d steps: mean %.4f, median %.4f, without the worst percent %.4f", k, mean(excess), median(excess),
      mean(sort(excess)[seq_len(0.99 * length(excess))]))
}

# scatter under noise, at one norm: that of each realisation would move the amplitude
n <- options$galaxies
clean <- simulate(n, z = held$z[seq_len(n)], galaxies = held$truth$parameters[seq_len(n), ], rest = FALSE, seed = 13, defects = FALSE)
galaxy <- rep(seq_len(n), options$realisations)
again <- clean[galaxy]
set.seed(16)
again$flux <- again$truth$flux + ifelse(again$ivar > 0, rnorm(length(again$ivar)) / sqrt(again$ivar), 0)
found <- refined(again, se = TRUE)
within <- function(values) values - rowsum(values, galaxy)[galaxy, , drop = FALSE] / options$realisations
ratio <- sqrt(colMeans((within(found$latent) / found$se)^2) * options$realisations / (options$realisations - 1))
say("scatter of latents under noise, over their errors: %s", numbers_of(ratio))
# redshifts: of the simulated galaxies, and of spectra that are models of this fit, which it therefore describes
model <- predict(fit, clean, "observed", refine = steps, threads = threads)[galaxy, ]
own <- again
own$ivar[!is.finite(model)] <- 0
own$flux <- again$flux + ifelse(is.finite(model), model - again$truth$flux, 0)
for (x in list(list("simulated galaxies", again), list("the fit's own models", own))) {
  start <- x[[2]]$z
  z <- predict(fit, x[[2]], "z", refine = steps + 3, refine_z = TRUE, threads = threads)
  off <- (z[, "z"] - start) / z[, "z_err"]
  scatter <- within(z[, "z", drop = FALSE]) / z[, "z_err"]
  say("redshifts of %s: scatter over errors %.3f; within 1 and 2 errors of the truth %.1f and %.1f %%; errors' median %.1e", x[[1]],
      sqrt(mean(scatter^2)), 100 * mean(abs(off) < 1), 100 * mean(abs(off) < 2), median(z[, "z_err"]))
  x[[2]]$z <- start + 3 * z[, "z_err"]
  pulled <- predict(fit, x[[2]], "z", refine = steps + 3, refine_z = TRUE, threads = threads)[, "z"]
  from_before <- abs(pulled - z[, "z"]) / z[, "z_err"]
  say("  given 3 errors off, they end %.2f errors (median; rms %.2f) from where they ended before", median(from_before),
      sqrt(mean(from_before^2)))
}

# bands of the models
other <- simulate(options$faint, rest = FALSE, seed = 17)
inside <- function(bands, k) 100 * mean((abs(bands$model - other$truth$flux) < k * bands$se)[other$ivar > 0], na.rm = TRUE)
for (n in c(0, 40, 200, options$held)) {
  calibration <- if (n > 0) calibrate_models(fit, held[seq_len(min(n, options$held))], refine = steps, threads = threads)
  bands <- reconstruct(fit, other, normalized = TRUE, se = TRUE, refine = steps, calibration = calibration, threads = threads)
  say("bands, calibrated on %.0f spectra: the noiseless truth is within 1 and 2 errors in %.1f and %.1f %% of the pixels", n,
      inside(bands, 1), inside(bands, 2))
}

# five pixels of 20 sigma in 70 % of the spectra, not masked
set.seed(14)
one <- held[seq_len(min(options$faint, length(held)))]
spiked <- one
hit <- which(runif(length(one)) < 0.7)
for (i in hit) {
  at <- sample(which(one$ivar[i, ] > 0), 5)
  spiked$flux[i, at] <- spiked$flux[i, at] + 20 / sqrt(one$ivar[i, at])
}
errors <- refined(one, se = TRUE)$se[hit, ]
for (nu in list(NULL, 5, 3)) {
  moved <- (refined(spiked, robust = nu) - refined(one, robust = nu))[hit, ] / errors
  say("glitches move latents by %.2f errors (rms), %.2f (median); %s", sqrt(mean(moved^2)), median(abs(moved)),
      if (is.null(nu)) "normal errors" else paste("Student t of", nu))
}

# signal-to-noise 2
faint <- simulate(length(one), z = one$z, galaxies = one$truth$parameters, sn = 2, rest = FALSE, seed = 15, defects = FALSE)
distance <- function(model) sqrt(rowMeans((model - faint$truth$flux)^2, na.rm = TRUE))
say("S/N 2: rms distance of models from the truth (median): encoder %.4f, refined %.4f, with the prior %.4f",
    median(distance(predict(fit, faint, "observed", threads = threads))),
    median(distance(predict(fit, faint, "observed", refine = steps, threads = threads))),
    median(distance(predict(fit, faint, "observed", refine = steps, prior = TRUE, threads = threads))))

# nine tenths masked, in one piece
part <- one
part$ivar[, seq_len(round(0.9 * ncol(part$ivar)))] <- 0
prior <- fit$training$prior
k <- options$latents
latent <- refined(part, prior = TRUE)
inside <- mahalanobis(latent, prior$mean, matrix(prior$covariance, k)) / k
of_prior <- sqrt(diag(matrix(prior$covariance, k)))
error <- function(x, ...) refined(x, se = TRUE, ...)$se
say("nine tenths masked: distance from the prior's mean %.2f (rms per latent, in its standard deviations); %.1f %% beyond 3",
    sqrt(mean(inside)), 100 * mean(sqrt(inside) > 3))
say("  errors over the prior's standard deviation: %s", numbers_of(apply(error(part, prior = TRUE), 2, median) / of_prior))
say("  of the whole spectra: %s", numbers_of(apply(error(one, prior = TRUE), 2, median) / of_prior))
