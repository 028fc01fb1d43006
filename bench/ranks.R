# Training by ranks of MPI compared with threads: spectra per second of the paper's network on SDSS's grid, 64 spectra a rank or thread.
#
#   Rscript bench/ranks.R [ROUNDS] [RANKSxTHREADS ...]     default: 3 1x1 1x2 2x1; the package, built with MPI, installed where R finds it
#
# The settings take turns, and each one's median over the rounds is printed. Validation is left out; the first epoch of each run, too.
words <- commandArgs(TRUE)
rounds <- as.integer(c(words, "3")[1])
settings <- if (length(words) > 1) words[-1] else c("1x1", "1x2", "2x1")
program <- tempfile(fileext = ".R")
writeLines('
suppressPackageStartupMessages(library(spender))
a <- as.numeric(commandArgs(TRUE))
x <- simulate_spectra(256, seed = 1)
fit <- spender(x, epochs = 4, batch_size = 64 * a[1], validation = 0, init = "random", threads = a[2], device = "cpu", progress = FALSE,
               pieces = a[1])
seconds <- fit$history$seconds
if (Sys.getenv("OMPI_COMM_WORLD_RANK", "0") == "0") cat("PACE", 256 * 3 / (seconds[4] - seconds[1]), "\\n")
', program)
Sys.setenv(OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1")
run <- function(setting) {
  of <- as.numeric(strsplit(setting, "x", fixed = TRUE)[[1]])
  n <- max(of) # pieces: as many as ranks or threads, so that all settings have the same batches
  out <- system2("mpirun", c("-n", of[1], "--oversubscribe", "--bind-to", "none", file.path(R.home("bin"), "Rscript"), "--vanilla", program,
                             n, of[2]), stdout = TRUE)
  as.numeric(sub("PACE ", "", grep("^PACE", out, value = TRUE)))
}
pace <- sapply(seq_len(rounds), function(i) vapply(settings, run, 0))
pace <- matrix(pace, length(settings), dimnames = list(settings, NULL))
cat(sprintf("%-6s %6.1f spectra/s  (%s)\n", settings, apply(pace, 1, stats::median),
            apply(pace, 1, function(p) paste(format(sort(p), digits = 3), collapse = ", "))), sep = "")
