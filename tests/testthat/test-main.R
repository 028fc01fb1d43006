# The command line: in this process where that shows all there is to see, and as programs.

script <- function() system.file("scripts", "spender", package = "spender")
rscript <- function() file.path(R.home("bin"), "Rscript")

# list(status, output: all lines) of a process
run_script <- function(...) {
  output <- suppressWarnings(system2(rscript(), shQuote(c("--vanilla", script(), ...)), stdout = TRUE, stderr = TRUE))
  list(status = if (is.null(attr(output, "status"))) 0L else attr(output, "status"), output = paste(output, collapse = "\n"))
}

# list(status, output: of the standard output, messages) in this process
run_main <- function(...) {
  status <- NULL
  messages <- character()
  output <- capture.output(withCallingHandlers(status <- main(c(...)), message = function(m) {
    messages <<- c(messages, conditionMessage(m))
    invokeRestart("muffleMessage")
  }))
  list(status = status, output = paste(output, collapse = "\n"), messages = paste(messages, collapse = ""))
}

small_options <- c("--filters", "4,8,8", "--kernels=5,5,5", "--encoder-hidden", "8", "--decoder-hidden=8", "--threads", "1",
                   "--latents=2", "--batch-size", "8")

commands <- c("ingest", "train", "encode", "join", "outliers", "explore")

test_that("--help documents commands, options and exit codes", {
  result <- run_main("--help")
  expect_equal(result$status, 0)
  for (command in commands) expect_match(result$output, paste0("\n  ", command, " "))
  expect_match(result$output, "Exit codes\n  0 ")
  for (command in commands) {
    result <- run_main(command, "--help")
    expect_equal(result$status, 0)
    expect_match(result$output, paste0("spender ", command, ": "), fixed = TRUE)
    for (option in c("output", "overwrite", "threads", "quiet", "json")) expect_match(result$output, paste0("\n  --", option, "[ \n]"))
    expect_match(result$output, "Exit codes\n  0 ")
    expect_lte(max(nchar(strsplit(result$output, "\n")[[1]])), 150)
  }
  expect_match(run_main("--version")$output, "^spender [0-9.]+")
})

test_that("options are those of the functions", {
  documented <- function(command, f, but) {
    help <- run_main(command, "--help")$output
    for (option in setdiff(names(formals(f)), but)) expect_match(help, paste0("--", gsub("_", "-", option)), fixed = TRUE)
  }
  expect_match(run_main("train", "-h")$output, "--last", fixed = TRUE) # best = FALSE
  documented("train", spender, c("x", "network", "best", "progress", "callback", "common")) # it trains on one instrument
  documented("train", spender_network, "redshift_input")
  documented("ingest", write_survey, c("x", "path", "mask_sky", "progress")) # --keep-sky
  documented("encode", getS3method("predict", "spender"), c("object", "x", "type", "path", "progress", "...")) # --results
  documented("outliers", outliers, c("fit", "x", "conditions", "..."))
  documented("explore", explore, c("fit", "x", "path", "umap", "...")) # --no-umap
})

test_that("a wrong command line, missing input and a taken name end before any work, with their exit codes", {
  taken <- withr::local_tempfile(fileext = ".safetensors")
  file.create(taken)
  cases <- list(
    list(2, "COMMAND [options]", character()),
    list(2, "no command trian;", "trian"),
    list(2, "no option --epoch;", c("train", "--epoch", "3", "x.fits")),
    list(2, "--epochs needs a value", c("train", "x.fits", "--epochs")),
    list(2, "--epochs must be a number, not \"many\"", c("train", "--epochs", "many", "x.fits")),
    list(2, "--epochs must be a number, not \"1,2\"", c("train", "--epochs", "1,2", "x.fits")),
    list(2, "--filters must be numbers separated by commas", c("train", "--filters", "8,b", "x.fits")),
    list(2, "--schedule must be one of step, epoch, constant", c("train", "--schedule=never", "x.fits")),
    list(2, "--results must be some of observed, rest", c("encode", "--results=latent,los", "x.fits")),
    list(2, "--last takes no value", c("train", "--last=yes", "x.fits")),
    list(2, "exclude each other", c("train", "--simulate", "5", "x.fits")),
    list(2, "--resume needs --checkpoint", c("train", "--resume", "x.fits")),
    list(2, "does not go with --start", c("train", "--start", taken, "--latents=3", "x.fits")),
    list(2, "exclude each other", c("outliers", "--density", "a", "--density-file", "b", "x.fits")),
    list(1, "exists; --resume", c("train", "--output", tempfile(), "--checkpoint", taken, taken)),
    list(1, "exists; --overwrite", c("train", "--output", taken, taken)),
    list(1, "there is no folder", c("train", "--output", file.path(tempdir(), "no", "where"), taken)),
    list(1, "there is no model missing.safetensors", c("encode", "--output", tempfile(), "--model", "missing.safetensors", taken))
  )
  for (command in commands) {
    cases <- c(cases, list(list(2, "no INPUT", c(command, "--output", tempfile())), list(2, "no option --foo;", c(command, "--foo=1"))),
               list(list(1, "no file or folder missing.fits", c(command, "--output", tempfile(), "missing.fits"))))
  }
  for (case in cases) {
    result <- run_main(case[[3]])
    expect_equal(result$status, case[[1]], info = result$messages)
    expect_match(result$messages, case[[2]], fixed = TRUE)
    expect_identical(result$output, "")
  }
  expect_identical(run_main("encode", "--json", "--foo")$status, 2)
  expect_identical(jsonlite::fromJSON(run_main("encode", "--json", "--foo")$output)$error$class, "usage")
  expect_error(main(NA), class = "spender_error_invalid")
})

test_that("train trains as spender() does, and writes what it was asked for", {
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  x <- simulate_spectra(20, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)
  saveRDS(x, path("x.rds"))
  arguments <- c("train", small_options, "--epochs", "2", "--seed=3", "--validation", "0.2", "--all", "--output", path("m.safetensors"),
                 "--latents-file", path("s.csv"), "--history-file", path("h.csv"), "--fit-file", path("f.rds"))
  result <- run_main(arguments, "--json", path("x.rds"))
  expect_equal(result$status, 0, info = result$messages)
  expect_match(result$messages, "epoch 2  training ")
  fit <- spender(x, latents = 2, epochs = 2, batch_size = 8, seed = 3, validation = 0.2, threads = 1, progress = FALSE,
                 network = spender_network(filters = c(4, 8, 8), kernels = c(5, 5, 5), encoder_hidden = 8, decoder_hidden = 8))
  expect_identical(read_model(path("m.safetensors"))$weights, fit$weights)
  expect_identical(readRDS(path("f.rds"))$weights, fit$weights)
  expect_equal(read.csv(path("h.csv"))$train_loss, fit$history$train_loss)
  table <- read.csv(path("s.csv"))
  expect_equal(table$id, x$id)
  expect_equal(unname(as.matrix(table[3:4])), unname(encode(fit, x)), tolerance = 1e-6)
  expect_equal(table$loss, unname(predict(fit, x, "loss")), tolerance = 1e-6)
  said <- jsonlite::fromJSON(result$output)
  expect_identical(said[c("command", "status", "output", "spectra", "epochs")],
                   list(command = "train", status = 0L, output = path("m.safetensors"), spectra = 20L, epochs = 2L))
  expect_equal(said$validation_loss, fit$history$validation_loss[kept_epoch(fit)])

  further <- run_main("train", "--start", path("m.safetensors"), "--epochs=1", "--threads=1", "--all", "--quiet", "--output",
                      path("further.safetensors"), path("x.rds"))
  expect_equal(further$status, 0, info = further$messages)
  expect_no_match(further$messages, "epoch 1", fixed = TRUE)
  expect_equal(nrow(read_model(path("further.safetensors"))$history), 3)

  saveRDS(1:3, path("foreign.rds"))
  foreign <- run_main("train", "--json", "--output", path("x.safetensors"), path("foreign.rds"))
  expect_equal(foreign$status, 1)
  expect_match(foreign$messages, "foreign.rds does not hold spectra()", fixed = TRUE)
  said <- jsonlite::fromJSON(foreign$output)
  expect_identical(said$error, list(class = "files", message = paste(path("foreign.rds"), "does not hold spectra()")))
  refused <- run_main("train", small_options, "--lsf=4", "--all", "--output", path("x.safetensors"), path("x.rds"))
  expect_equal(refused$status, 1)
  expect_match(refused$messages, "lsf", fixed = TRUE)
})

test_that("ingest, encode, outliers and explore do as their functions, and say so as JSON", {
  skip_on_cran() # takes seconds
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  x <- small_spectra(125)
  x <- x[!is.na(x$norm)][1:120]
  saveRDS(x, path("x.rds"))
  fit <- small_fit(x, epochs = 1)
  write_model(fit, path("m.safetensors"))
  fit <- read_model(path("m.safetensors"))
  survey <- path("x.fits")
  write_survey(x, survey)
  run <- function(command, ..., input = survey) {
    model <- if (command != "ingest") c("--model", path("m.safetensors"))
    result <- run_main(command, "--json", "--quiet", "--threads=1", model, ..., input)
    expect_equal(result$status, 0, info = result$messages)
    said <- jsonlite::fromJSON(result$output)
    expect_identical(said[c("command", "status")], list(command = command, status = 0L))
    expect_true(file.exists(said$output))
    said
  }

  said <- run("encode", "--output", path("s.fits"), "--results=latent,chi2", "--refine=1", "--keep", "class")
  expect_identical(said$spectra, 120L)
  expect_identical(said$results, c("latent", "chi2"))
  direct <- path("direct.fits")
  predict(fit, open_survey(survey), c("latent", "chi2"), refine = 1, keep = "class", path = direct, threads = 1)
  expect_identical(read_predictions(said$output, table = TRUE), read_predictions(direct, table = TRUE))
  said <- run("encode", "--output", path("s.csv"), input = path("x.rds"))
  expect_equal(read.csv(said$output), predict(fit, x, c("latent", "loss"), keep = character(), threads = 1), tolerance = 1e-6)

  said <- run("outliers", "--output", path("o.csv"), "--density-file", path("d.safetensors"), "--fdr=0.2")
  density <- read_density(path("d.safetensors"))
  direct <- outliers(fit, open_survey(survey), density, fdr = 0.2, threads = 1)
  expect_equal(read.csv(said$output)$p, direct$p)
  expect_identical(said$outliers, sum(!is.na(direct$reason)))
  again <- run("outliers", "--output", path("again.csv"), "--density", path("d.safetensors"), "--fdr=0.2")
  expect_identical(readLines(again$output), readLines(said$output))

  page <- run("explore", "--output", path("page.html"), "--unusual", said$output, "--no-umap", "--title=Mine", "--colour=s1")
  expect_identical(page$spectra, 120L)
  expect_identical(page$bytes, as.integer(file.size(page$output)))
  expect_match(paste(readLines(page$output), collapse = ""), "<title>Mine")

  made <- run("ingest", "--output", path("made.fits"), "--simulate=3", "--seed=2", input = character())
  expect_identical(made[c("spectra", "problems")], list(spectra = 3L, problems = 0L))
  expect_equal(open_survey(made$output)$z, simulate_spectra(3, seed = 2)$z)
})

test_that("ingest reads files, lists those it could not, and goes on with a survey", {
  skip_without_cfitsio()
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  write_sdss(path("spec-0001-51602-0001.fits"))
  first <- run_main("ingest", "--output", path("survey.fits"), path("spec-0001-51602-0001.fits"))
  expect_equal(first$status, 0, info = first$messages)
  writeLines("no FITS file", path("spec-0001-51602-0002.fits"))
  result <- run_main("ingest", "--json", "--output", path("survey.fits"), path("spec-0001-51602-0001.fits"),
                     path("spec-0001-51602-0002.fits"))
  expect_equal(result$status, 0, info = result$messages)
  expect_match(result$messages, "1 with problems:\n  .*spec-0001-51602-0002.fits: ")
  expect_identical(jsonlite::fromJSON(result$output)[c("spectra", "problems")], list(spectra = 1L, problems = 1L))
  result <- run_main("ingest", "--output", path("other.fits"), path("spec-0001-51602-0002.fits"))
  expect_equal(result$status, 1)
  write_sdss(path("spec-0001-51602-0003.fits"), coadd = list(or_mask = list(type = "J", values = rep(0:1, c(3790, 10)))))
  other <- run_main("ingest", "--mask=or", "--output", path("or.fits"), path("spec-0001-51602-0003.fits"))
  expect_equal(other$status, 0, info = other$messages)
  masked <- function(name) sum(as_spectra(open_survey(path(name)))$ivar == 0)
  expect_gt(masked("or.fits"), masked("survey.fits"))
})

test_that("a command that is stopped says whether the same one goes on", {
  stopped <- function(name, ...) {
    command <- program_commands()[[name]]
    command$run <- function(...) signalCondition(structure(class = c("interrupt", "condition"), list()))
    suppressMessages(run_command(name, command, c(...)))
  }
  expect_identical(stopped("ingest", "folder"), 4)
  expect_identical(stopped("ingest", "--simulate=5"), 3)
  expect_identical(stopped("encode", "x.fits"), 4)
  expect_identical(stopped("encode", "--output=s.csv"), 3)
  expect_identical(stopped("train", "--checkpoint=kept"), 3)
  expect_identical(stopped("train", "--checkpoint=kept", "--resume"), 4)
  expect_identical(stopped("outliers"), 3)
  expect_identical(stopped("explore"), 3)
})

test_that("both ways to start it give exit codes, and JSON alone on the standard output", {
  skip_on_cran()
  folder <- withr::local_tempdir()
  expect_identical(file.access(script(), 1)[[1]], 0L)
  output <- file.path(folder, "survey.fits")
  run <- function(program, ...) {
    out <- suppressWarnings(system2(rscript(), shQuote(c("--vanilla", program, ...)), stdout = TRUE, stderr = FALSE))
    list(status = if (is.null(attr(out, "status"))) 0L else attr(out, "status"), output = paste(out, collapse = "\n"))
  }
  made <- run(script(), "ingest", "--simulate", "2", "--output", output, "--json")
  expect_identical(made$status, 0L)
  expect_identical(jsonlite::fromJSON(made$output)$spectra, 2L)
  by_name <- function(...) run("-e", "spender::main()", ...)
  expect_match(by_name("--help")$output, "Commands")
  expect_identical(by_name("ingest", "--simulate", "2", "--output", output)$status, 1L)
  expect_identical(by_name("encode", "--version")$status, 2L)
})

wait_for <- function(condition, seconds = 60) {
  until <- Sys.time() + seconds
  while (!condition() && Sys.time() < until) Sys.sleep(0.1)
  condition()
}

logged <- function(text, log) file.exists(log) && any(grepl(text, readLines(log, warn = FALSE)))

# Starts a training in the background: its number will be in `pid`, its exit code in `status`.
start_script <- function(arguments, log, pid, status) {
  command <- paste(shQuote(c(rscript(), "--vanilla", script(), "train", arguments)), collapse = " ")
  system(paste0("( ", command, " > ", shQuote(log), " 2>&1 & echo $! > ", shQuote(pid), "; wait $!; echo $? > ", shQuote(status), " ) &"))
}

test_that("it trains from surveys, and SIGTERM leaves a checkpoint from which --resume goes on to the same bits", {
  skip_on_cran()
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)
  write_survey(x, path("survey.fits"))
  arguments <- c(small_options, "--epochs=400", "--all", path("survey.fits"))
  whole <- run_script("train", arguments, "--output", path("whole.safetensors"), "--quiet")
  expect_equal(whole$status, 0L, info = whole$output)
  kept <- c(arguments, "--output", path("m.safetensors"), "--checkpoint", path("kept.safetensors"))
  start_script(kept, path("log"), path("pid"), path("status"))
  expect_true(wait_for(function() logged("^epoch 20 ", path("log"))), info = paste(readLines(path("log")), collapse = "\n"))
  for (i in 1:20) { # schedulers send it more than once
    tools::pskill(as.integer(readLines(path("pid"))), tools::SIGTERM)
    Sys.sleep(0.005)
  }
  expect_true(wait_for(function() file.exists(path("status")) && length(readLines(path("status"))) == 1))
  expect_equal(readLines(path("status")), "4", info = paste(utils::tail(readLines(path("log")), 5), collapse = "\n"))
  expect_false(file.exists(path("m.safetensors")))
  resumed <- run_script("train", kept, "--resume")
  expect_equal(resumed$status, 0L, info = resumed$output)
  expect_false(grepl("epoch 5 ", resumed$output)) # it did not begin anew
  expect_identical(read_model(path("m.safetensors"))$weights, read_model(path("whole.safetensors"))$weights)
})

test_that("SIGTERM and SIGINT leave the fit of the epochs done", {
  skip_on_cran()
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
    for (i in seq_len(if (signal == tools::SIGTERM) 20 else 1)) {
      tools::pskill(as.integer(readLines(pid)), signal)
      Sys.sleep(0.005)
    }
    expect_true(wait_for(function() file.exists(status) && length(readLines(status)) == 1))
    expect_equal(readLines(status), "3", info = paste(utils::tail(readLines(log), 5), collapse = "\n"))
    expect_gte(nrow(read_model(model)$history), 3)
  }
})
