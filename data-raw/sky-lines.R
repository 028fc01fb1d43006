# Makes inst/extdata/sky-lines.csv: Rscript data-raw/sky-lines.R path/to/sky-lines.txt
# The input is the Prime Focus Spectrograph's list of night-sky lines: wavelength (vacuum, nm), intensity, species, status.

input <- commandArgs(trailingOnly = TRUE)[1]
pfs <- utils::read.table(input, comment.char = "#", col.names = c("wave", "intensity", "species", "status"))
pfs$wave <- 10 * pfs$wave
# all that sky_lines() and DESI's mask need: R/sky-lines.R chooses among them
pfs <- pfs[pfs$wave >= 3784 & pfs$wave <= 9850 & pfs$intensity > 2, ]
pfs <- pfs[order(-pfs$intensity, pfs$wave), ]
pfs$source <- "PFS night-sky line list"

# Refraction of standard air, Ciddor 1996 (Applied Optics 35, 1566), eq. 1; the wavelength is the one in vacuum.
refraction <- function(vacuum) {
  sigma2 <- (1e4 / vacuum)^2
  1 + 5792105e-8 / (238.0185 - sigma2) + 167917e-8 / (57.362 - sigma2)
}
to_vacuum <- function(air) {
  vacuum <- air
  for (i in 1:5) vacuum <- air * refraction(vacuum)
  vacuum
}
stopifnot(abs(to_vacuum(6562.80) - 6564.61) < 0.01, abs(to_vacuum(5577.339) - 5578.887) < 0.002)

# That list begins at 5579; what is bluer and bright, with air wavelengths: mercury and sodium of street lamps, airglow of N I.
blue <- data.frame(
  air = c(4046.56, 4358.34, 5460.74, 5769.60, 5790.66, 5889.95, 5895.92, 5197.90, 5200.26),
  species = c(rep("HgI", 5), rep("NaI", 2), rep("NI", 2)),
  source = c(rep("Osterbrock & Martel 1992, PASP 104, 76", 7), rep("NIST Atomic Spectra Database", 2))
)
blue$wave <- to_vacuum(blue$air)
blue$intensity <- NA
in_both <- vapply(blue$wave, function(wave) any(abs(wave - pfs$wave) < 0.5), NA) # Na I
columns <- c("wave", "intensity", "species", "source")
lines <- rbind(pfs[columns], blue[!in_both, columns])
lines <- lines[order(lines$wave), ]
lines$wave <- sprintf("%.3f", lines$wave)
utils::write.csv(lines, "inst/extdata/sky-lines.csv", row.names = FALSE, quote = c(3, 4), na = "")
