# Programs that mpirun starts, or the launcher that SPENDER_MPIRUN names, which must be that of the build's MPI ("mpiexec.mpich"). They find
# the package where this session has it.

mpirun <- function() Sys.getenv("SPENDER_MPIRUN", "mpirun")

skip_without_mpi <- function() {
  skip_if(!devices()$built[["mpi"]], "spender is built without MPI")
  skip_if(Sys.which(mpirun()) == "", paste("there is no", mpirun()))
}

# A disk of some kilobytes can be mounted, by a process of its own
skip_without_small_disks <- function() {
  mounted <- suppressWarnings(system(on_small_disk("true", 64, withr::local_tempdir()), ignore.stdout = TRUE, ignore.stderr = TRUE))
  skip_if(mounted != 0, "no disk can be mounted here")
}

# The command of the shell that runs `command` while `folder`/disk is such a disk; afterwards its files are in `folder`/left.
on_small_disk <- function(command, kilobytes, folder) {
  dir.create(file.path(folder, "disk"), showWarnings = FALSE)
  inside <- sprintf("cd %s && mount -t tmpfs -o size=%dk tmpfs disk || exit 1; %s; status=$?; cp -r disk left; exit $status",
                    shQuote(folder), as.integer(kilobytes), command)
  paste("unshare --user --map-root-user --mount sh -c", shQuote(inside))
}

# Runs R code as n ranks, with the folder `folder` as the working directory; returns the status, with the output as attribute.
# disk: NULL, or kilobytes of the disk that `folder`/disk is
run_ranks <- function(n, code, folder, seconds = 120, disk = NULL) {
  program <- file.path(folder, "program.R")
  writeLines(c(sprintf(".libPaths(%s)", paste(deparse(.libPaths()), collapse = "")), "suppressPackageStartupMessages(library(spender))",
               "rank <- as.integer(Sys.getenv(\"OMPI_COMM_WORLD_RANK\", Sys.getenv(\"PMI_RANK\", \"0\")))",
               sprintf("setwd(%s)", deparse(folder)), code), program)
  log <- file.path(folder, "log")
  withr::local_envvar(OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1", R_TESTS = NA)
  options <- c("-n", n, if (any(grepl("Open MPI|Open RTE", system2(mpirun(), "--version", stdout = TRUE)))) "--oversubscribe")
  command <- paste(c(mpirun(), options, shQuote(file.path(R.home("bin"), "Rscript")), "--vanilla", shQuote(program)), collapse = " ")
  if (!is.null(disk)) command <- on_small_disk(command, disk, folder)
  status <- suppressWarnings(system(paste("{", command, ";} >", shQuote(log), "2>&1"), timeout = seconds))
  structure(status, output = readLines(log, warn = FALSE))
}

# Code that makes a small fit; `more`: further arguments
ranks_fit <- function(more = "", name = "fit") {
  c("x <- simulate_spectra(60, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)",
    "network <- spender_network(filters = c(8, 12, 16), encoder_hidden = c(16, 8), decoder_hidden = c(8, 24))",
    paste0("fit <- spender(x, latents = 2, epochs = 3, batch_size = 16, validation = 0.2, network = network, threads = 1, progress = FALSE,
            init = \"random\", pieces = 4", if (nzchar(more)) ", ", more, ")"),
    paste0("saveRDS(fit, paste0(\"", name, "-\", rank, \".rds\"))"))
}

# What each of two ranks says, line by line: `code` sets `said`, and has simulated(n) and try_fit(x, ...), the text of its error
said_by_ranks <- function(folder, code) {
  run_ranks(2, c("simulated <- function(n) simulate_spectra(n, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)",
                 "network <- spender_network(filters = c(8, 12, 16), encoder_hidden = c(16, 8), decoder_hidden = c(8, 24))",
                 "try_fit <- function(...) tryCatch({",
                 "  spender(..., latents = 2, epochs = 3, network = network, batch_size = 8, threads = 1, progress = FALSE,",
                 "          init = \"random\", pieces = 2)",
                 "  \"no error\"",
                 "}, error = function(e) paste(class(e)[1], conditionMessage(e)))",
                 code, "writeLines(said, paste0(\"said-\", rank))"), folder)
  said <- lapply(Sys.glob(file.path(folder, "said-*")), readLines)
  testthat::expect_length(said, 2)
  said
}
