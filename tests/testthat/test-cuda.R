test_that("a demand for a GPU that cannot be met is an error that says why", {
  skip_if("cuda" %in% devices()$devices$device, "there is a GPU here")
  reason <- if (devices()$built[["cuda"]]) "no GPU that can be used" else "no CUDA"
  expect_error(small_fit(device = "cuda"), reason, class = "spender_error_unsupported")
  withr::local_envvar(SPENDER_DEVICE = "auto")
  fit <- small_fit(device = "auto")
  expect_equal(fit$training$device, "cpu")
  expect_equal(fit$training$precision, "fp32")
  expect_error(predict(fit, small_spectra(4), device = "cuda"), reason, class = "spender_error_unsupported")
})

test_that("devices() lists the GPU", {
  skip_without_cuda()
  d <- devices()
  expect_true(d$built[["cuda"]])
  gpu <- d$devices[d$devices$device == "cuda", ]
  expect_gte(nrow(gpu), 1)
  expect_true(all(nzchar(gpu$name)) && all(gpu$memory_gb > 0.5))
  expect_output(print(d), gpu$name[1], fixed = TRUE)
})

test_that("a fit on a GPU is the CPU's, up to rounding", {
  skip_without_cuda()
  x <- small_spectra(24)
  cpu <- small_fit(x, device = "cpu", batch_size = 8)
  gpu <- small_fit(x, device = "cuda", precision = "fp32", batch_size = 8)
  expect_equal(gpu$training$device, "cuda")
  expect_equal(gpu$history$train_loss, cpu$history$train_loss, tolerance = 1e-3)
  expect_equal(predict(cpu, x, "rest", device = "cuda"), predict(cpu, x, "rest", device = "cpu"), tolerance = 1e-5)
  expect_equal(encode(cpu, x, device = "cuda"), encode(cpu, x, device = "cpu"), tolerance = 1e-5)
  expect_equal(predict(cpu, x, "loss", device = "cuda"), predict(cpu, x, "loss", device = "cpu"), tolerance = 1e-5)
})

test_that("two runs on a GPU have the same bits, in each precision", {
  skip_without_cuda()
  x <- small_spectra(24)
  for (precision in c("fp32", "tf32", "fp16", "bf16")) {
    fits <- lapply(1:2, function(i) small_fit(x, device = "cuda", precision = precision, batch_size = 8))
    expect_identical(fits[[1]]$weights, fits[[2]]$weights)
    expect_equal(fits[[1]]$training$precision, precision)
    expect_lt(fits[[1]]$history$train_loss[nrow(fits[[1]]$history)], fits[[1]]$history$train_loss[1])
  }
})

test_that("a batch that does not fit names one that does", {
  skip_without_cuda()
  x <- small_spectra(2)[rep(1:2, 5e4)]
  network <- spender_network(filters = c(1024, 2048, 2048)) # about 3 MB a spectrum
  expect_error(spender(x, network = network, batch_size = 1e5, epochs = 1, device = "cuda", validation = 0, progress = FALSE),
               "try a batch size of", class = "spender_error_no_memory")
})

test_that("a fit after another does not open the GPU anew", {
  skip_without_cuda()
  x <- small_spectra(8)
  once <- function() {
    start <- proc.time()[["elapsed"]]
    encode(fit, x, device = "cuda")
    proc.time()[["elapsed"]] - start
  }
  fit <- small_fit(x, device = "cpu")
  release_gpu()
  first <- once()
  expect_lt(min(once(), once()), max(0.1, first / 2))
})

test_that("forked processes are refused the GPU and compute without", {
  skip_without_cuda()
  skip_on_os("windows")
  withr::local_envvar(SPENDER_DEVICE = "auto")
  x <- small_spectra(8)
  fit <- small_fit(x, device = "cuda")
  left <- open_inference(fit, x, "latent", encoder_only, choose_device("cuda", "fp16", 1), NULL) # for the child's garbage collector
  children <- parallel::mclapply(1:2, mc.cores = 2, FUN = function(i) { # one would be computed in this process
    advance <- tryCatch(.Call(ffi_infer_advance, left, 1), error = conditionMessage)
    rm(left, envir = parent.env(environment()))
    gc()
    release_gpu()
    list(process = Sys.getpid(), advance = advance, demand = tryCatch(encode(fit, x, device = "cuda"), error = conditionMessage),
         auto = encode(fit, x), cpu = encode(fit, x, device = "cpu"), devices = devices()$devices$device)
  })
  for (child in children) {
    expect_false(child$process == Sys.getpid())
    expect_match(child$advance, "fork")
    expect_match(child$demand, "fork")
    expect_equal(child$devices, "cpu")
    expect_identical(child$cpu, encode(fit, x, device = "cpu"))
    expect_identical(child$auto, child$cpu)
  }
  .Call(ffi_session_close, left)
  expect_equal(encode(fit, x, device = "cuda", precision = "fp32"), encode(fit, x, device = "cpu"), tolerance = 1e-4)
})
