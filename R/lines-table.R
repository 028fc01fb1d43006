#' Spectral lines of galaxies
#'
#' The restframe lines that matter in optical galaxy spectra, as used by [simulate_spectra()] and for the labels of
#' [plot_reconstruction()].
#'
#' Emission lines have the vacuum wavelengths of the line list of the Sloan Digital Sky Survey. Absorption features are the
#' lines themselves, or, for the G band, the middle of the band.
#'
#' @param kind `"emission"`, `"absorption"`, or both (the default).
#' @return A data frame, one row per line, in order of wavelength:
#'   * `name`: unique, plain ASCII, such as `"OIII_5008"`;
#'   * `label`: for people and plots, such as `"[O III]"`;
#'   * `wave`: restframe vacuum wavelength in Å;
#'   * `kind`: `"emission"` or `"absorption"`. The Balmer lines are listed as emission lines;
#'   * `strong`: whether the line is one of those by which a galaxy spectrum is recognised, and which plots name.
#' @section Errors: `spender_error_invalid` for another `kind`.
#' @examples
#' spectral_lines("emission")
#' lines <- spectral_lines()
#' lines$wave[lines$name == "Halpha"] * (1 + 0.1)
#' @export
spectral_lines <- function(kind = c("emission", "absorption")) {
  if (!is.character(kind) || length(kind) == 0 || !all(kind %in% c("emission", "absorption")))
    abort("invalid", "`kind` must be \"emission\", \"absorption\" or both.")
  greek <- c(alpha = "\u03b1", beta = "\u03b2", gamma = "\u03b3", delta = "\u03b4", epsilon = "\u03b5", zeta = "\u03b6")
  emission <- c(
    MgII_2796 = 2796.35, MgII_2804 = 2803.53, NeV_3427 = 3426.84, OII_3727 = 3727.09, OII_3730 = 3729.88,
    NeIII_3870 = 3869.86, Hzeta = 3890.16, NeIII_3969 = 3968.59, Hepsilon = 3971.20, Hdelta = 4102.89, Hgamma = 4341.68,
    OIII_4364 = 4364.44, HeII_4687 = 4687.02, Hbeta = 4862.68, OIII_4960 = 4960.30, OIII_5008 = 5008.24,
    HeI_5877 = 5877.25, OI_6302 = 6302.05, OI_6366 = 6365.54, NII_6550 = 6549.86, Halpha = 6564.61, NII_6585 = 6585.27,
    SII_6718 = 6718.29, SII_6733 = 6732.67, ArIII_7138 = 7137.76, SIII_9071 = 9071.1, SIII_9533 = 9533.2
  )
  absorption <- c(
    CaII_K = 3934.78, CaII_H = 3969.59, G_band = 4305.61, MgI_b3 = 5168.76, MgI_b2 = 5174.13, MgI_b1 = 5185.05,
    NaI_D2 = 5891.58, NaI_D1 = 5897.56, CaII_8500 = 8500.36, CaII_8544 = 8544.44, CaII_8665 = 8664.52
  )
  element <- c(MgII = "Mg II", NeV = "[Ne V]", OII = "[O II]", NeIII = "[Ne III]", OIII = "[O III]", HeII = "He II",
               HeI = "He I", OI = "[O I]", NII = "[N II]", SII = "[S II]", ArIII = "[Ar III]", SIII = "[S III]")
  stem <- sub("_.*", "", names(emission))
  labels <- ifelse(stem %in% names(element), element[stem], paste0("H", greek[sub("^H", "", stem)]))
  lines <- data.frame(
    name = c(names(emission), names(absorption)),
    label = c(labels, "Ca K", "Ca H", "G", rep("Mg b", 3), rep("Na D", 2), rep("Ca II", 3)),
    wave = c(emission, absorption),
    kind = rep(c("emission", "absorption"), c(length(emission), length(absorption))),
    stringsAsFactors = FALSE
  )
  lines$strong <- lines$name %in% c("MgII_2796", "OII_3727", "OII_3730", "NeIII_3870", "CaII_K", "CaII_H", "Hdelta", "G_band", "Hgamma",
                                    "Hbeta",
                                    "OIII_4960", "OIII_5008", "MgI_b2", "NaI_D2", "NII_6550", "Halpha", "NII_6585", "SII_6718", "SII_6733",
                                    "CaII_8500", "CaII_8544", "CaII_8665")
  lines <- lines[order(lines$wave), ]
  lines <- lines[lines$kind %in% kind, ]
  rownames(lines) <- NULL
  lines
}
