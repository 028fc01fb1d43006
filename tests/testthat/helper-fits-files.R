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

# A decimal number as the 8 bytes of a 64-bit integer
int64 <- function(text) {
  if (startsWith(text, "-")) { # the complement of what is one less
    bytes <- as.integer(int64(substring(text, 2)))
    last <- max(which(bytes > 0))
    bytes[last] <- bytes[last] - 1L
    bytes[seq_len(8) > last] <- 255L
    return(as.raw(255L - bytes))
  }
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

gzipped <- function(bytes) {
  path <- withr::local_tempfile()
  con <- gzfile(path, "wb")
  writeBin(bytes, con)
  close(con)
  readBin(path, raw(), 1e7)
}
bytes_of <- function(path) readBin(path, raw(), 1e7)

# An image extension of a matrix with a row for each row of the image, of an array of images, or of a vector. `zero`:
# BZERO of unsigned integers. `packed`: as a tile-compressed image, a gzipped tile for each row.
fits_image <- function(name, values, bitpix = -32, zero = NULL, packed = FALSE) {
  rows <- if (is.matrix(values)) nrow(values) else 1
  width <- length(values) / max(rows, 1)
  if (!is.null(zero)) values <- values - zero
  write <- function(v) { # R's missing integer is -2^31
    writeBin(if (bitpix > 0) suppressWarnings(as.integer(v)) else as.double(v), raw(), size = abs(bitpix) / 8, endian = "big")
  }
  scaling <- if (!is.null(zero)) list(BSCALE = 1, BZERO = zero)
  axes <- if (is.null(dim(values))) width else rev(dim(values))
  shape <- function(prefix) {
    setNames(c(list(bitpix, length(axes)), as.list(axes)), paste0(prefix, c("BITPIX", "NAXIS", paste0("NAXIS", seq_along(axes)))))
  }
  if (!packed) {
    body <- write(if (is.null(dim(values))) values else aperm(values))
    return(c(do.call(fits_header, c(list(XTENSION = "IMAGE"), shape(""), list(PCOUNT = 0, GCOUNT = 1, EXTNAME = name), scaling)), body,
             raw((-length(body)) %% 2880)))
  }
  tiles <- lapply(seq_len(rows), function(i) gzipped(write(values[i, ])))
  sizes <- lengths(tiles)
  pointers <- writeBin(as.integer(rbind(sizes, cumsum(c(0, sizes))[seq_len(rows)])), raw(), size = 4, endian = "big")
  body <- c(pointers, unlist(tiles))
  c(do.call(fits_header, c(list(XTENSION = "BINTABLE", BITPIX = 8, NAXIS = 2, NAXIS1 = 8, NAXIS2 = rows, PCOUNT = sum(sizes), GCOUNT = 1,
                                TFIELDS = 1, TTYPE1 = "COMPRESSED_DATA", TFORM1 = sprintf("1PB(%d)", max(sizes)), ZIMAGE = TRUE),
                           shape("Z"), list(ZTILE1 = width, ZTILE2 = 1, ZCMPTYPE = "GZIP_1", EXTNAME = name), scaling)), body,
    raw((-length(body)) %% 2880))
}

# Pixels of made-up arms of DESI, from 0 on its grid: they overlap, and hold the window of the norm at small redshifts
desi_arms <- function() list(B = 2100:2399, R = 2380:2699, Z = 2690:2899)
desi_grid <- function() instrument(instrument("desi")$wave[2101:2900], "part of DESI")

# A small file as DESI makes them, with a redrock file beside it (`redshifts`: its columns, in another order of rows; NULL for none).
# hdus: what changes HDUs, which are raw vectors, by name. fibermap: columns that are added or, if NULL, left out. pixels(arm, plane):
# matrices of ids and the arm's pixels. mask: arguments of fits_image()
write_desi <- function(path, ids = c("39627866878511337", "-2713437", "7"), pixels = function(arm, plane) NULL, fibermap = list(),
                       redshifts = list(), hdus = identity, mask = list(), cards = list(SURVEY = "sv3", PROGRAM = "bright",
                                                                                       HPXPIXEL = 26065)) {
  n <- length(ids)
  number <- function(values, type = "D") list(type = type, values = rep_len(values, n))
  targets <- rev(unique(ids))
  fibermap <- utils::modifyList(list(
    TARGETID = list(type = "K", values = ids), OBJTYPE = number("TGT", "3A"), COADD_FIBERSTATUS = number(0, "J"),
    TARGET_RA = number(seq_len(n)), TARGET_DEC = number(-seq_len(n)), DESI_TARGET = number("0", "K"), BGS_TARGET = number("0", "K"),
    SV3_DESI_TARGET = number("1152921504606846977", "K"), SV3_BGS_TARGET = number("2", "K"), COADD_NUMEXP = number(3, "I")
  ), fibermap)
  file <- list(
    primary = do.call(fits_header, c(list(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), cards)),
    FIBERMAP = fits_table(fibermap, EXTNAME = "FIBERMAP")
  )
  for (arm in names(desi_arms())) {
    m <- desi_arms()[[arm]]
    plane <- function(name, value) {
      given <- pixels(arm, name)
      if (is.null(given)) matrix(value, n, length(m)) else given
    }
    file[[paste0(arm, "_WAVELENGTH")]] <- fits_image(paste0(arm, "_WAVELENGTH"), 3600 + 0.8 * m, -64)
    file[[paste0(arm, "_FLUX")]] <- fits_image(paste0(arm, "_FLUX"), plane("FLUX", 2))
    file[[paste0(arm, "_IVAR")]] <- fits_image(paste0(arm, "_IVAR"), plane("IVAR", 4))
    if (!is.null(pixels(arm, "RESOLUTION"))) {
      file[[paste0(arm, "_RESOLUTION")]] <- fits_image(paste0(arm, "_RESOLUTION"), pixels(arm, "RESOLUTION"))
    }
    file[[paste0(arm, "_MASK")]] <- do.call(fits_image, c(list(paste0(arm, "_MASK"), plane("MASK", 0)),
                                                          utils::modifyList(list(bitpix = 32), mask)))
  }
  bytes <- unlist(hdus(file), use.names = FALSE)
  is_packed <- endsWith(path, ".gz")
  writeBin(if (is_packed) gzipped(bytes) else bytes, path)
  if (is.null(redshifts)) return(invisible(path))
  n <- length(targets)
  redshifts <- utils::modifyList(list(
    TARGETID = list(type = "K", values = targets), Z = number(match(targets, unique(ids)) / 1000), ZERR = number(1e-5),
    ZWARN = number("0", "K"),
    SPECTYPE = number("GALAXY", "6A"), SUBTYPE = number("", "20A"), DELTACHI2 = number(1000)
  ), redshifts)
  writeBin(c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), fits_table(redshifts, EXTNAME = "REDSHIFTS")),
           file.path(dirname(path), sub("\\.gz$", "", sub("^[a-z]+-", "redrock-", basename(path)))))
  invisible(path)
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

# What astropy reads, or a skip: a list of the files that fits-reference.py writes
reference <- function(kind, path) {
  python <- Sys.which("python3")
  run <- function(...) system2(python, c(...), env = "LD_LIBRARY_PATH=", stdout = FALSE, stderr = FALSE) # of R, not of python
  testthat::skip_if_not(nzchar(python) && run("-c", shQuote("import astropy.io.fits")) == 0, "no python3 with astropy")
  out <- withr::local_tempfile()
  testthat::expect_identical(run(testthat::test_path("fits-reference.py"), kind, shQuote(path), out), 0L)
  numbers <- function(name) readBin(paste0(out, name), "double", 1e7)
  list(id = readLines(paste0(out, ".id")), z = if (file.exists(paste0(out, ".z"))) numbers(".z"),
       pixels = if (file.exists(paste0(out, ".pixels"))) numbers(".pixels"), wave = if (file.exists(paste0(out, ".wave"))) numbers(".wave"),
       bits = if (file.exists(paste0(out, ".bits"))) numbers(".bits"))
}

# A spectrum without sky mask against what reference("sdss") has read
expect_sdss_reference <- function(x, ours, mask) {
  pixels <- matrix(ours$pixels, ncol = 6)
  at <- round((pixels[, 4] - log10(x$instrument$wave[1])) / 1e-4) + 1
  on <- at >= 1 & at <= length(x$instrument$wave)
  ivar <- pixels[on, if (mask == "and") 2 else 3]
  good <- is.finite(pixels[on, 1]) & is.finite(ivar)
  norm <- if (is.na(x$norm)) 1 else x$norm
  testthat::expect_equal((x$flux[1, ] * norm)[at[on]], ifelse(good, pixels[on, 1], 0), tolerance = 1e-14)
  testthat::expect_equal((x$ivar[1, ] / norm^2)[at[on]], ifelse(good & ivar > 1e-6, ivar, 0), tolerance = 1e-14)
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
