# Figures and numbers of vignette("real-spectra"), from SDSS spectra that the package does not hold.
#
#   Rscript inst/scripts/study-truth.R spectra=20000 epochs=36 filters=32,64,256 spikes=0.7 fit=truth.rds
#   Rscript data-raw/vignette-real.R truth.rds FOLDER      FOLDER: SDSS spectra of galaxies (spec-*.fits)
# Trains the fit of simulated galaxies further on simulated and real ones; writes vignettes/figures/*.png and vignettes/models/real.rds.
library(spender)
library(ggplot2)
arguments <- commandArgs(TRUE)
if (length(arguments) != 2) stop("usage: vignette-real.R FIT.rds FOLDER")
dir.create("vignettes/figures", FALSE)
dir.create("vignettes/fits", FALSE)

simulated_fit <- readRDS(arguments[1])
x <- suppressWarnings(read_sdss(arguments[2]))
selected <- select_galaxies(x, z_err_max = Inf)
real <- selected
attr(real, "selection") <- NULL
reduced_chi2 <- function(fit, x) rowSums(x$ivar * (x$flux - predict(fit, x, "observed"))^2, na.rm = TRUE) / rowSums(x$ivar > 0)

simulated <- simulate_spectra(3000, lsf = dnorm(-2:2), rest = FALSE, seed = 77)
simulated$truth <- NULL
both <- c(real, simulated)
fit <- update(simulated_fit, both, epochs = 15, batch_size = 64, learning_rate = 1e-3, validation = 0.15, seed = 1, progress = FALSE)
trained <- spender:::split_by_id(both$id, 0.15, 1)[seq_along(real$z)]

before <- reduced_chi2(simulated_fit, real)
after <- reduced_chi2(fit, real)
summary_of <- function(v) round(quantile(v, c(0.05, 0.25, 0.5, 0.75, 0.95)), 2)
chi2 <- rbind(`simulated only` = summary_of(before), `and real, those trained on` = summary_of(after[trained]),
              `and real, those held out` = summary_of(after[!trained]))
print(chi2)
cat(sum(trained), "real galaxies trained,", sum(!trained), "held out\n")
saveRDS(list(chi2 = chi2, n_trained = sum(trained), n_held = sum(!trained), problems = problems(x)[c("id", "reason")],
             selection = attr(selected, "selection"), spectra = capture.output(print(x)), fit = capture.output(print(fit))),
        "vignettes/models/real.rds")

save_png <- function(name, plot, height = 5.4) {
  png(file.path("vignettes/figures", name), 7.2 * 110, height * 110, res = 110)
  print(plot)
  dev.off()
}
# Six at different redshifts, among those held out first
order_z <- order(real$z)
wanted <- quantile(real$z, c(0.03, 0.2, 0.4, 0.6, 0.8, 0.97))
chosen <- vapply(wanted, function(z) {
  candidates <- order(abs(real$z - z) + ifelse(trained, 0.02, 0))
  candidates[1]
}, 0L)
for (i in seq_along(chosen)) save_png(sprintf("real-%d.png", i), plot_reconstruction(fit, real, chosen[i]), 5.8)
cat("chosen:", paste(real$id[chosen], sprintf("z %.3f", real$z[chosen]), ifelse(trained[chosen], "trained", "held out"),
                     sprintf("chi2 %.2f", after[chosen]), sep = " ", collapse = "; "), "\n")
save_png("real-latents.png", plot_latent(embed_latents(fit, real), colour = ifelse(real$meta$subclass == "", NA, real$meta$subclass),
                                         label = "SDSS subclass"), 4)
print(file.size(list.files("vignettes/figures", full.names = TRUE)) / 1e3)
