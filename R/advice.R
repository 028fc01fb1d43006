# How good a fit is, between a flat spectrum and a perfect model, and what to do about one that is not.

# Loss of a model without error: half the fraction of pixels with weight
perfect_loss <- function(fit) {
  valid <- fit$training$valid_fraction
  if (length(valid)) valid / 2 else NA_real_
}

# The loss that a fit is judged by, named by what it is of: of refined latents where it was trained with them, of the spectra held out if
# there are any; always of the weights that the fit has.
judged_loss <- function(fit) {
  kept <- fit$history[kept_epoch(fit), ]
  refined <- fit$training$refined_loss
  if (length(refined) && is.finite(refined)) return(c("refined validation" = refined))
  if (is.finite(kept$validation_loss)) c(validation = kept$validation_loss) else c(training = kept$train_loss)
}

# Fraction of what a flat spectrum leaves above the noise that the fit describes; NA where that is not known
explained <- function(fit) {
  flat <- fit$training$flat_loss
  if (!nrow(fit$history) || !length(flat)) return(NA_real_)
  (flat - judged_loss(fit)[[1]]) / (flat - perfect_loss(fit))
}

# Sentences, named by their kind, about what a fit's losses give reason to do. None for a fit without history.
fit_advice <- function(fit) {
  h <- fit$history
  t <- fit$training
  perfect <- perfect_loss(fit)
  if (!nrow(h) || !length(t$flat_loss) || !is.finite(perfect)) return(character())
  number <- function(x) format(x, digits = 3)
  loss <- judged_loss(fit)
  steps <- nrow(h) * ceiling(t$n_training / t$batch_size)
  advice <- character()
  if (loss >= t$flat_loss) {
    advice["flat"] <- paste0("The fit is not better than a flat spectrum: its ", names(loss), " loss is ", number(loss[[1]]),
                             ", that of a flat spectrum ", number(t$flat_loss), ". Look for extreme values of flux or ivar ",
                             "(`summary(x)`, `plot(x)`), train longer, or change `learning_rate`.")
  }
  changed <- if (learned_refined(fit)) floor(nrow(h) * if (isTRUE(t$refine)) 0.5 else t$refine) else 0
  overfit <- overfit_since(h, perfect, from = changed + 1)
  if (!is.null(overfit)) {
    from_to <- function(column) paste(" from", number(h[[column]][overfit]), "to", number(h[[column]][nrow(h)]))
    advice["overfit"] <- paste0("The training over-fits: from epoch ", h$epoch[overfit], " to ", h$epoch[nrow(h)],
                                " the training loss fell", from_to("train_loss"), " while the validation loss rose",
                                from_to("validation_loss"), ". More spectra help; ",
                                if (kept_epoch(fit) == overfit) paste0("the weights are those of epoch ", h$epoch[overfit], ".")
                                else "`best = TRUE` keeps the weights before.")
  } else if (loss > 1.1 * perfect && still_falls(h, perfect)) {
    advice["short"] <- paste0("The training was short, ", count(steps, "step"), ", and its loss still fell: from ",
                              if (nrow(h) > 1) paste0(number(h$train_loss[nrow(h) - 1]), " to "), number(h$train_loss[nrow(h)]),
                              " in the last epoch, where a perfect model has ", number(perfect), ". Give more `epochs`",
                              if (t$batch_size > 8 && steps < 1000) " or a smaller `batch_size`", ", or go on by `update()`.")
  }
  advice
}

# Row of the history, not before `from`, after which the validation loss rose while the training loss fell; NULL where that is not so
overfit_since <- function(history, perfect, from = 1) {
  n <- nrow(history)
  if (from >= n || !all(is.finite(history$validation_loss))) return(NULL)
  lowest <- from - 1 + which.min(history$validation_loss[from:n])
  risen <- history$validation_loss[n] - history$validation_loss[lowest]
  if (lowest < n && risen > 0.1 * perfect && history$train_loss[n] < history$train_loss[lowest]) lowest
}

# Whether the training loss fell in the last epoch by more than a twentieth of what is left above a perfect model's. One epoch says nothing
# about that: its loss is a mean over all its steps.
still_falls <- function(history, perfect) {
  n <- nrow(history)
  n == 1 || history$train_loss[n - 1] - history$train_loss[n] > 0.05 * max(history$train_loss[n] - perfect, 0.05 * perfect)
}
