test_that("attention sums to one over the segments, in order and whatever the batch", {
  on_cpu()
  x <- small_spectra(7)
  fit <- small_fit(x)
  a <- attention(fit, x)
  expect_s3_class(a, "spender_attention")
  expect_equal(dim(a)[c(1, 3)], c(7, 8))
  expect_equal(dimnames(a)[[1]], x$id)
  expect_equal(as.vector(apply(a, c(1, 3), sum)), rep(1, 7 * 8), tolerance = 1e-5)
  expect_true(all(a >= 0))
  expect_identical(a, attention(fit, x, batch_size = 2))
  expect_identical(as.vector(attention(fit, x[4])), as.vector(unclass(a)[4, , ]))
  expect_output(print(a), "attention of 7 spectra")
})

test_that("segments stand where their max-pools have their middle", {
  fit <- small_fit()
  wave <- attr(attention(fit, small_spectra(2)), "wave")
  pools <- fit$architecture$pools
  expect_equal(wave[1], fit$instrument$wave[1])
  expect_equal(wave[2], fit$instrument$wave[1 + prod(pools)])
  expect_length(wave, dim(attention(fit, small_spectra(2)))[2])
})

test_that("Grad-FAM is linear in the feature, and each kind of feature means what it says", {
  x <- small_spectra(5)
  fit <- small_fit(x)
  wave <- fit$wave_rest
  weights <- rnorm(length(wave))
  fam <- grad_fam(fit, x, weights)
  expect_equal(unclass(grad_fam(fit, x, 2 * weights))[1:5, , ], 2 * unclass(fam)[1:5, , ], tolerance = 1e-4)
  rest <- predict(fit, x, "rest")
  expect_equal(attr(fam, "feature"), rest %*% weights |> drop(), tolerance = 1e-6)
  at <- which.min(abs(wave - 5000))
  expect_equal(unname(attr(grad_fam(fit, x, 5000), "feature")), unname(rest[, at]))
  band <- wave >= 5000 & wave <= 5200
  expect_equal(attr(grad_fam(fit, x, c(5000, 5200)), "feature"), rowMeans(rest[, band]))
  own <- grad_fam(fit, x, function(rest, wave) matrix(weights, nrow(rest), ncol(rest), byrow = TRUE))
  expect_equal(as.vector(own), as.vector(fam))
  expect_true(all(is.na(attr(own, "feature"))))
  expect_output(print(fam), "Grad-FAM of 5")
  # a flat spectrum has no line
  flat <- spender:::feature_weights("Halpha", wave)
  expect_equal(sum(flat), 0, tolerance = 1e-10)
})

# d f / d a_lc = h_lc d f / d e_c: over the segments, Grad-FAM of a feature sums to e_c d f / d e_c. A network without hidden encoder
# layers, whose latents are linear in the features, and whose decoder is moved a little along a latent, shows it from outside.
test_that("Grad-FAM is the change of the feature with the latents, channel by channel", {
  x <- small_spectra(6)
  fit <- small_fit(x, network = spender_network(filters = c(8, 12, 16), encoder_hidden = numeric(), decoder_hidden = c(8, 24),
                                                redshift_input = FALSE))
  feature <- function(s) decode(fit, s)[, 30]
  s <- encode(fit, x)
  h <- 1e-2
  slope <- sapply(1:2, function(k) {
    step <- matrix(0, nrow(s), 2)
    step[, k] <- h
    (feature(s + step) - feature(s - step)) / (2 * h)
  })
  weights <- coef(fit)
  sums <- apply(grad_fam(fit, x, fit$wave_rest[30]), c(1, 3), sum)
  # sum over channels: sum_c e_c w_kc = s_k - bias_k
  expect_equal(rowSums(sums), rowSums(slope * sweep(s, 2, weights[["encoder.mlp.0.bias"]])), tolerance = 5e-3, ignore_attr = TRUE)
})

test_that("the channel of a feature is found", {
  parts <- array(rnorm(40 * 5 * 3, 0, 0.01), c(40, 5, 3))
  strength <- rexp(40)
  parts[cbind(1:40, 4, 2)] <- strength
  fam <- structure(parts, wave = 1:5, feature = strength, class = "spender_attention")
  found <- feature_channel(fam)
  expect_equal(found$channel[1], 2)
  expect_equal(found$segment[1], 4)
  expect_gt(found$spearman[1], 0.95)
  expect_equal(found$share[1], 1, tolerance = 0.05)
  expect_equal(feature_channel(fam, exp(strength))$channel[1], 2)
})

test_that("spectra without a norm give NA", {
  x <- small_spectra(4)
  fit <- small_fit(small_spectra(12))
  x$norm[2] <- NA
  expect_warning(a <- attention(fit, x), "row", class = "spender_warning_no_norm")
  expect_true(all(is.na(unclass(a)[2, , ])) && !anyNA(unclass(a)[-2, , ]))
  expect_warning(fam <- grad_fam(fit, x, 5000), class = "spender_warning_no_norm")
  expect_true(is.na(attr(fam, "feature")[2]) && all(is.na(unclass(fam)[2, , ])))
})

test_that("plots of attention can be drawn", {
  skip_if_not_installed("ggplot2")
  x <- small_spectra(3)
  fit <- small_fit(small_spectra(12))
  p <- plot_attention(attention(fit, x), x, 2)
  expect_s3_class(p, "spender_plot")
  expect_named(p$panels, c("map", "spectrum"))
  path <- withr::local_tempfile(fileext = ".png")
  grDevices::png(path)
  print(plot_attention(grad_fam(fit, x, "Hbeta"), x, 3, channels = c(5, 2)))
  grDevices::dev.off()
  expect_gt(file.size(path), 2000)
})

test_that("bad arguments are named", {
  x <- small_spectra(3)
  fit <- small_fit(small_spectra(12))
  expect_snapshot(error = TRUE, {
    attention(1, x)
    grad_fam(fit, x, "Hypha")
    grad_fam(fit, x, 100)
    grad_fam(fit, x, 1:3)
    grad_fam(fit, x, TRUE)
    grad_fam(fit, x, function(rest, wave) 1)
    feature_channel(1)
    feature_channel(grad_fam(fit, x, 5000), 1:2)
    plot_attention(attention(fit, x), x[1:2])
    plot_attention(attention(fit, x), x, 1, channels = 99)
  })
})

test_that("maps of some spectra are maps", {
  x <- small_spectra(6)
  fam <- grad_fam(small_fit(x), x, "Halpha")
  some <- fam[c(5, 2), , ]
  expect_s3_class(some, "spender_attention")
  expect_identical(attr(some, "feature"), attr(fam, "feature")[c(5, 2)])
  expect_identical(attr(some, "wave"), attr(fam, "wave"))
  expect_identical(unclass(some)[1, 3, 2], unclass(fam)[5, 3, 2])
  expect_identical(unclass(fam[x$id[3:4], , ])[2, , ], unclass(fam)[4, , ])
  expect_true(is.matrix(fam[1:3, , 2]))
  expect_null(attr(fam[1:3, , 2], "class"))
  expect_identical(attr(attention(small_fit(x), x)[1:2, , ], "feature"), NULL)
})
