# Wavelength grids of fits.

# Uniform in Angstrom, wide enough for every redshift up to z_max (paper, section 3.2); float32 values, as they are stored.
restframe_grid <- function(instrument, superresolution, z_max, wave_rest) {
  if (!is.null(wave_rest)) {
    if (!is.numeric(wave_rest) || length(wave_rest) < 2 || any(!is.finite(wave_rest)) || any(wave_rest <= 0) ||
        any(diff(as_float32(wave_rest)) <= 0)) {
      abort("invalid", "`wave_rest` must be at least two positive, increasing wavelengths.")
    }
    return(as_float32(wave_rest))
  }
  check_number(superresolution, "superresolution", 1, 100)
  check_number(z_max, "z_max", 0, 20)
  wave <- instrument$wave
  n <- floor(floor(length(wave) * (1 + z_max)) * superresolution)
  as_float32(seq(wave[1] / (1 + z_max), wave[length(wave)], length.out = n))
}

as_float32 <- function(x) .Call(ffi_float32, as.double(x))

describe_grid <- function(wave) paste0(length(wave), " pixels, ", round(min(wave), 1), "-", round(max(wave), 1), " ", angstrom())
