# Compares simulated spectra with SDSS's: redshift, brightness, signal-to-noise, noise along the spectrum, mean spectra, lines.
#
#   Rscript data-raw/calibrate-simulator.R FOLDER PICTURE.png     FOLDER: SDSS spectra of galaxies (spec-*.fits)
library(spender)
library(ggplot2)
arguments <- commandArgs(TRUE)
if (length(arguments) != 2) stop("usage: calibrate-simulator.R FOLDER PICTURE.png")

real <- suppressWarnings(read_sdss(arguments[1]))
real <- real[!is.na(real$norm) & real$meta$instrument == "SDSS"]
# SDSS's resolution: a Gaussian of about one pixel
lsf <- dnorm(-2:2)
simulated <- simulate_spectra(2000, lsf = lsf, rest = FALSE, seed = 1)
samples <- list(SDSS = real, simulated = simulated)

both <- function(f) do.call(rbind, Map(function(x, name) cbind(f(x), sample = name), samples, names(samples)))
colours <- scale_colour_manual(values = c(SDSS = "#222222", simulated = "#d1495b"), name = NULL)
distribution <- both(function(x) {
  data.frame(quantity = rep(c("redshift", "log norm [1e-17 f]", "log S/N"), each = length(x)),
             value = c(x$z, log10(x$norm), log10(x$meta$sn_median)))
})
top <- ggplot(distribution, aes(value, colour = sample)) + stat_ecdf() + facet_wrap(~quantity, scales = "free_x") + colours +
  labs(x = NULL, y = "cumulative")

wave <- real$instrument$wave
noise <- both(function(x) {
  sigma <- ifelse(x$ivar > 0, 1 / sqrt(x$ivar), NA) * x$meta$sn_median
  data.frame(wave = wave, value = apply(sigma, 2, median, na.rm = TRUE))
})
middle <- ggplot(noise, aes(wave, value, colour = sample)) + geom_line(linewidth = 0.3, na.rm = TRUE) + colours +
  coord_cartesian(ylim = c(0, 6)) + labs(x = "observed wavelength [Å]", y = "noise × median S/N")

# Lines of both, measured alike
names <- c("Hbeta", "OIII_5008", "Halpha", "NII_6585")
lines <- both(function(x) {
  x <- x[seq_len(min(length(x), 400))]
  m <- measure_lines(x, names)
  ew <- function(name) m$ew[m$line == name]
  log_ratio <- function(a, b) ifelse(a > 0 & b > 0, log10(abs(a / b)), NA)
  data.frame(halpha = ew("Halpha"), n2 = log_ratio(ew("NII_6585"), ew("Halpha")), o3 = log_ratio(ew("OIII_5008"), ew("Hbeta")),
             emission = ew("Halpha") > 5)
})
rest <- seq(3700, 7200, by = 2)
mean_spectrum <- both(function(x) {
  x <- x[seq_len(min(length(x), 400))]
  emission <- lines$emission[lines$sample == if (identical(x$meta$file, NULL)) "simulated" else "SDSS"]
  shifted <- t(vapply(seq_along(x$z), function(i) {
    approx(wave / (1 + x$z[i]), ifelse(x$ivar[i, ] > 0, x$flux[i, ], NA), rest)$y
  }, rest))
  do.call(rbind, lapply(c(TRUE, FALSE), function(e) {
    data.frame(wave = rest, value = apply(shifted[which(emission == e), , drop = FALSE], 2, median, na.rm = TRUE),
               kind = if (e) "EW(Hα) > 5 Å" else "EW(Hα) ≤ 5 Å")
  }))
})
composite <- ggplot(mean_spectrum, aes(wave, value, colour = sample)) + geom_line(linewidth = 0.3, na.rm = TRUE) +
  facet_wrap(~kind, ncol = 1) + colours + coord_cartesian(ylim = c(0.2, 2.6)) + labs(x = "restframe wavelength [Å]", y = "median flux")
bpt <- ggplot(subset(lines, emission), aes(n2, o3, colour = sample)) + geom_point(size = 0.5, na.rm = TRUE) + colours +
  coord_cartesian(xlim = c(-1.5, 0.6), ylim = c(-1.3, 1.3)) + labs(x = "log [N II]/Hα", y = "log [O III]/Hβ")
ew <- ggplot(lines, aes(log10(pmax(halpha, 0.1)), colour = sample)) + stat_ecdf(na.rm = TRUE) + colours +
  coord_cartesian(xlim = c(-1, 3)) +
  labs(x = "log EW(Hα) [Å]", y = "cumulative")

png(arguments[2], 1000, 1150, res = 90)
grid::grid.newpage()
grid::pushViewport(grid::viewport(layout = grid::grid.layout(4, 2, heights = c(1, 1, 1.7, 1.2))))
at <- function(row, column) grid::viewport(layout.pos.row = row, layout.pos.col = column)
print(top, vp = at(1, 1:2))
print(middle, vp = at(2, 1:2))
print(composite, vp = at(3, 1:2))
print(bpt, vp = at(4, 1))
print(ew, vp = at(4, 2))
invisible(dev.off())
for (name in names(samples)) {
  x <- samples[[name]]
  l <- subset(lines, sample == name)
  cat(sprintf("%-10s S/N %.1f (%.1f-%.1f)  z %.3f  norm %.1f  EW(Ha) > 5 A %.2f, median of those %.1f\n", name, median(x$meta$sn_median),
              quantile(x$meta$sn_median, 0.16), quantile(x$meta$sn_median, 0.84), median(x$z), median(x$norm),
              mean(l$emission, na.rm = TRUE), median(l$halpha[which(l$emission)])))
}
