sample_with <- function(meta, z = 0.1, ivar = 4) {
  wave <- toy_grid()$wave
  n <- nrow(meta)
  spectra(matrix(1, n, length(wave)), matrix(ivar, n, length(wave)), rep_len(z, n), toy_grid(), meta = meta, mask_sky = FALSE)
}

test_that("each cut removes what it should, and counts", {
  meta <- data.frame(class = "GALAXY", z_err = 2e-5, zwarning = 0L, plate_quality = "good")[rep(1, 9), ]
  meta$class[2] <- "STAR"
  meta$z_err[4:6] <- c(1e-4, 0, NA)
  meta$zwarning[7] <- 4L
  meta$plate_quality[8] <- "bad"
  z <- rep(0.1, 9)
  z[3] <- 0.51
  ivar <- replace(rep(4, 9), 9, 0)
  x <- sample_with(meta, z, ivar)
  expect_message(chosen <- select_galaxies(x), "Selected 1 of 9")
  expect_equal(chosen$id, "1")
  expect_equal(attr(chosen, "selection"),
               data.frame(cut = c("class", "z", "z_err", "zwarning", "plate_quality", "norm"), removed = c(1L, 1L, 3L, 1L, 1L, 1L),
                          left = c(8L, 7L, 4L, 3L, 2L, 1L)))
  expect_snapshot(invisible(select_galaxies(x, z_max = 1, z_err_max = Inf)))
})

test_that("a cut whose column is absent is skipped, and said", {
  expect_snapshot(chosen <- select_galaxies(toy_spectra(4)))
  expect_equal(chosen$id, c("a", "c"))
  expect_equal(attr(chosen, "selection")$removed, c(2L, 0L, NA, NA, NA, 0L))
  expect_null(attr(chosen[1], "selection"))
})

test_that("redshifts below zero are legitimate, and no spectra are fine", {
  x <- sample_with(data.frame(class = rep("GALAXY", 2)), z = c(-0.001, 0.3))
  expect_length(suppressMessages(select_galaxies(x, z_max = 0.3)), 2)
  expect_length(suppressMessages(select_galaxies(x[0])), 0)
})

test_that("bad arguments are refused", {
  expect_snapshot(error = TRUE, {
    select_galaxies(1)
    select_galaxies(toy_spectra(), z_max = NA_real_)
    select_galaxies(toy_spectra(), z_err_max = "small")
  })
})

catalogue_file <- function(env = parent.frame()) {
  path <- withr::local_tempfile(fileext = ".fits", .local_envir = env)
  n <- 8
  columns <- list(
    PLATE = list(type = "J", values = 266 + 1:n), MJD = list(type = "J", values = rep(51602, n)), FIBERID = list(type = "J", values = 1:n),
    RUN2D = list(type = "8A", values = rep(c("26", "v5_13_0"), 4)), CLASS = list(type = "6A",
                                                                                 values = rep(c("GALAXY", "STAR", "GALAXY", "GALAXY"), 2)),
    Z = list(type = "E", values = c(0.1, 0, 0.7, 0.2, 0.3, 0.1, 0.1, 0.1)), Z_ERR = list(type = "E",
                                                                                         values = c(1e-5, 1e-5, 1e-5, 1e-3, 1e-5, 1e-5,
                                                                                                    1e-5, 1e-5)),
    ZWARNING = list(type = "J", values = c(rep(0, 6), 4, 0)), PLATEQUALITY = list(type = "8A",
                                                                                  values = c(rep("good", 4), "bad", rep("good", 3))),
    SPECPRIMARY = list(type = "J", values = c(rep(1, 7), 0))
  )
  bytes <- c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), fits_table(columns))
  writeBin(bytes, path)
  path
}

test_that("a catalogue is read by column, and cut", {
  skip_without_cfitsio()
  path <- catalogue_file()
  catalogue <- read_catalogue(path)
  expect_identical(names(catalogue), c("plate", "mjd", "fiber", "run2d", "class", "z", "z_err", "zwarning", "plate_quality", "specprimary"))
  expect_identical(catalogue$run2d, rep(c("26", "v5_13_0"), 4))
  expect_equal(catalogue$plate, 267:274)
  expect_equal(catalogue$z[3], 0.7, tolerance = 1e-6)
  expect_identical(names(read_catalogue(path, c("z", "nothing"))), "z")
  expect_message(chosen <- select_galaxies(path), "Selected 1 of 8")
  expect_identical(chosen$fiber, 1)
  selection <- attr(chosen, "selection")
  expect_identical(selection$cut, c("class", "z", "z_err", "zwarning", "plate_quality", "specprimary"))
  expect_identical(selection$removed, c(2L, 1L, 1L, 1L, 1L, 1L))
  expect_error(read_catalogue(path, "nothing"), class = "spender_error_format")
  expect_error(read_catalogue(path, hdu = 2), class = "spender_error_format")
  expect_error(read_catalogue(tempfile()), class = "spender_error_io")
})

test_that("a survey is cut without being read", {
  x <- toy_spectra(4)
  x$meta$z_err <- c(1e-5, 1e-5, 1, 1e-5)
  survey <- write_survey(x, withr::local_tempfile())
  expect_message(chosen <- select_galaxies(survey, z_max = 0.09), "Selected 1 of 4")
  expect_s3_class(chosen, "survey")
  expect_identical(as_spectra(chosen)$id, "a")
})

test_that("a NaN in a catalogue is a missing value, which fails its cut", {
  skip_without_cfitsio()
  n <- 12
  z_err <- rep(1e-5, n)
  z_err[5] <- NaN
  columns <- list(
    PLATE = list(type = "J", values = rep(266, n)), MJD = list(type = "J", values = rep(51602, n)), FIBERID = list(type = "J",
                                                                                                                   values = seq_len(n)),
    CLASS = list(type = "6A", values = rep("GALAXY", n)), Z = list(type = "E", values = seq_len(n) / 100), Z_ERR = list(type = "E",
                                                                                                                        values = z_err),
    ZWARNING = list(type = "J", values = rep(0, n)), RA = list(type = "D", values = c(NaN, rep(Inf, n - 1)))
  )
  path <- withr::local_tempfile(fileext = ".fits")
  writeBin(c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), fits_table(columns)), path)
  catalogue <- read_catalogue(path, c("z_err", "ra", "z"))
  expect_equal(is.na(catalogue$z_err), seq_len(n) == 5)
  expect_identical(catalogue$ra, c(NA, rep(Inf, n - 1))) # infinities are what they are
  expect_message(chosen <- select_galaxies(path), "11 of 12")
  expect_equal(nrow(chosen), 11)
})

test_that("catalogues of SDSS-V and DESI have the usual names, are gzipped, and are cut", {
  skip_without_cfitsio()
  number <- function(values, type = "D") list(type = type, values = values)
  catalogue <- function(columns, ...) {
    path <- withr::local_tempfile(fileext = ".fits.gz", .local_envir = parent.frame())
    writeBin(gzipped(c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), fits_table(columns, ...))), path)
    path
  }
  path <- catalogue(list(FIELD = number(c(15170, 15170), "J"), MJD = number(c(59255, 59255), "J"),
                         CATALOGID = number(c("27021598108289694", "4544940698"), "K"), SDSS_ID = number(c("1", "2"), "K"),
                         FIELDQUALITY = number(c("good", "bad"), "4A"), CLASS = number(c("GALAXY", "GALAXY"), "6A"),
                         Z = number(c(0.1, 0.2)), Z_ERR = number(c(1e-5, 1e-5)), ZWARNING = number(c(0, 0), "J"),
                         PLUG_RA = number(c(1, 2)), PLUG_DEC = number(c(-1, -2)), RA = number(c(3, 4))))
  read <- read_catalogue(path)
  expect_identical(read$catalogid, c("27021598108289694", "4544940698"))
  expect_identical(read$ra, c(1, 2))
  expect_identical(read$dec, c(-1, -2))
  expect_identical(names(read_catalogue(path, c("PLUG_RA", "RA", "PLUG_DEC"))), c("plug_ra", "ra", "dec"))
  expect_message(select_galaxies(read), "Selected 1 of 2")
  n <- 5
  path <- catalogue(list(TARGETID = number(as.character(1:n), "K"), SURVEY = number(c("main", "sv3", "main", "main", "main"), "7A"),
                         SPECTYPE = number(rep("GALAXY", n), "6A"), Z = number(c(0.1, 0.2, 0.7, 0.3, 0.3)),
                         ZERR = number(c(1e-5, 1e-5, 6e-4, 7e-4, 1e-5)), ZWARN = number(rep("0", n), "K"), DELTACHI2 = number(rep(50, n)),
                         COADD_FIBERSTATUS = number(rep(0, n), "J"), ZCAT_PRIMARY = number(c(TRUE, TRUE, TRUE, TRUE, FALSE), "L"),
                         DESI_TARGET = number(c("4", "0", "4", "4", "4"), "K"), SV3_DESI_TARGET = number(c("0", "8", "0", "0", "0"), "K"),
                         BGS_TARGET = number(c("2", "0", "2", "2", "2"), "K"), TARGET_RA = number(1:n), TARGET_DEC = number(-(1:n))),
                    EXTNAME = "ZCATALOG")
  read <- read_catalogue(path, hdu = "zcatalog")
  expect_setequal(names(read), c("targetid", "survey", "class", "z", "z_err", "zwarning", "deltachi2", "fiberstatus", "specprimary",
                                 "desi_target", "bgs_target", "ra", "dec"))
  expect_identical(read$desi_target, c("4", "8", "4", "4", "4"))
  expect_identical(read$bgs_target, c("2", NA, "2", "2", "2"))
  expect_message(chosen <- select_galaxies(read), "Selected 3 of 5")
  expect_identical(chosen$targetid, c("1", "2", "3"))
  expect_identical(attr(chosen, "dropped"), data.frame(row = 4:5, cut = c("z_err", "specprimary")))
  expect_message(select_galaxies(read[setdiff(names(read), "bgs_target")]), "Selected 4 of 5") # who can tell which have safer redshifts
  expect_message(select_galaxies(read[c("targetid", "class")]), "Not in the catalogue")
  expect_error(read_catalogue(path, hdu = "REDSHIFTS"), "has no HDU REDSHIFTS", class = "spender_error_format")
})
