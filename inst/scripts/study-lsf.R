#!/usr/bin/env Rscript
# Can the line spread function be learned? A known, asymmetric kernel, from several starts, on pixels uniform in wavelength or in
# log wavelength (as SDSS's). See ?lsf for what to expect, and why.
#
#   Rscript study-lsf.R [name=value ...]
#     pixels=linear|log  spectra=20000  epochs=12  seed=1  starts=delta,reversed,held  sn=20  output=FILE.rds
# Prints, for each start, the kernel found, its largest distance from the truth, and the loss; "held" keeps a delta.
library(spender)

options <- list(pixels = "linear", spectra = 20000, epochs = 12, seed = 1, starts = "delta,reversed,held", sn = 20, output = "")
for (argument in commandArgs(TRUE)) {
  parts <- regmatches(argument, regexec("^([a-z]+)=(.*)$", argument))[[1]]
  if (length(parts) != 3 || !parts[2] %in% names(options)) stop("not an option: ", argument, "; known are ", paste(names(options), collapse = ", "))
  options[[parts[2]]] <- if (is.numeric(options[[parts[2]]])) as.numeric(parts[3]) else parts[3]
}

truth <- c(0.03, 0.13, 0.42, 0.30, 0.12)
wave <- switch(options$pixels,
  linear = seq(5400, 7900, by = 1),
  log = 10^seq(log10(5400), log10(7900), by = 7e-5),
  stop("pixels must be linear or log")
)
# Redshifts uniform in 0 to 0.4 are what separates a kernel from the lines' own widths, and the better the narrower those are:
# 50 to 100 km/s here, in galaxies otherwise as they come. Pixels have the value at their centres, as the model's do, so that the
# kernel is the whole of the instrument.
set.seed(options$seed)
n <- options$spectra
galaxies <- simulate_spectra(n, instrument(c(5000, 6000)), rest = FALSE, seed = options$seed)$truth$parameters
galaxies$sigma_gas <- runif(n, 50, 100)
x <- simulate_spectra(n, instrument(wave, name = options$pixels), z = runif(n, 0, 0.4), galaxies = galaxies, lsf = truth,
                      integrate = FALSE, sn = options$sn, defects = FALSE, rest = FALSE, seed = options$seed)
x$truth <- NULL
network <- spender_network(filters = c(16, 32, 64), encoder_hidden = c(64, 32), decoder_hidden = c(64, 256), redshift_input = FALSE)
cat(length(x), " spectra on ", length(wave), " ", options$pixels, " pixels, z 0 to 0.4, S/N ", options$sn, "; ", options$epochs,
    " epochs; restframe x 2, 6 latents that do not see z\n", sep = "")

starts <- list(delta = c(0, 0, 1, 0, 0), reversed = rev(truth), truth = truth, box = rep(0.2, 5), held = c(0, 0, 1, 0, 0))
chosen <- strsplit(options$starts, ",", fixed = TRUE)[[1]]
fits <- lapply(setNames(chosen, chosen), function(start) {
  spender(x, latents = 6, superresolution = 2, z_max = 0.4, lsf = starts[[start]], lsf_rate = if (start == "held") 0 else 5, network = network,
          epochs = options$epochs, batch_size = 64, learning_rate = 2e-3, validation = 0.1, seed = options$seed, progress = FALSE)
})
show <- function(kernel) paste(sprintf("%6.3f", kernel), collapse = " ")
cat(sprintf("%-9s %s\n", "truth", show(truth)))
for (start in chosen) {
  kernel <- lsf(fits[[start]])
  last <- fits[[start]]$history[options$epochs, ]
  cat(sprintf("%-9s %s   farthest from the truth %.3f, asymmetry %6.3f (truth %.3f), loss %.5f training %.5f validation, %.0f s\n", start,
              show(kernel), max(abs(kernel - truth)), kernel[4] - kernel[2], truth[4] - truth[2], last$train_loss, last$validation_loss,
              last$seconds))
}
if (nzchar(options$output)) saveRDS(lapply(fits, function(fit) list(lsf = lsf(fit), history = fit$history)), options$output)
