#!/usr/bin/env Rscript
# Whether latent_density() and outliers() can be trusted: mean log p of five densities that are known, beside other estimates; samples
# against fresh draws; p-values of ordinary rows; speed; and oddities planted among simulated galaxies.
#
#   Rscript study-density.R [name=value ...]
#     parts=densities,uniform,speed,outliers   which of these
#     densities=gaussian,ring,moons,tails,banana
#     rows=100000  held=20000  mclust=5000  samples=1000   rows that are fitted (by mclust at most; 0: not), others that log p is compared
#                                              on, and samples that are tested
#     epochs=0 (the default of latent_density())  seeds=20 (of the p-values)  threads=0 (all)
#     spectra=12000  latents=8  passes=40  step=6   galaxies of the fit, its size and epochs, pixels in Angstrom
#     ordinary=1000  odd=25  sn=30             ordinary galaxies, odd ones of each kind, and the signal-to-noise ratio of these
#     defects=0  refine=4                      1: ordinary galaxies have unmasked defects, too; steps of refined latents
#     fit=FILE.rds (the fit of galaxies, kept there, and not trained again)
library(spender)

source(system.file("scripts", "study-options.R", package = "spender"))
source(system.file("scripts", "study-oddities.R", package = "spender"))

options <- read_options(list(parts = "densities,uniform,speed,outliers", densities = "gaussian,ring,moons,tails,banana", rows = 1e5,
                             held = 20000, mclust = 5000, samples = 1000, epochs = 0, seeds = 20, threads = 0, spectra = 12000,
                             latents = 8, passes = 40, step = 6, ordinary = 1000, odd = 25, sn = 30, defects = 0, refine = 4,
                             fit = ""))
parts <- strsplit(options$parts, ",", fixed = TRUE)[[1]]
threads <- if (options$threads > 0) options$threads
epochs <- if (options$epochs > 0) options$epochs
say <- function(...) cat(sprintf(...), "\n", sep = "")

# ---- densities that are known: list(d, draw(n), log_p(x)) ----

normal <- function(x, mean = 0, sd = 1) rowSums(matrix(dnorm(x, mean, sd, log = TRUE), nrow(x)))

log_sum_exp <- function(terms) {
  top <- do.call(pmax, as.data.frame(terms))
  top + log(rowSums(exp(terms - top)))
}

# Two interleaved half circles of radius 1, scattered by 0.1: a mixture of 800 normal densities along the arcs
moons <- local({
  angle <- (seq_len(400) - 0.5) / 400 * pi
  centres <- rbind(cbind(cos(angle), sin(angle)), cbind(1 - cos(angle), 0.5 - sin(angle)))
  list(
    draw = function(n) centres[sample(800, n, TRUE), ] + 0.1 * rnorm(2 * n),
    log_p = function(x) {
      out <- numeric(nrow(x))
      for (i in split(seq_len(nrow(x)), (seq_len(nrow(x)) - 1) %/% 2000)) {
        part <- x[i, , drop = FALSE]
        square <- outer(rowSums(part^2), rowSums(centres^2), "+") - 2 * part %*% t(centres)
        out[i] <- log(rowMeans(exp(-square / 0.02))) - log(2 * pi * 0.01)
      }
      out
    }
  )
})

known_densities <- function() {
  set.seed(11)
  root <- matrix(rnorm(36), 6) / 2 + diag(6)
  centres <- rbind(c(0, 0, 0, 0), c(5, 2, -3, 0), c(-4, 3, 2, 4))
  sizes <- c(1, 0.5, 1.5)
  weights <- c(0.5, 0.3, 0.2)
  odd <- seq(1, 9, 2)
  list(
    gaussian = list(d = 6, draw = function(n) matrix(rnorm(6 * n), n) %*% root + 3,
                    log_p = function(x) normal((x - 3) %*% solve(root)) - log(abs(det(root)))),
    ring = list( # radius N(2, 0.2)
      d = 2,
      draw = function(n) {
        radius <- rnorm(n, 2, 0.2)
        angle <- runif(n, 0, 2 * pi)
        cbind(radius * cos(angle), radius * sin(angle))
      },
      log_p = function(x) {
        radius <- sqrt(rowSums(x^2))
        log(dnorm(radius, 2, 0.2) + dnorm(-radius, 2, 0.2)) - log(2 * pi * radius)
      }
    ),
    moons = list(d = 6, draw = function(n) cbind(moons$draw(n), moons$draw(n), moons$draw(n)),
                 log_p = function(x) moons$log_p(x[, 1:2]) + moons$log_p(x[, 3:4]) + moons$log_p(x[, 5:6])),
    tails = list( # three multivariate t densities with 3 degrees of freedom
      d = 4,
      draw = function(n) {
        k <- sample(3, n, TRUE, weights)
        centres[k, ] + sizes[k] * matrix(rnorm(4 * n), n) / sqrt(rchisq(n, 3) / 3)
      },
      log_p = function(x) {
        log_sum_exp(sapply(1:3, function(k) {
          square <- rowSums((t(t(x) - centres[k, ]) / sizes[k])^2)
          log(weights[k]) + lgamma(3.5) - lgamma(1.5) - 2 * log(3 * pi) - 4 * log(sizes[k]) - 3.5 * log1p(square / 3)
        }))
      }
    ),
    banana = list( # each even column is bent by the odd one before it
      d = 10,
      draw = function(n) {
        u <- matrix(rnorm(10 * n), n)
        u[, odd] <- 2 * u[, odd]
        u[, odd + 1] <- 0.5 * u[, odd + 1] + 0.5 * u[, odd]^2 - 2
        u
      },
      log_p = function(x) normal(x[, odd], 0, 2) + normal(x[, odd + 1] - 0.5 * x[, odd]^2 + 2, 0, 0.5)
    )
  )
}

# Energy distance of two samples (Szekely & Rizzo 2013), and its p-value by permutation
energy_test <- function(x, y, permutations = 200) {
  both <- scale(rbind(x, y))
  both <- both / sqrt(1 + rowSums(both^2) / ncol(both)) # so that the distances of heavy tails have a variance
  distance <- as.matrix(dist(both))
  n <- nrow(both)
  energy <- function(first) { # with signs s, mean of s' D s
    s <- ifelse(seq_len(n) %in% first, 1, -1)
    -sum(s * (distance %*% s)) / n^2
  }
  observed <- energy(seq_len(nrow(x)))
  (1 + sum(replicate(permutations, energy(sample(n, nrow(x)))) >= observed)) / (1 + permutations)
}

if ("densities" %in% parts) {
  say("mean log p less the truth's, in nats per column, on %.0f rows that were not fitted; samples: p of the energy test", options$held)
  for (name in strsplit(options$densities, ",", fixed = TRUE)[[1]]) {
    truth <- known_densities()[[name]]
    set.seed(1)
    x <- truth$draw(options$rows)
    held <- truth$draw(options$held)
    want <- mean(truth$log_p(held))
    seconds <- system.time(spline <- latent_density(x, epochs = epochs, threads = threads, progress = FALSE))
    maf <- latent_density(x, type = "maf", epochs = epochs, threads = threads, progress = FALSE)
    gap <- function(log_p) (mean(log_p) - want) / truth$d
    mixture <- NA
    if (options$mclust > 0 && requireNamespace("mclust", quietly = TRUE)) {
      mclustBIC <- mclust::mclustBIC # densityMclust() looks for it where it is called
      fitted <- mclust::densityMclust(x[seq_len(min(options$mclust, options$rows)), ], plot = FALSE, verbose = FALSE)
      mixture <- gap(predict(fitted, held, logarithm = TRUE))
    }
    drawn <- simulate(spline, options$samples, seed = 2)
    say("%-9s %2d columns, truth %8.3f: spline %7.4f  maf %7.4f  mclust %7.4f; samples %.3f; %.1f s (%.1f s of processor), %d epochs",
        name, truth$d, want, gap(predict(spline, held)), gap(predict(maf, held)), mixture,
        energy_test(drawn, truth$draw(options$samples)), seconds[["elapsed"]], seconds[["user.self"]], nrow(spline$history))
  }
}

if ("uniform" %in% parts) {
  banana <- known_densities()$banana
  # The p-values of one density share its calibrating rows, whose own scatter the second test knows of: of new log p against theirs
  found <- vapply(seq_len(options$seeds), function(seed) {
    set.seed(100 + seed)
    d <- latent_density(banana$draw(6000), hidden = c(16, 16), layers = 2, epochs = 15, seed = seed, threads = threads, progress = FALSE)
    new <- banana$draw(200)
    suppressWarnings(c(ks.test(predict(d, new, type = "p"), "punif")$p.value,
                       ks.test(unname(predict(d, new)), d$calibration$log_p)$p.value))
  }, c(0, 0))
  for (i in 1:2) {
    say("p-values of ordinary rows, %d seeds, %s: Kolmogorov-Smirnov p from %.3f to %.3f, median %.3f; these are uniform with p = %.3f",
        options$seeds, c("against uniform ones", "log p against the calibrating rows'")[i], min(found[i, ]), max(found[i, ]),
        median(found[i, ]), suppressWarnings(ks.test(found[i, ], "punif")$p.value))
  }
}

if ("speed" %in% parts) {
  banana <- known_densities()$banana
  set.seed(3)
  x <- banana$draw(options$rows)
  fitting <- system.time(d <- latent_density(x, epochs = epochs, threads = threads, progress = FALSE))
  say("fit of %.0f rows of 10 columns: %.1f s (%.1f s of processor), %d epochs", options$rows, fitting[["elapsed"]],
      fitting[["user.self"]], nrow(d$history))
  many <- x[rep_len(seq_len(options$rows), 10 * options$rows), ]
  times <- replicate(3, system.time(predict(d, many, threads = threads))[c("elapsed", "user.self")])
  say("log p: %.2f million rows/s, %.2f million per second of processor", nrow(many) / min(times[1, ]) / 1e6,
      nrow(many) / min(times[2, ]) / 1e6)
}

# ---- odd galaxies ----

if ("outliers" %in% parts) {
  grid <- instrument(seq(3800, 9200, by = options$step), "study")
  simulate_galaxies <- function(n, seed, ..., defects = options$defects == 1) {
    x <- simulate_spectra(n, instrument = grid, seed = seed, rest = FALSE, defects = defects, ...)
    x$truth <- NULL
    x[!is.na(x$norm)]
  }
  x <- simulate_galaxies(options$spectra, 21)
  if (nzchar(options$fit) && file.exists(options$fit)) {
    fit <- readRDS(options$fit)
  } else {
    fit <- spender(x, latents = options$latents, network = spender_network(filters = c(16, 32, 64), decoder_hidden = c(256, 128)),
                   init = "random", epochs = options$passes, learning_rate = 3e-3, batch_size = 32, validation = 0.3, refine = 0.5,
                   threads = threads, progress = FALSE)
    if (nzchar(options$fit)) saveRDS(fit, options$fit)
  }
  density <- latent_density(x, fit, refine = options$refine, threads = threads, progress = FALSE)
  print(density)
  ordinary <- simulate_galaxies(options$ordinary, 22)
  set.seed(5)
  kinds <- lapply(seq_along(plant), function(k) {
    clear <- function(seed) simulate_galaxies(options$odd, seed, sn = rep(options$sn, options$odd), defects = FALSE)
    plant[[k]](clear(30 + k), clear(40 + k))
  })
  all <- do.call(c, c(list(ordinary), kinds))
  kind <- rep(c("ordinary", names(plant)), c(length(ordinary), lengths(lapply(kinds, `[[`, "z"))))
  table <- outliers(fit, all, density, threads = threads)
  print(table)
  say("fraction found at a false discovery rate of 0.1, by kind: %s",
      paste(names(plant), format(tapply(!is.na(table$reason), kind, mean)[names(plant)], digits = 3), collapse = ", "))
  say("false ones among those found: %.3f", mean(kind[!is.na(table$reason)] == "ordinary"))
  print(table(kind, reason = addNA(table$reason)))
}
