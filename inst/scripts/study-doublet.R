#!/usr/bin/env Rscript
# Does super-resolution separate the doublet [O II] 3727, 3730, and find its ratio? Simulated emitters of known ratio, observed with a
# known line spread function as wide as the blue spectrographs of BOSS have it (R = 1300), and two kinds of fits: at the survey's resolution without a line spread function,
# and twice as fine with the known one, held as it is.
#
#   Rscript study-doublet.R [name=value ...]
#     spectra=4000  epochs=60  members=3  held=300  seed=1  sn=20  filters=16,32,64  fits=FILE.rds (read where it is, else written)
# Prints how many held-out emitters show two peaks in either model, and how far ratios are from the truth in units of the ensemble's
# error: the members' scatter about their mean, combined with a part common to all, found on another sample.
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(spectra = 4000, epochs = 60, members = 3, held = 300, seed = 1, sn = 20, filters = "16,32,64", fits = ""))

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
  galaxies$ew_halpha <- 10^runif(n, 1.3, 2.2)
  galaxies$log_n2_halpha <- runif(n, -0.9, -0.4)
  galaxies$log_o3_hbeta <- 0.61 / (galaxies$log_n2_halpha + 0.08) + 1.2
  galaxies$log_o2_hbeta <- 0.45 - 0.3 * (galaxies$log_n2_halpha + 0.65)
  galaxies$sigma_gas <- runif(n, 40, 70)
  galaxies$log_ne <- runif(n, 1, 3) # ratios 1.43 to 0.80
  simulate_spectra(n, z = runif(n, 0.03, 0.2), galaxies = galaxies, lsf = lsf, sn = options$sn, defects = FALSE, rest = n <= 1000, seed = seed)
}

network <- spender_network(filters = numbers(options$filters), decoder_hidden = c(64, 256))
if (nzchar(options$fits) && file.exists(options$fits)) {
  fits <- readRDS(options$fits)
} else {
  x <- emitters(options$spectra, options$seed)
  x$truth <- NULL
  arguments <- list(x, latents = 8, z_max = 0.2, network = network, epochs = options$epochs, learning_rate = 2e-3, validation = 0.1)
  fits <- list(
    low = do.call(spender, c(arguments, list(seed = options$seed, progress = FALSE))),
    high = do.call(spender_ensemble, c(arguments, list(members = options$members, seed = options$seed, superresolution = 2, lsf = kernel, lsf_rate = 0,
                                                       progress = FALSE)))
  )
  if (nzchar(options$fits)) saveRDS(fits, options$fits)
}
cat(options$spectra, " emitters, S/N ", options$sn, ", sigma 40 to 70 km/s, network ", options$filters, ", 8 latents, ", options$epochs, " epochs, ",
    options$members, " members\n", sep = "")
print(summary(fits$high))

# true_ratio, ratio of each member (n x members), dips of the fit at low resolution and of the members' mean spectrum
measure <- function(x) {
  p <- x$truth$parameters
  doublet <- function(rest, wave) {
    near <- abs(wave - 3728.5) < 40
    fit_doublet(rest[, near], wave = wave[near])
  }
  members <- lapply(fits$high, function(fit) predict(fit, x, "rest"))
  wave <- fits$high[[1]]$wave_rest
  list(true = 0.3771 * (2468 + 10^p$log_ne) / (638.4 + 10^p$log_ne), # Sanders et al. 2016
       ratios = vapply(members, function(rest) doublet(rest, wave)$ratio, p$log_ne),
       low = doublet(predict(fits$low, x, "rest"), fits$low$wave_rest), high = doublet(Reduce(`+`, members) / length(members), wave),
       data = doublet(x$truth$flux, x$instrument$wave)$dip)
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
m <- measure(held)
low <- predict(fits$low, held, "rest")
high <- Reduce(`+`, lapply(fits$high, function(fit) predict(fit, held, "rest"))) / length(fits$high)
cat(sprintf("two peaks in the model: %.0f %% at low resolution, %.0f %% at high; true restframe %.0f %%\n",
            100 * mean(peaks(low, fits$low$wave_rest)), 100 * mean(peaks(high, fits$high[[1]]$wave_rest)),
            100 * mean(peaks(held$truth$rest, held$truth$shared$wave_rest))))
cat(sprintf("dip between them (fitted): low %.2f, high %.2f (medians)\n", median(m$low$dip, na.rm = TRUE), median(m$high$dip, na.rm = TRUE)))

calibration <- measure(emitters(options$held, options$seed + 2000))
centre <- function(m) rowMeans(m$ratios)
scatter <- function(m) apply(m$ratios, 1, sd)
common <- sqrt(max(0, median((centre(calibration) - calibration$true)^2) / 0.455 - mean(scatter(calibration)^2) / ncol(calibration$ratios)))
pull <- function(error) (centre(m) - m$true) / error
within <- function(error, k) 100 * mean(abs(pull(error)) <= k)
cat(sprintf("ratio: correlation with truth %.3f, error %.3f (robust); members scatter by %.3f, common part %.3f\n", cor(centre(m), m$true),
            mad(centre(m) - m$true), median(scatter(m)), common))
alone <- scatter(m)
both <- sqrt(scatter(m)^2 + common^2)
cat(sprintf("within one and two errors: %.0f and %.0f %% with the members' scatter alone, %.0f and %.0f %% with the common part\n",
            within(alone, 1), within(alone, 2), within(both, 1), within(both, 2)))
