# Wavelength grids of fits.

# Uniform in Angstrom, wide enough for every redshift up to z_max (paper, section 3.2); float32 values, as they are stored. Of several
# instruments, from the first wavelength of any to the last, in the finest of their own steps.
restframe_grid <- function(instruments, superresolution, z_max, wave_rest) {
  if (!is.null(wave_rest)) {
    if (!is.numeric(wave_rest) || length(wave_rest) < 2 || any(!is.finite(wave_rest)) || any(wave_rest <= 0) ||
        any(diff(as_float32(wave_rest)) <= 0)) {
      abort("invalid", "`wave_rest` must be at least two positive, increasing wavelengths.")
    }
    return(as_float32(wave_rest))
  }
  check_number(superresolution, "superresolution", 1, 100)
  check_number(z_max, "z_max", 0, 20)
  if (inherits(instruments, "spender_instrument")) instruments <- list(instruments)
  ends <- vapply(instruments, function(i) c(i$wave[1] / (1 + z_max), i$wave[length(i$wave)]), c(0, 0))
  n <- vapply(instruments, function(i) floor(floor(length(i$wave) * (1 + z_max)) * superresolution), 0)
  check_overlap(ends, names(instruments))
  step <- min((ends[2, ] - ends[1, ]) / (n - 1))
  all <- c(min(ends[1, ]), max(ends[2, ]))
  as_float32(seq(all[1], all[2], length.out = if (length(n) > 1) ceiling(diff(all) / step - 1e-6) + 1 else n))
}

# ends (2, K): first and last restframe wavelength of each instrument. All must be joined by overlaps.
check_overlap <- function(ends, names) {
  order <- order(ends[1, ])
  reach <- cummax(ends[2, order])
  gap <- which(ends[1, order][-1] > reach[-length(reach)])
  if (length(gap)) {
    said <- function(k) paste0(names[k], " (", paste(round(ends[, k]), collapse = " to "), " ", angstrom(), ")")
    abort("invalid", "The instruments' restframes do not overlap: ", said(order[gap[1]]), " and ", said(order[gap[1] + 1]),
          " have nothing in common.")
  }
}

as_float32 <- function(x) .Call(ffi_float32, as.double(x))

describe_grid <- function(wave) paste0(length(wave), " pixels, ", round(min(wave), 1), "-", round(max(wave), 1), " ", angstrom())
