# Makes inst/extdata/spec-0001-51602-0001.fits.gz, a part of a simulated spectrum as a file of SDSS, for examples:
#   Rscript data-raw/example-spectrum.R      (with the package installed)
# Two sky lines are flagged in both masks, a cosmic ray that one of the exposures had in or_mask, and a bad column has no weight.
library(spender)
source("tests/testthat/helper-fits-files.R")
wave <- instrument("sdss")$wave
x <- simulate_spectra(1, instrument(wave[1201:2000]), z = 0.05, sn = 25, defects = FALSE, normalize = FALSE, seed = 2)
and_mask <- or_mask <- integer(800)
and_mask[abs(x$instrument$wave - 5578.8) < 4] <- 2^23
and_mask[abs(x$instrument$wave - 5891.6) < 3] <- 2^23 + 2^27
or_mask[c(141:143, which(and_mask > 0))] <- c(rep(2^25, 3), and_mask[and_mask > 0])
ivar <- replace(x$ivar[1, ], 500:503, 0)
path <- tempfile(fileext = ".fits")
write_sdss(path, first = 3.578 + 1e-4 * 1200, n = 800, flux = x$flux[1, ], ivar = ivar,
           coadd = list(and_mask = list(type = "J", values = and_mask), or_mask = list(type = "J", values = or_mask)),
           object = list(PLATE = list(type = "J", values = 1), FIBERID = list(type = "J", values = 1), Z = list(type = "E", values = 0.05)))
out <- gzfile("inst/extdata/spec-0001-51602-0001.fits.gz", "wb", compression = 9)
writeBin(readBin(path, raw(), 1e6), out)
close(out)
