#' Embed latents in the plane
#'
#' A two-dimensional map of the latents by UMAP (McInnes et al. 2018, as implemented by uwot), in which spectra that are alike are
#' neighbours (Melchior et al. 2023, section 4.4). [plot_latent()] draws it.
#'
#' Nearest neighbours are exact for fewer than 4096 spectra, and approximate from there on (Annoy, as uwot has it). They are found on
#' several threads, the layout on one. `batch = TRUE`, an argument of `uwot::umap()`, finds the layout on several threads too, which gives
#' another map. Neither depends on the number of threads.
#'
#' @param fit A fit from [spender()] or [read_model()]; or a matrix of latents, one spectrum in each row.
#' @param x [spectra()] on the fit's instrument; not used for a matrix.
#' @param neighbours,min_dist UMAP's neighbourhood size, and the smallest distance of points in the map.
#' @param seed A whole number; the state of the session's random number generator is restored.
#' @param threads How many threads to use; `NULL`: as many as [devices()] says.
#' @param ... Passed on to `uwot::umap()`.
#' @return A matrix (\eqn{n \times 2}) with columns `u1`, `u2` and the ids as row names; `NA` for spectra without latents.
#' @section Errors: `spender_error_missing_package` without uwot, `spender_error_invalid` for fewer spectra than `neighbours`.
#' @export
#' @examplesIf requireNamespace("uwot", quietly = TRUE)
#' s <- cbind(s1 = rnorm(60), s2 = rnorm(60), s3 = 0)
#' head(embed_latents(s, neighbours = 8))
embed_latents <- function(fit, x = NULL, neighbours = 15, min_dist = 0.1, seed = 1, threads = NULL, ...) {
  if (!requireNamespace("uwot", quietly = TRUE))
    abort("missing_package", "embed_latents() needs the package uwot: install.packages(\"uwot\").")
  check_number(neighbours, "neighbours", 2, 1e6, whole = TRUE)
  check_number(min_dist, "min_dist", 0, 10)
  check_number(seed, "seed", 0, .Machine$integer.max, whole = TRUE)
  threads <- fit_threads(threads)
  latents <- if (is.matrix(fit) && is.numeric(fit)) fit else encode(fit, x)
  known <- stats::complete.cases(latents)
  if (sum(known) <= neighbours) {
    abort("invalid", "`neighbours` must be less than the number of spectra with latents, which is ", sum(known), ".")
  }
  restore <- keep_random_state()
  on.exit(restore())
  set.seed(seed)
  out <- matrix(NA_real_, nrow(latents), 2, dimnames = list(rownames(latents), c("u1", "u2")))
  further <- list(...)
  layout_threads <- if (isTRUE(further$batch)) threads else 1 # otherwise uwot's threads race for the points
  arguments <- list(n_neighbors = neighbours, min_dist = min_dist, n_threads = threads, n_sgd_threads = layout_threads)
  out[known, ] <- do.call(uwot::umap, c(list(latents[known, , drop = FALSE]), utils::modifyList(arguments, further)))
  out
}
