# Oddities planted among simulated galaxies: functions of spectra, and of as many others to blend them with.

# The same spectra with other flux, variance or redshift, prepared anew
changed <- function(x, flux, variance = 1 / x$ivar, z = x$z, kind) {
  ivar <- ifelse(x$ivar > 0 & is.finite(variance), 1 / variance, 0)
  spectra(flux * x$norm, ivar / x$norm^2, z, x$instrument, id = paste0(kind, "-", seq_along(z)), mask_sky = FALSE)
}

plant <- list(
  blend = function(x, other) { # as much light of another galaxy at its own redshift
    changed(x, (x$flux + other$flux) / 2, ifelse(other$ivar > 0, (1 / x$ivar + 1 / other$ivar) / 4, Inf), kind = "blend")
  },
  redshift = function(x, other) {
    z <- x$z + ifelse(x$z > 0.15, -1, 1) * (0.05 + 0.001 * seq_along(x$z))
    changed(x, x$flux, z = z, kind = "redshift")
  },
  glitch = function(x, other) { # five runs of three pixels, 15 sigma high
    pixels <- seq_along(x$instrument$wave)
    for (i in seq_along(x$z)) {
      hit <- c(outer(sample(pixels[x$ivar[i, ] > 0 & pixels < length(pixels) - 2], 5), 0:2, "+"))
      x$flux[i, hit] <- x$flux[i, hit] + ifelse(x$ivar[i, hit] > 0, 15 / sqrt(x$ivar[i, hit]), 0)
    }
    changed(x, x$flux, kind = "glitch")
  },
  broad = function(x, other) { # H-alpha of 150 Angstrom and 3000 km/s (sigma), H-beta a third of it
    rest <- outer(1 / (1 + x$z), x$instrument$wave)
    line <- function(at, width) width * dnorm(rest, at, 0.01 * at)
    changed(x, x$flux + line(6564.6, 150) + line(4862.7, 50), kind = "broad")
  }
)
