skip_if_not_installed("uwot")

test_that("clusters stay clusters, rows stay rows, and the session's random numbers go on", {
  skip_on_cran() # takes seconds
  set.seed(3)
  s <- rbind(matrix(rnorm(120), 40), matrix(rnorm(120, 8), 40))
  rownames(s) <- paste0("g", 1:80)
  s <- rbind(s[1:10, ], missing = NA, s[11:80, ])
  before <- .Random.seed
  u <- embed_latents(s, neighbours = 10)
  expect_identical(.Random.seed, before)
  expect_equal(rownames(u), rownames(s))
  expect_true(all(is.na(u["missing", ])) && !anyNA(u[rownames(u) != "missing", ]))
  first <- u[paste0("g", 1:40), ]
  second <- u[paste0("g", 41:80), ]
  apart <- sqrt(sum((colMeans(first) - colMeans(second))^2))
  expect_gt(apart, 2 * max(apply(first, 2, sd), apply(second, 2, sd)))
  expect_identical(u, embed_latents(s, neighbours = 10))
})

test_that("a fit's latents are embedded", {
  skip_on_cran() # takes seconds
  x <- small_spectra(24)
  fit <- small_fit(x)
  expect_equal(embed_latents(fit, x, neighbours = 5), embed_latents(encode(fit, x), neighbours = 5))
  expect_error(embed_latents(fit, x[1:4], neighbours = 5), "less than", class = "spender_error_invalid")
})

test_that("maps of many spectra do not depend on the number of threads", {
  skip_on_cran() # takes seconds
  set.seed(4)
  s <- matrix(rnorm(900), ncol = 3)
  map <- function(...) embed_latents(s, nn_method = "annoy", n_epochs = 10, ...) # as uwot takes it from 4096 rows on
  expect_identical(map(threads = 2), map(threads = 1))
  expect_identical(map(threads = 2, batch = TRUE), map(threads = 1, batch = TRUE))
})
