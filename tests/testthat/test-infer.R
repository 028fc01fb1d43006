# One pass through a fit: several results, from memory and from files, to memory and to files.

fitted_once <- NULL
fit_of <- function() {
  if (is.null(fitted_once)) fitted_once <<- small_fit(small_spectra(), lsf = 3)
  fitted_once
}
survey_of <- function(x, env = parent.frame()) write_survey(x, withr::local_tempfile(fileext = ".fits", .local_envir = env))
rows_there <- function(path) .Call(ffi_survey_info, path)$n
bytes_of <- function(path) readBin(path, raw(), file.size(path))

test_that("more rows than a segment has give what each of them gives", {
  skip_on_cran() # takes seconds
  x <- small_spectra(60)
  x$norm[7] <- NA
  survey <- write_survey(x, withr::local_tempfile(fileext = ".fits"))
  fit <- small_fit(x[-7], epochs = 1)
  rows <- rep(1:60, 1120) # SEGMENT in src/r-infer.c is 65536
  many <- survey[rows]
  expect_warning(one <- predict(fit, survey, c("latent", "loss"), threads = 2), class = "spender_warning_no_norm")
  expect_warning(all <- predict(fit, many, c("latent", "loss"), threads = 2), class = "spender_warning_no_norm")
  expect_identical(unname(all$latent), unname(one$latent)[rows, ])
  expect_identical(unname(all$loss), unname(one$loss)[rows])
  path <- withr::local_tempfile(fileext = ".fits")
  expect_warning(predict(fit, many, c("latent", "loss"), path = path, threads = 2), class = "spender_warning_no_norm")
  written <- read_predictions(path)
  expect_identical(unname(written$loss), as_float32(unname(all$loss)))
  expect_identical(names(written$loss), survey_ids(many))
})

test_that("several types come from one pass, with the bits of each alone", {
  on_cpu()
  fit <- fit_of()
  x <- small_spectra(70)
  survey <- survey_of(x)
  types <- c("latent", "loss", "rest", "observed", "chi2", "covariance")
  for (refine in c(0, 2)) {
    all <- predict(fit, x, types, refine = refine, threads = 1)
    expect_identical(names(all), types)
    for (type in types) expect_identical(all[[type]], predict(fit, x, type, refine = refine, threads = 3, batch_size = 9), info = type)
    expect_identical(predict(fit, survey, types, refine = refine, threads = 2, batch_size = 16), all)
  }
  expect_identical(predict(fit, x, c("loss", "loss")), predict(fit, x, "loss"))
  with_z <- predict(fit, x, c("z", "latent"), refine = 2, refine_z = TRUE)
  expect_identical(with_z$z, predict(fit, x, "z", refine = 2))
  expect_error(predict(fit, x, c("z", "latent")), "refine_z = TRUE", class = "spender_error_invalid")
  expect_error(predict(fit, x, c("latent", "nonsense")), "should be one of")
})

test_that("columns of the catalogue go with the result, to memory and to a file", {
  fit <- fit_of()
  x <- small_spectra(20)
  x$meta$when <- as.Date("2026-11-28") + seq_len(20)
  x$norm[4] <- NA
  survey <- survey_of(x)
  quietly <- function(expr) suppressWarnings(expr, classes = "spender_warning_no_norm")
  table <- quietly(predict(fit, x, c("latent", "loss", "rest"), keep = c("subclass", "norm")))
  expect_identical(names(table), c("id", "z", "norm", "subclass", "s1", "s2", "loss", "rest"))
  expect_identical(table$z, x$z)
  expect_identical(table$s2, unname(quietly(predict(fit, x, "latent"))[, 2]))
  expect_identical(dim(table$rest), c(20L, length(fit$wave_rest)))
  expect_identical(quietly(predict(fit, survey, c("latent", "loss", "rest"), keep = c("subclass", "norm"))), table)
  expect_error(predict(fit, x, keep = "mass"), "no column `mass`; it has class", class = "spender_error_invalid")
  expect_error(predict(fit, survey, keep = 1), "`keep`", class = "spender_error_invalid")
  for (source in list(x, survey)) {
    path <- withr::local_tempfile(fileext = ".fits")
    quietly(predict(fit, source, c("latent", "z"), refine = 2, refine_z = TRUE, keep = c("subclass", "when"), path = path))
    both <- quietly(predict(fit, source, c("latent", "z"), refine = 2, refine_z = TRUE, keep = c("subclass", "when")))
    there <- read_predictions(path, table = TRUE)
    expect_identical(names(there), c("id", "z", "norm", "subclass", "when", "s1", "s2", "z_refined", "z_err", "improvement", "moved"))
    expect_identical(there$when, as.character(x$meta$when))
    expect_identical(there[c("id", "z", "subclass")], both[c("id", "z", "subclass")])
    expect_equal(there$s1, both$s1, tolerance = 1e-6)
    expect_identical(is.na(there$z_refined), seq_len(20) == 4)
    expect_identical(names(read_predictions(path)), c("latent", "z"))
    expect_error(predict(fit, source, c("latent", "z"), refine = 2, refine_z = TRUE, path = path), "the same ids",
                 class = "spender_error_exists")
  }
  expect_error(predict(fit, x, c("rest", "observed"), path = tempfile()), "one grid", class = "spender_error_invalid")
})

test_that("a file of all types is known again", {
  x <- small_spectra(10)
  fit <- small_fit(x, flux_calibration = flux_calibration())
  path <- withr::local_tempfile(fileext = ".fits")
  again <- function(refine) {
    predict(fit, x, c("observed", "latent", "loss", "chi2", "covariance", "z", "calibration"), path = path, refine = refine,
            refine_z = TRUE)
  }
  again(2)
  expect_silent(again(2))
  expect_error(again(3), "not the same refine", class = "spender_error_exists")
})

test_that("a damaged spectrum ends a prediction, which keeps its rows and goes on when the survey is whole", {
  on_cpu() # batches differ, the bits of spectra do not
  fit <- fit_of()
  x <- small_spectra(300)
  survey <- survey_of(x[!is.na(x$norm)])
  file <- survey$files$path
  whole <- withr::local_tempfile(fileext = ".fits")
  predict(fit, survey, c("latent", "loss"), path = whole)
  good <- bytes_of(file)
  bad <- good
  at <- length(bad) - 40000
  bad[at] <- xor(bad[at], as.raw(1))
  writeBin(bad, file)
  changed <- open_survey(file)
  path <- withr::local_tempfile(fileext = ".fits")
  expect_error(predict(fit, changed, c("latent", "loss"), path = path, batch_size = 32), "checksum of spectrum 2",
               class = "spender_error_format")
  kept <- .Call(ffi_survey_info, path)
  expect_gt(kept$n, 200)
  expect_lt(kept$n, length(survey))
  expect_false(kept$finished)
  expect_identical(read_predictions(path)$loss, read_predictions(whole)$loss[seq_len(kept$n)])
  writeBin(good, file)
  predict(fit, open_survey(file), c("latent", "loss"), path = path)
  expect_identical(bytes_of(path), bytes_of(whole))
  writeBin(good[seq_len(length(good) / 2)], file)
  expect_error(predict(fit, survey, "latent"), "changed or replaced", class = "spender_error_changed")
})

test_that("one file has one writer", {
  fit <- fit_of()
  x <- small_spectra(10)
  path <- withr::local_tempfile(fileext = ".fits")
  predict(fit, x, "loss", path = path)
  before <- bytes_of(path)
  session <- .Call(ffi_survey_write, path, 4)
  expect_error(predict(fit, x, "loss", path = path), "is being written", class = "spender_error_io")
  expect_error(predict(fit, x, "loss", path = path, overwrite = TRUE), "is being written", class = "spender_error_io")
  expect_error(write_survey(x, path, overwrite = TRUE), "is being written", class = "spender_error_io")
  close_session(session)
  predict(fit, x, "loss", path = path)
  expect_identical(bytes_of(path), before)
})

# R code in a process of its own, in a folder with survey.fits (2000 spectra) and fit.rds; before: commands of the shell
run_apart <- function(folder, code, before = "") {
  saveRDS(fit_of(), file.path(folder, "fit.rds"))
  simulate_survey(2000, file.path(folder, "survey.fits"), instrument = small_instrument(), seed = 1, overwrite = TRUE, progress = FALSE)
  script <- file.path(folder, "script.R")
  writeLines(c("library(spender)", sprintf("setwd(\"%s\")", folder), "fit <- readRDS(\"fit.rds\"); survey <- open_survey(\"survey.fits\")",
               code), script)
  command <- paste(before, "exec", shQuote(file.path(R.home("bin"), "Rscript")), "--vanilla", shQuote(script), "2>&1")
  suppressWarnings(system2("sh", c("-c", shQuote(command)), stdout = TRUE))
}

test_that("a full disk is an error, and an interrupt ends it within a second: both keep whole rows", {
  skip_on_cran()
  skip_on_os("windows")
  folder <- withr::local_tempdir()
  output <- run_apart(folder, 'tryCatch(predict(fit, survey, "observed", path = "full.fits", threads = 1),
                               spender_error_io = function(e) cat("io:", conditionMessage(e), "\\n"))', "trap '' XFSZ; ulimit -f 2048;")
  full <- file.path(folder, "full.fits")
  if (file.exists(full) && rows_there(full) == 2000) skip("ulimit -f has other units here")
  expect_match(output, "io: full.fits: writing failed", all = FALSE)
  expect_lt(rows_there(full), 2000)
  output <- run_apart(folder, 'fit <- spender(survey[1:200], latents = 2, epochs = 1, progress = FALSE, threads = 1, init = "random")
    system(paste("(sleep 1; kill -INT", Sys.getpid(), ") &")); begun <- sum(proc.time()[1:2])
    tryCatch(for (i in 1:100) predict(fit, survey, "latent", refine = 20, path = "broken.fits", threads = 1, overwrite = TRUE),
             interrupt = function(e) cat("interrupted after", sum(proc.time()[1:2]) - begun, "\\n"))
    n <- .Call(spender:::ffi_survey_info, "broken.fits")$n
    cat("rows", n, nrow(read_predictions("broken.fits")), "\\n")')
  expect_match(output, "^interrupted after", all = FALSE)
  # processor time of one thread, in the second before the interrupt and in the one after
  expect_lt(as.double(sub(".* ", "", trimws(grep("^interrupted", output, value = TRUE)))), 2)
  expect_match(output, "^rows", all = FALSE)
})

test_that("progress is silent when told so, and shown otherwise", {
  fit <- fit_of()
  x <- small_spectra(5)
  expect_silent(predict(fit, x, "loss", progress = FALSE))
  expect_error(predict(fit, x, "loss", progress = 1), "`progress`", class = "spender_error_invalid")
  withr::local_options(cli.progress_show_after = 0, cli.dynamic = FALSE, cli.num_colors = 1)
  expect_identical(predict(fit, x, "loss", progress = TRUE), predict(fit, x, "loss"))
  tick <- progress_bar("Spectra", 10, FALSE)
  expect_null(tick(3))
})
