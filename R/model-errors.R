#' Errors of a model that come from the network
#'
#' A network cannot describe every spectrum, and has not learned each detail. Models miss the truth by more than the noise of the latents,
#' which [reconstruct()] knows, explains. This function finds by how much, on spectra that the fit was not trained on: with the model
#' \eqn{y'}, its standard error \eqn{\sigma_s} from the latents and the weights \eqn{w}, the misfit \eqn{\tau(\lambda)}, a fraction of the
#' model, is
#' \deqn{\tau^2 = \frac{\sum w^2 y'^2\, ((y - y')^2 + \sigma_s^2 - 1/w)}{\sum w^2 y'^4}}
#' over pixels of about the same restframe wavelength. The latents' variance is added because models are fitted to these very data.
#' Deviations of more than 5 standard deviations count as 5: they are glitches more often than misfits.
#'
#' Misfits are not normally distributed: a few spectra are described much worse than others. On simulated galaxies, 29 % of the pixels were
#' within one error of the noiseless truth without a calibration; with one on 40, 200 and 1,000 spectra 74, 67 and 65 % (within two errors
#' 89, 87 and 88 %).
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x [spectra()] that the fit was not trained on, such as `x[held_out(fit, x)]`: some dozens, better some hundred.
#' @param refine Steps of refined latents, see [predict.spender()].
#' @param ... Passed on to [predict.spender()].
#' @return A data frame for the argument `calibration` of [reconstruct()] and [plot_reconstruction()], with a row for each piece of the
#'   restframe, at least 0.3 % of the wavelength and 4,000 pixels: `wave`, the mean restframe wavelength (Å), `relative` (\eqn{\tau}), and
#'   `n`, the number of pixels.
#' @seealso [calibrate_lines()], which does this for equivalent widths.
#' @export
#' @examples
#' x <- simulate_spectra(60, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x[1:30], latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' calibration <- calibrate_models(fit, x[31:60])
#' calibration
#' errors <- reconstruct(fit, x[31:32], se = TRUE, refine = 2, calibration = calibration)$se
calibrate_models <- function(fit, x, refine = 2, ...) {
  check_fit(fit)
  x <- in_memory(x)
  check_spectra(x)
  both <- reconstruct(fit, x, normalized = TRUE, se = TRUE, refine = refine, ...)
  used <- which(is.finite(both$se) & x$ivar > 0)
  if (length(used) == 0) abort("invalid", "`x` must have pixels with weight whose model's errors are known; it has none.")
  log_wave <- log(restframe_waves(x))[used]
  used <- used[order(log_wave)]
  log_wave <- sort(log_wave)
  model <- both$model[used]
  weight <- x$ivar[used]
  noise <- 1 / weight
  squared <- pmin((x$flux[used] - model)^2, 25 * noise)
  piece <- pieces_of(log_wave, width = 0.003, most = 4000)
  sums <- rowsum(cbind(weight^2 * model^2 * (squared + both$se[used]^2 - noise), weight^2 * model^4, log_wave, 1), piece)
  data.frame(wave = exp(sums[, 3] / sums[, 4]), relative = sqrt(pmax(sums[, 1] / sums[, 2], 0)), n = sums[, 4], row.names = NULL)
}

# For each of the sorted values the number of its piece; pieces are `width` wide or more and have `most` values or more, but for the last
pieces_of <- function(sorted, width, most) {
  cell <- floor((sorted - sorted[1]) / width) + 1
  before <- c(0, cumsum(tabulate(cell))) # values before each cell
  piece <- numeric(max(cell))
  first <- 1
  for (i in seq_along(piece)) {
    piece[i] <- first
    if (before[i + 1] - before[first] >= most) first <- i + 1
  }
  piece[cell]
}

# Restframe wavelengths of the pixels, n x M, Å
restframe_waves <- function(x) outer(1 / (1 + x$z), x$instrument$wave)

# Standard errors `se` of normalised models with the misfit of calibrate_models(); beyond its wavelengths, that of the nearest
with_misfit <- function(se, model, x, calibration) {
  if (!is.data.frame(calibration) || !all(c("wave", "relative") %in% names(calibration)) || nrow(calibration) == 0) {
    abort("invalid", "`calibration` must come from calibrate_models(); it is ", describe(calibration), ".")
  }
  relative <- if (nrow(calibration) == 1) calibration$relative
              else stats::approx(calibration$wave, calibration$relative, restframe_waves(x), rule = 2)$y
  sqrt(se^2 + (relative * model)^2)
}
