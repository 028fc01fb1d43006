# How latents of spectra are found: what ffi_infer_open() knows as `refine`.
encoder_only <- list(steps = 0, with_redshift = FALSE, freedom = 0, mean = NULL, precision = NULL)

new_inference <- function(fit, types, refine, robust, prior, refine_z) {
  if (is.null(refine)) refine <- if (learned_refined(fit)) 2 else 0
  check_number(refine, "refine", 0, 1000, whole = TRUE)
  check_flag(refine_z, "refine_z")
  if ("z" %in% types) {
    if (!refine_z && length(types) > 1) {
      abort("invalid", "`type = \"z\"` refines redshifts, and the other types then belong to these: ask for it alone, or give ",
            "`refine_z = TRUE`.")
    }
    refine_z <- TRUE
    if (refine == 0) refine <- 4
  }
  if (refine_z && refine == 0) abort("invalid", "`refine_z` needs steps: give `refine`, such as 4.")
  if (!is.null(robust)) check_number(robust, "robust", 1, 1e6)
  known <- if (isFALSE(prior)) list() else check_prior(prior, fit)
  list(steps = as.double(refine), with_redshift = refine_z, freedom = if (is.null(robust)) 0 else as.double(robust), mean = known$mean,
       precision = known$precision)
}

# Whether the decoder learned at refined latents
learned_refined <- function(fit) {
  refine <- fit$training[["refine"]] # `$` would take `refined_loss` for it
  !is.null(refine) && !isFALSE(refine)
}

check_prior <- function(prior, fit) {
  n <- fit$architecture$n_latent
  if (isTRUE(prior)) {
    prior <- fit$training$prior
    if (is.null(prior)) abort("invalid", "This fit has no prior: give `prior` as a list of `mean` and `covariance` of its latents.")
  }
  mean <- as.double(prior$mean)
  covariance <- prior$covariance
  if (!is.list(prior) || length(mean) != n || length(covariance) != n^2 ||
      !is.numeric(covariance) || !all(is.finite(c(mean, covariance)))) {
    abort("invalid", "`prior` must be TRUE, FALSE, or a list of `mean` (", n, " numbers) and `covariance` (", n, " x ", n, ").")
  }
  precision <- tryCatch(chol2inv(chol(matrix(covariance, n))), error = function(e) {
    abort("invalid", "The covariance of `prior` is not positive definite.")
  })
  list(mean = mean, precision = as.double(precision))
}

# Mean and covariance of the encoder's latents of some thousand training spectra, which is the prior of refined ones. The covariance is
# widened a little, so that a latent which does not vary has a prior, too.
latent_prior <- function(fit, x, rows, device, most = 2048) {
  rows <- if (length(rows) > most) rows[round(seq(1, length(rows), length.out = most))] else rows
  latents <- infer(fit, x, "latent", device = device, rows = rows)$values$latent
  latents <- latents[stats::complete.cases(latents), , drop = FALSE] # a spectrum without a covered pixel has none
  n <- ncol(latents)
  if (nrow(latents) < 2 || !all(is.finite(latents))) return(NULL)
  covariance <- stats::cov(latents)
  list(mean = colMeans(latents), covariance = as.vector(covariance + diag(1e-6 * mean(diag(covariance)) + 1e-12, n)))
}

# Mean loss of some hundred validation spectra at refined latents
refined_loss <- function(fit, x, rows, device, most = 1024, steps = NULL) {
  if (!length(rows)) return(NA_real_)
  rows <- if (length(rows) > most) rows[round(seq(1, length(rows), length.out = most))] else rows
  inference <- new_inference(fit, "loss", steps, NULL, FALSE, FALSE)
  mean(infer(fit, x, "loss", inference, device, rows = rows)$values$loss, na.rm = TRUE)
}
