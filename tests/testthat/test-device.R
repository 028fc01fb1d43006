test_that("the number of threads follows the option, then OMP_NUM_THREADS, and keeps to OMP_THREAD_LIMIT", {
  withr::local_envvar(OMP_NUM_THREADS = "3,2", OMP_THREAD_LIMIT = NA, `_R_CHECK_LIMIT_CORES_` = NA)
  withr::local_options(spender.threads = NULL)
  expect_equal(devices()$threads, 3)
  withr::local_envvar(OMP_THREAD_LIMIT = "2")
  expect_equal(devices()$threads, 2)
  withr::local_options(spender.threads = 5)
  expect_equal(devices()$threads, 5)
})

test_that("without these all cores of this process are taken", {
  withr::local_envvar(OMP_NUM_THREADS = "many", OMP_THREAD_LIMIT = NA, `_R_CHECK_LIMIT_CORES_` = NA)
  withr::local_options(spender.threads = NULL)
  expect_equal(devices()$threads, devices()$cores)
  skip_if(Sys.which("taskset") == "", "taskset is not here")
  withr::local_envvar(OMP_NUM_THREADS = NA)
  code <- "cat(spender::devices()$cores)"
  out <- system2("taskset", c("-c", "0", file.path(R.home("bin"), "Rscript"), "-e", shQuote(code)), stdout = TRUE)
  expect_equal(out, "1")
})

test_that("an option or an environment variable says what \"auto\" is", {
  withr::local_envvar(SPENDER_DEVICE = "cpu")
  expect_equal(choose_device("auto", "fp16", 1)[c("device", "precision")], list(device = "cpu", precision = "fp32"))
  withr::local_options(spender.device = "auto") # the option is stronger
  gpu <- "cuda" %in% devices()$devices$device
  expect_equal(choose_device("auto", "fp16", 1)$device, if (gpu) "cuda" else "cpu")
  withr::local_options(spender.device = "cpu")
  withr::local_envvar(SPENDER_DEVICE = "gpu") # not read
  expect_equal(choose_device("auto", "fp16", 1)$device, "cpu")
  withr::local_options(spender.device = NULL)
  expect_error(choose_device("auto", "fp16", 1), "SPENDER_DEVICE.*must be.*\"gpu\"", class = "spender_error_invalid")
  expect_equal(choose_device("cpu", "fp16", 1)$device, "cpu")
  withr::local_options(spender.device = 1)
  expect_error(choose_device("auto", "fp16", 1), "spender.device.*must be", class = "spender_error_invalid")
  withr::local_options(spender.device = "cuda")
  if (gpu) expect_equal(choose_device("auto", "fp16", 1)$device, "cuda")
  else expect_error(choose_device("auto", "fp16", 1), "options\\(\"spender.device\"\\) = \"cuda\"", class = "spender_error_unsupported")
  withr::local_options(spender.device = NULL)
  withr::local_envvar(SPENDER_DEVICE = "")
  expect_equal(choose_device("auto", "fp16", 1)$device, if (gpu) "cuda" else "cpu")
})

test_that("release_gpu() does nothing where nothing is open, and fits work after it", {
  expect_invisible(release_gpu())
  expect_null(release_gpu())
  fit <- small_fit(epochs = 1)
  release_gpu()
  expect_identical(small_fit(epochs = 1)$weights, fit$weights)
})

test_that("the namespace can be unloaded and loaded again", {
  code <- "x <- spender::devices(); unloadNamespace('spender'); cat(identical(spender::devices(), x))"
  expect_equal(system2(file.path(R.home("bin"), "Rscript"), c("-e", shQuote(code)), stdout = TRUE), "TRUE")
})
