# The resolution of each spectrum: what it becomes, that rows keep theirs, files, and fits that use it.

resolved_spectra <- function(n = 24, resolution = seq(120, 220, length.out = n), ...) small_spectra(n, resolution = resolution, ...)

# Largest sum of differences between two bands' diagonals
off_by <- function(a, b) max(apply(abs(a - b), c(1, 3), sum))

exact_gaussians <- function(power, wave) {
  sigma <- rep(unit_deviation(wave), each = nrow(power)) / power
  full_band(list(values = sigma, size = 2 * ceiling(4 * max(sigma)) + 1, step = 1, gaussian = TRUE), length(wave))
}

test_that("resolving powers become Gaussians, kept at few pixels where they are smooth", {
  grid <- small_instrument()
  m <- length(grid$wave)
  power <- list(number = matrix(150, 3, m), function_of_wave = rbind(1, 1, 1) %*% (grid$wave / 40),
                each = c(100, 150, 200) %o% rep(1, m), rough = matrix(rep(c(150, 160), length.out = 3 * m), 3))
  given <- list(number = 150, function_of_wave = function(wave) wave / 40, each = cbind(c(100, 150, 200)), rough = power$rough)
  for (kind in names(power)) {
    r <- as_resolution(given[[kind]], 3, grid)
    exact <- exact_gaussians(power[[kind]], grid$wave)
    expect_lt(off_by(full_band(r, m), exact), 1e-4)
    expect_equal(r$size, dim(exact)[2])
    expect_true(r$gaussian)
    expect_identical(dim(r$values), c(3L, length(band_knots(r$step, m))))
    if (kind == "rough") expect_identical(r$step, 1) else expect_gt(r$step, 1)
  }
  # FWHM in pixels: R = wave / FWHM
  r <- as_resolution(125, 1, instrument(seq(4000, 8000, by = 2)))
  band <- full_band(r, 2001)[1, , 1001]
  expect_equal(sqrt(sum(band * (seq_along(band) - (length(band) + 1) / 2)^2)), 6000 / 125 / 2 / sqrt(8 * log(2)), tolerance = 1e-3)
  none <- as_resolution(Inf, 1, grid)
  expect_equal(full_band(none, m)[1, , 5], c(0, 1, 0))
})

test_that("a matrix is kept as it is, at few pixels where it is smooth", {
  set.seed(1)
  band <- array(runif(2 * 5 * 251), c(2, 5, 251))
  r <- as_resolution(band, 2, small_instrument())
  expect_identical(r[c("size", "step", "gaussian")], list(size = 5, step = 1, gaussian = FALSE))
  expect_identical(full_band(r, 251), band)
  smooth <- array(rep(c(0.2, 0.5, 0.3), each = 2), c(2, 3, 251)) * rep(seq(0.9, 1, length.out = 251), each = 6)
  r <- as_resolution(smooth, 2, small_instrument())
  expect_gt(r$step, 250)
  expect_lt(off_by(full_band(r, 251), smooth), 1e-12)
})

test_that("rows are paired with those of flux by name, of bands as of powers", {
  n <- 3
  wave <- seq(4000, 5000, by = 10)
  m <- length(wave)
  named <- function(x) `dimnames<-`(x, c(list(c("a", "b", "c")), rep(list(NULL), length(dim(x)) - 1)))
  make <- function(resolution) {
    ones <- named(matrix(1, n, m))
    spectra(ones, ones, z = c(a = 0.1, b = 0.1, c = 0.1), wave = wave, resolution = resolution)$resolution
  }
  power <- named(matrix(c(500, 1000, 2000), n, m))
  band <- named(aperm(array(c(0.1, 0.2, 0.3, 0.8, 0.6, 0.4, 0.1, 0.2, 0.3), c(n, 3, m)), 1:3))
  expect_identical(make(power[3:1, ]), make(power))
  expect_identical(make(band[3:1, , ]), make(band))
  expect_false(identical(make(unname(band[3:1, , ])), make(band)))
})

test_that("bad resolutions are refused by name", {
  x <- small_spectra(3)
  make <- function(resolution) spectra(x$flux, x$ivar, x$z, x$instrument, normalize = FALSE, resolution = resolution)
  expect_error(make("a"), class = "spender_error_invalid", "`resolution` must be numbers")
  expect_error(make(1:7), class = "spender_error_dimension", "one for each of the 251 pixels")
  expect_error(make(matrix(100, 2, 251)), class = "spender_error_dimension", "2 by 251")
  expect_error(make(array(1, c(3, 5, 7))), class = "spender_error_dimension", "3 by 5 by 7")
  expect_error(make(replace(matrix(100, 3, 251), 5, NaN)), class = "spender_error_invalid", "in 1 place")
  expect_error(make(cbind(c(100, -1, 0))), class = "spender_error_invalid", "in 2 places")
  expect_error(make(1), class = "spender_error_invalid", "narrower than 127 pixels")
  expect_error(make(array(1, c(3, 4, 251))), class = "spender_error_invalid", "an odd number of diagonals")
  expect_error(make(array(NA_real_, c(3, 3, 251))), class = "spender_error_invalid", "finite")
  expect_error(make(function(wave) wave[1:3]), class = "spender_error_dimension")
})

test_that("rows keep their resolution", {
  x <- resolved_spectra(6)
  expect_identical(x[c(5, 2)]$resolution$values, x$resolution$values[c(5, 2), ])
  expect_identical(c(x[1:2], x[3:6])$resolution, x$resolution)
  expect_identical(subset(x, z > 0)$resolution, x$resolution)
  expect_output(print(x), "resolution   Gaussians")
  without <- small_spectra(6)
  expect_null(without$resolution)
  expect_false("resolution" %in% names(without))
  expect_error(c(x, without), class = "spender_error_invalid", "cannot be joined")
  expect_false(identical(data_digest(x), data_digest(x[, ][c(2, 1, 3:6)])))
  changed <- x
  changed$resolution$values[1] <- 9
  expect_false(identical(data_digest(x), data_digest(changed)))
  changed$resolution$values <- changed$resolution$values[1:2, ]
  expect_error(changed[1], class = "spender_error_invalid", "resolution")
  # of other shapes
  m <- length(x$instrument$wave)
  set.seed(1)
  band <- array(runif(2 * 3 * m), c(2, 3, m))
  y <- spectra(x$flux[1:2, ], x$ivar[1:2, ], x$z[1:2], x$instrument, normalize = FALSE, resolution = band)
  rough <- spectra(x$flux[1:2, ], x$ivar[1:2, ], x$z[1:2], x$instrument, normalize = FALSE,
                   resolution = matrix(rep_len(c(150, 155, 160), 2 * m), 2))
  both <- c(x, y)$resolution
  expect_false(both$gaussian)
  wide <- full_band(both, m)
  middle <- (dim(wide)[2] + 1) / 2
  expect_equal(wide[7:8, middle + (-1:1), ], band)
  expect_equal(wide[1:6, , ], full_band(x$resolution, m))
  expect_true(c(x, rough)$resolution$gaussian)
  joined <- c(rough, x)$resolution # where there are more knots, nothing changes
  expect_equal(joined$values[3:8, ], reshape_resolution(x$resolution, joined$size, 1, TRUE, m)$values)
  expect_equal(joined$values[3:8, band_knots(x$resolution$step, m)], x$resolution$values)
})

test_that("models have the resolution of each spectrum", {
  on_cpu()
  x <- resolved_spectra()
  fit <- small_fit(x)
  expect_true(fit$architecture$resolution)
  expect_output(print(fit), "the resolution of each spectrum")
  rest <- predict(fit, x[1:3], "rest")
  observed <- predict(fit, x[1:3], "observed")
  m <- length(x$instrument$wave)
  band <- full_band(x[1:3]$resolution, m)
  half <- (dim(band)[2] - 1) / 2
  for (i in 1:3) {
    model <- stats::approx(fit$wave_rest * (1 + x$z[i]), rest[i, ], x$instrument$wave)$y
    known <- which(!is.na(observed[i, ]) & seq_len(m) > half & seq_len(m) <= m - half)
    by_hand <- vapply(known, function(p) sum(band[i, , p] * model[p + (-half:half)]), 0)
    expect_equal(observed[i, known], by_hand, tolerance = 1e-5, ignore_attr = TRUE)
    # pixels whose footprint reaches beyond the restframe do not count
    covered <- range(which(!is.na(model)))
    expect_identical(range(which(!is.na(observed[i, ]))), as.integer(ifelse(covered == c(1, m), covered, covered + c(half, -half))))
  }
  # a spectrum's results do not depend on its company
  expect_identical(predict(fit, x[5:3], "observed", refine = 2)[3, ], predict(fit, x[3], "observed", refine = 2)[1, ])
  expect_true(all(predict(fit, x, "loss", refine = 3) <= predict(fit, x, "loss") * (1 + 1e-6)))
  expect_identical(dim(vcov(fit, x[1:2])), c(2L, 2L, 2L))
  expect_true(all(is.finite(logLik(fit, x))))
  # and is not used unless it is wanted
  plain <- small_spectra(24)
  expect_error(predict(fit, plain), class = "spender_error_resolution", "these have none")
  expect_error(small_fit(plain, resolution = TRUE), class = "spender_error_resolution")
  expect_error(small_fit(x, resolution = TRUE, lsf = 3), class = "spender_error_invalid", "exclude each other")
  expect_error(small_fit(x, resolution = "yes"), class = "spender_error_invalid")
  without <- small_fit(x, resolution = FALSE)
  expect_null(without$architecture$resolution)
  y <- x
  y$resolution <- NULL
  expect_identical(small_fit(y)$weights, without$weights)
  expect_null(small_fit(x, lsf = 3)$architecture$resolution)
  expect_identical(update(fit, x, epochs = 1, progress = FALSE)$architecture, fit$architecture)
  in_folder({
    write_model(fit, "model.safetensors")
    again <- read_model("model.safetensors")
    expect_true(again$architecture$resolution)
    expect_identical(predict(again, x, "loss"), predict(fit, x, "loss"))
  })
  other <- fit
  other$architecture$resolution <- NULL
  expect_false(identical(fit_identity(fit), fit_identity(other)))
})

test_that("survey files have resolutions, and fits read them", {
  on_cpu()
  in_folder({
    x <- resolved_spectra()
    survey <- write_survey(x, "x.fits")
    expect_output(print(survey), "resolution   Gaussians")
    again <- as_spectra(survey)
    expect_equal(again$resolution, x$resolution, tolerance = 1e-7)
    expect_identical(as_spectra(survey[c(7, 2)])$resolution$values, again$resolution$values[c(7, 2), ])
    fit <- small_fit(survey)
    expect_true(fit$architecture$resolution)
    expect_identical(small_fit(again)$weights, fit$weights)
    expect_identical(predict(fit, survey, "loss", refine = 1), predict(fit, again, "loss", refine = 1))
    copied <- write_survey(survey, "copy.fits")
    expect_identical(as_spectra(copied)$resolution, again$resolution)
    write_survey(small_spectra(4), "without.fits")
    expect_error(open_survey(c("x.fits", "without.fits")), class = "spender_error_grid", "other resolutions")
    expect_error(predict(fit, open_survey("without.fits")), class = "spender_error_resolution")
    set.seed(1)
    band <- array(runif(3 * 3 * 251), c(3, 3, 251))
    rough <- spectra(x$flux[1:3, ], x$ivar[1:3, ], x$z[1:3], x$instrument, normalize = FALSE, resolution = band)
    expect_equal(full_band(as_spectra(write_survey(rough, "band.fits"))$resolution, 251), band, tolerance = 1e-7)
    # a name that promises another size
    bytes <- readBin("x.fits", "raw", file.size("x.fits"))
    at <- grepRaw("RESOLUTION_SIGMA_[0-9]+_", bytes)
    bytes[at + attr(regexpr("RESOLUTION_SIGMA_[0-9]+_", rawToChar(bytes[at + 0:30])), "match.length")] <- charToRaw("9")
    writeBin(bytes, "bad.fits")
    expect_error(open_survey("bad.fits"), class = "spender_error_format")
  })
})

test_that("simulated spectra are blurred as they say", {
  power <- c(100, 140, 200)
  galaxies <- small_spectra(3, noise = FALSE, defects = FALSE)
  x <- simulate_spectra(3, small_instrument(), z = galaxies$z, galaxies = galaxies$truth$parameters, resolution = power, noise = FALSE,
                        defects = FALSE, normalize = FALSE, seed = 7)
  sharp <- simulate_spectra(3, small_instrument(), z = galaxies$z, galaxies = galaxies$truth$parameters, noise = FALSE, defects = FALSE,
                            normalize = FALSE, seed = 7)
  expect_identical(x$truth$parameters$resolution, power)
  expect_identical(x$truth$shared$lsf, 1)
  band <- full_band(x$resolution, 251)
  half <- (dim(band)[2] - 1) / 2
  inner <- (1 + half):(251 - half)
  for (i in 1:3) {
    by_hand <- vapply(inner, function(m) sum(band[i, , m] * sharp$flux[i, m + (-half:half)]), 0)
    ratio <- x$flux[i, inner] / by_hand # brightness is that of the median
    expect_lt(diff(range(ratio)), 1e-3 * mean(ratio))
  }
  expect_error(small_spectra(3, resolution = 1:2), class = "spender_error_invalid", "resolution")
  expect_error(small_spectra(3, resolution = 100, lsf = c(0.2, 0.6, 0.2)), class = "spender_error_invalid", "not both")
  in_folder({
    survey <- simulate_survey(5, "s.fits", instrument = small_instrument(), resolution = seq(100, 140, by = 10), seed = 7, progress = FALSE)
    same <- simulate_spectra(5, instrument = small_instrument(), resolution = seq(100, 140, by = 10), seed = 7)
    expect_equal(as_spectra(survey)$resolution, same$resolution, tolerance = 1e-7)
    expect_equal(as_spectra(survey)$flux, same$flux, tolerance = 1e-6)
  })
})
