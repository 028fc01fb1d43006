# Kills or stops a rank of a training at random moments, lets another number of ranks go on from the checkpoint, and compares the weights
# with those of one process, bit for bit.
#
#   Rscript tests/faults/kill-ranks.R [KILLS]      default 20; the package, built with MPI, installed where R finds it.
#                                                  SPENDER_MPIRUN: the launcher of that MPI, default mpirun
# Last line: "N passed, N failed, N skipped".
kills <- as.integer(c(commandArgs(TRUE), "20")[1])
suppressPackageStartupMessages(library(spender))
finish <- function(passed, failed, skipped) {
  cat(passed, " passed, ", failed, " failed, ", skipped, " skipped\n", sep = "")
  quit(save = "no", status = as.integer(failed > 0))
}
mpirun <- Sys.getenv("SPENDER_MPIRUN", "mpirun")
if (!devices()$built[["mpi"]] || Sys.which(mpirun) == "") {
  cat("skip kill-ranks: no ", mpirun, ", or a build without MPI\n")
  finish(0, 0, 1)
}
folder <- tempfile("kills")
dir.create(folder)
path <- function(name) file.path(folder, name)
Sys.setenv(OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1")
timeout <- 3
writeLines(c("#!/bin/sh", paste0("echo $$ > ", path("pid"), ".${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"),
             paste0("exec ", file.path(R.home("bin"), "Rscript"), " --vanilla -e 'options(spender.timeout = ", timeout,
                    "); spender::main()' train \"$@\"")), path("rank"))
Sys.chmod(path("rank"), "755")

survey <- simulate_survey(600, path("survey.fits"), instrument = instrument(seq(4000, 8000, by = 8)), seed = 1, progress = FALSE)
arguments <- c("--filters", "8,16,16", "--encoder-hidden", "16", "--decoder-hidden", "16,32", "--latents=2", "--batch-size", "16",
               "--epochs=40", "--threads=1", "--all", "--quiet", "--init=random", "--pieces=4", path("survey.fits"))
words <- function(name) c(arguments, "--output", path(paste0(name, ".safetensors")), "--checkpoint", path(paste0(name, ".kept")),
                          "--checkpoint-minutes", "0", "--resume")
command <- function(n, name) {
  paste(c(mpirun, "-n", n, if (any(grepl("Open MPI|Open RTE", system2(mpirun, "--version", stdout = TRUE)))) "--oversubscribe",
          shQuote(c(path("rank"), words(name)))), collapse = " ")
}
log <- path("log")
run <- function(n, name) system(paste(command(n, name), ">", shQuote(log), "2>&1"))
weights <- function(name) read_model(path(paste0(name, ".safetensors")))$weights
now <- function() proc.time()[["elapsed"]]
runs <- function(pid) {
  status <- suppressWarnings(tryCatch(readLines(file.path("/proc", pid, "status")), error = function(e) "State: Z"))
  !any(grepl("^State:\\s*Z", status))
}

if (run(1, "whole") != 0) stop("the unbroken run failed:\n", paste(readLines(log), collapse = "\n"))
whole <- weights("whole")
started <- now()
if (run(4, "four") != 0) stop("the run of four ranks failed:\n", paste(readLines(log), collapse = "\n"))
seconds <- now() - started
passed <- as.numeric(identical(weights("four"), whole))
failed <- 1 - passed
if (failed) cat("not ok: four ranks have other weights than one\n")

set.seed(1)
longest <- 0
for (i in seq_len(kills)) {
  name <- paste0("broken-", i)
  n <- sample(c(2, 4), 1)
  victim <- sample(n, 1) - 1
  stops <- i %% 5 == 0 # it hangs, as if the network was gone
  after <- runif(1, 0.2, 0.9) * seconds
  unlink(Sys.glob(path("pid.*")))
  pid <- as.integer(system(paste(command(n, name), ">", shQuote(log), "2>&1 & echo $!"), intern = TRUE))
  Sys.sleep(after)
  there <- file.exists(path(paste0("pid.", victim)))
  if (there) tools::pskill(as.integer(readLines(path(paste0("pid.", victim)))), if (stops) tools::SIGSTOP else tools::SIGKILL)
  begun <- now()
  while (now() - begun < 60 && runs(pid)) Sys.sleep(0.05)
  took <- now() - begun
  longest <- max(longest, took)
  said <- readLines(log, warn = FALSE)
  how <- sprintf("rank %d of %d %s after %.2f s, all over %.1f s later", victim, n, if (stops) "hung" else "was killed", after, took)
  finished <- file.exists(path(paste0(name, ".safetensors")))
  names_it <- finished || !stops || any(grepl(sprintf("rank [0-%d] \\(.*\\) (has not answered|stopped)", n - 1), said))
  next_n <- sample(c(1, 2, 4), 1)
  if (!finished) run(next_n, name)
  same <- file.exists(path(paste0(name, ".safetensors"))) && identical(weights(name), whole)
  left <- grep("\\.tmp-", list.files(folder), value = TRUE)
  if (there && same && names_it && took < 60 && !length(left)) passed <- passed + 1 else {
    failed <- failed + 1
    cat("not ok ", how, ", then ", next_n, " ranks: ", if (!there) "no such rank; ", if (!same) "other weights; ",
        if (!names_it) "nobody says which; ", if (length(left)) "files left; ", "\n", paste0("    ", utils::tail(said, 6), collapse = "\n"),
        "\n", sep = "")
  }
  unlink(Sys.glob(path(paste0(name, ".*"))))
}
cat(sprintf("%d kills of a rank; the unbroken run takes %.1f s; the longest end %.1f s\n", kills, seconds, longest))
unlink(folder, recursive = TRUE)
finish(passed, failed, 0)
