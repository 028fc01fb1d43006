#' Plot spectra
#'
#' One panel per spectrum: normalised flux against observed wavelength, masked and unobserved pixels shaded, and what a galaxy
#' is recognised by labelled at the spectrum's redshift.
#'
#' @param x [spectra()].
#' @param rows Which to draw, by number or id; the first four if there are more. More than six are drawn on several pages.
#' @param lines Label spectral lines?
#' @param xlim Range of observed wavelengths, Å.
#' @param col Colour of the flux.
#' @param ... Passed on to [graphics::plot.default()].
#' @return `x`, invisibly.
#' @examples
#' grid <- instrument("sdss")
#' flux <- 1 + 0.2 * sin(grid$wave / 500) + rnorm(3921, sd = 0.05)
#' x <- spectra(flux, rep(400, 3921), z = 0.1, wave = grid)
#' plot(x)
#' @export
plot.spectra <- function(x, rows = NULL, lines = TRUE, xlim = NULL, col = "grey15", ...) {
  rows <- if (is.null(rows)) seq_len(min(4, length(x))) else find_rows(x, rows)
  if (!length(rows)) {
    message("No spectra to plot.")
    return(invisible(x))
  }
  if (length(rows) > panels_of_page) { # further pages
    for (page in split(rows, (seq_along(rows) - 1) %/% panels_of_page)) plot(x, page, lines, xlim, col, ...)
    return(invisible(x))
  }
  old <- graphics::par(mfrow = c(length(rows), 1), mar = c(1.8, 3.8, 2.6, 1.2), oma = c(1.8, 0, 0, 0), mgp = c(2.4, 0.6, 0),
                       tcl = -0.3, las = 1)
  on.exit(graphics::par(old))
  graphics::par(cex = 0.8) # mfrow shrinks text by the number of panels
  if (is.null(xlim)) xlim <- range(x$instrument$wave)
  for (row in rows) plot_one(x, row, lines, xlim, col, ...)
  graphics::mtext(paste0("observed wavelength (", angstrom(), ", vacuum)"), side = 1, line = 0.4, outer = TRUE, cex = 0.8)
  invisible(x)
}

panels_of_page <- 6

plot_one <- function(x, row, lines, xlim, col, ...) {
  wave <- x$instrument$wave
  flux <- x$flux[row, ]
  valid <- x$ivar[row, ] > 0
  shown <- wave >= xlim[1] & wave <= xlim[2]
  inside <- flux[shown & if (any(valid & shown)) valid else flux != 0]
  span <- if (length(inside)) stats::quantile(inside, c(0.002, 0.998), names = FALSE) else c(0, 1)
  margin <- max(diff(span), 1e-3 * abs(span[2]), .Machine$double.eps)
  ylim <- c(min(0, span[1]), span[2] + 0.15 * margin)

  has_norm <- !is.na(x$norm[row])
  graphics::plot(range(wave), ylim, type = "n", xlim = xlim, ylim = ylim, xaxs = "i", xlab = "",
                 ylab = if (has_norm) "normalised flux" else "flux (no norm)", ...)
  box <- graphics::par("usr")
  edges <- c(wave[1], (wave[-1] + wave[-length(wave)]) / 2, wave[length(wave)])
  runs <- rle(valid)
  ends <- cumsum(runs$lengths)
  starts <- ends - runs$lengths + 1
  masked <- !runs$values
  if (any(masked)) {
    graphics::rect(edges[starts[masked]], box[3], edges[ends[masked] + 1], box[4], col = "grey90", border = NA)
  }
  seen <- replace(flux, !valid & flux == 0, NA)
  graphics::lines(wave, seen, col = "grey70")
  graphics::lines(wave, replace(flux, !valid, NA), col = col)
  if (lines) label_lines(x$z[row], xlim, box)
  graphics::box()
  graphics::mtext(paste0(x$id[row], "   z = ", format(round(x$z[row], 4))), side = 3, line = 1.4, adj = 0, cex = 0.8)
}

# A label that would run into one already written is left out.
label_lines <- function(z, xlim, box) {
  features <- telling_lines()
  features$wave <- features$wave * (1 + z)
  features <- features[features$wave > xlim[1] & features$wave < xlim[2], ]
  gap <- 0.3 * graphics::strwidth("M", cex = 0.65)
  taken <- matrix(0, 0, 2)
  for (i in seq_len(nrow(features))) {
    wave <- features$wave[i]
    label <- device_label(features$label[i])
    half <- graphics::strwidth(label, cex = 0.75) / 2 + gap
    graphics::segments(wave, box[3], wave, box[4], col = grDevices::adjustcolor("steelblue", 0.35), lty = 3)
    if (wave - half < xlim[1] || wave + half > xlim[2]) next
    if (any(wave - half < taken[, 2] & wave + half > taken[, 1])) next
    taken <- rbind(taken, c(wave - half, wave + half))
    graphics::mtext(label, side = 3, line = 0.15, at = wave, cex = 0.6, col = "steelblue4", las = 1)
  }
}

# Greek letters as plotmath: pdf() has none in its text fonts.
device_label <- function(label) {
  greek <- c(alpha = "\u03b1", beta = "\u03b2", gamma = "\u03b3", delta = "\u03b4", epsilon = "\u03b5", zeta = "\u03b6")
  name <- names(greek)[match(substring(label, 2), greek)]
  if (is.na(name)) label else as.expression(call("*", substr(label, 1, 1), as.name(name)))
}
