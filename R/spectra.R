#' Observed spectra
#'
#' `spectra()` takes fluxes, inverse variances and redshifts as matrices and prepares them as
#' the network needs them: it masks, normalises, and remembers how. [read_sdss()] and [read_desi()] do the same from SDSS's and DESI's
#' files.
#'
#' @param flux Flux density \eqn{f_\lambda}{f_lambda} in any unit: a matrix with one row per spectrum and one column per pixel of `wave`, or
#'   a vector: one spectrum. No rows are fine.
#' @param ivar Inverse variance of `flux`, of the same shape. 0 says that a pixel is masked.
#' @param sigma Instead of `ivar`: standard deviations of `flux`. Pixels where it is not finite and positive are masked.
#' @param z Redshifts, one per row; finite and above -1.
#' @param wave The observed grid: an [instrument()], its name, or wavelengths in Å (vacuum).
#' @param id One unique name per row, as text or as whole numbers below 2^53; by default the row names of `flux`, or else `"1"`, `"2"`, ...
#'   Where rows of `ivar` or `meta`, or elements of `z`, have the names of the rows of `flux` in another order, they are brought into
#'   theirs; where only some of the names of `ivar` or `z` are those of `flux`, that is an error, and where none is, a warning.
#' @param meta A data frame of catalogue columns, one row per spectrum.
#' @param normalize `FALSE` if `flux` and `ivar` are normalised already.
#' @param mask_sky Mask pixels within 5 Å of the night-sky lines of [sky_lines()]? Or a vector of line wavelengths (Å, vacuum)
#'   to mask instead.
#' @param window Where the norm is measured: two restframe wavelengths in Å.
#' @param truth `NULL`, or a list of true values, for simulated spectra. Its matrices and data frames have a row per
#'   spectrum, which follow the rows of the object; all else is shared by all spectra.
#' @param resolution The instrument's resolution for each spectrum, which [spender()] then gives the models, so that the restframe spectra
#'   are sharper than any observed one. `NULL` for not known. Resolving powers \eqn{R = \lambda / \mathrm{FWHM}}{R = lambda / FWHM} of
#'   Gaussians: a function of the wavelengths (Å), one number, one for each pixel of `wave`, or a matrix with a row for each spectrum and
#'   one column, or one for each pixel. `Inf` is a pixel that sees no others. (A standard deviation of \eqn{\sigma} pixels that are
#'   \eqn{\Delta} wide is \eqn{R = \lambda / (2.3548\, \sigma \Delta)}{R = lambda / (2.3548 sigma Delta)}.) Or matrices, as DESI has them:
#'   an array of spectra by \eqn{K} diagonals (odd) by pixels; element `[i, k, m]` is what pixel \eqn{m + k - (K + 1) / 2} contributes to
#'   pixel \eqn{m}.
#' @param threads How many threads to use; `NULL`: as many as [devices()] says.
#'
#' @details
#' Pixels are prepared in this order:
#' 1. flux or ivar not finite (`NA`, `NaN`, infinite): both become 0;
#' 2. ivar up to 1e-6: it becomes 0, and the flux stays. So choose a unit in which fluxes are around one, not thousands.
#'    Negative values are an error in the data, and warned about;
#' 3. within 5 Å of a sky line: ivar becomes 0.
#'
#' Then flux is divided by its median over the valid pixels (ivar > 0) in `window`, ivar is multiplied by that number's square,
#' and the number is kept as `norm`, so that `norm * flux` is the input. A spectrum without a valid pixel in the window, or with
#' a median that is not positive, has no norm: it keeps its row, in its own units, with `norm` `NA`; [problems()] lists it, and
#' fits leave it out.
#'
#' Resolutions are used as they are: the rows of matrices need not sum to 1, and a Gaussian's weights are its values at whole pixels, out
#' to 4 standard deviations, divided by their sum. Beyond the ends of the grid there is no light. Where they are smooth along the spectrum
#' they are kept at some of the pixels only, with linear interpolation between them, if no pixel's weights change by more than 1e-4 (the
#' sum of their changes).
#'
#' @return An object of class `spectra`, a list of
#' - `flux`, `ivar`: n × M matrices, normalised, always finite;
#' - `z`, `norm`: n numbers; `norm` is `NA` where there is none;
#' - `instrument`: the grid; `id`: n unique strings; `object`: the ids that rows of one object share (`c(x, x)`), of which training and
#'   validation never get some each; `meta`: a data frame of n rows;
#' - `problems`: see [problems()]; `truth`: the argument; `resolution`, if there is one: a list of `values`, a row for each spectrum, and
#'   how they are to be read: `size` is the number of diagonals, `step` the number of pixels between two that are kept (the last one is,
#'   too), and with `gaussian` they are standard deviations in pixels, otherwise the diagonals of one pixel after the other.
#'
#' `x[i]` takes spectra by number, logical vector or id (a spectrum taken twice gets a new id), `c(x, y)` or `rbind(x, y)` joins spectra on
#' one grid, `length(x)` counts them, `as.data.frame(x)` is their catalogue, and `plot(x)` draws them.
#' @section Errors:
#' `spender_error_dimension` when two arguments do not fit together, `spender_error_redshift` for a redshift that is missing, not
#' finite or at most -1, `spender_error_id` for ids that are missing or not unique, `spender_error_invalid` for an argument of
#' the wrong type. Warnings: `spender_warning_ivar`, negative inverse variances were set to 0; `spender_warning_names`, names of rows
#' that are others than those of `flux`; `spender_warning_unit`, no spectrum has a
#' valid pixel or norm, probably because of a unit.
#' @examples
#' grid <- instrument(seq(4000, 8000, by = 2), name = "toy")
#' flux <- rbind(1 + sin(grid$wave / 300)^2, rep(3, length(grid$wave)))
#' ivar <- matrix(100, 2, length(grid$wave))
#' x <- spectra(flux, ivar, z = c(0.1, 0.2), wave = grid, id = c("first", "second"))
#' x
#' x["second"]
#' x$norm
#' as.data.frame(x)
#' @seealso [read_sdss()], [read_desi()], [select_galaxies()], [join_catalogue()]
#' @export
spectra <- function(flux, ivar, z, wave, id = NULL, meta = NULL, normalize = TRUE, mask_sky = TRUE,
                    window = c(5300, 5850), truth = NULL, threads = NULL, sigma = NULL, resolution = NULL) {
  instrument <- instrument(wave)
  flux <- check_pixels(flux, "flux", instrument)
  if (missing(ivar) == is.null(sigma)) abort("invalid", "Give either `ivar` or `sigma`, the standard deviations that it is made of.")
  if (missing(ivar)) ivar <- ivar_of(check_pixels(sigma, "sigma", instrument))
  ivar <- check_pixels(ivar, "ivar", instrument)
  n <- nrow(flux)
  if (nrow(ivar) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `ivar` has ", nrow(ivar), ".")
  names <- if (is.null(rownames(flux)) && is.character(id)) id else rownames(flux)
  rows_of <- if (is.null(rownames(flux))) "`id`" else "`flux`'s rows"
  order <- order_by_name(rownames(ivar), names, "`ivar`'s rows", rows_of)
  if (!is.null(order)) ivar <- ivar[order, , drop = FALSE]
  order <- order_by_name(names(z), names, "`z`", rows_of)
  z <- check_redshift(if (is.null(order)) z else z[order], n)
  id <- check_id(id, rownames(flux), n)
  meta <- check_meta(meta, n, names)
  check_truth(truth, n)
  resolution <- as_resolution(resolution, n, instrument, names)

  recipe <- preparation(instrument, mask_sky, window, normalize, threads)
  prepared <- .Call(ffi_prepare_spectra, flux, ivar, z, recipe)
  negative <- which(prepared$negative > 0)
  if (length(negative)) {
    warn("ivar", "`ivar` was negative and is set to 0 in row", if (length(negative) > 1) "s", " ", enumerate(negative), ".")
  }
  check_units(ivar, prepared$found, instrument, window)
  new_spectra(prepared$flux, prepared$ivar, z, prepared$norm, instrument, id, meta,
              norm_problems(prepared$found, id, NA_character_, window), truth, resolution = resolution)
}

# A pixel whose standard deviation is not known is masked.
ivar_of <- function(sigma) {
  ivar <- 1 / sigma^2
  ivar[!is.finite(ivar) | sigma <= 0] <- 0
  ivar
}

# If no spectrum has a norm, a unit may be the reason.
check_units <- function(ivar, found, instrument, window) {
  if (!length(found) || !all(found > 0)) return(invisible())
  positive <- ivar[is.finite(ivar) & ivar > 0]
  if (length(positive) && max(positive) <= 1e-6) {
    warn("unit", "No pixel of any spectrum is valid: all inverse variances are 1e-6 or less, which counts as masked. ",
         "This looks like a unit: fluxes should be around one, so divide `flux` by ", sprintf("%.0e", 1 / sqrt(stats::median(positive))),
         " or so, and multiply `ivar` by its square.")
  } else if (max(window) < 1500 && max(instrument$wave) >= 1500) {
    warn("unit", "No spectrum has valid pixels in the window of the norm. `window`, ", sprintf("%.4g", window[1]), " to ",
         sprintf("%.4g", window[2]),
         ", looks like nanometres; it is expected in ", angstrom(), ", in the restframe.")
  } else if (max(instrument$wave) < 1500) {
    warn("unit", "No spectrum has valid pixels in the window of the norm. The grid's wavelengths, ", sprintf("%.4g", min(instrument$wave)),
         " to ",
         sprintf("%.4g", max(instrument$wave)), ", look like ", if (max(instrument$wave) < 30) "micrometres" else "nanometres",
         "; they are expected in ", angstrom(), ", in vacuum.")
  }
}

# object: ids of objects, if several rows are of one object
new_spectra <- function(flux, ivar, z, norm, instrument, id, meta, problems, truth = NULL, object = id, resolution = NULL) {
  norm[is.na(norm)] <- NA
  if (!is.null(dimnames(flux))) dimnames(flux) <- NULL
  if (!is.null(dimnames(ivar))) dimnames(ivar) <- NULL
  x <- list(flux = flux, ivar = ivar, z = z, norm = norm, instrument = instrument, id = id, object = object, meta = meta,
            problems = problems, truth = NULL)
  x["truth"] <- list(truth)
  if (!is.null(resolution)) x$resolution <- resolution
  structure(x, class = "spectra")
}

# The recipe for ffi_prepare_spectra(), ffi_read_sdss() and, with other sky lines, ffi_read_desi()
preparation <- function(instrument, mask_sky, window, normalize, threads) {
  if (!is.numeric(mask_sky)) {
    check_flag(mask_sky, "mask_sky")
    mask_sky <- if (mask_sky) sky_lines()$wave else double()
  }
  check_flag(normalize, "normalize")
  if (!is.numeric(window) || length(window) != 2 || !all(is.finite(window)) || window[1] >= window[2]) {
    abort("invalid", "`window` must be two increasing wavelengths, not ",
          if (is.numeric(window)) enumerate(window) else describe(window), ".")
  }
  list(wave = instrument$wave, sky = as.double(mask_sky[is.finite(mask_sky)]), half_width = 5, window = as.double(window),
       normalize = normalize, threads = fit_threads(threads))
}

# found: the values of spd_norm in data/prepare.h
norm_problems <- function(found, id, file, window) {
  row <- which(found > 0)
  between <- sprintf("%g-%g %s restframe", window[1], window[2], angstrom())
  reasons <- c("no norm: no pixel is valid",
               paste0("no norm: no valid pixel in the window ", between),
               paste0("no norm: the median flux in the window ", between, " is not positive"))
  data.frame(id = id[row], file = rep_len(file, length(id))[row], row = row, reason = reasons[found[row]])
}

#' Problems of spectra
#'
#' Spectra without a norm, files that could not be read, ids that were already taken.
#'
#' @param x [spectra()].
#' @param ... For methods.
#' @return A data frame with columns `id` (`NA` if not known), `file` (`NA` for spectra that came from matrices), `row` (where the
#'   spectrum is in `x`; `NA` if it is not in it) and `reason`. No rows: no problems.
#' @examples
#' grid <- instrument(seq(4000, 8000, by = 2))
#' x <- spectra(matrix(1, 2, 2001), rbind(rep(4, 2001), 0), z = c(0.1, 0.1), wave = grid)
#' problems(x)
#' @export
problems <- function(x, ...) UseMethod("problems")

#' @export
problems.spectra <- function(x, ...) {
  check_dots("problems", ...)
  x$problems
}

# ---- rows ----

#' @export
length.spectra <- function(x) length(x$z)

#' @export
dim.spectra <- function(x) dim(x$flux)

#' @export
`[.spectra` <- function(x, i, j, ..., drop) {
  if (!missing(j)) abort("invalid", "Spectra have rows to choose, x[i], but their pixels stay together.")
  if (missing(i)) return(x)
  take_rows(x, find_rows(x, i))
}

#' @export
`$<-.spectra` <- function(x, name, value) {
  if (identical(name, "meta")) {
    n <- length(x$z)
    if (is.null(value)) value <- data.frame(row.names = seq_len(n))
    if (!is.data.frame(value) || nrow(value) != n) {
      abort("invalid", "`x$meta` must be a data frame with a row for each of the ", count(n, "spectrum", "spectra"), "; it is ",
            describe_shape(value), ".")
    }
  }
  y <- unclass(x)
  y[[name]] <- value
  structure(y, class = class(x))
}

#' @export
as.list.spectra <- function(x, ...) setNames(lapply(seq_along(x$z), function(i) x[i]), x$id)

# The condition is evaluated in as.data.frame(x).
#' @export
subset.spectra <- function(x, subset, ...) {
  check_dots("subset", ...)
  if (missing(subset)) return(x)
  keep <- eval(substitute(subset), as.data.frame(x), parent.frame())
  if (!is.logical(keep)) abort("invalid", "`subset` must be a condition, TRUE or FALSE for each spectrum, not ", describe(keep), ".")
  x[which(rep_len(keep, length(x)))]
}

find_rows <- function(x, i) {
  n <- length(x)
  if (is.character(i)) {
    row <- match(i, x$id)
    if (anyNA(row)) abort("id", "No spectrum has the id ", enumerate(paste0('"', unique(i[is.na(row)]), '"')), ".")
    return(row)
  }
  if (!is.numeric(i) && !is.logical(i)) {
    abort("invalid", "Spectra are chosen by number, logical vector or id, not by ", describe(i), ".")
  }
  if (is.logical(i) && length(i) != n) {
    abort("dimension", "A logical index needs one value per spectrum (", n, "); this one has length ", length(i), ".")
  }
  if (is.logical(i) && anyNA(i)) {
    abort("invalid", "The index is NA for ", count(sum(is.na(i)), "spectrum", "spectra"), " (", enumerate(which(is.na(i))),
          "), of which it is not known whether to take them: which() leaves them out, as in x[which(condition)].")
  }
  row <- seq_len(n)[i]
  if (anyNA(row)) abort("invalid", "The index is missing or beyond the ", count(n, "spectrum", "spectra"), " there are.")
  row
}

take_rows <- function(x, row) {
  check_whole(x)
  meta <- structure(lapply(x$meta, take_from, row), row.names = .set_row_names(length(row)), class = "data.frame")
  id <- x$id[row]
  if (anyDuplicated(id)) id <- make.unique(id)
  unread <- x$problems[is.na(x$problems$row), ]
  known <- x$problems[!is.na(x$problems$row), ]
  where <- unlist(lapply(known$row, function(r) which(row == r)))
  moved <- known[rep(seq_len(nrow(known)), vapply(known$row, function(r) sum(row == r), 1L)), ]
  moved$row <- as.integer(where)
  moved$id <- id[moved$row]
  problems <- rbind(moved, unread)
  row.names(problems) <- NULL
  new_spectra(x$flux[row, , drop = FALSE], x$ivar[row, , drop = FALSE], x$z[row], x$norm[row], x$instrument, id, meta,
              problems, take_truth(x$truth, row), object_of(x)[row], take_resolution(x$resolution, row))
}

has_rows <- function(element) length(dim(element)) == 2

take_truth <- function(truth, row) {
  if (is.null(truth)) return(NULL)
  rows <- vapply(truth, has_rows, NA)
  truth[rows] <- lapply(truth[rows], function(e) {
    e <- e[row, , drop = FALSE]
    rownames(e) <- NULL
    e
  })
  truth
}

#' @export
c.spectra <- function(...) {
  parts <- list(...)
  names(parts) <- NULL
  foreign <- which(!vapply(parts, inherits, NA, "spectra"))
  if (length(foreign)) {
    abort("invalid", "Only spectra can be joined to spectra; argument ", foreign[1], " is ", describe(parts[[foreign[1]]]), ".")
  }
  first <- parts[[1]]
  for (i in seq_along(parts)) {
    if (!identical(parts[[i]]$instrument$wave, first$instrument$wave)) {
      abort("grid", "Spectra on different grids cannot be joined: argument 1 is on ", format(first$instrument), ", argument ", i,
            " on ", format(parts[[i]]$instrument), ".")
    }
  }
  if (length(parts) == 1) return(first)
  field <- function(name) lapply(parts, function(part) part[[name]])
  sizes <- lengths(field("z"))
  id <- make.unique(unlist(field("id")))
  lapply(parts, check_whole)
  problems <- do.call(rbind, Map(function(p, offset) {
    p$row <- p$row + offset
    p
  }, field("problems"), as.integer(cumsum(c(0, sizes[-length(sizes)])))))
  known <- !is.na(problems$row)
  problems$id[known] <- id[problems$row[known]]
  new_spectra(do.call(rbind, field("flux")), do.call(rbind, field("ivar")), unlist(field("z")), unlist(field("norm")),
              first$instrument, id, bind_columns(field("meta"), sizes), problems, bind_truth(field("truth")),
              unlist(lapply(parts, object_of)), bind_resolution(field("resolution"), length(first$instrument$wave)))
}

#' @export
rbind.spectra <- function(..., deparse.level = 1) c.spectra(...)


#' @export
as.data.frame.spectra <- function(x, row.names = NULL, optional = FALSE, ...) {
  quality <- .Call(ffi_spectra_quality, x$flux, x$ivar, fit_threads(NULL))
  own <- data.frame(id = x$id, z = x$z, norm = x$norm, sn = quality$sn, masked = 1 - quality$valid / ncol(x$flux))
  own$sn[is.na(own$sn)] <- NA
  result <- cbind(own, x$meta[setdiff(names(x$meta), names(own))])
  row.names(result) <- row.names
  result
}
