#' Fit an ensemble
#'
#' The same fit from several seeds: initial weights and the order of the spectra differ, and with them all that the data do not determine.
#' The spread of the members' predictions says how far they can be trusted where data do not reach, such as a line beyond the
#' observed window (Melchior et al. 2023, section 4.2).
#'
#' Which spectra are held out for validation is the same for all members, so that their validation losses can be compared.
#'
#' @param x Observed [spectra()].
#' @param members Number of fits.
#' @param seed The first member's seed; the next ones follow.
#' @param init Initial weights, see [spender()]. Members that all start from the same fit of simulated galaxies differ less than their data
#'   allow.
#' @param ... Arguments of [spender()].
#' @param ranks Spread the members over the processes that `mpirun` or `srun` has started with this program, in a build with MPI (see
#'   Ranks in [spender()])? All of them return the whole ensemble, as one process would make it, but for the seconds it took. Without
#'   `mpirun` it is made by this process.
#' @param progress Say which member is being trained, and show its progress? `NULL`: in interactive sessions.
#' @return A list of class `spender_ensemble` of [spender()] fits. `[` picks members, [predict()][predict.spender_ensemble()] gives their
#'   mean and spread, [reconstruct()] the mean, [summary()] a table of losses, [plot()] draws their histories.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' ensemble <- spender_ensemble(x, members = 3, latents = 2, epochs = 2, network = small, threads = 1)
#' ensemble
#' bands <- predict(ensemble, x[1:2], "rest")
#' dim(bands$mean)
spender_ensemble <- function(x, members = 5, seed = 1, init = "random", ..., ranks = FALSE, progress = NULL) {
  check_source(x)
  check_number(members, "members", 1, 1000, whole = TRUE)
  check_number(seed, "seed", 0, 2^53 - members, whole = TRUE)
  if (!is.null(progress)) check_flag(progress, "progress")
  check_flag(ranks, "ranks")
  if (ranks && !is.null(list(...)$pieces)) abort("invalid", "`ranks` trains members on different ranks, `pieces` each on all of them.")
  here <- join_ranks(ranks)
  mine <- if (is.null(here)) seq_len(members) else which((seq_len(members) - 1) %% here$size == here$rank)
  fits <- with_ranks(here, lapply(mine - 1, function(i) {
    if (if (is.null(progress)) interactive() else progress) cli::cli_inform(c(i = "Member {i + 1} of {members}"))
    spender(x, init = init, ..., seed = seed + i, split_seed = seed, progress = progress)
  }))
  if (!is.null(here)) { # other ranks may have more members, or slower ones: those that die are noticed without a timeout
    all <- with_ranks(here, gather_ranks(here, fits, timeout = 1e8))
    fits <- lapply(seq_len(members) - 1, function(i) all[[i %% here$size + 1]][[i %/% here$size + 1]])
  }
  new_ensemble(fits)
}

new_ensemble <- function(fits) structure(fits, class = "spender_ensemble")

#' Predictions of an ensemble
#'
#' @param object From [spender_ensemble()].
#' @param x [spectra()] on the fits' instrument.
#' @param type `"observed"`, `"rest"` or `"loss"`, see [predict.spender()]. Latents have no mean: each member has its own.
#' @param ... Passed on to [predict.spender()]; `newdata`, which other packages' models call `x`.
#' @return A list of `mean` and `sd`, the members' mean and standard deviation, each shaped as [predict.spender()] has it.
#' @section Errors: those of [predict.spender()].
#' @export
#' @inherit spender_ensemble examples
predict.spender_ensemble <- function(object, x, type = c("observed", "rest", "loss"), ...) {
  type <- match.arg(type)
  refuse_path("predict() of an ensemble", type, ...)
  if (missing(x)) return(predict_newdata(object, type, ...))
  n <- length(object)
  mean <- squares <- 0
  for (i in seq_len(n)) { # Welford's update: one member's prediction in memory at a time
    p <- predict_member(object[[i]], x, type, warned = i > 1, ...)
    step <- p - mean
    mean <- mean + step / i
    squares <- squares + step * (p - mean)
  }
  list(mean = mean, sd = if (n > 1) sqrt(squares / (n - 1)) else squares * NA)
}

# Warnings about the spectra are given for the first member only.
predict_member <- function(fit, x, type, warned, ...) {
  said <- function(w) if (warned) invokeRestart("muffleWarning")
  withCallingHandlers(predict(fit, x, type, ...), spender_warning_no_norm = said, spender_warning_coverage = said)
}

#' @export
plot.spender_ensemble <- function(x, ...) {
  check_dots("plot", ...)
  need_ggplot()
  histories <- do.call(rbind, lapply(seq_along(x), function(i) {
    h <- x[[i]]$history
    data.frame(member = rep(factor(i), nrow(h)), epoch = h$epoch, loss = h$validation_loss)
  }))
  histories <- histories[is.finite(histories$loss), ]
  if (!NROW(histories)) abort("invalid", "There is no history of validation losses to plot.")
  ggplot2::ggplot(histories, ggplot2::aes(.data$epoch, .data$loss, colour = .data$member)) +
    (if (max(table(histories$member)) > 1) ggplot2::geom_line(linewidth = 0.6) else ggplot2::geom_point(size = 1.8)) +
    ggplot2::scale_colour_viridis_d(end = 0.9) + scale_epochs() + ggplot2::scale_y_log10() +
    ggplot2::labs(y = "validation loss") + theme_spender()
}

#' @export
`[.spender_ensemble` <- function(x, i) new_ensemble(unclass(x)[i])

#' @export
summary.spender_ensemble <- function(object, ...) {
  check_dots("summary", ...)
  last <- function(fit, column) if (nrow(fit$history)) fit$history[[column]][nrow(fit$history)] else NA_real_
  kept <- function(fit, column) if (nrow(fit$history)) fit$history[[column]][kept_epoch(fit)] else NA_real_
  data.frame(
    member = seq_along(object),
    seed = vapply(object, function(fit) fit$training$seed, 0),
    epochs = vapply(object, function(fit) fit$training$epochs, 0),
    kept_epoch = vapply(object, function(fit) as.double(kept_epoch(fit)), 0),
    train_loss = vapply(object, kept, 0, "train_loss"),
    validation_loss = vapply(object, kept, 0, "validation_loss"),
    seconds = vapply(object, last, 0, "seconds")
  )
}

#' @export
print.spender_ensemble <- function(x, ...) {
  table <- summary(x)
  cat("spender ensemble of ", length(x), ngettext(length(x), " member", " members"), "\n", sep = "")
  if (length(x)) {
    print(x[[1]])
    loss <- table$validation_loss
    cat("  members    validation loss ", format(mean(loss), digits = 4),
        if (length(loss) > 1) paste0(" \u00b1 ", format(stats::sd(loss), digits = 2)),
        ", from ", format(min(loss), digits = 4), " to ", format(max(loss), digits = 4), "\n", sep = "")
  }
  invisible(x)
}
