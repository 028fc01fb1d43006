#' Plot latents, or an embedding of them
#'
#' A scatter plot of two columns, one point per spectrum, coloured by a property of the spectra.
#'
#' @param latents A matrix or data frame with one row per spectrum, such as [encode()] returns.
#' @param colour `NULL`, or one value per spectrum: numbers make a colour scale, anything else classes.
#' @param axes Which two columns, by number or name.
#' @param label Title of the colours; by default the expression given as `colour`.
#' @param covariance `NULL`, or covariances of the latents (\eqn{n \times S \times S}), such as [vcov.spender()] returns: each point
#'   gets the ellipse that encloses 68 % of its probability.
#' @param size,alpha Size and opacity of the points; by default fewer points are larger and more opaque.
#' @return A ggplot2 object. Spectra without latents are left out; those without colour are grey.
#' @section Errors: `spender_error_missing_package` without ggplot2, `spender_error_invalid` naming the argument.
#' @export
#' @examplesIf requireNamespace("ggplot2", quietly = TRUE)
#' s <- cbind(s1 = rnorm(200), s2 = rnorm(200))
#' plot_latent(s, colour = s[, 1]^2 + s[, 2], label = "some property")
#' plot_latent(s, covariance = aperm(replicate(200, diag(c(0.02, 0.05))), c(3, 1, 2)))
#' plot_latent(s, colour = ifelse(s[, 2] > 0, "star-forming", "quiescent"), label = NULL)
plot_latent <- function(latents, colour = NULL, axes = c(1, 2), label = NULL, size = NULL, alpha = NULL, covariance = NULL) {
  need_ggplot()
  if (missing(label) && !missing(colour)) {
    label <- deparse(substitute(colour))
    label <- if (length(label) == 1) sub("^.*\\$", "", label)
  }
  if (!is.matrix(latents) && !is.data.frame(latents)) {
    abort("invalid", "`latents` must be a matrix or a data frame, not ", describe(latents), ".")
  }
  latents <- as.data.frame(latents)
  if (length(axes) != 2 || !all(if (is.character(axes)) axes %in% names(latents) else axes %in% seq_along(latents)))
    abort("invalid", "`axes` must be two of the ", length(latents), " columns of `latents`, by number or name.")
  if (!all(vapply(latents[axes], is.numeric, NA))) abort("invalid", "The columns `axes` of `latents` must be numbers.")
  if (!is.null(colour) && length(colour) != nrow(latents))
    abort("invalid", "`colour` has length ", length(colour), ", but `latents` has ", nrow(latents), " rows.")
  columns <- if (is.character(axes)) match(axes, names(latents)) else axes
  if (!is.null(covariance) && !(is.numeric(covariance) && length(dim(covariance)) == 3 && dim(covariance)[1] == nrow(latents) &&
                                  all(dim(covariance)[2:3] >= max(columns)))) {
    abort("invalid", "`covariance` must be an array of ", nrow(latents), " x ", length(latents), " x ", length(latents),
          ", as vcov() returns, not ", describe_shape(covariance), ".")
  }
  points <- data.frame(x = latents[[axes[1]]], y = latents[[axes[2]]])
  classes <- !is.null(colour) && !is.numeric(colour)
  if (!is.null(colour)) points$colour <- if (classes) factor(colour) else colour
  points <- points[is.finite(points$x) & is.finite(points$y), , drop = FALSE]
  if (!is.null(colour)) points <- points[order(!is.na(points$colour)), ] # grey below
  n <- max(nrow(points), 1)
  if (is.null(size)) size <- min(2.2, max(0.3, 2.2 * (300 / n)^0.3))
  if (is.null(alpha)) alpha <- min(0.9, max(0.15, 0.9 * (300 / n)^0.25))
  names <- if (is.character(axes)) axes else names(latents)[axes]
  names <- ifelse(is.na(names) | grepl("^V[0-9]+$", names), paste("latent", axes), sub("^s([0-9]+)$", "latent \\1", names))
  p <- ggplot2::ggplot(points, ggplot2::aes(.data$x, .data$y)) +
    ggplot2::labs(x = names[1], y = names[2]) +
    theme_spender()
  if (!is.null(covariance)) p <- p + ellipse_layer(latents, covariance, columns)
  if (is.null(colour)) return(p + ggplot2::geom_point(colour = palette_spender[["second"]], size = size, alpha = alpha, stroke = 0))
  p <- p + ggplot2::geom_point(ggplot2::aes(colour = .data$colour), size = size, alpha = alpha, stroke = 0)
  if (!classes) {
    # The scale spans all but the last per cent at either end, so that one odd value does not take the colour from the rest.
    limits <- stats::quantile(points$colour[is.finite(points$colour)], c(0.01, 0.99), names = FALSE)
    if (anyNA(limits) || limits[1] == limits[2]) limits <- NULL
    return(p + ggplot2::scale_colour_viridis_c(name = label, limits = limits,
                                               oob = function(x, range, ...) pmin(pmax(x, range[1]), range[2]),
                                               end = 0.95, na.value = "grey80"))
  }
  colours <- unname(palette_spender[c("second", "model", "third", "fourth", "fifth", "sixth")])
  known <- levels(points$colour)
  if (length(known) > length(colours)) colours <- grDevices::hcl.colors(length(known), "Dark 3")
  p + ggplot2::scale_colour_manual(name = label, values = setNames(colours[seq_along(known)], known), breaks = known, na.value = "grey75") +
    ggplot2::guides(colour = ggplot2::guide_legend(override.aes = list(size = 2.4, alpha = 1)))
}

# The outlines of 68 % of two-dimensional normal distributions about the points, in grey below them
ellipse_layer <- function(latents, covariance, columns, level = 0.68, corners = 48) {
  a <- covariance[, columns[1], columns[1]]
  b <- covariance[, columns[1], columns[2]]
  d <- covariance[, columns[2], columns[2]]
  across <- sqrt(pmax(a, 0)) # Cholesky factor of each 2 x 2 matrix: (across, 0; along, rest)
  along <- b / across
  rest <- sqrt(pmax(d - along^2, 0))
  known <- which(is.finite(across * along * rest) & across > 0)
  radius <- sqrt(stats::qchisq(level, 2))
  angle <- seq(0, 2 * pi, length.out = corners + 1)[-1]
  point <- rep(known, each = corners)
  u <- radius * rep(cos(angle), length(known))
  v <- radius * rep(sin(angle), length(known))
  outline <- data.frame(point = point, x = latents[[columns[1]]][point] + across[point] * u,
                        y = latents[[columns[2]]][point] + along[point] * u + rest[point] * v)
  ggplot2::geom_polygon(data = outline, ggplot2::aes(.data$x, .data$y, group = .data$point), fill = NA, colour = "grey55",
                        linewidth = 0.25, alpha = 0.6)
}
