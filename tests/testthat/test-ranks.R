# Training by several processes: the same bits for any number of them, and what happens to one happens to all.

read_fits <- function(folder, name = "fit") lapply(Sys.glob(file.path(folder, paste0(name, "-*.rds"))), readRDS)
same_fit <- function(a, b) identical(a$weights, b$weights) && identical(a$history[1:4], b$history[1:4])

test_that("pieces are a power of two that divides the batch, and one of them changes nothing", {
  x <- small_spectra()
  expect_error(small_fit(x, pieces = 3), "`pieces` must be a power of two", class = "spender_error_invalid")
  expect_error(small_fit(x, pieces = 4, batch_size = 6), "cannot be cut into 4 pieces", class = "spender_error_invalid")
  expect_error(small_fit(x, pieces = 2, invariance = spender_invariance()), "does not go with `pieces`", class = "spender_error_invalid")
  plain <- small_fit(x)
  expect_null(plain$training$pieces)
  expect_identical(small_fit(x, pieces = 1)$weights, plain$weights)
  two <- small_fit(x, pieces = 2)
  expect_false(identical(two$weights, plain$weights))
  expect_equal(two$history$train_loss, plain$history$train_loss, tolerance = 1e-3)
  expect_identical(two$training$pieces, 2)
  expect_identical(update(two, x, 1, progress = FALSE)$training$pieces, 2)
  expect_gte(small_fit(x, pieces = 16, batch_size = NULL)$training$batch_size, 16)
})

test_that("processes of srun that do not know each other are an error", {
  withr::local_envvar(SLURM_STEP_NUM_TASKS = "2")
  expect_error(small_fit(pieces = 2), "srun has started 2 processes.*--mpi=pmix", class = "spender_error_ranks")
  expect_s3_class(small_fit(), "spender")
})

test_that("a checkpoint belongs to its number of pieces", {
  folder <- withr::local_tempdir()
  path <- file.path(folder, "kept")
  x <- small_spectra()
  whole <- small_fit(x, pieces = 2)
  small_fit(x, pieces = 2, checkpoint = path, callback = function(history) nrow(history) < 2)
  expect_error(small_fit(x, pieces = 4, checkpoint = path, resume = TRUE), "not the same pieces", class = "spender_error_checkpoint")
  expect_error(small_fit(x, checkpoint = path, resume = TRUE), class = "spender_error_checkpoint")
  expect_identical(suppressMessages(small_fit(x, pieces = 2, checkpoint = path, resume = TRUE))$weights, whole$weights)
})

test_that("ranks make the fit of one process, and go on from each other's checkpoints", {
  skip_without_mpi()
  folder <- withr::local_tempdir()
  x <- simulate_spectra(60, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)
  alone <- spender(x, latents = 2, epochs = 3, batch_size = 16, validation = 0.2, network = small_network(), threads = 1, progress = FALSE,
                   init = "random", pieces = 4)
  stops <- "checkpoint = \"kept\", callback = function(history) nrow(history) < 2"
  expect_equal(run_ranks(2, ranks_fit(stops, "half"), folder), 0, ignore_attr = TRUE)
  half <- read_fits(folder, "half")
  expect_length(half, 2)
  expect_identical(half[[1]]$history, half[[2]]$history)
  expect_equal(nrow(half[[1]]$history), 2)
  done <- run_ranks(4, c(ranks_fit("checkpoint = \"kept\", resume = TRUE", "resumed"), ranks_fit()), folder)
  expect_equal(done, 0, ignore_attr = TRUE, info = paste(attr(done, "output"), collapse = "\n"))
  expect_length(grep("Going on after epoch 2", attr(done, "output")), 1) # the first rank says it
  for (name in c("resumed", "fit")) {
    fits <- read_fits(folder, name)
    expect_length(fits, 4)
    for (fit in fits) expect_true(same_fit(fit, alone))
    expect_identical(unique(lapply(fits, `[[`, "history")), list(fits[[1]]$history))
  }
})

test_that("an error of one rank, or another build, data or arguments, end all with a message that names it", {
  skip_without_mpi()
  folder <- withr::local_tempdir()
  said <- said_by_ranks(folder, c("failing <- function(history) stop(\"no more\")",
                                  "said <- c(try_fit(simulated(30 + rank)), try_fit(simulated(30), seed = rank),",
                                  "          try_fit(simulated(30), callback = failing), try_fit(simulated(30)))"))
  for (of_rank in said) {
    expect_match(of_rank[1], "^spender_error_ranks .*rank 1 \\(.*\\) and rank 0 \\(.*\\) differ in .*spectra")
    expect_match(of_rank[2], "^spender_error_ranks .*differ in seed, .*seed: 1 and 0")
  }
  expect_match(said[[1]][3], "no more")
  expect_match(said[[2]][3], "^spender_error_device rank 0 \\(.*\\) stopped: no more")
  expect_match(said[[2]][4], "^spender_error_device") # ranks that have parted do not meet again
})

test_that("a rank of another build, or without the GPU that it is told to use, ends all", {
  skip_without_mpi()
  folder <- withr::local_tempdir()
  withr::local_envvar(CUDA_VISIBLE_DEVICES = "")
  said <- said_by_ranks(folder, c("said <- try_fit(simulated(30))",
                                  "identity <- spender:::build_identity",
                                  "other <- function(device) replace(identity(device), \"instructions\", \"none\")",
                                  "if (rank == 1) assignInNamespace(\"build_identity\", other, \"spender\")",
                                  "said <- c(said, try_fit(simulated(30)))",
                                  "assignInNamespace(\"build_identity\", identity, \"spender\")",
                                  "said <- c(said, try_fit(simulated(30), device = if (rank == 1) \"cuda\" else \"cpu\"))"))
  for (of_rank in said) {
    expect_identical(of_rank[1], "no error")
    expect_match(of_rank[2], "^spender_error_ranks .*: rank 1 \\(.*\\) and rank 0 \\(.*\\) differ in instructions \\(.*: none and")
  }
  expect_match(said[[1]][3], "^spender_error_device rank 1 \\(.*\\) stopped: `device = \"cuda\"`: (.* has no CUDA|there is no GPU)")
  expect_match(said[[2]][3], "^spender_error_unsupported `device = \"cuda\"`: (.* has no CUDA|there is no GPU)")
})

test_that("a full disk ends all ranks, and the checkpoint is good", {
  skip_on_cran() # takes seconds
  skip_without_mpi()
  skip_without_small_disks()
  folder <- withr::local_tempdir()
  kept <- "checkpoint_minutes = 0, checkpoint = "
  expect_equal(run_ranks(2, ranks_fit(paste0(kept, "\"kept\""), "whole"), folder), 0, ignore_attr = TRUE)
  room <- 1.5 * file.size(file.path(folder, "kept")) / 1024 # for one; the next is written beside it
  code <- c("said <- tryCatch({", ranks_fit(paste0(kept, "\"disk/kept\"")), "\"no error\"",
            "}, error = function(e) paste(class(e)[1], conditionMessage(e)))",
            "writeLines(said, paste0(\"said-\", rank))")
  took <- system.time(run_ranks(2, code, folder, disk = room))[["elapsed"]]
  expect_lt(took, 50) # nobody waits for a timeout
  said <- vapply(Sys.glob(file.path(folder, "said-*")), readLines, "", USE.NAMES = FALSE)
  expect_length(said, 2)
  expect_match(said[1], "^spender_error_io The checkpoint could not be written: .*No space left on device")
  expect_match(said[2], "^spender_error_device rank 0 \\(.*\\) stopped: The checkpoint could not be written: .*No space left on device")
  expect_identical(list.files(file.path(folder, "left")), "kept")
  done <- run_ranks(4, ranks_fit("checkpoint = \"left/kept\", resume = TRUE", "resumed"), folder)
  expect_equal(done, 0, ignore_attr = TRUE)
  expect_match(attr(done, "output"), "Going on after epoch", all = FALSE)
  for (fit in read_fits(folder, "resumed")) expect_true(same_fit(fit, read_fits(folder, "whole")[[1]]))
})

test_that("a rank that dies ends the others, and the checkpoint is good", {
  skip_on_cran() # takes seconds
  skip_without_mpi()
  folder <- withr::local_tempdir()
  dies <- "checkpoint = \"kept\", checkpoint_minutes = 0,
           callback = function(history) if (nrow(history) == 2) system(\"kill -9 $(cat pid)\")"
  code <- c("if (rank == 1) writeLines(as.character(Sys.getpid()), \"pid\")", "Sys.sleep(0.5)")
  killed <- run_ranks(2, c(code, ranks_fit(dies)), folder)
  expect_false(killed == 0)
  expect_length(read_fits(folder), 0)
  expect_equal(run_ranks(1, ranks_fit("checkpoint = \"kept\", resume = TRUE, callback = function(history) TRUE"), folder), 0,
               ignore_attr = TRUE)
  alone <- small_fit(simulate_spectra(60, instrument = small_instrument(), seed = 7), batch_size = 16, init = "random", pieces = 4)
  expect_identical(read_fits(folder)[[1]]$weights, alone$weights)
})

test_that("SIGTERM, to each rank and more than once, leaves a checkpoint", {
  skip_without_mpi()
  skip_on_cran()
  folder <- withr::local_tempdir()
  write_survey(small_spectra(60), file.path(folder, "survey.fits"))
  train <- function(epochs) {
    c("writeLines(as.character(Sys.getpid()), paste0(\"pid-\", rank))",
      sprintf("spender::main(c(\"train\", \"--filters=8,12,16\", \"--encoder-hidden=16,8\", \"--decoder-hidden=8,24\", \"--latents=2\",
               \"--pieces=2\", \"--epochs=%d\", \"--threads=1\", \"--all\", \"--init=random\", \"--checkpoint=kept\", \"--resume\",
               \"--output=model.safetensors\", \"survey.fits\"), quit = TRUE)", epochs))
  }
  signals <- "(until grep -qs '^epoch 20 ' log; do sleep 0.1; done;
               for i in 1 2 3 4 5; do kill -TERM $(cat pid-0 pid-1); sleep 0.02; done) &"
  took <- system.time({
    system(paste("cd", shQuote(folder), "&&", signals))
    done <- run_ranks(2, train(1e6), folder)
  })[["elapsed"]]
  expect_equal(done, 4, ignore_attr = TRUE, info = paste(attr(done, "output"), collapse = "\n"))
  expect_lt(took, 50) # nobody waits for a timeout
  expect_true(file.exists(file.path(folder, "kept")))
})

test_that("an R package of MPI that was loaded before goes on working", {
  skip_without_mpi()
  skip_if(!nzchar(system.file(package = "Rmpi")), "there is no Rmpi")
  skip_if(mpirun() != "mpirun", "Rmpi is of mpirun's MPI")
  folder <- withr::local_tempdir()
  code <- c("library(Rmpi)", ranks_fit(), "saveRDS(c(mpi.comm.rank(0), mpi.allreduce(1, comm = 0)), paste0(\"said-\", rank, \".rds\"))",
            "mpi.quit()")
  done <- run_ranks(2, code, folder)
  expect_equal(done, 0, ignore_attr = TRUE, info = paste(attr(done, "output"), collapse = "\n"))
  expect_identical(read_fits(folder, "said"), list(c(0, 2), c(1, 2)))
  fits <- read_fits(folder)
  expect_true(same_fit(fits[[1]], fits[[2]]))
})
