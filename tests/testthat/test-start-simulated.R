on_its_decoder <- function(x, ..., filters = c(8, 8, 8), epochs = 1) {
  spender(x, ..., network = spender_network(filters = filters, encoder_hidden = 8), epochs = epochs, batch_size = 8, threads = 1,
          progress = FALSE)
}

test_that("the simulated starts are the fits that they were made of: refined, near the noise on spectra that they have not seen", {
  skip_on_cran() # takes seconds
  x <- simulate_spectra(32, seed = 5)
  noise <- mean(x$ivar > 0) / 2
  for (network in list(spender_network(filters = c(16, 32, 64)), fast_network())) {
    fit <- spender(x, latents = 10, network = network, init = "simulated", epochs = 1, learning_rate = 1e-12, best = FALSE, threads = 1,
                   progress = FALSE)
    expect_identical(fit$training$init, "simulated")
    expect_lt(mean(predict(fit, x, "loss", refine = 3, threads = 1)), 1.15 * noise)
    expect_lt(stats::median(predict(fit, x, "loss", refine = 0, threads = 1)), 1.5 * noise) # its encoder, too
    expect_output(print(fit), "from\\s+simulated\\s+galaxies")
  }
})

test_that("it goes to other grids, numbers of latents and encoders", {
  skip_on_cran() # takes seconds
  x <- small_spectra(24)
  noise <- mean(x$ivar > 0) / 2
  for (latents in c(3, 12)) {
    fit <- on_its_decoder(x, latents = latents, init = "simulated")
    losses <- predict(fit, x, "loss", refine = 8, threads = 1)
    expect_lt(stats::median(losses), if (latents == 3) 3 * noise else 1.5 * noise)
    expect_lt(mean(losses), fit$training$flat_loss)
  }
  # with the grid's own pixels the decoder's last layer is the stored one, and of more latents the first are
  start <- simulated_start(c(64, 256, 1024))
  architecture <- start$architecture
  architecture$n_latent <- 11
  weights <- with_simulated_start(start, architecture, .Call(ffi_network_fill, architecture, 3), start$wave_rest)
  tensors <- .Call(ffi_network_export, architecture, weights)
  learned <- start$wave_rest >= start$covered[1]
  stored <- start$tensors$left %*% start$tensors$right
  expect_equal(tensors$decoder.mlp.9.weight[learned, ], stored[learned, ], tolerance = 1e-6)
  # what no simulated galaxy showed continues the nearest pixels that one did
  nearest <- colMeans(stored[which(learned)[1:100], ])
  expect_equal(tensors$decoder.mlp.9.weight[!learned, ], matrix(nearest, sum(!learned), length(nearest), byrow = TRUE), tolerance = 1e-6)
  expect_equal(tensors$decoder.mlp.0.weight[, 1:10], start$tensors$decoder.mlp.0.weight, tolerance = 1e-6)
  expect_equal(tensors$encoder.conv3.0.weight, start$tensors$encoder.conv3.0.weight, tolerance = 1e-6)
})

test_that("\"auto\" takes it for few spectra that it describes, and begins at random elsewhere", {
  x <- small_spectra(24)
  expect_identical(on_its_decoder(x, latents = 3)$training$init, "simulated")
  expect_identical(on_its_decoder(x, latents = 3, init = "random")$training$init, "random")
  expect_identical(small_fit(x)$training$init, "random") # another decoder
  survey <- write_survey(x, withr::local_tempfile(fileext = ".fits")) # from files as from memory
  expect_identical(on_its_decoder(survey, latents = 3)$weights, on_its_decoder(x, latents = 3)$weights)
  fit <- structure(list(architecture = new_architecture(spender_network(), 251, 376, 3, 0), training = list()), class = "spender")
  many <- list(z = numeric(5001))
  expect_identical(choose_start(fit, many, "auto", "cpu", "fp32", 1)$training$init, "random")
  # what no galaxy looks like: narrow bands of emission and none between them
  strange <- x
  strange$flux <- matrix(rep_len(c(rep(0, 40), rep(2, 45)), ncol(x$flux)), nrow(x$flux), ncol(x$flux), byrow = TRUE)
  strange$ivar[] <- 1e4
  expect_identical(on_its_decoder(strange, latents = 3)$training$init, "random")
})

test_that("where it does not go, `init = \"simulated\"` says why", {
  x <- small_spectra(8)
  expect_error(small_fit(x, init = "simulated"), "hidden layers of 64, 256 and 1024", class = "spender_error_invalid")
  far <- simulate_spectra(8, instrument = instrument(seq(4000, 8000, by = 16), name = "far"), seed = 1)
  expect_error(on_its_decoder(far, latents = 2, init = "simulated", wave_rest = seq(3000, 60000, by = 30)), "outside of",
               class = "spender_error_invalid")
  expect_error(small_fit(x, init = "stars"), "should be one of")
})

test_that("a fit keeps where it began, and update() does", {
  x <- small_spectra(12)
  fit <- on_its_decoder(x, latents = 2, init = "simulated")
  expect_identical(update(fit, x, 1, progress = FALSE, threads = 1)$training$init, "simulated")
  path <- withr::local_tempfile(fileext = ".safetensors")
  write_model(fit, path)
  expect_identical(read_model(path)$training$init, "simulated")
})
