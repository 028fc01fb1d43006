#' Latents that do not depend on redshift
#'
#' Further losses that make a network describe a galaxy by the same latents at any redshift and with any part of its spectrum observed
#' (Liang et al. 2023), for the argument `invariance` of [spender()]. Per batch of \eqn{N} spectra, added to the mean of equation 1:
#'
#' **Similarity** of pairs: distances between the latents should be those between the restframe models,
#' \deqn{\frac{1}{N^2}\sum_{i \ne j} \left[\sigma(k\Delta_{ij} - 2.5) + \sigma(-k\Delta_{ij} - 2.5)\right],\quad
#' \Delta_{ij} = \frac{|s_i - s_j|^2}{S} - \frac1R\sum_\lambda W_\lambda (\hat x_i - \hat x_j)_\lambda^2,}
#' with the logistic function \eqn{\sigma}, models \eqn{\hat x} divided by their median over `median_range`, and
#' \eqn{W_\lambda = A\,e^{-((\lambda - 5000)/(2 w))^2}} (`amplitude` \eqn{A}, `width` \eqn{w} in Å). The steepness \eqn{k} grows from 0 to
#' `slope` in equal steps over `period` epochs, again and again, and is 0 in the last `free_epochs`.
#'
#' **Consistency** with copies: \eqn{\frac1C\sum_i [\sigma(|s'_i - s_i|^2 / (S\sigma_s^2)) - 1/2]} with the latents \eqn{s'} of copies of
#' \eqn{C} spectra of the batch, which are encoded only. A copy is the spectrum at a redshift drawn from `z_range`, interpolated, with
#' flux and weight 0 where it was not observed and in a block of `masked` of the pixels; a fraction of the pixels gets noise of so
#' many times the largest valid flux (`noise`), which its weights know. What was masked stays masked. Each epoch has new copies, which
#' follow from `seed`, epoch and id alone.
#'
#' **Forms.** The losses were published for latents of order 1, and smaller latents make the consistency smaller without any more
#' consistency. In the `"scale-free"` form the size of the latents changes nothing: both distances of the similarity are divided by their
#' means over the batch's pairs, and \eqn{\sigma_s^2} is multiplied by the latents' typical variance, the geometric mean of
#' \eqn{|s_i - s_j|^2 / (2S)} over neighbours \eqn{j} of \eqn{i} in the (shuffled) batch. Its gradient is taken, too. The geometric mean,
#' because trainings enlarge a plain one by moving few galaxies far away.
#'
#' @param preset `"sdss"` or `"desi"`: the published values of all arguments below that are `NULL`, except those that belong to the
#'   scale-free form. The published trainings have 800 to 1000 epochs of batches of 512 with `epsilon = 1e-4`, `clip = 1` for a loss that is
#'   a sum over the batch: divide both by 512 here.
#' @param form `"scale-free"` or `"published"`.
#' @param similarity,consistency Weights of the losses; 0 leaves one out. Published 1 and 1; scale-free 0.1 and 0.5.
#' @param sigma \eqn{\sigma_s}: published 0.1 (SDSS) and 0.5 (DESI); scale-free 0.5, of the latents' typical standard deviation. Copies
#'   that differ by several \eqn{\sigma_s} are beyond the slope of the loss: with 0.1, nothing pulled them back.
#' @param amplitude,width \eqn{A} and \eqn{w}: 20, 1000 Å (SDSS); 30, 2000 Å (DESI). Without effect on the scale-free form is \eqn{A}.
#' @param median_range Restframe wavelengths (Å) over whose median models are normalised: 4000 to 7000.
#' @param slope,period,free_epochs The largest \eqn{k}, 9.9 (SDSS) or 1.9 (DESI); epochs in which it is reached, 100 or 20, at most a half
#'   of all; epochs without similarity at the end, 10, at most a tenth of all.
#' @param cycle_consistency Is the consistency loss multiplied by \eqn{k}, too? `FALSE` (SDSS), `TRUE` (DESI).
#' @param z_range Redshifts of the copies: 0 to 0.5 (SDSS), 0 to 0.8 (DESI).
#' @param fraction Fraction of each batch that is copied: published 1, scale-free 0.5. A copy costs what encoding and its gradient cost.
#' @param noise Two numbers: the fraction of the pixels that get noise, 0.05, and its standard deviation in units of the largest valid flux,
#'   0.2.
#' @param masked Fraction of the pixels in the masked block: 0.05 (SDSS), 0 (DESI).
#' @return A list of class `spender_invariance`.
#' @section Training with it: `network` of [spender()] is by default one whose encoder does not see the redshift
#'   (`redshift_input = FALSE`). The fit has the weights of the last epoch, whatever `best`, as early epochs are less invariant, and
#'   `refine` is `FALSE`, as a decoder that learns at refined latents is not one of the encoder's. Losses in `history` are those of
#'   equation 1. [check_invariance()] measures what was reached.
#' @references Liang, Y., Melchior, P., Lu, S., Goulding, A., Ward, C. (2023), Autoencoding Galaxy Spectra II: Redshift Invariance and
#'   Outlier Detection, AJ 166, 75. <https://arxiv.org/abs/2302.02496>
#' @seealso [check_invariance()], [spender()]
#' @export
#' @examples
#' spender_invariance()
#' x <- simulate_spectra(24, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16,
#'                          redshift_input = FALSE)
#' fit <- spender(x, latents = 2, epochs = 4, batch_size = 8, network = small,
#'                invariance = spender_invariance(), threads = 1, progress = FALSE)
spender_invariance <- function(preset = c("sdss", "desi"), form = c("scale-free", "published"), similarity = NULL, consistency = NULL,
                               sigma = NULL, amplitude = NULL, width = NULL, median_range = c(4000, 7000), slope = NULL, period = NULL,
                               free_epochs = 10, cycle_consistency = NULL, z_range = NULL, fraction = NULL, noise = c(0.05, 0.2),
                               masked = NULL) {
  preset <- match.arg(preset)
  form <- match.arg(form)
  published <- list(
    sdss = list(sigma = 0.1, amplitude = 20, width = 1000, slope = 9.9, period = 100, cycle_consistency = FALSE, z_range = c(0, 0.5),
                masked = 0.05),
    desi = list(sigma = 0.5, amplitude = 30, width = 2000, slope = 1.9, period = 20, cycle_consistency = TRUE, z_range = c(0, 0.8),
                masked = 0))[[preset]]
  of_form <- if (form == "published") list(similarity = 1, consistency = 1, fraction = 1)
             else list(similarity = 0.1, consistency = 0.5, fraction = 0.5, sigma = 0.5)
  published[names(of_form)] <- of_form
  chosen <- list(form = form, similarity = similarity, consistency = consistency, sigma = sigma, amplitude = amplitude, width = width,
                 median_range = median_range, slope = slope, period = period, free_epochs = free_epochs,
                 cycle_consistency = cycle_consistency, z_range = z_range, fraction = fraction, noise = noise, masked = masked)
  for (name in names(published)) if (is.null(chosen[[name]])) chosen[[name]] <- published[[name]]
  check_invariance_options(chosen)
  structure(chosen, class = "spender_invariance")
}

check_invariance_options <- function(o) {
  for (name in c("similarity", "consistency", "slope")) check_number(o[[name]], name, 0, 1e6)
  for (name in c("sigma", "amplitude", "width")) {
    check_number(o[[name]], name, 0, 1e9)
    if (o[[name]] == 0) abort("invalid", "`", name, "` must be above 0.")
  }
  for (name in c("fraction", "masked")) check_number(o[[name]], name, 0, 1)
  check_number(o$period, "period", 1, 1e9, whole = TRUE)
  check_number(o$free_epochs, "free_epochs", 0, 1e9, whole = TRUE)
  check_flag(o$cycle_consistency, "cycle_consistency")
  check_z_range(o$z_range)
  if (!is.numeric(o$median_range) || length(o$median_range) != 2 || any(!is.finite(o$median_range)) || diff(o$median_range) <= 0) {
    abort("invalid", "`median_range` must be two wavelengths in ", angstrom(), ", the lower one first.")
  }
  if (!is.numeric(o$noise) || length(o$noise) != 2 || any(!is.finite(o$noise)) || any(o$noise < 0) || o$noise[1] > 1) {
    abort("invalid", "`noise` must be a fraction of the pixels and a standard deviation, 0 or more.")
  }
}

check_invariance_argument <- function(x) {
  if (!is.null(x) && !inherits(x, "spender_invariance")) {
    abort("invalid", "`invariance` must be NULL or come from spender_invariance(); it is ", describe(x), ".")
  }
}

# The list that ffi_train_open() reads, or NULL. In short trainings k still goes through a cycle, and ends before the last epoch.
invariance_settings <- function(o, x, rows, epochs) {
  if (is.null(o)) return(NULL)
  free <- min(o$free_epochs, epochs %/% 10)
  c(unclass(o)[c("similarity", "consistency", "sigma", "amplitude", "width", "slope", "cycle_consistency", "masked")],
    list(scale_free = o$form == "scale-free", median_range = as.double(o$median_range), z_range = as.double(o$z_range),
         fraction = if (o$consistency > 0) o$fraction else 0, noisy = o$noise[1], noise = o$noise[2],
         period = max(1, min(o$period, (epochs - free) %/% 2)), free_from = epochs - free, ids = id_numbers(x, rows)))
}

# A number for each id, by part, as the ids of a survey are read from its files
id_numbers <- function(x, rows, part = 1e5) {
  unlist(lapply(parts_of(length(rows), part), function(these) .Call(ffi_id_numbers, ids_of(x, rows[these]))))
}

#' @export
print.spender_invariance <- function(x, ...) {
  cat("losses of invariance to redshift, ", x$form, "\n", sep = "")
  for (name in setdiff(names(x), "form")) {
    cat("  ", format(name, width = 17), "  ", paste(format(x[[name]]), collapse = ", "), "\n", sep = "")
  }
  invisible(x)
}
