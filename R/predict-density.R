#' Log densities and p-values of latents
#'
#' @param object From [latent_density()] or [read_density()].
#' @param x Latents, such as [encode()] returns: a matrix with the density's columns, or a vector for one row.
#' @param conditions Of a density with conditions: a matrix with a row for each of `x`.
#' @param type The result: `"log_p"`, natural logarithms of the density; `"terms"`, a matrix whose columns add up to it: the `normal`
#'   density at the end, the log slopes of the `standardisation` and of each `layer`; `"p"`, p-values: the rank of a row's log p among
#'   the \eqn{m} calibrating rows, \eqn{(1 + \#\{\log p_j \le \log p\}) / (m + 1)}, uniform for new rows from the same distribution
#'   (Vovk et al. 2005; Bates et al. 2023, Ann. Stat. 51, 149).
#' @param threads As in [spender()].
#' @param ... `newdata`, which other packages' models call `x`; anything else is an error.
#' @return A vector, or a matrix for `"terms"`, with an element or row for each row of `x`, named by its row names. Rows with missing
#'   values give `NA`, and a warning that names them.
#' @section Errors: `spender_error_dimension` for another number of columns, `spender_error_invalid` for conditions that are missing, or
#'   p-values of a density without calibrating rows (see [calibrate_density()]).
#' @export
#' @examples
#' x <- cbind(s1 = rnorm(600), s2 = rexp(600))
#' d <- latent_density(x, layers = 2, hidden = c(16, 16), epochs = 20, threads = 1)
#' predict(d, rbind(a = c(0, 1), b = c(0, -3)))
#' predict(d, rbind(a = c(0, 1), b = c(0, -3)), type = "p")
predict.latent_density <- function(object, x, conditions = NULL, type = c("log_p", "terms", "p"), threads = NULL, ...) {
  type <- match.arg(type)
  if (missing(x)) {
    newdata <- list(...)$newdata
    if (is.null(newdata)) abort("invalid", "`x` must be a matrix of latents; it is missing.")
    return(predict(object, newdata, conditions, type, threads))
  }
  check_dots("predict", ...)
  if (is.numeric(x) && is.null(dim(x))) x <- matrix(x, 1)
  x <- density_rows(object, x)
  conditions <- check_conditions(conditions, nrow(x), as.character(object$conditions))
  if (type == "p") check_calibrated(object)
  known <- stats::complete.cases(x, conditions) # infinite values are far, not missing
  warn_missing(x, known, "gives NA", "give NA")
  some <- function(table) if (all(known)) table else table[known, , drop = FALSE]
  out <- flow_log_p(object$flow, some(x), some(conditions), fit_threads(threads), type == "terms")
  if (type == "terms") {
    out <- out[, -1, drop = FALSE]
    colnames(out) <- c("normal", "standardisation", paste0("layer", seq_len(object$flow$layers)))
  } else {
    out <- cbind(if (type == "p") rank_p(out, object$calibration$log_p) else out)
  }
  if (!all(known)) {
    all_rows <- matrix(NA_real_, nrow(x), ncol(out), dimnames = list(NULL, colnames(out)))
    all_rows[known, ] <- out
    out <- all_rows
  }
  rownames(out) <- rownames(x)
  if (type == "terms") out else out[, 1]
}

check_density <- function(density, name = "density") {
  if (!inherits(density, "latent_density")) {
    abort("invalid", "`", name, "` must come from latent_density() or read_density(); it is ", describe(density), ".")
  }
}

check_calibrated <- function(density) {
  if (!length(density$calibration$log_p)) {
    abort("invalid", "This density has no calibrating rows, so that there are no p-values: calibrate_density() gives it some.")
  }
}

# Columns by name if all are there, else by their order
density_rows <- function(density, x) {
  x <- check_rows(x, "x")
  if (all(density$columns %in% colnames(x)) && !anyDuplicated(colnames(x))) return(x[, density$columns, drop = FALSE])
  if (ncol(x) != length(density$columns)) {
    abort("dimension", "`x` has ", count(ncol(x), "column"), ", but the density is that of ", length(density$columns), ".")
  }
  x
}

# Conformal p-values: small for small scores, or for large ones
rank_p <- function(score, reference, large = FALSE) {
  if (large) {
    score <- -score
    reference <- -reference
  }
  reference <- sort(reference)
  (1 + findInterval(score, reference)) / (length(reference) + 1)
}

#' Samples of a density
#'
#' @param object From [latent_density()] or [read_density()].
#' @param nsim Number of rows.
#' @param seed A whole number; `NULL` draws one from the session's random numbers. The first rows of a larger sample are the same.
#' @param conditions Of a density with conditions: a matrix with a row for each sample.
#' @param threads As in [spender()].
#' @param ... Not used.
#' @return A matrix with `nsim` rows and the density's columns. [decode()] makes spectra of latents.
#' @importFrom stats simulate
#' @export
#' @examples
#' x <- cbind(s1 = rnorm(600), s2 = rexp(600))
#' d <- latent_density(x, layers = 2, hidden = c(16, 16), epochs = 20, threads = 1)
#' simulate(d, 5, seed = 1)
simulate.latent_density <- function(object, nsim = 1, seed = NULL, conditions = NULL, threads = NULL, ...) {
  check_dots("simulate", ...)
  check_number(nsim, "nsim", 0, 1e8, whole = TRUE)
  if (is.null(seed)) seed <- sample.int(.Machine$integer.max, 1)
  check_number(seed, "seed", 0, 2^53, whole = TRUE)
  conditions <- check_conditions(conditions, nsim, as.character(object$conditions))
  if (!all(is.finite(conditions))) abort("invalid", "`conditions` must be finite.")
  out <- .Call(ffi_flow_sample, object$flow, conditions, as.double(nsim), as.double(seed), fit_threads(threads))
  colnames(out) <- object$columns
  out
}

#' @export
print.latent_density <- function(x, ...) {
  flow <- x$flow
  cat("<latent density> of ", count(flow$features, "column"), ": ", enumerate(x$columns), "\n", sep = "")
  if (length(x$conditions)) fact("given", enumerate(x$conditions))
  fact("flow", c(spline = "rational-quadratic splines", maf = "masked autoregressive, affine")[[flow$type]], ", ",
       count(flow$layers, "layer"), if (flow$type == "spline") paste0(", ", flow$bins, " bins"), ", hidden ",
       paste(rep(flow$hidden, flow$depth), collapse = ", "), "; ", format(length(flow$weights) / 4, big.mark = ","), " parameters")
  if (any(flow$tail > 0)) fact("heavy tails", enumerate(c(x$conditions, x$columns)[flow$tail > 0]), " (asinh)")
  if (length(x$parts)) fact("rows", paste(names(x$parts), x$parts, collapse = ", "))
  if (NROW(x$history)) {
    fact("mean log p", "train ", format(-x$history$train_loss[x$kept], digits = 4), ", stop ",
         format(-x$history$stop_loss[x$kept], digits = 4), " (epoch ", x$kept, " of ", nrow(x$history), ")")
  }
  m <- length(x$calibration$log_p)
  if (m) {
    fact("calibration", "mean log p ", format(mean(x$calibration$log_p), digits = 4),
         if (is.finite(nullable(x$training$normal))) paste0("; a normal density's ", format(x$training$normal, digits = 4)),
         "; smallest p-value ", format(1 / (m + 1), digits = 2))
  } else {
    fact("calibration", "none: no p-values (see calibrate_density())")
  }
  invisible(x)
}

nullable <- function(x) if (is.null(x)) NA_real_ else x

#' Summary of a density
#'
#' @param object From [latent_density()] or [read_density()].
#' @param ... Not used.
#' @return A list of class `summary.latent_density`: `density`, `log_p` (mean log p of the parts, `normal` that of the calibrating part in
#'   a multivariate normal density), `standardisation` (a data frame of `centre`, `scale` and `tail` of each column) and `seconds`.
#' @export
#' @examples
#' x <- cbind(s1 = rnorm(600), s2 = rexp(600))
#' summary(latent_density(x, layers = 2, hidden = c(16, 16), epochs = 20, threads = 1))
summary.latent_density <- function(object, ...) {
  check_dots("summary", ...)
  h <- object$history
  flow <- object$flow
  kept <- function(column) if (NROW(h)) -h[[column]][object$kept] else NA_real_
  structure(list(
    density = object,
    log_p = c(train = kept("train_loss"), stop = kept("stop_loss"),
              calibrate = if (length(object$calibration$log_p)) mean(object$calibration$log_p) else NA_real_,
              normal = nullable(object$training$normal)),
    standardisation = data.frame(column = c(object$conditions, object$columns), centre = flow$centre, scale = flow$scale, tail = flow$tail),
    seconds = if (NROW(h)) h$seconds[nrow(h)] else NA_real_
  ), class = "summary.latent_density")
}

#' @export
print.summary.latent_density <- function(x, ...) {
  print(x$density)
  if (is.finite(x$seconds)) fact("time", format(round(x$seconds, 1)), " s")
  cat("\n")
  print(x$standardisation, row.names = FALSE, digits = 4)
  invisible(x)
}

#' Calibrate a density
#'
#' Replaces the rows whose log p p-values are ranks among: for a density that [read_density()] read from a published file, or for a sample
#' of another selection than the one it was fitted to.
#'
#' @param density From [latent_density()] or [read_density()].
#' @param x Latents that the density was not fitted to, or [spectra()] or a survey, which `fit` encodes.
#' @param fit,conditions,chi2,threads,... As in [latent_density()].
#' @return The density, calibrated.
#' @section Errors: Those of [predict.latent_density()]; `spender_error_identity` for latents of another fit.
#' @export
#' @examples
#' d <- latent_density(cbind(s1 = rnorm(600), s2 = rexp(600)), layers = 2, epochs = 20, threads = 1)
#' d <- calibrate_density(d, cbind(s1 = rnorm(300), s2 = rexp(300)))
#' predict(d, c(0, 1), type = "p")
calibrate_density <- function(density, x, fit = NULL, conditions = NULL, chi2 = NULL, threads = NULL, ...) {
  check_density(density)
  threads <- fit_threads(threads)
  if (!is.null(fit)) check_identity(density, fit, warn = FALSE)
  source <- density_source(x, fit, chi2, threads, ...)
  x <- density_rows(density, source$latents)
  conditions <- check_conditions(conditions, nrow(x), as.character(density$conditions))
  known <- rowSums(!is.finite(cbind(x, conditions))) == 0
  warn_missing(x, known, "is left out", "are left out")
  if (!any(known)) abort("invalid", "`x` has no row without missing values to calibrate with.")
  density$calibration <- new_calibration(density$flow, x, conditions, source$chi2, which(known), threads)
  density$parts[["calibrate"]] <- sum(known)
  if (!is.null(fit)) density$identity <- fit_identity(fit)
  if (length(source$encoding)) density$encoding <- source$encoding
  density
}
