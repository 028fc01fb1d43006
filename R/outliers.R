#' Outliers among spectra
#'
#' Spectra that are odd in one of two ways: their latents are where the sample has few, or the fit describes them badly. Each has a p-value
#' whose distribution is known whatever the flow and the noise, and a q-value that takes the number of spectra into account.
#'
#' @param fit The fit from [spender()] or [read_model()] whose latents the density describes.
#' @param x [spectra()] or a survey on the fit's instrument.
#' @param density From [latent_density()]: `latent_density(x, fit)`, or `latent_density(latents, fit, chi2 = chi2)`. Without the reference
#'   `chi2` only latents are judged.
#' @param conditions Of a density with conditions: a matrix with a row for each spectrum. By default they are taken by name: `z` is the
#'   redshift, others are catalogue columns of `x`.
#' @param fdr False discovery rate: the fraction of ordinary spectra among those that get a reason.
#' @param threads As in [spender()].
#' @param ... Passed on to [predict.spender()]: `refine`, `robust`, `prior`, `device`. By default as for the density.
#'
#' @details
#' **p-values.** With the \eqn{m} calibrating spectra of the density, which neither the flow nor (if the density was fitted to spectra) the
#' network learned from, `p_latent` is the rank of \eqn{\log p} among theirs, \eqn{(1 + \#\{\log p_j \le \log p\}) / (m + 1)}, and
#' `p_chi2` that of \eqn{\chi^2}, large ones first: uniform for spectra from the same distribution, whatever that is
#' (split-conformal; Vovk et al. 2005). `p` is twice the smaller one, at most 1 (Bonferroni). No p-value is below \eqn{2 / (m + 1)}: to
#' find \eqn{k} outliers among \eqn{n} spectra at the rate `fdr`, the density needs \eqn{m > 2 n / (k\, \mathrm{fdr})}.
#'
#' **q-values** are those of Benjamini and Hochberg (1995, J. R. Stat. Soc. B 57, 289), valid for conformal p-values (Bates et al. 2023,
#' Ann. Stat. 51, 149). Spectra with \eqn{q \le} `fdr` have a `reason`: `"latent"`, `"reconstruction"` or `"both"`, as one p-value or
#' both are below the threshold.
#'
#' A high \eqn{\chi^2} may be the data's: look at `masked` ([mask_reasons()] says why), and at [plot_outliers()]. A low one with a high
#' signal-to-noise ratio is no proof of an ordinary spectrum; that is what `p_latent` is for.
#'
#' @return A data frame of class `outliers` with a row for each spectrum, in order: `id`, `z`, `log_p`, `p_latent`, `chi2` (reduced, see
#'   [predict.spender()]), `p_chi2`, `p`, `q`, `masked` (fraction of its pixels without weight) and `reason`, a factor, `NA` for ordinary
#'   spectra. Spectra without latents have `NA`, and a warning. Printing shows the oddest first.
#' @section Errors: `spender_error_identity` for a density of another fit's latents (a warning, `spender_warning_identity`, if the density
#'   does not say), `spender_error_dimension` for another number of latents, `spender_error_grid` for another instrument's spectra.
#' @seealso [plot_outliers()]
#' @export
#' @examples
#' x <- simulate_spectra(120, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' density <- latent_density(x, fit, layers = 2, hidden = c(16, 16), epochs = 20, threads = 1)
#' outliers(fit, x[1:10], density)
outliers <- function(fit, x, density, conditions = NULL, fdr = 0.1, threads = NULL, ...) {
  check_fit(fit)
  check_source(x)
  check_density(density)
  check_number(fdr, "fdr", 0, 1)
  check_same_grid(fit, x)
  check_identity(density, fit)
  check_calibrated(density)
  refuse_path("outliers", "latent", ...)
  threads <- fit_threads(threads)
  encoding <- utils::modifyList(density$encoding, list(...))
  both <- latents_and_chi2(fit, x, threads, encoding)
  latents <- both$latent
  chi2 <- both$chi2
  if (is.null(conditions)) conditions <- conditions_by_name(x, density$conditions)
  known <- stats::complete.cases(latents)
  log_p <- rep(NA_real_, nrow(latents))
  log_p[known] <- predict(density, unname(latents[known, , drop = FALSE]), conditions_of(conditions, known), threads = threads)

  reference <- density$calibration
  p_latent <- rank_p(log_p, reference$log_p)
  p_chi2 <- if (length(reference$chi2)) rank_p(unname(chi2), reference$chi2, large = TRUE) else rep(NA_real_, length(log_p))
  judged <- !all(is.na(p_chi2))
  p <- if (judged) pmin(1, 2 * pmin(p_latent, p_chi2)) else p_latent
  q <- stats::p.adjust(p, "BH")
  found <- which(q <= fdr)
  threshold <- if (length(found)) max(p[found]) / (if (judged) 2 else 1) else 0
  far <- p_latent[found] <= threshold
  badly <- judged & p_chi2[found] <= threshold
  reason <- factor(rep(NA_character_, length(p)), c("latent", "reconstruction", "both"))
  reason[found] <- ifelse(far & badly, "both", ifelse(far, "latent", "reconstruction"))
  out <- data.frame(id = rownames(latents), z = unname(x$z), log_p, p_latent, chi2 = unname(chi2), p_chi2, p, q,
                    masked = masked_fraction(x, threads), reason)
  structure(out, class = c("outliers", "data.frame"), fdr = fdr, encoding = encoding)
}

check_identity <- function(density, fit, warn = TRUE) {
  if (length(density$columns) != fit$architecture$n_latent) {
    abort("dimension", "`density` is that of ", count(length(density$columns), "column"), ", but `fit` has ",
          count(fit$architecture$n_latent, "latent"), ".")
  }
  if (is.null(density$identity)) {
    if (warn) warn("identity", "`density` does not say which fit's latents it describes: latent_density(x, fit) does.")
  } else if (!identical(density$identity, fit_identity(fit))) {
    abort("identity", "`density` describes the latents of another fit (", density$identity, ", not ", fit_identity(fit),
          "): latents of different fits have nothing in common. Fit it anew: latent_density(x, fit).")
  }
}

# `z`, and columns of the catalogue
conditions_by_name <- function(x, names) {
  if (!length(names)) return(NULL)
  catalogue <- as.data.frame(x)
  absent <- setdiff(names, names(catalogue))
  if (length(absent)) {
    abort("invalid", "The density is that of latents at given ", code_list(names), ", but `x` has no column ", code_list(absent),
          ": give `conditions`.")
  }
  as.matrix(catalogue[names])
}

conditions_of <- function(conditions, rows) {
  if (is.null(conditions)) return(NULL)
  if (is.null(dim(conditions))) conditions[rows] else conditions[rows, , drop = FALSE]
}

# Fraction of pixels without weight
masked_fraction <- function(x, threads) {
  of <- function(part) 1 - .Call(ffi_spectra_quality, part$flux, part$ivar, threads)$valid / ncol(part$ivar)
  if (!inherits(x, "survey")) return(of(x))
  out <- numeric(length(x))
  in_parts(x, function(part, rows) out[rows] <<- of(part))
  out
}

# Rows, the oddest first: by p, then by log p
oddest <- function(table) order(table$p, table$log_p)

#' @export
print.outliers <- function(x, n = 10, ...) {
  if (!all(c("p", "log_p", "reason") %in% names(x))) { # some columns of it
    print(as.data.frame(x), ...)
    return(invisible(x))
  }
  found <- table(x$reason)
  cat("<outliers> ", sum(found), " of ", count(nrow(x), "spectrum", "spectra"),
      if (!is.null(attr(x, "fdr"))) paste0(" at a false discovery rate of ", format(attr(x, "fdr"))), "\n", sep = "")
  if (sum(found)) fact("reasons", paste(names(found), found, collapse = ", "))
  shown <- utils::head(as.data.frame(x)[oddest(x), ], n)
  if (nrow(shown)) print(shown, digits = 3)
  if (nrow(x) > n) cat("... and ", nrow(x) - n, " more\n", sep = "")
  invisible(x)
}

#' @export
as.data.frame.outliers <- function(x, ...) {
  class(x) <- "data.frame"
  attr(x, "fdr") <- attr(x, "encoding") <- NULL
  x
}
