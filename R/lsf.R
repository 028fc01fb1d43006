#' The line spread function of a fit
#'
#' The kernel by which the model's restframe spectrum, at the observed pixels, is convolved:
#' \eqn{y'_m = \sum_i k_i\, x_{m - i}}, divided by its sum. It is learned with everything else, from a delta, and neither forced
#' to be positive nor symmetric.
#'
#' On pixels that are uniform in log wavelength, as SDSS's, the kernel is *not* identifiable: redshift is then a pure shift,
#' which commutes with a kernel fixed in pixels, and a delta with an absorbed restframe fits as well as the truth. Only the
#' product, kernel applied to restframe, is. On pixels uniform in Å, with a wide range of redshifts and latents that cannot see
#' the redshift (`spender_network(redshift_input = FALSE)`), the kernel itself is found, to a few hundredths: see
#' `vignette("superresolution")`, where kernels are known.
#'
#' @param fit A fit from [spender()].
#' @return A numeric vector that sums to 1, named by the pixel offset \eqn{i}; `NULL` for a fit without LSF.
#' @export
#' @examples
#' x <- simulate_spectra(24, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, lsf = 5, epochs = 4, network = small, threads = 1, progress = FALSE)
#' lsf(fit)
lsf <- function(fit) {
  check_fit(fit)
  size <- fit$architecture$lsf
  if (size == 0) return(NULL)
  kernel <- rev(as.vector(.Call(ffi_network_export, fit$architecture, fit$weights)[["encoder.instrument.lsf.weight"]]))
  setNames(kernel / sum(kernel), seq_along(kernel) - (size + 1) / 2)
}

#' Is the line spread function decided by the data?
#'
#' Trains a fit further from two other kernels than its own, with all else as it is, and compares the kernels that come out. Where
#' they disagree at like losses, data and network do not decide the kernel: see [lsf()] for why that is so on pixels uniform in log
#' wavelength. Agreement is necessary, not sufficient: a symmetric result proves nothing there.
#'
#' @param fit A fit from [spender()] with a line spread function.
#' @param x The [spectra()] it was trained on.
#' @param epochs How long to train from each start; long enough for losses to settle again.
#' @param tolerance Largest difference of a weight at which two kernels agree.
#' @param ... Arguments of training, as in [update.spender()]; a larger `lsf_rate` gets there faster.
#' @return A list of class `spender_lsf_check`: `kernels`, a matrix whose rows are the fit's own kernel and those found from a delta
#'   and from the fit's kernel reversed (from a box, where that is the same); `losses`, mean training loss of the last epoch;
#'   `difference`, the largest between the two that were found; `tolerance` and `agree`. A warning of class `spender_warning_lsf` says so
#'   where they do not agree.
#' @section Errors: `spender_error_invalid` for a fit without line spread function.
#' @seealso [lsf()], [plot_lsf()]
#' @export
#' @examples
#' x <- simulate_spectra(24, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, lsf = 3, epochs = 4, network = small, threads = 1, progress = FALSE)
#' # so short a training decides nothing; the warning says so
#' tryCatch(check_lsf(fit, x, epochs = 2, threads = 1, progress = FALSE),
#'          spender_warning_lsf = conditionMessage)
check_lsf <- function(fit, x, epochs = 10, tolerance = 0.05, ...) {
  own <- lsf(fit)
  if (length(own) < 3) abort("invalid", "`fit` has no line spread function to check: see the argument `lsf` of spender().")
  check_number(tolerance, "tolerance", 0, 10)
  size <- length(own)
  delta <- replace(numeric(size), (size + 1) / 2, 1)
  reversed <- if (max(abs(own - rev(own))) > tolerance / 2) rev(own) else rep(1 / size, size)
  fits <- lapply(list(delta, reversed), function(start) update(set_lsf(fit, start), x, epochs, ...))
  found <- vapply(fits, lsf, own)
  kernels <- rbind(own, t(found))
  rownames(kernels) <- c("fit", "from a delta", if (identical(reversed, rev(own))) "from the reversed" else "from a box")
  losses <- setNames(vapply(fits, function(f) f$history$train_loss[nrow(f$history)], 0), rownames(kernels)[-1])
  difference <- max(abs(found[, 1] - found[, 2]))
  if (difference > tolerance) {
    warn("lsf", "The line spread function is not decided by these data: from two starts its weights differ by up to ",
         format(difference, digits = 2), ", at losses of ", paste(format(losses, digits = 5), collapse = " and "), ".",
         if (is_log_uniform(fit$instrument$wave)) " On pixels uniform in log wavelength it cannot be: see ?lsf.")
  }
  structure(list(kernels = kernels, losses = losses, difference = difference, tolerance = tolerance,
                 agree = difference <= tolerance),
            class = "spender_lsf_check")
}

#' @export
print.spender_lsf_check <- function(x, ...) {
  print(round(x$kernels, 3))
  cat("losses ", paste(names(x$losses), format(x$losses, digits = 5), collapse = ", "), "\n", sep = "")
  cat("largest difference ", format(x$difference, digits = 2), if (x$agree) ", within" else ", beyond", " the tolerance of ",
      format(x$tolerance), if (!x$agree) ": the kernel is not decided by the data", "\n", sep = "")
  invisible(x)
}

set_lsf <- function(fit, kernel) {
  fit$weights <- .Call(ffi_network_set_lsf, fit$architecture, fit$weights, as.double(kernel) / sum(kernel))
  fit
}

is_log_uniform <- function(wave) {
  step <- diff(log(wave))
  diff(range(step)) < 0.02 * mean(step)
}
