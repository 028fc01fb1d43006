# Two instruments with one decoder: how far latents of the same galaxies from both agree, whether the decoder gains by the other
# instrument's spectra, and whether the doublet [O II] that one of them resolves is found in models of the other's spectra.
#   Rscript bench/instruments.R [spectra of each instrument] [epochs] [1: refine = TRUE] [1: matrices] [seed] > a table in Markdown
# Five minutes on two free cores. Emission-line galaxies at z = 0.03 to 0.3 with lines of 40 to 70 km/s, seen by the blue pixels of SDSS's
# grid, with a kernel of 1.3 pixels (sigma: 90 km/s, the doublet is blended), and of DESI's, with 0.9 pixels (0.7 Angstrom); a fifth by
# both. Metals, dust and stars' velocities are alike, so that lines are much of what there is to learn.
# With matrices, each spectrum has a resolution of its own, which fits are given instead of kernels: SDSS's a resolving power of 1300 to
# 1700 at 4300 Angstrom that rises with wavelength, DESI's 11 diagonals, a Gaussian of 0.8 to 1 pixels with a skew, which differs from
# pixel to pixel. The fits are SDSS alone and both.
suppressMessages(library(spender))
given <- as.numeric(commandArgs(TRUE))
n <- if (length(given) > 0) given[1] else 1500
epochs <- if (length(given) > 1) given[2] else 40
refine <- length(given) > 2 && given[3] > 0
matrices <- length(given) > 3 && given[4] > 0
seed <- if (length(given) > 4) given[5] else 1
seeds <- 100 * (seed - 1) # of the random numbers of everything, plus a number for each thing
gaussian <- function(sigma) {
  kernel <- exp(-(-4:4)^2 / (2 * sigma^2))
  kernel / sum(kernel)
}
kernels <- list(sdss = gaussian(1.3), desi = gaussian(0.9))
blue <- function(name) {
  wave <- instrument(name)$wave
  instrument(wave[wave < 5400], toupper(name))
}
instruments <- list(sdss = blue("sdss"), desi = blue("desi"))

draw <- function(n, seed) {
  set.seed(seed)
  galaxies <- simulate_spectra(n, instrument(seq(4000, 5000, by = 50)), z = 0.1, seed = seed)$truth$parameters
  galaxies$type <- "star-forming"
  alike <- list(metals = 1, ebv = 0.1, sigma_stars = 100)
  galaxies[names(alike)] <- alike
  galaxies$sigma_gas <- runif(n, 40, 70)
  galaxies$ew_halpha <- exp(runif(n, log(40), log(120)))
  galaxies$log_ne <- runif(n, 1, 3)
  list(galaxies = galaxies, z = runif(n, 0.03, 0.3), sn = exp(rnorm(n, log(12), 0.3)))
}
# Resolutions of n spectra, as spectra() takes them
resolutions <- list(
  sdss = function(n, wave) runif(n, 1300, 1700) %o% (wave / 4300),
  desi = function(n, wave) {
    m <- length(wave)
    sigma <- outer(runif(n, 0.8, 1), 1 + 0.05 * sin(wave / 7))
    skew <- matrix(runif(n, -0.1, 0.1), n, m)
    band <- vapply(-5:5, function(k) exp(-k^2 / (2 * sigma^2)) * (1 + skew * pmax(-2, pmin(2, k))), sigma)
    aperm(band / as.vector(rowSums(band, dims = 2)), c(1, 3, 2))
  }
)
# flux through the matrices of a resolution
through <- function(resolution, flux) {
  m <- ncol(flux)
  band <- spender:::full_band(resolution, m)
  half <- (dim(band)[2] - 1) / 2
  out <- 0 * flux
  for (k in -half:half) {
    at <- seq_len(m) + k
    out <- out + band[, k + half + 1, ] * flux[, pmin(pmax(at, 1), m)] * rep(at >= 1 & at <= m, each = nrow(flux))
  }
  out
}
observe <- function(sample, of, seed, id, noise = TRUE) {
  n <- nrow(sample$galaxies)
  x <- simulate_spectra(n, instruments[[of]], z = sample$z, galaxies = sample$galaxies, sn = sample$sn,
                        lsf = if (!matrices) kernels[[of]], integrate = !matrices, defects = FALSE, noise = noise && !matrices,
                        normalize = FALSE, rest = TRUE, seed = seed)
  if (matrices) {
    set.seed(seed)
    x <- blurred(x, spectra(x$flux, x$ivar, x$z, x$instrument, normalize = FALSE, mask_sky = FALSE,
                            resolution = resolutions[[of]](n, x$instrument$wave))$resolution)
    if (noise) x$flux <- x$flux + rnorm(length(x$flux)) / sqrt(x$ivar)
  }
  # the usual norm's window lies outside; this one is free of lines and always seen
  level <- vapply(seq_along(x$z), function(i) median(x$flux[i, abs(x$instrument$wave / (1 + x$z[i]) - 4200) < 60]), 0)
  x$flux <- x$flux / level
  x$ivar <- x$ivar * level^2
  x$truth$rest <- x$truth$rest / level
  x$id <- x$object <- id
  x
}
blurred <- function(x, resolution) {
  x$resolution <- resolution
  x$flux <- through(resolution, x$flux)
  x
}
rows <- function(sample, i) list(galaxies = sample$galaxies[i, ], z = sample$z[i], sn = sample$sn[i])
both <- n %/% 5
all <- draw(2 * n - both, seeds + 1)
first <- seq_len(n)
second <- c(seq_len(both), (n + 1):(2 * n - both))
name <- paste0("g", seq_along(all$z))
x <- list(sdss = observe(rows(all, first), "sdss", seeds + 11, name[first]),
          desi = observe(rows(all, second), "desi", seeds + 12, name[second]))
unseen <- draw(300, seeds + 2)
held <- Map(function(of, seed) observe(unseen, of, seed, paste0("h", 1:300)), c(sdss = "sdss", desi = "desi"), seeds + c(21, 22))
clean <- Map(function(of, seed) observe(unseen, of, seed, paste0("h", 1:300), noise = FALSE), c(sdss = "sdss", desi = "desi"),
             seeds + c(21, 22))

started <- proc.time()[["elapsed"]]
grid <- seq(3600 / 1.3, 5400, by = 0.6)
settings <- list(latents = 6, network = fast_network(redshift_input = FALSE), epochs = epochs, learning_rate = 2e-3,
                 wave_rest = grid, best = FALSE, init = "random", refine = refine, seed = seed, progress = FALSE)
fit <- function(x, ..., lsf) {
  if (!matrices) settings <- c(settings, list(lsf = lsf, lsf_rate = 0))
  suppressWarnings(do.call(spender, c(list(quote(x)), settings, list(...))))
}
fits <- list("SDSS alone" = list(sdss = fit(x$sdss, batch_size = 16, lsf = kernels$sdss)))
if (!matrices) fits[["DESI alone"]] <- list(desi = fit(x$desi, batch_size = 16, lsf = kernels$desi))
fits[["both"]] <- fit(x, batch_size = 32, lsf = kernels)
if (!refine) fits[["both, common objects pulled together (0.5)"]] <- fit(x, batch_size = 32, lsf = kernels, common = 0.5)
seconds <- proc.time()[["elapsed"]] - started

n_e <- 10^unseen$galaxies$log_ne
truth <- 0.3771 * (2468 + n_e) / (638.4 + n_e) # Sanders et al. 2016
near <- abs(grid - 3728.5) < 40
doublet <- function(fit, x) fit_doublet(predict(fit, x, "rest", refine = 3)[, near], wave = grid[near])
difference <- function(fit, x) {
  s <- encode(fit, x, refine = 0)
  r <- encode(fit, x, refine = 3)
  apart <- function(s) {
    middle <- (s$sdss + s$desi) / 2
    sqrt(sum((s$sdss - s$desi)^2) / 2 / sum(scale(middle, scale = FALSE)^2))
  }
  c(encoder = apart(s), refined = apart(r))
}
cpu <- if (file.exists("/proc/cpuinfo")) sub(".*: ", "", grep("model name", readLines("/proc/cpuinfo"), value = TRUE)[1])
cat("# Two instruments, one decoder\n\n", cpu, ", ", devices()$threads, " threads, ", format(Sys.Date()), ". `bench/instruments.R`: ", n,
    " spectra of each instrument, ", both, " galaxies in both, S/N 12, ", epochs, " epochs; ",
    length(instruments$sdss$wave), " pixels of SDSS and ", length(instruments$desi$wave), " of DESI, `fast_network()`, 6 latents, ",
    if (matrices) "the resolution of each spectrum given" else "the instruments' kernels given",
    if (refine) ", decoders that learn at refined latents", ". Steps are as many in each fit ",
    "(batches of 16 of each instrument). Seed ", seed, "; ", round(seconds),
    " s for the fits.\n\n", sep = "")
cat("Mean losses of 300 other galaxies at the encoder's and at refined latents; the noise's is ",
    paste(sprintf("%.4f", vapply(held, function(x) mean(x$ivar > 0) / 2, 0)), collapse = " and "), ".\n\n", sep = "")
true_grid <- held$desi$truth$shared$wave_rest
real <- fit_doublet(held$desi$truth$rest[, abs(true_grid - 3728.5) < 40], wave = true_grid[abs(true_grid - 3728.5) < 40])
scatter <- function(x) sprintf("%+.3f (%+.3f to %+.3f)", median(x, na.rm = TRUE), quantile(x, 0.16, na.rm = TRUE),
                               quantile(x, 0.84, na.rm = TRUE))
cat("| fit | spectra | encoder | refined | [O II] ratio: correlation with truth | rms from it | dip (median) | ratio - truth: median ",
    "(16 to 84 %) | dip - truth |\n", strrep("|---", 9), "|\n", sep = "")
for (name in names(fits)) for (of in names(fits[[name]])) {
  one <- fits[[name]][[of]]
  loss <- function(refine) mean(predict(one, held[[of]], "loss", refine = refine), na.rm = TRUE)
  found <- doublet(one, held[[of]])
  known <- is.finite(found$ratio)
  cat(sprintf("| %s | %s | %.4f | %.4f | %.2f | %.3f | %.3f | %s | %s |\n", name, toupper(of), loss(0), loss(3),
              cor(found$ratio[known], truth[known], method = "spearman"), sqrt(mean((found$ratio - truth)[known]^2)),
              median(found$dip, na.rm = TRUE), scatter((found$ratio - truth)[known]), scatter(found$dip - real$dip)))
}
cat(sprintf(paste0("\nThe true ratios scatter by %.3f; the dip of the true spectra is %.3f. What fit_doublet() finds in these ",
                   "differs from the truth by %s.\n\n"), sd(truth), median(real$dip, na.rm = TRUE), scatter(real$ratio - truth)))
cat("Latents of the same 300 galaxies from both instruments: the standard deviation within a galaxy, the root of half the mean square of",
    "their difference, over the scatter between galaxies.\n\n| fit | noise | encoder | refined |\n|---|---|---|---|\n")
for (name in grep("^both", names(fits), value = TRUE)) for (noise in c("with", "without")) {
  d <- difference(fits[[name]], if (noise == "with") held else clean)
  cat(sprintf("| %s | %s | %.3f | %.3f |\n", name, noise, d[["encoder"]], d[["refined"]]))
}
