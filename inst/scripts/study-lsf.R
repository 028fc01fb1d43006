#!/usr/bin/env Rscript
# Can the line spread function be learned? A known, asymmetric kernel, from several starts, on pixels uniform in wavelength or in
# log wavelength (as SDSS's). See ?lsf for what to expect, and why.
#
#   Rscript study-lsf.R [name=value ...]
#     pixels=linear|log  spectra=20000  epochs=40  seed=1  starts=delta,reversed,held  sn=20  widths=50,52  rate=20  latents=3
#     output=FILE.rds
# Prints, for each start, the kernel found, its largest distance from the truth, the loss, and how far the latents tell the redshift;
# "held" keeps a delta. The galaxies are emitters of one kind, which three latents describe, so that little is left to tell the redshift
# by; their lines are `widths` km/s wide (sigma, uniform between the two). `rate` is the kernel's learning rate in units of the
# others': a fast one forgets where it started, a slow one shows whether the data pull it anywhere. Where widths differ more from
# galaxy to galaxy (50,100), or spectra have more in them than the latents hold, what the model leaves over biases the kernel. The
# kernel's mean is what takes longest, since a shift of the restframe nearly makes up for it: after 20 epochs starts still disagree.
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(pixels = "linear", spectra = 20000, epochs = 40, seed = 1, starts = "delta,reversed,held", sn = 20,
                             widths = "50,52", rate = 20, latents = 3, output = ""))

truth <- c(0.03, 0.13, 0.42, 0.30, 0.12)
wave <- switch(options$pixels,
  linear = seq(5400, 7900, by = 1),
  log = 10^seq(log10(5400), log10(7900), by = 1e-4),
  stop("pixels must be linear or log")
)
# Redshifts uniform in 0 to 0.4 are what separates a kernel from the lines' own widths, and the better the narrower those are. Pixels have
# the value at their centres, as the model's do, so that the kernel is the whole of the instrument.
widths <- numbers(options$widths)
set.seed(options$seed)
n <- options$spectra
log_n2 <- runif(n, -0.9, -0.35)
young <- runif(n, 0.1, 0.4)
galaxies <- data.frame(type = "star-forming", old = 0.7 * (1 - young), intermediate = 0.3 * (1 - young), young = young, metals = 1,
                       ebv = 0.1,
                       sigma_stars = 100, sigma_gas = runif(n, widths[1], widths[length(widths)]), log_ne = 1.7, ew_halpha = 10^runif(n, 1,
                                                                                                                                      2),
                       log_n2_halpha = log_n2, log_o3_hbeta = 0.61 / (log_n2 + 0.08) + 1.2, log_s2_halpha = -0.42, log_o2_hbeta = 0.3)
x <- simulate_spectra(n, instrument(wave, name = options$pixels), z = runif(n, 0, 0.4), galaxies = galaxies, lsf = truth,
                      integrate = FALSE, sn = options$sn, defects = FALSE, rest = FALSE, seed = options$seed)
x$truth <- NULL
# Models have zeros beyond the ends, as the published code does: pixels there would tell the kernel, or mislead, and are masked.
ends <- c(1:4, length(wave) - 0:3)
x$ivar[, ends] <- 0
network <- spender_network(filters = c(16, 32, 64), encoder_hidden = c(64, 32), decoder_hidden = c(64, 256), redshift_input = FALSE)
cat(length(x), " spectra on ", length(wave), " ", options$pixels, " pixels, z 0 to 0.4, S/N ", options$sn, "; ", options$epochs,
    " epochs; lines of ", options$widths, " km/s; restframe x 2, ", options$latents, " latents\n", sep = "")

starts <- list(delta = c(0, 0, 1, 0, 0), reversed = rev(truth), truth = truth, box = rep(0.2, 5), held = c(0, 0, 1, 0, 0))
chosen <- strsplit(options$starts, ",", fixed = TRUE)[[1]]
fits <- lapply(setNames(chosen, chosen), function(start) {
  spender(x, latents = options$latents, init = "random", superresolution = 2, z_max = 0.4, lsf = starts[[start]],
          lsf_rate = if (start == "held") 0 else options$rate, network = network,
          epochs = options$epochs, batch_size = 64, learning_rate = 2e-3, validation = 0.1, seed = options$seed, progress = FALSE)
})
show <- function(kernel) paste(sprintf("%6.3f", kernel), collapse = " ")
cat(sprintf("%-9s %s\n", "truth", show(truth)))
for (start in chosen) {
  kernel <- lsf(fits[[start]])
  last <- fits[[start]]$history[options$epochs, ]
  some <- seq_len(min(2000, n))
  s <- encode(fits[[start]], x[some])
  sees <- summary(lm(x$z[some] ~ stats::poly(s, 3)))$adj.r.squared
  cat(sprintf("          redshift from the latents (cubic): R2 %.3f\n", sees))
  cat(sprintf("%-9s %s   farthest from the truth %.3f, asymmetry %6.3f (truth %.3f), loss %.5f training %.5f validation, %.0f s\n", start,
              show(kernel), max(abs(kernel - truth)), kernel[4] - kernel[2], truth[4] - truth[2], last$train_loss, last$validation_loss,
              last$seconds))
}
if (nzchar(options$output)) saveRDS(lapply(fits, function(fit) list(lsf = lsf(fit), history = fit$history)), options$output)
