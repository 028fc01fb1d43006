# The fit that vignettes("attention") and ("latents") show: too long to train while they build.
#
#   Rscript data-raw/vignette-models.R
# 10,000 simulated galaxies on a grid with a third of SDSS's resolution; some minutes. Writes vignettes/models/demo.rds.
library(spender)
grid <- instrument(10^seq(log10(3800), log10(9200), by = 3e-4), name = "demo")
x <- simulate_spectra(10000, instrument = grid, rest = FALSE, seed = 1)
x$truth <- NULL
network <- spender_network(filters = c(24, 48, 128), kernels = c(5, 7, 11), pools = c(3, 5), encoder_hidden = c(64, 32),
                           decoder_hidden = c(32, 128))
fit <- spender(x, latents = 6, network = network, epochs = 40, validation = 0.1, learning_rate = 2e-3, refine = TRUE,
               progress = FALSE)
print(fit)
fit$call <- NULL
dir.create("vignettes/models", FALSE)
saveRDS(fit, "vignettes/models/demo.rds", compress = "xz")
cat(file.size("vignettes/models/demo.rds") / 1e6, "MB\n")
