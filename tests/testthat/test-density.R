# Latent densities: against plain formulas, on densities that are known, in files, and under bad input.

small_density <- function(x = bent_rows(), ..., layers = 2, hidden = c(8, 8), bins = 5, epochs = 5, threads = 1) {
  latent_density(x, layers = layers, hidden = hidden, bins = bins, epochs = epochs, threads = threads, progress = FALSE, ...)
}

bent_rows <- function(n = 400, seed = 1) {
  withr::local_seed(seed)
  x <- matrix(rnorm(3 * n), n, dimnames = list(paste0("g", seq_len(n)), c("s1", "s2", "s3")))
  x[, 2] <- 0.5 * x[, 2] + x[, 1]^2
  x[, 3] <- x[, 3] / sqrt(rchisq(n, 2) / 2) # heavy tails
  x
}

# ---- the same in R ----

softplus <- function(x) pmax(x, 0) + log1p(exp(-abs(x)))

plain_spline <- function(x, raw, bins, bound) {
  if (abs(x) > bound) return(c(x, 0))
  softmax <- function(v) exp(v - max(v)) / sum(exp(v - max(v)))
  size <- function(v) 2 * bound * (1e-3 + (1 - 1e-3 * bins) * softmax(v))
  w <- size(raw[seq_len(bins)])
  h <- size(raw[bins + seq_len(bins)])
  d <- c(1, 1e-3 + softplus(raw[-seq_len(2 * bins)]), 1)
  knots <- c(-bound, -bound + cumsum(w))
  k <- min(bins, findInterval(x, knots))
  u <- (x - knots[k]) / w[k]
  s <- h[k] / w[k]
  below <- s + (d[k] + d[k + 1] - 2 * s) * u * (1 - u)
  c(-bound + sum(h[seq_len(k - 1)]) + h[k] * (s * u^2 + d[k] * u * (1 - u)) / below,
    log(s^2 * (d[k + 1] * u^2 + 2 * s * u * (1 - u) + d[k] * (1 - u)^2) / below^2))
}

# log p of one row, by the tensors that a file has
plain_log_p <- function(density, x, given = numeric()) {
  flow <- density$flow
  tensors <- lapply(flow_tensors(flow), function(t) {
    values <- if (is.raw(t$data)) readBin(t$data, "integer", length(t$data) / 8, size = 8) else t$data
    if (length(t$shape) == 2) matrix(values, t$shape[1], byrow = TRUE) else values
  })
  t <- (c(given, x) - flow$centre) / flow$scale
  u <- ifelse(flow$tail > 0, flow$tail * asinh(t), t)
  features <- length(given) + seq_along(x)
  log_p <- sum(ifelse(flow$tail > 0, log(flow$tail / flow$scale) - 0.5 * log1p(t^2), -log(flow$scale))[features])
  conditions <- u[seq_along(given)]
  u <- u[features]
  for (layer in seq_len(flow$layers)) {
    part <- function(name) tensors[[paste0(layer_prefix(layer), name)]]
    net <- function(name) part(paste0("0.autoregressive_net.", name))
    units <- (net("initial_layer.weight") * net("initial_layer.mask")) %*% u + net("initial_layer.bias")
    if (length(given)) units <- units + net("context_layer.weight") %*% conditions
    units <- tanh(units)
    for (i in seq_len(flow$depth - 1) - 1) {
      block <- function(what) net(paste0("blocks.", i, ".linear.", what))
      units <- tanh((block("weight") * block("mask")) %*% units + block("bias"))
    }
    raw <- matrix((net("final_layer.weight") * net("final_layer.mask")) %*% units + net("final_layer.bias"), ncol = length(u))
    for (j in seq_along(u)) {
      mapped <- if (flow$type == "spline") plain_spline(u[j], raw[, j], flow$bins, flow$bound) else {
        scale <- softplus(raw[1, j]) + 1e-3
        c(scale * u[j] + raw[2, j], log(scale))
      }
      u[j] <- mapped[1]
      log_p <- log_p + mapped[2]
    }
    u <- u[part("1._permutation") + 1]
  }
  log_p + sum(dnorm(u, log = TRUE))
}

test_that("log p is that of the formulas, for both types, with and without conditions", {
  x <- bent_rows()
  given <- cbind(z = x[, 1] + rnorm(400), sn = rexp(400))
  for (type in c("spline", "maf")) {
    d <- small_density(x, type = type, hidden = c(7, 7))
    want <- apply(x[1:40, ], 1, plain_log_p, density = d)
    expect_equal(predict(d, x[1:40, ], threads = 1), want, tolerance = 1e-6)
    d <- small_density(x, type = type, conditions = given, hidden = c(7, 7, 7))
    want <- vapply(1:40, function(i) plain_log_p(d, x[i, ], given[i, ]), 0)
    expect_equal(unname(predict(d, x[1:40, ], given[1:40, ])), want, tolerance = 1e-6)
    terms <- predict(d, x[1:40, ], given[1:40, ], type = "terms")
    expect_identical(colnames(terms), c("normal", "standardisation", "layer1", "layer2"))
    expect_equal(unname(rowSums(terms)), want, tolerance = 1e-6)
  }
})

test_that("columns are matched by name, rows keep their names, one row may be a vector", {
  x <- bent_rows()
  d <- small_density(x)
  expect_identical(predict(d, x[1:5, 3:1]), predict(d, x[1:5, ]))
  expect_named(predict(d, x[1:5, ]), rownames(x)[1:5])
  expect_identical(unname(predict(d, x[3, ])), unname(predict(d, x[1:5, ])[3]))
  expect_identical(predict(d, newdata = x[1:5, ]), predict(d, x[1:5, ]))
  expect_length(predict(d, x[0, ]), 0)
})

test_that("a fit has the same bits for any number of threads and session state, and survives saveRDS", {
  x <- bent_rows()
  set.seed(1)
  one <- small_density(x)
  state <- .Random.seed
  set.seed(2)
  three <- small_density(x, threads = 3)
  expect_identical(one$flow, three$flow)
  set.seed(1)
  small_density(x)
  expect_identical(.Random.seed, state)
  path <- withr::local_tempfile()
  saveRDS(one, path)
  expect_identical(predict(readRDS(path), x), predict(one, x))
  expect_false(identical(small_density(x, seed = 2)$flow$weights, one$flow$weights))
})

test_that("a fitted flow is close to the truth, closer than affine layers and a normal density where they cannot be", {
  withr::local_seed(3)
  ring <- function(n) {
    radius <- rnorm(n, 2, 0.2)
    angle <- runif(n, 0, 2 * pi)
    cbind(radius * cos(angle), radius * sin(angle))
  }
  x <- ring(6000)
  held <- ring(4000)
  radius <- sqrt(rowSums(held^2))
  truth <- mean(dnorm(radius, 2, 0.2, log = TRUE) - log(2 * pi * radius))
  d <- small_density(x, hidden = c(16, 16), bins = 8, epochs = 30, threads = NULL)
  expect_gt(mean(predict(d, held)), truth - 0.06)
  expect_lt(mean(predict(d, held)), truth + 0.01)
  expect_gt(mean(predict(d, held)), mean(predict(small_density(x, type = "maf", hidden = c(16, 16), epochs = 30), held)) + 0.05)
  expect_gt(mean(d$calibration$log_p), d$training$normal + 0.5)
  drawn <- sqrt(rowSums(simulate(d, 2000, seed = 1)^2))
  expect_lt(suppressWarnings(ks.test(drawn, pnorm, 2, 0.2))$statistic, 0.05)
})

test_that("conditions shift the density, and samples follow them", {
  withr::local_seed(4)
  given <- runif(4000, -2, 2)
  x <- cbind(s1 = 3 * given + rnorm(4000), s2 = rnorm(4000))
  d <- small_density(x, conditions = given, epochs = 30)
  expect_equal(unname(predict(d, rbind(c(3, 0), c(-2, 0)), c(1, -1))), dnorm(c(0, 1), log = TRUE) + dnorm(0, log = TRUE), tolerance = 0.1)
  expect_equal(colMeans(simulate(d, 1000, seed = 1, conditions = rep(1, 1000))), c(s1 = 3, s2 = 0), tolerance = 0.15)
  expect_error(predict(d, x), "give `conditions`", class = "spender_error_invalid")
  expect_error(predict(small_density(), bent_rows(), conditions = 1:400), "has no conditions", class = "spender_error_invalid")
})

test_that("samples belong to their seed, whatever their number", {
  d <- small_density()
  expect_identical(simulate(d, 3, seed = 5), simulate(d, 200, seed = 5, threads = 2)[1:3, ])
  expect_identical(dim(simulate(d, 0, seed = 1)), c(0L, 3L))
  expect_false(identical(simulate(d, 3, seed = 5), simulate(d, 3, seed = 6)))
})

test_that("p-values are ranks among calibrating rows that are in neither other part", {
  x <- bent_rows()
  d <- small_density(x)
  expect_identical(sum(d$parts), 400L)
  reference <- d$calibration$log_p
  expect_length(reference, d$parts[["calibrate"]])
  scores <- predict(d, x[1:20, ])
  want <- vapply(scores, function(s) (1 + sum(reference <= s)) / (length(reference) + 1), 0)
  expect_equal(predict(d, x[1:20, ], type = "p"), want)
  expect_equal(unname(predict(d, c(1e3, 1e3, 1e3), type = "p")), 1 / (length(reference) + 1))
  # rows of one name are in one part
  twice <- rbind(x, x)
  part <- split_parts(rownames(twice), rep(TRUE, 800), c(0.7, 0.15, 0.15), 1, NULL)
  expect_identical(part[1:400], part[401:800])
  again <- calibrate_density(d, bent_rows(seed = 2))
  expect_length(again$calibration$log_p, 400)
})

test_that("rows with missing values are named and kept as NA", {
  x <- bent_rows()
  x[c(3, 7), 2] <- c(NA, NaN)
  expect_warning(d <- small_density(x), "2 rows of `x` have missing values and are left out: g3, g7.", class = "spender_warning_missing")
  expect_warning(p <- predict(d, x), "give NA: g3, g7", class = "spender_warning_missing")
  expect_identical(which(is.na(p)), c(g3 = 3L, g7 = 7L))
  expect_true(all(is.finite(predict(d, rbind(c(1e300, 0, 0), c(Inf, 0, 0))))))
})

test_that("input that has no density is an error that says why", {
  x <- bent_rows()
  expect_error(small_density(x[1:3, ]), "3 rows without missing values, but 3 columns", class = "spender_error_invalid")
  expect_error(small_density(x[1:5, ]), "too few rows", class = "spender_error_invalid")
  x[, 2] <- 4
  expect_error(small_density(x), "Column `s2` is constant \\(4\\)", class = "spender_error_invalid")
  expect_error(small_density("a"), "`x` must be a numeric matrix", class = "spender_error_invalid")
  expect_error(small_density(hidden = c(8, 9)), "`hidden` must be one to four equal numbers", class = "spender_error_invalid")
  expect_error(small_density(parts = c(1, 0, 0)), "`parts` must be three fractions", class = "spender_error_invalid")
  expect_error(small_density(chi2 = 1), "`chi2` must have a number for each of the 400 rows", class = "spender_error_invalid")
  expect_error(small_density(small_spectra()), "give the `fit`", class = "spender_error_invalid")
  expect_error(small_density(refine = 2), "does not know the argument `refine`", class = "spender_error_invalid")
  expect_error(predict(small_density(), x[, 1:2]), "2 columns, but the density is that of 3", class = "spender_error_dimension")
})

test_that("files give back the same density", {
  x <- bent_rows()
  path <- withr::local_tempfile(fileext = ".safetensors")
  given <- cbind(z = x[, 1] + x[, 2]^2)
  for (d in list(small_density(x, chi2 = x[, 3]^2), small_density(x, type = "maf"), small_density(x, conditions = given))) {
    write_density(d, path, overwrite = TRUE)
    again <- read_density(path)
    d$call <- NULL
    expect_identical(again$flow$weights, d$flow$weights)
    expect_equal(again[sort(names(again))], unclass(d)[sort(names(d))], ignore_attr = "class")
  }
  expect_error(write_density(d, path), class = "spender_error_exists")
  bytes <- readBin(path, "raw", 1e6)
  for (at in c(1500, round(length(bytes) * c(0.3, 0.6, 0.99)))) { # the header, weights, the calibration
    damaged <- bytes
    damaged[at] <- xor(damaged[at], as.raw(1))
    writeBin(damaged, path)
    expect_error(read_density(path), class = "spender_error")
  }
})

test_that("a flow in the published layout is read, and gives the same log p", {
  d <- small_density(type = "maf", layers = 5, hidden = c(10, 10, 10))
  tensors <- flow_tensors(d$flow)
  names(tensors) <- paste0("model.", names(tensors))
  path <- withr::local_tempfile(fileext = ".safetensors")
  write <- function(tensors) .Call(ffi_safetensors_write, path, tensors, character(), TRUE)
  write(tensors)
  published <- read_density(path)
  x <- bent_rows(20)
  expect_equal(predict(published, x), predict(d, x), tolerance = 1e-5)
  expect_output(print(published), "none: no p-values")
  expect_error(predict(published, x, type = "p"), "no calibrating rows", class = "spender_error_invalid")
  expect_true(all(predict(calibrate_density(published, bent_rows()), x, type = "p") > 0))
  write(tensors[-4])
  expect_error(read_density(path), "is missing", class = "spender_error_format")
  foreign <- tensors
  names(foreign)[4] <- sub("initial_layer.bias", "context_layer.weight", names(foreign)[4], fixed = TRUE)
  write(foreign)
  expect_error(read_density(path), "without context", class = "spender_error_unsupported")
  write(tensors[1:2])
  expect_error(read_density(path), "not a density", class = "spender_error_format")
})

test_that("printing says what a density is, and plots draw", {
  d <- small_density()
  expect_output(print(d), "<latent density> of 3 columns: s1, s2, s3.*heavy tails .*s3.*train .*smallest p-value")
  expect_output(print(summary(d)), "standardisation|centre")
  skip_if_not_installed("ggplot2")
  plot_file <- withr::local_tempfile(fileext = ".png")
  expect_s3_class(plot(d, samples = 500), "ggplot")
  ggplot2::ggsave(plot_file, plot(d, columns = c("s3", "s1"), data = bent_rows()[0, ], samples = 500), width = 4, height = 4)
  expect_gt(file.size(plot_file), 1000)
  expect_error(plot(d, columns = 4), "`columns` must be some", class = "spender_error_invalid")
})
