flat <- function(n, meta = NULL, id = NULL) {
  wave <- toy_grid()$wave
  spectra(matrix(1, n, length(wave)), matrix(4, n, length(wave)), rep(0.1, n), toy_grid(), id = id, meta = meta, mask_sky = FALSE)
}
joined <- function(meta, data, by, id = NULL) suppressWarnings(join_catalogue(flat(nrow(meta), meta, id), data, by))$meta

test_that("keys match by value, a missing one matches nothing", {
  expect_identical(joined(data.frame(ra = c(10, 20, 30)), data.frame(ra = c(10, 20, 30, 40.5), mass = 1:4), "ra")$mass, 1:3)
  expect_identical(joined(data.frame(t = c("a", NA, "c")), data.frame(t = c("a", NA, "NA"), mass = 1:3), "t")$mass, c(1L, NA, NA))
  expect_identical(joined(data.frame(p = c(266, NA, 268)), data.frame(p = c(266, NA, NaN), mass = 1:3), "p")$mass, c(1L, NA, NA))
  expect_identical(joined(data.frame(row.names = 1:2), data.frame(id = c(1, 2, 2.5), mass = 1:3), "id")$mass, 1:2)
  expect_identical(joined(data.frame(d = as.Date("2020-01-01") + 0:1), data.frame(d = as.Date("2020-01-02"), mass = 7), "d")$mass, c(NA, 7))
  expect_identical(joined(data.frame(f = factor(c("b", "a"))), data.frame(f = factor(c("a", "b")), mass = 1:2), "f")$mass, 2:1)
  expect_identical(joined(data.frame(n = c(100000L, 3L)), data.frame(n = c(3, 1e5), mass = 1:2), "n")$mass, 2:1)
  # a number is no text that rounds to it
  big <- c("299489677444933632", "299489677444933633")
  expect_identical(joined(data.frame(row.names = 1:2), data.frame(id = big[2:1], mass = 1:2), "id", id = big)$mass, 2:1)
  # several columns: column by column, not pasted together
  expect_identical(joined(data.frame(a = c("x y", "x"), b = c("z", "y z")), data.frame(a = c("x", "x y"), b = c("y z", "z"), mass = 1:2),
                          c("a", "b"))$mass, 2:1)
  expect_identical(joined(data.frame(a = c(1, 1), b = c(2, NA)), data.frame(a = c(1, 1), b = c(2, NA), mass = 1:2), c("a", "b"))$mass,
                   c(1L, NA))
  expect_error(join_catalogue(flat(1, data.frame(a = 1)), data.frame(a = c(1, 1), mass = 1:2), "a"), "more than one row for 1",
               class = "spender_error_catalogue")
  withr::local_options(OutDec = ",")
  expect_identical(joined(data.frame(ra = c(1.5, 2.5)), data.frame(ra = c("2.5", "1.5"), mass = 1:2), "ra")$mass, 2:1)
})

test_that("columns keep their classes whichever part has them first", {
  a <- flat(2)
  b <- flat(2, data.frame(date = as.Date("2020-01-01") + 0:1, time = as.POSIXct("2020-01-01", tz = "UTC") + 0:1,
                          class = factor(c("g", "q")),
                          span = as.difftime(1:2, units = "mins")))
  b$meta$pair <- matrix(1:4, 2)
  b$meta$list <- list(1, "a")
  for (x in list(c(a, b), rbind(a, b))) {
    expect_identical(lapply(x$meta[3:4, ], class), lapply(b$meta, class))
    expect_identical(x$meta$date, as.Date(c(NA, NA, "2020-01-01", "2020-01-02")))
    expect_true(all(is.na(x$meta$time[1:2])))
    expect_identical(as.character(x$meta$class), c(NA, NA, "g", "q"))
    expect_identical(x$meta$pair, rbind(matrix(NA_integer_, 2, 2), matrix(1:4, 2)))
    expect_identical(x$meta$list, list(NULL, NULL, 1, "a"))
  }
  expect_identical(lapply(c(b, a)$meta, class), lapply(b$meta, class))
  other <- flat(1, data.frame(class = factor("s")))
  expect_identical(levels(c(b, other)$meta$class), c("g", "q", "s"))
  expect_identical(class(as.data.frame(b)$time), class(b$meta$time))
  expect_identical(b[2:1]$meta$date, rev(b$meta$date))
  # what has no common class is refused by name, what has one takes it
  expect_error(c(b, flat(1, data.frame(date = 3))), "`date`", class = "spender_error_catalogue")
  expect_identical(c(flat(1, data.frame(plate = "0266")), flat(1, data.frame(plate = 267L)))$meta$plate, c("0266", "267"))
  expect_identical(c(flat(1, data.frame(k = NA)), flat(1, data.frame(k = as.Date("2020-01-01"))))$meta$k, as.Date(c(NA, "2020-01-01")))
})

test_that("a survey file says which column it cannot hold before it writes anything", {
  path <- withr::local_tempfile(fileext = ".fits")
  x <- flat(2, data.frame(date = as.Date("2020-01-01") + 0:1, time = as.POSIXct("2020-01-01", tz = "UTC") + c(0, 0.5)))
  y <- x
  y$meta$pair <- matrix(1:4, 2)
  expect_error(write_survey(y, path), "`pair`", class = "spender_error_invalid")
  y <- x
  y$meta$notes <- list(1, 2)
  expect_error(write_survey(y, path), "`notes`", class = "spender_error_invalid")
  expect_false(file.exists(path))
  meta <- as_spectra(write_survey(x, path))$meta
  expect_identical(meta$date, c("2020-01-01", "2020-01-02"))
  expect_identical(meta$time, c("2020-01-01T00:00:00.000000", "2020-01-01T00:00:00.500000"))
})

catalogue_of <- function(columns, ..., env = parent.frame()) {
  path <- withr::local_tempfile(fileext = ".fits", .local_envir = env)
  writeBin(c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), fits_table(columns, ...)), path)
  path
}

test_that("columns of a catalogue are read as what they are", {
  skip_without_cfitsio()
  ids <- c("39627652591521181", "7", "39627652591521183")
  path <- catalogue_of(list(
    TARGETID = list(type = "K", values = ids), ZWARN = list(type = "K", values = c("4", "0", "4294967296")), DEEP = list(type = "K",
                                                                                                                         values = ids),
    GOOD = list(type = "L", values = c(TRUE, FALSE, NA)), BIT = list(type = "1X", values = c(TRUE, FALSE, TRUE)),
    FLAGS = list(type = "J", values = c(-2147483647, 0, 5)), SCALED = list(type = "I", values = c(100, -32768, 3)),
    Z = list(type = "E", values = c(0.1, NaN, Inf)), z = list(type = "D", values = c(9, 9, 9)), NAME = list(type = "6A",
                                                                                                            values = c("a", "", "NA"))
  ), TZERO6 = 2147483648, TSCAL7 = 0.5, TNULL7 = -32768)
  wanted <- c("TARGETID", "zwarn", "DEEP", "GOOD", "BIT", "FLAGS", "SCALED", "Z", "NAME", "ABSENT")
  x <- read_catalogue(path, wanted)
  expect_identical(x$targetid, ids)
  expect_identical(x$zwarn, c(4, 0, 4294967296))
  expect_identical(x$deep, ids)
  expect_identical(x$good, c(TRUE, FALSE, NA))
  expect_identical(x$bit, c(TRUE, FALSE, TRUE))
  expect_identical(x$flags, c(1, 2147483648, 2147483653))
  expect_identical(x$scaled, c(50, NA, 1.5))
  expect_equal(x$z, c(0.1, NA, Inf), tolerance = 1e-7)
  expect_identical(x$name, c("a", "", "NA"))
  # gzipped, the same
  packed <- withr::local_tempfile(fileext = ".fits.gz")
  con <- gzfile(packed, "wb")
  writeBin(readBin(path, raw(), 1e6), con)
  close(con)
  expect_identical(read_catalogue(packed, wanted), x)
  # not one value a row: refused by name, a column that was not asked for is none of our business
  vector <- catalogue_of(list(Z = list(type = "E", values = 1), PAIR = list(type = "E", values = 1)), TFORM2 = "2E", NAXIS1 = 12)
  expect_error(read_catalogue(vector, "PAIR"), "'PAIR'.*not one value", class = "spender_error_format")
  # a cut one
  cut <- withr::local_tempfile(fileext = ".fits.gz")
  writeBin(utils::head(readBin(packed, raw(), 1e6), -60), cut)
  expect_error(read_catalogue(cut, "Z"), class = "spender_error")
})

test_that("ASCII tables are tables, too", {
  skip_without_cfitsio()
  rows <- c(sprintf("%8.3f%6d%-5s", 0.125, 266L, "a"), sprintf("%8s%6d%-5s", "", 267L, "bb"))
  header <- fits_header(XTENSION = "TABLE", BITPIX = 8, NAXIS = 2, NAXIS1 = 19, NAXIS2 = 2, PCOUNT = 0, GCOUNT = 1, TFIELDS = 3,
                        TTYPE1 = "Z", TBCOL1 = 1, TFORM1 = "F8.3", TTYPE2 = "PLATE", TBCOL2 = 9, TFORM2 = "I6",
                        TTYPE3 = "NAME", TBCOL3 = 15, TFORM3 = "A5")
  path <- withr::local_tempfile(fileext = ".fits")
  writeBin(c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), header,
             charToRaw(paste0(c(rows, strrep(" ", 2880 - 38)), collapse = ""))), path)
  x <- read_catalogue(path, c("Z", "PLATE", "NAME"))
  expect_identical(x$plate, c(266, 267))
  expect_identical(x$name, c("a", "bb"))
  expect_equal(x$z[1], 0.125)
})
