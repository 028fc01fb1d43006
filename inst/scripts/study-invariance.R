#!/usr/bin/env Rscript
# Latents that do not depend on redshift: trainings of one network without and with the losses of invariance, on simulated galaxies.
#
#   Rscript study-invariance.R [name=value ...]
#     spectra=20000  epochs=20  latents=6  filters=16,32,64  pixels=981  batch=64  held=500  seed=1  forms=none,scale-free,published
#     similarity=NUMBER  consistency=NUMBER  sigma=0.5  fraction=0.5  zmax=0.3  average=0
#     fits=FOLDER  (where fits are read from, or written to)
# Each form is one training, of the same spectra, seed and settings. Printed are the fidelity (the loss of equation 1 on galaxies that were
# held out, at the encoder's and at refined latents) and what check_invariance() finds: the same galaxies, noiseless, at z = 0.05 to 0.20.
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(spectra = 20000, epochs = 20, latents = 6, filters = "16,32,64", pixels = 981, batch = 64, held = 500,
                             seed = 1, forms = "none,scale-free,published", similarity = 0.1, consistency = 0.5, sigma = 0.5,
                             fraction = 0.5, zmax = 0.3, average = 0, fits = ""))
say <- function(...) cat(sprintf(...), sep = "")
grid <- instrument(10^seq(log10(3800), log10(9200), length.out = options$pixels), name = "study")
network <- spender_network(filters = numbers(options$filters), decoder_hidden = c(64, 256), redshift_input = FALSE)
held <- simulate_spectra(options$held, instrument = grid, rest = FALSE, seed = options$seed + 1000)
say("%g simulated galaxies, %g pixels, network %s, %g latents, %g epochs of batches of %g; perfect loss %.4f\n", options$spectra,
    options$pixels, options$filters, options$latents, options$epochs, options$batch, mean(held$ivar > 0) / 2)

# out-of-sample R2 of the redshift, of galaxies as they were drawn: from their properties, their evolution; from latents, that and more
known_redshift <- function(s) spender:::r_squared(as.matrix(s), held$z, seq_along(held$z))
properties <- held$truth$parameters[, c("old", "intermediate", "young", "metals", "ebv", "sigma_stars", "ew_halpha", "log_n2_halpha",
                                        "log_o3_hbeta")]
say("redshift of the galaxies as drawn from their true properties: R2 %.2f out of sample\n", known_redshift(properties))

for (form in strsplit(options$forms, ",", fixed = TRUE)[[1]]) {
  path <- file.path(options$fits, paste0("invariance-", form, ".rds"))
  if (nzchar(options$fits) && file.exists(path)) {
    fit <- readRDS(path)
  } else {
    invariance <- if (form != "none") {
      spender_invariance(form = form, similarity = options$similarity, consistency = options$consistency,
                         sigma = if (form == "scale-free") options$sigma, # published: the preset's
                         z_range = c(0, options$zmax), fraction = options$fraction)
    }
    x <- simulate_spectra(options$spectra, instrument = grid, rest = FALSE, seed = options$seed)
    fit <- spender(x, latents = options$latents, network = network, init = "random", epochs = options$epochs, batch_size = options$batch,
                   validation = 0.03, best = FALSE, refine = FALSE, invariance = invariance, average = options$average,
                   seed = options$seed, progress = FALSE)
    if (nzchar(options$fits)) saveRDS(fit, path)
  }
  check <- check_invariance(fit, held, z = c(0.05, 0.1, 0.15, 0.2))
  s <- encode(fit, held)
  losses <- c(mean(predict(fit, held, "loss", refine = 0)), mean(predict(fit, held, "loss", refine = 3)))
  say("%-11s fidelity %.4f, refined %.4f; scatter between redshifts / galaxies %.3f (by latent %s)\n", form, losses[1], losses[2],
      check$ratio, paste(sprintf("%.3f", check$latents$ratio), collapse = " "))
  say("            R2 of the redshift from latents %.3f, by chance %.3f at most; of the galaxies as drawn %.2f\n", check$r2,
      check$chance[["highest"]], known_redshift(s))
  say("            latents' size (root of their mean variance) %.3f; median distance of two galaxies %.3f; %.0f s\n",
      sqrt(mean(apply(s, 2, stats::var))), stats::median(stats::dist(s)), fit$history$seconds[nrow(fit$history)])
}
