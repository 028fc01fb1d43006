survey_of <- function(x, ...) write_survey(x, withr::local_tempfile(fileext = ".fits", .local_envir = parent.frame()), ...)

test_that("a survey holds what was written", {
  x <- small_spectra(30)
  x$meta$plate <- seq_len(30)
  x$meta$good <- rep(c(TRUE, NA, FALSE), 10)
  x$meta$kind <- factor(rep(c("a", "longer"), 15))
  x$meta$plate[3] <- NA
  survey <- survey_of(x)
  expect_s3_class(survey, "survey")
  expect_equal(length(survey), 30)
  expect_equal(dim(survey), dim(x$flux))
  expect_identical(survey$z, x$z)
  expect_identical(survey$norm, x$norm)
  expect_identical(survey$instrument$wave, x$instrument$wave)
  y <- as_spectra(survey)
  expect_identical(y$id, x$id)
  expect_equal(y$flux, x$flux, tolerance = 1e-6)
  expect_equal(y$ivar, x$ivar, tolerance = 1e-6)
  expect_identical(y$meta$plate, x$meta$plate)
  expect_identical(y$meta$good, x$meta$good)
  expect_identical(y$meta$kind, as.character(x$meta$kind))
  expect_identical(y$meta$sn_median, x$meta$sn_median)
  expect_identical(as.data.frame(survey)$id, x$id)
  # a survey of a survey
  again <- survey_of(survey[5:1])
  expect_identical(as_spectra(again)$flux, y$flux[5:1, ])
})

test_that("rows are chosen without reading, in any order, and by id", {
  x <- small_spectra(30)
  survey <- survey_of(x)
  expect_identical(as_spectra(survey[c(7, 2)])$id, x$id[c(7, 2)])
  expect_identical(as_spectra(survey[x$z > 0.1][2])$id, x[x$z > 0.1]$id[2])
  expect_identical(as_spectra(survey[x$id[4]])$id, x$id[4])
  expect_identical(as_spectra(survey[c(1, 1)])$id, make.unique(x$id[c(1, 1)]))
  expect_equal(length(survey[integer()]), 0)
  expect_error(survey["nobody"], class = "spender_error_id")
  expect_error(survey[31], class = "spender_error_invalid")
})

test_that("several files are one survey", {
  x <- small_spectra(30)
  one <- withr::local_tempfile(fileext = ".fits")
  two <- withr::local_tempfile(fileext = ".fits")
  write_survey(x[1:10], one)
  other <- x[11:30]
  other$meta$extra <- seq_len(20)
  write_survey(other, two)
  survey <- open_survey(c(one, two))
  y <- as_spectra(survey[c(29, 3, 11)])
  expect_equal(y$flux, x$flux[c(29, 3, 11), ], tolerance = 1e-6)
  expect_identical(y$meta$extra, c(19L, NA, 1L))
  third <- withr::local_tempfile(fileext = ".fits")
  write_survey(simulate_spectra(2, instrument(seq(4000, 8000, by = 20)), seed = 1), third)
  expect_error(open_survey(c(one, third)), class = "spender_error_grid")
})

test_that("spectra without norm keep their row", {
  x <- small_spectra(4)
  x$norm[2] <- NA
  survey <- survey_of(x)
  expect_identical(is.na(survey$norm), c(FALSE, TRUE, FALSE, FALSE))
  expect_identical(problems(survey)$id, x$id[2])
  expect_identical(is.na(as_spectra(survey)$norm), is.na(x$norm))
})

test_that("training from a file gives the bits of training from memory", {
  x <- small_spectra(60)
  survey <- survey_of(x)
  train_on <- function(x, ...) spender(x, latents = 2, epochs = 3, batch_size = 8, network = small_network(), validation = 0.2, threads = 1,
                                       progress = FALSE, ...)
  a <- train_on(x)
  b <- train_on(survey)
  expect_identical(b$weights, a$weights)
  expect_identical(b$history[-5], a$history[-5])
  expect_equal(b$training$flat_loss, a$training$flat_loss, tolerance = 1e-6)
  expect_identical(train_on(survey[31:1])$weights, train_on(x[31:1])$weights)
  expect_identical(update(b, survey, 1, threads = 1, progress = FALSE)$weights, update(a, x, 1, threads = 1, progress = FALSE)$weights)
  expect_equal(encode(a, survey), encode(a, x), tolerance = 1e-5)
  expect_equal(predict(a, survey, "loss"), predict(a, x, "loss"), tolerance = 1e-4)
  expect_equal(dim(residuals(a, survey[1:3])), c(3, ncol(x$flux)))
})

test_that("a survey may be empty", {
  x <- small_spectra(6)
  survey <- survey_of(x)[integer()]
  fit <- spender(x, latents = 2, epochs = 1, network = small_network(), threads = 1, progress = FALSE)
  expect_equal(length(as_spectra(survey)), 0)
  expect_equal(dim(predict(fit, survey, "latent")), c(0, 2))
  path <- withr::local_tempfile()
  predict(fit, survey, "latent", path = path)
  expect_equal(dim(read_predictions(path)), c(0, 2))
  expect_equal(nrow(as.data.frame(survey)), 0)
  expect_output(print(survey), "0 spectra of 6")
  expect_error(spender(survey, latents = 2), class = "spender_error_invalid")
})

test_that("predictions go to a file, and on where they were", {
  x <- small_spectra(20)
  survey <- survey_of(x)
  fit <- spender(x, latents = 2, epochs = 1, network = small_network(), threads = 1, progress = FALSE)
  for (type in c("latent", "observed", "rest", "loss")) {
    path <- withr::local_tempfile(fileext = ".fits")
    expect_identical(predict(fit, survey, type, path = path), path)
    expect_equal(read_predictions(path), predict(fit, survey, type), tolerance = 1e-6)
  }
  size <- file.size(path)
  predict(fit, survey, type, path = path) # all is there
  expect_identical(file.size(path), size)
  expect_error(predict(fit, survey, "latent", path = path), class = "spender_error_exists")
  expect_error(read_predictions(survey$files$path), class = "spender_error_format")
  expect_error(open_survey(path), class = "spender_error_format")
})

test_that("files become a survey, and a second call goes on", {
  skip_without_cfitsio()
  folder <- withr::local_tempdir()
  for (i in 1:9) write_sdss(file.path(folder, sprintf("spec-0266-51602-%04d.fits", i)), flux = i,
                            object = list(FIBERID = list(type = "J", values = i)))
  writeLines("no", file.path(folder, "spec-0266-51602-0010.fits"))
  path <- file.path(folder, "survey.out")
  files <- list.files(folder, "fits$", full.names = TRUE)
  expect_warning(survey <- ingest(files[c(1:4, 10)], path, "sdss", TRUE, c(5300, 5850), 1, FALSE, part = 2),
                 class = "spender_warning_files")
  expect_equal(length(survey), 4)
  expect_identical(problems(survey)$file, files[10])
  expect_warning(survey <- write_survey(folder, path), class = "spender_warning_files")
  expect_identical(survey_catalogue(survey, "fiber")$fiber, 1:9)
  expect_identical(survey$norm, as.double(1:9))
  expect_identical(problems(survey)$file, files[10])
  expect_match(problems(survey)$reason, "not a FITS file")
  expect_false(file.exists(rejects_path(path)))
  # killed after the sidecar had a line and a half
  unlink(path)
  writeLines(paste(files[10], "is not a FITS file", sep = "\t"), rejects_path(path))
  cat("half a li", file = rejects_path(path), append = TRUE)
  expect_warning(survey <- write_survey(folder, path), class = "spender_warning_files")
  expect_equal(length(survey), 9)
  expect_equal(nrow(problems(survey)), 1)
  expect_error(write_survey(files[10], file.path(folder, "none")), class = "spender_error_files")
})

test_that("a simulated survey is the simulated spectra", {
  path <- withr::local_tempfile(fileext = ".fits")
  z <- seq(0.01, 0.2, length.out = 30)
  survey <- simulate_survey(30, path, instrument = small_instrument(), z = z, seed = 4)
  x <- simulate_spectra(30, small_instrument(), z = z, seed = 4)
  expect_equal(as_spectra(survey)$flux, x$flux, tolerance = 1e-6)
  expect_identical(as.data.frame(survey)$true_ebv, x$truth$parameters$ebv)
  expect_error(simulate_survey(3, path), class = "spender_error_exists")
  # in parts, as a larger one is made
  plan <- plan_simulation(30, small_instrument(), z = z, seed = 4, threads = 1)
  part <- function(n, first) {
    drawn <- draw_objects(plan, n, first)
    list(id = drawn$id, flux = .Call(ffi_simulate, drawn$shared, drawn$objects, first, FALSE, plan$recipe, NULL)$flux)
  }
  first <- part(10, 0)
  second <- part(20, 10)
  expect_identical(rbind(first$flux, second$flux), x$flux)
  expect_identical(c(first$id, second$id), x$id)
  # and to the last bit what write_survey() makes of the spectra, for any number of threads
  written <- write_survey(x, withr::local_tempfile(fileext = ".fits"))
  again <- simulate_survey(30, withr::local_tempfile(fileext = ".fits"), instrument = small_instrument(), z = z, seed = 4, threads = 3)
  for (other in list(written, again)) {
    fields <- c("flux", "ivar", "z", "norm")
    expect_identical(unclass(as_spectra(other))[fields], unclass(as_spectra(survey))[fields])
    expect_identical(as.data.frame(other)$sn_median, x$meta$sn_median)
  }
})

test_that("what is no survey is refused", {
  folder <- withr::local_tempdir()
  local({
    withr::local_dir(folder)
    write_survey(small_spectra(5), "good.fits")
    bytes <- readBin("good.fits", raw(), file.size("good.fits"))
    writeBin(bytes[1:15000], "cut.fits")
    writeLines("no", "text.fits")
    write_sdss("sdss.fits")
    flipped <- bytes
    flipped[length(flipped) - 6000] <- xor(flipped[length(flipped) - 6000], as.raw(1))
    writeBin(flipped, "flipped.fits")
    expect_snapshot(error = TRUE, {
      open_survey("cut.fits")
      open_survey("text.fits")
      open_survey("sdss.fits")
      open_survey("absent.fits")
      as_spectra(open_survey("flipped.fits"))
      open_survey(1)
      as_spectra(1)
      write_survey(small_spectra(5), "good.fits")
      write_survey(1, "new.fits")
    })
    expect_error(spender(open_survey("flipped.fits"), latents = 2, epochs = 1, network = small_network(), threads = 1, progress = FALSE),
                 class = "spender_error_format")
  })
})

test_that("a survey prints what a person wants to know", {
  withr::local_options(cli.unicode = FALSE)
  folder <- withr::local_tempdir()
  x <- small_spectra(12)
  x$norm[3] <- NA
  survey <- write_survey(x, file.path(folder, "small.fits"))
  expect_snapshot({
    survey
    survey[1:5]
    summary(survey)
  })
})

test_that("a full disk leaves a survey of whole rows, and an error that says so", {
  skip_on_cran()
  skip_on_os("windows")
  folder <- withr::local_tempdir()
  path <- file.path(folder, "full.fits")
  code <- sprintf('library(spender); grid <- instrument(seq(4000, 8000, by = 16))
                   tryCatch(simulate_survey(6000, "%s", instrument = grid, seed = 1, progress = FALSE),
                   spender_error_io = function(e) cat("io:", conditionMessage(e), "\\n"))', path)
  script <- file.path(folder, "script.R")
  writeLines(code, script)
  # files may have 11 MiB: room for the first five chunks of 1024 spectra
  output <- suppressWarnings(system2("sh", c("-c", shQuote(paste("trap '' XFSZ; ulimit -f 22528;",
                                                                 shQuote(file.path(R.home("bin"), "Rscript")), "--vanilla",
                                                                shQuote(script), "2>&1"))), stdout = TRUE))
  if (!any(grepl("^io:", output)) && file.exists(path) && length(open_survey(path)) == 6000) skip("ulimit -f has other units here")
  expect_match(output, "io: full.fits: writing failed", all = FALSE)
  survey <- open_survey(path)
  expect_equal(length(survey), 5120)
  expect_false(anyNA(as_spectra(survey[c(1, 5120)])$flux))
})

test_that("a folder that is not there or not one is an error", {
  x <- small_spectra(3)
  expect_error(write_survey(x, file.path(tempdir(), "no", "where.fits")), class = "spender_error_io")
  file <- withr::local_tempfile(lines = "")
  expect_error(write_survey(x, file.path(file, "where.fits")), class = "spender_error_io")
  expect_error(spender(x, latents = 2, checkpoint = file.path(file, "kept"), network = small_network()), class = "spender_error_io")
})

test_that("a survey is drawn without being read", {
  skip_if_not_installed("ggplot2")
  withr::local_pdf(NULL)
  survey <- survey_of(small_spectra(8))
  expect_error(plot(survey), NA)
  expect_error(plot(survey, rows = 8), NA)
})

test_that("a writer killed in the middle of appending is continued, with names of any kind and what was rejected", {
  skip_without_cfitsio()
  folder <- file.path(withr::local_tempdir(), if (l10n_info()[["UTF-8"]]) "sp\u00e9ctra 100%41" else "sp 100%41")
  dir.create(folder)
  for (i in 1:4) write_sdss(file.path(folder, sprintf("spec-0266-51602-%04d.fits", i)), flux = i,
                            object = list(FIBERID = list(type = "J", values = i)))
  writeLines("no", file.path(folder, if (l10n_info()[["UTF-8"]]) "b\u00e4d.fits" else "bad.fits"))
  files <- list.files(folder, "fits$", full.names = TRUE)
  good <- grep("spec", files, value = TRUE)
  path <- file.path(folder, "survey")
  suppressWarnings(write_survey(c(good[1:2], setdiff(files, good)), path))
  # continued and killed: rows that were not counted, and no checksums
  bytes <- readBin(path, raw(), file.size(path))
  .Call(ffi_survey_append, path, list(character(), double(), double(), character(), integer(), integer(), integer(), character(),
                                      character(), double(),
                                      integer(), double(), character(), character(), double(), double(),
                                      matrix(0, 0, 3921), matrix(0, 0, 3921)))
  cat(strrep("x", 5000), file = path, append = TRUE)
  writeLines(paste(to_ascii(setdiff(files, good)), "is not a FITS file", sep = "\t"), rejects_path(path))
  expect_equal(nrow(problems(open_survey(path))), 0)
  expect_warning(survey <- write_survey(folder, path), class = "spender_warning_files")
  expect_identical(survey_catalogue(survey, "fiber")$fiber, 1:4)
  expect_identical(enc2utf8(survey_catalogue(survey, "file")$file), enc2utf8(good))
  expect_identical(enc2utf8(problems(survey)$file), enc2utf8(setdiff(files, good)))
  expect_length(suppressWarnings(write_survey(folder, path)), 4) # nothing is read twice
})

test_that("a survey is not written over itself, nor lost to a wrong argument", {
  survey <- survey_of(small_spectra(5))
  expect_error(write_survey(survey[1:2], survey$files$path, overwrite = TRUE), class = "spender_error_exists")
  expect_error(write_survey(7, survey$files$path, overwrite = TRUE), class = "spender_error_invalid")
  expect_error(simulate_survey(3, survey$files$path, no = 1, overwrite = TRUE), class = "spender_error_invalid")
  fit <- small_fit(as_spectra(survey), epochs = 1)
  expect_error(predict(fit, survey[1:2], "latent", path = survey$files$path, overwrite = TRUE), "the survey that is read",
               class = "spender_error_exists")
  expect_equal(length(open_survey(survey$files$path)), 5)
})

test_that("an opened survey stays what it was when a file grows, and notices when one shrinks", {
  x <- small_spectra(9)
  one <- withr::local_tempfile()
  two <- withr::local_tempfile()
  write_survey(x[1:3], one)
  write_survey(x[4:6], two)
  survey <- open_survey(c(one, two))
  append_spectra(x[7:9], one)
  expect_identical(as_spectra(survey)$id, x$id[1:6])
  expect_equal(as_spectra(survey)$flux, x$flux[1:6, ], tolerance = 1e-6)
  unlink(one)
  write_survey(x[1:2], one)
  expect_error(as_spectra(survey), class = "spender_error_format")
})

test_that("copies have room for the longest texts, and columns of two kinds of numbers are numbers", {
  x <- small_spectra(6)
  x$meta$note <- c("a", "a", "a", "a", "a", "something longer")
  survey <- survey_of(x)
  copy <- withr::local_tempfile()
  append_spectra(as_spectra(survey[1:5]), copy, text_widths(survey))
  append_spectra(as_spectra(survey[6]), copy)
  expect_identical(survey_catalogue(open_survey(copy), "note")$note, x$meta$note)
  expect_error(append_spectra(x[6], survey_of(x[1:5])$files$path), class = "spender_error_invalid")

  y <- x
  x$meta$number <- 1:6
  y$meta$number <- c(0.5, NA, 3:6)
  both <- open_survey(c(survey_of(x)$files$path, survey_of(y)$files$path))
  expect_identical(survey_catalogue(both, "number")$number, c(1:6, 0.5, NA, 3:6))
  y$meta$number <- "text"
  both <- open_survey(c(survey_of(x)$files$path, survey_of(y)$files$path))
  expect_error(as.data.frame(both), class = "spender_error_format")
  y$meta$flux <- 1
  expect_error(survey_of(y), class = "spender_error_invalid")
})
