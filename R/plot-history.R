#' Plot the losses of a fit
#'
#' Training and validation loss after every epoch, between the loss of a flat spectrum, which a fit has to beat, and that of a perfect
#' model.
#'
#' @param x A fit from [spender()], or its history: a data frame with columns `epoch`, `train_loss` and `validation_loss`.
#' @param flat Loss of the spectrum that is 1 everywhere, as a dashed line; by default the fit's own. `NA` leaves it out.
#' @param perfect Loss of a model without error, as a dotted line; by default half the fraction of valid pixels. `NA` leaves it out.
#' @param log Logarithmic losses?
#' @param ... For methods.
#' @return A ggplot2 object.
#' @section Errors: `spender_error_missing_package` without ggplot2, `spender_error_invalid` for anything else than a fit or a history.
#' @export
#' @examplesIf requireNamespace("ggplot2", quietly = TRUE)
#' history <- data.frame(epoch = 1:20, train_loss = 0.4 + exp(-(1:20) / 4),
#'                       validation_loss = 0.42 + exp(-(1:20) / 4))
#' plot_history(history, flat = 1.3)
plot_history <- function(x, flat = NULL, perfect = NULL, log = TRUE, ...) {
  need_ggplot()
  check_flag(log, "log")
  check_dots("plot_history", ...)
  kept <- NULL
  if (inherits(x, "spender")) {
    if (is.null(flat)) flat <- x$training$flat_loss
    if (is.null(perfect)) perfect <- perfect_loss(x)
    if (kept_epoch(x) < nrow(x$history)) kept <- x$history$epoch[kept_epoch(x)]
    x <- x$history
  }
  if (!is.data.frame(x) || !all(c("epoch", "train_loss", "validation_loss") %in% names(x)))
    abort("invalid", "`x` must be a fit from spender(), or a history with columns epoch, train_loss and validation_loss.")
  if (nrow(x) == 0) abort("invalid", "There is no history to plot: the fit was not trained here.")
  losses <- data.frame(epoch = rep(x$epoch, 2), loss = c(x$train_loss, x$validation_loss),
                       set = rep(c("training", "validation"), each = nrow(x)))
  losses <- losses[is.finite(losses$loss), ]
  last <- do.call(rbind, lapply(split(losses, losses$set), function(l) {
    if (is.null(kept)) l[which.max(l$epoch), ] else l[l$epoch == kept, ]
  }))
  colours <- c(training = palette_spender[["data"]], validation = palette_spender[["model"]])
  p <- ggplot2::ggplot(losses, ggplot2::aes(.data$epoch, .data$loss, colour = .data$set))
  bounds <- c("flat spectrum" = flat[is.finite(flat)][1], "perfect model" = perfect[is.finite(perfect)][1])
  for (name in names(bounds)[is.finite(bounds)]) {
    p <- p + ggplot2::geom_hline(yintercept = bounds[[name]], linetype = if (startsWith(name, "flat")) "dashed" else "dotted",
                                 colour = "grey55", linewidth = 0.4) +
      ggplot2::annotate("text", x = max(losses$epoch), y = bounds[[name]], label = name, hjust = 1, vjust = -0.6, size = 3,
                        colour = "grey40")
  }
  if (!is.null(kept)) p <- p + ggplot2::geom_vline(xintercept = kept, colour = "grey80", linewidth = 0.4)
  # A point where a line needs two.
  p <- if (nrow(x) > 1) p + ggplot2::geom_line(linewidth = 0.7) else p + ggplot2::geom_point(size = 2)
  p <- p +
    ggplot2::geom_point(data = last, size = 1.8, show.legend = FALSE) +
    ggplot2::scale_colour_manual(name = NULL, breaks = names(colours), values = colours) +
    ggplot2::labs(x = "epoch", y = "loss",
                  subtitle = paste0(if (is.null(kept)) "last epoch: " else paste0("epoch ", kept, ", whose weights were kept: "),
                                    paste0(last$set, " ", vapply(last$loss, function(l) format(l, digits = 4), ""), collapse = ", "))) +
    scale_epochs() +
    theme_spender() +
    ggplot2::theme(legend.position = "top", legend.justification = "left", legend.margin = ggplot2::margin(0, 0, 0, 0),
                   legend.box.margin = ggplot2::margin(0, 0, -6, 0))
  if (log) p + ggplot2::scale_y_log10(n.breaks = 6, expand = ggplot2::expansion(mult = c(0.05, 0.1))) else p
}
