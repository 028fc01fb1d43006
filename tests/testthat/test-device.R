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
