# inst/scripts/train.R as a cluster would run it.

script <- function() system.file("scripts", "train.R", package = "spender")
rscript <- function() file.path(R.home("bin"), "Rscript")

# list(status, output)
run_script <- function(...) {
  output <- suppressWarnings(system2(rscript(), shQuote(c("--vanilla", script(), ...)), stdout = TRUE, stderr = TRUE))
  list(status = if (is.null(attr(output, "status"))) 0L else attr(output, "status"), output = paste(output, collapse = "\n"))
}

small_options <- c("--filters", "4,8,8", "--kernels=5,5,5", "--encoder-hidden", "8", "--decoder-hidden=8", "--threads", "1",
                   "--latents=2", "--batch-size", "8")

test_that("--help documents options and exit codes, and needs no package", {
  result <- run_script("--help")
  expect_equal(result$status, 0L)
  expect_match(result$output, "--last", fixed = TRUE) # best = FALSE
  for (option in setdiff(names(formals(spender)), c("x", "network", "best", "progress", "callback"))) {
    expect_match(result$output, paste0("--", gsub("_", "-", option)), fixed = TRUE)
  }
  for (option in setdiff(names(formals(spender_network)), "redshift_input")) {
    expect_match(result$output, paste0("--", gsub("_", "-", option)), fixed = TRUE)
  }
  expect_match(result$output, "Exit codes\n  0 ")
})

test_that("a wrong command line, missing input and a taken name end before any work, with their exit codes", {
  taken <- tempfile(fileext = ".safetensors")
  file.create(taken)
  on.exit(unlink(taken))
  cases <- list(
    list(2L, "no option --epoch;", c("--epoch", "3", "x.fits")),
    list(2L, "--epochs needs a value", c("x.fits", "--epochs")),
    list(2L, "--epochs must be a number, not \"many\"", c("--epochs", "many", "x.fits")),
    list(2L, "--schedule must be one of step, epoch, constant", c("--schedule=never", "x.fits")),
    list(2L, "--last takes no value", c("--last=yes", "x.fits")),
    list(2L, "no INPUT", character()),
    list(2L, "exclude each other", c("--simulate", "5", "x.fits")),
    list(3L, "no file or folder missing.fits", c("--output", tempfile(), "missing.fits")),
    list(2L, "--resume needs --checkpoint", c("--resume", "x.fits")),
    list(5L, "exists; --resume", c("--output", tempfile(), "--checkpoint", taken, "x.fits")),
    list(5L, "exists; --overwrite", c("--output", taken, "x.fits")),
    list(5L, "there is no folder", c("--output", file.path(tempdir(), "no", "where"), "x.fits"))
  )
  for (case in cases) {
    result <- run_script(case[[3]])
    expect_equal(result$status, case[[1]], info = result$output)
    expect_match(result$output, case[[2]], fixed = TRUE)
  }
})

test_that("it trains as spender() does, and writes what it was asked for", {
  folder <- tempfile("train")
  dir.create(folder)
  on.exit(unlink(folder, recursive = TRUE))
  path <- function(name) file.path(folder, name)
  x <- simulate_spectra(20, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)
  saveRDS(x, path("x.rds"))
  arguments <- c(small_options, "--epochs", "2", "--seed=3", "--validation", "0.2", "--all", "--output", path("m.safetensors"),
                 "--latents-file", path("s.csv"), "--history-file", path("h.csv"), "--fit-file", path("f.rds"))
  result <- run_script(arguments, path("x.rds"))
  expect_equal(result$status, 0L, info = result$output)
  expect_match(result$output, "epoch 2  training ")
  fit <- spender(x, latents = 2, epochs = 2, batch_size = 8, seed = 3, validation = 0.2, threads = 1, progress = FALSE,
                 network = spender_network(filters = c(4, 8, 8), kernels = c(5, 5, 5), encoder_hidden = 8, decoder_hidden = 8))
  expect_identical(read_model(path("m.safetensors"))$weights, fit$weights)
  expect_identical(readRDS(path("f.rds"))$weights, fit$weights)
  expect_equal(read.csv(path("h.csv"))$train_loss, fit$history$train_loss)
  table <- read.csv(path("s.csv"))
  expect_equal(table$id, x$id)
  expect_equal(unname(as.matrix(table[3:4])), unname(encode(fit, x)), tolerance = 1e-6)
  expect_equal(table$loss, unname(predict(fit, x, "loss")), tolerance = 1e-6)

  again <- run_script(arguments, "--overwrite", "--start", path("m.safetensors"), path("x.rds"))
  expect_equal(again$status, 2L, info = again$output)
  expect_match(again$output, "does not go with --start", fixed = TRUE)
  further <- run_script("--start", path("m.safetensors"), "--epochs=1", "--threads=1", "--all", "--quiet", "--output",
                        path("further.safetensors"), path("x.rds"))
  expect_equal(further$status, 0L, info = further$output)
  expect_equal(nrow(read_model(path("further.safetensors"))$history), 3)

  saveRDS(1:3, path("foreign.rds"))
  foreign <- run_script("--output", path("x.safetensors"), path("foreign.rds"))
  expect_equal(foreign$status, 3L)
  expect_match(foreign$output, "foreign.rds does not hold spectra()", fixed = TRUE)
  refused <- run_script(small_options, "--lsf=4", "--all", "--output", path("x.safetensors"), path("x.rds"))
  expect_equal(refused$status, 4L)
  expect_match(refused$output, "lsf", fixed = TRUE)
})

wait_for <- function(condition, seconds = 60) {
  until <- Sys.time() + seconds
  while (!condition() && Sys.time() < until) Sys.sleep(0.1)
  condition()
}

logged <- function(text, log) file.exists(log) && any(grepl(text, readLines(log, warn = FALSE)))

# Starts the script in the background: its number will be in `pid`, its exit code in `status`.
start_script <- function(arguments, log, pid, status) {
  command <- paste(shQuote(c(rscript(), "--vanilla", script(), arguments)), collapse = " ")
  system(paste0("( ", command, " > ", shQuote(log), " 2>&1 & echo $! > ", shQuote(pid), "; wait $!; echo $? > ", shQuote(status), " ) &"))
}

test_that("it trains from surveys, and SIGTERM leaves a checkpoint from which --resume goes on to the same bits", {
  skip_on_cran()
  skip_on_os("windows")
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)
  write_survey(x, path("survey.fits"))
  arguments <- c(small_options, "--epochs=400", "--all", path("survey.fits"))
  whole <- run_script(arguments, "--output", path("whole.safetensors"), "--quiet")
  expect_equal(whole$status, 0L, info = whole$output)
  kept <- c(arguments, "--output", path("m.safetensors"), "--checkpoint", path("kept.safetensors"))
  start_script(kept, path("log"), path("pid"), path("status"))
  expect_true(wait_for(function() logged("^epoch 20 ", path("log"))), info = paste(readLines(path("log")), collapse = "\n"))
  tools::pskill(as.integer(readLines(path("pid"))), tools::SIGTERM)
  expect_true(wait_for(function() file.exists(path("status")) && length(readLines(path("status"))) == 1))
  expect_equal(readLines(path("status")), "7", info = paste(utils::tail(readLines(path("log")), 5), collapse = "\n"))
  expect_false(file.exists(path("m.safetensors")))
  resumed <- run_script(kept, "--resume")
  expect_equal(resumed$status, 0L, info = resumed$output)
  expect_false(grepl("epoch 5 ", resumed$output)) # it did not begin anew
  expect_identical(read_model(path("m.safetensors"))$weights, read_model(path("whole.safetensors"))$weights)
})

test_that("SIGTERM and SIGINT leave the fit of the epochs done", {
  skip_on_cran()
  skip_on_os("windows")
  folder <- tempfile("train")
  dir.create(folder)
  on.exit(unlink(folder, recursive = TRUE))
  path <- function(name) file.path(folder, name)
  x <- simulate_spectra(12, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)
  saveRDS(x, path("x.rds"))
  for (signal in c(tools::SIGTERM, tools::SIGINT)) {
    model <- path(paste0(signal, ".safetensors"))
    log <- path(paste0(signal, ".log"))
    status <- path(paste0(signal, ".status"))
    pid <- path(paste0(signal, ".pid"))
    start_script(c(small_options, "--epochs=1000000", "--all", "--output", model, path("x.rds")), log, pid, status)
    expect_true(wait_for(function() logged("^epoch 3 ", log)), info = paste(readLines(log), collapse = "\n"))
    tools::pskill(as.integer(readLines(pid)), signal)
    expect_true(wait_for(function() file.exists(status) && length(readLines(status)) == 1))
    expect_equal(readLines(status), "6", info = paste(utils::tail(readLines(log), 5), collapse = "\n"))
    expect_gte(nrow(read_model(model)$history), 3)
  }
})
