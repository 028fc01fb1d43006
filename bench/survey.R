#!/usr/bin/env Rscript
# Surveys larger than memory: making one, training from it in bounded memory, what streaming costs, and how fast files are taken in.
#
#   Rscript bench/survey.R FOLDER [name=value ...]      FOLDER: for gigabytes of temporary files
#     spectra=200000  compare=50000  files=5000  sdss=FOLDER of spec-*.fits to replicate (none: no ingestion)
# Each part is a process of its own, whose largest resident memory (VmHWM) is printed. The package is what R finds.
arguments <- commandArgs(TRUE)
options <- list(spectra = 200000, compare = 50000, files = 5000, sdss = "")
for (argument in grep("=", arguments[-1], value = TRUE)) {
  parts <- regmatches(argument, regexec("^([a-z]+)=(.*)$", argument))[[1]]
  options[[parts[2]]] <- if (is.numeric(options[[parts[2]]])) as.numeric(parts[3]) else parts[3]
}
if (!length(arguments) || !dir.exists(arguments[1])) stop("usage: survey.R FOLDER [name=value ...]")
folder <- arguments[1]

# Runs code with `folder` and `options`; shows what it prints and its largest resident memory.
part <- function(title, code) {
  prelude <- 'suppressPackageStartupMessages(library(spender))
    network <- spender_network(filters = c(8, 16, 32), encoder_hidden = c(32, 16), decoder_hidden = c(16, 64))
    train <- function(x, epochs) spender(x, latents = 4, network = network, epochs = epochs, validation = 0.1, progress = FALSE)
    rate <- function(fit, n) cat(sprintf("%.0f spectra/s, losses %s\\n", n * nrow(fit$history) / tail(fit$history$seconds, 1),
                                         paste(sprintf("%.17g", unlist(fit$history[2:3])), collapse = " ")))'
  postlude <- 'cat(sub("VmHWM: *", "largest resident memory ", grep("VmHWM", readLines("/proc/self/status"), value = TRUE)), "\\n")'
  script <- tempfile(fileext = ".R")
  writeLines(c(sprintf("folder <- %s; options <- %s", deparse(folder), paste(deparse(options), collapse = "")), prelude, code, postlude),
             script)
  cat("== ", title, "\n", sep = "")
  seconds <- system.time(system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", script)))[["elapsed"]]
  cat(sprintf("%.1f s in all\n", seconds))
}

if (nzchar(options$sdss)) {
  part("ingestion of SDSS files, from the page cache", '
    from <- list.files(options$sdss, "^spec-.*fits$", full.names = TRUE, recursive = TRUE)
    many <- file.path(folder, "files")
    dir.create(many)
    for (i in seq_len(options$files)) file.copy(from[(i - 1) %% length(from) + 1], file.path(many, sprintf("spec-%07d.fits", i)))
    files <- list.files(many, full.names = TRUE)
    invisible(lapply(files, function(f) readBin(f, raw(), 1e7)))
    seconds <- system.time(suppressWarnings(read_sdss(head(files, 1000), progress = FALSE)))[["elapsed"]]
    cat(sprintf("read_sdss(): %.0f files/s\\n", min(1000, length(files)) / seconds))
    seconds <- system.time(survey <- suppressWarnings(write_survey(files, file.path(folder, "ingested.fits"),
                                                                   progress = FALSE)))[["elapsed"]]
    cat(sprintf("write_survey(): %d files, %.0f files/s\\n", length(files), length(files) / seconds))
    unlink(c(many, file.path(folder, "ingested.fits")), recursive = TRUE)')
}
part(sprintf("a simulated survey of %g spectra", options$spectra), '
    seconds <- system.time(survey <- simulate_survey(options$spectra, file.path(folder, "survey.fits"), seed = 1,
                                                     progress = FALSE))[["elapsed"]]
    cat(sprintf("%.0f spectra/s, %.2f GB\\n", options$spectra / seconds, file.size(file.path(folder, "survey.fits")) / 1e9))')
part("training on all of it, one epoch, streamed", '
    survey <- open_survey(file.path(folder, "survey.fits"))
    rate(train(survey, 1), length(survey))')
for (repetition in 1:2) {
  part(sprintf("training on %g of them, two epochs, streamed (from the page cache)", options$compare), '
    survey <- open_survey(file.path(folder, "survey.fits"))[seq_len(options$compare)]
    rate(train(survey, 2), length(survey))')
  part("the same, in memory", '
    x <- as_spectra(open_survey(file.path(folder, "survey.fits"))[seq_len(options$compare)])
    rate(train(x, 2), length(x))')
}
unlink(file.path(folder, "survey.fits"))
