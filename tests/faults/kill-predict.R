# Kills predict(path = ) with SIGKILL, half of the times at random moments and half at chosen points of writing its file, looks whether what
# is there is whole, lets it go on, and compares the file with that of an unbroken run, byte for byte.
#
#   Rscript tests/faults/kill-predict.R [KILLS]      default 20; the package installed where R finds it
# Last line: "N passed, N failed, N skipped".
kills <- as.integer(c(commandArgs(TRUE), "20")[1])
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
folder <- tempfile("kills")
dir.create(folder)
path <- function(name) file.path(folder, name)
preload <- path("kill-at.so")
can_inject <- system2("cc", c("-shared", "-fPIC", "-O1", "-o", preload, file.path(here, "kill-at.c"), "-ldl"), stdout = FALSE,
                      stderr = FALSE) == 0

suppressPackageStartupMessages(library(spender))
small <- instrument(seq(4000, 8000, by = 8))
network <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = c(16, 32))
survey <- simulate_survey(30000, path("survey.fits"), instrument = small, seed = 1, progress = FALSE)
saveRDS(spender(simulate_spectra(64, small, seed = 2), latents = 2, epochs = 1, network = network, init = "random", progress = FALSE),
        path("fit.rds"))
script <- path("script.R")
writeLines(sprintf('suppressPackageStartupMessages(library(spender))
  fit <- readRDS("%s"); survey <- open_survey("%s"); cat("begun\\n")
  suppressWarnings(predict(fit, survey, c("latent", "loss", "observed"), path = commandArgs(TRUE), keep = "subclass", threads = 1))',
  path("fit.rds"), path("survey.fits")), script)
rscript <- file.path(R.home("bin"), "Rscript")
run <- function(file, environment = character()) {
  system2(rscript, c("--vanilla", script, file), stdout = path("log"), stderr = path("log"), env = environment)
}

if (run(path("whole.fits")) != 0) stop("the unbroken run failed:\n", paste(readLines(path("log")), collapse = "\n"))
seconds <- system.time(run(path("timed.fits")))[["elapsed"]]
whole <- readBin(path("whole.fits"), raw(), 1e9)
rows <- read_predictions(path("whole.fits"))

# The rows of an unfinished file are those of the whole one.
is_prefix <- function(file) {
  if (!file.exists(file)) return(TRUE)
  there <- read_predictions(file)
  n <- nrow(there$latent)
  identical(there$latent, rows$latent[seq_len(n), , drop = FALSE]) && identical(unname(there$loss), unname(rows$loss[seq_len(n)]))
}

set.seed(1)
passed <- failed <- skipped <- 0
points <- c("write:2", "fsync:1", "fsync:2", "write:5", "fsync:7", "write:3", "write:14")
for (i in seq_len(kills)) {
  file <- path(sprintf("broken-%d.fits", i))
  if (i %% 2 == 1) {
    after <- runif(1, 0.2, 0.95) * seconds
    how <- sprintf("after %.2f s", after)
    command <- paste("exec", rscript, "--vanilla", shQuote(script), shQuote(file), ">", shQuote(path("log")), "2>&1 & echo $!")
    pid <- system(command, intern = TRUE)
    Sys.sleep(after)
    tools::pskill(as.integer(pid), tools::SIGKILL)
    Sys.sleep(0.1)
  } else if (can_inject) {
    how <- points[(i / 2 - 1) %% length(points) + 1]
    run(file, c(paste0("LD_PRELOAD=", preload), paste0("KILL_AT=", how), paste0("KILL_IN=", basename(file))))
  } else {
    skipped <- skipped + 1
    next
  }
  there <- if (file.exists(file)) .Call(spender:::ffi_survey_info, file)$n else 0
  sound <- is_prefix(file)
  on <- run(file) == 0
  same <- on && identical(readBin(file, raw(), 1e9), whole)
  left <- setdiff(grep(basename(file), list.files(folder), value = TRUE, fixed = TRUE), basename(file))
  cat(if (sound && same) "ok" else "not ok", " kill ", i, ", ", how, ", with ", there, " rows there\n", sep = "")
  if (sound && same) passed <- passed + 1 else failed <- failed + 1
  unlink(c(file, path(left)))
}
cat(passed, " passed, ", failed, " failed, ", skipped, " skipped\n", sep = "")
quit(save = "no", status = as.integer(failed > 0))
