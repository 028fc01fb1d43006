# Figures and numbers of vignette("outliers"): a simulated survey with planted oddities.
#
#   Rscript data-raw/vignette-outliers.R        (some minutes on two cores)
# Writes vignettes/figures/outliers-*.png and vignettes/models/outliers.rds.
library(spender)
source(system.file("scripts", "study-oddities.R", package = "spender"))

grid <- instrument(seq(3800, 9200, by = 6), "survey")
galaxies <- function(n, seed, ...) {
  x <- simulate_spectra(n, instrument = grid, seed = seed, rest = FALSE, defects = FALSE, ...)
  x$truth <- NULL
  x[!is.na(x$norm)]
}
x <- galaxies(12000, 31)
seconds <- system.time(fit <- spender(x, latents = 8, network = fast_network(), epochs = 40, batch_size = 32, validation = 0.3,
                                      refine = TRUE, progress = FALSE))[["elapsed"]]
print(fit)
density_seconds <- system.time(density <- latent_density(x, fit, refine = 4, progress = FALSE))[["elapsed"]]
print(density)

# ---- the survey to look through: 1,000 ordinary galaxies, 12 odd ones of each kind ----
odd <- 12
set.seed(5)
kinds <- lapply(seq_along(plant), function(k) {
  clear <- function(seed) galaxies(odd, seed, sn = rep(30, odd))
  plant[[k]](clear(60 + k), clear(70 + k))
})
survey <- do.call(c, c(list(galaxies(1000, 32)), kinds))
kind <- rep(c("ordinary", names(plant)), c(length(survey) - odd * length(plant), rep(odd, length(plant))))
table <- outliers(fit, survey, density)
print(table)
found <- table(kind, reason = addNA(table$reason))
print(found)

dir.create("vignettes/figures", FALSE)
save_png <- function(name, plot, height) {
  png(file.path("vignettes/figures", name), 7.2 * 110, height * 110, res = 110)
  print(plot)
  dev.off()
}
save_png("outliers-density.png", plot(density, columns = 1:4), 6)
# the oddest of each kind, as the gallery shows them
first <- unlist(lapply(names(plant), function(k) utils::head(intersect(order(table$p, table$log_p), which(kind == k)), 2)))
save_png("outliers-gallery.png", plot_outliers(fit, survey[first], table[first, ], n = length(first)), 11)
saveRDS(list(fit = capture.output(print(fit)), density = capture.output(print(density)), seconds = seconds,
             density_seconds = density_seconds, outliers = capture.output(print(table)), found = found,
             false = mean(kind[!is.na(table$reason)] == "ordinary")), "vignettes/models/outliers.rds")
print(file.size(list.files("vignettes/figures", "outliers", full.names = TRUE)) / 1e3)
