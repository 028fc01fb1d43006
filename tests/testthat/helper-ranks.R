# Programs that mpirun starts. They find the package where this session has it.

skip_without_mpi <- function() {
  skip_if(!devices()$built[["mpi"]], "spender is built without MPI")
  skip_if(Sys.which("mpirun") == "", "there is no mpirun")
}

# Runs R code as n ranks, with the folder `folder` as the working directory; returns the status, with the output as attribute.
run_ranks <- function(n, code, folder, seconds = 120, environment = character()) {
  program <- file.path(folder, "program.R")
  writeLines(c(sprintf(".libPaths(%s)", paste(deparse(.libPaths()), collapse = "")), "suppressPackageStartupMessages(library(spender))",
               "rank <- as.integer(Sys.getenv(\"OMPI_COMM_WORLD_RANK\", \"0\"))", sprintf("setwd(%s)", deparse(folder)), code), program)
  log <- file.path(folder, "log")
  withr::local_envvar(OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1", R_TESTS = NA)
  options <- c("-n", n, if (any(grepl("Open MPI|Open RTE", system2("mpirun", "--version", stdout = TRUE)))) "--oversubscribe")
  status <- system2("mpirun", c(options, shQuote(file.path(R.home("bin"), "Rscript")), "--vanilla", shQuote(program)), stdout = log,
                    stderr = log, timeout = seconds, env = environment)
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
