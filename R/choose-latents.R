#' How many latents do spectra need?
#'
#' Fits with different numbers of latents, compared on the same spectra held out, with principal components of the same number and with the
#' noise. More latents always fit the training spectra better; on others, losses stop falling where the next latent describes nothing that
#' galaxies have in common.
#'
#' The number suggested is the smallest whose refined losses are, spectrum by spectrum, not larger than the best number's by more than one
#' standard error of their mean difference.
#'
#' @param x Observed [spectra()].
#' @param latents Numbers of latents \eqn{S} to try.
#' @param refine Steps of the refined latents, see [predict.spender()].
#' @param pca Compare with [spectra_pca()]? It takes some time.
#' @param ... Arguments of [spender()]; `validation` must leave spectra to compare on.
#' @param progress Say which number is tried, and show its progress? `NULL`: in interactive sessions.
#' @return A data frame of class `latent_choice`, a row for each number: `latents`, mean losses `encoder`, `refined`, `pca` and `noise` of
#'   the spectra held out, the `excess` of the refined loss over that of the best number with its standard error `excess_se`, and
#'   `seconds`; the attribute `suggested` is a number of latents. [plot()] draws losses against numbers.
#' @section Errors: `spender_error_invalid` where fewer than 8 spectra are held out.
#' @export
#' @examples
#' x <- simulate_spectra(80, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = c(16, 32))
#' choose_latents(x, c(1, 3), network = small, epochs = 10, pca = FALSE, threads = 1)
choose_latents <- function(x, latents = 2:10, refine = 3, pca = TRUE, ..., progress = NULL) {
  check_spectra(x)
  check_counts(latents, "latents")
  check_flag(pca, "pca")
  if (!is.null(progress)) check_flag(progress, "progress")
  latents <- sort(unique(latents))
  losses <- list()
  rows <- lapply(latents, function(s) {
    if (if (is.null(progress)) interactive() else progress) cli::cli_inform(c(i = "{s} latent{?s}"))
    started <- proc.time()[["elapsed"]]
    fit <- spender(x, latents = s, ..., progress = isTRUE(progress) || is.null(progress) && interactive())
    seconds <- proc.time()[["elapsed"]] - started
    unseen <- held_out(fit, x)
    if (length(unseen) < 8) {
      abort("invalid", "Fits are compared on spectra held out, and only ", length(unseen), " are: give more spectra, or a larger ",
            "`validation`.")
    }
    training <- x[!x$id %in% unseen & !is.na(x$norm)]
    unseen <- x[unseen]
    losses[[length(losses) + 1]] <<- predict(fit, unseen, "loss", refine = refine)
    data.frame(latents = s, encoder = mean(predict(fit, unseen, "loss", refine = 0)), refined = mean(losses[[length(losses)]]),
               pca = if (pca) mean(predict(spectra_pca(training, s, wave_rest = fit$wave_rest), unseen, "loss")) else NA_real_,
               noise = mean(unseen$ivar > 0) / 2, seconds = seconds)
  })
  table <- do.call(rbind, rows)
  excess <- vapply(losses, function(l) unname(l - losses[[which.min(table$refined)]]), numeric(length(losses[[1]])))
  table$excess <- colMeans(excess)
  table$excess_se <- apply(excess, 2, stats::sd) / sqrt(nrow(excess))
  structure(table, suggested = latents[which(table$excess <= table$excess_se)[1]], class = c("latent_choice", "data.frame"))
}

#' @export
print.latent_choice <- function(x, ...) {
  print.data.frame(x, digits = 3, row.names = FALSE)
  suggested <- attr(x, "suggested")
  if (length(suggested)) {
    cat("\n", suggested, ngettext(suggested, " latent describes", " latents describe"), " the spectra held out as well as any number tried",
        if (suggested == max(x$latents)) "; more may be better", ".\n", sep = "")
  }
  invisible(x)
}

#' @export
plot.latent_choice <- function(x, ...) {
  check_dots("plot", ...)
  need_ggplot()
  kinds <- c(encoder = "encoder", refined = "refined latents", pca = "principal components")
  losses <- do.call(rbind, lapply(names(kinds), function(kind) data.frame(latents = x$latents, loss = x[[kind]], of = kinds[[kind]])))
  losses <- losses[is.finite(losses$loss), ]
  colours <- stats::setNames(palette_spender[c("data", "model", "second")], kinds)
  ggplot2::ggplot(losses, ggplot2::aes(.data$latents, .data$loss, colour = .data$of)) +
    ggplot2::geom_hline(yintercept = x$noise[1], linetype = "dotted", colour = "grey55", linewidth = 0.4) +
    ggplot2::annotate("text", x = max(x$latents), y = x$noise[1], label = "perfect model", hjust = 1, vjust = -0.6, size = 3,
                      colour = "grey40") +
    ggplot2::geom_line(linewidth = 0.7) + ggplot2::geom_point(size = 1.8) + scale_epochs() +
    ggplot2::scale_colour_manual(name = NULL, breaks = unname(kinds), values = colours) +
    ggplot2::labs(x = "latents", y = "mean loss of spectra held out") + theme_spender() +
    ggplot2::theme(legend.position = "top", legend.justification = "left")
}
