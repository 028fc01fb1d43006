test_that("choose_latents() finds that one latent is not enough where spectra differ in two ways", {
  # two lines of any strength on a flat continuum, noise of known size
  grid <- small_instrument()
  n <- 120
  set.seed(1)
  line <- function(centre) outer(stats::runif(n, 0, 3), exp(-0.5 * ((grid$wave - centre) / 60)^2))
  flux <- 1 + line(4800) + line(6600) + stats::rnorm(n * length(grid$wave), sd = 0.05)
  x <- suppressWarnings(spectra(flux, matrix(1 / 0.05^2, n, length(grid$wave)), z = numeric(n), wave = grid))
  table <- choose_latents(x, c(3, 1), network = small_network(), epochs = 60, validation = 0.3, threads = 1, progress = FALSE)
  expect_identical(table$latents, c(1, 3))
  expect_identical(attr(table, "suggested"), 3)
  expect_equal(table$excess[2], 0)
  expect_gt(table$excess[1], 5 * table$excess_se[1])
  expect_lt(table$pca[2], table$pca[1])
  expect_output(print(table), "3 latents describe the spectra held out as well as any number tried; more may be better")
  expect_s3_class(plot(table), "ggplot")
  # one number alone is the best of those tried
  alone <- choose_latents(x, 2, network = small_network(), epochs = 1, validation = 0.3, pca = FALSE, threads = 1, progress = FALSE)
  expect_identical(attr(alone, "suggested"), 2)
})

test_that("it needs spectra to compare on", {
  expect_error(choose_latents(small_spectra(12), 2, network = small_network(), epochs = 1, threads = 1, progress = FALSE),
               "spectra held out, and only", class = "spender_error_invalid")
  expect_error(choose_latents(1:3), "must be spectra", class = "spender_error_invalid")
  expect_error(choose_latents(small_spectra(12), latents = 0), "latents", class = "spender_error_invalid")
})
