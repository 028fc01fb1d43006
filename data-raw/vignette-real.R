# Figures and numbers of vignette("real-spectra"), from SDSS spectra that the package does not hold.
#
#   Rscript data-raw/vignette-real.R FOLDER...      FOLDER: SDSS and BOSS spectra of galaxies (spec-*.fits)
# Writes vignettes/figures/*.png and vignettes/models/real.rds.
library(spender)
library(ggplot2)
folders <- commandArgs(TRUE)
if (!length(folders)) stop("usage: vignette-real.R FOLDER...")
dir.create("vignettes/figures", FALSE)

x <- suppressWarnings(read_sdss(folders))
galaxies <- select_galaxies(x, z_err_max = Inf)
seconds <- system.time(fit <- spender(galaxies, latents = 10, validation = 0.35, progress = FALSE))[["elapsed"]]
held <- galaxies[held_out(fit, galaxies)]
trained <- galaxies[setdiff(galaxies$id, held$id)]

chi2_of <- function(x, ...) round(quantile(predict(fit, x, "chi2", ...), c(0.05, 0.25, 0.5, 0.75, 0.95)), 2)
chi2 <- rbind(`trained on, encoder` = chi2_of(trained), `trained on, refined` = chi2_of(trained, refine = 3),
              `held out, encoder` = chi2_of(held), `held out, refined` = chi2_of(held, refine = 3))
print(chi2)

lines <- c("Hbeta", "OIII_5008", "Halpha", "NII_6585")
calibration <- calibrate_lines(fit, held, lines)
print(calibration)
data <- measure_lines(held, lines, physical = FALSE)
model <- measure_model_lines(fit, held, lines, calibration)
both <- data.frame(id = data$id, line = data$line, data = data$ew, data_err = data$ew_err, model = model$ew, model_err = model$ew_err,
                   detected = abs(data$flux) > 3 * data$flux_err)
both <- both[data$line == "Halpha" & model$observed, ]
print(both)

absorption <- "0268-51633-0074" # H alpha in absorption
oxygen <- "0432-51884-0097" # strong [O III]
peculiar <- lapply(c(absorption, oxygen), function(id) {
  i <- which(held$id == id)
  if (!length(i)) stop(id, " is not among those held out")
  of <- data$row == i & data$line == if (id == absorption) "Halpha" else "OIII_5008"
  data.frame(id = id, line = data$line[of], data = data$ew[of], data_err = data$ew_err[of], model = model$ew[of],
             model_err = model$ew_err[of])
})
print(peculiar)

saveRDS(list(chi2 = chi2, n_trained = length(trained), n_held = length(held), seconds = seconds, problems = problems(x)[c("id", "reason")],
             selection = attr(galaxies, "selection"), spectra = capture.output(print(x)), fit = capture.output(print(fit)),
             calibration = calibration, peculiar = do.call(rbind, peculiar)),
        "vignettes/models/real.rds")

save_png <- function(name, plot, height = 5.4) {
  png(file.path("vignettes/figures", name), 7.2 * 110, height * 110, res = 110)
  print(plot)
  dev.off()
}
# Six of those held out, at different redshifts, the peculiar ones among them
order_z <- held$id[order(held$z)]
others <- setdiff(order_z, c(absorption, oxygen))
chosen <- intersect(order_z, c(absorption, oxygen, others[round(quantile(seq_along(others), c(0.05, 0.6, 0.85, 0.97)))]))
misfit <- calibrate_models(fit, held, refine = 3)
for (i in seq_along(chosen)) {
  save_png(sprintf("real-%d.png", i), plot_reconstruction(fit, held, chosen[i], refine = 3, se = TRUE, calibration = misfit), 5.8)
}
cat("chosen:", chosen, "\n")
subclass <- ifelse(galaxies$meta$subclass == "", NA, galaxies$meta$subclass)
save_png("real-latents.png", plot_latent(embed_latents(encode(fit, galaxies, refine = 3)), colour = subclass, label = "SDSS subclass"), 4)
save_png("real-halpha.png", height = 4, ggplot(both, aes(data, model)) + geom_abline(colour = "grey70") +
  geom_linerange(aes(xmin = data - data_err, xmax = data + data_err), colour = "grey40") +
  geom_linerange(aes(ymin = model - model_err, ymax = model + model_err), colour = "grey40") + geom_point(size = 1.4) +
  labs(x = "H\u03b1 equivalent width of the data, \u00c5", y = "of the model, \u00c5") + theme_bw(base_size = 11))
print(file.size(list.files("vignettes/figures", full.names = TRUE)) / 1e3)
