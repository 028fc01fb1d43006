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
  expect_error(mask_reasons(small_spectra(2)), "not read from files of SDSS or DESI", class = "spender_error_invalid")
  unlink(path)
  expect_error(mask_reasons(x), "no file", class = "spender_error_files")
})

test_that("reasons are those of or_mask if the spectra were read by it", {
  skip_without_cfitsio()
  mask <- rep(0L, 3800)
  mask[2000] <- 2^25
  path <- file.path(withr::local_tempdir(), "spec-0266-51602-0013.fits")
  write_sdss(path, coadd = list(or_mask = list(type = "J", values = mask)))
  x <- read_sdss(path, mask_sky = FALSE, mask = "or")
  reasons <- mask_reasons(x)
  expect_identical(reasons$pixel[reasons$reason == "COMBINEREJ"], 2020L)
  expect_identical(unique(reasons$reason), c("not in the file", "COMBINEREJ"))
  survey <- write_survey(path, withr::local_tempfile(fileext = ".fits"), mask_sky = FALSE, mask = "or")
  expect_identical(mask_reasons(survey), reasons)
  expect_error(write_survey(path, survey$files$path, mask_sky = FALSE), "not the same mask", class = "spender_error_exists")
})

test_that("each masked pixel of DESI has the first reason that is true", {
  skip_without_cfitsio()
  mask <- list(B = matrix(0, 4, 300), R = matrix(0, 4, 320), Z = matrix(0, 4, 210)) # arms begin at pixels 1, 281, 591
  mask$B[1, c(10, 281)] <- c(2^2, 1)
  mask$R[1, 1] <- 2^2 # the 281st: both arms are bad; the 282nd: one is
  mask$B[1, 282] <- 1
  mask$R[2, 100] <- 2^10 + 2^12
  mask$B[3, 20] <- 2^9
  mask$Z[4, 5] <- 2^31
  planes <- function(arm, plane) {
    if (plane == "MASK") return(mask[[arm]])
    value <- matrix(if (plane == "FLUX") 2 else 4, 4, ncol(mask[[arm]]))
    if (arm == "R" && plane == "FLUX") value[1, 50] <- NaN
    if (arm == "R" && plane == "IVAR") value[1, 51] <- 0
    value
  }
  # the third and fourth rows are one target; of the second no arm has the last pixels
  folder <- withr::local_tempdir()
  path <- write_desi(file.path(folder, "spectra-sv3-bright-1.fits"), ids = c("11", "-5", "39627866878511337", "39627866878511337"),
                     pixels = planes, mask = list(packed = TRUE, zero = 2^31))
  grid <- instrument(instrument("desi")$wave[2101:2920], "a part of DESI")
  x <- read_desi(path, grid, mask_sky = FALSE, progress = FALSE)
  reasons <- mask_reasons(x)
  expect_identical(reasons$pixel, unlist(lapply(1:3, function(i) which(x$ivar[i, ] == 0))))
  expect_identical(reasons$wave, grid$wave[reasons$pixel])
  there <- reasons[reasons$reason != "not in the file", ]
  expect_identical(there$id, c(rep("11", 4), "-5"))
  expect_identical(there$pixel, c(10L, 281L, 330L, 331L, 380L))
  expect_identical(there$reason, c("COSMIC", "SOMEBADPIX|COSMIC", "not finite", "no weight", "BADCOLUMN|BIT12"))
  expect_identical(reasons$pixel[reasons$reason == "not in the file"], rep(801:820, 3))
  # where both exposures are bad
  mask$B[4, 20] <- 2^2
  write_desi(path, ids = c("11", "-5", "39627866878511337", "39627866878511337"), pixels = planes, mask = list(packed = TRUE, zero = 2^31))
  both <- mask_reasons(read_desi(path, grid, mask_sky = FALSE, progress = FALSE)[3])
  expect_identical(both$reason[both$pixel == 20], "COSMIC|BADFIBER")
  sky <- mask_reasons(read_desi(path, grid, mask_sky = 5500, progress = FALSE)[3])
  expect_true(all(abs(sky$wave[sky$reason == "sky line"] - 5500) <= 5))
  expect_identical(sum(sky$reason == "sky line"), 13L)
  survey <- write_survey(path, file.path(folder, "survey.fits"), grid, mask_sky = FALSE, progress = FALSE)
  expect_identical(mask_reasons(survey[3]), both)
  expect_identical(dim(mask_reasons(x[0])), c(0L, 4L))
  write_desi(path, ids = "11")
  expect_error(mask_reasons(x), "has no target -5 any more", class = "spender_error_format")
})

test_that("real files of DESI: bits are those that astropy reads", {
  path <- data_dir("desi", "coadd-sv3-dark-26065.fits")
  ids <- c("-2713437", "-2713415", "39627866878511337", "616088619186127404", "39627866878514741")
  x <- read_desi(path, mask_sky = FALSE, redshifts = data.frame(targetid = ids, z = 0.1), progress = FALSE)
  reasons <- mask_reasons(x)
  expect_identical(nrow(reasons), sum(x$ivar == 0))
  ours <- reference("desi", path)
  pixels <- aperm(array(ours$pixels, c(7781, 2, 5)), c(3, 1, 2))
  bits <- matrix(ours$bits, 5, byrow = TRUE)
  row <- match(reasons$id, ours$id)
  expected <- bits[cbind(row, reasons$pixel)]
  expect_gt(sum(expected == 1), 0)
  expect_identical(reasons$reason, ifelse(expected == 0, "no weight", mask_names(expected, desi_bits)))
  expect_true(all(pixels[cbind(row, reasons$pixel, 2)] <= 1e-6))
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
