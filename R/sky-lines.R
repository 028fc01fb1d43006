#' Night-sky lines
#'
#' The emission lines of the night sky that [spectra()] and [read_sdss()] mask: their subtraction leaves residuals that the noise
#' does not account for.
#'
#' @return A data frame with columns `wave` (Å, in vacuum), `intensity` (in the units of its source; `NA` where the source has
#'   none), `species` and `source`. It holds the 100 strongest lines between 3784 and 9333 Å of the night-sky list of the Prime
#'   Focus Spectrograph, which begins at 5579 Å, and the brightest bluer ones: mercury from street lamps (Osterbrock & Martel
#'   1992) and airglow of neutral nitrogen. Air wavelengths are converted after Ciddor (1996).
#' @references
#' Osterbrock, D. E. & Martel, A. 1992, PASP 104, 76. Ciddor, P. E. 1996, Applied Optics 35, 1566.
#' @examples
#' head(sky_lines())
#' @export
sky_lines <- function() {
  lines <- all_sky_lines()
  lines <- lines[lines$wave <= 9333 & (is.na(lines$intensity) | lines$intensity > 2.28), ] # of the list, 100
  row.names(lines) <- NULL
  lines
}

# All those of the list that are brighter than 2, up to 9850 Å, and the bluer ones
all_sky_lines <- function() {
  utils::read.csv(system.file("extdata", "sky-lines.csv", package = "spender", mustWork = TRUE),
                  colClasses = c("numeric", "numeric", "character", "character"))
}

# Half-width of what is masked around a line of a spectrum of DESI, in Å: wider for brighter lines, as in the published code
# (github.com/pmelchior/spender)
desi_half_width <- function(intensity) ifelse(is.na(intensity), 5, 5 * (1 + log10(intensity / 2)))
