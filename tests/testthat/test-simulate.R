test_that("a simulation has its shapes, ids and catalogue", {
  x <- simulate_spectra(12, seed = 1)
  expect_s3_class(x, "spectra")
  expect_equal(dim(x$flux), c(12, 3921))
  expect_equal(x$id[c(1, 12)], c("sim-000001", "sim-000012"))
  expect_equal(names(x$meta), c("class", "subclass", "sn_median"))
  expect_equal(dim(x$truth$flux), dim(x$flux))
  expect_equal(dim(x$truth$rest), c(12, length(x$truth$shared$wave_rest)))
  expect_equal(nrow(x$truth$parameters), 12)
  expect_true(all(is.finite(x$flux)) && all(is.finite(x$ivar)) && all(x$ivar >= 0))
  expect_true(all(x$z >= 0.01 & x$z <= 0.5))
  expect_null(simulate_spectra(2, rest = FALSE, seed = 1)$truth$rest)
})

test_that("rows of the truth follow the spectra", {
  x <- simulate_spectra(6, seed = 1)
  y <- x[c(5, 2)]
  expect_identical(y$truth$flux, x$truth$flux[c(5, 2), ])
  expect_identical(y$truth$rest, x$truth$rest[c(5, 2), ])
  expect_identical(y$truth$parameters$sn, x$truth$parameters$sn[c(5, 2)])
  expect_identical(y$truth$shared, x$truth$shared)
  both <- c(x, simulate_spectra(3, seed = 2))
  expect_equal(dim(both$truth$rest), c(9, length(x$truth$shared$wave_rest)))
})

test_that("a seed repeats, and leaves the session's random numbers alone", {
  old <- RNGkind()
  on.exit(RNGkind(old[1], old[2], old[3]))
  set.seed(10)
  before <- .Random.seed
  x <- simulate_spectra(3, seed = 5)
  expect_identical(.Random.seed, before)
  suppressWarnings(RNGkind("Wichmann-Hill", "Box-Muller", "Rounding"))
  kind <- RNGkind()
  expect_identical(simulate_spectra(3, seed = 5), x)
  expect_identical(RNGkind(), kind)
  rm(".Random.seed", envir = globalenv())
  invisible(simulate_spectra(1, seed = 5))
  expect_false(exists(".Random.seed", globalenv(), inherits = FALSE))
  RNGkind(old[1], old[2], old[3])
  set.seed(3)
  a <- simulate_spectra(2)
  set.seed(3)
  expect_identical(simulate_spectra(2), a)
  expect_false(identical(simulate_spectra(2)$flux, a$flux))
})

test_that("the inverse variance is that of the noise", {
  x <- simulate_spectra(40, defects = FALSE, seed = 3)
  scaled <- (x$flux - x$truth$flux) * sqrt(x$ivar)
  expect_equal(mean(scaled^2), 1, tolerance = 0.02)
  expect_equal(mean(scaled), 0, tolerance = 0.01)
  by_pixel <- colMeans(scaled^2)
  expect_true(mean(by_pixel[1:500]) > 0.97 && mean(by_pixel[1:500]) < 1.03)
  expect_true(all(x$ivar > 0))
})

test_that("defects stay under masks but for a few cosmic rays", {
  x <- simulate_spectra(60, seed = 3)
  valid <- x$ivar > 0
  expect_true(mean(valid) > 0.7 && mean(valid) < 0.92)
  expect_true(all(!valid[, c(1:3921)[instrument("sdss")$wave > 9260]]))
  scaled <- ((x$flux - x$truth$flux) * sqrt(x$ivar))[valid]
  expect_equal(stats::mad(scaled), 1, tolerance = 0.02)
  expect_lt(mean(abs(scaled) > 6), 1e-3)
})

test_that("without noise and defects the flux is the truth", {
  x <- simulate_spectra(3, noise = FALSE, defects = FALSE, seed = 1)
  expect_equal(x$flux, x$truth$flux, tolerance = 1e-12)
  expect_true(all(x$ivar > 0))
})

test_that("the truth is the restframe spectrum, interpolated and convolved", {
  kernel <- c(0.06, 0.24, 0.40, 0.22, 0.08)
  x <- simulate_spectra(4, lsf = 2 * kernel, integrate = FALSE, z = c(0, 0.05, 0.2, 0.4), seed = 8)
  expect_equal(x$truth$shared$lsf, kernel)
  wave <- x$instrument$wave
  m <- length(wave)
  # the kernel reaches beyond the ends
  pixels <- c(wave[1] - 2:1 * (wave[2] - wave[1]), wave, wave[m] + 1:2 * (wave[m] - wave[m - 1]))
  for (i in 1:4) {
    at <- stats::approx(x$truth$shared$wave_rest, x$truth$rest[i, ], pixels / (1 + x$z[i]))$y
    k <- seq_len(m) + 2
    expected <- kernel[1] * at[k + 2] + kernel[2] * at[k + 1] + kernel[3] * at[k] + kernel[4] * at[k - 1] + kernel[5] * at[k - 2]
    expect_equal(x$truth$flux[i, ], expected, tolerance = 1e-7)
  }
})

test_that("a pixel has the mean over its width", {
  wave <- seq(4000, 8000, by = 4)
  x <- simulate_spectra(2, instrument(wave), z = c(0, 0.1), seed = 8)
  rest <- x$truth$shared$wave_rest
  mean_between <- function(flux, from, to) { # of a function linear between its nodes
    at <- c(from, rest[rest > from & rest < to], to)
    y <- stats::approx(rest, flux, at)$y
    sum(diff(at) * (y[-1] + y[-length(y)]) / 2) / (to - from)
  }
  for (i in 1:2) for (m in c(1, 2, 150, 641, 1000, 1001)) {
    expected <- mean_between(x$truth$rest[i, ], (wave[m] - 2) / (1 + x$z[i]), (wave[m] + 2) / (1 + x$z[i]))
    expect_equal(x$truth$flux[i, m], expected, tolerance = 1e-6)
  }
})

test_that("a sample's first spectra do not depend on how many follow, nor on threads", {
  x <- simulate_spectra(40, seed = 5, threads = 1)
  y <- simulate_spectra(20, seed = 5, threads = 2)
  for (field in c("flux", "ivar", "z")) expect_identical(x[1:20][[field]], y[[field]])
  expect_identical(x$truth$parameters[1:20, ], y$truth$parameters)
  expect_false(identical(x$flux[1:20, ], simulate_spectra(20, seed = 6)$flux))
})

test_that("a simulated survey has the same bits for any number of threads, and those of one that is written", {
  skip_on_cran() # takes seconds
  bytes <- function(path) readBin(path, raw(), file.size(path))
  grid <- instrument(seq(4000, 8000, by = 40))
  n <- 2048 + 1024 + 301 # parts of R and chunks of the file, the last of each not whole
  paths <- file.path(withr::local_tempdir(), paste0(1:5, ".fits"))
  for (i in 1:4) simulate_survey(n, paths[i], instrument = grid, seed = 3, threads = 2^(i - 1))
  write_survey(simulate_spectra(n, instrument = grid, seed = 3), paths[5])
  for (i in 2:4) expect_identical(bytes(paths[i]), bytes(paths[1]))
  read <- lapply(paths[c(1, 5)], function(path) as_spectra(open_survey(path)))
  expect_identical(read[[1]]$flux, read[[2]]$flux)
  expect_identical(read[[1]]$ivar, read[[2]]$ivar)
  expect_true(.Call(ffi_survey_info, paths[1])$finished)
})

test_that("a simulation that ends in the middle leaves whole rows, and no thread", {
  grid <- instrument(seq(4000, 8000, by = 40))
  path <- withr::local_tempfile(fileext = ".fits")
  plan <- plan_simulation(1500, instrument = grid, seed = 3, threads = 2)
  session <- new_simulated_survey(path, plan)
  drawn <- draw_objects(plan, 1500, 0)
  .Call(ffi_simulate, drawn$shared, drawn$objects, 0, FALSE, plan$recipe,
        list(session = session, columns = unname(simulated_columns(drawn))))
  tasks <- function() length(list.files("/proc/self/task"))
  close_session(session) # while the second chunk is made
  survey <- open_survey(path)
  expect_true(length(survey) %in% c(0, 1024))
  expect_identical(survey$z, drawn$objects$z[seq_along(survey$z)])
  before <- tasks()
  session <- .Call(ffi_survey_write, path, 1024)
  drawn$objects$z[1200] <- 40 # the grid does not reach
  failing <- function() {
    .Call(ffi_simulate, drawn$shared, drawn$objects, 0, FALSE, plan$recipe,
          list(session = session, columns = unname(simulated_columns(drawn))))
    .Call(ffi_survey_written, session)
  }
  expect_error(failing(), "z = 40")
  close_session(session)
  skip_if_not(file.exists("/proc/self/task"))
  expect_lte(tasks(), before)
})

test_that("galaxies can be observed again", {
  x <- simulate_spectra(3, seed = 2, noise = FALSE, defects = FALSE)
  galaxies <- x$truth$parameters
  again <- simulate_spectra(3, galaxies = galaxies, z = x$z, sn = galaxies$sn, seed = 2, noise = FALSE, defects = FALSE)
  expect_identical(again$truth$parameters, galaxies)
  expect_lt(mean(abs(again$flux - x$flux)), 1e-4) # the restframe grid begins elsewhere
  # the same light at another redshift
  galaxies <- galaxies[c(1, 1), ]
  y <- simulate_spectra(2, galaxies = galaxies, z = c(0.05, 0.15), noise = FALSE, defects = FALSE, integrate = FALSE, seed = 1)
  wave <- 4500:7000
  light <- vapply(1:2, function(i) stats::approx(y$truth$shared$wave_rest, y$truth$rest[i, ], wave)$y, wave + 0)
  expect_equal(light[, 1], light[, 2], tolerance = 1e-3) # the norm's window falls on other pixels
})

test_that("density ties the lines of a doublet", {
  galaxies <- simulate_spectra(2, seed = 1)$truth$parameters
  galaxies$log_ne <- c(0, 4)
  lines <- line_fluxes(galaxies)
  # low- and high-density limits: statistical weights and transition rates
  expect_equal(unname(lines[, "OII_3730"] / lines[, "OII_3727"]), c(1.46, 0.44), tolerance = 0.03)
  expect_equal(unname(lines[, "SII_6718"] / lines[, "SII_6733"]), c(1.45, 0.49), tolerance = 0.03)
})

test_that("the sample is limited in magnitude", {
  x <- simulate_spectra(500, instrument(c(5000, 6000)), rest = FALSE, seed = 1)
  r <- x$truth$parameters$mag_r + distance_modulus(x$z)
  expect_true(all(r > 14.49 & r < 17.78))
  expect_gt(stats::cor(x$z, -x$truth$parameters$mag_r, method = "spearman"), 0.7)
  expect_equal(comoving_distance(0.1147), light_speed / 70 * stats::integrate(function(z) 1 / sqrt(0.3 * (1 + z)^3 + 0.7), 0, 0.1147)$value,
               tolerance = 1e-8)
})

test_that("dust is Calzetti's", {
  expect_equal(calzetti(c(5500, 4400)), c(4.05, 5.05), tolerance = 0.02) # k(B) - k(V) = 1 by definition
  expect_equal(calzetti(6299.999), calzetti(6300), tolerance = 0.01)
})

test_that("templates take the starlight's place", {
  wave <- seq(2000, 10000, by = 2)
  templates <- list(wave = wave, flux = rbind(wave / 5500, rep(1, length(wave))), coefficients = rbind(c(1, 0), c(0, 2)))
  x <- simulate_spectra(12, templates = templates, noise = FALSE, defects = FALSE, seed = 1)
  expect_setequal(x$truth$parameters$archetype, 1:2)
  rest <- x$truth$shared$wave_rest
  for (i in match(1:2, x$truth$parameters$archetype)) {
    expected <- if (x$truth$parameters$archetype[i] == 1) rest else rep(1, length(rest))
    expect_lt(diff(range(x$truth$rest[i, ] / expected)) / mean(x$truth$rest[i, ] / expected), 1e-5)
  }
  expect_error(simulate_spectra(2, templates = list(wave = 4000:7000, flux = matrix(1, 1, 3001)), seed = 1), class = "spender_error_grid")
  expect_error(simulate_spectra(2, templates = list(wave = wave, flux = -templates$flux), seed = 1), class = "spender_error_invalid")
})

test_that("emission lines have the ratios that the parameters say", {
  x <- simulate_spectra(30, z = 0.05, noise = FALSE, defects = FALSE, seed = 4)
  p <- x$truth$parameters
  rest <- x$truth$rest
  wave <- x$truth$shared$wave_rest
  line_flux <- function(i, centre, width) { # a line's flux above a straight continuum
    inside <- abs(wave - centre) < width
    side <- range(which(inside))
    base <- stats::approx(wave[side], rest[i, side], wave[inside])$y
    sum((rest[i, inside] - base) * c(diff(wave[inside]), 0))
  }
  i <- which.max(ifelse(p$type == "star-forming", p$ew_halpha, 0))
  lines <- setNames(spectral_lines()$wave, spectral_lines()$name)
  o3 <- line_flux(i, lines[["OIII_5008"]], 14) / line_flux(i, lines[["OIII_4960"]], 14)
  expect_equal(o3, 3, tolerance = 0.15)
  expect_true(all(p$halpha_hbeta > 2.86))
  expect_equal(p$old + p$intermediate + p$young, rep(1, 30))
  expect_true(all(p$log_n2_halpha[p$type == "star-forming"] < 0))
  expect_true(all(is.na(x$meta$subclass[p$ew_halpha < 1.5])))
})

test_that("the sample looks like the main galaxy sample", {
  x <- simulate_spectra(400, rest = FALSE, seed = 9)
  expect_equal(stats::median(x$z), 0.1, tolerance = 0.1)
  expect_true(stats::median(x$meta$sn_median) > 10 && stats::median(x$meta$sn_median) < 16)
  expect_false(anyNA(x$norm))
  old <- x$truth$parameters$type == "quiescent"
  rest_break <- vapply(seq_along(x$z), function(i) { # 4000 Å break, narrow definition
    r <- x$instrument$wave / (1 + x$z[i])
    mean(x$truth$flux[i, r > 4000 & r < 4100]) / mean(x$truth$flux[i, r > 3850 & r < 3950])
  }, 0)
  expect_gt(stats::median(rest_break[old]), stats::median(rest_break[!old]) + 0.2)
  expect_true(stats::median(rest_break[old]) > 1.4 && stats::median(rest_break[old]) < 1.9)
})

test_that("signal-to-noise ratios are met", {
  x <- simulate_spectra(3, sn = c(5, 15, 50), defects = FALSE, seed = 1)
  snr <- apply(x$truth$flux * sqrt(x$ivar), 1, stats::median)
  expect_equal(snr, c(5, 15, 50), tolerance = 1e-6)
})

test_that("other grids, redshifts and single spectra work", {
  linear <- simulate_spectra(2, instrument = instrument(seq(4000, 8000, by = 16)), seed = 1)
  expect_equal(ncol(linear$flux), 251)
  expect_true(all(is.finite(linear$truth$flux)))
  expect_equal(dim(simulate_spectra(1, "boss", z = 0.3, seed = 1)$flux), c(1, 4670))
  expect_equal(simulate_spectra(3, z = c(-0.001, 0, 0.9), seed = 1)$z, c(-0.001, 0, 0.9))
  far <- simulate_spectra(20, z_range = c(0.8, 0.9), rest = FALSE, seed = 1)
  expect_true(all(far$z >= 0.8 & far$z <= 0.9))
  expect_equal(simulate_spectra(2, z_range = c(0.2, 0.2), seed = 1)$z, c(0.2, 0.2))
})

test_that("bad arguments are named", {
  expect_snapshot(error = TRUE, {
    simulate_spectra(0)
    simulate_spectra(2, z = c(0.1, 0.2, 0.3))
    simulate_spectra(2, z = -2)
    simulate_spectra(2, z_range = c(0.3, 0.1))
    simulate_spectra(2, lsf = c(0.5, 0.5))
    simulate_spectra(2, sn = 0)
    simulate_spectra(2, galaxies = data.frame(type = c("quiescent", "active")))
    simulate_spectra(2, templates = 1)
    simulate_spectra(2, templates = list(wave = 1:2, flux = diag(2), coefficients = diag(3)))
    simulate_spectra(2, seed = "x")
    simulate_spectra(2, instrument = "hubble")
    spectral_lines("continuum")
  })
})

test_that("lines are in order, unique and in vacuum", {
  lines <- spectral_lines()
  expect_false(is.unsorted(lines$wave))
  expect_false(anyDuplicated(lines$name) > 0)
  expect_equal(lines$wave[lines$name == "Halpha"], 6564.61)
  expect_equal(lines$label[lines$name %in% c("Hbeta", "OIII_5008")], c("H\u03b2", "[O III]"))
  expect_true(all(spectral_lines("absorption")$kind == "absorption"))
})
