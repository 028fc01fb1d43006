# Resolutions of spectra: each one's own matrix, which models are multiplied by. In spectra() the element `resolution` is NULL or a list
#   values    a row for each spectrum
#   size      number of the matrix's diagonals, odd
#   step      pixels between two knots, at which it is given: 1, 1 + step, ..., and the last; linear between them
#   gaussian  values are (n, knots) deviations of Gaussians in pixels; otherwise (n, size * knots) diagonals, of one knot after the other
# as struct spd_band (src/data/band.h) has it; a survey's has no values.

uses_resolution <- function(fit) isTRUE(fit$architecture$resolution)

# Pixels that an observed one is made of, as coverage() needs to know
footprint <- function(fit, x) {
  if (uses_resolution(fit)) x$resolution$size else if (is.null(fit$architecture)) 0 else fit$architecture$lsf
}

check_has_resolution <- function(fit, x) {
  if (uses_resolution(fit) && is.null(x$resolution)) {
    abort("resolution", "This fit was made with the resolution of each spectrum, and these have none: see the argument `resolution` of ",
          "spectra().")
  }
}

band_knots <- function(step, m) unique(c(seq(1, m, by = step), m))

# Largest difference between a band and what is linear between its knots, as the sum over its diagonals: models are off by less than this
# times the largest flux nearby
resolution_tolerance <- 1e-4

# resolution: as spectra() takes it
as_resolution <- function(resolution, n, instrument, names = NULL) {
  if (is.null(resolution)) return(NULL)
  wave <- instrument$wave
  m <- length(wave)
  if (is.function(resolution)) resolution <- resolution(wave)
  if (!is.numeric(resolution)) {
    abort("invalid", "`resolution` must be numbers or a function of wavelengths, not ", describe(resolution), ".")
  }
  dims <- dim(resolution)
  fits <- if (is.null(dims)) length(resolution) %in% c(1, m)
          else dims[1] == n && (length(dims) == 2 && dims[2] %in% c(1, m) || length(dims) == 3 && dims[3] == m)
  if (!fits) {
    abort("dimension", "`resolution` must be one number, one for each of the ", m, " pixels, a matrix of ", n, " by 1 or ", m,
          ", or an array of ", n, " by diagonals by ", m, "; it is of ",
          if (is.null(dims)) paste("length", length(resolution)) else paste(dims, collapse = " by "), ".")
  }
  order <- order_by_name(rownames(resolution), names, "`resolution`'s rows", "`flux`'s rows")
  if (length(dims) == 3) return(as_band(if (is.null(order)) resolution else resolution[order, , , drop = FALSE]))
  if (anyNA(resolution) || any(resolution <= 0)) {
    abort("invalid", "`resolution` must be resolving powers above 0; it is not in ", count(sum(!(resolution > 0) %in% TRUE), "place"), ".")
  }
  if (!is.null(order)) resolution <- resolution[order, , drop = FALSE]
  gaussian_resolution(resolution, n, wave)
}

# Deviations in pixels of a Gaussian with resolving power wave / FWHM = 1
unit_deviation <- function(wave) {
  m <- length(wave)
  width <- (wave[c(2:m, m)] - wave[c(1, 1:(m - 1))]) / c(1, rep(2, m - 2), 1)
  wave / (sqrt(8 * log(2)) * width)
}

# power: one number, (m), (n, 1) or (n, m)
gaussian_resolution <- function(power, n, wave) {
  m <- length(wave)
  unit <- unit_deviation(wave)
  if (length(power) == 1) power <- as.vector(power)
  if (is.null(dim(power))) {
    sigma <- matrix(unit / power, 1)
    of_each <- function(s) s[rep(1, n), , drop = FALSE]
  } else if (ncol(power) == 1) {
    sigma <- matrix(unit, 1)
    of_each <- function(s) as.vector(1 / power) %o% as.vector(s)
  } else {
    sigma <- rep(unit, each = n) / unname(power)
    of_each <- identity
  }
  gaussian_widths(sigma, of_each)
}

# sigma: (n, m), or one row of which of_each() makes n of some pixels
gaussian_widths <- function(sigma, of_each = identity) {
  step <- gaussian_step(sigma)
  values <- of_each(sigma[, band_knots(step, ncol(sigma)), drop = FALSE])
  dimnames(values) <- NULL
  half <- max(1, ceiling(4 * max(0, values)))
  if (half > 511) {
    abort("invalid", "`resolution` must have lines narrower than 127 pixels (standard deviation); they are up to ",
          format(max(values), digits = 3), " pixels wide.")
  }
  storage.mode(values) <- "double"
  list(values = values, size = 2 * half + 1, step = step, gaussian = TRUE)
}

# The largest step between whose knots Gaussians are linear. The sums of the moduli of their weights' first and second derivatives by the
# deviation s are up to 1.4 / s and 3.4 / s^2 (above 1 and 2.3 only where s is below a pixel).
gaussian_step <- function(sigma) {
  m <- ncol(sigma)
  step <- 1024
  while (step > 1) {
    knots <- band_knots(step, m)
    left <- findInterval(seq_len(m), knots, rightmost.closed = TRUE)
    part <- (seq_len(m) - knots[left]) / (knots[left + 1] - knots[left])
    good <- TRUE
    for (rows in parts_of(nrow(sigma), max(1, 2e6 %/% m))) {
      s <- sigma[rows, , drop = FALSE]
      low <- s[, knots[left], drop = FALSE]
      rise <- s[, knots[left + 1], drop = FALSE] - low
      near <- pmax(s, 0.25) # narrower ones are one pixel
      error <- 1.4 * abs(s - low - rise * rep(part, each = nrow(s))) / near + 3.4 / 8 * (rise / near)^2
      if (length(error) && max(error) > resolution_tolerance) good <- FALSE
      if (!good) break
    }
    if (good) return(step)
    step <- step / 2
  }
  1
}

# band: (n, diagonals, m)
as_band <- function(band) {
  if (dim(band)[2] %% 2 == 0 || dim(band)[2] > 1023) {
    abort("invalid", "`resolution` must have an odd number of diagonals up to 1023, not ", dim(band)[2], ".")
  }
  if (!all(is.finite(band))) abort("invalid", "`resolution` must be finite; ", count(sum(!is.finite(band)), "element"), " of it are not.")
  dimnames(band) <- NULL
  storage.mode(band) <- "double"
  step <- band_step(band)
  values <- band[, , band_knots(step, dim(band)[3]), drop = FALSE]
  list(values = matrix(values, dim(band)[1]), size = as.double(dim(band)[2]), step = step, gaussian = FALSE)
}

band_step <- function(band) {
  m <- dim(band)[3]
  step <- 1024
  while (step > 1) {
    knots <- band_knots(step, m)
    off <- 0
    for (j in seq_len(length(knots) - 1)) {
      between <- seq_len(knots[j + 1] - knots[j] - 1)
      if (!length(between)) next
      low <- band[, , knots[j], drop = FALSE]
      rise <- band[, , knots[j + 1], drop = FALSE] - low
      for (i in between) {
        linear <- low + rise * (i / (knots[j + 1] - knots[j]))
        off <- max(off, apply(abs(band[, , knots[j] + i, drop = FALSE] - linear), 1, sum))
      }
      if (off > resolution_tolerance) break
    }
    if (off <= resolution_tolerance) return(step)
    step <- step / 2
  }
  1
}

# ---- rows ----

take_resolution <- function(resolution, row) {
  if (is.null(resolution)) return(NULL)
  resolution$values <- resolution$values[row, , drop = FALSE]
  resolution
}

same_shape <- function(a, b) isTRUE(all.equal(a[c("size", "step", "gaussian")], b[c("size", "step", "gaussian")]))

# Of m pixels each; all are NULL, or none is
bind_resolution <- function(parts, m) {
  if (!length(parts) || all(vapply(parts, is.null, NA))) return(NULL)
  if (any(vapply(parts, is.null, NA))) abort("invalid", "Spectra with and without `resolution` cannot be joined.")
  if (!all(vapply(parts, same_shape, NA, parts[[1]]))) {
    size <- max(vapply(parts, `[[`, 0, "size"))
    step <- min(vapply(parts, `[[`, 0, "step"))
    gaussian <- all(vapply(parts, `[[`, NA, "gaussian"))
    parts <- lapply(parts, reshape_resolution, size, step, gaussian, m)
  }
  parts[[1]]$values <- do.call(rbind, lapply(parts, `[[`, "values"))
  parts[[1]]
}

# The same resolutions with more diagonals and knots
reshape_resolution <- function(r, size, step, gaussian, m) {
  if (r$gaussian && !gaussian) r <- diagonals_of(r)
  n <- nrow(r$values)
  if (r$size < size && !gaussian) {
    pad <- (size - r$size) / 2
    wide <- array(0, c(n, size, ncol(r$values) / r$size))
    wide[, pad + seq_len(r$size), ] <- r$values
    r$values <- matrix(wide, n)
  }
  r$size <- size
  if (r$step > step) {
    from <- band_knots(r$step, m)
    to <- band_knots(step, m)
    left <- findInterval(to, from, rightmost.closed = TRUE)
    part <- (to - from[left]) / (from[left + 1] - from[left])
    width <- if (gaussian) 1 else size
    given <- array(r$values, c(n, width, length(from)))
    part <- rep(part, each = n * width)
    fine <- (1 - part) * given[, , left, drop = FALSE] + part * given[, , left + 1, drop = FALSE]
    r$values <- matrix(fine, n)
    r$step <- step
  }
  r
}

# Gaussians as bands
diagonals_of <- function(r) {
  n <- nrow(r$values)
  x <- seq_len(r$size) - (r$size + 1) / 2
  band <- array(0, c(n, r$size, ncol(r$values)))
  scale <- ifelse(r$values > 0.05, -0.5 / r$values^2, -1e4) # as spd_gaussian() in network/scalar.h
  for (k in seq_along(x)) band[, k, ] <- exp(scale * x[k]^2)
  sums <- apply(band, c(1, 3), sum)
  for (k in seq_along(x)) band[, k, ] <- band[, k, ] / sums
  list(values = matrix(band, n), size = r$size, step = r$step, gaussian = FALSE)
}

# The matrices at all m pixels: (n, size, m)
full_band <- function(r, m) {
  if (r$gaussian) r <- diagonals_of(r)
  array(reshape_resolution(r, r$size, 1, FALSE, m)$values, c(nrow(r$values), r$size, m))
}

# ---- files and printing ----

# Name of the column of a survey file, and what such a name says; NULL for another one
resolution_column <- function(r) sprintf("RESOLUTION_%s_%d_%d", if (r$gaussian) "SIGMA" else "BAND", as.integer(r$size), as.integer(r$step))

resolution_of_column <- function(name) {
  pattern <- "^RESOLUTION_(SIGMA|BAND)_([1-9][0-9]{0,6})_([1-9][0-9]{0,6})$"
  name <- grep(pattern, name, value = TRUE)
  if (!length(name)) return(NULL)
  list(size = as.double(sub(pattern, "\\2", name[1])), step = as.double(sub(pattern, "\\3", name[1])),
       gaussian = sub(pattern, "\\1", name[1]) == "SIGMA")
}

describe_resolution <- function(r) {
  if (r$gaussian) paste0("Gaussians, ", if (r$step == 1) "a width for each pixel" else paste0("widths at every ", r$step, "th pixel"))
  else paste0("matrices of ", r$size, " diagonals", if (r$step > 1) paste0(", at every ", r$step, "th pixel"))
}
