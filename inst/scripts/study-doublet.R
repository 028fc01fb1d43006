#!/usr/bin/env Rscript
# Does super-resolution separate the doublet [O II] 3727, 3730, and find its ratio? Simulated emitters of known ratio, observed with a
# known line spread function as wide as the blue spectrographs of BOSS have it (R = 1300), and two kinds of fits: at the survey's
# resolution without a line spread function, and twice as fine with the known one, held as it is.
#
#   Rscript study-doublet.R [name=value ...]
#     wave=3800,4700  spectra=10000  epochs=60  members=4  draws=8  held=300  seed=1  sn=20  ew=20,158  filters=16,32,64
#     hidden=64,256  latents=6
#     refine=3 (steps of the latents; 0 for the encoder's, and a training as published)
#     fits=FILE.rds (read where it is, else written)  output=FILE.rds (the ratios and their errors)
# `wave`: SDSS's pixels from there to there; in an arm of 900 pixels the doublet is much of what there is to learn.
# Prints how many held-out emitters show two peaks in either model, and how far ratios are from the truth in units of their error: the
# members' scatter about their mean, combined with that of a member under noise (`draws` times the spectra are encoded with more of it).
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(wave = "3800,4700", spectra = 10000, epochs = 60, members = 4, draws = 8, held = 300, seed = 1, sn = 20,
                             filters = "16,32,64", hidden = "64,256", latents = 6, ew = "20,158", refine = 3, fits = "", output = ""))
arm <- instrument(10^seq(log10(numbers(options$wave)[1]), log10(numbers(options$wave)[2]), by = 1e-4), name = "arm")

lsf <- dnorm(-4:4, sd = 1.4) / sum(dnorm(-4:4, sd = 1.4)) # 97 km/s
# What a model that samples pixels at their centres needs besides, for pixels that have means: the second moment of a pixel, 1/12
kernel <- stats::convolve(lsf, c(1, 22, 1) / 24, type = "open")
emitters <- function(n, seed) {
  set.seed(seed)
  galaxies <- simulate_spectra(n, instrument(c(5000, 6000)), rest = FALSE, seed = seed)$truth$parameters
  galaxies$type <- "star-forming"
  # stars and dust alike: what differs are the lines
  alike <- list(old = 0.45, intermediate = 0.3, young = 0.25, metals = 1, ebv = 0.1, sigma_stars = 100)
  galaxies[names(alike)] <- alike
  ew <- log10(numbers(options$ew))
  galaxies$ew_halpha <- 10^runif(n, ew[1], ew[2])
  galaxies$log_n2_halpha <- runif(n, -0.9, -0.4)
  galaxies$log_o3_hbeta <- 0.61 / (galaxies$log_n2_halpha + 0.08) + 1.2
  galaxies$log_o2_hbeta <- 0.45 - 0.3 * (galaxies$log_n2_halpha + 0.65)
  galaxies$sigma_gas <- runif(n, 40, 70)
  galaxies$log_ne <- runif(n, 1, 3) # ratios 1.43 to 0.80
  x <- simulate_spectra(n, arm, z = runif(n, 0.03, 0.2), galaxies = galaxies, lsf = lsf, sn = options$sn, defects = FALSE, rest = n <= 1000,
                        normalize = FALSE, seed = seed)
  # The usual norm's window lies outside; this one is free of lines and always seen.
  level <- vapply(seq_len(n), function(i) stats::median(x$flux[i, abs(arm$wave / (1 + x$z[i]) - 3800) < 50]), 0)
  x$flux <- x$flux / level
  x$ivar <- x$ivar * level^2
  x$ivar[, c(1:6, length(arm$wave) - 0:5)] <- 0 # models have zeros beyond the ends, within reach of the kernel
  x$truth$flux <- x$truth$flux / level
  if (n <= 1000) x$truth$rest <- x$truth$rest / level
  x
}

network <- spender_network(filters = numbers(options$filters), decoder_hidden = numbers(options$hidden))
if (nzchar(options$fits) && file.exists(options$fits)) {
  fits <- readRDS(options$fits)
} else {
  x <- emitters(options$spectra, options$seed)
  x$truth <- NULL
  arguments <- list(x, latents = options$latents, z_max = 0.2, network = network, epochs = options$epochs, learning_rate = 2e-3,
                    validation = 0.1, refine = options$refine > 0)
  fits <- list(
    low = do.call(spender, c(arguments, list(seed = options$seed, progress = FALSE))),
    high = do.call(spender_ensemble, c(arguments, list(members = options$members, seed = options$seed, superresolution = 2, lsf = kernel,
                                                       lsf_rate = 0,
                                                       progress = FALSE)))
  )
  if (nzchar(options$fits)) saveRDS(fits, options$fits)
}
cat(options$spectra, " emitters, S/N ", options$sn, ", sigma 40 to 70 km/s, network ", options$filters, ", ", options$latents, " latents, ",
    options$epochs, " epochs, ",
    options$members, " members\n", sep = "")
print(summary(fits$high))

wave <- fits$high[[1]]$wave_rest
doublet <- function(rest, wave) {
  near <- abs(wave - 3728.5) < 40
  fit_doublet(rest[, near], wave = wave[near])
}
# Two peaks as the eye would count them: between the largest values near either line there is one lower by 2 % of the lower peak
# above the continuum.
peaks <- function(rest, wave) {
  near <- which(abs(wave - 3728.5) < 25)
  left <- seq(3725.5, 3728.5, by = 0.1)
  right <- seq(3728.5, 3731.5, by = 0.1)
  apply(rest[, near], 1, function(f) {
    value <- function(w) stats::approx(wave[near], f, w)$y
    first <- left[which.max(value(left))]
    second <- right[which.max(value(right))]
    if (second - first < 0.3) return(FALSE)
    lower <- min(value(c(first, second))) - stats::median(f)
    min(value(seq(first, second, length.out = 50))) - stats::median(f) < 0.98 * lower
  })
}
held <- emitters(options$held, options$seed + 1000)
n_e <- 10^held$truth$parameters$log_ne
truth <- 0.3771 * (2468 + n_e) / (638.4 + n_e) # Sanders et al. 2016
low <- predict(fits$low, held, "rest", refine = options$refine)
members <- lapply(fits$high, function(fit) predict(fit, held, "rest", refine = options$refine))
high <- Reduce(`+`, members) / length(members)
cat(sprintf("two peaks in the model: %.0f %% at low resolution, %.0f %% at high; true restframe %.0f %%\n",
            100 * mean(peaks(low, fits$low$wave_rest)), 100 * mean(peaks(high, wave)),
            100 * mean(peaks(held$truth$rest, held$truth$shared$wave_rest))))
cat(sprintf("dip between them (fitted): low %.2f, high %.2f (medians)\n", median(doublet(low, fits$low$wave_rest)$dip, na.rm = TRUE),
            median(doublet(high, wave)$dip, na.rm = TRUE)))

ratios <- vapply(members, function(rest) doublet(rest, wave)$ratio, truth)
set.seed(options$seed)
noisy <- vapply(seq_len(options$draws), function(draw) {
  again <- held
  again$flux <- held$flux + ifelse(held$ivar > 0, 1 / sqrt(held$ivar), 0) * rnorm(length(held$flux))
  doublet(predict(fits$high[[1]], again, "rest", refine = options$refine), wave)$ratio
}, truth)
found <- rowMeans(ratios)
scatter <- apply(ratios, 1, sd)
noise <- apply(noisy, 1, sd)
error <- sqrt(scatter^2 + noise^2)
within <- function(error, k) 100 * mean(abs(found - truth) <= k * error)
cat(sprintf(paste("ratio: correlation with truth %.3f, rms from it %.3f (the truth's own scatter %.3f);",
                  "errors (medians): members %.3f, noise %.3f\n"),
            cor(found, truth), sqrt(mean((found - truth)^2)), sd(truth), median(scatter), median(noise)))
cat(sprintf("bias %.3f of all, by member %s\n", mean(found - truth), paste(sprintf("%.3f", colMeans(ratios - truth)), collapse = " ")))
cat(sprintf("within one, 1.64 and two errors: %.0f, %.0f and %.0f %%\n", within(error, 1), within(error, 1.64), within(error, 2)))
if (nzchar(options$output)) saveRDS(data.frame(truth, found, members = scatter, noise, error), options$output)
