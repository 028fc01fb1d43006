# Kills a training with SIGKILL, half of the times at random moments and half at chosen points of writing a checkpoint, lets it go on,
# and compares the weights with those of an unbroken run, bit for bit.
#
#   Rscript tests/faults/kill-training.R [KILLS]      default 50; the package installed where R finds it
# Last line: "N passed, N failed, N skipped".
kills <- as.integer(c(commandArgs(TRUE), "50")[1])
script <- system.file("scripts", "spender", package = "spender", mustWork = TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
folder <- tempfile("kills")
dir.create(folder)
path <- function(name) file.path(folder, name)
preload <- path("kill-at.so")
can_inject <- system2("cc", c("-shared", "-fPIC", "-O1", "-o", preload, file.path(here, "kill-at.c"), "-ldl"), stdout = FALSE,
                      stderr = FALSE) == 0

suppressPackageStartupMessages(library(spender))
survey <- simulate_survey(600, path("survey.fits"), instrument = instrument(seq(4000, 8000, by = 8)), seed = 1, progress = FALSE)
arguments <- c("--vanilla", script, "train", "--filters", "8,16,16", "--encoder-hidden", "16", "--decoder-hidden", "16,32", "--latents=2",
               "--batch-size", "16",
               "--epochs=12", "--threads=1", "--all", "--quiet", path("survey.fits"))
run <- function(name, environment = character(), ...) {
  system2(file.path(R.home("bin"), "Rscript"), shQuote(c(arguments, "--output", path(paste0(name, ".safetensors")), ...)),
          stdout = path("log"),
          stderr = path("log"), env = environment)
}
weights <- function(name) read_model(path(paste0(name, ".safetensors")))$weights

started <- proc.time()[["elapsed"]]
if (run("whole") != 0) stop("the unbroken run failed:\n", paste(readLines(path("log")), collapse = "\n"))
seconds <- proc.time()[["elapsed"]] - started
whole <- weights("whole")

set.seed(1)
passed <- failed <- skipped <- 0
points <- c("write:1", "fsync:1", "rename:1", "write:2", "rename:3", "fsync:4", "write:7")
for (i in seq_len(kills)) {
  name <- paste0("broken-", i)
  checkpoint <- c("--checkpoint", path(paste0(name, ".kept")), "--checkpoint-minutes", "0", "--resume")
  if (i %% 2 == 1) {
    after <- runif(1, 0.1, 1.0) * seconds
    how <- sprintf("after %.2f s", after)
    command <- paste(shQuote(c(file.path(R.home("bin"), "Rscript"), arguments, "--output", path(paste0(name, ".safetensors")), checkpoint)),
                     collapse = " ")
    pid <- system(paste("exec", command, ">", shQuote(path("log")), "2>&1 & echo $!"), intern = TRUE)
    Sys.sleep(after)
    tools::pskill(as.integer(pid), tools::SIGKILL)
    Sys.sleep(0.1)
  } else if (can_inject) {
    how <- points[(i / 2 - 1) %% length(points) + 1]
    status <- run(name, c(paste0("LD_PRELOAD=", preload), paste0("KILL_AT=", how), paste0("KILL_IN=", name, ".kept")), checkpoint)
    if (status == 0) how <- paste(how, "(never reached)")
  } else {
    skipped <- skipped + 1
    next
  }
  if (!file.exists(path(paste0(name, ".safetensors")))) run(name, character(), checkpoint)
  same <- file.exists(path(paste0(name, ".safetensors"))) && identical(weights(name), whole)
  left <- grep("\\.tmp-", list.files(folder), value = TRUE)
  if (same && !length(left) && !grepl("never", how)) passed <- passed + 1 else {
    failed <- failed + 1
    cat("not ok kill ", i, ", ", how, ": ", if (!same) "other weights", if (length(left)) paste(" left:", paste(left, collapse = " ")),
        "\n",
        paste0("    ", utils::tail(readLines(path("log")), 3), collapse = "\n"), "\n", sep = "")
  }
  unlink(Sys.glob(path(paste0(name, ".*"))))
}
cat(passed, " passed, ", failed, " failed, ", skipped, " skipped\n", sep = "")
quit(save = "no", status = as.integer(failed > 0))
