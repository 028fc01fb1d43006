#' Embed latents in the plane
#'
#' A two-dimensional map of the latents by UMAP (McInnes et al. 2018, as implemented by uwot), in which spectra that are alike are
#' neighbours (Melchior et al. 2023, section 4.4). [plot_latent()] draws it.
#'
#' @param fit A fit from [spender()] or [read_model()]; or a matrix of latents, one spectrum in each row.
#' @param x [spectra()] on the fit's instrument; not used for a matrix.
#' @param neighbours,min_dist UMAP's neighbourhood size, and the smallest distance of points in the map.
#' @param seed A whole number; the state of the session's random number generator is restored.
#' @param ... Passed on to `uwot::umap()`.
#' @return A matrix (\eqn{n \times 2}) with columns `u1`, `u2` and the ids as row names; `NA` for spectra without latents.
#' @section Errors: `spender_error_missing_package` without uwot, `spender_error_invalid` for fewer spectra than `neighbours`.
#' @export
#' @examplesIf requireNamespace("uwot", quietly = TRUE)
#' s <- cbind(s1 = rnorm(60), s2 = rnorm(60), s3 = 0)
#' head(embed_latents(s, neighbours = 8))
embed_latents <- function(fit, x = NULL, neighbours = 15, min_dist = 0.1, seed = 1, ...) {
  if (!requireNamespace("uwot", quietly = TRUE))
    abort("missing_package", "embed_latents() needs the package uwot: install.packages(\"uwot\").")
  check_number(neighbours, "neighbours", 2, 1e6, whole = TRUE)
  check_number(min_dist, "min_dist", 0, 10)
  check_number(seed, "seed", 0, .Machine$integer.max, whole = TRUE)
  latents <- if (is.matrix(fit) && is.numeric(fit)) fit else encode(fit, x)
  known <- stats::complete.cases(latents)
  if (sum(known) <= neighbours) {
    abort("invalid", "`neighbours` must be less than the number of spectra with latents, which is ", sum(known), ".")
  }
  restore <- keep_random_state()
  on.exit(restore())
  set.seed(seed)
  out <- matrix(NA_real_, nrow(latents), 2, dimnames = list(rownames(latents), c("u1", "u2")))
  out[known, ] <- uwot::umap(latents[known, , drop = FALSE], n_neighbors = neighbours, min_dist = min_dist, n_threads = 1,
                             n_sgd_threads = 1, ...)
  out
}
