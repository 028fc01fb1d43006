skip_without_cfitsio()

local_desi <- function(..., name = "coadd-sv3-bright-26065.fits", env = parent.frame()) {
  dir <- withr::local_tempdir(.local_envir = env)
  write_desi(file.path(dir, name), ...)
}
read_small <- function(files, ...) read_desi(files, desi_grid(), ..., progress = FALSE)
reason <- function(...) problems(suppressWarnings(read_small(local_desi(...))))$reason

# The coadd by its formula: rows of arms, a list of B, R and Z of lists of FLUX, IVAR and MASK
coadd_of <- function(planes, groups) {
  sum_up <- function(value) {
    total <- matrix(0, max(groups), 800)
    for (arm in names(planes)) {
      p <- planes[[arm]]
      good <- p$MASK == 0 & is.finite(p$FLUX) & is.finite(p$IVAR) & p$IVAR > 0
      added <- ifelse(good, value(p), 0)
      for (i in seq_along(groups)) {
        m <- desi_arms()[[arm]] - 2099
        total[groups[i], m] <- total[groups[i], m] + added[i, ]
      }
    }
    total
  }
  ivar <- sum_up(function(p) p$IVAR)
  list(flux = ifelse(ivar > 0, sum_up(function(p) p$IVAR * p$FLUX) / ivar, 0), ivar = ivar)
}

random_planes <- function(n) {
  float <- function(x) as.vector(readBin(writeBin(x, raw(), size = 4), "double", length(x), size = 4))
  lapply(desi_arms(), function(m) {
    size <- n * length(m)
    list(FLUX = matrix(float(runif(size, 1, 3)), n), IVAR = matrix(float(runif(size, 1, 4)), n),
         MASK = matrix(ifelse(runif(size) < 0.05, 2^sample(0:30, size, TRUE), 0), n))
  })
}

test_that("arms become one spectrum, the mean weighted by inverse variance, with the redshift of its target", {
  withr::local_seed(1)
  planes <- random_planes(3)
  planes$B$FLUX[1, 290:292] <- c(NaN, Inf, 1)
  planes$R$IVAR[2, 5:7] <- c(NaN, -1, 0)
  planes$Z$MASK[3, ] <- 1
  path <- local_desi(pixels = function(arm, plane) planes[[arm]][[plane]])
  x <- read_small(path, mask_sky = FALSE, window = c(5300, 5850))
  expected <- coadd_of(planes, 1:3)
  expect_equal(x$flux * x$norm, expected$flux, tolerance = 1e-15)
  expect_equal(x$ivar / x$norm^2, expected$ivar, tolerance = 1e-15)
  expect_identical(x$id, c("39627866878511337", "-2713437", "7"))
  expect_identical(x$z, c(0.001, 0.002, 0.003)) # the redrock file has them in another order
  good <- expected$ivar[1, ] > 0 & desi_grid()$wave / 1.001 >= 5300 & desi_grid()$wave / 1.001 <= 5850
  expect_equal(x$norm[1], median(expected$flux[1, good]))
  expect_equal(x$meta, data.frame(file = path, targetid = x$id, survey = "sv3", program = "bright", healpix = 26065L, tile = NA_integer_,
                                  arms = "BRZ", objtype = "TGT", fiberstatus = 0L, exposures = 3L, desi_target = "1152921504606846977",
                                  bgs_target = "2", class = "GALAXY", subclass = NA_character_, z_err = 1e-5, zwarning = 0L,
                                  deltachi2 = 1000, ra = c(1, 2, 3), dec = -c(1, 2, 3)))
  expect_identical(nrow(problems(x)), 0L)
  expect_identical(read_small(path, mask_sky = FALSE, threads = 3), x)
  # the whole grid, and a part of it
  whole <- read_desi(path, mask_sky = FALSE)
  expect_identical(dim(whole), c(3L, 7781L))
  expect_identical(whole$flux[, 2101:2900], x$flux)
  expect_identical(sum(whole$ivar[, -(2101:2900)]), 0)
  part <- instrument(instrument("desi")$wave[2200:2500])
  expect_equal(unname(read_desi(path, part, mask_sky = FALSE)$ivar / x$ivar[, 100:400])[, 1], rep(1, 3), tolerance = 0.1)
  expect_identical(read_desi(path, part, mask_sky = FALSE)$ivar > 0, x$ivar[, 100:400] > 0)
})

test_that("many rows are read by several threads, in their order", {
  n <- 100
  flux <- function(arm, plane) if (plane == "FLUX") matrix(seq_len(n), n, length(desi_arms()[[arm]]))
  path <- local_desi(ids = as.character(1000 + seq_len(n)), pixels = flux)
  x <- read_small(path, threads = 2)
  packed <- read_small(local_desi(ids = as.character(1000 + seq_len(n)), pixels = flux, name = "coadd-a.fits.gz"), threads = 3)
  expect_identical(packed$flux, x$flux)
  expect_equal(x$norm, seq_len(n))
  expect_identical(x, read_small(path, threads = 1))
  expect_identical(suppressMessages(read_desi(path, desi_grid(), progress = TRUE)), x)
})

test_that("masks are masks, however they are stored, and may be absent", {
  set <- function(bit) function(arm, plane) if (plane == "MASK") matrix(c(0, bit, 0), 3, length(desi_arms()[[arm]]))
  valid <- function(...) rowSums(read_small(local_desi(..., env = parent.frame()), mask_sky = FALSE)$ivar > 0)
  for (packed in c(FALSE, TRUE)) {
    expect_identical(valid(pixels = set(-2^31), mask = list(packed = packed)), c(800, 0, 800))
    for (bit in 2^c(0, 30, 31)) {
      expect_identical(valid(pixels = set(bit), mask = list(packed = packed, zero = 2^31)), c(800, 0, 800))
    }
  }
  for (bitpix in c(8, 16)) expect_identical(valid(pixels = set(1), mask = list(bitpix = bitpix)), c(800, 0, 800))
  expect_identical(valid(hdus = function(file) file[!grepl("MASK", names(file))]), c(800, 800, 800))
  float <- fits_image("B_MASK", matrix(0, 3, 300))
  expect_match(reason(hdus = function(file) replace(file, "B_MASK", list(float))), "B_MASK that is not of integers")
})

test_that("HDUs are found by name, in any order, and files may be gzipped", {
  x <- read_small(local_desi())
  same <- function(...) {
    y <- read_small(local_desi(..., env = parent.frame()))
    y$meta$file <- x$meta$file
    expect_identical(y, x)
  }
  same(hdus = function(file) file[c(1, rev(seq_along(file)[-1]))])
  same(hdus = function(file) c(file, list(fits_table(list(TARGETID = list(type = "K", values = "5")), EXTNAME = "SCORES"))))
  same(name = "coadd-sv3-bright-26065.fits.gz")
  path <- local_desi(name = "coadd-a.fits.gz")
  packed <- sub("coadd-a.fits.gz", "redrock-a.fits", path)
  writeBin(gzipped(bytes_of(packed)), paste0(packed, ".gz"))
  unlink(packed)
  y <- read_small(dirname(path), threads = 2)
  expect_identical(y$flux, x$flux)
  expect_identical(y$z, x$z)
})

test_that("exposures are coadded by target, those with a bad fibre only where there is no other", {
  withr::local_seed(2)
  planes <- random_planes(6)
  ids <- c("11", "12", "11", "13", "12", "12")
  status <- list(type = "J", values = c(0, 0, 0, 8, 4, 0))
  path <- local_desi(ids = ids, pixels = function(arm, plane) planes[[arm]][[plane]], name = "spectra-sv3-bright-1.fits",
                     fibermap = list(COADD_FIBERSTATUS = NULL, COADD_NUMEXP = NULL, FIBERSTATUS = status,
                                     TILEID = list(type = "J", values = c(5, 6, 5, 5, 6, 6))))
  x <- read_small(path, mask_sky = FALSE)
  expect_identical(x$id, c("11", "12", "13"))
  expect_identical(x$meta$exposures, c(2L, 2L, 1L))
  expect_identical(x$meta$fiberstatus, c(0L, 0L, 8L))
  expect_identical(x$meta$tile, c(5L, 6L, 5L))
  rows <- c(1, 3, 2, 6, 4)
  expected <- coadd_of(lapply(planes, function(p) lapply(p, function(m) m[rows, ])), c(1, 1, 2, 2, 3))
  expect_equal(x$flux * x$norm, expected$flux, tolerance = 1e-14)
  expect_equal(x$ivar / x$norm^2, expected$ivar, tolerance = 1e-14)
  # a folder that has the coadd too
  write_desi(file.path(dirname(path), "coadd-sv3-bright-1.fits"), ids = c("11", "12", "13"))
  expect_identical(basename(unique(read_small(dirname(path))$meta$file)), "coadd-sv3-bright-1.fits")
  expect_length(suppressWarnings(read_small(c(path, dirname(path)))), 6)
})

test_that("an arm that is absent is masked", {
  without <- function(pattern) function(file) file[!grepl(pattern, names(file))]
  x <- read_small(local_desi(hdus = without("^B_")), mask_sky = FALSE)
  expect_identical(unique(x$meta$arms), "RZ")
  expect_identical(which(x$ivar[1, ] == 0), 1:280)
})

test_that("each kind of bad file is a row in problems() that says why", {
  dir <- withr::local_tempdir()
  at <- function(name) file.path(dir, paste0("coadd-", name, ".fits"))
  without <- function(name) function(file) file[setdiff(names(file), name)]
  change <- function(name, bytes) function(file) replace(file, name, list(bytes))
  write_desi(at("01-no-fibermap"), hdus = without("FIBERMAP"))
  write_desi(at("02-no-targetid"), fibermap = list(TARGETID = NULL))
  for (name in c("B_FLUX", "R_IVAR", "Z_WAVELENGTH")) write_desi(at(paste0("03-no-", name)), hdus = without(name))
  write_desi(at("04-no-arm"), hdus = function(file) file[1:2])
  write_desi(at("05-grid"), hdus = change("B_WAVELENGTH", fits_image("B_WAVELENGTH", 5280.4 + 0.8 * 0:299, -64)))
  write_desi(at("06-nan"), hdus = change("B_WAVELENGTH", fits_image("B_WAVELENGTH", rep(NaN, 300), -64)))
  write_desi(at("07-width"), hdus = change("B_FLUX", fits_image("B_FLUX", matrix(1, 3, 299))))
  write_desi(at("08-rows"), hdus = change("R_FLUX", fits_image("R_FLUX", matrix(1, 4, 320))))
  write_desi(at("09-fibermap"), hdus = change("FIBERMAP", fits_table(list(TARGETID = list(type = "K", values = c("7", "8"))),
                                                                     EXTNAME = "FIBERMAP")))
  write_desi(at("10-no-redrock"), redshifts = NULL)
  write_desi(at("11-no-z"), redshifts = list(Z = NULL))
  write_desi(at("12-redrock"))
  writeLines("nothing", file.path(dir, "redrock-12-redrock.fits"))
  write_desi(at("13-table"), hdus = change("B_FLUX", fits_table(list(A = list(type = "E", values = 1)), EXTNAME = "B_FLUX")))
  write_desi(at("14-cut"))
  bytes <- bytes_of(at("14-cut"))
  writeBin(bytes[seq_len(length(bytes) - 6000)], at("14-cut"))
  writeBin(raw(0), at("15-empty"))
  write_desi(file.path(dir, "other-name.fits"))
  files <- c(list.files(dir, "^(coadd|other)", full.names = TRUE), at("16-missing"))
  good <- write_desi(at("good"))
  expect_warning(x <- read_small(c(files[1:9], good, files[-(1:9)])), class = "spender_warning_files")
  expect_length(x, 3)
  expect_identical(problems(x)$file, files)
  local_reproducible_output()
  expect_snapshot(cat(problems(x)$reason, sep = "\n"))
})

test_that("a target without a redshift is left out, and it is said", {
  path <- local_desi(redshifts = list(TARGETID = list(type = "K", values = c("7", "-2713437", "39627866878511336")),
                                      Z = list(type = "D", values = c(0.1, NaN, 0.3))))
  expect_warning(x <- read_small(path), "2 of 3 targets", class = "spender_warning_targets")
  expect_identical(x$id, "7")
  expect_identical(problems(x)$id, c("39627866878511337", "-2713437"))
  expect_snapshot(cat(problems(x)$reason, sep = "\n"))
  expect_output(print(x), "2 targets left out; see problems")
  none <- suppressWarnings(read_small(local_desi(redshifts = list(TARGETID = list(type = "K", values = c("1", "2", "3"))))))
  expect_length(none, 0)
  expect_identical(nrow(problems(none)), 3L)
})

test_that("redshifts may come from a catalogue", {
  path <- local_desi(redshifts = NULL)
  catalogue <- data.frame(targetid = c("7", "-2713437", "5"), z = c(0.02, 0.01, 0.03), z_err = 1e-4)
  x <- suppressWarnings(read_small(path, redshifts = catalogue))
  expect_identical(x$z, c(0.01, 0.02))
  expect_identical(x$meta$z_err, c(1e-4, 1e-4))
  expect_null(x$meta$class)
  expect_match(problems(x)$reason, "`redshifts` has none of this target")
  expect_snapshot(error = TRUE, {
    read_small(path, redshifts = "a")
    read_small(path, redshifts = catalogue["z"])
    read_small(path, redshifts = rbind(catalogue, catalogue[1, ]))
    read_small(path, redshifts = data.frame(targetid = 39627866878511337, z = 0))
  })
})

test_that("targets that are read twice both stay, and it is said", {
  x <- read_small(c(local_desi(ids = "5"), local_desi(ids = "5")))
  expect_identical(x$id, c("5", "5.1"))
  expect_identical(x$object, c("5", "5"))
  expect_identical(problems(x)$row, 2L)
})

test_that("targeting bits are those of the file's survey", {
  bits <- function(...) read_small(local_desi(ids = "5", ..., env = parent.frame()))$meta[c("desi_target", "bgs_target")]
  text <- function(value) list(type = "K", values = value)
  main <- list(DESI_TARGET = text("4"), BGS_TARGET = text("8"))
  expect_identical(unlist(bits(fibermap = main), use.names = FALSE), c("1152921504606846977", "2"))
  expect_identical(unlist(bits(fibermap = main, cards = list(SURVEY = "main")), use.names = FALSE), c("4", "8"))
  expect_identical(unlist(bits(fibermap = main, cards = list(TILEID = 80613)), use.names = FALSE), c("1152921504606846977", "2"))
  none <- list(DESI_TARGET = NULL, BGS_TARGET = NULL, SV3_DESI_TARGET = NULL, SV3_BGS_TARGET = NULL)
  expect_identical(unlist(bits(fibermap = none), use.names = FALSE), c(NA_character_, NA))
})

test_that("the sky is masked the wider, the brighter its lines", {
  x <- read_small(local_desi())
  lines <- all_sky_lines()
  lines <- lines[!is.na(lines$intensity), ]
  sky <- vapply(desi_grid()$wave, function(w) any(abs(w - lines$wave) <= 5 * (1 + log10(lines$intensity / 2))), NA)
  blue <- vapply(desi_grid()$wave, function(w) any(abs(w - sky_lines()$wave[is.na(sky_lines()$intensity)]) <= 5), NA)
  expect_identical(x$ivar[1, ] == 0, sky | blue)
  own <- read_small(local_desi(), mask_sky = 5500)
  expect_identical(which(own$ivar[1, ] == 0), which(abs(desi_grid()$wave - 5500) <= 5))
})

test_that("galaxies are chosen as the published code does", {
  n <- 9
  number <- function(values, type = "D") list(type = type, values = values)
  text <- function(values) list(type = "K", values = values)
  ids <- as.character(11:19)
  one <- function(i, bad, good) replace(rep(good, n), i, bad)
  path <- local_desi(ids = ids, fibermap = list(COADD_FIBERSTATUS = number(one(1, 8, 0), "J"), SV3_DESI_TARGET = text(one(2, "0", "5")),
                                                SV3_BGS_TARGET = text(one(8:9, "0", "2"))),
                     redshifts = list(TARGETID = text(ids), Z = number(one(3, 0.81, 0.02)), ZWARN = text(one(4, "4", "0")),
                                      SPECTYPE = number(one(5, "QSO", "GALAXY"), "6A"), ZERR = number(one(c(6, 8), 7e-4, 1e-5)),
                                      DELTACHI2 = number(one(c(7, 9), 30, 1000))))
  x <- read_desi(path, progress = FALSE)
  expect_message(chosen <- select_galaxies(x), "Selected 2 of 9")
  expect_identical(chosen$id, c("18", "19")) # not of the Bright Galaxy Survey, whose redshifts must be safer
  expect_identical(attr(chosen, "dropped"),
                   data.frame(row = 1:7, cut = c("fiberstatus", "desi_target", "z", "zwarning", "class", "z_err", "deltachi2")))
  expect_identical(suppressMessages(select_galaxies(x, z_max = 1, z_err_max = 1))$id, c("16", "18", "19")) # "13" has no norm
})

test_that("a folder becomes a survey, and a second call goes on", {
  dir <- withr::local_tempdir()
  write_desi(file.path(dir, "coadd-a.fits"), ids = c("1", "2", "3"))
  write_desi(file.path(dir, "coadd-b.fits.gz"), ids = c("4", "-5"), redshifts = list(TARGETID = list(type = "K", values = c("4", "6"))))
  writeLines("no spectrum", file.path(dir, "coadd-c.fits"))
  path <- withr::local_tempfile(fileext = ".fits")
  write <- function() suppressWarnings(write_survey(dir, path, desi_grid(), progress = FALSE))
  survey <- write()
  x <- suppressWarnings(read_small(dir))
  expect_identical(as_spectra(survey)$id, x$id)
  expect_equal(as_spectra(survey)$flux, x$flux, tolerance = 1e-6)
  expect_equal(as_spectra(survey)$meta, x$meta)
  expect_identical(problems(survey), problems(x))
  suppressWarnings(expect_warning(write_survey(dir, withr::local_tempfile(), desi_grid(), progress = FALSE),
                                  class = "spender_warning_targets"))
  # a file more, and the one whose target was left out is not read again
  write_desi(file.path(dir, "coadd-d.fits"), ids = "8")
  unlink(file.path(dir, "coadd-a.fits"))
  expect_length(write(), 5)
  expect_identical(as_spectra(open_survey(path))$id, c("1", "2", "3", "4", "8"))
  expect_identical(nrow(problems(open_survey(path))), nrow(problems(x)))
  expect_error(write_survey(dir, path, desi_grid(), mask_sky = FALSE, progress = FALSE), "mask_sky", class = "spender_error_exists")
  # killed after its reasons were written and before its spectra were
  writeLines(paste0(file.path(dir, "coadd-d.fits"), "\tTARGETID 9: no redshift"), paste0(path, ".rejected"))
  write_desi(file.path(dir, "coadd-d.fits"), ids = c("8", "9"), redshifts = list(TARGETID = list(type = "K", values = c("8", "10"))))
  unlink(path)
  expect_setequal(as_spectra(write())$id, c("4", "8"))
})

test_that("bad arguments are refused", {
  dir <- file.path(withr::local_tempdir(), "nothing")
  dir.create(dir)
  expect_snapshot(error = TRUE, {
    read_desi(1)
    read_desi("x.fits", instrument = "sdss")
    read_desi("x.fits", instrument = 3600.4 + 0.8 * 0:10)
    read_desi("x.fits", progress = NA)
  })
  expect_error(read_desi(dir), class = "spender_error_files")
  expect_error(read_desi("x.fits", "boss"), class = "spender_error_grid")
  expect_length(read_desi(character(), progress = FALSE), 0)
})

# ---- real files ----

expect_reference <- function(x, path) {
  ours <- reference("desi", path)
  n <- length(ours$id)
  expect_identical(x$id, ours$id)
  expect_true(all(abs(x$instrument$wave - ours$wave) < 5e-4)) # single precision
  pixels <- aperm(array(ours$pixels, c(7781, 2, n)), c(3, 1, 2))
  for (i in seq_len(n)) {
    norm <- if (is.na(x$norm[i])) 1 else x$norm[i]
    expect_equal(x$flux[i, ] * norm, pixels[i, , 1], tolerance = 1e-15)
    expect_equal(x$ivar[i, ] / norm^2, ifelse(pixels[i, , 2] > 1e-6, pixels[i, , 2], 0), tolerance = 1e-15)
  }
}

test_that("real files of DESI are read as astropy reads them, and bad ones are refused", {
  skip_on_cran() # takes seconds
  tile <- data_dir("desi", "coadd-4-80613-thru20210324.fits")
  x <- read_desi(tile, mask_sky = FALSE)
  redrock <- reference("redrock", data_dir("desi", "redrock-4-80613-thru20210324.fits"))
  expect_identical(x$id, redrock$id)
  expect_identical(x$z, redrock$z)
  expect_identical(x$meta$tile, 80613L)
  expect_reference(x, tile)
  healpix <- data_dir("desi", "coadd-sv3-dark-26065.fits")
  ids <- c("-2713437", "-2713415", "39627866878511337", "616088619186127404", "39627866878514741")
  x <- read_desi(healpix, mask_sky = FALSE, redshifts = data.frame(targetid = rev(ids), z = 5:1 / 10))
  expect_identical(x$z, 1:5 / 10)
  expect_reference(x, healpix)
  expect_message(chosen <- select_galaxies(x), "2 of 5")
  expect_identical(attr(chosen, "dropped")$cut, c("fiberstatus", "fiberstatus", "fiberstatus"))
  x <- suppressWarnings(read_desi(c(healpix, data_dir("desi", "bad-missing_b_color.fits"), data_dir("desi", "bad-missing_z_color.fits")),
                                  redshifts = data.frame(targetid = "1", z = 0)))
  local_reproducible_output()
  expect_snapshot(cat(problems(x)$reason, sep = "\n"))
})

test_that("a real file of BOSS is read as astropy reads it", {
  path <- data_dir("boss", "spec-3655-55240-0660.fits")
  ours <- reference("sdss", path)
  x <- read_sdss(path, "boss", mask_sky = FALSE)
  expect_identical(x$id, "3655-55240-0660")
  expect_identical(c(x$z, x$meta$ra, x$meta$dec), ours$z)
  expect_sdss_reference(x, ours, "and")
  either <- read_sdss(path, "boss", mask_sky = FALSE, mask = "or")
  expect_sdss_reference(either, ours, "or")
  expect_lt(sum(either$ivar > 0), sum(x$ivar > 0))
  expect_identical(either$meta$mask, "or")
})

test_that("resolution matrices are averaged with the weights of the flux", {
  withr::local_seed(2)
  planes <- lapply(random_planes(3), function(p) {
    p$RESOLUTION <- array(as_float32(rnorm(3 * 11 * ncol(p$FLUX))), c(3, 11, ncol(p$FLUX)))
    p
  })
  planes$B$MASK[, 290] <- 1 # where R begins
  planes$B$MASK[, 7] <- 1 # nothing else there
  path <- local_desi(ids = c("1", "2", "1"), pixels = function(arm, plane) planes[[arm]][[plane]], name = "spectra-sv3-bright-26065.fits")
  x <- read_small(path, resolution = TRUE, threads = 2)
  expect_identical(x$resolution[c("size", "step", "gaussian")], list(size = 11, step = 1, gaussian = FALSE))
  band <- full_band(x$resolution, 800)
  rows <- list("1" = c(1, 3), "2" = 2)
  for (id in names(rows)) {
    for (m in c(1, 2, 5, 7, 100, 281, 285, 290, 299, 300, 301, 600, 609, 796, 800)) {
      sum <- numeric(11)
      weights <- 0
      for (arm in names(planes)) {
        p <- planes[[arm]]
        at <- m - (desi_arms()[[arm]][1] - 2100) # of the arm
        width <- ncol(p$FLUX)
        if (at < 1 || at > width) next
        for (i in rows[[id]]) {
          w <- if (p$MASK[i, at] == 0) p$IVAR[i, at] else 1e-30
          for (k in 1:11) { # the file's diagonals have offsets 5 to -5, and its columns are the matrix's
            from <- at + 6 - k
            if (from >= 1 && from <= width) sum[12 - k] <- sum[12 - k] + w * p$RESOLUTION[i, k, from]
          }
          weights <- weights + w
        }
      }
      expect_equal(band[match(id, x$id), , m], sum / weights, tolerance = 1e-12)
    }
  }
  expect_identical(x[2]$resolution$values[1, ], x$resolution$values[2, ])
  expect_null(read_small(path)$resolution)
  without <- local_desi()
  expect_match(problems(suppressWarnings(read_small(without, resolution = TRUE)))$reason,
               "no resolution matrices of 11 diagonals in all arms")
  survey <- suppressWarnings(write_survey(path, withr::local_tempfile(fileext = ".fits"), desi_grid(), resolution = TRUE, progress = FALSE))
  expect_equal(full_band(as_spectra(survey)$resolution, 800), band, tolerance = 1e-6)
})

test_that("a real file's matrices have the widths of DESI's arms", {
  skip_if(!nzchar(Sys.getenv("SPENDER_DATA")), "SPENDER_DATA is not set")
  path <- file.path(Sys.getenv("SPENDER_DATA"), "desi", "coadd-4-80613-thru20210324.fits")
  skip_if(!file.exists(path), "no real file of DESI")
  x <- read_desi(path, resolution = TRUE, progress = FALSE)
  band <- full_band(x$resolution, 7781)
  expect_equal(stats::median(apply(band[1, , ], 2, sum)), 1, tolerance = 0.002)
  # from the file, by another program
  expect_equal(band[1, , 1001], c(-0.00137, 0.00282, -0.00074, 0.03749, 0.23819, 0.44230, 0.24085, 0.03876, -0.00081, 0.00304, -0.00136),
               tolerance = 1e-4)
  expect_equal(band[1, , 2725], c(-0.00020, 0.00041, 0.00103, 0.01732, 0.23661, 0.49137, 0.23476, 0.01725, 0.00117, 0.00037, -0.00019),
               tolerance = 1e-4) # where B and R overlap
})
