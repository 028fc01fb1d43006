#' Plot a line spread function
#'
#' The kernel's weight in every pixel: the part of a line's light that falls that many pixels redward of where it belongs.
#'
#' @param x A fit from [spender()] that has a line spread function, or a kernel: an odd number of weights. Weights are divided by
#'   their sum.
#' @param truth Another kernel to compare with, such as `truth$shared$lsf` of [simulate_spectra()].
#' @return A ggplot2 object.
#' @section Errors: `spender_error_missing_package` without ggplot2, `spender_error_invalid` for a fit without a line spread function
#'   and for weights that are no kernel.
#' @seealso [lsf()], also for when a kernel can be trusted.
#' @export
#' @examplesIf requireNamespace("ggplot2", quietly = TRUE)
#' plot_lsf(c(0.05, 0.25, 0.41, 0.22, 0.07), truth = c(0.06, 0.24, 0.40, 0.22, 0.08))
plot_lsf <- function(x, truth = NULL) {
  need_ggplot()
  if (inherits(x, "spender")) {
    x <- lsf(x)
    if (is.null(x)) abort("invalid", "`x` is a fit without a line spread function: see the argument `lsf` of spender().")
  }
  bars <- kernel_table(x, "x")
  numbers <- bars$weight
  offset <- bars$offset
  centre <- sum(offset * numbers)
  spread <- sum((offset - centre)^2 * numbers)
  facts <- paste0("mean ", formatC(centre, digits = 2, format = "f"), " pixels",
                  if (spread > 0) paste0(",  standard deviation ", formatC(sqrt(spread), digits = 2, format = "f"), " pixels"))
  p <- ggplot2::ggplot(bars, ggplot2::aes(.data$offset, .data$weight)) +
    ggplot2::geom_col(width = 0.86, fill = palette_spender[["data"]], alpha = 0.75) +
    ggplot2::geom_hline(yintercept = 0, colour = "grey50", linewidth = 0.3)
  at <- offset
  if (!is.null(truth)) {
    truth <- kernel_table(truth, "truth")
    at <- union(at, truth$offset)
    p <- p +
      ggplot2::geom_segment(data = truth, ggplot2::aes(x = .data$offset - 0.43, xend = .data$offset + 0.43, yend = .data$weight),
                            colour = palette_spender[["model"]], linewidth = 1)
    facts <- paste0(facts, ";  truth in orange")
  }
  p +
    ggplot2::scale_x_continuous(breaks = if (length(at) <= 21) sort(at) else ggplot2::waiver()) +
    ggplot2::labs(x = "offset [observed pixels]", y = "weight", title = "Line spread function", subtitle = facts) +
    theme_spender() +
    ggplot2::theme(panel.grid.major.x = ggplot2::element_blank())
}

kernel_table <- function(kernel, name) {
  if (!is.numeric(kernel) || length(kernel) %% 2 == 0 || any(!is.finite(kernel)) || sum(kernel) == 0)
    abort("invalid", "`", name, "` must be an odd number of finite weights with a sum other than 0.")
  half <- (length(kernel) - 1) / 2
  data.frame(offset = -half:half, weight = as.vector(kernel) / sum(kernel))
}
