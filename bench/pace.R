#!/usr/bin/env Rscript
# What surrounds the arithmetic: for each path of inference (types; from memory or streamed from a file; to R or to a file) its rate beside
# the device's own, measured before and after it on one batch in the same process, and beside the time that reading the bytes alone takes;
# then what spender() does outside of its steps, the share of a simulation that runs on one thread, and the largest resident memory of
# predictions from two lengths of survey.
#
#   Rscript bench/pace.R FOLDER [name=value ...]      FOLDER: for gigabytes of temporary files
#     spectra=20000     of the survey, made once; memory=200000 the longer one (0: none); repeat=3
#     network=small     16/32/64 channels, or default; device=auto, precision=fp32, threads=all, parts=paths,fit,simulator,memory
# Rates are spectra per second of the clock, and in brackets microseconds of processor time per spectrum, which other jobs disturb less.
arguments <- commandArgs(TRUE)
options <- list(spectra = 20000, memory = 200000, `repeat` = 3, network = "small", device = "auto", precision = "fp32", threads = 0,
                parts = "paths,fit,simulator,memory")
for (argument in grep("=", arguments[-1], value = TRUE)) {
  part <- regmatches(argument, regexec("^([a-z]+)=(.*)$", argument))[[1]]
  options[[part[2]]] <- if (is.numeric(options[[part[2]]])) as.numeric(part[3]) else part[3]
}
if (!length(arguments) || !dir.exists(arguments[1])) stop("usage: pace.R FOLDER [name=value ...]")
folder <- arguments[1]
suppressPackageStartupMessages(library(spender))
inside <- asNamespace("spender")
device <- inside$choose_device(options$device, options$precision, if (options$threads > 0) options$threads)
network <- if (options$network == "small") spender_network(filters = c(16, 32, 64)) else spender_network()
wanted <- strsplit(options$parts, ",")[[1]]
n <- options$spectra
cat(sprintf("%s, %s, %s; network %s; %d spectra\n", device$device, device$name, device$precision, options$network, n))

survey_path <- file.path(folder, sprintf("survey-%d.fits", n))
if (!file.exists(survey_path)) simulate_survey(n, survey_path, seed = 1, progress = FALSE)
survey <- open_survey(survey_path)
survey <- survey[!is.na(survey$norm)]
fit <- spender(survey[1:512], latents = 6, network = network, init = "random", epochs = 1, batch_size = 64, progress = FALSE,
               device = options$device, threads = device$threads)

# Of an expression: its seconds by the clock and of the processor
timed <- function(expr) {
  before <- proc.time()
  force(expr)
  spent <- proc.time() - before
  c(clock = spent[[3]], processor = spent[[1]] + spent[[2]])
}
rate <- function(seconds, spectra) sprintf("%7.0f/s (%6.1f us)", spectra / seconds[["clock"]], 1e6 * seconds[["processor"]] / spectra)

# The device alone: one batch again and again
raw_pace <- function(type) {
  batch <- inside$choose_batch_size(NULL, device)
  x <- as_spectra(survey[seq_len(min(batch, length(survey)))])
  session <- inside$open_inference(fit, x, type, inside$encoder_only, device, NULL)
  on.exit(inside$close_session(session))
  .Call(inside$ffi_infer_advance, session, 0)
  done <- NULL
  spent <- timed(done <- .Call(inside$ffi_infer_pace, session, 2))
  c(spent, spectra = done[1])
}

if ("paths" %in% wanted) {
  bytes <- function() {
    con <- file(survey_path, "rb")
    on.exit(close(con))
    while (length(readBin(con, raw(), 2^24))) NULL
  }
  bytes()
  cat(sprintf("reading the file's bytes alone  %s\n", rate(timed(bytes()), n)))
  x <- as_spectra(survey)
  out <- file.path(folder, "pace.fits")
  predicted <- function(...) predict(fit, ..., device = options$device, precision = options$precision, threads = device$threads,
                                     progress = FALSE)
  paths <- list(
    "encode, in memory" = list("latent", function() predicted(x, "latent")),
    "encode, streamed to R" = list("latent", function() predicted(survey, "latent")),
    "encode, streamed to a file" = list("latent", function() predicted(survey, "latent", path = out, overwrite = TRUE)),
    "losses, in memory" = list("loss", function() predicted(x, "loss")),
    "losses, streamed to a file" = list("loss", function() predicted(survey, "loss", path = out, overwrite = TRUE)),
    "models, streamed to a file" = list("observed", function() predicted(survey, "observed", path = out, overwrite = TRUE))
  )
  for (name in names(paths)) {
    of_clock <- of_processor <- double()
    for (i in seq_len(options$`repeat`)) {
      before <- raw_pace(paths[[name]][[1]])
      spent <- timed(paths[[name]][[2]]())
      after <- raw_pace(paths[[name]][[1]])
      alone <- (before + after) / 2
      of_clock[i] <- (length(survey) / spent[["clock"]]) / (alone[["spectra"]] / alone[["clock"]])
      of_processor[i] <- (alone[["processor"]] / alone[["spectra"]]) / (spent[["processor"]] / length(survey))
      cat(sprintf("%-28s %s; alone %s\n", name, rate(spent, length(survey)), rate(alone, alone[["spectra"]])))
    }
    cat(sprintf("%-28s %.1f %% of the device's own rate, by processor time %.1f %% (medians)\n", name, 100 * stats::median(of_clock),
                100 * stats::median(of_processor)))
  }
  unlink(out)
}

if ("fit" %in% wanted) {
  x <- as_spectra(survey)
  marks <- list()
  loop <- inside$training_loop
  unlockBinding("training_loop", inside)
  assign("training_loop", function(...) {
    marks$begun <<- proc.time()
    on.exit(marks$ended <<- proc.time())
    loop(...)
  }, inside)
  started <- proc.time()
  suppressWarnings(spender(x, latents = 6, network = network, init = "random", epochs = 1, device = options$device,
                           threads = device$threads, progress = FALSE))
  ended <- proc.time()
  assign("training_loop", loop, inside)
  spent <- function(from, to) c(clock = to[[3]] - from[[3]], processor = sum((to - from)[1:2]))
  before <- spent(started, marks$begun)
  epoch <- spent(marks$begun, marks$ended)
  after <- spent(marks$ended, ended)
  for (of in names(epoch)) {
    cat(sprintf("spender(), %s: %.2f s before the first step, %.1f %% of an epoch; outside of the loop %.1f %% of 10 epochs\n", of,
                before[[of]], 100 * before[[of]] / epoch[[of]], 10 * (before + after)[[of]] / epoch[[of]]))
  }
}

if ("simulator" %in% wanted) {
  # What one thread does while the others wait: the draws, and the catalogue columns
  rows <- 4 * 4096
  serial <- timed({
    plan <- inside$plan_simulation(rows, seed = 1)
    for (first in seq(0, rows - 1, by = 4096)) inside$simulated_columns(inside$draw_objects(plan, 4096, first))
  })
  out <- file.path(folder, "simulated.fits")
  for (threads in unique(c(1, 2, device$threads))) {
    spent <- timed(simulate_survey(rows, out, seed = 1, threads = threads, overwrite = TRUE, progress = FALSE))
    if (threads == 1) all <- spent
    cat(sprintf("simulate_survey(), %d threads  %s\n", threads, rate(spent, rows)))
  }
  cat(sprintf("draws of parameters, on one thread: %.2f of %.2f s of the processor, %.2f %%\n", serial[["processor"]], all[["processor"]],
              100 * serial[["processor"]] / all[["processor"]]))
  unlink(out)
}

if ("memory" %in% wanted && options$memory > 0) {
  long <- file.path(folder, sprintf("survey-%d.fits", options$memory))
  if (!file.exists(long)) simulate_survey(options$memory, long, seed = 1, progress = FALSE)
  saveRDS(fit, file.path(folder, "fit.rds"))
  for (path in c(survey_path, long)) {
    code <- sprintf('suppressPackageStartupMessages(library(spender)); fit <- readRDS("%s")
      suppressWarnings(predict(fit, open_survey("%s"), "latent", path = "%s", overwrite = TRUE, progress = FALSE, device = "%s"))
      cat(basename("%s"), sub("VmHWM: *", "largest resident memory ", grep("VmHWM", readLines("/proc/self/status"), value = TRUE)), "\\n")',
      file.path(folder, "fit.rds"), path, file.path(folder, "pace.fits"), device$device, path)
    script <- tempfile(fileext = ".R")
    writeLines(code, script)
    system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", script))
  }
  unlink(file.path(folder, "pace.fits"))
}
