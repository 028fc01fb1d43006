# Refined latents, beside the same steps in plain R.

# Jacobian of the observed model by central differences of decode(), restframe to observed without a line spread function
model_at <- function(fit, s, z) decode(fit, s, z = z)[1, ]

jacobian_at <- function(fit, s, z, h = 2e-3) {
  vapply(seq_along(s), function(a) {
    step <- replace(numeric(length(s)), a, h)
    (model_at(fit, s + step, z) - model_at(fit, s - step, z)) / (2 * h)
  }, numeric(length(fit$instrument$wave)))
}

# Damped Gauss-Newton steps, each with a Jacobian of its own
steps_in_r <- function(fit, x, s, n, damping = 0.1) {
  w <- x$ivar[1, ]
  half_chi <- function(s) sum(w * (x$flux[1, ] - model_at(fit, s, x$z))^2, na.rm = TRUE) / 2
  now <- half_chi(s)
  for (i in seq_len(n)) {
    j <- jacobian_at(fit, s, x$z)
    j[is.na(j)] <- 0
    r <- x$flux[1, ] - model_at(fit, s, x$z)
    r[is.na(r)] <- 0
    a <- crossprod(j, w * j)
    step <- solve(a + damping * diag(diag(a)), crossprod(j, w * r))[, 1]
    there <- half_chi(s + step)
    if (there < now) {
      s <- s + step
      now <- there
      damping <- damping / 5
    } else {
      damping <- damping * 10
    }
  }
  list(s = s, loss = now / length(w), matrix = a)
}

trained <- function() {
  x <- small_spectra(40)
  list(x = x, fit = small_fit(x, epochs = 12, latents = 2, batch_size = 8, learning_rate = 1e-2))
}

test_that("a step is that of plain R", {
  both <- trained()
  for (i in c(1, 7)) {
    one <- both$x[i]
    wanted <- steps_in_r(both$fit, one, encode(both$fit, one)[1, ], 1)
    got <- encode(both$fit, one, refine = 1)[1, ]
    expect_equal(unname(got), unname(wanted$s), tolerance = 2e-3)
    expect_equal(unname(predict(both$fit, one, "loss", refine = 1)), wanted$loss, tolerance = 2e-3)
  }
  one <- both$x[3]
  s <- encode(both$fit, one, refine = 20)[1, ]
  j <- jacobian_at(both$fit, s, one$z)
  j[is.na(j)] <- 0
  expect_equal(unname(vcov(both$fit, one, refine = 20)[1, , ]), solve(crossprod(j, one$ivar[1, ] * j)), tolerance = 5e-3)
})

test_that("losses fall with steps, and all types follow the refined latents", {
  both <- trained()
  fit <- both$fit
  x <- both$x
  losses <- vapply(0:6, function(k) predict(fit, x, "loss", refine = k), numeric(40))
  expect_true(all(diff(t(losses)) <= 1e-6 * losses[1, 1]))
  expect_lt(mean(losses[, 7]), 0.98 * mean(losses[, 1]))
  s <- encode(fit, x, refine = 3)
  expect_equal(unname(decode(fit, s)), unname(predict(fit, x, "rest", refine = 3)), tolerance = 1e-6)
  expect_equal(unname(decode(fit, s, z = x$z)), unname(predict(fit, x, "observed", refine = 3)), tolerance = 1e-6)
  cpu <- function(x) predict(fit, x, "latent", refine = 3, device = "cpu")
  expect_identical(cpu(x[5]), cpu(x)[5, , drop = FALSE])
  expect_equal(reconstruct(fit, x[2], refine = 3), predict(fit, x[2], "observed", refine = 3) * x$norm[2])
  errors <- encode(fit, x, se = TRUE, refine = 3)
  expect_identical(errors$latent, s)
  v <- vcov(fit, x, refine = 3)
  expect_equal(unname(errors$se), unname(sqrt(cbind(v[, 1, 1], v[, 2, 2]))))
  expect_equal(v[, 1, 2], v[, 2, 1])
  expect_identical(dimnames(v)[[2]], c("s1", "s2"))
  path <- withr::local_tempfile(fileext = ".fits")
  survey <- write_survey(x, path)
  expect_identical(predict(fit, survey, "latent", refine = 3), predict(fit, x, "latent", refine = 3))
  for (type in c("latent", "covariance", "z")) {
    file <- withr::local_tempfile(fileext = ".fits")
    predict(fit, survey, type, refine = 3, path = file)
    expect_equal(unname(read_predictions(file)), unname(predict(fit, x, type, refine = 3)), tolerance = 1e-6)
    expect_error(predict(fit, survey, type, refine = 2, path = file), "the same refine", class = "spender_error_exists")
  }
})

test_that("errors of latents and of a joint redshift are the scatter under noise", {
  set.seed(5)
  both <- trained()
  fit <- both$fit
  one <- both$x[3]
  n <- 300
  s <- encode(fit, one, refine = 10)
  clean <- decode(fit, s, z = one$z)
  clean[is.na(clean)] <- 0
  ivar <- matrix(400, n, ncol(clean)) # errors of 0.05
  noisy <- spectra(clean[rep(1, n), ] + matrix(rnorm(n * ncol(clean), 0, 0.05), n), ivar, rep(one$z, n), one$instrument,
                   normalize = FALSE, mask_sky = FALSE)
  found <- encode(fit, noisy, refine = 12, se = TRUE)
  pull <- sweep(found$latent, 2, s[1, ]) / found$se
  expect_equal(unname(apply(pull, 2, sd)), c(1, 1), tolerance = 0.12) # 300 draws: 4 % each
  z <- predict(fit, noisy, "z", refine = 12)
  pull <- (z[, "z"] - one$z) / z[, "z_err"]
  expect_equal(sd(pull), 1, tolerance = 0.15)
  # bands of the model: its scatter, and what plain R makes of Jacobian and covariance
  band <- reconstruct(fit, noisy, normalized = TRUE, se = TRUE, refine = 12)
  expect_identical(band$model, reconstruct(fit, noisy, normalized = TRUE, refine = 12))
  pull <- sweep(band$model, 2, clean[1, ]) / band$se
  expect_equal(mean(apply(pull, 2, sd), na.rm = TRUE), 1, tolerance = 0.1)
  j <- jacobian_at(fit, found$latent[1, ], one$z)
  v <- vcov(fit, noisy[1], refine = 12)[1, , ]
  expect_equal(unname(band$se[1, ]), sqrt(rowSums((j %*% v) * j)), tolerance = 5e-3)
  s <- encode(fit, noisy[1], refine = 12, refine_z = TRUE)[1, ]
  at <- predict(fit, noisy[1], "z", refine = 12)[1, "z"]
  j <- cbind(jacobian_at(fit, s, at), (model_at(fit, s, at + 1e-5) - model_at(fit, s, at - 1e-5)) / 2e-5)
  v <- vcov(fit, noisy[1], refine = 12, refine_z = TRUE)[1, , ]
  with_z <- reconstruct(fit, noisy[1], normalized = TRUE, se = TRUE, refine = 12, refine_z = TRUE)$se[1, ]
  expect_lt(median(abs(unname(with_z) / sqrt(rowSums((j %*% v) * j)) - 1), na.rm = TRUE), 0.02)
  expect_equal(reconstruct(fit, both$x[2], se = TRUE, refine = 2)$se / both$x[2]$norm,
               reconstruct(fit, both$x[2], normalized = TRUE, se = TRUE, refine = 2)$se)
  expect_error(reconstruct(fit, one, se = NA), "`se`", class = "spender_error_invalid")
  expect_error(reconstruct(new_ensemble(list(fit, fit)), one, se = TRUE), "one fit", class = "spender_error_invalid")
  # a wrong redshift is pulled back
  wrong <- noisy
  wrong$z <- wrong$z + 3 * z[, "z_err"]
  back <- predict(fit, wrong, "z", refine = 12)
  expect_lt(mean(abs(back[, "z"] - z[, "z"]) / z[, "z_err"]), 0.3)
})

test_that("priors decide where data do not, and Student's t leaves spikes alone", {
  both <- trained()
  fit <- both$fit
  x <- both$x
  x$ivar[4, ] <- 0
  x$ivar[4, 100] <- 1e-3 # one pixel that says nothing
  prior <- list(mean = c(0.5, -1), covariance = diag(c(0.04, 0.09)))
  near <- encode(fit, x[4], refine = 8, prior = prior, se = TRUE)
  expect_equal(unname(near$latent[1, ]), c(0.5, -1), tolerance = 0.05)
  expect_equal(unname(near$se[1, ]), c(0.2, 0.3), tolerance = 0.02)
  expect_true(all(is.na(vcov(fit, x[4])[1, , ])) || all(diag(vcov(fit, x[4])[1, , ]) > 1)) # undetermined, or nearly so
  clean <- both$x[8]
  spiked <- clean
  at <- which(spiked$ivar[1, ] > 0)[60:64]
  spiked$flux[1, at] <- spiked$flux[1, at] + 20 / sqrt(spiked$ivar[1, at])
  moved <- function(...) sqrt(sum((encode(fit, spiked, refine = 12, ...) - encode(fit, clean, refine = 12, ...))^2))
  expect_lt(moved(robust = 3), 0.5 * moved())
  expect_error(encode(fit, x, refine = 2, prior = list(mean = 1, covariance = 1)), "`prior`", class = "spender_error_invalid")
  expect_error(encode(fit, x, refine = 2, prior = list(mean = 1:2, covariance = diag(c(1, -1)))), "positive definite",
               class = "spender_error_invalid")
  expect_error(encode(fit, x, refine_z = TRUE), "needs steps", class = "spender_error_invalid")
  expect_error(encode(fit, x, refine = 1.5), "`refine`", class = "spender_error_invalid")
  expect_length(fit$training$prior$mean, 2)
  unknown <- both$x
  unknown$ivar[2, ] <- 0
  expect_warning(s <- encode(fit, unknown, refine = 2), class = "spender_warning_coverage")
  expect_true(all(is.na(s[2, ])) && !anyNA(s[-2, ]))
})

test_that("a decoder that learns at refined latents fits better with them, and resumes to the same bits", {
  x <- small_spectra(60)
  train_it <- function(...) small_fit(x, epochs = 20, latents = 2, learning_rate = 1e-2, ...)
  plain <- train_it()
  refined <- train_it(refine = TRUE)
  expect_lt(mean(predict(refined, x, "loss", refine = 3)), mean(predict(plain, x, "loss", refine = 3)))
  expect_identical(train_it(refine = 0.5)$weights, refined$weights)
  expect_identical(train_it(refine = TRUE, threads = 2)$weights, refined$weights)
  expect_identical(refined$training$refine, TRUE)
  checkpoint <- withr::local_tempfile(fileext = ".safetensors")
  train_it(refine = TRUE, checkpoint = checkpoint, callback = function(history) nrow(history) < 14)
  resumed <- train_it(refine = TRUE, checkpoint = checkpoint, resume = TRUE)
  expect_identical(resumed$weights, refined$weights)
  expect_error(train_it(refine = 0.5, checkpoint = checkpoint, resume = TRUE), "the same refine", class = "spender_error_checkpoint")
  expect_error(train_it(refine = 2), "`refine`", class = "spender_error_invalid")
  expect_error(train_it(refine = NA), "`refine`", class = "spender_error_invalid")
})

test_that("summary() compares the losses of encoder, refined latents, principal components and noise", {
  both <- trained()
  x <- both$x
  x$ivar[5, ] <- 0 # has no loss, and counts nowhere
  expect_warning(s <- summary(both$fit, x, pca = spectra_pca(both$x, 2, iterations = 3)), class = "spender_warning_coverage")
  expect_named(s$losses, c("encoder", "refined", "pca", "noise"))
  expect_equal(s$losses[["refined"]], mean(predict(both$fit, x[-5], "loss", refine = 3)))
  expect_equal(unname(s$chi2[2]), stats::median(predict(both$fit, x[-5], "chi2", refine = 3)))
  expect_equal(s$losses[["noise"]], mean(x$ivar[-5, ] > 0) / 2)
  expect_output(print(s), "compared +encoder [0-9.]+, refined [0-9.]+, pca [0-9.]+, noise [0-9.]+")
  expect_null(summary(both$fit)$losses)
  expect_error(summary(both$fit, pca = 1), "give `x`", class = "spender_error_invalid")
  expect_error(summary(both$fit, x[1:3], pca = 1), "spectra_pca", class = "spender_error_invalid")
})
