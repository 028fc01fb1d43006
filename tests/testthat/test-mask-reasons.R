test_that("each masked pixel of an SDSS file has the first reason that is true", {
  skip_without_cfitsio()
  folder <- withr::local_tempdir()
  path <- file.path(folder, "spec-0266-51602-0013.fits")
  n <- 3700
  flux <- rep(2, n)
  ivar <- rep(4, n)
  mask <- rep(0L, n)
  mask[c(100, 200)] <- c(2^23 + 2^27, 2^13)
  ivar[c(200, 300)] <- 0
  flux[400] <- NaN
  write_sdss(path, n = n, flux = flux, ivar = ivar, coadd = list(and_mask = list(type = "J", values = mask)))
  x <- read_sdss(path)
  reasons <- mask_reasons(x)
  expect_identical(reasons$pixel, which(x$ivar[1, ] == 0))
  expect_identical(reasons$wave, x$instrument$wave[reasons$pixel])
  expect_identical(unique(reasons$id), x$id)
  shift <- 20 # the file begins at 3.58, the grid at 3.578
  reason <- function(pixel) reasons$reason[reasons$pixel == pixel + shift]
  expect_identical(reason(100), "BRIGHTSKY|BADSKYCHI")
  expect_identical(reason(200), "BIT13")
  expect_identical(reason(300), "no weight")
  expect_identical(reason(400), "not finite")
  outside <- reasons$pixel <= shift | reasons$pixel > shift + n
  expect_identical(outside, reasons$reason == "not in the file")
  sky <- reasons$wave[reasons$reason == "sky line"]
  near <- vapply(sky, function(wave) min(abs(wave - sky_lines()$wave)), 0)
  expect_gt(length(sky), 100)
  expect_lt(max(near), 5)

  unmasked <- mask_reasons(read_sdss(path, mask_sky = FALSE))
  expect_false("sky line" %in% unmasked$reason)
  survey <- write_survey(path, file.path(folder, "survey.fits"))
  expect_equal(mask_reasons(survey), reasons)
  expect_identical(dim(mask_reasons(x[0])), c(0L, 4L))
  expect_error(mask_reasons(small_spectra(2)), "not read from files of SDSS", class = "spender_error_invalid")
  unlink(path)
  expect_error(mask_reasons(x), "no file", class = "spender_error_files")
})

test_that("real spectra: every masked pixel has a reason, and sky lines are near those that are masked", {
  skip_without_cfitsio()
  files <- utils::head(list.files(data_dir("sdss", "galaxy"), "\\.fits$", full.names = TRUE), 3)
  x <- read_sdss(files)
  reasons <- mask_reasons(x)
  expect_identical(nrow(reasons), sum(x$ivar == 0))
  expect_false(anyNA(reasons$reason))
  sky <- unique(reasons$wave[reasons$reason == "sky line"])
  expect_lt(max(vapply(sky, function(wave) min(abs(wave - sky_lines()$wave)), 0)), 5)
  expect_match(paste(unique(reasons$reason), collapse = " "), "BRIGHTSKY|BADSKYCHI|NOSKY|NODATA|FULLREJECT")
})
