#' Attention of the encoder
#'
#' The encoder's last convolution makes values \eqn{h_{lc}} and keys of \eqn{C} channels at \eqn{L} segments of a spectrum. The
#' attention \eqn{a_{lc}}, a softmax of the keys over the segments, says where each channel looks; the features are
#' \eqn{e_c = \sum_l h_{lc} a_{lc}} (Melchior et al. 2023, equation 2).
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x [spectra()] on the fit's instrument, \eqn{n} of them; those without a norm give `NA`.
#' @param device,precision,threads,batch_size As in [predict.spender()].
#' @return An array of class `spender_attention` (`a[1:3, , ]` is one of fewer spectra), \eqn{n \times L \times C} (72 segments and 256
#'   channels in the published network), that sums to 1 over the segments. Its attribute `wave` has the observed wavelengths (Å, vacuum) of
#'   the segments' centres; a segment depends on the pixels that the convolutions combine for it, which overlap with those of its
#'   neighbours.
#' @section Errors: `spender_error_grid` when the spectra are not on the fit's wavelength grid.
#' @seealso [grad_fam()], [plot_attention()]
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' a <- attention(fit, x[1:3])
#' dim(a)
#' range(apply(a, c(1, 3), sum))
attention <- function(fit, x, device = "auto", precision = "fp32", threads = NULL, batch_size = NULL) {
  new_maps(fit, x, attention_maps(fit, x, NULL, choose_device(device, precision, threads), batch_size)$attention)
}

#' Which parts of a spectrum decide a feature of the model
#'
#' Gradient-weighted feature attention maps (Grad-FAM; Melchior et al. 2023, equation 4): the attention times the gradient of a
#' feature \eqn{f} of the restframe model with respect to it,
#' \deqn{A_{lc} = a_{lc} \frac{\partial f}{\partial a_{lc}},}
#' the part that segment \eqn{l} has, through channel \eqn{c}, in \eqn{f}.
#'
#' @inheritParams attention
#' @param feature A property of the restframe model \eqn{x_r}:
#'   * the name of a line of [spectral_lines()]: its flux, the sum over 10 Å on either side of the line above the mean from
#'     25 to 40 Å (an absorption line is negative);
#'   * a wavelength (Å, restframe): the flux at the nearest pixel; two wavelengths: the mean between them;
#'   * weights, one for each of the \eqn{R} restframe pixels: the weighted sum;
#'   * a function of `rest`, the models (\eqn{n \times R}), and `wave` (Å), that returns the gradient of a feature of its own
#'     with respect to `rest` (\eqn{n \times R}).
#' @return An array like that of [attention()], with one more attribute, `feature`: the feature's value for each spectrum,
#'   `NA` where `feature` is a function.
#' @section Errors: `spender_error_invalid` for a feature that the restframe grid does not hold; `spender_error_grid` as in
#'   [attention()].
#' @seealso [feature_channel()] finds the channel that carries a feature.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' fam <- grad_fam(fit, x, "Halpha")
#' dim(fam)
#' feature_channel(fam)[1:3, ]
grad_fam <- function(fit, x, feature, device = "auto", precision = "fp32", threads = NULL, batch_size = NULL) {
  check_fit(fit)
  x <- in_memory(x)
  check_spectra(x)
  check_same_grid(fit, x)
  device <- choose_device(device, precision, threads)
  usable <- !is.na(x$norm)
  values <- rep(NA_real_, length(x))
  rest <- infer(fit, x, "rest", device = device, batch_size = batch_size)$values$rest[usable, , drop = FALSE]
  rest[is.na(rest)] <- 0 # of spectra without a covered pixel, which have none
  if (is.function(feature)) {
    gradient <- feature(rest, fit$wave_rest)
    if (!is.numeric(gradient) || !is.matrix(gradient) || !identical(dim(gradient), dim(rest)) || any(!is.finite(gradient))) {
      abort("invalid", "`feature` must return a matrix of ", nrow(rest), " x ", ncol(rest), " finite numbers, the gradient of the feature.")
    }
  } else {
    weights <- feature_weights(feature, fit$wave_rest)
    values[usable] <- rest %*% weights
    gradient <- matrix(rep(weights, each = sum(usable)), sum(usable), length(weights))
  }
  storage.mode(gradient) <- "double"
  out <- new_maps(fit, x, attention_maps(fit, x, gradient, device, batch_size)$fam)
  structure(out, feature = setNames(values, x$id))
}

#' The channel that carries a feature
#'
#' A channel carries a feature when its part in it, the Grad-FAM summed over the segments, varies from spectrum to spectrum as the
#' feature does.
#'
#' @param fam Grad-FAM of a sample, from [grad_fam()].
#' @param values The feature of each spectrum, by default the model's own; any other measure of its strength will do, such as a line
#'   flux from [measure_lines()].
#' @return A data frame, one row per channel, the strongest first: `channel`; `share`, the covariance of its part with `values`,
#'   in units of the variance of `values`; `spearman`, their rank correlation; and `segment`, where it is strongest (the segment of the
#'   largest absolute part in most spectra).
#' @section Errors: `spender_error_invalid` without at least three spectra with finite values.
#' @export
#' @inherit grad_fam examples
feature_channel <- function(fam, values = attr(fam, "feature")) {
  if (!inherits(fam, "spender_attention") || length(dim(fam)) != 3) {
    abort("invalid", "`fam` must come from grad_fam(); it is ", describe(fam), ".")
  }
  if (!is.numeric(values) || length(values) != dim(fam)[1]) {
    abort("invalid", "`values` must be one number for each of the ", dim(fam)[1], " spectra.")
  }
  parts <- apply(fam, c(1, 3), sum)
  known <- is.finite(values) & is.finite(parts[, 1])
  if (sum(known) < 3 || stats::var(values[known]) == 0) {
    abort("invalid", "A channel can be told from at least three spectra whose values differ; there are ", sum(known), ".")
  }
  parts <- parts[known, , drop = FALSE]
  values <- values[known]
  moving <- apply(parts, 2, stats::sd) > 0
  segment <- apply(abs(fam[known, , , drop = FALSE]), c(1, 3), which.max)
  out <- data.frame(
    channel = seq_len(ncol(parts)),
    share = as.vector(stats::cov(parts, values)) / stats::var(values),
    spearman = ifelse(moving, suppressWarnings(as.vector(stats::cor(parts, values, method = "spearman"))), 0),
    segment = apply(segment, 2, function(s) as.integer(names(which.max(table(s)))))
  )
  out <- out[order(-abs(out$share)), ]
  rownames(out) <- NULL
  out
}

# Some spectra's maps are maps; anything else that is taken of them is numbers.
#' @export
`[.spender_attention` <- function(x, i, j, k, ..., drop = TRUE) {
  out <- NextMethod()
  if (!missing(j) || !missing(k) || nargs() < 4 || length(dim(out)) != 3) return(out)
  feature <- attr(x, "feature")
  if (!is.null(feature) && !missing(i)) feature <- if (is.character(i)) feature[match(i, dimnames(x)[[1]])] else feature[i]
  structure(out, wave = attr(x, "wave"), feature = feature, class = class(x))
}

#' @export
print.spender_attention <- function(x, ...) {
  wave <- attr(x, "wave")
  kind <- if (is.null(attr(x, "feature"))) "attention" else "Grad-FAM"
  cat(kind, " of ", dim(x)[1], ngettext(dim(x)[1], " spectrum", " spectra"), ": ", dim(x)[2], " segments (",
      paste(round(range(wave), 1), collapse = "-"), " ", angstrom(), "), ", dim(x)[3], " channels\n", sep = "")
  strongest <- wave[apply(apply(abs(unclass(x)), c(1, 2), sum), 1, function(s) if (anyNA(s)) NA else which.max(s))]
  cat("strongest segment of each: ", enumerate(round(strongest, 1)), " ", angstrom(), "\n", sep = "")
  invisible(x)
}

#' Plot attention or Grad-FAM of a spectrum
#'
#' After figure 4 of Melchior et al. (2023): the map, segments by channels, and under it the spectrum it belongs to, on the same
#' wavelengths.
#'
#' @param map From [attention()] or [grad_fam()].
#' @param x The same [spectra()].
#' @param i Which spectrum: a row number.
#' @param channels Channels to show, by number; by default the `most` channels of the largest absolute values in this spectrum, in
#'   the order of the segment where they are strongest.
#' @param most How many channels are shown by default.
#' @param lines Lines to mark: a data frame like that of [spectral_lines()], or `NULL` for none.
#' @return An object of class `spender_plot` with `panels` `map` and `spectrum`, see [plot_reconstruction()].
#' @section Errors: `spender_error_missing_package` without ggplot2, `spender_error_invalid` naming the argument.
#' @export
#' @examplesIf requireNamespace("ggplot2", quietly = TRUE)
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' plot_attention(attention(fit, x), x, 2)
plot_attention <- function(map, x, i = 1, channels = NULL, most = 48, lines = spectral_lines("emission")) {
  need_ggplot()
  x <- in_memory(x)
  check_spectra(x)
  if (!inherits(map, "spender_attention")) abort("invalid", "`map` must come from attention() or grad_fam(); it is ", describe(map), ".")
  if (dim(map)[1] != length(x)) abort("invalid", "`map` is of ", dim(map)[1], " spectra, `x` has ", length(x), ".")
  check_number(i, "i", 1, length(x), whole = TRUE)
  check_number(most, "most", 1, 1e6, whole = TRUE)
  wave <- attr(map, "wave")
  is_fam <- !is.null(attr(map, "feature"))
  values <- matrix(unclass(map)[i, , ], dim(map)[2], dim(map)[3])
  if (anyNA(values)) abort("invalid", "Spectrum ", i, " has no norm and so no attention.")
  if (is.null(channels)) {
    channels <- utils::head(order(-apply(abs(values), 2, max)), most)
    channels <- channels[order(apply(abs(values[, channels, drop = FALSE]), 2, which.max))]
  } else if (!is.numeric(channels) || any(!channels %in% seq_len(ncol(values)))) {
    abort("invalid", "`channels` must be among 1 to ", ncol(values), ".")
  }
  half <- c(diff(wave), diff(wave)[length(wave) - 1]) / 2
  cells <- data.frame(from = rep(wave - c(half[1], half[-length(half)]), length(channels)), to = rep(wave + half, length(channels)),
                      channel = rep(seq_along(channels), each = length(wave)), value = as.vector(values[, channels]))
  limit <- max(abs(cells$value))
  fill <- if (is_fam) {
    ggplot2::scale_fill_gradient2(name = "Grad-FAM", low = palette_spender[["second"]], mid = "white", high = palette_spender[["model"]],
                                  limits = c(-limit, limit))
  } else ggplot2::scale_fill_viridis_c(name = "attention", limits = c(0, limit), option = "D")
  xlim <- range(x$instrument$wave)
  marks <- marked_lines(lines, x$z[i], xlim)
  top <- ggplot2::ggplot() +
    ggplot2::geom_rect(data = cells, ggplot2::aes(xmin = .data$from, xmax = .data$to, ymin = .data$channel - 0.5,
                                                  ymax = .data$channel + 0.5, fill = .data$value)) +
    fill + marks +
    ggplot2::coord_cartesian(xlim = xlim, ylim = c(0.5, length(channels) + 0.5), expand = FALSE) +
    ggplot2::labs(x = NULL, y = "channel", title = x$id[i], subtitle = paste0("z = ", formatC(x$z[i], digits = 4, format = "f"))) +
    theme_spender() + ggplot2::theme(panel.grid.major = ggplot2::element_blank(), axis.text.x = ggplot2::element_blank(),
                                     legend.position = "top", legend.justification = "right",
                                     legend.key.height = ggplot2::unit(0.6, "lines"), legend.key.width = ggplot2::unit(2, "lines"),
                                     legend.margin = ggplot2::margin(0, 0, 0, 0), legend.box.spacing = ggplot2::unit(0.2, "lines"))
  ticks <- unique(round(seq(1, length(channels), length.out = min(9, length(channels)))))
  top <- top + ggplot2::scale_y_continuous(breaks = ticks, labels = channels[ticks])
  valid <- x$ivar[i, ] > 0
  pixels <- data.frame(wave = x$instrument$wave, flux = replace(x$flux[i, ], !valid, NA))
  bottom <- panel_base(masked_runs(pixels$wave, valid), xlim) + marks +
    ggplot2::geom_line(data = pixels, ggplot2::aes(.data$wave, .data$flux), colour = palette_spender[["ink"]], linewidth = 0.25,
                       na.rm = TRUE) +
    ggplot2::coord_cartesian(xlim = xlim, ylim = flux_limits(pixels$flux, NULL), expand = FALSE) +
    ggplot2::labs(x = wavelength_label("observed"), y = "normalised flux") + theme_spender()
  new_spender_plot(list(map = top, spectrum = bottom), rows = list("map", "spectrum"), heights = c(2.2, 1), aligned = c("map", "spectrum"))
}

marked_lines <- function(lines, z, xlim) {
  if (is.null(lines)) return(NULL)
  at <- lines$wave[lines$strong] * (1 + z)
  at <- at[at > xlim[1] & at < xlim[2]]
  if (!length(at)) return(NULL)
  ggplot2::geom_vline(xintercept = at, colour = palette_spender[["line"]], linewidth = 0.25, linetype = "dashed")
}

# ---- maps ----

# gradient: NULL, or with respect to the restframe, of the spectra that have a norm
attention_maps <- function(fit, x, gradient, device, batch_size) {
  check_fit(fit)
  x <- in_memory(x)
  check_spectra(x)
  check_same_grid(fit, x)
  usable <- !is.na(x$norm)
  part <- if (all(usable)) x else x[usable]
  maps <- .Call(ffi_attention, fit$architecture, fit$weights, fit$instrument$wave, fit$wave_rest, part$flux, part$ivar, part$z,
                gradient, c(device, batch_size = min(choose_batch_size(batch_size, device), max(1, length(part$z)))))
  if (all(usable)) return(maps)
  warn("no_norm", sum(!usable), ngettext(sum(!usable), " spectrum has", " spectra have"), " no norm: rows ", enumerate(which(!usable)),
       " of the result are NA.")
  lapply(maps, function(map) {
    if (is.null(map)) return(NULL)
    all_rows <- array(NA_real_, c(length(x), dim(map)[-1]))
    all_rows[usable, , ] <- map
    all_rows
  })
}

new_maps <- function(fit, x, maps) {
  dimnames(maps) <- list(x$id, NULL, NULL)
  structure(maps, wave = segment_wave(fit$architecture, fit$instrument$wave), class = "spender_attention")
}

# A max-pool's window t has its middle at t * pool, and convolutions leave positions where they are.
segment_wave <- function(architecture, wave) {
  pools <- architecture$pools
  pixels <- seq_along(wave) - 1
  for (pool in pools) pixels <- pixels[seq(1, length(pixels), by = pool)]
  wave[pixels + 1]
}

# A feature that is linear in the restframe model: its weights, one for each pixel.
feature_weights <- function(feature, wave) {
  inside <- function(from, to) {
    pixels <- wave >= from & wave <= to
    if (!any(pixels)) {
      abort("invalid", "`feature`: no restframe pixel between ", round(from, 1), " and ", round(to, 1), " ", angstrom(), " (the grid: ",
            describe_grid(wave), ").")
    }
    pixels
  }
  if (is.character(feature) && length(feature) == 1) {
    lines <- spectral_lines()
    centre <- lines$wave[lines$name == feature]
    if (!length(centre)) abort("invalid", "`feature`: there is no line \"", feature, "\" in spectral_lines().")
    line <- inside(centre - 10, centre + 10)
    # beyond [N II] beside H-alpha, and before [O III] 4960 beside 5008
    sides <- inside(centre - 40, centre - 25) | inside(centre + 25, centre + 40)
    width <- c(diff(wave), wave[length(wave)] - wave[length(wave) - 1])
    return(line * width - sides * sum(width[line]) / sum(sides))
  }
  if (!is.numeric(feature) || any(!is.finite(feature))) {
    abort("invalid", "`feature` must be a line's name, one or two wavelengths, weights of the restframe pixels, or a function, not ",
          describe(feature), ".")
  }
  if (length(feature) == length(wave)) return(as.double(feature))
  if (length(feature) == 1) {
    if (feature < wave[1] || feature > wave[length(wave)]) {
      abort("invalid", "`feature`: ", feature, " ", angstrom(), " lies outside the restframe grid (", describe_grid(wave), ").")
    }
    weights <- numeric(length(wave))
    weights[which.min(abs(wave - feature))] <- 1
    return(weights)
  }
  if (length(feature) == 2 && feature[1] < feature[2]) {
    pixels <- inside(feature[1], feature[2])
    return(pixels / sum(pixels))
  }
  abort("invalid", "`feature` must be one wavelength, two increasing ones, or ", length(wave), " weights; it has length ", length(feature),
        ".")
}
