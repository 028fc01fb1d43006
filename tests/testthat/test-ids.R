flat <- function(n, ..., id = NULL) {
  wave <- toy_grid()$wave
  spectra(matrix(1, n, length(wave)), matrix(4, n, length(wave)), rep(0.1, n), toy_grid(), id = id, mask_sky = FALSE, ...)
}
big <- c("39627652591521181", "39627652591521182", "39627652591521183")

test_that("ids are exact texts, or refused", {
  expect_identical(flat(3, id = big)$id, big)
  expect_identical(flat(3, id = c(1, 100000, 2^53 - 1))$id, c("1", "100000", "9007199254740991"))
  expect_identical(flat(2, id = factor(c("b", "a")))$id, c("b", "a"))
  expect_identical(flat(2, id = as.Date(c("2020-01-02", "2021-01-02")))$id, c("2020-01-02", "2021-01-02"))
  expect_error(flat(3, id = as.numeric(big)), "2\\^53", class = "spender_error_id")
  for (missing in list(c(1, NA), c(1, NaN), c(1L, NA), c("a", NA))) expect_error(flat(2, id = missing), "missing",
                                                                                 class = "spender_error_id")
  expect_error(flat(2, id = c("a", "")), "empty", class = "spender_error_id")
  withr::local_options(OutDec = ",")
  expect_identical(flat(2, id = c(1.5, 2))$id, c("1.5", "2"))
})

test_that("64-bit integers of bit64 are ids and keys, with or without that package", {
  bits <- function(text) structure(vapply(text, function(t) readBin(rev(int64(t)), "double", 1, endian = "little"), 0, USE.NAMES = FALSE),
                                   class = "integer64")
  ids <- bits(big)
  expect_identical(number_text(ids), big)
  expect_identical(number_text(structure(integer64_missing, class = "integer64")), NA_character_)
  x <- flat(3, id = ids)
  expect_identical(x$id, big)
  joined <- join_catalogue(x, data.frame(tid = rev(seq_along(big)), key = I(rev(big)))[c("key", "tid")], by = c(id = "key"))
  expect_identical(joined$meta$tid, 1:3)
  x$meta$tid <- ids
  expect_identical(number_text(c(x, x[2])$meta$tid), big[c(1, 2, 3, 2)])
  expect_identical(number_text(c(flat(1, id = "q"), x)$meta$tid), c(NA, big))
  path <- withr::local_tempfile(fileext = ".fits")
  expect_identical(as_spectra(write_survey(x, path))$meta$tid, big)
})

test_that("names of rows are followed, or refused where they are others", {
  wave <- toy_grid()$wave
  flux <- matrix(1:3, 3, length(wave), dimnames = list(c("a", "b", "c"), NULL))
  ivar <- matrix(c(3, 1, 2), 3, length(wave), dimnames = list(c("c", "a", "b"), NULL))
  z <- c(c = 0.13, a = 0.11, b = 0.12)
  meta <- data.frame(mass = c(3, 1, 2), row.names = c("c", "a", "b"))
  x <- spectra(flux, ivar, z, toy_grid(), meta = meta, normalize = FALSE, mask_sky = FALSE)
  expect_identical(x$ivar[, 1], c(1, 2, 3))
  expect_identical(x$z, c(0.11, 0.12, 0.13))
  expect_identical(x$meta$mass, c(1, 2, 3))
  rownames(ivar)[1] <- "d"
  expect_error(spectra(flux, ivar, z, toy_grid()), "\"d\" is not among them", class = "spender_error_id")
  names(z)[1] <- "d"
  expect_error(spectra(flux, unname(ivar), z, toy_grid()), "names of `z`", class = "spender_error_id")
  expect_error(spectra(unname(flux), unname(ivar), z, toy_grid(), id = c("a", "b", "c")), "those of `id`", class = "spender_error_id")
  # names that rbind() makes of its arguments say nothing
  a <- b <- rep(1, length(wave))
  one <- rep(4, length(wave))
  two <- rep(5, length(wave))
  expect_warning(x <- spectra(rbind(a, b), rbind(one, two), c(0.1, 0.2), toy_grid(), normalize = FALSE, mask_sky = FALSE), "by their order",
                 class = "spender_warning_names")
  expect_identical(x$ivar[, 1], c(4, 5))
  expect_silent(x <- spectra(rbind(a, b * 2), rbind(one, two), c(0.1, 0.2), toy_grid()))
  expect_identical(x$id, c("1", "2"))
  expect_identical(spectra(unname(flux), unname(ivar), z[c(2, 3, 1)], toy_grid(), normalize = FALSE)$z, c(0.11, 0.12, 0.13))
})

test_that("an object with several rows trains or validates, never both, in memory and from a file", {
  x <- small_spectra(40)
  y <- c(x, x[20:1], x[c(5, 5, 5)])
  expect_identical(anyDuplicated(y$id), 0L)
  membership <- split_rows(y, 0.4, 3)
  expect_identical(membership, split_rows(x, 0.4, 3)[match(y$object, x$id)])
  expect_identical(split_rows(y[60:1], 0.4, 3), membership[60:1])
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(y, path)
  expect_identical(split_rows(survey, 0.4, 3), membership)
  expect_identical(as_spectra(survey)$id, y$id)
  expect_identical(as_spectra(survey)$object, y$object)
  expect_false("OBJECT" %in% survey$columns)
  copy <- withr::local_tempfile(fileext = ".fits")
  expect_identical(split_rows(write_survey(survey[c(1, 1, 30)], copy), 0.4, 3), membership[c(1, 1, 30)])
})

test_that("rows of one id have the same unique ids in memory, in parts and in files", {
  x <- small_spectra(6)
  fit <- small_fit(x, epochs = 1)
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(x, path)[c(1:6, 3, 1, 3)]
  wanted <- make.unique(x$id[c(1:6, 3, 1, 3)])
  expect_identical(as_spectra(survey)$id, wanted)
  expect_identical(as.data.frame(survey)$id, wanted)
  expect_identical(names(predict(fit, survey, "loss")), wanted)
  parts <- list()
  in_parts(survey, function(part, rows) parts[[length(parts) + 1]] <<- part$id, size = 2)
  expect_identical(unlist(parts), wanted)
  results <- withr::local_tempfile(fileext = ".fits")
  predict(fit, survey, "latent", path = results)
  expect_identical(rownames(read_predictions(results)), wanted)
})

test_that("files of one object become one survey, whichever parts they are read in", {
  skip_without_cfitsio()
  folder <- withr::local_tempdir()
  for (name in c("a", "b", "c", "d")) { # a, b and d are of one object
    write_sdss(file.path(folder, paste0("spec-", name, ".fits")),
               object = list(FIBERID = list(type = "J", values = if (name == "c") 7 else 1)))
  }
  files <- list.files(folder, full.names = TRUE)
  together <- read_sdss(files)
  for (part in 1:4) {
    survey <- ingest(files, withr::local_tempfile(fileext = ".fits"), "sdss", TRUE, c(5300, 5850), 1, FALSE, part = part)
    x <- as_spectra(survey)
    expect_identical(x$id, together$id)
    expect_identical(x$object, together$object)
    expect_identical(split_rows(survey, 0.5, 1), split_rows(together, 0.5, 1))
  }
})

test_that("rows with objects are appended where the file has objects", {
  x <- small_spectra(4)
  path <- withr::local_tempfile(fileext = ".fits")
  append_spectra(x[c(1, 1)], path)
  append_spectra(x[2], path, list())
  finish_survey(path)
  expect_identical(as_spectra(open_survey(path))$object, x$id[c(1, 1, 2)])
})
