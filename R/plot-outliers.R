#' Plot the oddest spectra
#'
#' The gallery that a person would look at first: of each of the oddest spectra the flux with the fit's model, the residuals in units of the
#' standard deviation, and what is known of it: id, redshift, class, p-value, reduced \eqn{\chi^2}, the fraction of its pixels that are
#' masked (if above 1 %), and the reason why it is odd.
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x The [spectra()] or the survey that [outliers()] looked at.
#' @param table From [outliers()], of the same spectra.
#' @param n How many, by p-value, then by log p.
#' @param reason `NULL`, or only outliers of these reasons: `"latent"`, `"reconstruction"`, `"both"`.
#' @param across Spectra side by side.
#' @param ... Passed on to [reconstruct()]: `refine`, `robust`, `prior`, `threads`. By default as in [outliers()].
#' @return An object of class `spender_plot`, see [plot_reconstruction()]; its `panels` are named `flux1`, `residuals1`, `flux2`, ...
#' @section Errors: `spender_error_missing_package` without ggplot2, `spender_error_invalid` if no spectrum is an outlier of these reasons,
#'   `spender_error_dimension` for a table of other spectra.
#' @export
#' @examplesIf requireNamespace("ggplot2", quietly = TRUE)
#' x <- simulate_spectra(120, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' density <- latent_density(x, fit, layers = 2, hidden = c(16, 16), epochs = 20, threads = 1)
#' plot_outliers(fit, x, outliers(fit, x, density), n = 4)
plot_outliers <- function(fit, x, table, n = 6, reason = NULL, across = 2, ...) {
  need_ggplot()
  check_fit(fit)
  check_source(x)
  if (!inherits(table, "outliers")) abort("invalid", "`table` must come from outliers(); it is ", describe(table), ".")
  if (nrow(table) != length(x$z)) {
    abort("dimension", "`table` has ", count(nrow(table), "row"), ", but `x` has ", count(length(x$z), "spectrum", "spectra"),
          ": both must be of the same spectra.")
  }
  check_number(n, "n", 1, 100, whole = TRUE)
  check_number(across, "across", 1, 4, whole = TRUE)
  rows <- oddest(table)
  rows <- rows[!is.na(table$p[rows])]
  if (!is.null(reason)) {
    if (!is.character(reason) || !all(reason %in% levels(table$reason))) {
      abort("invalid", "`reason` must be some of \"latent\", \"reconstruction\" and \"both\", not ", describe(reason), ".")
    }
    rows <- rows[table$reason[rows] %in% reason]
  }
  if (!length(rows)) abort("invalid", "There is no spectrum to show", if (!is.null(reason)) " for this `reason`", ".")
  rows <- utils::head(rows, n)
  x <- as_spectra(x[rows])
  model <- do.call(reconstruct, c(list(fit, x, normalized = TRUE), utils::modifyList(as.list(attr(table, "encoding")), list(...))))
  panels <- list()
  for (i in seq_along(rows)) {
    both <- gallery_panels(x, i, model[i, ], as.list(table[rows[i], ]), first = i %% across == 1 || across == 1)
    names(both) <- paste0(c("flux", "residuals"), i)
    panels <- c(panels, both)
  }
  shelves <- split(seq_along(rows), (seq_along(rows) - 1) %/% across)
  pages <- unlist(lapply(shelves, function(i) list(paste0("flux", i), paste0("residuals", i))), recursive = FALSE)
  new_spender_plot(panels, rows = unname(pages), heights = c(2.6, 1.15), aligned = names(panels), columns = across)
}

# Flux with the model, and residuals below it, of spectrum i
gallery_panels <- function(x, i, model, facts, first) {
  wave <- x$instrument$wave
  valid <- x$ivar[i, ] > 0
  pixels <- data.frame(wave = wave, flux = replace(x$flux[i, ], !valid, NA), model = model,
                       residual = replace((x$flux[i, ] - model) * sqrt(x$ivar[i, ]), !valid, NA))
  masked <- masked_runs(wave, valid)
  ylim <- flux_limits(pixels$flux, pixels$model)
  lines <- spectral_lines()
  class <- if (!is.null(x$meta$class)) as.character(x$meta$class[i])
  known <- paste(c(paste0("z = ", formatC(x$z[i], digits = 4, format = "f")), class[!is.na(class)],
                   paste0("p = ", format(facts$p, digits = 2)),
                   if (facts$masked > 0.01) paste0(round(100 * facts$masked), " % masked")), collapse = "   ")
  why <- if (!is.na(facts$reason)) paste0(", ", facts$reason)
  chi2 <- formatC(facts$chi2, digits = 2, format = "f")
  flux <- panel_base(masked, range(wave)) + flux_layers(pixels, 0.22, 0.4) +
    line_layers(lines[lines$strong, ], x$z[i], range(wave), ylim, character_width = 0.016) +
    ggplot2::coord_cartesian(xlim = range(wave), ylim = ylim, expand = FALSE) +
    ggplot2::scale_x_continuous(n.breaks = 6) +
    ggplot2::labs(title = paste0(x$id[i], why), subtitle = bquote(.(paste0(known, "   ")) * chi^2 * .(paste0(" = ", chi2))), x = NULL,
                  y = if (first) "flux") +
    theme_spender() +
    ggplot2::theme(axis.text.x = ggplot2::element_blank(), axis.ticks.x = ggplot2::element_blank(),
                   plot.margin = ggplot2::margin(6, 10, 2, 6))
  residuals <- residual_panel(pixels, masked, NULL)
  if (!first) residuals <- residuals + ggplot2::labs(y = NULL)
  list(flux, residuals)
}
