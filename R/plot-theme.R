# Colours that colour-blind people can distinguish (Okabe & Ito), and greys
palette_spender <- c(data = "#8aa2b5", model = "#c44601", second = "#0072b2", third = "#009e73", fourth = "#cc79a7", fifth = "#e69f00",
                     sixth = "#56b4e9", mask = "#ececec", line = "#8a8a8a", ink = "#2b2b2b")

need_ggplot <- function() {
  if (!requireNamespace("ggplot2", quietly = TRUE))
    abort("missing_package", "Plots need the package ggplot2: install.packages(\"ggplot2\").")
}

theme_spender <- function(base_size = 11) {
  ggplot2::theme_minimal(base_size = base_size) +
    ggplot2::theme(
      text = ggplot2::element_text(colour = palette_spender[["ink"]]),
      axis.text = ggplot2::element_text(colour = "grey35"),
      axis.title = ggplot2::element_text(colour = palette_spender[["ink"]], size = ggplot2::rel(0.95)),
      axis.ticks = ggplot2::element_line(colour = "grey70", linewidth = 0.3),
      panel.grid.minor = ggplot2::element_blank(),
      panel.grid.major = ggplot2::element_line(colour = "grey93", linewidth = 0.3),
      panel.border = ggplot2::element_rect(colour = "grey70", fill = NA, linewidth = 0.4),
      plot.background = ggplot2::element_rect(fill = "white", colour = NA),
      plot.title = ggplot2::element_text(size = ggplot2::rel(1.05), face = "bold", hjust = 0),
      plot.subtitle = ggplot2::element_text(colour = "grey35", size = ggplot2::rel(0.9)),
      plot.title.position = "plot",
      legend.title = ggplot2::element_text(size = ggplot2::rel(0.9)),
      legend.key = ggplot2::element_blank(),
      plot.margin = ggplot2::margin(6, 10, 6, 6)
    )
}

wavelength_label <- function(frame = NULL) paste0(frame, if (!is.null(frame)) " ", "wavelength [", angstrom(), "]")

# ggplot2 evaluates aesthetics with this pronoun.
utils::globalVariables(".data")

# An axis of whole numbers
scale_epochs <- function() ggplot2::scale_x_continuous(breaks = function(limits) unique(round(pretty(limits))))
