# Methods of generics that other packages own, registered when those packages are loaded.

#' Fits as data frames
#'
#' Methods of the generics `tidy()`, `glance()` and `augment()`, which broom has, too. They are there once generics or broom is loaded.
#'
#' @param x A fit from [spender()] or [read_model()].
#' @param data [spectra()] or a survey on the fit's instrument.
#' @param refine Steps of refined latents, see [predict.spender()].
#' @param ... For `augment()`, passed on to [predict.spender()]; otherwise not used.
#' @return A data frame (a tibble where that package is installed):
#'   * `tidy()`: a row for each tensor of the network, with `term` (its name in PyTorch), `shape`, `count`, and the `mean` and standard
#'     deviation `sd` of its elements;
#'   * `glance()`: one row: `latents`, `parameters`, `nobs` (spectra that trained), `epochs`, `train_loss`, `validation_loss` and
#'     `refined_loss` of the weights, `flat_loss` and `perfect_loss` between which they are, the fraction `explained`, `device`, `seconds`;
#'   * `augment()`: the catalogue of the spectra, a row for each, with the latents and their standard errors (`.s1`, `.s1_err`, ...),
#'     `.loss` and `.chi2` (reduced) at refined latents.
#' @name tidy.spender
#' @examplesIf requireNamespace("generics", quietly = TRUE)
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' generics::glance(fit)
#' generics::tidy(fit)
#' generics::augment(fit, x[1:3])
NULL

#' @rdname tidy.spender
#' @usage \method{tidy}{spender}(x, ...)
#' @rawNamespace S3method(generics::tidy, spender)
tidy.spender <- function(x, ...) {
  check_dots("tidy", ...)
  tensors <- coef(x)
  shape <- vapply(tensors, function(t) paste(if (is.null(dim(t))) length(t) else dim(t), collapse = " x "), "")
  as_modern(data.frame(term = names(tensors), shape = unname(shape), count = unname(lengths(tensors)),
                       mean = unname(vapply(tensors, mean, 0)), sd = unname(vapply(tensors, stats::sd, 0))))
}

#' @rdname tidy.spender
#' @usage \method{glance}{spender}(x, ...)
#' @rawNamespace S3method(generics::glance, spender)
glance.spender <- function(x, ...) {
  check_dots("glance", ...)
  kept <- x$history[kept_epoch(x), ]
  one <- function(value, otherwise = NA_real_) if (length(value)) value else otherwise
  as_modern(data.frame(latents = as.integer(x$architecture$n_latent), parameters = as.integer(count_parameters(x$architecture)),
                       nobs = nobs(x), epochs = nrow(x$history), train_loss = one(kept$train_loss),
                       validation_loss = one(kept$validation_loss), refined_loss = as.double(one(x$training$refined_loss)),
                       flat_loss = as.double(one(x$training$flat_loss)), perfect_loss = as.double(perfect_loss(x)),
                       explained = explained(x),
                       device = one(x$training$device, NA_character_), seconds = one(x$history$seconds[nrow(x$history)])))
}

#' @rdname tidy.spender
#' @usage \method{augment}{spender}(x, data, refine = 2, ...)
#' @rawNamespace S3method(generics::augment, spender)
augment.spender <- function(x, data, refine = 2, ...) {
  check_source(data)
  both <- encode(x, data, se = TRUE, refine = refine, ...)
  quality <- suppressWarnings(predict(x, data, c("loss", "chi2"), refine = refine, ...)) # encode() has warned
  latents <- as.data.frame(both$latent)
  errors <- as.data.frame(both$se)
  names(errors) <- paste0(names(errors), "_err")
  own <- cbind(latents, errors)[as.vector(rbind(seq_along(latents), length(latents) + seq_along(errors)))] # side by side
  names(own) <- paste0(".", names(own))
  as_modern(cbind(as.data.frame(data), own, .loss = unname(quality$loss), .chi2 = unname(quality$chi2), row.names = NULL))
}

as_modern <- function(x) if (requireNamespace("tibble", quietly = TRUE)) tibble::as_tibble(x) else x

#' @rawNamespace S3method(tibble::as_tibble, spectra)
#' @noRd
as_tibble.spectra <- function(x, ...) tibble::as_tibble(as.data.frame(x), ...)

#' @rawNamespace S3method(tibble::as_tibble, survey)
#' @noRd
as_tibble.survey <- function(x, ...) tibble::as_tibble(as.data.frame(x), ...)

# autoplot() draws what plot() does, where that is a ggplot.

#' @rawNamespace S3method(ggplot2::autoplot, spender)
#' @noRd
autoplot.spender <- function(object, ...) plot_history(object, ...)

#' @rawNamespace S3method(ggplot2::autoplot, spender_ensemble)
#' @noRd
autoplot.spender_ensemble <- function(object, ...) plot(object, ...)

#' @rawNamespace S3method(ggplot2::autoplot, latent_choice)
#' @noRd
autoplot.latent_choice <- function(object, ...) plot(object, ...)
