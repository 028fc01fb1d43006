# Widths of lines in restframe models, where the resolving power of the spectra varies: fits that are given the resolution of each spectrum,
# beside fits with one kernel for all, learned or none. Prints a table
# in Markdown.
#
#   Rscript bench/resolution.R [spectra, default 600] [epochs, default 150] [threads, default 2] [a library with the package]
arguments <- commandArgs(TRUE)
number <- function(i, default) if (length(arguments) >= i) as.numeric(arguments[i]) else default
n <- number(1, 600)
epochs <- number(2, 150)
threads <- number(3, 2)
library(spender, lib.loc = if (length(arguments) >= 4) arguments[4])
begun <- proc.time()[["elapsed"]]

# Star-forming galaxies whose gas moves at 120 km/s, with resolving powers of 700 to 1300: a standard deviation of 230 to 130 km/s
grid <- instrument(seq(4500, 7500, by = 1.5), name = "1.5 Angstrom")
drawn <- simulate_spectra(6 * n, instrument = instrument(seq(4500, 7500, by = 50)), z_range = c(0.01, 0.1), seed = 1, rest = FALSE)
galaxies <- drawn$truth$parameters
galaxies <- galaxies[which(galaxies$type == "star-forming" & galaxies$ew_halpha > 20), ]
galaxies <- galaxies[rep_len(seq_len(nrow(galaxies)), n), ]
galaxies$sigma_gas <- 120
set.seed(1)
power <- runif(n, 700, 1300)
x <- simulate_spectra(n, instrument = grid, z = runif(n, 0.01, 0.1), galaxies = galaxies, resolution = power, integrate = FALSE, sn = 40,
                      defects = FALSE, rest = FALSE, seed = 2)

fit <- function(...) {
  spender(x, latents = 6, superresolution = 2, z_max = 0.1, network = fast_network(redshift_input = FALSE), refine = TRUE, epochs = epochs,
          threads = threads, progress = FALSE, init = "random", ...)
}
typical <- 6563 * (1 + mean(x$z)) / (1000 * sqrt(8 * log(2)) * 1.5) # pixels, at Halpha
fits <- list("the resolution of each spectrum" = fit(),
             "one kernel, that of R = 1000" = fit(lsf = dnorm(-10:10, sd = typical), lsf_rate = 0, resolution = FALSE),
             "one kernel, learned" = fit(lsf = 21, resolution = FALSE), "no kernel" = fit(resolution = FALSE))
unseen <- x[held_out(fits[[1]], x)]
third <- cut(unseen$truth$parameters$resolution, c(0, 900, 1100, Inf), c("R < 900", "900-1100", "R > 1100"))

# Of Halpha in the restframe, in km/s; [N II] beside it is fitted, too
width <- function(fit) {
  rest <- predict(fit, unseen, "rest", refine = 3, threads = threads)
  as_seen <- spectra(rest, matrix(1e4, nrow(rest), ncol(rest)), z = rep(0, nrow(rest)), wave = fit$wave_rest, normalize = FALSE,
                     mask_sky = FALSE)
  lines <- measure_lines(as_seen, c("Halpha", "NII_6550", "NII_6585"))
  lines$sigma[lines$line == "Halpha"]
}
percent <- function(sigma) sprintf("%+.1f %%", 100 * (median(sigma, na.rm = TRUE) / 120 - 1))
cat("Halpha of ", length(unseen), " held-out spectra of ", n, ", true width 120 km/s; deviation of the median width in restframe models, ",
    epochs, " epochs\n\n", sep = "")
cat("| models have | all |", paste0(" ", levels(third), " |"), " refined loss |\n|---|---|", strrep("---|", nlevels(third)),
    "---|\n", sep = "")
for (name in names(fits)) {
  sigma <- width(fits[[name]])
  cat("| ", name, " | ", percent(sigma), " | ", paste(tapply(sigma, third, percent), collapse = " | "), " | ",
      sprintf("%.4f", mean(predict(fits[[name]], unseen, "loss", refine = 3, threads = threads))), " |\n", sep = "")
}
cat("\nThe loss of a perfect model is ", format(mean(unseen$ivar > 0) / 2, digits = 4), ".\n", sep = "")
cat("\n", round(proc.time()[["elapsed"]] - begun), " s, ",
    sub("^model name.*: ", "", grep("^model name", readLines("/proc/cpuinfo"), value = TRUE)[1]), ", ", threads, " threads\n", sep = "")
