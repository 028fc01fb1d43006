test_that("the known grids are those of the surveys", {
  sdss <- instrument("sdss")
  expect_s3_class(sdss, "spender_instrument")
  expect_length(sdss$wave, 3921)
  expect_equal(sdss$wave, 10^(3.578 + 1e-4 * 0:3920), tolerance = 1e-7)
  expect_equal(sdss$name, "SDSS")
  boss <- instrument("boss")
  expect_equal(range(boss$wave), 10^c(3.55, 4.0169), tolerance = 1e-7)
  expect_equal(log10(boss$wave[281]), log10(sdss$wave[1]), tolerance = 1e-7)
})

test_that("wavelengths are stored in single precision", {
  wave <- c(4000.1, 4000.2, 4000.3)
  x <- instrument(wave)$wave
  expect_false(identical(x, wave))
  expect_equal(x, wave, tolerance = 1e-7)
  expect_identical(instrument(x)$wave, x)
})

test_that("an instrument is taken as it is and can be renamed", {
  x <- instrument(c(1, 2), name = "a")
  expect_identical(instrument(x), x)
  expect_equal(instrument(x, name = "b")$name, "b")
})

test_that("printing says name, pixels and range", {
  local_reproducible_output()
  expect_snapshot({
    instrument("sdss")
    instrument(seq(4000, 7000, by = 2), name = "mine")
  })
})

test_that("bad grids are refused", {
  expect_snapshot(error = TRUE, {
    instrument("hubble")
    instrument(c("sdss", "boss"))
    instrument(NULL)
    instrument(4000)
    instrument(c(4000, NA, Inf))
    instrument(c(-1, 2))
    instrument(c(4000, 4001, 4001))
    instrument(c(4000, 4000 + 1e-5))
    instrument(c(4001, 4000))
    instrument("sdss", name = 3)
  })
  expect_error(instrument("hubble"), class = "spender_error_instrument")
  expect_error(instrument(c(1, 1)), class = "spender_error_instrument")
})
