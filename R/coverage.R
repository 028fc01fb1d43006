# Coverage of spectra by the restframe grid, and spectra for which a fit has no result.

# Pixels of each spectrum that the restframe grid covers at its redshift: columns from and to (one-based, to < from: none).
coverage <- function(z, wave, wave_rest, lsf = 0) .Call(ffi_coverage, as.double(z), wave, wave_rest, as.double(lsf))

# Reason why a fit has no result for a row: 1, no norm; 2, the restframe grid covers no valid pixel. Otherwise 0.
unknown_rows <- function(fit, x) {
  covered <- coverage(x$z, x$instrument$wave, fit$wave_rest, footprint(fit, x))
  ifelse(is.na(x$norm), 1, ifelse(has_valid_pixel(x$ivar, covered[, "from"], covered[, "to"], which(!is.na(x$norm))), 0, 2))
}

# For each row, whether a pixel from `from` to `to` has weight; only `rows` are examined
has_valid_pixel <- function(ivar, from = rep(1, nrow(ivar)), to = rep(ncol(ivar), nrow(ivar)), rows = seq_len(nrow(ivar))) {
  found <- logical(nrow(ivar))
  pixels <- seq_len(ncol(ivar))
  for (m in c(pixels[pixels %% 64 == 32], pixels[pixels %% 64 != 32])) { # a few columns decide for most rows
    if (!length(rows)) break
    valid <- (ivar[rows, m] > 0 & m >= from[rows] & m <= to[rows]) %in% TRUE
    found[rows[valid]] <- TRUE
    rows <- rows[!valid]
  }
  found
}

warn_unknown <- function(unknown) {
  sentence <- function(rows, why) {
    paste0(length(rows), ngettext(length(rows), " spectrum ", " spectra "), why, ": rows ", enumerate(rows), " of the result are NA.")
  }
  without <- which(unknown == 1)
  uncovered <- which(unknown == 2)
  if (length(without)) warn("no_norm", sentence(without, ngettext(length(without), "has no norm", "have no norm")))
  if (length(uncovered)) {
    warn("coverage", sentence(uncovered, ngettext(length(uncovered), "has no valid pixel that the restframe grid covers",
                                                  "have no valid pixel that the restframe grid covers")))
  }
}
