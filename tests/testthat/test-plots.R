skip_if_not_installed("ggplot2")

plotted <- local({
  x <- NULL
  fit <- NULL
  function() {
    if (is.null(fit)) {
      x <<- simulate_spectra(24, instrument("sdss"), z = rep(c(0.05, 0.2, 0.45, 0.5), 6), seed = 11)
      fit <<- spender(x, latents = 2, epochs = 1, batch_size = 8, threads = 1, progress = FALSE,
                      network = spender_network(filters = c(4, 6, 8), encoder_hidden = 8, decoder_hidden = 8))
    }
    list(x = x, fit = fit)
  }
})

# Draws without leaving a file behind.
draw <- function(p) {
  file <- tempfile(fileext = ".pdf")
  grDevices::pdf(file)
  on.exit({
    grDevices::dev.off()
    unlink(file)
  })
  print(p)
}

layer_data_with <- function(p, column) {
  found <- Filter(function(l) is.data.frame(l$data) && column %in% names(l$data), p$layers)
  lapply(found, function(l) l$data)
}

test_that("a reconstruction has its panels, and the ones out of range make room", {
  with <- plotted()
  p <- plot_reconstruction(with$fit, with$x, 1, threads = 1)
  expect_s3_class(p, "spender_plot")
  expect_named(p$panels, c("whole", "residuals", "OII", "Hbeta", "Halpha"))
  for (panel in p$panels) expect_s3_class(panel, "ggplot")
  expect_named(plot_reconstruction(with$fit, with$x, 3, threads = 1)$panels, c("whole", "residuals", "OII", "Hbeta"))
  expect_named(plot_reconstruction(with$fit, with$x, 4, residuals = FALSE, threads = 1)$panels, c("whole", "OII", "Hbeta"))
  far <- spender:::draw_reconstruction(instrument("sdss")$wave, rep(1, 3921), rep(4, 3921), rep(1, 3921), z = 1.6)
  expect_named(far$panels, c("whole", "residuals"))
  expect_silent(draw(far))
  expect_silent(draw(p))
  expect_identical(plot_reconstruction(with$fit, with$x, with$x$id[1], threads = 1)$panels$whole$labels$title, with$x$id[1])
})

test_that("data, model and masks are those of the spectrum", {
  with <- plotted()
  i <- 2
  p <- plot_reconstruction(with$fit, with$x, i, threads = 1)
  whole <- layer_data_with(p$panels$whole, "model")[[1]]
  valid <- with$x$ivar[i, ] > 0
  expect_identical(is.na(whole$flux), !valid)
  expect_equal(whole$flux[valid], with$x$flux[i, valid])
  expect_equal(whole$model, as.vector(predict(with$fit, with$x[i], threads = 1)))
  masks <- layer_data_with(p$panels$whole, "from")[[1]]
  inside <- vapply(with$x$instrument$wave, function(w) any(w >= masks$from & w <= masks$to), NA)
  expect_identical(inside, !valid)
  expect_match(paste(deparse(p$panels$whole$labels$subtitle), collapse = ""), "z = 0.2000")
  residual <- layer_data_with(p$panels$residuals, "residual")[[1]]$residual
  expect_true(all(abs(residual[valid]) <= 5))
})

test_that("lines are named where they are, without crowding", {
  with <- plotted()
  p <- plot_reconstruction(with$fit, with$x, 1, threads = 1)
  names <- do.call(rbind, layer_data_with(p$panels$Halpha, "text"))
  expect_setequal(names$label, c("[N II]", "H\u03b1"))
  expect_equal(names$at[names$label == "H\u03b1"], 6564.61 * 1.05)
  whole <- do.call(rbind, layer_data_with(p$panels$whole, "text"))
  expect_true(all(c("[O II]", "H\u03b2", "[O III]", "Mg b", "Na D", "H\u03b1") %in% whole$label))
  expect_true(min(diff(sort(whole$at))) > 100)
  expect_length(layer_data_with(plot_reconstruction(with$fit, with$x, 1, lines = NULL, threads = 1)$panels$whole, "text"), 0)
})

test_that("the model can go beyond the observed range", {
  with <- plotted()
  p <- plot_reconstruction(with$fit, with$x, 2, extend = TRUE, threads = 1)
  beyond <- layer_data_with(p$panels$whole, "side")[[1]]
  wave <- with$x$instrument$wave
  expect_true(all(beyond$wave < wave[1] | beyond$wave > wave[3921]))
  expect_setequal(beyond$side, c("blue", "red"))
  expect_silent(draw(p))
})

test_that("spectra without a valid pixel or without a model draw too", {
  wave <- instrument("sdss")$wave
  nothing <- spender:::draw_reconstruction(wave, rep(0, 3921), rep(0, 3921), rep(NA_real_, 3921), 0.1, id = "none")
  expect_named(nothing$panels, c("whole", "residuals"))
  expect_silent(draw(nothing))
  unmodelled <- spender:::draw_reconstruction(wave, rep(1, 3921), rep(4, 3921), rep(NA_real_, 3921), 0.1)
  expect_silent(draw(unmodelled))
})

test_that("a spectrum without a norm shows its flux", {
  with <- plotted()
  x <- with$x[1]
  x <- spectra(x$flux, t(t(x$ivar) * (abs(x$instrument$wave - 5850) > 350)), x$z, x$instrument)
  expect_warning(p <- plot_reconstruction(with$fit, x, threads = 1), class = "spender_warning_no_norm")
  expect_equal(p$panels$whole$labels$y, "flux (no norm)")
})

test_that("ggsave takes a reconstruction", {
  with <- plotted()
  file <- tempfile(fileext = ".png")
  on.exit(unlink(file))
  expect_silent(suppressMessages(ggplot2::ggsave(file, plot_reconstruction(with$fit, with$x, 1, threads = 1), width = 7, height = 5,
                                                 dpi = 50)))
  expect_gt(file.size(file), 5000)
})

test_that("losses, kernels and latents are drawn from their numbers", {
  with <- plotted()
  p <- plot(with$fit)
  expect_s3_class(p, "ggplot")
  expect_setequal(p$data$set, c("training", "validation"))
  expect_equal(p$data$loss[p$data$set == "training"], with$fit$history$train_loss)
  expect_silent(draw(p))
  history <- data.frame(epoch = 1:3, train_loss = 3:1, validation_loss = NA_real_)
  expect_equal(nrow(plot_history(history)$data), 3)
  expect_silent(draw(plot_history(history, flat = NA, log = FALSE)))

  p <- plot_lsf(c(1, 2, 1), truth = c(0.1, 0.2, 0.4, 0.2, 0.1))
  expect_equal(p$data$weight, c(0.25, 0.5, 0.25))
  expect_equal(p$data$offset, -1:1)
  expect_silent(draw(p))
  expect_silent(draw(plot_lsf(1)))

  s <- cbind(s1 = c(1, 2, NA), s2 = 4:6)
  p <- plot_latent(s, colour = c("a", NA, "b"))
  expect_equal(nrow(p$data), 2)
  expect_equal(p$labels$x, "latent 1")
  expect_silent(draw(p))
  expect_silent(draw(plot_latent(s, colour = 1:3)))
  expect_silent(draw(plot_latent(data.frame(u = 1:3, v = 3:1, w = 2), axes = c("w", "v"), colour = rep(1, 3))))
  expect_silent(draw(plot_latent(s)))
  covariance <- array(0, c(3, 2, 2))
  covariance[, 1, 1] <- c(4, 1, NA)
  covariance[, 2, 2] <- c(1, 9, 1)
  covariance[, 1, 2] <- covariance[, 2, 1] <- c(1.5, 0, 0)
  p <- plot_latent(s, covariance = covariance)
  expect_silent(draw(p))
  outline <- p$layers[[1]]$data # points of equal probability density, 68 % within
  expect_identical(unique(outline$point), 1:2)
  off <- with(outline[outline$point == 1, ], cbind(x - s[1, 1], y - s[1, 2]))
  expect_equal(rowSums((off %*% solve(covariance[1, , ])) * off), rep(qchisq(0.68, 2), 48))
})

test_that("bad arguments are named", {
  with <- plotted()
  expect_snapshot(error = TRUE, {
    plot_reconstruction(1, with$x)
    plot_reconstruction(with$fit, 1)
    plot_reconstruction(with$fit, with$x, 25)
    plot_reconstruction(with$fit, with$x, 1:2)
    plot_lsf(with$fit)
    plot_lsf(c(1, 1))
    plot_history(1)
    plot_history(with$fit$history[0, ])
    plot_latent(1:3)
    plot_latent(cbind(1:3, 1:3), axes = c(1, 3))
    plot_latent(cbind(1:3, 1:3), colour = 1:2)
    plot_latent(cbind(1:3, 1:3), covariance = diag(2))
  })
})
