#!/usr/bin/env Rscript
# Table 1 of Melchior et al. (2023): the loss by number of latents, at the survey's resolution and super-resolved with a line spread
# function, of the encoder's latents and of refined ones, beside the paper's numbers and as many principal components. All losses are those
# of the same held-out spectra.
#
#   Rscript study-dimensions.R [name=value ...]
#     survey=FILE.fits  spectra=3000  held=1000  epochs=20  rate=3e-3  refine=1  latents=2,4,6,8,10  kinds=LR,SR  seeds=1
#     filters=16,32,64  hidden=64,256,1024  device=auto  output=FILE.rds
#     pca=3000 (spectra of the training that principal components are found on; 0 for none)
# `survey` is one that write_survey() or simulate_survey() made, of which galaxies are selected; without it, `spectra` are simulated. The
# last `held` spectra are held out. refine=0 trains as published. The paper's network has filters=128,256,512 and 100 epochs.
# A fit that was made is kept in `output` and not made again.
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(survey = "", spectra = 3000, held = 1000, epochs = 20, rate = 3e-3, refine = 1, latents = "2,4,6,8,10",
                             kinds = "LR,SR", seeds = "1", filters = "16,32,64", hidden = "64,256,1024", device = "auto", output = "",
                             pca = 3000))
paper <- data.frame(latents = rep(c(2, 4, 6, 8, 10), 2), kind = rep(c("LR", "SR"), each = 5),
                    paper = c(0.430, 0.396, 0.388, 0.383, 0.381, 0.430, 0.395, 0.387, 0.383, 0.381))

x <- if (nzchar(options$survey)) {
  select_galaxies(open_survey(options$survey))
} else {
  simulate_spectra(options$spectra, lsf = dnorm(-2:2), rest = FALSE, seed = 11)
}
n <- length(x)
n_train <- n - min(options$held, floor(n / 3))
held <- as_spectra(x[seq(n_train + 1, n)])
network <- spender_network(filters = numbers(options$filters), decoder_hidden = numbers(options$hidden))
kept <- list(fits = data.frame(), pca = data.frame())
if (nzchar(options$output) && file.exists(options$output)) kept <- readRDS(options$output)
keep <- function() if (nzchar(options$output)) saveRDS(kept, options$output)

for (latents in numbers(options$latents)) {
  for (kind in strsplit(options$kinds, ",", fixed = TRUE)[[1]]) {
    for (seed in numbers(options$seeds)) {
      done <- kept$fits
      if (any(done$latents == latents & done$kind == kind & done$seed == seed)) next
      fit <- spender(x[seq_len(n_train)], latents = latents, init = "random", superresolution = if (kind == "SR") 2 else 1,
                     lsf = if (kind == "SR") 5 else 0, network = network, epochs = options$epochs, learning_rate = options$rate,
                     refine = options$refine > 0, validation = 0, device = options$device, seed = seed, progress = FALSE)
      losses <- summary(fit, held)$losses
      last <- fit$history[nrow(fit$history), ]
      kept$fits <- rbind(kept$fits, data.frame(latents, kind, seed, training = last$train_loss, t(losses), seconds = last$seconds))
      message(sprintf("S = %g, %s, seed %g: encoder %.4f, refined %.4f, noise %.4f, %.0f s", latents, kind, seed, losses["encoder"],
                      losses["refined"], losses["noise"], last$seconds))
      keep()
    }
  }
  if (options$pca > 0 && !any(kept$pca$latents == latents)) {
    pca <- spectra_pca(x[seq_len(min(options$pca, n_train))], components = latents)
    kept$pca <- rbind(kept$pca, data.frame(latents, pca = mean(predict(pca, held, "loss"), na.rm = TRUE)))
    keep()
  }
}

table <- aggregate(kept$fits[c("encoder", "refined")], kept$fits[c("latents", "kind")], mean)
spread <- aggregate(kept$fits["refined"], kept$fits[c("latents", "kind")], function(v) diff(range(v)))
table <- merge(table, setNames(spread, c("latents", "kind", "range")))
if (nrow(kept$pca)) table <- merge(table, kept$pca)
print(merge(table, paper, all.x = TRUE), digits = 4, row.names = FALSE)
cat("noise ", format(kept$fits$noise[1], digits = 4), ", means over ", length(unique(kept$fits$seed)), " seeds, ", n_train,
    " training and ", length(held), " held-out spectra\n", sep = "")
