fits_image <- function(pixels, ...) { # rows are rows of the image
  bytes <- writeBin(as.vector(t(pixels)), raw(), size = 8, endian = "big")
  keys <- utils::modifyList(list(BITPIX = -64, NAXIS = 2, NAXIS1 = ncol(pixels), NAXIS2 = nrow(pixels)), list(...))
  c(do.call(fits_header, keys), bytes, raw((-length(bytes)) %% 2880))
}

write_image <- function(path, ..., second = NULL) {
  first <- fits_image(...)
  writeBin(c(charToRaw(fits_card("SIMPLE", TRUE)), first[seq_len(2880 - 80)], first[-seq_len(2880)],
             if (!is.null(second)) c(charToRaw(fits_card("XTENSION", "IMAGE")), second[seq_len(2880 - 80)], second[-seq_len(2880)])), path)
  path
}

test_that("templates and archetypes are read", {
  skip_without_cfitsio()
  flux <- rbind(1:5, c(2, 0, 1, 7, 9), 5:1) + 0.25
  coefficients <- matrix(1:6 / 10, 2)
  second <- fits_image(coefficients, PCOUNT = 0, GCOUNT = 1)
  path <- write_image(withr::local_tempfile(), flux, CRVAL1 = 4000.5, CDELT1 = 0.5, second = second)
  templates <- read_templates(path)
  expect_identical(templates, list(wave = 4000.5 + 0.5 * 0:4, flux = flux, coefficients = coefficients))

  in_log <- read_templates(write_image(withr::local_tempfile(), flux, COEFF0 = 3.5, COEFF1 = 1e-4))
  expect_equal(in_log$wave, 10^(3.5 + 1e-4 * 0:4))
  expect_null(in_log$coefficients)
  in_log <- read_templates(write_image(withr::local_tempfile(), flux, CRVAL1 = 3.5, CDELT1 = 1e-4, LOGLAM = 1, CRPIX1 = 2))
  expect_equal(in_log$wave, 10^(3.5 + 1e-4 * -1:3))
  # columns that are not the templates' are not archetypes
  other <- write_image(withr::local_tempfile(), flux, CRVAL1 = 1, CDELT1 = 1, second = fits_image(matrix(1, 4, 4), PCOUNT = 0, GCOUNT = 1))
  expect_null(read_templates(other)$coefficients)
})

test_that("a file that is not templates says what it lacks", {
  skip_without_cfitsio()
  folder <- withr::local_tempdir()
  local({
    withr::local_dir(folder)
    write_image("nowhere.fits", matrix(1, 2, 3))
    write_image("whole.fits", matrix(1, 2, 400), CRVAL1 = 1, CDELT1 = 1)
    writeBin(readBin("whole.fits", raw(), 4000), "cut.fits")
    write_sdss("table.fits")
    writeLines("no", "text.fits")
    expect_snapshot(error = TRUE, {
      read_templates("nowhere.fits")
      read_templates("cut.fits")
      read_templates("table.fits")
      read_templates("text.fits")
      read_templates("absent.fits")
      read_templates(1)
    })
  })
})

test_that("Redrock's templates make galaxies", {
  skip_without_cfitsio()
  templates <- read_templates(data_dir("templates", "rrtemplate-galaxy.fits"))
  expect_equal(dim(templates$flux), c(5, 88334))
  expect_equal(dim(templates$coefficients), c(750, 5))
  x <- simulate_spectra(20, templates = templates, defects = FALSE, seed = 1)
  expect_false(anyNA(x$norm))
  expect_equal(mean((x$flux - x$truth$flux)^2 * x$ivar), 1, tolerance = 0.03)
})
