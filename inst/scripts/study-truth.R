#!/usr/bin/env Rscript
# What a fit knows, where the truth is known: noise, wavelengths that were not observed, glitches, attention, latents.
#
#   Rscript study-truth.R [name=value ...]
#     spectra=12000  epochs=20  latents=8  filters=64,128,256  held=1000  seed=1  spikes=0.5  fit=FILE.rds (read where it is, else written)
# Simulated galaxies as SDSS would see them (?simulate_spectra), held out from training where anything is measured. So many of the
# spectra that train (`spikes`) have some pixels spoiled under a mask: their flux stays, as in real files, and the encoder sees it,
# while the loss does not; from these it learns what to ignore.
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(spectra = 12000, epochs = 20, latents = 8, filters = "64,128,256", held = 1000, seed = 1, spikes = 0.5,
                             fit = ""))
say <- function(...) cat(sprintf(...), sep = "")
lsf_sdss <- dnorm(-2:2) # one pixel, 69 km/s
# Adds heights[i] sigma to pixels[[i]] of spectrum i; masks them where asked.
add_spikes <- function(x, pixels, heights, masked) {
  flux <- x$flux
  ivar <- x$ivar
  for (i in which(lengths(pixels) > 0)) {
    at <- pixels[[i]]
    flux[i, at] <- flux[i, at] + heights[i] / sqrt(max(ivar[i, at]))
    if (masked) ivar[i, at] <- 0
  }
  x$flux <- flux
  x$ivar <- ivar
  x
}
# n pixels (of each spectrum) from one on that is good
random_runs <- function(x, n) {
  lapply(seq_len(length(x)), function(i) {
    good <- which(x$ivar[i, ] > 0)
    if (n[i] > 0) sample(good[good <= ncol(x$ivar) - n[i]], 1) + seq_len(n[i]) - 1
  })
}

if (nzchar(options$fit) && file.exists(options$fit)) {
  fit <- readRDS(options$fit)
} else {
  x <- simulate_spectra(options$spectra, lsf = lsf_sdss, rest = FALSE, seed = options$seed)
  x$truth <- NULL
  set.seed(options$seed)
  n <- length(x)
  spoiled <- stats::runif(n) < options$spikes
  heights <- stats::runif(n, 5, 40) * sample(c(-1, 1), n, TRUE, c(0.2, 0.8))
  x <- add_spikes(x, random_runs(x, spoiled * sample(8, n, TRUE)), heights, masked = TRUE)
  network <- spender_network(filters = numbers(options$filters), decoder_hidden = c(64, 256, 512))
  fit <- spender(x, latents = options$latents, init = "random", network = network, epochs = options$epochs, validation = 0.05,
                 seed = options$seed, progress = FALSE)
  if (nzchar(options$fit)) saveRDS(fit, options$fit)
  rm(x)
}
last <- fit$history[nrow(fit$history), ]
say("%g simulated spectra, network %s, %d latents, %d epochs, %.0f s: loss %.4f, validation %.4f\n", options$spectra, options$filters,
    options$latents, nrow(fit$history), last$seconds, last$train_loss, last$validation_loss)

held <- simulate_spectra(options$held, lsf = lsf_sdss, seed = options$seed + 1000)
parameters <- held$truth$parameters
s <- encode(fit, held)
valid <- held$ivar > 0
line_flux <- function(rest, wave, centre) { # of each row: the sum within 10 Å above the mean from 25 to 40 Å
  line <- abs(wave - centre) <= 10
  side <- abs(wave - centre) >= 25 & abs(wave - centre) <= 40
  step <- c(diff(wave), 0)
  drop(rest[, line, drop = FALSE] %*% step[line]) - sum(step[line]) * rowMeans(rest[, side, drop = FALSE])
}
line_wave <- with(spectral_lines(), setNames(wave, name))

# ---- noise ----
model <- predict(fit, held, "observed")
per_spectrum <- function(error) vapply(seq_len(nrow(error)), function(i) stats::median(abs(error[i, valid[i, ]])), 0)
model_error <- per_spectrum((model - held$truth$flux) * sqrt(held$ivar))
noise <- per_spectrum((held$flux - held$truth$flux) * sqrt(held$ivar))
middle <- abs(log(held$meta$sn_median / median(held$meta$sn_median))) < 0.2
say(paste("noise           |model - truth| %.3f sigma, |data - truth| %.3f",
          "(medians over pixels, at S/N %.0f +- 20 %%; all spectra %.3f and %.3f)\n"),
    median(model_error[middle]), median(noise[middle]), median(held$meta$sn_median), median(model_error), median(noise))

# ---- beyond the observed wavelengths ----
near <- simulate_spectra(400, z = stats::runif(400, 0.003, 0.0149), lsf = lsf_sdss, seed = options$seed + 2000)
rest <- predict(fit, near, "rest")
truth <- line_flux(near$truth$rest, near$truth$shared$wave_rest, 3728.5)
found <- line_flux(rest, fit$wave_rest, 3728.5)
say("extrapolation   [O II] of galaxies with z < 0.015, where it is not observed: correlation with truth %.3f (Spearman %.3f)\n",
    cor(found, truth), cor(found, truth, method = "spearman"))

# ---- glitches ----
distance <- function(a, b) sqrt(rowSums((a - b)^2))
again <- simulate_spectra(options$held, galaxies = parameters, z = held$z, sn = parameters$sn, lsf = lsf_sdss, rest = FALSE,
                          seed = options$seed + 3000) # the same galaxies, other noise
under_noise <- distance(encode(fit, again), s) / sqrt(2)
set.seed(options$seed)
spoiled <- add_spikes(held, random_runs(held, rep(5, length(held))), rep(20, length(held)), masked = FALSE)
moved <- distance(encode(fit, spoiled), s)
say("glitches        5 pixels of 20 sigma move latents by %.3f, noise by %.3f (medians; ratio %.2f)\n", median(moved), median(under_noise),
    median(moved) / median(under_noise))

# ---- attention ----
# The channel is found on one half of the sample and judged on the other.
half <- seq_len(length(held)) %% 2 == 0
has_line <- line_wave[["Halpha"]] * (1 + held$z) < 9200
fam <- suppressWarnings(grad_fam(fit, held, "Halpha"))
strength <- line_flux(held$truth$rest, held$truth$shared$wave_rest, line_wave[["Halpha"]])
channels <- feature_channel(fam[half & has_line, , ])
channel <- channels$channel[1]
judged <- which(!half & has_line)
part <- rowSums(unclass(fam)[judged, , channel])
say("attention       channel %d of H-alpha: its Grad-FAM ranks held-out H-alpha with Spearman %.3f; the best five: %s\n", channel,
    cor(part, strength[judged], method = "spearman"),
    paste(sprintf("%.2f", vapply(channels$channel[1:5], function(c) cor(rowSums(unclass(fam)[judged, , c]), strength[judged],
                                                                        method = "spearman"), 0)),
          collapse = " "))
a <- unclass(attention(fit, held))
emitters <- judged[parameters$ew_halpha[judged] > 10]
wave_of <- function(map) attr(fam, "wave")[apply(abs(map), 1, which.max)]
strongest <- wave_of(unclass(fam)[emitters, , channel])
looked_at <- wave_of(a[emitters, , channel])
expected <- line_wave[["Halpha"]] * (1 + held$z[emitters])
say("                emitters (EW > 10 A): strongest segment against the observed H-alpha, correlation %.3f (Grad-FAM), %.3f (attention)\n",
    cor(strongest, expected), cor(looked_at, expected))
say("                median distance %.0f and %.0f A; a segment is %.0f A\n", median(abs(strongest - expected)),
    median(abs(looked_at - expected)),
    median(diff(attr(fam, "wave"))))

# ---- latents ----
r_squared <- function(y) {
  known <- is.finite(y)
  design <- data.frame(y = y, s)[known, ]
  terms <- paste(names(design)[-1], collapse = " + ")
  summary(lm(as.formula(paste0("y ~ (", terms, ")^2 + ", paste0("I(", names(design)[-1], "^2)", collapse = " + "))), design))$adj.r.squared
}
quantities <- with(parameters, list(`log EW(Ha)` = log10(ew_halpha), old = old, young = young, metals = metals, `E(B-V)` = ebv,
                                    `[N II]/Ha` = ifelse(ew_halpha > 5, log_n2_halpha, NA), `[O III]/Hb` = ifelse(ew_halpha > 5,
                                                                                                                  log_o3_hbeta, NA),
                                    `sigma stars` = sigma_stars, `log n_e` = ifelse(ew_halpha > 10, log_ne, NA)))
r2 <- vapply(quantities, r_squared, 0)
say("latents         adjusted R2, quadratic in the latents: %s\n", paste(names(r2), sprintf("%.2f", r2), collapse = ", "))
say("                redshift %.2f\n", r_squared(held$z))
few <- min(100, length(held))
some <- rep(seq_len(few), each = 4)
moved <- simulate_spectra(4 * few, galaxies = parameters[some, ], z = rep(c(0.05, 0.10, 0.15, 0.20), few), sn = parameters$sn[some],
                          lsf = lsf_sdss, rest = FALSE, seed = options$seed + 4000)
t <- encode(fit, moved)
within <- colMeans(apply(t, 2, function(v) tapply(v, some, var)))
between <- apply(apply(t, 2, function(v) tapply(v, some, mean)), 2, var)
say("                the same galaxy at z = 0.05, 0.10, 0.15, 0.20: scatter %.3f of that between galaxies (root of summed variances)\n",
    sqrt(sum(within) / sum(between)))
