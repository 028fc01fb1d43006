line <- function(wave, centre, flux, sigma_v) flux * dnorm(wave, centre, centre * sigma_v / 299792.458)

test_that("noiseless lines are recovered, to the last digits of the fit", {
  wave <- 10^seq(log10(6400), log10(6700), by = 1e-4)
  l <- spectral_lines()
  at <- setNames(l$wave, l$name)
  shift <- 1 + 80 / 299792.458
  flux <- 2 + 0.001 * (wave - 6550) + line(wave, at["NII_6550"] * shift, 4, 130) + line(wave, at["Halpha"] * shift, 30, 130) +
    line(wave, at["NII_6585"] * shift, 12, 130)
  m <- measure_lines(rbind(a = flux), c("Halpha", "NII_6550", "NII_6585"), wave = wave)
  expect_equal(m$line, c("NII_6550", "Halpha", "NII_6585"))
  expect_equal(m$flux, c(4, 30, 12), tolerance = 1e-3)
  expect_equal(m$sigma, rep(130, 3), tolerance = 1e-3)
  expect_equal(m$velocity, rep(80, 3), tolerance = 1e-2)
  continuum <- 2 + 0.001 * (at[m$line] - 6550)
  expect_equal(m$ew, m$flux / unname(continuum), tolerance = 1e-3)
  expect_true(all(is.na(m$flux_err)) && all(m$id == "a"))
})

test_that("redshift changes neither flux nor equivalent width nor speed", {
  wave <- 10^seq(log10(4800), log10(7500), by = 1e-4)
  at <- function(z) (1 + line(wave / (1 + z), 5008.24, 20, 150) + line(wave / (1 + z), 4960.30, 6.7, 150)) / (1 + z)
  m <- measure_lines(rbind(at(0.02), at(0.2)), c("OIII_4960", "OIII_5008"), wave = wave, z = c(0.02, 0.2))
  expect_equal(m$flux, c(6.7, 20, 6.7, 20), tolerance = 2e-3)
  expect_equal(m$ew, c(6.7, 20, 6.7, 20), tolerance = 2e-3)
  expect_equal(m$sigma, rep(150, 4), tolerance = 2e-3)
})

test_that("errors are those that noise makes", {
  wave <- 10^seq(log10(4800), log10(5100), by = 1e-4)
  truth <- 3 + line(wave, 5008.24, 12, 140) + line(wave, 4960.30, 4, 140)
  n <- 150
  sigma <- 0.1
  set.seed(4)
  flux <- matrix(truth, n, length(wave), byrow = TRUE) + rnorm(n * length(wave), 0, sigma)
  m <- measure_lines(flux, c("OIII_4960", "OIII_5008"), wave = wave, ivar = matrix(1 / sigma^2, n, length(wave)))
  strong <- m[m$line == "OIII_5008", ]
  pulls <- data.frame(flux = (strong$flux - 12) / strong$flux_err, ew = (strong$ew - 4) / strong$ew_err,
                      sigma = (strong$sigma - 140) / strong$sigma_err, velocity = strong$velocity / strong$velocity_err)
  # of 150: the mean within 4 standard errors, the scatter within 4 of its own
  expect_true(all(abs(colMeans(pulls)) < 4 / sqrt(n)))
  expect_true(all(abs(apply(pulls, 2, sd) - 1) < 4 / sqrt(2 * n)))
  expect_equal(mean(strong$chi2), 1, tolerance = 0.05)
})

test_that("a line that was not observed, or is masked, is NA, and rows stay in order", {
  wave <- 10^seq(log10(4700), log10(5100), by = 1e-4)
  flux <- rbind(1 + line(wave, 4862.68, 8, 120), 1 + line(wave, 4862.68, 8, 120))
  ivar <- matrix(100, 2, length(wave))
  ivar[2, abs(wave - 4862.68) < 12] <- 0
  m <- measure_lines(flux, c("Hbeta", "Halpha"), wave = wave, ivar = ivar)
  expect_equal(m$row, c(1, 1, 2, 2))
  expect_equal(is.na(m$flux), c(FALSE, TRUE, TRUE, TRUE))
  expect_equal(m$flux[1], 8, tolerance = 0.01)
})

test_that("physical fluxes are the normalised ones times the norm", {
  x <- simulate_spectra(2, z = 0.05, seed = 3)
  a <- measure_lines(x, "OIII_5008")
  b <- measure_lines(x, "OIII_5008", physical = FALSE)
  expect_equal(a$flux, b$flux * x$norm, tolerance = 1e-3)
  expect_equal(a$ew, b$ew, tolerance = 1e-3)
  expect_equal(a$id, x$id)
})

test_that("a doublet's ratio is found with its error, and a dip where there is one", {
  wave <- seq(3680, 3780, by = 0.4)
  spectrum <- function(sigma_v) 1 + line(wave, 3727.09, 10, sigma_v) + line(wave, 3729.88, 14, sigma_v)
  d <- fit_doublet(rbind(narrow = spectrum(50), wide = spectrum(140)), wave = wave)
  expect_equal(d$ratio, c(1.4, 1.4), tolerance = 0.02)
  expect_equal(d$sigma, c(50, 140), tolerance = 0.02)
  expect_gt(d$dip[1], 0.5)
  expect_equal(d$dip[2], 0)
  set.seed(1)
  n <- 120
  noisy <- matrix(spectrum(70), n, length(wave), byrow = TRUE) + rnorm(n * length(wave), 0, 0.1)
  d <- fit_doublet(noisy, wave = wave, ivar = matrix(100, n, length(wave)))
  pull <- (d$ratio - 1.4) / d$ratio_err
  expect_lt(abs(mean(pull)), 4 / sqrt(n))
  expect_lt(abs(sd(pull) - 1), 4 / sqrt(2 * n))
})

test_that("galaxies are classified as SDSS does", {
  row <- function(id, n2, o3, ew, sigma = 100, error = 0.1) {
    data.frame(row = 1, id = id, line = c("Hbeta", "OIII_5008", "Halpha", "NII_6585"), flux = c(10, 10 * 10^o3, 30, 30 * 10^n2),
               flux_err = error, ew = ew, sigma = sigma, sigma_err = 2)
  }
  m <- rbind(row("agn", 0, 0.8, 20), row("sf", -0.5, -0.3, 20), row("sb", -0.6, 0.1, 80), row("broad", 0, 0.8, 20, sigma = 300),
             row("faint", -0.5, -0.3, 20, error = 9))
  expect_equal(classify_galaxies(m), c(agn = "AGN", sf = "STARFORMING", sb = "STARBURST", broad = "AGN BROADLINE", faint = NA))
  x <- simulate_spectra(60, z = 0.06, seed = 11, sn = 25, defects = FALSE)
  found <- classify_galaxies(measure_lines(x))
  both <- !is.na(found) & !is.na(x$meta$subclass)
  expect_gt(sum(both), 10)
  expect_gt(mean(sub(" BROADLINE", "", found[both]) == x$meta$subclass[both]), 0.9)
})

test_that("a line between a masked pixel and the next has an error, though its velocity and width are not known", {
  wave <- 10^seq(log10(6510), log10(6620), by = 1e-4)
  masked <- which.min(abs(wave - 6564.61))
  set.seed(2)
  flux <- 1 + 0.01 * rnorm(length(wave))
  flux[masked + 1] <- flux[masked + 1] + 0.5
  flux[masked] <- NA
  changes <- cbind(0.02, 0.05 * (seq_along(wave) == masked + 1), 0.01 * sin(wave / 5)) # one would be degenerate with velocity and width
  m <- fit_group(wave, flux, NULL, 6564.61, changes = changes)
  expect_lt(m$sigma, 30)
  expect_lt(m$ew_err, 1)
  expect_true(m$ew_err > 0 && is.na(m$velocity_err))
})

# Fits of the same data: the same values, to a millionth of their errors, where both found the same minimum
same_lines <- function(found, oracle, data) {
  expect_identical(names(found), names(oracle))
  expect_identical(found$pixels, oracle$pixels)
  nearest <- vapply(seq_len(nrow(oracle)), function(i) { # valid pixel, in widths
    rest <- data$wave[data$ivar[oracle$row[i], ] > 0] / (1 + data$z[oracle$row[i]])
    min(abs(rest - oracle$wave[i] * (1 + oracle$velocity[i] / light_speed))) / (oracle$wave[i] * oracle$sigma[i] / light_speed)
  }, 0)
  seen <- !is.na(oracle$flux) & nearest <= 3
  expect_identical(is.na(found$flux), !seen)
  expect_true(all(found$chi2 <= oracle$chi2 * (1 + 1e-9), na.rm = TRUE))
  same <- which(seen & found$chi2 >= oracle$chi2 * (1 - 1e-9))
  for (value in c("flux", "ew", "sigma", "velocity")) {
    error <- paste0(value, "_err")
    away <- (abs(found[[value]] - oracle[[value]]) / oracle[[error]])[same]
    ratio <- (found[[error]] / oracle[[error]])[same]
    expect_true(all(away < 1e-6, na.rm = TRUE))
    expect_true(all(abs(ratio - 1) < 1e-4, na.rm = TRUE))
    expect_identical(is.na(found[[error]])[same], is.na(oracle[[error]])[same])
  }
  length(same)
}

test_that("fits are those of minpack.lm, or better", {
  skip_if_not_installed("minpack.lm")
  x <- simulate_spectra(8, seed = 21)
  lines <- spectral_lines()
  lines <- lines[lines$name %in% eval(formals(measure_lines)$lines), ]
  data <- line_data(x)
  oracle <- fit_groups_r(data, lines, 40, 600, 600, exact = TRUE)
  m <- fit_groups(data, lines, 40, 600, 600)
  expect_gt(same_lines(m, oracle, data), 0.9 * nrow(m))
  # at the velocities and widths of others
  kept <- oracle
  kept$velocity <- kept$velocity + 5
  kept$sigma <- kept$sigma * 1.1
  oracle <- fit_groups_r(data, lines, 40, 600, 600, kept, exact = TRUE)
  expect_gt(same_lines(fit_groups(data, lines, 40, 600, 600, kept), oracle, data), 0.9 * nrow(m))
})

test_that("fits without weights, and errors from changes of the flux, are those of minpack.lm", {
  skip_if_not_installed("minpack.lm")
  wave <- seq(6480, 6650, by = 0.8)
  centres <- c(6549.86, 6564.61, 6585.27)
  set.seed(5)
  flux <- 2 + line(wave, centres[1], 5, 150) + line(wave, centres[2], 40, 150) + line(wave, centres[3], 15, 150) +
    0.02 * rnorm(length(wave))
  changes <- cbind(line(wave, centres[2], 0.8, 150), 0.1 * sin(wave / 9), 0.02, line(wave, centres[3] + 0.5, 0.3, 150))
  for (kept in list(NULL, c(10, 140))) {
    m <- fit_group(wave, flux, NULL, centres, kept, changes)
    r <- fit_lines_r(wave, flux, NULL, centres, 600, 600, kept, changes, exact = TRUE)$lines
    same <- intersect(names(r), names(m))
    expect_equal(m[same], r[same], tolerance = 1e-7)
  }
})

test_that("the same bits for any number of threads, in memory and from a survey", {
  x <- simulate_spectra(40, seed = 4)
  x$norm[3] <- NA
  lines <- c("OII_3727", "OII_3730", "Hbeta", "OIII_5008", "Halpha")
  m <- measure_lines(x, lines, threads = 1)
  expect_identical(measure_lines(x, lines, threads = 2), m)
  expect_identical(measure_lines(x[7:9], lines)[-1], `rownames<-`(m[31:45, -1], NULL))
  survey <- write_survey(x, withr::local_tempfile(fileext = ".fits"))
  y <- as_spectra(survey)
  expect_identical(measure_lines(survey, lines), measure_lines(y, lines))
  lines <- known_lines(lines)
  parts <- in_line_parts(survey, NULL, 0, NULL, TRUE, function(data) fit_groups(data, lines, 40, 600, 600), size = 16)
  expect_identical(parts, measure_lines(y, lines$name))
  expect_warning(d <- fit_doublet(survey), "rows 3 ", class = "spender_warning_no_norm")
  expect_identical(d, suppressWarnings(fit_doublet(y)))
})

test_that("bad arguments are named", {
  expect_snapshot(error = TRUE, {
    measure_lines(1:3)
    measure_lines(matrix(1, 2, 3))
    measure_lines(matrix(1, 2, 3), wave = 1:2)
    measure_lines(matrix(1, 2, 3), wave = 1:3, z = 1:3)
    measure_lines(matrix(1, 2, 3), "Hypha", wave = 1:3)
    fit_doublet(matrix(1, 2, 3), "Halpha", wave = 1:3)
    classify_galaxies(data.frame(a = 1))
    classify_galaxies(measure_lines(matrix(1, 1, 3), "Halpha", wave = 1:3))
  })
})
