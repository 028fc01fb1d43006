#' Plot a density
#'
#' Every pair of columns: the calibrating rows as points, and outlines of the density from its samples, which enclose 39, 86 and 99 % of
#' them (1, 2 and 3 standard deviations of a normal density of two columns). On the diagonal, the points' histogram and the density of the
#' samples. A density that is right outlines its points.
#'
#' @param x From [latent_density()].
#' @param columns Which columns, by number or name; the first six by default.
#' @param data A matrix of other rows to show instead of the calibrating ones, such as outliers' latents; of no rows for none.
#' @param samples Number of samples for the outlines.
#' @param seed A whole number, of the samples.
#' @param ... Not used.
#' @return A ggplot2 object.
#' @section Errors: `spender_error_missing_package` without ggplot2, `spender_error_invalid` naming the argument.
#' @export
#' @examplesIf requireNamespace("ggplot2", quietly = TRUE)
#' x <- cbind(s1 = rnorm(1000), s2 = rexp(1000))
#' x[, 2] <- x[, 2] + x[, 1]^2
#' plot(latent_density(x, layers = 2, hidden = c(16, 16), epochs = 40, threads = 1))
plot.latent_density <- function(x, columns = NULL, data = NULL, samples = 10000, seed = 1, ...) {
  need_ggplot()
  check_dots("plot", ...)
  check_number(samples, "samples", 100, 1e6, whole = TRUE)
  if (is.null(columns)) columns <- seq_len(min(6, length(x$columns)))
  if (is.character(columns)) columns <- match(columns, x$columns)
  if (!is.numeric(columns) || !length(columns) || anyNA(columns) || anyDuplicated(columns) || !all(columns %in% seq_along(x$columns))) {
    abort("invalid", "`columns` must be some of the density's ", length(x$columns), " columns, by number or name.")
  }
  points <- if (is.null(data)) x$calibration$latents else density_rows(x, data)
  if (is.null(points)) points <- matrix(0, 0, length(x$columns))
  given <- x$calibration$conditions
  if (length(x$conditions)) {
    if (!NROW(given)) abort("invalid", "The density has conditions, and no calibrating rows that say at which to draw samples.")
    given <- given[rep_len(seq_len(nrow(given)), samples), , drop = FALSE]
    colnames(given) <- x$conditions
  } else {
    given <- NULL
  }
  drawn <- simulate(x, samples, seed = seed, conditions = given)[, columns, drop = FALSE]
  points <- points[, columns, drop = FALSE]
  draw_pairs(points, drawn, sub("^s([0-9]+)$", "latent \\1", x$columns[columns]))
}

# One facet for each pair below the diagonal, and the columns' distributions on it
draw_pairs <- function(points, drawn, names) {
  k <- length(names)
  limits <- lapply(seq_len(k), function(j) {
    shown <- range(stats::quantile(drawn[, j], c(0.001, 0.999), names = FALSE),
                   if (nrow(points)) stats::quantile(points[, j], c(0.001, 0.999), na.rm = TRUE, names = FALSE))
    shown + c(-0.05, 0.05) * diff(shown)
  })
  within <- function(table, j) table[, j] >= limits[[j]][1] & table[, j] <= limits[[j]][2]
  labels <- factor(names, names)
  of_pair <- function(table, i, j) if (nrow(table)) cbind(table, row = labels[i], column = labels[j])
  dots <- outlines <- bars <- curves <- blank <- list()
  for (i in seq_len(k)) {
    for (j in seq_len(i)) {
      inside <- (within(points, j) & within(points, i)) %in% TRUE
      blank <- c(blank, list(of_pair(data.frame(x = limits[[j]], y = limits[[i]]), i, j)))
      if (i == j) {
        one <- diagonal_layers(points[inside, j], drawn[, j], limits[[j]])
        bars <- c(bars, list(of_pair(one$bars, i, j)))
        curves <- c(curves, list(of_pair(one$curve, i, j)))
      } else {
        dots <- c(dots, list(of_pair(data.frame(x = points[inside, j], y = points[inside, i]), i, j)))
        outlines <- c(outlines, list(of_pair(density_outlines(drawn[, j], drawn[, i], limits[[j]], limits[[i]]), i, j)))
      }
    }
  }
  n <- max(1, nrow(points))
  table <- function(parts) do.call(rbind, parts)
  frames <- unique(table(blank)[c("row", "column")]) # the theme's would frame the empty facets, too
  p <- ggplot2::ggplot(mapping = ggplot2::aes(.data$x, .data$y)) + ggplot2::geom_blank(data = table(blank)) +
    ggplot2::geom_rect(data = frames, ggplot2::aes(xmin = -Inf, xmax = Inf, ymin = -Inf, ymax = Inf), inherit.aes = FALSE, fill = NA,
                       colour = "grey70", linewidth = 0.4)
  if (NROW(table(bars))) {
    p <- p + ggplot2::geom_rect(data = table(bars), ggplot2::aes(xmin = .data$x, xmax = .data$to, ymin = .data$y, ymax = .data$top),
                                fill = palette_spender[["data"]], alpha = 0.45)
  }
  p <- p + ggplot2::geom_path(data = table(curves), colour = palette_spender[["model"]], linewidth = 0.6)
  if (NROW(table(dots))) {
    p <- p + ggplot2::geom_point(data = table(dots), colour = palette_spender[["data"]], stroke = 0, size = min(1.6, 1.6 * (300 / n)^0.25),
                                 alpha = min(0.8, 0.8 * (300 / n)^0.3))
  }
  if (NROW(table(outlines))) {
    p <- p + ggplot2::geom_path(data = table(outlines), ggplot2::aes(group = .data$piece, linewidth = .data$level),
                                colour = palette_spender[["model"]]) +
      ggplot2::scale_linewidth_manual(values = c("0.39" = 0.55, "0.86" = 0.4, "0.99" = 0.25), guide = "none")
  }
  p + ggplot2::facet_grid(.data$row ~ .data$column, scales = "free", switch = "both") +
    ggplot2::scale_x_continuous(expand = c(0, 0), n.breaks = 4) + ggplot2::scale_y_continuous(expand = c(0, 0), n.breaks = 4) +
    ggplot2::labs(x = NULL, y = NULL) + theme_spender() +
    ggplot2::theme(strip.placement = "outside", panel.grid.major = ggplot2::element_blank(),
                   panel.border = ggplot2::element_blank(),
                   panel.spacing = ggplot2::unit(0.35, "lines"), strip.text = ggplot2::element_text(size = ggplot2::rel(0.95)))
}

# The points' histogram and the samples' density, scaled to the height of the facet
diagonal_layers <- function(points, drawn, limits, bins = 36) {
  edges <- seq(limits[1], limits[2], length.out = bins + 1)
  step <- edges[2] - edges[1]
  smooth <- stats::density(drawn[drawn >= limits[1] & drawn <= limits[2]], from = limits[1], to = limits[2], n = 256, adjust = 0.7)
  height <- if (length(points)) graphics::hist(points, breaks = edges, plot = FALSE)$counts / length(points) / step else rep(0, bins)
  scale <- 0.92 * diff(limits) / max(height, smooth$y)
  list(bars = if (length(points)) data.frame(x = edges[-(bins + 1)], to = edges[-1], y = limits[1], top = limits[1] + scale * height)
       else data.frame(),
       curve = data.frame(x = smooth$x, y = limits[1] + scale * smooth$y))
}

# Outlines of regions that enclose fractions of the samples, from a smoothed two-dimensional histogram; the outermost, which few samples
# decide, from a smoother one
density_outlines <- function(x, y, xlim, ylim, levels = c(0.39, 0.86, 0.99), smoothing = c(0.6, 0.6, 1.3), cells = 80) {
  at <- list(seq(xlim[1], xlim[2], length.out = cells), seq(ylim[1], ylim[2], length.out = cells))
  kernel <- function(v, at, smoothing) {
    width <- max(smoothing * 1.06 * min(stats::sd(v), stats::IQR(v) / 1.34) * length(v)^(-1 / 6), diff(at[1:2]))
    stats::dnorm(outer(at, v, "-") / width)
  }
  outline <- function(i) {
    height <- kernel(x, at[[1]], smoothing[i]) %*% t(kernel(y, at[[2]], smoothing[i]))
    ordered <- sort(height, decreasing = TRUE)
    cut <- ordered[which(cumsum(ordered) >= levels[i] * sum(ordered))[1]]
    lines <- grDevices::contourLines(at[[1]], at[[2]], height, levels = cut)
    lapply(seq_along(lines), function(j) {
      data.frame(x = lines[[j]]$x, y = lines[[j]]$y, level = as.character(levels[i]), piece = paste(i, j))
    })
  }
  do.call(rbind, unlist(lapply(seq_along(levels), outline), recursive = FALSE))
}
