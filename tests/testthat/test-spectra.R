median_window <- function(flux, ivar, wave, z, window = c(5300, 5850)) {
  median(flux[ivar > 0 & wave / (1 + z) >= window[1] & wave / (1 + z) <= window[2]])
}

test_that("flux and ivar are masked and normalised as documented", {
  set.seed(1)
  wave <- instrument(seq(5000, 7000, by = 4))$wave
  n <- 37 # more than a block of rows
  flux <- matrix(runif(n * length(wave), 1, 3), n)
  ivar <- matrix(runif(n * length(wave), 1, 5), n)
  ivar[sample(length(ivar), 500)] <- 0
  flux[cbind(1:n, 1:n)] <- NA
  flux[cbind(1:n, 51:(50 + n))] <- -Inf
  ivar[cbind(1:n, 101:(100 + n))] <- NaN
  ivar[cbind(1:n, 151:(150 + n))] <- Inf
  ivar[cbind(1:n, 201:(200 + n))] <- 1e-6
  z <- runif(n, -0.01, 0.15)
  expected_ivar <- ifelse(is.finite(flux) & is.finite(ivar) & ivar > 1e-6, ivar, 0)
  expected_flux <- ifelse(is.finite(flux) & is.finite(ivar), flux, 0)
  lines <- sky_lines()$wave
  expected_ivar[, vapply(wave, function(w) any(abs(w - lines) <= 5), NA)] <- 0
  norm <- vapply(1:n, function(i) median_window(expected_flux[i, ], expected_ivar[i, ], wave, z[i]), 0)

  x <- spectra(flux, ivar, z, wave)
  expect_equal(x$norm, norm, tolerance = 1e-15)
  expect_equal(x$flux, expected_flux / norm, tolerance = 1e-15)
  expect_equal(x$ivar, expected_ivar * norm^2, tolerance = 1e-15)
  expect_equal(x$z, z)
  expect_named(x, c("flux", "ivar", "z", "norm", "instrument", "id", "object", "meta", "problems", "truth"))
  expect_identical(spectra(flux, ivar, z, wave, threads = 1), spectra(flux, ivar, z, wave, threads = 2))
})

test_that("the median is exact for odd and even numbers of pixels", {
  wave <- seq(5300, 5850, length.out = 40)
  for (n in 1:25) {
    flux <- c(rev(seq_len(n))^2, rep(1e6, 40 - n))
    x <- spectra(flux, rep(c(1, 0), c(n, 40 - n)), 0, wave, mask_sky = FALSE)
    expect_identical(x$norm, median(flux[1:n]))
  }
  set.seed(2)
  flux <- sample(c(1, 2, 3), 40, TRUE)
  expect_identical(spectra(flux, rep(1, 40), 0, wave, mask_sky = FALSE)$norm, median(flux))
})

test_that("the window's ends belong to it and follow the redshift", {
  wave <- c(5000, 5300, 5850, 6000) * 2
  x <- spectra(1:4, rep(1, 4), 1, wave, mask_sky = FALSE)
  expect_equal(x$norm, 2.5)
  expect_equal(spectra(1:4, rep(1, 4), 1, wave, mask_sky = FALSE, window = c(4999, 5001))$norm, 1)
})

test_that("spectra without a norm keep their row and units, and are reported", {
  wave <- toy_grid()$wave
  flux <- rbind(2, -2, 0, 3, 1e-200, 1e200)[, rep(1, length(wave))]
  ivar <- matrix(4, 6, length(wave))
  ivar[3, ] <- 0
  ivar[4, wave <= 5850 * 1.05 & wave >= 5300 * 1.05] <- 0
  x <- spectra(flux, ivar, rep(0.05, 6), toy_grid(), id = LETTERS[1:6], mask_sky = FALSE)
  expect_equal(x$norm, c(2, NA, NA, NA, NA, NA))
  expect_false(any(is.nan(x$norm)))
  expect_equal(x$flux[2, ], flux[2, ])
  expect_equal(x$ivar[4, ], ivar[4, ])
  expect_true(all(is.finite(x$flux)) && all(is.finite(x$ivar)))
  expect_snapshot(problems(x))
  # z far off the grid
  expect_equal(problems(spectra(flux[1, ], ivar[1, ], 50, toy_grid()))$row, 1L)
})

test_that("a result that leaves the range of a double is masked", {
  wave <- toy_grid()$wave
  flux <- rep(1e-10, length(wave))
  flux[1] <- 1e300
  x <- spectra(flux, rep(1, length(wave)), 0, toy_grid(), mask_sky = FALSE)
  expect_equal(c(x$flux[1], x$ivar[1]), c(0, 0))
  expect_equal(x$flux[2], 1)
})

test_that("normalize = FALSE and mask_sky = FALSE leave values alone", {
  wave <- instrument("sdss")$wave
  x <- spectra(rep(3, 3921), rep(2, 3921), 0.1, "sdss", normalize = FALSE, mask_sky = FALSE)
  expect_equal(unique(as.vector(x$flux)), 3)
  expect_equal(unique(as.vector(x$ivar)), 2)
  expect_equal(x$norm, 1)
  expect_true(is.na(spectra(rep(3, 3921), rep(0, 3921), 0.1, "sdss", normalize = FALSE)$norm))
  near <- abs(wave - 5000) <= 5
  x <- spectra(rep(3, 3921), rep(2, 3921), 0.1, "sdss", mask_sky = 5000)
  expect_equal(as.vector(x$ivar) == 0, near)
  expect_true(any(near))
})

test_that("one spectrum is a vector, no spectra are a matrix without rows", {
  wave <- toy_grid()$wave
  x <- spectra(rep(1, length(wave)), rep(1, length(wave)), 0.1, toy_grid())
  expect_equal(dim(x), c(1, length(wave)))
  none <- spectra(matrix(0, 0, length(wave)), matrix(0, 0, length(wave)), numeric(), toy_grid())
  expect_length(none, 0)
  expect_equal(nrow(none$meta), 0)
  expect_equal(nrow(as.data.frame(none)), 0)
  expect_length(c(none, x), 1)
  expect_length(none[integer()], 0)
  local_reproducible_output()
  expect_snapshot({
    none
    summary(none)
  })
})

test_that("negative ivar is masked and warned about", {
  withr::local_options(warn = 1) # the snapshot is of a warning
  wave <- toy_grid()$wave
  ivar <- matrix(1, 3, length(wave))
  ivar[2, 5] <- -1
  ivar[3, 7] <- -Inf
  expect_snapshot(x <- spectra(matrix(1, 3, length(wave)), ivar, rep(0, 3), toy_grid()))
  expect_equal(c(x$ivar[2, 5], x$ivar[3, 7]), c(0, 0))
  expect_warning(spectra(matrix(1, 3, length(wave)), ivar, rep(0, 3), toy_grid()), class = "spender_warning_ivar")
})

test_that("arguments that do not fit are refused with both sizes", {
  wave <- c(5000, 5500, 6000)
  one <- matrix(1, 2, 3)
  expect_snapshot(error = TRUE, {
    spectra(one[, 1:2], one, c(0, 0), wave)
    spectra(one, one[, 1:2], c(0, 0), wave)
    spectra(one, one[1, ], c(0, 0), wave)
    spectra(one, one, 0, wave)
    spectra(one, one, c(NA, 0.1), wave)
    spectra(one, one, c(0.1, -1), wave)
    spectra(one, one, c(NaN, Inf), wave)
    spectra(one, one, c("0.1", "0.2"), wave)
    spectra(one, one, NULL, wave)
    spectra("flux", one, c(0, 0), wave)
    spectra(array(1, c(2, 3, 1)), one, c(0, 0), wave)
    spectra(one, one, c(0, 0), "hubble")
    spectra(one, one, c(0, 0), wave, id = "a")
    spectra(one, one, c(0, 0), wave, id = c("a", "a"))
    spectra(one, one, c(0, 0), wave, id = c("a", NA))
    spectra(one, one, c(0, 0), wave, meta = data.frame(a = 1))
    spectra(one, one, c(0, 0), wave, meta = list(a = 1:2))
    spectra(one, one, c(0, 0), wave, window = c(5850, 5300))
    spectra(one, one, c(0, 0), wave, normalize = NA)
    spectra(one, one, c(0, 0), wave, truth = 1)
    spectra(one, one, c(0, 0), wave, truth = list(flux = one[1, , drop = FALSE]))
    spectra(one, one, c(0, 0), wave, threads = 0)
  })
  expect_error(spectra(one, one, 0, wave), class = "spender_error_dimension")
  expect_error(spectra(one, one, c(NA, 0), wave), class = "spender_error_redshift")
  expect_error(spectra(one, one, c(0, 0), wave, id = c("a", "a")), class = "spender_error_id")
})

test_that("ids come from the argument, the row names, or count", {
  wave <- c(5000, 5500, 6000)
  one <- matrix(1, 2, 3)
  expect_equal(spectra(one, one, c(0, 0), wave)$id, c("1", "2"))
  named <- one
  rownames(named) <- c("x", "y")
  expect_equal(spectra(named, one, c(0, 0), wave)$id, c("x", "y"))
  expect_equal(spectra(one, one, c(0, 0), wave, id = c(1e15, 100000))$id, c("1000000000000000", "100000"))
  expect_null(dimnames(spectra(named, one, c(0, 0), wave)$flux))
})

test_that("rows are taken by number, logical vector and id", {
  wave <- toy_grid()$wave
  x <- toy_spectra(4, truth = list(rest = matrix(1:8, 4), parameters = data.frame(age = 1:4), lsf = c(1, 2, 1, 0)))
  expect_length(x, 4)
  expect_equal(x[2:3]$norm, c(2, 3))
  expect_equal(x["c"]$z, x$z[3])
  expect_equal(x[c("d", "a")]$meta$plate, c(4, 1))
  expect_equal(x[-1]$id, c("b", "c", "d"))
  expect_equal(x[x$z > 0.06]$id, c("c", "d"))
  expect_equal(x[c(1, 1)]$id, c("a", "a.1"))
  expect_equal(x[c(3, 1)]$truth, list(rest = matrix(c(3L, 1L, 7L, 5L), 2), parameters = data.frame(age = c(3L, 1L)), lsf = c(1, 2, 1, 0)))
  expect_equal(head(x, 2)$id, c("a", "b"))
  expect_equal(tail(x, 1)$id, "d")
  expect_identical(x[], x)
  expect_identical(x[1:4], x)
  expect_snapshot(error = TRUE, {
    x["z"]
    x[5]
    x[NA]
    x[c(TRUE, FALSE)]
    x[factor("a")]
    x[1, 2]
  })
})

test_that("problems follow their rows", {
  wave <- toy_grid()$wave
  ivar <- matrix(4, 4, length(wave))
  ivar[c(1, 3), ] <- 0
  x <- spectra(matrix(1, 4, length(wave)), ivar, rep(0.1, 4), toy_grid(), id = letters[1:4])
  expect_equal(problems(x)$row, c(1L, 3L))
  expect_equal(problems(x[4:3])$row, 2L)
  expect_equal(problems(x[4:3])$id, "c")
  expect_equal(problems(x[c(3, 3)])$id, c("c", "c.1"))
  expect_equal(nrow(problems(x[c(2, 4)])), 0)
  joined <- c(x[2:3], x)
  expect_equal(problems(joined)$row, c(2L, 3L, 5L))
  expect_equal(problems(joined)$id, joined$id[c(2, 3, 5)])
})

test_that("c() joins spectra on one grid", {
  x <- toy_spectra(2)
  y <- toy_spectra(3)[3]
  y$meta <- data.frame(class = factor("QSO"), mass = 10)
  joined <- c(x, y)
  expect_equal(joined$id, c("a", "b", "c"))
  expect_equal(joined$norm, 1:3)
  expect_equal(joined$flux, rbind(x$flux, y$flux))
  expect_equal(joined$meta, data.frame(plate = c(1L, 2L, NA), class = c("GALAXY", "STAR", "QSO"), mass = c(NA, NA, 10)))
  expect_equal(c(x, x)$id, c("a", "b", "a.1", "b.1"))
  expect_identical(c(x), x)
  a <- toy_spectra(2, truth = list(rest = matrix(1:4, 2), lsf = 1:3, only = 1))
  b <- toy_spectra(2, truth = list(rest = matrix(5:8, 2), lsf = 1:3))
  expect_equal(c(a, b)$truth, list(rest = rbind(matrix(1:4, 2), matrix(5:8, 2)), lsf = 1:3))
  expect_null(c(a, x)$truth)
  expect_snapshot(error = TRUE, {
    c(x, 1)
    c(x, spectra(c(1, 1), c(1, 1), 0, c(5400, 5500)))
  })
  expect_error(c(x, spectra(c(1, 1), c(1, 1), 0, c(5400, 5500))), class = "spender_error_grid")
})

test_that("printing says first what a person wants first", {
  local_reproducible_output()
  x <- toy_spectra(3, truth = list(lsf = 1))
  wave <- toy_grid()$wave
  y <- spectra(matrix(1, 2, length(wave)), rbind(rep(1, length(wave)), 0), c(0, 0.2), toy_grid())
  expect_snapshot({
    x
    y
    x[1]
    summary(y)
  })
})

test_that("as.data.frame() is the catalogue with S/N and masked fraction", {
  wave <- toy_grid()$wave
  ivar <- rbind(rep(c(0, 4), c(101, 400)), 0)
  x <- spectra(matrix(3, 2, length(wave)), ivar, c(0.1, 0.2), toy_grid(), meta = data.frame(z = 1:2, mass = 3:4), mask_sky = FALSE)
  expect_equal(as.data.frame(x), data.frame(id = c("1", "2"), z = c(0.1, 0.2), norm = c(3, NA), sn = c(6, NA), masked = c(101 / 501, 1),
                                            mass = 3:4))
})

test_that("catalogue columns join by id and by other columns", {
  x <- toy_spectra(3)
  joined <- join_catalogue(x, data.frame(mass = 1:4, id = c("c", "x", "a", "b")))
  expect_equal(joined$meta$mass, c(3L, 4L, 1L))
  expect_equal(join_catalogue(x, data.frame(plate = c(3, 1, 2), mass = 1:3), by = "plate")$meta$mass, c(2L, 3L, 1L))
  expect_equal(join_catalogue(x, data.frame(name = letters[1:3], mass = 1:3), by = c(id = "name"))$meta$mass, 1:3)
  expect_equal(join_catalogue(x, data.frame(class = c("STAR", "GALAXY", "GALAXY"), plate = c(2, 3, 1), mass = 1:3),
                              by = c("class", "plate"))$meta$mass, c(3L, 1L, 2L))
  x$meta$plate <- c(100000L, 2L, 3L)
  expect_equal(join_catalogue(x, data.frame(plate = c(2, 3, 1e5), mass = 1:3), by = "plate")$meta$mass, c(3L, 1L, 2L))
  withr::local_options(warn = 1) # the snapshot is of a warning
  expect_snapshot(joined <- join_catalogue(x, data.frame(id = "b", mass = 7)))
  expect_equal(joined$meta$mass, c(NA, 7, NA))
  expect_warning(join_catalogue(x, data.frame(id = "b", mass = 7)), class = "spender_warning_unmatched")
  expect_snapshot(error = TRUE, {
    join_catalogue(x, data.frame(id = c("a", "a"), mass = 1:2))
    join_catalogue(x, data.frame(id = c("a", "b", "c"), class = 1:3))
    join_catalogue(x, data.frame(mass = 1))
    join_catalogue(x, data.frame(fiber = 1, mass = 1), by = "fiber")
    join_catalogue(x, 3)
    join_catalogue(3, data.frame())
    join_catalogue(x, data.frame(id = "a"), by = 1)
  })
})

test_that("sky lines are in vacuum, with their source", {
  lines <- sky_lines()
  expect_named(lines, c("wave", "intensity", "species", "source"))
  expect_gte(nrow(lines), 100)
  expect_false(is.unsorted(lines$wave, strictly = TRUE))
  expect_false(anyNA(lines$wave) || anyNA(lines$source))
  expect_equal(sum(!is.na(lines$intensity)), 100)
  nearest <- function(w) min(abs(lines$wave - w))
  # [O I] 5577.34, Na I 5889.95 and 5895.92, Hg I 4358.33 and 5460.74 in air
  expect_lt(max(vapply(c(5578.89, 5891.58, 5897.56, 4359.56, 5462.26), nearest, 0)), 0.02)
  # DESI's reach further and are masked the wider, the brighter they are
  all <- all_sky_lines()
  expect_identical(merge(all, lines)[names(lines)], merge(lines, lines)[names(lines)])
  expect_true(all(all$intensity > 2, na.rm = TRUE) && max(all$wave) > 9824)
  expect_equal(desi_half_width(c(NA, 2, 20)), c(5, 5, 10))
})

test_that("plots draw, also what cannot be normalised", {
  grDevices::pdf(NULL)
  withr::defer(grDevices::dev.off())
  x <- toy_spectra(3)
  before <- graphics::par("mfrow", "mar")
  expect_silent(expect_invisible(plot(x)))
  expect_identical(graphics::par("mfrow", "mar"), before)
  expect_no_error(plot(x, c("c", "a"), lines = FALSE, xlim = c(5500, 6000)))
  wave <- toy_grid()$wave
  expect_no_error(plot(spectra(0 * wave, 0 * wave, 0.1, toy_grid())))
  expect_message(plot(x[0]), "No spectra")
  expect_error(plot(x, 9), class = "spender_error_invalid")
})

test_that("an object whose fields were changed by hand is refused with both sizes, whatever is asked of it", {
  x <- small_spectra(6)
  fit <- small_fit(x, epochs = 1)
  edits <- list(
    ivar = function(y) { y$ivar <- y$ivar[1:3, ]; y }, flux = function(y) { y$flux <- y$flux[1:3, ]; y },
    pixels = function(y) { y$ivar <- y$ivar[, -1]; y }, z = function(y) { y$z <- y$z[1:3]; y },
    norm = function(y) { y$norm <- y$norm[1:3]; y }, id = function(y) { y$id <- y$id[1:3]; y },
    missing = function(y) { y$ivar <- NULL; y }, frame = function(y) { y$ivar <- as.data.frame(y$ivar); y },
    integers = function(y) { storage.mode(y$flux) <- "integer"; y }, meta = function(y) { y[["meta"]] <- y$meta[1:3, , drop = FALSE]; y }
  )
  for (edit in edits) {
    y <- edit(x)
    expect_error(predict(fit, y, "loss"), "must (be|have)", class = "spender_error_invalid")
    expect_error(small_fit(y, epochs = 1), "must (be|have)", class = "spender_error_invalid")
    expect_error(attention(fit, y), "must (be|have)", class = "spender_error_invalid")
    expect_error(print(y), "must (be|have)", class = "spender_error_invalid")
    expect_error(y[1:2], "must (be|have)", class = "spender_error_invalid")
  }
  expect_error(predict(fit, edits$ivar(x), "loss"), "6 redshifts.*3 by 251")
})

test_that("entries in C look at the shapes that they are given", {
  x <- small_spectra(6)
  fit <- small_fit(x, epochs = 1)
  device <- choose_device("cpu", "fp32", 1)
  run <- function(flux = x$flux, ivar = x$ivar, rows = as.double(1:6)) {
    .Call(ffi_infer_open, fit$architecture, fit$weights, fit$instrument$wave, fit$wave_rest, list(flux = flux, ivar = ivar, rows = rows),
          x$z, x$norm, "loss", encoder_only, NULL, c(device, batch_size = 4))
  }
  expect_error(run(ivar = x$ivar[1:3, ]), "'ivar' must be 6 by 251, not 3 by 251")
  expect_error(run(flux = x$flux[, -1]), "'flux' must be 6 by 251, not 6 by 250")
  expect_error(run(rows = 1), "'rows' must be a vector of 6 doubles, not 1")
  expect_error(run(rows = as.double(2:7)), "there is no row 7 of 6")
  expect_error(run(flux = as.vector(x$flux)), "'flux' must be a matrix of doubles")
  expect_error(.Call(ffi_spectra_quality, x$flux, x$ivar[1:3, ], 1L), "'ivar' must be 6 by 251")
})
