# The commands of the command line but `train`. Each has a table of options and a function that does it and returns what --json shows.

# ---- input ----

# Surveys as one survey; else what .rds and other files hold, on the grid of `instrument`. Tells what could not be used.
input_spectra <- function(input, instrument, o) {
  surveys <- input_surveys(input)
  if (!is.null(surveys)) return(surveys)
  is_rds <- grepl("\\.rds$", input, ignore.case = TRUE)
  parts <- lapply(input[is_rds], function(path) {
    x <- tryCatch(suppressWarnings(readRDS(path)), error = function(e) abort("files", path, ": ", conditionMessage(e)))
    if (!inherits(x, "spectra")) abort("files", path, " does not hold spectra()")
    x
  })
  if (any(!is_rds)) {
    read <- function() file_reader(instrument)$read(input[!is_rds], instrument, threads = o$threads, progress = !o$quiet)
    parts <- c(list(without_files_warning(read())), parts)
  }
  x <- do.call(c, parts)
  list_problems(problems(x))
  x
}

# The input as one survey, NULL where it is something else
input_surveys <- function(input) {
  if (any(dir.exists(input)) || any(grepl("\\.rds$", input, ignore.case = TRUE))) return(NULL)
  begins <- vapply(input, function(path) {
    bytes <- readBin(path, raw(), 2880)
    rawToChar(bytes[bytes > 0])
  }, "")
  if (all(grepl("'WAVELENGTH'", begins, fixed = TRUE, useBytes = TRUE))) open_survey(input)
}

# The warning says what the list of problems says.
without_files_warning <- function(code) {
  withCallingHandlers(code, spender_warning_files = function(w) invokeRestart("muffleWarning"))
}

list_problems <- function(found, most = 20) {
  if (!nrow(found)) return(invisible())
  shown <- utils::head(found, most)
  names <- ifelse(is.na(shown$id), shown$file, shown$id)
  message(nrow(found), " with problems:\n", paste0("  ", names, ": ", shown$reason, collapse = "\n"),
          if (nrow(found) > most) paste0("\n  and ", nrow(found) - most, " more"))
}

# list(fit, x) of --model and INPUT
model_and_spectra <- function(o, input) {
  need_input(o, input)
  if (!file.exists(o$model)) abort("files", "there is no model ", o$model, "; --model names one")
  fit <- read_model(o$model)
  x <- input_spectra(input, fit$instrument, o)
  if (!length(x)) abort("files", "no spectra in the input")
  list(fit = fit, x = x)
}

# Arguments of predict() that were given
inference_of <- function(o) Filter(Negate(is.null), list(refine = o$refine, robust = o$robust, prior = if (o$prior) TRUE))

# ---- ingest ----

ingest_options <- function() {
  rbind(
    option("output", "text", "survey.fits", "the survey file to write, or to go on with"),
    option("instrument", "choice:sdss|boss|desi", "sdss", "grid of SDSS or BOSS files; or files of DESI"),
    option("window", "numbers", "5300,5850", "restframe window of the norm, in Angstrom"),
    option("keep-sky", "flag", "", "do not mask the sky's lines"),
    option("resolution", "flag", "", "read the resolution of each spectrum, too"),
    option("mask", "choice:and|or", "and", "the pixel mask of SDSS files, and_mask or or_mask"),
    option("simulate", "number", "", "write this many simulated spectra instead of INPUT"),
    option("seed", "number", "1", "seed of these"),
    common_options()
  )
}

run_ingest <- function(o, input, given) {
  need_input(o, input)
  check_outputs(o$output, o$overwrite, if (is.null(o$simulate)) o$output)
  survey <- if (!is.null(o$simulate)) {
    simulate_survey(o$simulate, o$output, instrument = o$instrument, seed = o$seed, overwrite = o$overwrite, progress = !o$quiet)
  } else {
    without_files_warning(write_survey(input, o$output, o$instrument, mask_sky = !o$`keep-sky`, resolution = o$resolution, mask = o$mask,
                                       window = o$window, threads = o$threads,
                                       overwrite = o$overwrite, progress = !o$quiet))
  }
  rejected <- problems(survey)
  list_problems(rejected)
  message("Wrote ", o$output, ": ", count(length(survey), "spectrum", "spectra"))
  list(output = o$output, spectra = length(survey), problems = nrow(rejected))
}

# ---- encode ----

encode_options <- function() {
  rbind(
    option("output", "text", "latents.fits", "the table to write: FITS, or CSV if it is called .csv"),
    model_option(),
    option("results", paste0("choices:", paste(names(result_columns), collapse = "|")), "latent,loss", "what to write"),
    option("keep", "texts", "", "columns of the catalogue to write, too"),
    refine_options(),
    option("refine-z", "flag", "", "refine the redshift with the latents"),
    option("batch-size", "number", "", "spectra at a time; 64 on a CPU, 1024 on a GPU, if not given"),
    option("part", "text", "", "only a part, 2/8, to latents-2-of-8.fits; rank: that of this process"),
    device_options(),
    common_options()
  )
}

run_encode <- function(o, input, given) {
  csv <- is_csv(o$output)
  if (csv && !is.null(o$part)) usage("--part needs an --output of FITS")
  check_outputs(o$output, o$overwrite || !is.null(o$part), if (!csv) o$output)
  what <- model_and_spectra(o, input)
  arguments <- c(list(what$fit, quote(what$x), o$results, keep = o$keep, device = o$device, precision = o$precision, threads = o$threads,
                      batch_size = o$`batch-size`, refine_z = o$`refine-z`, progress = !o$quiet), inference_of(o))
  if (csv) {
    arguments$keep <- as.character(o$keep) # a data frame, of no further columns, too
    utils::write.csv(do.call(predict, arguments), o$output, row.names = FALSE)
  } else {
    o$output <- do.call(predict, c(arguments, list(path = o$output, part = o$part, overwrite = o$overwrite)))
  }
  message("Wrote ", o$output)
  list(output = o$output, spectra = if (csv) length(what$x) else .Call(ffi_survey_info, o$output)$n, results = I(o$results))
}

# ---- join ----

join_options <- function() rbind(option("output", "text", "latents.fits", "the file to write"), common_options())

run_join <- function(o, input, given) {
  need_input(o, input)
  check_outputs(o$output, o$overwrite)
  join_predictions(input, o$output, overwrite = o$overwrite, progress = !o$quiet)
  message("Wrote ", o$output)
  list(output = o$output, spectra = .Call(ffi_survey_info, o$output)$n)
}

# ---- outliers ----

outliers_options <- function() {
  rbind(
    option("output", "text", "outliers.csv", "the table to write, in the order of the spectra"),
    model_option(),
    option("density", "text", "", "the density of ordinary latents, as --density-file writes it; that of INPUT if not given"),
    option("density-file", "text", "", "also write the density that was fitted"),
    option("fdr", "number", "0.1", "false discovery rate"),
    option("seed", "number", "1", "seed of the density's fit"),
    refine_options(),
    common_options()
  )
}

run_outliers <- function(o, input, given) {
  if (!is.null(o$density) && !is.null(o$`density-file`)) usage("--density and --density-file exclude each other")
  check_outputs(c(o$output, o$`density-file`), o$overwrite)
  what <- model_and_spectra(o, input)
  inference <- inference_of(o)
  density <- if (is.null(o$density)) {
    do.call(latent_density, c(list(quote(what$x), what$fit, seed = o$seed, threads = o$threads, progress = !o$quiet), inference))
  } else {
    if (!file.exists(o$density)) abort("files", "there is no density ", o$density)
    read_density(o$density)
  }
  if (!is.null(o$`density-file`)) write_density(density, o$`density-file`, overwrite = o$overwrite)
  found <- do.call(outliers, c(list(what$fit, quote(what$x), density, fdr = o$fdr, threads = o$threads), inference))
  utils::write.csv(as.data.frame(found), o$output, row.names = FALSE)
  odd <- sum(!is.na(found$reason))
  message("Wrote ", o$output, ": ", odd, " of ", count(nrow(found), "spectrum", "spectra"), " at a false discovery rate of ", o$fdr)
  list(output = o$output, spectra = nrow(found), outliers = odd)
}

# ---- explore ----

explore_options <- function() {
  rbind(
    option("output", "text", "explore.html", "the page to write"),
    model_option(),
    option("unusual", "text", "", "a table of outliers, to list the most unusual by it; by reduced chi^2 if not given"),
    option("colour", "text", "", "column that colours the map; a class, or the reduced chi^2, if not given"),
    option("no-umap", "flag", "", "no UMAP of the latents"),
    option("spectra", "choice:auto|page|beside|none", "auto", "where the spectra are: in the page, in a folder beside it, or nowhere"),
    option("most", "number", "100", "megabytes of spectra that auto puts into the page"),
    option("title", "text", "", "title of the page"),
    refine_options("2"),
    device_options(),
    common_options()
  )
}

run_explore <- function(o, input, given) {
  check_outputs(o$output, o$overwrite)
  what <- model_and_spectra(o, input)
  unusual <- if (!is.null(o$unusual)) {
    if (!file.exists(o$unusual)) abort("files", "there is no table ", o$unusual)
    utils::read.csv(o$unusual, colClasses = c(id = "character"))
  }
  page <- do.call(explore, c(list(what$fit, quote(what$x), o$output, unusual = unusual, colour = o$colour, umap = !o$`no-umap`,
                                  spectra = o$spectra, most = o$most, title = o$title, overwrite = o$overwrite, device = o$device,
                                  precision = o$precision, threads = o$threads), inference_of(o)))
  message("Wrote ", o$output)
  list(output = o$output, spectra = page$n, bytes = page$bytes)
}
