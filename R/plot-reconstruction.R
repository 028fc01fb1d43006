#' Plot a spectrum and the fit's model of it
#'
#' After figure 2 of Melchior et al. (2023): the whole observed spectrum with the model on top, residuals in units of the
#' standard deviation, and a closer look at \[O II\], at H\eqn{\beta} with \[O III\], and at H\eqn{\alpha} with \[N II\].
#' Masked and unobserved pixels are shaded. Each panel has line names at the top, and restframe wavelengths on its upper axis.
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument.
#' @param i Which spectrum: a row number or an id.
#' @param residuals Show the panel of residuals?
#' @param se Show the model's 95 % band (two standard errors of [reconstruct()] to either side)? It is meaningful for refined latents.
#' @param calibration With `se`: the misfit of the network from [calibrate_models()], or `NULL` for the latents' errors alone.
#' @param extend Show the restframe model beyond the observed wavelengths, too?
#' @param lines Lines to name: a data frame like that of [spectral_lines()], or `NULL` for none.
#' @param title A title instead of id, redshift, signal-to-noise ratio and reduced \eqn{\chi^2} (that of the model over the valid pixels
#'   it covers).
#' @param ... Passed on to [predict.spender()]: `refine`, `robust`, `prior`, `threads`.
#' @return An object of class `spender_plot` that draws itself when printed, and that `ggplot2::ggsave()` takes. Its element `panels`
#'   is a named list of ggplot2 objects, to be changed at will: `whole`, `residuals`, `OII`, `Hbeta`, `Halpha`. A closer look that has no
#'   valid pixel is left out, and the others get its room.
#' @section Errors: `spender_error_missing_package` without ggplot2, `spender_error_invalid` for a row that does not exist,
#'   `spender_error_grid` when the spectra are not on the fit's grid.
#' @export
#' @examplesIf requireNamespace("ggplot2", quietly = TRUE)
#' x <- simulate_spectra(32, seed = 1)
#' fit <- spender(x, latents = 2, epochs = 2, threads = 1, progress = FALSE,
#'                network = spender_network(filters = c(4, 8, 8), encoder_hidden = 16,
#'                                          decoder_hidden = 32))
#' p <- plot_reconstruction(fit, x, i = 3)
#' p
#' p$panels$Halpha
plot_reconstruction <- function(fit, x, i = 1, residuals = TRUE, extend = FALSE, lines = spectral_lines(), title = NULL, se = FALSE,
                                calibration = NULL, ...) {
  need_ggplot()
  check_fit(fit)
  x <- in_memory(x)
  check_spectra(x)
  if (length(i) != 1) abort("invalid", "`i` must be one row number or one id; it has length ", length(i), ".")
  if (is.numeric(i) && !is.na(i) && (i < 1 || i > length(x) || i != round(i)))
    abort("invalid", "`i` must be a row of `x`, from 1 to ", length(x), ", not ", i, ".")
  x <- x[i]
  model <- reconstruct(fit, x, normalized = TRUE, se = se, calibration = calibration, ...)
  errors <- if (se) as.vector(model$se)
  model <- as.vector(if (se) model$model else model)
  rest <- if (extend) list(wave = fit$wave_rest, flux = as.vector(predict(fit, x, "rest", ...)))
  draw_reconstruction(x$instrument$wave, x$flux[1, ], x$ivar[1, ], model, x$z, lines = lines, residuals = residuals, rest = rest,
                      title = title, id = x$id, normalized = !is.na(x$norm), errors = errors)
}

# wave, flux, ivar, model, errors (of the model, or NULL): pixels of one spectrum, model NA where there is none. rest: list(wave, flux) or
# NULL.
draw_reconstruction <- function(wave, flux, ivar, model, z, lines = spectral_lines(), residuals = TRUE, rest = NULL, title = NULL,
                                id = "", normalized = TRUE, errors = NULL) {
  valid <- ivar > 0 & is.finite(flux)
  pixels <- data.frame(wave = wave, flux = replace(flux, !valid, NA), model = model,
                       residual = replace((flux - model) * sqrt(ivar), !valid, NA))
  if (!is.null(errors)) pixels[c("low", "high")] <- list(model - 2 * errors, model + 2 * errors)
  masked <- masked_runs(wave, valid)
  covered <- valid & is.finite(model)
  if (is.null(title)) title <- id
  facts <- paste0("z = ", formatC(z, digits = 4, format = "f"))
  if (any(valid)) {
    facts <- paste0(facts, "    S/N = ", formatC(stats::median(flux[valid] * sqrt(ivar[valid])), digits = 1, format = "f"))
  }
  if (any(covered)) { # Greek through plotmath, which every graphics device can draw
    chi2 <- formatC(mean(pixels$residual[covered]^2), digits = 2, format = "f")
    facts <- bquote(.(paste0(facts, "    reduced ")) * chi^2 * .(paste0(" = ", chi2)))
  }

  whole <- whole_panel(pixels, masked, z, lines, rest, bare = residuals) + ggplot2::labs(title = title, subtitle = facts)
  panels <- list(whole = whole)
  if (residuals) panels$residuals <- residual_panel(pixels, masked, if (is.null(rest)) NULL else rest$wave * (1 + z))
  windows <- list(OII = c(3698, 3758), Hbeta = c(4828, 5042), Halpha = c(6517, 6617))
  for (name in names(windows)) {
    inside <- wave >= windows[[name]][1] * (1 + z) & wave <= windows[[name]][2] * (1 + z)
    if (sum(valid & inside) >= 3) panels[[name]] <- zoom_panel(pixels, masked, z, lines, windows[[name]])
  }
  if (!normalized) panels <- lapply(panels, function(p) if (identical(p$labels$y,
                                                                      "normalised flux")) p + ggplot2::labs(y = "flux (no norm)") else p)
  zooms <- intersect(names(windows), names(panels))
  panels[zooms[-1]] <- lapply(panels[zooms[-1]], function(p) p + ggplot2::labs(y = NULL))
  new_spender_plot(panels, rows = list("whole", if (residuals) "residuals", zooms), heights = c(3.2, if (residuals) 1.45, 3),
                   aligned = c("whole", "residuals"))
}

# Runs of pixels without weight, as rectangles from edge to edge.
masked_runs <- function(wave, valid) {
  edges <- c(wave[1], (wave[-1] + wave[-length(wave)]) / 2, wave[length(wave)])
  runs <- rle(!valid)
  end <- cumsum(runs$lengths)
  begin <- end - runs$lengths + 1
  data.frame(from = edges[begin[runs$values]], to = edges[end[runs$values] + 1])
}

panel_base <- function(masked, xlim) {
  masked <- masked[masked$to > xlim[1] & masked$from < xlim[2], ]
  masked$from <- pmax(masked$from, xlim[1])
  masked$to <- pmin(masked$to, xlim[2])
  p <- ggplot2::ggplot()
  if (nrow(masked)) {
    p <- p + ggplot2::geom_rect(data = masked, ggplot2::aes(xmin = .data$from, xmax = .data$to, ymin = -Inf, ymax = Inf),
                                fill = palette_spender[["mask"]])
  }
  p
}

flux_layers <- function(pixels, data_width, model_width) {
  list(
    ggplot2::geom_line(data = pixels, ggplot2::aes(.data$wave, .data$flux), colour = palette_spender[["data"]],
                       linewidth = data_width, na.rm = TRUE),
    if (!is.null(pixels$low)) {
      ggplot2::geom_ribbon(data = pixels[is.finite(pixels$low), ],
                           ggplot2::aes(.data$wave, ymin = .data$low, ymax = .data$high), fill = palette_spender[["model"]], alpha = 0.35)
    },
    ggplot2::geom_line(data = pixels, ggplot2::aes(.data$wave, .data$model), colour = palette_spender[["model"]],
                       linewidth = model_width, na.rm = TRUE)
  )
}

rest_axis <- function(z) ggplot2::sec_axis(~ . / (1 + z), name = wavelength_label("restframe"))

whole_panel <- function(pixels, masked, z, lines, rest, bare) {
  xlim <- range(pixels$wave)
  beyond <- NULL
  if (!is.null(rest)) {
    beyond <- data.frame(wave = rest$wave * (1 + z), flux = rest$flux)
    beyond$side <- ifelse(beyond$wave < xlim[1], "blue", ifelse(beyond$wave > xlim[2], "red", NA))
    beyond <- beyond[!is.na(beyond$side), ]
    xlim <- range(xlim, beyond$wave)
  }
  shown <- c(pixels$model, beyond$flux)
  ylim <- flux_limits(pixels$flux, shown)
  p <- panel_base(masked, xlim) + flux_layers(pixels, 0.22, 0.4)
  if (!is.null(beyond) && nrow(beyond)) {
    p <- p + ggplot2::geom_line(data = beyond, ggplot2::aes(.data$wave, .data$flux, group = .data$side),
                                colour = palette_spender[["model"]], linewidth = 0.35, alpha = 0.55)
  }
  if (!is.null(lines$strong)) lines <- lines[lines$strong, ]
  p <- p + line_layers(lines, z, xlim, ylim, character_width = 0.007) +
    ggplot2::coord_cartesian(xlim = xlim, ylim = ylim, expand = FALSE) +
    ggplot2::scale_x_continuous(sec.axis = rest_axis(z), n.breaks = 8) +
    ggplot2::labs(x = if (!bare) wavelength_label("observed"), y = "normalised flux") +
    theme_spender()
  if (!bare) return(p)
  # the panel of residuals below has the axis
  p + ggplot2::theme(axis.text.x.bottom = ggplot2::element_blank(), axis.ticks.x.bottom = ggplot2::element_blank(),
                     plot.margin = ggplot2::margin(6, 10, 2, 6))
}

# The continuum decides: strong lines may leave the panel at the top, since the closer looks show them whole; noise at the
# ends may leave it anywhere.
flux_limits <- function(flux, model, cap = 3.5) {
  flux <- flux[is.finite(flux)]
  model <- model[is.finite(model)]
  if (!length(c(flux, model))) return(c(0, 1))
  if (!length(model)) model <- flux
  if (!length(flux)) flux <- model
  low <- min(0, stats::quantile(flux, 0.002), stats::quantile(model, 0.002))
  high <- max(stats::quantile(flux, 0.998), max(model) * 1.03)
  level <- max(stats::median(model), stats::quantile(model, 0.9))
  high <- max(min(high, cap * level), stats::quantile(flux, 0.98))
  if (!(high > low)) high <- low + 1
  c(low, high + 0.14 * (high - low))
}

residual_panel <- function(pixels, masked, reach) {
  xlim <- range(pixels$wave, reach)
  limit <- 5
  pixels$residual <- pmin(pmax(pixels$residual, -limit), limit)
  panel_base(masked, xlim) +
    ggplot2::geom_hline(yintercept = 0, colour = palette_spender[["model"]], linewidth = 0.4) +
    ggplot2::geom_point(data = pixels, ggplot2::aes(.data$wave, .data$residual), colour = palette_spender[["data"]], size = 0.12,
                        alpha = 0.7, na.rm = TRUE) +
    ggplot2::coord_cartesian(xlim = xlim, ylim = c(-limit, limit) * 1.06, expand = FALSE) +
    ggplot2::scale_x_continuous(n.breaks = 8) +
    ggplot2::scale_y_continuous(breaks = c(-4, 0, 4)) +
    ggplot2::labs(x = wavelength_label("observed"), y = expression(residual / sigma)) +
    theme_spender() +
    ggplot2::theme(plot.margin = ggplot2::margin(0, 10, 6, 6))
}

zoom_panel <- function(pixels, masked, z, lines, window) {
  xlim <- window * (1 + z)
  pixels <- pixels[pixels$wave > xlim[1] - 10 & pixels$wave < xlim[2] + 10, ]
  shown <- c(pixels$flux, pixels$model)
  shown <- range(shown[is.finite(shown)])
  span <- max(diff(shown), 0.2)
  ylim <- c(shown[1] - 0.05 * span, shown[2] + 0.2 * span)
  p <- panel_base(masked, xlim) + flux_layers(pixels, 0.35, 0.6)
  lines <- lines[lines$kind == "emission", ]
  p + line_layers(lines, z, xlim, ylim, character_width = 0.024) +
    ggplot2::coord_cartesian(xlim = xlim, ylim = ylim, expand = FALSE) +
    ggplot2::scale_x_continuous(sec.axis = rest_axis(z), n.breaks = 4) +
    ggplot2::labs(x = wavelength_label("observed"), y = "normalised flux") +
    theme_spender()
}

# Dashes at the lines and their names at the top. If names would overlap, the line that is first in line_rank()
# is named (here for a page 10 inches wide, and by check_overlap for the page there is); neighbours of one name share it. character_width:
# of the panel's width.
line_layers <- function(lines, z, xlim, ylim, character_width) {
  if (is.null(lines)) return(NULL)
  lines$at <- lines$wave * (1 + z)
  lines <- lines[lines$at > xlim[1] & lines$at < xlim[2], ]
  if (!nrow(lines)) return(NULL)
  named <- named_lines(lines[order(line_rank(lines$name)), ], xlim, character_width * diff(xlim))
  marks <- lines[lines$label %in% named$label, ]
  marks$from <- ylim[1]
  marks$to <- ylim[2] - 0.085 * diff(ylim)
  named$y <- ylim[2] - 0.043 * diff(ylim)
  list(
    # a strip of white keeps the names readable where strong lines leave the panel
    ggplot2::annotate("rect", xmin = -Inf, xmax = Inf, ymin = ylim[2] - 0.085 * diff(ylim), ymax = Inf, fill = "white"),
    ggplot2::geom_segment(data = marks, ggplot2::aes(x = .data$at, xend = .data$at, y = .data$from, yend = .data$to),
                          colour = palette_spender[["line"]], linewidth = 0.25, linetype = "22", alpha = 0.7),
    ggplot2::geom_text(data = named, ggplot2::aes(.data$at, .data$y, label = .data$text), parse = TRUE, size = 2.7, check_overlap = TRUE,
                       colour = "grey25", vjust = 0.5)
  )
}

line_rank <- function(name) {
  first <- c("Halpha", "OIII_5008", "Hbeta", "OII_3727", "OII_3730", "NII_6585", "NII_6550", "OIII_4960", "SII_6718", "CaII_K", "MgI_b2",
             "NaI_D2",
             "Hdelta", "Hgamma", "CaII_8544", "G_band", "MgII_2796", "NeIII_3870", "CaII_H")
  rank <- match(name, first)
  ifelse(is.na(rank), length(first) + seq_along(name), rank)
}

named_lines <- function(lines, xlim, character) {
  kept <- lines[0, ]
  half <- function(label) {
    narrow <- nchar(gsub("[^][ I]", "", label))
    (nchar(label) - 0.45 * narrow + 0.4) * character / 2
  }
  for (i in seq_len(nrow(lines))) {
    line <- lines[i, ]
    line$at <- min(max(line$at, xlim[1] + half(line$label)), xlim[2] - half(line$label))
    near <- abs(kept$at - line$at) < half(kept$label) + half(line$label)
    if (!any(near)) kept <- rbind(kept, line)
    # a doublet too narrow for two names has one in its middle
    else if (sum(near) == 1 && kept$label[near] == line$label && abs(kept$at[near] - line$at) < character)
      kept$at[near] <- (kept$at[near] + line$at) / 2
  }
  kept$text <- plotmath_label(kept$label)
  kept
}

# As plotmath, for the Greek, with a space on either side to keep names apart.
plotmath_label <- function(label) {
  greek <- c("\u03b1" = "alpha", "\u03b2" = "beta", "\u03b3" = "gamma", "\u03b4" = "delta", "\u03b5" = "epsilon", "\u03b6" = "zeta")
  letter <- substring(label, 2)
  ifelse(letter %in% names(greek), paste0("' '*H*", greek[letter], "*' '"), paste0("' ", label, " '"))
}

# ---- several ggplots on one page ----

# rows: a list of character vectors, the panels side by side in each row.
# aligned: panels of one width that share their wavelength axis. columns: of the page; NULL if the panels of each row fill it
new_spender_plot <- function(panels, rows, heights, aligned, columns = NULL) {
  used <- lengths(rows) > 0
  rows <- rows[used]
  structure(list(panels = panels, rows = rows, heights = rep_len(heights, length(rows)), aligned = intersect(aligned, names(panels)),
                 columns = columns), class = "spender_plot")
}

# One table of graphical objects. Aligned panels share the left axis' room, so that their edges are in line.
spender_plot_grob <- function(x) {
  grobs <- lapply(x$panels, ggplot2::ggplotGrob)
  aligned <- x$aligned
  if (length(aligned) > 1) {
    widths <- do.call(grid::unit.pmax, lapply(grobs[aligned], function(g) g$widths))
    grobs[aligned] <- lapply(grobs[aligned], function(g) {
      g$widths <- widths
      g
    })
  }
  layout <- grid::grid.layout(length(x$rows), 1, heights = grid::unit(x$heights, "null"))
  children <- list()
  for (i in seq_along(x$rows)) {
    row <- x$rows[[i]]
    across <- if (is.null(x$columns)) length(row) else x$columns
    for (j in seq_along(row)) {
      spot <- grid::viewport(layout.pos.row = i, layout.pos.col = 1)
      cell <- grid::viewport(x = (j - 0.5) / across, width = 1 / across)
      children <- c(children, list(grid::grobTree(grobs[[row[j]]], vp = grid::vpStack(spot, cell))))
    }
  }
  grid::gTree(children = do.call(grid::gList, c(list(grid::rectGrob(gp = grid::gpar(fill = "white", col = NA))),
                                                list(grid::gTree(children = do.call(grid::gList, children),
                                                                 vp = grid::viewport(layout = layout))))))
}

#' @rawNamespace S3method(grid::grid.draw, spender_plot)
#' @noRd
grid.draw.spender_plot <- function(x, recording = TRUE) grid::grid.draw(spender_plot_grob(x), recording)

#' @export
print.spender_plot <- function(x, newpage = TRUE, ...) {
  if (newpage) grid::grid.newpage()
  grid::grid.draw(spender_plot_grob(x))
  invisible(x)
}

#' @export
plot.spender_plot <- function(x, ...) print(x, ...)

#' @rawNamespace S3method(knitr::knit_print, spender_plot)
#' @noRd
knit_print.spender_plot <- function(x, ...) {
  print(x)
  invisible(x)
}
