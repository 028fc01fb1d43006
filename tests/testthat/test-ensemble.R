test_that("members differ by their seed alone, and bands are their mean and spread", {
  x <- small_spectra(24)
  ensemble <- spender_ensemble(x, members = 3, seed = 4, latents = 2, epochs = 2, batch_size = 8, validation = 0.3,
                               network = small_network(),
                               threads = 1, progress = FALSE)
  expect_s3_class(ensemble, "spender_ensemble")
  expect_length(ensemble, 3)
  alone <- spender(x, latents = 2, epochs = 2, batch_size = 8, validation = 0.3, network = small_network(), threads = 1, progress = FALSE,
                   seed = 5, split_seed = 4)
  expect_identical(ensemble[[2]]$weights, alone$weights)
  expect_equal(summary(ensemble)$seed, 4:6)
  expect_length(unique(vapply(ensemble, function(f) f$training$n_training, 0)), 1)
  for (type in c("observed", "rest", "loss")) {
    each <- sapply(ensemble, function(f) predict(f, x[1:3], type), simplify = "array")
    margins <- seq_len(length(dim(each)) - 1)
    bands <- predict(ensemble, x[1:3], type)
    expect_equal(bands$mean, apply(each, margins, mean), ignore_attr = TRUE)
    expect_equal(bands$sd, apply(each, margins, sd), ignore_attr = TRUE)
  }
  expect_s3_class(ensemble[1:2], "spender_ensemble")
  expect_true(all(is.na(predict(ensemble[1], x[1], "rest")$sd)))
  expect_output(print(ensemble), "ensemble of 3 members")
  # members that begin alike would agree too well
  default <- spender_network(filters = c(8, 8, 8), encoder_hidden = 8)
  members <- spender_ensemble(x, members = 1, latents = 2, epochs = 1, batch_size = 8, network = default, threads = 1, progress = FALSE)
  expect_identical(members[[1]]$training$init, "random")
})

test_that("principal components span what spectra are made of, gaps, noise and all", {
  # spectra of three restframe shapes, on the PCA's own grid
  grid <- instrument(seq(4000, 7000, by = 5))
  rest <- seq(3800, 7000, by = 5)
  set.seed(5)
  shapes <- rbind(sin(rest / 400), cos(rest / 900), exp(-((rest - 5000) / 100)^2))
  scores <- matrix(rnorm(180), 60) %*% diag(c(0.3, 0.2, 0.1))
  z <- runif(60, 0, 0.04)
  flux <- t(sapply(1:60, function(i) approx(rest, 1 + scores[i, ] %*% shapes, grid$wave / (1 + z[i]))$y))
  ivar <- matrix(1e4, 60, length(grid$wave))
  ivar[sample(length(ivar), 2000)] <- 0
  x <- spectra(flux + rnorm(length(flux), 0, 0.01), ivar, z, grid, normalize = FALSE, mask_sky = FALSE)
  pca <- spectra_pca(x, components = 3, wave_rest = rest, iterations = 25)
  expect_equal(tcrossprod(pca$components), diag(3), tolerance = 1e-6)
  found <- predict(pca, x, "rest")
  truth <- 1 + scores %*% shapes
  seen <- rest > 4050 & rest < 6700
  expect_lt(sqrt(mean((found - truth)[, seen]^2)), 0.01)
  # three numbers are enough: what is left is the noise
  m <- predict(pca, x, "observed")
  inner <- outer(1 / (1 + z), grid$wave)
  valid <- ivar > 0 & is.finite(m) & inner > 4050 & inner < 6700
  expect_equal(mean(((x$flux - m)^2 * ivar)[valid]), 1, tolerance = 0.1)
  expect_equal(dim(predict(pca, x, "latent")), c(60, 3))
  expect_equal(unname(predict(pca, x, "loss")), unname(rowSums(ifelse(is.na(m), 0, ivar * (x$flux - m)^2)) / (2 * ncol(m))))
  variance <- apply(predict(pca, x, "latent"), 2, var)
  expect_true(all(diff(variance) <= 0))
  expect_output(print(pca), "principal components: 3")
  expect_error(spectra_pca(x[1:3], components = 3), "less than the number", class = "spender_error_invalid")
})

test_that("ranks make the members of an ensemble as one process does", {
  skip_without_mpi()
  folder <- withr::local_tempdir()
  code <- c("x <- simulate_spectra(24, instrument = instrument(seq(4000, 8000, by = 16)), seed = 7)",
            "network <- spender_network(filters = c(8, 12, 16), encoder_hidden = c(16, 8), decoder_hidden = c(8, 24))",
            "ensemble <- spender_ensemble(x, members = 3, latents = 2, epochs = 2, batch_size = 8, network = network, threads = 1,",
            "                             progress = FALSE, ranks = TRUE)",
            "saveRDS(ensemble, paste0(\"ensemble-\", rank, \".rds\"))")
  expect_equal(run_ranks(2, code, folder), 0, ignore_attr = TRUE)
  alone <- spender_ensemble(small_spectra(24), members = 3, latents = 2, epochs = 2, batch_size = 8, network = small_network(), threads = 1,
                            progress = FALSE)
  for (rank in 0:1) {
    shared <- readRDS(file.path(folder, paste0("ensemble-", rank, ".rds")))
    expect_identical(lapply(shared, `[[`, "weights"), lapply(alone, `[[`, "weights"))
    expect_identical(lapply(shared, function(f) f$history[1:4]), lapply(alone, function(f) f$history[1:4]))
    expect_identical(summary(shared)$seed, summary(alone)$seed)
  }
  expect_error(spender_ensemble(small_spectra(), ranks = TRUE, pieces = 2), "each on all of them", class = "spender_error_invalid")
})

test_that("an ensemble is of one instrument", {
  x <- small_spectra(8)
  expect_error(spender_ensemble(list(sdss = x, desi = x)), "`x` must be", class = "spender_error_invalid")
})
