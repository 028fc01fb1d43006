# Where tests find data and make files of their own.

# SPENDER_DATA, else ../shared/data beside the repository, found by walking up from the tests.
data_dir <- function(...) {
  dir <- Sys.getenv("SPENDER_DATA")
  if (!nzchar(dir)) {
    up <- normalizePath(getwd())
    repeat {
      dir <- file.path(dirname(up), "shared", "data")
      if (dir.exists(dir) || up == dirname(up)) break
      up <- dirname(up)
    }
  }
  path <- file.path(dir, ...)
  testthat::skip_if_not(dir.exists(dir), "no real data (set SPENDER_DATA)")
  testthat::skip_if_not(file.exists(path), paste("no real data at", path))
  path
}

skip_without_cfitsio <- function() testthat::skip_if_not(devices()$built[["cfitsio"]], "built without CFITSIO")

# Where SPENDER_TEST_CUDA=1 promises a GPU, tests of it do not skip.
skip_without_cuda <- function() {
  if (Sys.getenv("SPENDER_TEST_CUDA") == "1") return(invisible())
  testthat::skip_if_not(devices()$built[["cuda"]], "built without CUDA")
  testthat::skip_if_not("cuda" %in% devices()$devices$device, "no GPU here")
}

fits_card <- function(key, value) {
  text <- if (is.character(value)) sprintf("'%-8s'", value) else sprintf("%20s",
                                                                         if (is.logical(value)) "T" else format(value, scientific = FALSE))
  sprintf("%-80s", sprintf("%-8s= %s", key, text))
}

fits_header <- function(...) {
  values <- c(...)
  cards <- c(unlist(Map(fits_card, names(list(...)), list(...))), sprintf("%-80s", "END"))
  charToRaw(paste0(c(cards, strrep(" ", (-80 * length(cards)) %% 2880)), collapse = ""))
}

# A decimal number, not negative, as the 8 bytes of a 64-bit integer
int64 <- function(text) {
  digits <- as.integer(strsplit(text, "")[[1]])
  out <- raw(8)
  for (byte in 8:1) {
    left <- 0L
    quotient <- integer()
    for (digit in digits) {
      left <- left * 10L + digit
      quotient <- c(quotient, left %/% 256L)
      left <- left %% 256L
    }
    out[byte] <- as.raw(left)
    digits <- quotient
  }
  out
}

# columns: name = list(type, values) with type one of FITS's letters, rows as in values
fits_table <- function(columns, ...) {
  n <- if (length(columns)) length(columns[[1]]$values) else 0
  cells <- lapply(columns, function(column) {
    bytes <- switch(column$type,
      E = writeBin(as.double(column$values), raw(), size = 4, endian = "big"),
      D = writeBin(as.double(column$values), raw(), size = 8, endian = "big"),
      J = writeBin(as.integer(column$values), raw(), size = 4, endian = "big"),
      I = writeBin(as.integer(column$values), raw(), size = 2, endian = "big"),
      B = as.raw(column$values),
      K = unlist(lapply(column$values, int64)),
      L = as.raw(ifelse(is.na(column$values), 0, ifelse(column$values, 84, 70))),
      `1X` = as.raw(ifelse(column$values, 128, 0)),
      charToRaw(paste0(formatC(column$values, width = -as.integer(sub("A", "", column$type))), collapse = ""))
    )
    matrix(bytes, ncol = n)
  })
  body <- as.vector(do.call(rbind, cells))
  keys <- list(XTENSION = "BINTABLE", BITPIX = 8, NAXIS = 2, NAXIS1 = length(body) / max(n, 1), NAXIS2 = n, PCOUNT = 0, GCOUNT = 1,
               TFIELDS = length(columns))
  for (i in seq_along(columns)) {
    keys[[paste0("TTYPE", i)]] <- names(columns)[i]
    keys[[paste0("TFORM", i)]] <- columns[[i]]$type
  }
  keys <- utils::modifyList(keys, list(...))
  c(do.call(fits_header, keys), body, raw((-length(body)) %% 2880))
}

# A small file as SDSS makes them. `coadd` and `object` change columns (NULL leaves one out); what begins with coadd_ or
# object_ changes header cards.
write_sdss <- function(path, first = 3.58, n = 3800, flux = 2, ivar = 4, coadd = list(), object = list(), coadd_cards = list(),
                       object_cards = list(), hdus = 2, primary = list()) {
  coadd <- utils::modifyList(list(
    flux = list(type = "E", values = rep_len(flux, n)), loglam = list(type = "E", values = first + 1e-4 * (seq_len(n) - 1)),
    ivar = list(type = "E", values = rep_len(ivar, n)), and_mask = list(type = "J", values = rep(0L, n))
  ), coadd)
  object <- utils::modifyList(list(
    PLATE = list(type = "J", values = 266), MJD = list(type = "J", values = 51602), FIBERID = list(type = "J", values = 13),
    CLASS = list(type = "6A", values = "GALAXY"), SUBCLASS = list(type = "21A", values = ""), Z = list(type = "E", values = 0.125),
    Z_ERR = list(type = "E", values = 2e-5), ZWARNING = list(type = "J", values = 0), SN_MEDIAN_ALL = list(type = "E", values = 4),
    PLATEQUALITY = list(type = "8A", values = "good"), INSTRUMENT = list(type = "4A", values = "SDSS")
  ), object)
  bytes <- list(
    do.call(fits_header, utils::modifyList(list(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), primary)),
    do.call(fits_table, c(list(coadd), coadd_cards)), do.call(fits_table, c(list(object), object_cards))
  )
  writeBin(unlist(bytes[seq_len(1 + hdus)]), path)
  invisible(path)
}

# n spectra on a short grid that has the window at small redshifts
toy_grid <- function() instrument(seq(5000, 7000, by = 4), name = "toy")

toy_spectra <- function(n = 3, ...) {
  wave <- toy_grid()$wave
  flux <- matrix(rep(seq_len(n), length(wave)), n)
  spectra(flux, matrix(4, n, length(wave)), z = 0.1 * seq_len(n) / max(n, 1), wave = toy_grid(), id = letters[seq_len(n)],
          meta = data.frame(plate = seq_len(n), class = rep_len(c("GALAXY", "STAR"), n)), mask_sky = FALSE, ...)
}

# Snapshots are of a UTF-8 session: elsewhere an \u00c5 is an A. The code runs all the same.
if (!l10n_info()[["UTF-8"]]) {
  expect_snapshot <- function(x, ..., error = FALSE) {
    environment <- parent.frame()
    code <- substitute(x)
    for (line in if (is.call(code) && identical(code[[1]], quote(`{`))) as.list(code)[-1] else list(code)) {
      try(suppressWarnings(suppressMessages(utils::capture.output(print(eval(line, environment))))), silent = TRUE)
    }
    testthat::succeed()
  }
}
