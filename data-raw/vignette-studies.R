# What vignette("superresolution") shows of two studies that take half an hour.
#
#   Rscript inst/scripts/study-lsf.R output=lsf-linear.rds
#   Rscript inst/scripts/study-lsf.R pixels=log rate=5 output=lsf-log.rds
#   Rscript inst/scripts/study-doublet.R members=6 ew=50,300 fits=doublet.rds output=ratios.rds
#   Rscript data-raw/vignette-studies.R lsf-linear.rds lsf-log.rds doublet.rds ratios.rds
# Writes vignettes/models/lsf.rds and vignettes/models/doublet.rds.
library(spender)
files <- commandArgs(TRUE)
if (length(files) != 4) stop("usage: vignette-studies.R lsf-linear.rds lsf-log.rds doublet.rds ratios.rds")
short <- function(study) lapply(study, function(fit) list(lsf = fit$lsf, loss = fit$history$train_loss[nrow(fit$history)]))
dir.create("vignettes/fits", FALSE)
saveRDS(list(truth = c(0.03, 0.13, 0.42, 0.30, 0.12), linear = short(readRDS(files[1])), log = short(readRDS(files[2]))),
        "vignettes/models/lsf.rds")

# One emitter: what was observed, what either model makes of it around [O II], and the truth.
fits <- readRDS(files[3])
galaxy <- data.frame(type = "star-forming", old = 0.45, intermediate = 0.3, young = 0.25, metals = 1, ebv = 0.1, sigma_stars = 100,
                     sigma_gas = 50,
                     log_ne = 1.5, ew_halpha = 60, log_n2_halpha = -0.65, log_o3_hbeta = 0.13, log_s2_halpha = -0.42, log_o2_hbeta = 0.45)
arm <- fits$low$instrument
x <- simulate_spectra(1, arm, galaxies = galaxy, z = 0.1, lsf = dnorm(-4:4, sd = 1.4), sn = 20, defects = FALSE, normalize = FALSE,
                      seed = 12)
level <- median(x$flux[1, abs(arm$wave / (1 + x$z) - 3800) < 50]) # as the study has it
x$flux <- x$flux / level
x$ivar <- x$ivar * level^2
x$truth$rest <- x$truth$rest / level
members <- vapply(fits$high, function(fit) predict(fit, x, "rest")[1, ], fits$high[[1]]$wave_rest)
near <- function(wave) wave > 3700 & wave < 3760
curve <- function(kind, wave, flux, sd = NA) data.frame(kind = kind, wave = wave[near(wave)], flux = flux[near(wave)],
                                                        sd = if (length(sd) > 1) sd[near(wave)] else sd)
low <- predict(fits$low, x, "rest")[1, ]
saveRDS(list(example = rbind(
  curve("observed", x$instrument$wave / (1 + x$z), x$flux[1, ]),
  curve("survey's resolution", fits$low$wave_rest, low),
  curve("super-resolved", fits$high[[1]]$wave_rest, rowMeans(members), apply(members, 1, sd)),
  curve("truth", x$truth$shared$wave_rest, x$truth$rest[1, ])
), ratios = readRDS(files[4])), "vignettes/models/doublet.rds")
