# What one does with fits of several instruments.

# The fit of an instrument: by its name, or of the spectra's grid
fit_of <- function(fit, instrument, x = NULL) {
  if (is.null(instrument)) {
    same <- vapply(fit, function(one) same_grid(one$instrument$wave, x$instrument$wave), NA)
    if (sum(same) == 1) return(fit[[which(same)]])
    abort("invalid", if (any(same)) "More than one of the fit's instruments has" else "None of the fit's instruments has",
          " the spectra's grid (", describe_grid(x$instrument$wave), "): name one by `instrument`, ", enumerate(names(fit)), ".")
  }
  if (!is.character(instrument) || length(instrument) != 1 || !instrument %in% names(fit)) {
    abort("invalid", "`instrument` must be one of the fit's, ", enumerate(names(fit)), ", not ", describe(instrument), ".")
  }
  fit[[instrument]]
}

# f(fit, x) of each instrument in a list of spectra, or of one
by_instrument <- function(fit, x, instrument, f) {
  if (!check_sources(x)) return(f(fit_of(fit, instrument, x), x))
  if (!is.null(instrument)) abort("invalid", "`instrument` is for spectra of one instrument; a list `x` has their names.")
  lapply(setNames(nm = names(x)), function(of) {
    one <- fit_of(fit, of)
    of_instrument(of, f(one, x[[of]]))
  })
}

#' Fits of several instruments
#'
#' `spender(list(sdss = x, desi = y))` trains an encoder for each instrument and one decoder for all, so that all have the same latents:
#' those of a galaxy do not depend on the instrument that observed it. The result is a list of ordinary fits, `fit$sdss` and `fit$desi`,
#' each with the decoder of all: every function of the package takes one of them.
#'
#' @section Training: The objective is the mean loss (equation 1 in [spender()]) of the training spectra of all instruments. Each batch
#'   has the same share of the spectra of each; every encoder, with its line spread function, learns from the losses of its own spectra,
#'   the decoder from all. The result has the same bits for any number of threads, from memory or from surveys, and resumed from a
#'   checkpoint; with one instrument those of an ordinary fit.
#'
#'   Nothing but the decoder makes encoders agree where redshifts, noise or pixels differ. Objects that two instruments have seen (the same
#'   ids; whether they validate is the same for both, too) pull them together if `common` is above 0: `common` times
#'   \deqn{\frac1C\sum_i [\sigma(|s'_i - s_i|^2 / (S\,\sigma_s^2 u)) - 1/2]}
#'   is added to the loss, over the \eqn{C} such objects of the batch, with latents \eqn{s_i} and \eqn{s'_i} from the two instruments,
#'   \eqn{\sigma_s = 0.5}, and the latents' typical variance \eqn{u}: the scale-free consistency of [spender_invariance()].
#' @section Restframe: The default grid reaches from the bluest wavelength of any instrument at `z_max` to the reddest one, in the finest
#'   step of the instruments' own default grids.
#'
#' @param object A fit of several instruments, from [spender()] or [read_model()].
#' @param x [spectra()] or a survey of one instrument; or a list of these, by the instruments' names. For `update()` such a list.
#' @param type,... Passed on to [predict.spender()]; `update()`: arguments of the training, as [update.spender()] has them.
#' @param instrument The name of the spectra's instrument in the fit; `NULL`: the one that has their grid.
#' @param epochs Further epochs.
#' @param freeze `NULL`, or `"decoder"`: trains encoders of the instruments in `x` only, one after the other. New names are new instruments.
#' @return `predict()`: as [predict.spender()], or a list of its results for a list of spectra; [encode()] likewise. `update()`: the
#'   fit, trained further. `summary()`: a data frame with a row for each instrument: `instrument`, `pixels`, `n_training`,
#'   `n_validation`, `train_loss`, `validation_loss`, `refined_loss`, and `explained`, the fraction of the loss between a flat spectrum
#'   and a perfect model. The losses of all epochs together are `attr(fit, "history")`: a data frame as `history` of a fit has it, with
#'   means over the spectra of all instruments, and `train_NAME` and `validation_NAME` of each.
#' @section Errors: `spender_error_invalid` for names that are missing, repeated, or not those of the fit, for instruments whose restframes
#'   do not overlap, for spectra whose instrument is not known, for `common` without objects in common, with other than two instruments, or
#'   with `refine`, and for `clip` and `average`. Errors and warnings about the spectra of one instrument begin with its name.
#' @seealso [spender()], [update.spender()] for a newly arriving instrument, `vignette("instruments")`
#' @name spender_joint
#' @examples
#' blue <- instrument(seq(4000, 7000, by = 8), name = "blue")
#' red <- instrument(seq(5000, 9000, by = 10), name = "red")
#' x <- list(blue = simulate_spectra(24, blue, seed = 1), red = simulate_spectra(16, red, seed = 2))
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 4, batch_size = 8, network = small, threads = 1,
#'                progress = FALSE)
#' fit
#' encode(fit, x)$red[1:3, ]
#' predict(fit, x$blue[1:3], "loss", instrument = "blue")
#' fit$red
NULL

#' @rdname spender_joint
#' @export
predict.spender_joint <- function(object, x, type = "observed", ..., instrument = NULL) {
  if (missing(x)) abort("invalid", "`x` must be spectra, a survey, or a list of these; it is missing.")
  by_instrument(object, x, instrument, function(fit, x) predict(fit, x, type, ...))
}

#' @rdname spender_joint
#' @export
update.spender_joint <- function(object, x, epochs, ..., freeze = NULL) {
  if (!check_sources(x)) abort("invalid", "`x` must be a list of spectra or surveys, by the instruments' names.")
  check_freeze(freeze)
  if (is.null(freeze)) {
    if (!setequal(names(x), names(object))) {
      abort("invalid", "`x` must have spectra of all instruments of the fit, ", enumerate(names(object)), ", and of no other; ",
            "`freeze = \"decoder\"` trains single ones and new ones.")
    }
    x <- x[names(object)]
    Map(function(name, fit, x) of_instrument(name, check_same_grid(fit, x)), names(object), object, x)
    settings <- attr(object, "training")
    given <- list(...)
    common <- if ("common" %in% names(given)) given$common else if (length(settings$common)) settings$common else 0
    options <- updated_options(settings, epochs, given[names(given) != "common"])
    check_common(common, x, options)
    history <- attr(object, "history")
    if (!identical(names(history), names(empty_history(names(object))))) history <- empty_history(names(object)) # one has joined since
    return(train_jointly(unclass_joint(object), x, options, common, history))
  }
  fits <- unclass_joint(object)
  for (of in names(x)) {
    before <- if (of %in% names(object)) object[[of]] else object[[1]]
    fits[[of]] <- of_instrument(of, update(before, x[[of]], epochs, freeze = freeze, ...))
  }
  new_joint(fits, attr(object, "history"), attr(object, "training"))
}

unclass_joint <- function(fit) setNames(lapply(seq_along(fit), function(k) fit[[k]]), names(fit))

check_freeze <- function(freeze) {
  if (is.null(freeze) || identical(freeze, "decoder")) return(invisible())
  abort("invalid", "`freeze` must be NULL or \"decoder\", not ", describe(freeze), ".")
}

#' @export
`[.spender_joint` <- function(x, i) new_joint(unclass_joint(x)[i], attr(x, "history"), attr(x, "training"))

#' @rdname spender_joint
#' @export
summary.spender_joint <- function(object, ...) {
  check_dots("summary", ...)
  number <- function(f) unname(vapply(object, function(fit) {
    value <- f(fit)
    if (length(value)) as.double(value) else NA_real_
  }, 0))
  kept <- function(column) number(function(fit) fit$history[[column]][kept_epoch(fit)])
  data.frame(instrument = names(object), pixels = number(function(fit) length(fit$instrument$wave)),
             n_training = number(function(fit) fit$training$n_training), n_validation = number(function(fit) fit$training$n_validation),
             train_loss = kept("train_loss"), validation_loss = kept("validation_loss"),
             refined_loss = number(function(fit) fit$training$refined_loss), explained = number(explained))
}

#' @export
print.spender_joint <- function(x, ...) {
  first <- x[[1]]
  cat("spender fit of ", count(length(x), "instrument"), ": ", count(first$architecture$n_latent, "latent"), ", one decoder\n", sep = "")
  cat("  restframe    ", describe_grid(first$wave_rest), "\n", sep = "")
  table <- summary(x)
  table$explained <- paste0(format(100 * table$explained, digits = 3), " %")
  print(table[, colSums(!is.na(table)) > 0], row.names = FALSE, digits = 4)
  invisible(x)
}

#' @rdname spender_joint
#' @export
plot.spender_joint <- function(x, ...) {
  check_dots("plot", ...)
  need_ggplot()
  losses <- do.call(rbind, lapply(names(x), function(of) {
    h <- x[[of]]$history
    data.frame(instrument = rep(of, 2 * nrow(h)), epoch = rep(h$epoch, 2), loss = c(h$train_loss, h$validation_loss),
               set = rep(c("training", "validation"), each = nrow(h)))
  }))
  losses <- losses[is.finite(losses$loss), ]
  if (!NROW(losses)) abort("invalid", "There is no history to plot: the fit was not trained here.")
  ggplot2::ggplot(losses, ggplot2::aes(.data$epoch, .data$loss, colour = .data$set)) +
    (if (max(losses$epoch) > 1) ggplot2::geom_line(linewidth = 0.7) else ggplot2::geom_point(size = 2)) +
    ggplot2::facet_wrap(~ instrument) +
    ggplot2::scale_colour_manual(name = NULL, values = c(training = palette_spender[["data"]], validation = palette_spender[["model"]])) +
    scale_epochs() + ggplot2::scale_y_log10() + theme_spender() + ggplot2::theme(legend.position = "top")
}
