#!/usr/bin/env Rscript
# Table 1 of Melchior et al. (2023): the validation loss by number of latents, at the survey's resolution and super-resolved with a line
# spread function, beside the paper's numbers, and that of principal components.
#
#   Rscript study-dimensions.R [name=value ...]
#     survey=FILE.fits  spectra=3000  epochs=20  latents=2,4,6,8,10  filters=16,32,64  hidden=64,256  seed=1  device=auto  output=FILE.rds
#     pca=1500 (spectra that principal components are found on; 0 for none)
# `survey` is one that write_survey() or simulate_survey() made, of which galaxies are selected; without it, `spectra` are simulated. The
# paper's network has filters=128,256,512 hidden=64,256,1024 and 100 epochs. A fit that was made is kept in `output` and not made again.
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))

options <- read_options(list(survey = "", spectra = 3000, epochs = 20, latents = "2,4,6,8,10", filters = "16,32,64", hidden = "64,256",
                             seed = 1,
                device = "auto", output = "", pca = 1500))
paper <- data.frame(latents = c(2, 4, 6, 8, 10), paper_lr = c(0.430, 0.396, 0.388, 0.383, 0.381),
                    paper_sr = c(0.430, 0.395, 0.387, 0.383, 0.381))

x <- if (nzchar(options$survey)) {
  select_galaxies(open_survey(options$survey))
} else {
  simulate_spectra(options$spectra, lsf = dnorm(-2:2), rest = FALSE, seed = options$seed)
}
network <- spender_network(filters = numbers(options$filters), decoder_hidden = numbers(options$hidden))
table <- if (nzchar(options$output) && file.exists(options$output)) readRDS(options$output) else data.frame()
for (latents in numbers(options$latents)) for (kind in c("LR", "SR")) {
  if (any(table$latents == latents & table$kind == kind)) next
  fit <- spender(x, latents = latents, superresolution = if (kind == "SR") 2 else 1, lsf = if (kind == "SR") 5 else 0, network = network,
                 epochs = options$epochs, learning_rate = 2e-3, validation = 0.15, device = options$device, seed = options$seed,
                 progress = FALSE)
  last <- fit$history[nrow(fit$history), ]
  table <- rbind(table, data.frame(latents = latents, kind = kind, training = last$train_loss, validation = last$validation_loss,
                                   perfect = fit$training$valid_fraction / 2, seconds = last$seconds))
  message(sprintf("S = %d, %s: training %.4f, validation %.4f, %.0f s", latents, kind, last$train_loss, last$validation_loss, last$seconds))
  if (nzchar(options$output)) saveRDS(table, options$output)
}
wide <- reshape(table[c("latents", "kind", "validation")], idvar = "latents", timevar = "kind", direction = "wide")
names(wide) <- sub("validation.", "ours_", tolower(names(wide)), fixed = TRUE)
print(merge(wide, paper, all.x = TRUE), digits = 3, row.names = FALSE)
cat("a perfect model would have ", format(table$perfect[1], digits = 3), "\n", sep = "")
if (options$pca > 0) {
  n <- min(options$pca, length(x) * 0.8)
  train <- as_spectra(x[seq_len(n)])
  held <- as_spectra(x[seq(n + 1, min(length(x), n + 500))])
  for (components in numbers(options$latents)) {
    pca <- spectra_pca(train, components = components)
    cat(sprintf("PCA, %d components on %d spectra: held out %.4f\n", components, as.integer(n),
                mean(predict(pca, held, "loss"), na.rm = TRUE)))
  }
}
