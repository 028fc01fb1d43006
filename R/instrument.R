#' The grid an instrument observes on
#'
#' An instrument determines the wavelength grid of its spectra. `instrument()` names a grid that the package
#' knows, or makes one from wavelengths of your own.
#'
#' @param wave `"sdss"`, `"boss"`, `"desi"`, an instrument (returned as it is), or a vector of wavelengths: Å, in vacuum, strictly
#'   increasing, at least two. They are rounded to single precision, in which grids are stored and the network computes.
#' @param name A name to print; by default that of the known grid, or `"custom"`.
#' @return An object of class `spender_instrument`: a list of `wave` (Å, double precision holding single-precision values) and
#'   `name`.
#' @details
#' - `"sdss"`: 3921 pixels, \eqn{\lambda_m = 10^{3.578 + 10^{-4} m}}{lambda_m = 10^(3.578 + 1e-4 m)}, 3784 to 9333 Å: the grid of Melchior
#'   et al. (2023), which the coadds of SDSS-I and II fill up to some pixels at both ends.
#' - `"boss"`: 4670 pixels, \eqn{\lambda_m = 10^{3.55 + 10^{-4} m}}{lambda_m = 10^(3.55 + 1e-4 m)}, 3548 to 10397 Å: the pixels that coadds
#'   of BOSS and eBOSS can have. Each single coadd begins and ends a little further in.
#'
#' - `"desi"`: 7781 pixels, \eqn{\lambda_m = 3600 + 0.8 m}{lambda_m = 3600 + 0.8 m}, 3600 to 9824 Å: the pixels of DESI's three arms, which
#'   fall on each other where the arms overlap.
#'
#' The first two are uniform in log wavelength with SDSS's step of 1e-4, so [read_sdss()] puts either survey's files on either grid and
#' drops pixels beyond its ends. [read_desi()] needs DESI's.
#' @section Errors:
#' `spender_error_instrument` for an unknown name, and for wavelengths that are not finite, not positive or not increasing.
#' @examples
#' instrument("sdss")
#' instrument(seq(4000, 7000, by = 2), name = "my spectrograph")
#' @export
instrument <- function(wave = "sdss", name = NULL) {
  if (inherits(wave, "spender_instrument")) {
    if (!is.null(name)) wave$name <- check_name(name)
    return(wave)
  }
  if (is.character(wave)) {
    known <- known_instruments()
    if (length(wave) != 1 || !wave %in% names(known)) {
      abort("instrument", "`wave` must be a known instrument (", paste0('"', names(known), '"', collapse = ", "),
            ") or a vector of wavelengths, not ", describe(wave), ".")
    }
    name <- if (is.null(name)) toupper(wave) else name
    wave <- known[[wave]]
  }
  new_instrument(check_wave(wave), check_name(if (is.null(name)) "custom" else name))
}

new_instrument <- function(wave, name) structure(list(wave = wave, name = name), class = "spender_instrument")

known_instruments <- function() {
  list(sdss = 10^(3.578 + 1e-4 * 0:3920), boss = 10^(3.55 + 1e-4 * 0:4669), desi = 3600 + 0.8 * 0:7780)
}

check_name <- function(name) {
  if (!is.character(name) || length(name) != 1 || is.na(name)) {
    abort("instrument", "`name` must be one string, not ", describe(name), ".")
  }
  name
}

check_wave <- function(wave) {
  if (!is.numeric(wave)) abort("instrument", "`wave` must be a numeric vector of wavelengths, not ", describe(wave), ".")
  wave <- as.double(wave)
  if (length(wave) < 2) abort("instrument", "A grid needs at least 2 wavelengths; `wave` has ", length(wave), ".")
  bad <- which(!is.finite(wave))
  if (length(bad)) abort("instrument", "`wave` must be finite; it is not at ", enumerate(bad), ".")
  if (any(wave <= 0)) abort("instrument", "`wave` must be positive; it is not at ", enumerate(which(wave <= 0)), ".")
  wave <- as_float32(wave)
  bad <- which(!is.finite(wave) | c(FALSE, diff(wave) <= 0))
  if (length(bad)) {
    abort("instrument", "`wave` must increase strictly (in single precision, in which grids are stored); it does not at ",
          enumerate(bad), ".")
  }
  wave
}

angstrom <- function() if (l10n_info()[["UTF-8"]]) "\u00c5" else "A"

#' @export
format.spender_instrument <- function(x, ...) {
  wave <- unclass(x)$wave
  paste0(x$name, ", ", length(wave), " pixels, ", sprintf("%.0f", wave[1]), "-", sprintf("%.0f", wave[length(wave)]), " ", angstrom())
}

#' @export
print.spender_instrument <- function(x, ...) {
  cat("<instrument> ", format(x), "\n", sep = "")
  invisible(x)
}

#' Wavelengths in vacuum
#'
#' Spectra here are on grids in vacuum; many spectrographs' are in air. The index of refraction is that of Ciddor (1996), for wavelengths in
#' air as N. Piskunov fitted it (VALD): with \eqn{s = 10^4 / \lambda_{air}},
#' \deqn{n = 1 + 8.336624212083 \times 10^{-5} + \frac{0.02408926869968}{130.1065924522 - s^2} +
#'   \frac{0.0001599740894897}{38.92568793293 - s^2}.}
#'
#' @param wave Wavelengths in air, Å.
#' @return \eqn{n\,\lambda_{air}}, Å; below 2000 Å, where wavelengths are given in vacuum by convention, `wave` as it is.
#' @section Errors: `spender_error_invalid` where `wave` is not positive numbers.
#' @references Ciddor, P. E. 1996, Applied Optics 35, 1566.
#' @export
#' @examples
#' wave_to_vacuum(c(Hbeta = 4861.333, Halpha = 6562.819))
wave_to_vacuum <- function(wave) {
  if (!is.numeric(wave) || any(!is.na(wave) & wave <= 0)) abort("invalid", "`wave` must be positive wavelengths, not ", describe(wave), ".")
  s2 <- (1e4 / wave)^2
  index <- 1 + 8.336624212083e-5 + 0.02408926869968 / (130.1065924522 - s2) + 0.0001599740894897 / (38.92568793293 - s2)
  ifelse(wave < 2000, wave, wave * index)
}
