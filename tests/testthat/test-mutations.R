# Files and objects that were changed at random: whatever comes of them, the session goes on, in good time. SPENDER_MUTATIONS says how many
# of each kind (5,400 of each kind of file and 36,450 of objects were tried under ASan and UBSan).
mutations <- as.numeric(Sys.getenv("SPENDER_MUTATIONS", "40"))

# One to four changes: a flipped bit, random bytes, digits or cards of a header, a cut, a part twice, two parts that change places
mutate <- function(bytes) {
  for (k in seq_len(sample(4, 1))) {
    n <- length(bytes)
    if (n < 200) return(bytes)
    at <- sample(n, 1)
    size <- min(sample(c(1, 4, 80, 2880), 1), n - at + 1)
    part <- at + seq_len(size) - 1
    header <- sample(min(n, 9000), 1)
    bytes <- switch(sample(7, 1),
      replace(bytes, at, xor(bytes[at], as.raw(2^sample(0:7, 1)))),
      replace(bytes, part, as.raw(sample(0:255, size, TRUE))),
      replace(bytes, header, sample(charToRaw("0123456789-+.EDTFX' "), 1)),
      bytes[seq_len(at - 1)],
      c(bytes[seq_len(at + size - 1)], bytes[part], bytes[seq_len(n) >= at + size]),
      replace(bytes, part, rev(bytes[part])),
      replace(bytes, part, as.raw(sample(c(0, 255, 127, 128), 1)))
    )
  }
  bytes
}

mutate_object <- function(x) {
  if (is.list(x) && length(x) && sample(3, 1) > 1) {
    i <- sample(length(x), 1)
    y <- unclass(x)
    y[i] <- list(if (sample(2, 1) == 1) mutate_object(y[[i]]) else sample(wrong_things(), 1)[[1]])
    attributes(y) <- attributes(x)
    return(y)
  }
  switch(sample(4, 1), sample(wrong_things(), 1)[[1]], if (length(x) > 1) x[-1] else x, c(x, x),
         if (is.numeric(x)) replace(x, 1, NaN) else NULL)
}
wrong_things <- function() {
  list(NULL, NA, 0, -1, Inf, 1e300, "a", NA_character_, list(), list(1), raw(3), matrix(0, 2, 2), data.frame(a = 1:2), c(1, 2, 3),
       integer(), TRUE, quote(a), factor("a"))
}

# use(path or object) is run on mutations of a file's bytes; returns how many were read without an error
survived <- function(bytes, use, extension = ".fits") {
  path <- withr::local_tempfile(fileext = extension)
  read <- 0
  slowest <- 0
  for (i in seq_len(mutations)) {
    writeBin(mutate(bytes), path)
    started <- proc.time()[["elapsed"]]
    read <- read + tryCatch({
      suppressMessages(suppressWarnings(utils::capture.output(use(path))))
      1
    }, error = function(e) 0)
    slowest <- max(slowest, proc.time()[["elapsed"]] - started)
  }
  expect_lt(slowest, 30)
  read
}

test_that("files that were changed at random do not end the session", {
  skip_on_cran() # takes seconds
  skip_without_cfitsio()
  withr::local_seed(as.numeric(Sys.getenv("SPENDER_MUTATION_SEED", "1")))
  folder <- withr::local_tempdir()
  at <- function(name) file.path(folder, name)
  x <- small_spectra(5)
  fit <- small_fit(x, epochs = 1)
  catalogue <- c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE), fits_table(list(
    TARGETID = list(type = "K", values = c("39627652591521181", "7")), GOOD = list(type = "L",
                                                                                   values = c(TRUE, NA)), BIT = list(type = "1X",
                                                                                                                     values = c(TRUE,
                                                                                                                                FALSE)),
    Z = list(type = "E", values = c(0.1, NaN)), Z_ERR = list(type = "D", values = c(1e-5, 1)), CLASS = list(type = "6A",
                                                                                                            values = c("GALAXY", "STAR")),
    FLAGS = list(type = "J", values = c(1, 2)), SCALED = list(type = "I", values = 3:4)), TZERO7 = 2147483648, TSCAL8 = 0.5, TNULL8 = 3))
  columns <- c("TARGETID", "GOOD", "BIT", "Z", "Z_ERR", "CLASS", "FLAGS", "SCALED")
  read <- c(
    catalogue = survived(catalogue, function(path) read_catalogue(path, columns)),
    catalogue_gz = survived(gzipped(catalogue), function(path) read_catalogue(path, columns)),
    unpacked = survived(catalogue, function(path) {
      writeBin(gzipped(bytes_of(path)), at("again.gz"))
      read_catalogue(at("again.gz"), columns)
    })
  )
  write_sdss(at("spec.fits"), n = 60)
  spec <- bytes_of(at("spec.fits"))
  use_spec <- function(path) read_sdss(path, progress = FALSE)
  read <- c(read, spec = survived(spec, use_spec), spec_gz = survived(gzipped(spec), use_spec),
            spec_unpacked = survived(spec, function(path) {
    writeBin(gzipped(bytes_of(path)), at("spec.fits.gz"))
    use_spec(at("spec.fits.gz"))
  }))
  # with masks of both kinds, packed and not
  use_desi <- function(path) read_desi(path, desi_grid(), progress = FALSE, redshifts = data.frame(targetid = c("7", "-2713437"), z = 0.1))
  for (packed in c(FALSE, TRUE)) {
    write_desi(at("coadd-a.fits"), mask = list(packed = packed, zero = if (packed) 2147483648))
    read[[if (packed) "desi_packed" else "desi"]] <- survived(bytes_of(at("coadd-a.fits")), use_desi)
  }
  redrock <- bytes_of(at("redrock-a.fits"))
  read[["redrock"]] <- survived(redrock, function(path) {
    file.copy(path, at("redrock-a.fits"), overwrite = TRUE)
    read_desi(at("coadd-a.fits"), desi_grid(), progress = FALSE)
  })
  image <- c(fits_header(SIMPLE = TRUE, BITPIX = -32, NAXIS = 2, NAXIS1 = 4, NAXIS2 = 2, CRVAL1 = 4000, CD1_1 = 1),
             writeBin(as.double(1:8), raw(), size = 4, endian = "big"), raw(2848))
  survey <- bytes_of(write_survey(x, at("survey.fits"))$files$path)
  predict(fit, x, "latent", path = at("results.fits"))
  write_model(fit, at("model.safetensors"))
  checkpoint <- at("checkpoint.safetensors")
  small_fit(x, epochs = 1, checkpoint = checkpoint)
  read <- c(read,
    templates = survived(image, read_templates),
    survey = survived(survey, function(path) {
      s <- open_survey(path)
      print(summary(s))
      as_spectra(s[1:2])
      predict(fit, s, "loss")
      as.data.frame(s)
    }),
    appended = survived(survey, function(path) append_spectra(x, path)),
    results = survived(bytes_of(at("results.fits")), read_predictions),
    torch = survived(bytes_of(test_path("torch", "five.pt")), function(path) read_model(path, instrument = 3), ".pt"),
    flow = survived(bytes_of(test_path("torch", "flow.pt")), function(path) predict(read_model(path), c(0, 0.1, 0)), ".pt"),
    model = survived(bytes_of(at("model.safetensors")), function(path) predict(read_model(path), x, "loss"), ".safetensors"),
    checkpoint = survived(bytes_of(checkpoint), function(path) small_fit(x, epochs = 1, checkpoint = path, resume = TRUE), ".safetensors")
  )
  expect_lt(sum(read), 0.9 * mutations * length(read)) # the changes do change something
})

test_that("objects that were changed by hand do not end the session", {
  skip_on_cran() # takes seconds
  withr::local_seed(as.numeric(Sys.getenv("SPENDER_MUTATION_SEED", "1")))
  x <- small_spectra(5)
  fit <- small_fit(x, epochs = 1)
  survey <- write_survey(x, withr::local_tempfile(fileext = ".fits"))
  ensemble <- new_ensemble(list(fit, fit))
  uses <- list(
    list(x, list(print, summary, function(y) y[1:2], function(y) c(y, x), function(y) predict(fit, y, "loss"),
                 function(y) attention(fit, y),
                 function(y) small_fit(y, epochs = 1), as.data.frame, problems,
                 function(y) write_survey(y, withr::local_tempfile(fileext = ".fits")))),
    list(fit, list(print, summary, function(f) predict(f, x), function(f) decode(f, c(0, 0)), coef, lsf,
                   function(f) update(f, x, epochs = 1),
                   function(f) write_model(f, withr::local_tempfile(fileext = ".safetensors")), function(f) attention(f, x))),
    list(survey, list(print, summary, as_spectra, as.data.frame, function(s) s[2:1], function(s) predict(fit, s, "latent"))),
    list(ensemble, list(print, summary, function(e) predict(e, x, "rest")))
  )
  done <- 0
  for (use in uses) for (f in use[[2]]) for (i in seq_len(ceiling(mutations / 4))) {
    changed <- mutate_object(use[[1]])
    try(suppressMessages(suppressWarnings(utils::capture.output(f(changed)))), silent = TRUE)
    done <- done + 1
  }
  expect_gt(done, 100)
})
