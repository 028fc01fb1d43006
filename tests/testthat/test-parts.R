# Predictions in parts: those of the whole, whoever makes which part, and joined they are its file.

bytes_of <- function(path) readBin(path, raw(), file.size(path))

test_that("parts are computed by themselves, read together and joined to the file of the whole", {
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  survey <- write_survey(small_spectra(23), path("survey.fits"))
  fit <- small_fit()
  for (x in list(survey, as_spectra(survey))) {
    unlink(Sys.glob(path("latents*")))
    whole <- predict(fit, x, c("latent", "loss", "covariance"), path = path("whole.fits"), keep = c("class", "sn_median"), overwrite = TRUE)
    parts <- vapply(c(3, 1, 4, 2), function(k) {
      predict(fit, x, c("latent", "loss", "covariance"), path = path("latents.fits"), part = c(k, 4), keep = c("class", "sn_median"))
    }, "")
    expect_equal(basename(parts), paste0("latents-", c(3, 1, 4, 2), "-of-4.fits"))
    expect_equal(vapply(parts, function(p) .Call(ffi_survey_info, p)$n, 0), c(6, 5, 6, 6), ignore_attr = TRUE)
    expect_identical(read_predictions(parts), read_predictions(whole))
    expect_identical(read_predictions(parts, table = TRUE), read_predictions(whole, table = TRUE))
    join_predictions(parts, path("latents.fits"))
    expect_identical(bytes_of(path("latents.fits")), bytes_of(whole))
    # complete, as the whole would be; of another fit, not
    expect_silent(predict(fit, x, c("latent", "loss", "covariance"), path = path("latents.fits"), keep = c("class", "sn_median")))
    expect_error(predict(small_fit(seed = 2), x, c("latent", "loss", "covariance"), path = path("latents.fits"),
                         keep = c("class", "sn_median")), "not the same fit", class = "spender_error_exists")
  }
})

test_that("a part goes on where it was stopped, and is not taken for another", {
  folder <- withr::local_tempdir()
  path <- file.path(folder, "losses.fits")
  x <- small_spectra(12)
  fit <- small_fit(x)
  first <- predict(fit, x, "loss", path = path, part = "1/2")
  n <- file.size(first)
  expect_identical(predict(fit, x, "loss", path = path, part = c(1, 2)), first)
  file.copy(first, file.path(folder, "losses-2-of-2.fits"))
  expect_error(predict(fit, x, "loss", path = path, part = c(2, 2)), "not the same part", class = "spender_error_exists")
  second <- predict(fit, x, "loss", path = path, part = c(2, 2), overwrite = TRUE)
  expect_error(join_predictions(first, path), "these are missing: 2", class = "spender_error_parts")
  expect_error(join_predictions(c(first, first), path), "given before, 1 of 2", class = "spender_error_parts")
  third <- predict(fit, x, "loss", path = path, part = c(3, 3))
  expect_error(join_predictions(c(first, second, third), path), "losses-3-of-3.fits is one of 3 parts",
               class = "spender_error_parts")
  other <- predict(small_fit(x, seed = 3), x, "loss", path = file.path(folder, "other.fits"), part = c(2, 2))
  expect_error(join_predictions(c(first, other), path), "has not the same fit as losses-1-of-2.fits",
               class = "spender_error_parts")
  join_predictions(c(second, first), path)
  expect_error(join_predictions(c(second, first), path), class = "spender_error_exists")
  expect_error(join_predictions(c(path, first), tempfile()), "is not a part", class = "spender_error_parts")
  for (wrong in list(c(0, 2), c(3, 2), 1, "a", c(1, NA), c(1.5, 2))) {
    expect_error(predict(fit, x, "loss", path = path, part = wrong), "`part` must be", class = "spender_error_invalid")
  }
  expect_error(predict(fit, x, "loss", part = c(1, 2)), "none is given", class = "spender_error_invalid")
})

test_that("\"rank\" is the launcher's", {
  withr::local_envvar(OMPI_COMM_WORLD_RANK = NA, OMPI_COMM_WORLD_SIZE = NA, PMI_RANK = NA, PMI_SIZE = NA, SLURM_PROCID = NA,
                      SLURM_NTASKS = NA)
  expect_error(check_part("rank", "a.fits"), "neither mpirun nor srun", class = "spender_error_invalid")
  withr::local_envvar(SLURM_PROCID = "2", SLURM_NTASKS = "8")
  expect_equal(check_part("rank", "a.fits"), c(3, 8))
  withr::local_envvar(OMPI_COMM_WORLD_RANK = "0", OMPI_COMM_WORLD_SIZE = "4")
  expect_equal(check_part("rank", "a.fits"), c(1, 4))
  expect_equal(part_path("a/b.c.fits", c(1, 4)), "a/b.c-1-of-4.fits")
  expect_equal(part_path("a", c(1, 4)), "a-1-of-4")
})

test_that("a rank whose disk is full says so with its host, and its part goes on", {
  skip_on_cran() # takes seconds
  skip_without_mpi()
  skip_without_small_disks()
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  x <- small_spectra(23)
  fit <- small_fit()
  saveRDS(list(x = x, fit = fit), path("both.rds"))
  whole <- predict(fit, x, "observed", path = path("whole.fits"))
  code <- function(folders) {
    c("both <- readRDS(\"both.rds\")", sprintf("folder <- c(%s)[rank + 1]", paste(shQuote(folders), collapse = ", ")),
      "predict(both$fit, both$x, \"observed\", path = file.path(folder, \"parts.fits\"), part = \"rank\")")
  }
  done <- run_ranks(2, code(c(".", "disk")), folder, disk = 20) # headers have 8640 bytes, rows 12 times 1056
  expect_false(done == 0)
  expect_match(attr(done, "output"), "rank 1 \\(.+\\): parts-2-of-2.fits: writing failed \\(No space left on device\\)", all = FALSE)
  expect_identical(list.files(path("left")), "parts-2-of-2.fits")
  again <- run_ranks(2, code(c(".", "left")), folder)
  expect_equal(again, 0, ignore_attr = TRUE, info = paste(attr(again, "output"), collapse = "\n"))
  join_predictions(c(path("parts-1-of-2.fits"), path("left/parts-2-of-2.fits")), path("parts.fits"))
  expect_identical(bytes_of(path("parts.fits")), bytes_of(whole))
})

test_that("ranks write the parts of a survey, and the command line joins them", {
  skip_without_mpi()
  folder <- withr::local_tempdir()
  path <- function(name) file.path(folder, name)
  survey <- write_survey(small_spectra(23), path("survey.fits"))
  fit <- small_fit()
  write_model(fit, path("model.safetensors"))
  done <- run_ranks(4, "spender::main(c(\"encode\", \"--part\", \"rank\", \"--model\", \"model.safetensors\", \"survey.fits\"))", folder)
  expect_equal(done, 0, ignore_attr = TRUE, info = paste(attr(done, "output"), collapse = "\n"))
  withr::local_dir(folder)
  expect_equal(suppressMessages(main(c("join", "--quiet", Sys.glob("latents-*")), quit = FALSE)), 0)
  expect_equal(read_predictions("latents.fits"), predict(fit, survey, c("latent", "loss")), tolerance = 1e-6)
})
