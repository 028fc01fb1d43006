#' Density of latents
#'
#' Fits a normalizing flow to latents, or to the rows of any numeric matrix: how probable a spectrum like this one is in the sample
#' (Liang et al. 2023, AJ 166, 75). [outliers()] ranks spectra by it.
#'
#' @param x Latents, such as [encode()] returns, or any numeric matrix, one object in each row; or [spectra()] or a survey, which `fit`
#'   encodes. Rows with missing values are left out, with a warning that names them.
#' @param fit The fit from [spender()] whose latents these are. The density remembers it, so that [outliers()] can refuse those of another
#'   one. Spectra need it.
#' @param type The flow's functions: `"spline"`, rational-quadratic splines (Durkan et al. 2019, arXiv:1906.04032), or `"maf"`, affine
#'   ones: the masked autoregressive flow (Papamakarios et al. 2017, arXiv:1705.07057) of the published SPENDER flows, which
#'   [read_density()] reads.
#' @param conditions `NULL`, or a numeric matrix, data frame or vector with a row for each of `x`, such as redshift and signal-to-noise
#'   ratio: the density is then that of the latents given these.
#' @param chi2 `NULL`, or the reduced \eqn{\chi^2} of each row's spectrum (`predict(fit, x, "chi2")`): the reference by which [outliers()]
#'   knows badly reconstructed spectra. Computed where `x` is spectra.
#' @param layers,hidden,bins Size of the flow: number of layers; units in each hidden layer of their networks, one number for each
#'   hidden layer, all the same; bins of a spline. By default 3 layers with 64 and 64 units and 8 bins; for `"maf"` the published 5 layers
#'   with 50, 50 and 50 units.
#' @param epochs Passes over the training part; by default enough for 3000 steps, 20 at least, 300 at most. Fewer are made if the
#'   log-likelihood of the stopping part does not improve any more for a third of them.
#' @param batch_size,learning_rate Rows in a step, and the highest learning rate of the 1Cycle schedule.
#' @param parts Fractions of the rows that train, decide which epoch is kept, and calibrate.
#' @param seed A whole number: of the initial weights, the parts and the order of the rows. The session's random numbers are not touched.
#' @param threads As in [spender()]. A flow is computed on the CPU.
#' @param progress Show progress? `NULL`: in interactive sessions.
#' @param ... For spectra: `refine`, `robust` and `prior` of [encode()], which [outliers()] then uses, too.
#'
#' @details
#' **Model.** With the standardised row \eqn{u_0}, layers \eqn{f_l} that are increasing in each feature, and \eqn{u_L} after the last,
#' \deqn{\log p(x) = \log N(u_L; 0, I) + \sum_{l,i} \log \frac{\partial f_{l,i}}{\partial u_{l-1,i}} +
#'   \sum_i \log \frac{\partial u_{0,i}}{\partial x_i}.}
#' The parameters of feature \eqn{i}'s function are computed from features \eqn{1 ... i - 1} and the conditions by a masked network (MADE;
#' Germain et al. 2015, arXiv:1502.03509) with tanh units; features change their order between layers. Splines act within 4 standard
#' deviations and leave the rest as it is.
#'
#' **Standardisation.** Columns are centred and scaled, recorded with the flow. For splines, a column whose tails are so heavy that it
#' gains 0.01 nats a row is taken through \eqn{\delta\,\mathrm{asinh}((x - \xi) / \lambda)} first (Johnson 1949, Biometrika 36, 149).
#'
#' **Three parts.** Each row trains, stops, or calibrates, by a hash of its name (its number without row names). The epoch with the
#' highest log-likelihood of the stopping part is kept; the calibrating part is used for neither, so that its log p is distributed as that
#' of new objects, and ranks among it are valid p-values whatever the flow (split-conformal prediction). If `fit` held out spectra for
#' validation, these are the ones that stop and calibrate, half of them each: latents of spectra that the network trained on are not
#' distributed quite as those of others.
#'
#' The same bits for any number of threads, on processors with the same instruction set.
#'
#' @return An object of class `latent_density`, safe for `saveRDS()`, with methods
#'   [predict()][predict.latent_density()], [simulate()][simulate.latent_density()], [plot()][plot.latent_density()], `print()` and
#'   [summary()][summary.latent_density()].
#' @section Errors: `spender_error_invalid` for a constant column, fewer rows than columns, or too few of them, and for an argument that is
#'   wrong; `spender_error_diverged` where the likelihood is no longer finite.
#' @seealso [outliers()], [write_density()]
#' @export
#' @examples
#' ring <- matrix(rnorm(1000), ncol = 2)
#' ring <- ring / sqrt(rowSums(ring^2)) + 0.1 * matrix(rnorm(1000), ncol = 2)
#' d <- latent_density(ring, layers = 2, hidden = c(16, 16), epochs = 30, threads = 1)
#' d
#' predict(d, rbind(c(1, 0), c(0, 0), c(5, 5)))
latent_density <- function(x, fit = NULL, type = c("spline", "maf"), conditions = NULL, chi2 = NULL, layers = NULL, hidden = NULL, bins = 8,
                           epochs = NULL, batch_size = NULL, learning_rate = NULL, parts = c(0.7, 0.15, 0.15), seed = 1, threads = NULL,
                           progress = NULL, ...) {
  call <- match.call()
  type <- match.arg(type)
  if (is.null(layers)) layers <- if (type == "maf") 5 else 3
  if (is.null(hidden)) hidden <- if (type == "maf") c(50, 50, 50) else c(64, 64)
  threads <- fit_threads(threads)
  check_flow_options(layers, hidden, bins, epochs, batch_size, learning_rate, parts, seed, progress)
  source <- density_source(x, fit, chi2, threads, ...)
  x <- check_rows(source$latents, "x")
  conditions <- check_conditions(conditions, nrow(x))
  known <- rowSums(!is.finite(cbind(x, conditions))) == 0
  warn_missing(x, known, "is left out", "are left out")
  check_enough(x, conditions, known)

  part <- split_parts(source$objects, known, parts, seed, fit)
  flow <- new_flow(type, x, conditions, part == "train", layers, hidden, bins, seed)
  run <- fit_flow(flow, x, conditions, part, epochs, batch_size, learning_rate, seed, threads, progress)
  flow$weights <- run$weights
  structure(list(
    flow = flow, columns = colnames(x), conditions = colnames(conditions), history = run$history, kept = run$kept,
    training = list(type = type, epochs = run$epochs, batch_size = run$batch_size, learning_rate = run$learning_rate, seed = seed,
                    normal = normal_log_p(x, conditions, part)),
    parts = c(table(factor(part, c("train", "stop", "calibrate")))),
    calibration = new_calibration(flow, x, conditions, source$chi2, which(part == "calibrate"), threads),
    identity = if (!is.null(fit)) fit_identity(fit), encoding = source$encoding, call = call
  ), class = "latent_density")
}

# What p-values are ranks among, and some rows for plots
new_calibration <- function(flow, x, conditions, chi2, rows, threads, most = 2000) {
  part <- function(table, rows) unname(table[rows, , drop = FALSE])
  shown <- rows[seq_len(min(most, length(rows)))]
  list(log_p = flow_log_p(flow, part(x, rows), part(conditions, rows), threads), chi2 = if (!is.null(chi2)) unname(chi2[rows]),
       latents = part(x, shown), conditions = part(conditions, shown))
}

# Mean log p of the calibrating rows in a multivariate normal density of the training rows, to compare with; NA with conditions
normal_log_p <- function(x, conditions, part) {
  train <- x[which(part == "train"), , drop = FALSE]
  if (ncol(conditions) || nrow(train) <= ncol(x)) return(NA_real_)
  root <- tryCatch(chol(stats::cov(train)), error = function(e) NULL)
  if (is.null(root)) return(NA_real_)
  u <- backsolve(root, t(x[which(part == "calibrate"), , drop = FALSE]) - colMeans(train), transpose = TRUE)
  mean(-0.5 * colSums(u^2)) - sum(log(diag(root))) - 0.5 * ncol(x) * log(2 * pi)
}

# ---- arguments ----

check_flow_options <- function(layers, hidden, bins, epochs, batch_size, learning_rate, parts, seed, progress) {
  check_number(layers, "layers", 1, 64, whole = TRUE)
  check_counts(hidden, "hidden")
  if (length(hidden) > 4 || any(hidden > 1024) || length(unique(hidden)) != 1) {
    abort("invalid", "`hidden` must be one to four equal numbers, up to 1024, such as c(64, 64).")
  }
  check_number(bins, "bins", 2, 32, whole = TRUE)
  if (!is.null(epochs)) check_number(epochs, "epochs", 1, 1e6, whole = TRUE)
  if (!is.null(batch_size)) check_number(batch_size, "batch_size", 1, 1e6, whole = TRUE)
  if (!is.null(learning_rate)) check_number(learning_rate, "learning_rate", 0, 10)
  if (!is.numeric(parts) || length(parts) != 3 || anyNA(parts) || any(parts <= 0) || abs(sum(parts) - 1) > 1e-6) {
    abort("invalid", "`parts` must be three fractions above 0 that add up to 1: those that train, stop and calibrate.")
  }
  check_number(seed, "seed", 0, 2^53 - 10, whole = TRUE)
  if (!is.null(progress)) check_flag(progress, "progress")
}

# Latents of spectra, or those given: list(latents, objects, chi2, encoding). objects: texts, equal for rows of the same object
density_source <- function(x, fit, chi2, threads, ...) {
  if (!is.null(fit)) check_fit(fit)
  if (!inherits(x, "spectra") && !inherits(x, "survey")) {
    if (...length()) check_dots("latent_density", ...)
    if (!is.null(chi2)) check_reference(chi2, NROW(x))
    objects <- if (is.null(rownames(x))) as.character(seq_len(NROW(x))) else rownames(x)
    if (!is.null(fit) && NCOL(x) != fit$architecture$n_latent) {
      abort("invalid", "`x` has ", count(NCOL(x), "column"), ", but the latents of `fit` are ", fit$architecture$n_latent, ".")
    }
    return(list(latents = x, objects = objects, chi2 = chi2, encoding = list()))
  }
  if (is.null(fit)) abort("invalid", "`x` is spectra: give the `fit` whose latents are wanted, or latents from encode().")
  if (!is.null(chi2)) abort("invalid", "`chi2` is computed where `x` is spectra; leave it out.")
  encoding <- list(...)
  check_dots("latent_density", ..., known = c("refine", "robust", "prior"))
  both <- latents_and_chi2(fit, x, threads, encoding)
  list(latents = both$latent, objects = objects_of(x, seq_along(x$z)), chi2 = both$chi2, encoding = encoding)
}

# From one pass through the fit
latents_and_chi2 <- function(fit, x, threads, encoding) {
  both <- do.call(predict, c(list(fit, x, c("latent", "chi2"), threads = threads), encoding))
  colnames(both$latent) <- latent_names(fit)
  both
}

check_reference <- function(chi2, n) {
  if (!is.numeric(chi2) || length(chi2) != n) {
    abort("invalid", "`chi2` must have a number for each of the ", n, " rows of `x`; it is ", describe_shape(chi2), ".")
  }
}

# A matrix of doubles with column names
check_rows <- function(x, name) {
  if (is.data.frame(x) && all(vapply(x, is.numeric, NA))) x <- as.matrix(x)
  if (!is.numeric(x) || !is.matrix(x) || ncol(x) < 1 || ncol(x) > 512) {
    abort("invalid", "`", name, "` must be a numeric matrix with a row for each object and 1 to 512 columns; it is ",
          describe_shape(x), ".")
  }
  storage.mode(x) <- "double"
  if (is.null(colnames(x))) colnames(x) <- paste0("s", seq_len(ncol(x)))
  x
}

# A matrix of n rows; without columns for NULL
check_conditions <- function(conditions, n, wanted = NULL) {
  if (is.null(conditions)) {
    if (length(wanted)) abort("invalid", "The density is that of latents at given ", code_list(wanted), ": give `conditions`.")
    return(matrix(0, n, 0))
  }
  if (!is.null(wanted) && !length(wanted)) abort("invalid", "The density has no conditions, but `conditions` are given.")
  if (is.null(dim(conditions))) conditions <- matrix(conditions, ncol = 1)
  names <- colnames(conditions)
  conditions <- check_rows(conditions, "conditions")
  if (nrow(conditions) != n) abort("dimension", "`x` has ", count(n, "row"), ", but `conditions` has ", nrow(conditions), ".")
  columns <- seq_len(ncol(conditions))
  if (is.null(names)) colnames(conditions) <- if (is.null(wanted)) paste0("c", columns) else wanted[columns]
  if (!is.null(wanted) && !identical(colnames(conditions), wanted)) {
    if (!all(wanted %in% colnames(conditions))) {
      abort("invalid", "`conditions` must have the columns ", code_list(wanted), "; it has ", code_list(colnames(conditions)), ".")
    }
    conditions <- conditions[, wanted, drop = FALSE]
  }
  conditions
}

# Which rows have missing or infinite values, by name
warn_missing <- function(x, known, one, many) {
  rows <- which(!known)
  if (!length(rows)) return(invisible())
  names <- if (is.null(rownames(x))) rows else rownames(x)[rows]
  warn("missing", length(rows), ngettext(length(rows), paste(" row of `x` has missing values and", one),
                                         paste(" rows of `x` have missing values and", many)), ": ", enumerate(names), ".")
}

check_enough <- function(x, conditions, known) {
  n <- sum(known)
  width <- ncol(x) + ncol(conditions)
  if (n <= width) {
    abort("invalid", "`x` has ", count(n, "row"), " without missing values, but ", count(width, "column"),
          if (ncol(conditions)) " with its conditions", ": a density needs more rows than columns, and thousands to be a good one.")
  }
  for (table in list(x, conditions)) {
    for (j in seq_len(ncol(table))) {
      spread <- range(table[known, j])
      if (diff(spread) <= 1e-12 * max(abs(spread))) {
        abort("invalid", "Column `", colnames(table)[j], "` is constant (", format(spread[1]), "): it has no density; leave it out.")
      }
    }
  }
}

# For each row "train", "stop", "calibrate", or NA if it is not known
split_parts <- function(objects, known, parts, seed, fit) {
  t <- fit$training
  training <- if (is.null(t$validation) || is.null(t$split_seed) || t$validation == 0) split_by_id(objects, 1 - parts[1], seed)
              else split_by_id(objects, t$validation, t$split_seed)
  stopping <- .Call(ffi_split, objects, parts[3] / (parts[2] + parts[3]), as.double(seed + 7)) # another hash
  part <- ifelse(training, "train", ifelse(stopping, "stop", "calibrate"))
  part[!known] <- NA
  few <- setdiff(c("train", "stop", "calibrate"), part)
  if (length(few)) {
    abort("invalid", "`x` has too few rows: ", count(sum(known), "row"), ", of which none is left to ", few[1], ".")
  }
  part
}

# ---- the flow ----

new_flow <- function(type, x, conditions, rows, layers, hidden, bins, seed) {
  columns <- cbind(conditions, x)[rows, , drop = FALSE]
  standard <- apply(columns, 2, standard_of, tails = type == "spline")
  flow <- list(type = type, features = ncol(x), conditions = ncol(conditions), layers = layers, hidden = hidden[1], depth = length(hidden),
               bins = if (type == "spline") bins else 0, bound = 4, centre = unname(standard[1, ]), scale = unname(standard[2, ]),
               tail = unname(standard[3, ]))
  c(flow, .Call(ffi_flow_start, flow, seed))
}

# centre, scale and tail of a column (src/density/flow.h). Johnson's transform by maximum likelihood if it gains enough over a normal
# density, on some thousand values.
standard_of <- function(x, tails, most = 20000, gain = 0.01) {
  plain <- c(mean(x), stats::sd(x), 0)
  if (!is.finite(plain[2]) || plain[2] == 0) return(c(x[1], 1, 0)) # a single row trains
  if (!tails) return(plain)
  y <- if (length(x) > most) x[round(seq(1, length(x), length.out = most))] else x
  centre <- stats::median(y)
  y <- y - centre
  unit <- stats::quantile(abs(y), 0.68, names = FALSE)
  if (unit <= 0) return(plain)
  # mean of -log p up to a constant
  cost <- function(log_scale) {
    t <- y / exp(log_scale)
    log_scale + log(stats::sd(asinh(t))) + 0.5 * mean(log1p(t^2))
  }
  best <- stats::optimize(cost, log(unit) + c(-4, 4))
  if (best$objective > log(stats::sd(y)) - gain) return(plain)
  scale <- exp(best$minimum)
  c(centre, scale, 1 / stats::sd(asinh(y / scale)))
}

flow_log_p <- function(flow, x, conditions, threads, terms = FALSE) {
  out <- .Call(ffi_flow_density, flow, x, conditions, terms, threads)
  if (terms) out else out[, 1]
}

# Trains on the part "train" and returns list(weights, history, kept, epochs, batch_size, learning_rate): the weights of the epoch
# that is best for the part "stop".
fit_flow <- function(flow, x, conditions, part, epochs, batch_size, learning_rate, seed, threads, progress) {
  rows <- which(part == "train")
  if (is.null(batch_size)) batch_size <- min(512, max(64, 2^floor(log2(length(rows) / 20))))
  if (is.null(learning_rate)) learning_rate <- 5e-3
  steps <- ceiling(length(rows) / batch_size)
  if (is.null(epochs)) epochs <- min(300, max(20, ceiling(3000 / steps)))
  stopping <- which(part == "stop")
  x_stop <- x[stopping, , drop = FALSE]
  conditions_stop <- conditions[stopping, , drop = FALSE]
  options <- list(batch_size = batch_size, rate = learning_rate, total_steps = epochs * steps, seed = seed, threads = threads)
  session <- .Call(ffi_flow_open, flow, x, conditions, as.double(rows), options)
  on.exit(.Call(ffi_flow_close, session))
  run <- list2env(list(weights = flow$weights, history = empty_flow_history(), kept = 0, epochs = epochs, batch_size = batch_size,
                       learning_rate = learning_rate, lowest = Inf, started = proc.time()[["elapsed"]]), parent = emptyenv())
  tick <- progress_bar("Fitting a flow ", epochs, shows_progress(progress))
  outcome <- tryCatch({
    while (nrow(run$history) < epochs && nrow(run$history) - run$kept < max(20, ceiling(epochs / 3))) {
      # Interrupts are handled between two iterations, never between an epoch's last step and its line in the history.
      suspendInterrupts({
        state <- .Call(ffi_flow_advance, session, 0.2)
        if (state$epoch_finished) end_flow_epoch(run, session, flow, state, x_stop, conditions_stop, threads)
      })
      tick(nrow(run$history))
    }
  }, interrupt = function(e) e)
  if (inherits(outcome, "interrupt")) {
    warn("interrupted", "The fit was interrupted; the density is that of ",
         if (run$kept > 0) paste("epoch", run$kept) else "the initial weights", ".")
  }
  as.list(run)
}

empty_flow_history <- function() {
  data.frame(epoch = numeric(), train_loss = numeric(), stop_loss = numeric(), learning_rate = numeric(), seconds = numeric())
}

end_flow_epoch <- function(run, session, flow, state, x_stop, conditions_stop, threads) {
  flow$weights <- .Call(ffi_flow_weights, session)
  loss <- -mean(flow_log_p(flow, x_stop, conditions_stop, threads))
  epoch <- nrow(run$history) + 1
  if (!is.finite(state$loss) || is.nan(loss)) {
    abort("diverged", "The likelihood is not finite in epoch ", epoch, " of the flow. Try a lower `learning_rate` than ",
          format(run$learning_rate), ", or look for extreme values.")
  }
  run$history[epoch, ] <- list(epoch, state$loss, loss, state$rate, proc.time()[["elapsed"]] - run$started)
  if (loss < run$lowest) {
    run$weights <- flow$weights
    run$lowest <- loss
    run$kept <- epoch
  }
}
