skip_without_cfitsio()

local_file <- function(..., name = "spec-0266-51602-0013.fits", env = parent.frame()) {
  dir <- withr::local_tempdir(.local_envir = env)
  write_sdss(file.path(dir, name), ...)
}

reason <- function(path) suppressWarnings(problems(read_sdss(path))$reason)

test_that("a file becomes one prepared spectrum", {
  set.seed(1)
  n <- 3800
  flux <- as.vector(readBin(writeBin(runif(n, 1, 3), raw(), size = 4), "double", n, size = 4))
  mask <- integer(n)
  mask[c(10, 2000)] <- c(1L, -2147483647L)
  ivar <- rep(4, n)
  ivar[c(20, 30, 40)] <- c(1e-6, NaN, -1)
  flux_file <- replace(flux, 50, NaN)
  path <- local_file(first = 3.58, n = n, ivar = ivar, coadd = list(flux = list(type = "E", values = flux_file),
                                                                    and_mask = list(type = "J", values = mask)))
  x <- read_sdss(path, mask_sky = FALSE)
  expect_s3_class(x, "spectra")
  expect_equal(dim(x), c(1, 3921))
  place <- 20 + seq_len(n)
  good <- replace(rep(TRUE, n), c(10, 2000, 20, 30, 40, 50), FALSE)
  wave <- instrument("sdss")$wave
  norm <- median(flux[good & wave[place] / 1.125 >= 5300 & wave[place] / 1.125 <= 5850])
  expect_equal(x$norm, norm)
  expected <- numeric(3921)
  expected[place] <- replace(flux, c(30, 50), 0) / norm
  expect_equal(as.vector(x$flux), expected)
  expected[] <- 0
  expected[place] <- ifelse(good, 4 * norm^2, 0)
  expect_equal(as.vector(x$ivar), expected)
  expect_equal(x$z, 0.125)
  expect_equal(x$id, "0266-51602-0013")
  expect_equal(x$meta, data.frame(file = path, plate = 266L, mjd = 51602L, fiber = 13L, class = "GALAXY", subclass = NA_character_,
                                  z_err = 2e-5, zwarning = 0L, sn_median = 4, plate_quality = "good", instrument = "SDSS",
                                  ra = NA_real_, dec = NA_real_), tolerance = 1e-6)
  expect_equal(nrow(problems(x)), 0)
  lines <- sky_lines()$wave
  sky <- vapply(wave, function(w) any(abs(w - lines) <= 5), NA)
  expect_equal(read_sdss(path)$ivar[1, ] > 0, x$ivar[1, ] > 0 & !sky)
})

test_that("both ends are cropped, and the BOSS grid takes what the SDSS grid cannot", {
  path <- local_file(first = 3.5520, n = 4640, flux = seq_len(4640))
  x <- read_sdss(path, mask_sky = FALSE)
  expect_equal(as.vector(x$flux * x$norm), 260 + 1:3921)
  x <- read_sdss(path, "boss", mask_sky = FALSE)
  expect_equal(as.vector(x$flux * x$norm), c(rep(0, 20), 1:4640, rep(0, 10)))
  part <- instrument(instrument("sdss")$wave[1001:2500])
  expect_equal(as.vector((function(x) x$flux * x$norm)(read_sdss(path, part, mask_sky = FALSE))), 1260 + 1:1500)
  # within the float32 noise of loglam, each pixel on its own place
  noisy <- local_file(first = 3.5520 + 3e-5, n = 4640, flux = seq_len(4640))
  expect_equal(as.vector((function(x) x$flux * x$norm)(read_sdss(noisy, mask_sky = FALSE))), 260 + 1:3921)
})

test_that("a spectrum off the grid stays as a row without norm", {
  x <- read_sdss(local_file(first = 4.2, n = 100))
  expect_length(x, 1)
  expect_true(is.na(x$norm))
  expect_equal(problems(x)$row, 1L)
  expect_equal(sum(abs(x$flux)), 0)
})

test_that("valid, but nothing in the window: no norm", {
  loglam <- 3.58 + 1e-4 * 0:3799
  ivar <- ifelse(10^loglam / 1.125 > 5290 & 10^loglam / 1.125 < 5860, 0, 4)
  x <- read_sdss(local_file(ivar = ivar))
  expect_true(is.na(x$norm))
  expect_gt(sum(x$ivar), 0)
  expect_match(problems(x)$reason, "no valid pixel in the window 5300-5850")
})

test_that("what a catalogue lacks is NA, and the id comes from the file's name", {
  absent <- list(PLATE = NULL, CLASS = NULL, ZWARNING = NULL, SN_MEDIAN_ALL = NULL, Z_ERR = NULL, INSTRUMENT = NULL, PLATEQUALITY = NULL)
  x <- read_sdss(local_file(object = absent, name = "spec-1234-56789-0001.fits"))
  expect_equal(x$id, "1234-56789-0001")
  expect_true(is.na(x$meta$plate) && is.na(x$meta$class) && is.na(x$meta$sn_median) && is.na(x$meta$instrument))
  x <- read_sdss(local_file(object = c(absent, list(SN_MEDIAN = list(type = "E", values = 7))), primary = list(RUN2D = "v5_9_0"),
                            name = "My Object.FITS"))
  expect_equal(x$id, "My Object")
  expect_equal(x$meta$sn_median, 7)
  expect_equal(x$meta$instrument, "BOSS")
})

test_that("columns may be in upper case, in double precision and in any order", {
  n <- 3800
  upper <- list(flux = NULL, ivar = NULL, FLUX = list(type = "D", values = rep(3, n)), IVAR = list(type = "E", values = rep(2, n)))
  x <- read_sdss(local_file(coadd = upper))
  expect_equal(x$norm, 3)
})

test_that("names with brackets, spaces and other letters are just names", {
  for (name in c("a[1].fits", "b (2)+3.fits", if (l10n_info()[["UTF-8"]]) "\u00e9toile.fits")) {
    expect_length(read_sdss(local_file(name = name)), 1)
  }
})

test_that("each kind of bad file is a row in problems() that says why", {
  dir <- withr::local_tempdir()
  at <- function(name) file.path(dir, name)
  n <- 3800
  real <- function(values) list(type = "E", values = values)
  file.create(at("01-empty.fits"))
  writeLines("hello, I am not a FITS file, but I am long enough to be one", at("02-text.fits"))
  writeBin(as.raw(sample(0:255, 5000, TRUE)), at("03-noise.fits"))
  writeLines("SIMPLE  =", at("04-short.fits"))
  write_sdss(at("05-no-hdu1.fits"), hdus = 0)
  write_sdss(at("06-no-hdu2.fits"), hdus = 1)
  write_sdss(at("07-no-flux.fits"), coadd = list(flux = NULL))
  write_sdss(at("08-no-ivar.fits"), coadd = list(ivar = NULL))
  write_sdss(at("09-no-loglam.fits"), coadd = list(loglam = NULL))
  write_sdss(at("10-no-mask.fits"), coadd = list(and_mask = NULL))
  write_sdss(at("11-no-z.fits"), object = list(Z = NULL))
  write_sdss(at("12-z-nan.fits"), object = list(Z = real(NaN)))
  write_sdss(at("13-z-text.fits"), object = list(Z = list(type = "4A", values = "0.12")))
  write_sdss(at("14-flux-text.fits"), coadd = list(flux = list(type = "2A", values = rep("1", n))))
  write_sdss(at("15-two-objects.fits"), object = lapply(
    list(PLATE = "J", MJD = "J", FIBERID = "J", CLASS = "6A", SUBCLASS = "21A", Z = "E", Z_ERR = "E", ZWARNING = "J", SN_MEDIAN_ALL = "E",
         PLATEQUALITY = "8A", INSTRUMENT = "4A"), function(type) list(type = type, values = c("1", "2"))))
  write_sdss(at("16-one-pixel.fits"), n = 1)
  write_sdss(at("17-no-pixels.fits"), n = 0, coadd_cards = list(NAXIS1 = 16))
  write_sdss(at("18-absurd.fits"), coadd_cards = list(NAXIS2 = 2000000000))
  write_sdss(at("19-more-than-there-is.fits"), coadd_cards = list(NAXIS2 = 16000), hdus = 1)
  write_sdss(at("20-step.fits"), coadd = list(loglam = real(3.58 + 2e-4 * (seq_len(n) - 1))))
  write_sdss(at("21-loglam-jump.fits"), coadd = list(loglam = real(3.58 + 1e-4 * (seq_len(n) - 1) + (seq_len(n) > 100) * 1e-3)))
  write_sdss(at("22-image.fits"), coadd_cards = list(XTENSION = "IMAGE"))
  write_sdss(at("23-wide.fits"), coadd_cards = list(TFORM1 = "2E"))
  write_sdss(at("24-long-class.fits"), object = list(CLASS = list(type = "200A", values = "GALAXY")))
  write_sdss(at("25-z-minus.fits"), object = list(Z = real(-1)))
  write_sdss(at("26-fields.fits"), coadd_cards = list(TFIELDS = 100000))
  con <- gzfile(at("27-packed.fits"), "wb")
  writeBin(readBin(at("25-z-minus.fits"), raw(), 1e6), con)
  close(con)
  writeBin(utils::head(readBin(at("27-packed.fits"), raw(), 1e6), -200), at("27-packed.fits"))
  write_sdss(at("28-image-first.fits"), primary = list(NAXIS = 2))
  writeBin(replace(readBin(at("25-z-minus.fits"), raw(), 1e6), 2880 + 4 * 80 + 20, as.raw(7)), at("29-naxis2.fits"))
  files <- c(list.files(dir, full.names = TRUE), at("30-missing.fits"))
  good <- at("good.fits")
  write_sdss(good)

  expect_warning(x <- read_sdss(c(files[1:9], good, files[-(1:9)])), class = "spender_warning_files")
  expect_length(x, 1)
  expect_equal(x$meta$file, good)
  expect_equal(problems(x)$file, files)
  expect_true(all(is.na(problems(x)$row)))
  local_reproducible_output()
  expect_snapshot(cat(problems(x)$reason, sep = "\n"))
  expect_equal(nrow(problems(x[1])), length(files))
  expect_equal(nrow(problems(c(x, x))), 2 * length(files))
  expect_snapshot(x)
})

test_that("if nothing can be read, no spectra and a warning come back", {
  path <- withr::local_tempfile(fileext = ".fits")
  file.create(path)
  expect_warning(x <- read_sdss(path), class = "spender_warning_files")
  expect_length(x, 0)
  expect_equal(dim(x), c(0, 3921))
  expect_equal(nrow(problems(x)), 1)
  expect_output(print(x), "0 spectra")
  expect_length(read_sdss(character()), 0)
})

test_that("a file cut anywhere is a problem, unless all that is needed is there", {
  skip_on_cran() # takes seconds
  path <- local_file()
  bytes <- readBin(path, raw(), 1e6)
  cut <- withr::local_tempfile(fileext = ".fits")
  # HDU 2's one row ends here
  needed <- length(bytes) - 2880 + sum(4, 4, 4, 6, 21, 4, 4, 4, 4, 8, 4)
  set.seed(3)
  at <- sort(unique(c(1:10, seq(80, length(bytes) - 1, by = 1440), sample(length(bytes) - 1, 60), needed - 1)))
  whole <- read_sdss(path)
  for (n in at) {
    writeBin(bytes[seq_len(n)], cut)
    x <- suppressWarnings(read_sdss(cut))
    if (length(x)) expect_equal(x$flux, whole$flux) else expect_equal(nrow(problems(x)), 1)
    if (n < length(bytes) - 2880) expect_length(x, 0)
  }
})

test_that("a file with any byte changed never does harm", {
  path <- local_file(n = 400)
  bytes <- readBin(path, raw(), 1e6)
  dir <- withr::local_tempdir()
  set.seed(4)
  header <- c(1:2880, 2881:5760, length(bytes) - 2880 - 2879:0)
  files <- vapply(1:600, function(i) {
    broken <- bytes
    where <- sample(if (i %% 2) header else seq_along(bytes), 3)
    broken[where] <- as.raw(sample(0:255, 3))
    file <- file.path(dir, sprintf("%04d.fits", i))
    writeBin(broken, file)
    file
  }, "")
  x <- suppressWarnings(read_sdss(files))
  expect_equal(length(x) + sum(is.na(problems(x)$row)), 600)
  expect_true(all(is.finite(x$flux)) && all(is.finite(x$ivar)) && all(is.finite(x$z)))
  expect_equal(anyDuplicated(x$id), 0)
})

test_that("order is that of the files, for any number of threads", {
  dir <- withr::local_tempdir()
  files <- vapply(1:40, function(i) write_sdss(file.path(dir, sprintf("%02d.fits", i)), n = 2900, flux = i,
                                               object = list(FIBERID = list(type = "J", values = i))), "")
  file.create(files[c(3, 17)])
  x <- suppressWarnings(read_sdss(rev(files), threads = 1))
  expect_equal(x$meta$fiber, setdiff(40:1, c(3, 17)))
  expect_equal(x$norm, setdiff(40:1, c(3, 17)))
  expect_identical(suppressWarnings(read_sdss(rev(files), threads = 3)), x)
  expect_length(suppressWarnings(read_sdss(dir)), 38)
})

test_that("two files of one object both stay, and it is said", {
  a <- local_file()
  b <- local_file()
  x <- read_sdss(c(a, b))
  expect_equal(x$id, c("0266-51602-0013", "0266-51602-0013.1"))
  expect_equal(problems(x)$row, 2L)
  expect_equal(problems(x)$file, b)
})

test_that("bad arguments are refused", {
  dir <- file.path(withr::local_tempdir(), "nothing")
  dir.create(dir)
  expect_snapshot(error = TRUE, {
    read_sdss(1)
    read_sdss(NA_character_)
    read_sdss("x.fits", instrument = "hubble")
    read_sdss("x.fits", instrument = seq(4000, 5000))
    read_sdss("x.fits", instrument = 10^(3.58005 + 1e-4 * 0:100))
    read_sdss("x.fits", window = 5000)
    read_sdss("x.fits", threads = -1)
    read_sdss("x.fits", progress = NA)
  })
  expect_error(read_sdss(dir), class = "spender_error_files")
  expect_error(read_sdss("x.fits", instrument = 4000:5000), class = "spender_error_grid")
  expect_error(read_sdss("x.fits", instrument = 10^(3.58 + 2e-4 * 0:100)), class = "spender_error_grid")
})

test_that("progress shows and does not change the result", {
  path <- local_file()
  expect_equal(suppressMessages(read_sdss(path, progress = TRUE)), read_sdss(path, progress = FALSE))
})

test_that("real SDSS and BOSS files are read as the manifest says", {
  files <- list.files(data_dir("sdss", "galaxy"), full.names = TRUE)
  x <- read_sdss(files)
  expect_length(x, length(files))
  manifest <- read.csv(data_dir("sdss", "MANIFEST.csv"))
  manifest <- manifest[match(basename(files), basename(manifest$file)), ]
  expect_equal(x$z, manifest$z, tolerance = 1e-6)
  expect_equal(x$meta$z_err, manifest$z_err, tolerance = 1e-6)
  expect_equal(x$meta$plate, manifest$plate)
  expect_equal(x$meta$zwarning, manifest$zwarning)
  expect_equal(x$meta$class, manifest$cls)
  expect_equal(x$meta$sn_median, manifest$sn_median, tolerance = 1e-6)
  expect_equal(x$meta$instrument == "SDSS", manifest$instrument == "SDSS")
  expect_equal(x$id, sub("spec-(.*)\\.fits", "\\1", basename(files)))
  expect_equal(problems(x)$id, "0431-51877-0640")
  expect_equal(which(is.na(x$norm)), problems(x)$row)
  # the manifest's norm was measured without a sky mask
  unmasked <- read_sdss(files, mask_sky = FALSE)
  expect_equal(unmasked$norm, manifest$norm5300_5850, tolerance = 1e-3)
})

test_that("a file's or_mask may be taken instead of its and_mask", {
  n <- 3800
  one <- function(pixel) list(type = "J", values = replace(integer(n), pixel, 2^20))
  path <- local_file(n = n, coadd = list(and_mask = one(5), OR_MASK = one(c(5, 9))))
  masked <- function(...) which(read_sdss(path, mask_sky = FALSE, ...)$ivar[1, 20 + seq_len(n)] == 0)
  expect_identical(masked(), 5L)
  expect_identical(masked(mask = "or"), c(5L, 9L))
  expect_null(read_sdss(path)$meta$mask)
  expect_identical(read_sdss(path, mask = "or")$meta$mask, "or")
  expect_error(read_sdss(path, mask = "xor"), "should be one of")
  expect_match(suppressWarnings(problems(read_sdss(local_file(), mask = "or"))$reason), "no column 'or_mask' in HDU 1")
  survey <- write_survey(path, withr::local_tempfile(fileext = ".fits"), mask_sky = FALSE, mask = "or")
  expect_identical(which(as_spectra(survey)$ivar[1, 20 + seq_len(n)] == 0), c(5L, 9L))
  expect_identical(as_spectra(survey)$meta$mask, "or")
  expect_error(write_survey(path, survey$files$path, mask_sky = FALSE), "not the same mask", class = "spender_error_exists")
  expect_error(write_survey(path, withr::local_tempfile(), "desi", mask = "or"), "those of DESI have one", class = "spender_error_invalid")
})

test_that("both masks of real files are those that astropy reads", {
  skip_on_cran() # takes seconds
  files <- list.files(data_dir("sdss", "galaxy"), full.names = TRUE)
  lost <- vapply(files[c(1, 60, 120)], function(path) {
    ours <- reference("sdss", path)
    both <- lapply(c("and", "or"), function(mask) {
      x <- read_sdss(path, "boss", mask_sky = FALSE, mask = mask)
      expect_sdss_reference(x, ours, mask)
      sum(x$ivar > 0)
    })
    both[[1]] - both[[2]]
  }, 0L)
  expect_true(all(lost > 0))
})

test_that("a real file cut at many places is never more than a problem", {
  path <- list.files(data_dir("sdss", "galaxy"), full.names = TRUE)[1]
  bytes <- readBin(path, raw(), 1e6)
  cut <- withr::local_tempfile(fileext = ".fits")
  whole <- read_sdss(path)
  for (n in round(seq(1, length(bytes) - 1, length.out = 101))) {
    writeBin(bytes[seq_len(n)], cut)
    x <- suppressWarnings(read_sdss(cut))
    if (length(x)) expect_equal(x$flux, whole$flux) else expect_match(problems(x)$reason, "is cut|not a FITS|ends before")
  }
})

test_that("columns of a spectrum are read as what they are", {
  n <- 3800
  read <- function(...) suppressWarnings(read_sdss(local_file(..., env = parent.frame()), mask_sky = FALSE))
  plain <- read(flux = 2, ivar = 4)
  inside <- plain$ivar[1, ] > 0
  scaled <- read(coadd = list(flux = list(type = "I", values = rep(200, n))), coadd_cards = list(TSCAL1 = 0.01))
  expect_equal(scaled$flux, plain$flux, tolerance = 1e-6)
  expect_equal(scaled$norm, 2, tolerance = 1e-6)
  expect_equal(read(coadd = list(ivar = list(type = "J", values = rep(1, n))), coadd_cards = list(TSCAL3 = 3, TZERO3 = 1))$ivar, plain$ivar,
               tolerance = 1e-6)
  expect_equal(read(coadd = list(flux = list(type = "D", values = rep(2, n)),
                                 loglam = list(type = "D", values = 3.58 + 1e-4 * (seq_len(n) - 1))))$flux, plain$flux)
  missing <- read(coadd = list(flux = list(type = "I", values = replace(rep(2, n), 11:20, -1))), coadd_cards = list(TNULL1 = -1))
  expect_equal(which(inside)[!missing$ivar[1, inside] > 0], which(inside)[11:20])
  # masks: whatever their type, a bit is a bit
  masked <- function(mask, ...) {
    x <- read(coadd = list(and_mask = mask), ...)
    which(inside)[!x$ivar[1, inside] > 0] - which(inside)[1] + 1
  }
  expect_equal(masked(list(type = "I", values = replace(integer(n), 5, -32768))), 5)
  expect_equal(masked(list(type = "J", values = replace(rep(NA, n), 7, -2147483647)), coadd_cards = list(TZERO4 = 2147483648)), 7)
  expect_equal(masked(list(type = "K", values = replace(rep("0", n), c(3, 9), c("4294967296", "9223372036854775808")))), c(3, 9))
  expect_equal(masked(list(type = "K", values = replace(rep("9223372036854775808", n), 2, "9223372036854775809")),
                      coadd_cards = list(TZERO4 = 9223372036854775808)), 2)
  expect_equal(masked(list(type = "J", values = replace(integer(n), 4, -9)), coadd_cards = list(TNULL4 = -9)), 4)
})

test_that("positions are the fibre's, or else the object's", {
  position <- function(...) {
    columns <- lapply(c(...), function(value) list(type = "D", values = value))
    unlist(read_sdss(local_file(object = columns, env = parent.frame()))$meta[c("ra", "dec")], use.names = FALSE)
  }
  expect_identical(position(PLUG_RA = 1, PLUG_DEC = -2, RA = 3, DEC = 4), c(1, -2))
  expect_identical(position(RA = 3, DEC = 4), c(3, 4))
  expect_identical(position(plug_ra = 1, PLUG_DEC = NaN, dec = 4), c(1, 4))
})

test_that("files are read as each data release has them", {
  n <- 3800
  upper <- setNames(lapply(c("E", "E", "E", "J"), function(type) list(type = type, values = rep(0, n))),
                    c("FLUX", "LOGLAM", "IVAR", "AND_MASK"))
  upper$FLUX$values <- rep(2, n)
  upper$IVAR$values <- rep(4, n)
  upper$LOGLAM$values <- 3.58 + 1e-4 * (seq_len(n) - 1)
  upper$WRESL <- upper$FLUX # of DR18
  lower <- list(flux = NULL, loglam = NULL, ivar = NULL, and_mask = NULL)
  field <- list(PLATE = NULL, FIBERID = NULL, PLATEQUALITY = NULL, FIELDQUALITY = list(type = "4A", values = "good"),
                FIELD = list(type = "J", values = 15170), MJD = list(type = "J", values = 59255),
                CATALOGID = list(type = "K", values = "4544940698"))
  id <- function(...) read_sdss(local_file(..., env = parent.frame()))$id
  expect_identical(id(object = list(PLATE = list(type = "J", values = 10000)), coadd_cards = list(EXTNAME = "COADD")), "10000-51602-0013")
  expect_identical(id(coadd = c(lower, upper)), "0266-51602-0013")
  expect_identical(id(coadd = c(lower, upper), object = field, object_cards = list(EXTNAME = "SPALL")), "015170-59255-04544940698")
  # of a redshift there are many in a later table, ZALL
  path <- local_file(coadd = c(lower, upper), object = field)
  writeBin(c(bytes_of(path), fits_table(list(Z = list(type = "E", values = c(1, 2, 3))), EXTNAME = "ZALL")), path)
  expect_equal(read_sdss(path)$z, 0.125)
})

test_that("SDSS-V's files are read and selected by what they have", {
  folder <- withr::local_tempdir()
  object <- function(id, ...) {
    utils::modifyList(list(PLATE = NULL, FIBERID = NULL, PLATEQUALITY = NULL, INSTRUMENT = NULL, FIELD = list(type = "J", values = 17057),
                           MJD = list(type = "J", values = 59631),
                           CATALOGID = list(type = "K", values = id), FIELDQUALITY = list(type = "4A", values = "good")), list(...))
  }
  ids <- c("27021598108289694", "27021598108289695", "63050394846126565")
  for (id in ids) write_sdss(file.path(folder, paste0("spec-017057-59631-", id, ".fits")), object = object(id),
                             primary = list(RUN2D = "v6_1_3"))
  write_sdss(file.path(folder, "flags.fits"), object = object("7", ZWARNING = list(type = "K", values = "4294967296")))
  write_sdss(file.path(folder, "no-plate.fits"), object = object("8", PLATE = list(type = "J", values = -999),
                                                                 FIBERID = list(type = "J", values = -999)))
  con <- gzfile(file.path(folder, "packed.fits.gz"), "wb")
  write_sdss(file.path(folder, "unpacked"), object = object("9", SDSS_ID = list(type = "K", values = "54392544")))
  writeBin(readBin(file.path(folder, "unpacked"), raw(), 1e7), con)
  close(con)
  x <- read_sdss(folder, instrument = "boss", progress = FALSE)
  expect_setequal(x$id, c(paste0("017057-59631-", c(ids, paste0("0000000000", 7:9)))))
  expect_identical(nrow(problems(x)), 0L)
  expect_true(all(is.na(x$meta$plate)))
  expect_setequal(x$meta$catalogid, c(ids, "7", "8", "9"))
  expect_identical(x$meta$sdss_id[x$meta$catalogid == "9"], "54392544")
  expect_identical(x$meta$zwarning[x$meta$catalogid == "7"], 4294967296)
  expect_message(chosen <- select_galaxies(x), "5 of 6")
  expect_false("017057-59631-00000000007" %in% chosen$id)
  path <- withr::local_tempfile(fileext = ".fits")
  expect_setequal(as_spectra(write_survey(folder, path, instrument = "boss", progress = FALSE))$meta$catalogid, c(ids, "7", "8", "9"))
})

test_that("wdisp is the spectra's resolution", {
  dir <- withr::local_tempdir()
  wdisp <- function(values) list(wdisp = list(type = "E", values = values))
  given <- 1 + 0.2 * sin(seq_len(3800) / 7)
  given[c(1:3, 100:101)] <- 0
  write_sdss(file.path(dir, "a.fits"), coadd = wdisp(given))
  write_sdss(file.path(dir, "b.fits"), coadd = wdisp(rep(0.9, 3800)))
  write_sdss(file.path(dir, "c.fits"))
  write_sdss(file.path(dir, "d.fits"), coadd = wdisp(numeric(3800)))
  x <- suppressWarnings(read_sdss(file.path(dir, c("a.fits", "b.fits", "c.fits", "d.fits")), progress = FALSE, resolution = TRUE))
  expect_length(x, 2)
  expect_true(x$resolution$gaussian)
  expect_identical(x$resolution$step, 1)
  first <- 21 # 3.58 on the grid from 3.578
  expect_equal(x$resolution$values[1, first - 1 + 4:99], given[4:99], tolerance = 1e-6)
  expect_equal(x$resolution$values[1, first - 1 + 100], (2 * given[99] + given[102]) / 3, tolerance = 1e-6)
  expect_equal(x$resolution$values[1, 1:(first + 2)], rep(given[4], first + 2), tolerance = 1e-6)
  expect_equal(x$resolution$values[2, ], rep(0.9, 3921), tolerance = 1e-6)
  expect_match(problems(x)$reason[2:3], "'wdisp'")
  survey <- suppressWarnings(write_survey(dir, file.path(dir, "survey.fits"), resolution = TRUE, progress = FALSE))
  expect_equal(as_spectra(survey)$resolution$values, x$resolution$values, tolerance = 1e-6)
  expect_error(suppressWarnings(write_survey(dir, file.path(dir, "survey.fits"), progress = FALSE)), class = "spender_error_exists")
})

test_that("a real file's wdisp is read", {
  skip_if(!nzchar(Sys.getenv("SPENDER_DATA")), "SPENDER_DATA is not set")
  path <- file.path(Sys.getenv("SPENDER_DATA"), "sdss", "galaxy", "spec-0266-51602-0013.fits")
  skip_if(!file.exists(path), "no real file of SDSS")
  x <- read_sdss(path, progress = FALSE, resolution = TRUE)
  known <- range(which(x$ivar > 0))
  expect_true(all(x$resolution$values > 0.7 & x$resolution$values < 1.4))
  expect_lt(max(abs(diff(x$resolution$values[1, known[1]:known[2]]))), 0.02)
})
