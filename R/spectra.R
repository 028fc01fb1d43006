#' Observed spectra
#'
#' `spectra()` takes fluxes, inverse variances and redshifts as matrices, whatever file they came from, and prepares them as
#' the network needs them: it masks, normalises, and remembers how. [read_sdss()] does the same from SDSS files.
#'
#' @param flux Flux density \eqn{f_\lambda}{f_lambda} in any unit: a matrix with one row per spectrum and one column per pixel of `wave`, or
#'   a vector: one spectrum. No rows are fine.
#' @param ivar Inverse variance of `flux`, of the same shape. 0 says that a pixel is masked.
#' @param z Redshifts, one per row; finite and above -1.
#' @param wave The observed grid: an [instrument()], its name, or wavelengths in Å (vacuum).
#' @param id One unique name per row; by default the row names of `flux`, or else `"1"`, `"2"`, ...
#' @param meta A data frame of catalogue columns, one row per spectrum.
#' @param normalize `FALSE` if `flux` and `ivar` are normalised already.
#' @param mask_sky Mask pixels within 5 Å of the night-sky lines of [sky_lines()]? Or a vector of line wavelengths (Å, vacuum)
#'   to mask instead.
#' @param window Where the norm is measured: two restframe wavelengths in Å.
#' @param truth `NULL`, or a list of what is known to be true, for simulated spectra. Its matrices and data frames have a row per
#'   spectrum, which follow the rows of the object; all else is shared by all spectra.
#' @param threads How many threads to use; `NULL`: as many as [devices()] says.
#'
#' @details
#' What happens to a pixel, in this order:
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
#' @return An object of class `spectra`, a list of
#' - `flux`, `ivar`: n × M matrices, normalised, always finite;
#' - `z`, `norm`: n numbers; `norm` is `NA` where there is none;
#' - `instrument`: the grid; `id`: n unique strings; `meta`: a data frame of n rows;
#' - `problems`: see [problems()]; `truth`: the argument.
#'
#' `x[i]` takes spectra by number, logical vector or id (a spectrum taken twice gets a new id), `c(x, y)` joins spectra on one
#' grid, `length(x)` counts them, `as.data.frame(x)` is their catalogue, and `plot(x)` draws them.
#' @section Errors:
#' `spender_error_dimension` when two arguments do not fit together, `spender_error_redshift` for a redshift that is missing, not
#' finite or at most -1, `spender_error_id` for ids that are missing or not unique, `spender_error_invalid` for an argument of
#' the wrong type. Warning `spender_warning_ivar`: negative inverse variances were set to 0.
#' @examples
#' grid <- instrument(seq(4000, 8000, by = 2), name = "toy")
#' flux <- rbind(1 + sin(grid$wave / 300)^2, rep(3, length(grid$wave)))
#' ivar <- matrix(100, 2, length(grid$wave))
#' x <- spectra(flux, ivar, z = c(0.1, 0.2), wave = grid, id = c("first", "second"))
#' x
#' x["second"]
#' x$norm
#' as.data.frame(x)
#' @seealso [read_sdss()], [select_galaxies()], [join_catalogue()]
#' @export
spectra <- function(flux, ivar, z, wave, id = NULL, meta = NULL, normalize = TRUE, mask_sky = TRUE,
                    window = c(5300, 5850), truth = NULL, threads = NULL) {
  instrument <- instrument(wave)
  flux <- check_pixels(flux, "flux", instrument)
  ivar <- check_pixels(ivar, "ivar", instrument)
  n <- nrow(flux)
  if (nrow(ivar) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `ivar` has ", nrow(ivar), ".")
  z <- check_redshift(z, n)
  id <- check_id(id, rownames(flux), n)
  meta <- check_meta(meta, n)
  check_truth(truth, n)

  recipe <- preparation(instrument, mask_sky, window, normalize, threads)
  prepared <- .Call(ffi_prepare_spectra, flux, ivar, z, recipe)
  negative <- which(prepared$negative > 0)
  if (length(negative)) {
    warn("ivar", "`ivar` was negative and is set to 0 in row", if (length(negative) > 1) "s", " ", enumerate(negative), ".")
  }
  new_spectra(prepared$flux, prepared$ivar, z, prepared$norm, instrument, id, meta,
              norm_problems(prepared$found, id, NA_character_, window), truth)
}

new_spectra <- function(flux, ivar, z, norm, instrument, id, meta, problems, truth = NULL) {
  norm[is.na(norm)] <- NA
  x <- list(flux = flux, ivar = ivar, z = z, norm = norm, instrument = instrument, id = id, meta = meta,
            problems = problems, truth = NULL)
  x["truth"] <- list(truth)
  structure(x, class = "spectra")
}

# What ffi_prepare_spectra() and ffi_read_sdss() need to know.
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

count <- function(n, noun, plural = paste0(noun, "s")) paste(n, if (n == 1) noun else plural)

check_pixels <- function(x, name, instrument) {
  if (is.data.frame(x)) x <- as.matrix(x)
  if (!is.numeric(x) && !(is.logical(x) && all(is.na(x))) || length(dim(x)) > 2) {
    abort("invalid", "`", name, "` must be a numeric matrix or vector, not ", describe(x), ".")
  }
  if (!is.matrix(x)) x <- matrix(x, nrow = 1)
  if (ncol(x) != length(instrument$wave)) {
    abort("dimension", "`", name, "` has ", count(ncol(x), "pixel"), " a spectrum, but the grid `wave` has ",
          length(instrument$wave), ".")
  }
  storage.mode(x) <- "double"
  x
}

check_redshift <- function(z, n) {
  if (!is.numeric(z) && !(is.logical(z) && all(is.na(z)))) abort("invalid", "`z` must be numeric, not ", describe(z), ".")
  if (length(z) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `z` has length ", length(z), ".")
  z <- as.double(z)
  bad <- which(!is.finite(z) | z <= -1)
  if (length(bad)) {
    abort("redshift", "`z` must be finite and above -1; it is not in row", if (length(bad) > 1) "s", " ", enumerate(bad), ".")
  }
  z
}

check_id <- function(id, names, n) {
  if (is.null(id)) id <- if (is.null(names) || anyNA(names) || anyDuplicated(names)) seq_len(n) else names
  if (!is.atomic(id) && !is.factor(id)) abort("invalid", "`id` must be a character vector, not ", describe(id), ".")
  if (length(id) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `id` has length ", length(id), ".")
  id <- if (is.numeric(id)) format(id, scientific = FALSE, trim = TRUE, digits = 15) else as.character(id)
  if (anyNA(id)) abort("id", "`id` must not be missing; it is in row", if (sum(is.na(id)) > 1) "s", " ", enumerate(which(is.na(id))), ".")
  twice <- unique(id[duplicated(id)])
  if (length(twice)) abort("id", "`id` must be unique; these are not: ", enumerate(twice), ".")
  id
}

check_meta <- function(meta, n) {
  if (is.null(meta)) return(data.frame(row.names = seq_len(n)))
  if (!is.data.frame(meta)) abort("invalid", "`meta` must be a data frame, not ", describe(meta), ".")
  if (nrow(meta) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `meta` has ", nrow(meta), ".")
  meta <- as.data.frame(meta)
  row.names(meta) <- NULL
  meta
}

check_truth <- function(truth, n) {
  if (!is.null(truth) && !is.list(truth)) abort("invalid", "`truth` must be a list or NULL, not ", describe(truth), ".")
  wrong <- which(vapply(truth, function(e) has_rows(e) && nrow(e) != n, NA))
  if (length(wrong)) {
    abort("dimension", "`flux` has ", count(n, "row"), ", but `truth$", names(truth)[wrong[1]], "` has ", nrow(truth[[wrong[1]]]), ".")
  }
}

# found: the values of spd_norm in core/prepare.h
norm_problems <- function(found, id, file, window) {
  row <- which(found > 0)
  between <- sprintf("%g-%g %s restframe", window[1], window[2], angstrom())
  reasons <- c("no norm: no pixel is valid",
               paste0("no norm: no valid pixel in the window ", between),
               paste0("no norm: the median flux in the window ", between, " is not positive"))
  data.frame(id = id[row], file = rep_len(file, length(id))[row], row = row, reason = reasons[found[row]])
}

#' What is wrong with spectra
#'
#' Spectra without a norm, files that could not be read, ids that were taken: whatever was not as it should be.
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
problems.spectra <- function(x, ...) x$problems

#' Night-sky lines
#'
#' The emission lines of the night sky that [spectra()] and [read_sdss()] mask: their subtraction leaves residuals that the noise
#' does not account for.
#'
#' @return A data frame with columns `wave` (Å, in vacuum), `intensity` (in the units of its source; `NA` where the source has
#'   none), `species` and `source`. It holds the 100 strongest lines between 3784 and 9333 Å of the night-sky list of the Prime
#'   Focus Spectrograph, which begins at 5579 Å, and the brightest bluer ones: mercury from street lamps (Osterbrock & Martel
#'   1992) and airglow of neutral nitrogen. Air wavelengths are converted after Ciddor (1996).
#' @references
#' Osterbrock, D. E. & Martel, A. 1992, PASP 104, 76. Ciddor, P. E. 1996, Applied Optics 35, 1566.
#' @examples
#' head(sky_lines())
#' @export
sky_lines <- function() {
  utils::read.csv(system.file("extdata", "sky-lines.csv", package = "spender", mustWork = TRUE),
                  colClasses = c("numeric", "numeric", "character", "character"))
}

# ---- rows -------------------------------------------------------------------------------------------------------------------

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
  row <- seq_len(n)[i]
  if (anyNA(row)) abort("invalid", "The index is missing or beyond the ", count(n, "spectrum", "spectra"), " there are.")
  row
}

take_rows <- function(x, row) {
  check_whole(x)
  meta <- x$meta[row, , drop = FALSE]
  row.names(meta) <- NULL
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
              problems, take_truth(x$truth, row))
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
  if (length(foreign)) abort("invalid", "Only spectra can be joined to spectra; argument ", foreign[1], " is ", describe(parts[[foreign[1]]]), ".")
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
  problems <- do.call(rbind, Map(function(p, offset) {
    p$row <- p$row + offset
    p
  }, field("problems"), as.integer(cumsum(c(0, sizes[-length(sizes)])))))
  known <- !is.na(problems$row)
  problems$id[known] <- id[problems$row[known]]
  new_spectra(do.call(rbind, field("flux")), do.call(rbind, field("ivar")), unlist(field("z")), unlist(field("norm")),
              first$instrument, id, bind_columns(field("meta"), sizes), problems, bind_truth(field("truth")))
}

# Rows one under the other; a column that a part lacks is NA there.
bind_columns <- function(parts, sizes) {
  columns <- unique(unlist(lapply(parts, names)))
  bound <- lapply(columns, function(name) {
    pieces <- Map(function(part, n) if (is.null(part[[name]])) rep(NA, n) else part[[name]], parts, sizes)
    if (any(vapply(pieces, is.factor, NA))) pieces <- lapply(pieces, as.character)
    do.call(c, pieces)
  })
  names(bound) <- columns
  as.data.frame(structure(bound, row.names = seq_len(sum(sizes)), class = "data.frame"))
}

# The truth of joined spectra is what is known of all of them; what they should share and do not is left out.
bind_truth <- function(parts) {
  if (any(vapply(parts, is.null, NA))) return(NULL)
  names <- Reduce(intersect, lapply(parts, names))
  bound <- lapply(names, function(name) {
    pieces <- lapply(parts, `[[`, name)
    same_width <- length(unique(vapply(pieces, NCOL, 0L))) == 1
    if (all(vapply(pieces, has_rows, NA))) if (same_width) do.call(rbind, pieces) else NULL
    else if (length(unique(pieces)) == 1) pieces[[1]]
  })
  names(bound) <- names
  bound[!vapply(bound, is.null, NA)]
}

#' Join catalogue columns to spectra
#'
#' Adds the columns of a data frame to the catalogue that spectra carry (`x$meta`), matched by id or by any catalogue columns.
#'
#' @param x [spectra()].
#' @param data A data frame with the column(s) `by`, each combination of values at most once, in any order. Rows that match no
#'   spectrum are not used.
#' @param by The column to match: `"id"`, or names of catalogue columns, as `c("plate", "mjd", "fiber")`. Where names differ,
#'   `c(id = "spec_id")` matches the ids to the column `spec_id`.
#' @return `x` with the other columns of `data` in its catalogue, `NA` for spectra that `data` does not have.
#' @section Errors:
#' `spender_error_catalogue` when a column is missing, already there, or a key occurs twice in `data`. Warning
#' `spender_warning_unmatched`: how many spectra `data` does not have.
#' @examples
#' grid <- instrument(seq(4000, 8000, by = 2))
#' x <- spectra(matrix(1, 2, 2001), matrix(4, 2, 2001), c(0.1, 0.2), grid, id = c("a", "b"))
#' x <- join_catalogue(x, data.frame(id = c("b", "a"), mass = c(10.5, 9.8)))
#' x$meta
#' @export
join_catalogue <- function(x, data, by = "id") {
  if (!inherits(x, "spectra")) abort("invalid", "`x` must be spectra, not ", describe(x), ".")
  if (!is.data.frame(data)) abort("invalid", "`data` must be a data frame, not ", describe(data), ".")
  if (!is.character(by) || !length(by) || anyNA(by)) abort("invalid", "`by` must name columns, not be ", describe(by), ".")
  mine <- if (is.null(names(by))) by else ifelse(nzchar(names(by)), names(by), by)
  theirs <- unname(by)
  absent <- setdiff(mine, c("id", names(x$meta)))
  if (length(absent)) abort("catalogue", "The spectra have no catalogue column ", enumerate(paste0("`", absent, "`")), ".")
  absent <- setdiff(theirs, names(data))
  if (length(absent)) abort("catalogue", "`data` has no column ", enumerate(paste0("`", absent, "`")), ".")
  new <- setdiff(names(data), theirs)
  present <- intersect(new, names(x$meta))
  if (length(present)) abort("catalogue", "The spectra already have ", enumerate(paste0("`", present, "`")), ".")

  keys <- join_keys(lapply(mine, function(name) if (name == "id") x$id else x$meta[[name]]))
  their_keys <- join_keys(lapply(theirs, function(name) data[[name]]))
  twice <- unique(their_keys[duplicated(their_keys)])
  if (length(twice)) abort("catalogue", "`data` has more than one row for ", enumerate(twice), ".")
  row <- match(keys, their_keys)
  if (anyNA(row)) {
    warn("unmatched", sum(is.na(row)), " of ", count(length(x), "spectrum", "spectra"),
         " are not in `data`; their new columns are NA.")
  }
  x$meta[new] <- lapply(new, function(name) data[[name]][row])
  x
}

# Numbers as text without exponents, so that 100000L and 1e5 are the same key.
join_keys <- function(columns) {
  text <- lapply(columns, function(column) {
    if (is.numeric(column)) trimws(format(column, scientific = FALSE, trim = TRUE, digits = 15)) else as.character(column)
  })
  do.call(paste, c(text, sep = " "))
}

# ---- looking at them --------------------------------------------------------------------------------------------------------

#' @export
as.data.frame.spectra <- function(x, row.names = NULL, optional = FALSE, ...) {
  quality <- .Call(ffi_spectra_quality, x$flux, x$ivar, fit_threads(NULL))
  own <- data.frame(id = x$id, z = x$z, norm = x$norm, sn = quality$sn, masked = 1 - quality$valid / ncol(x$flux))
  own$sn[is.na(own$sn)] <- NA
  result <- cbind(own, x$meta[setdiff(names(x$meta), names(own))])
  row.names(result) <- row.names
  result
}

#' @export
summary.spectra <- function(object, ...) {
  check_whole(object, "object")
  catalogue <- as.data.frame(object)
  structure(list(n = length(object), instrument = object$instrument, z = catalogue$z, sn = catalogue$sn,
                 masked = catalogue$masked, norm = catalogue$norm, meta = names(object$meta),
                 class = if (!is.null(object$meta$class)) table(object$meta$class, useNA = "ifany"),
                 problems = object$problems, truth = names(object$truth)), class = "summary.spectra")
}

#' @export
print.spectra <- function(x, ...) {
  print_facts(summary(x))
  invisible(x)
}

#' @export
print.summary.spectra <- function(x, ...) {
  print_facts(x)
  if (x$n) {
    cat("\n")
    print(t(vapply(list(redshift = x$z, `S/N` = x$sn, masked = x$masked, norm = x$norm), function(v) {
      stats::quantile(v, c(0, 0.05, 0.5, 0.95, 1), na.rm = TRUE)
    }, double(5))), digits = 3)
  }
  if (length(x$class)) cat("\nclass: ", paste0(names(x$class), " ", x$class, collapse = ", "), "\n", sep = "")
  if (nrow(x$problems)) {
    cat("\nproblems:\n")
    print(x$problems, right = FALSE)
  }
  invisible(x)
}

fact <- function(name, ...) cat("  ", formatC(name, width = -13), ..., "\n", sep = "")

print_facts <- function(s) {
  between <- function(v, digits) {
    v <- v[!is.na(v)]
    if (length(v) == 1) return(formatC(v, digits = digits, format = "f"))
    v <- formatC(c(stats::median(v), range(v)), digits = digits, format = "f")
    paste0(v[2], " to ", v[3], ", median ", v[1])
  }
  cat("<spectra> ", count(s$n, "spectrum", "spectra"), "\n", sep = "")
  fact("grid", format(s$instrument))
  if (s$n) {
    fact("redshift", between(s$z, 3))
    if (!all(is.na(s$sn))) fact("S/N", between(s$sn, 1), " (per pixel)")
    fact("masked", sprintf("%.1f %% of the pixels", 100 * mean(s$masked)))
  }
  without <- sum(is.na(s$norm))
  if (without) fact("without norm", without, " (fits leave ", if (without == 1) "it" else "them", " out)")
  if (length(s$meta)) fact("catalogue", enumerate(s$meta, 8))
  if (length(s$truth)) fact("truth", enumerate(s$truth, 8))
  if (nrow(s$problems)) {
    unread <- sum(is.na(s$problems$row))
    rest <- nrow(s$problems) - unread
    what <- c(if (rest) count(rest, "spectrum", "spectra"), if (unread) paste(count(unread, "file"), "not read"))
    fact("problems", paste(what, collapse = ", "), "; see problems()")
  }
}

# What a galaxy spectrum is recognised by, the most telling first.
telling_lines <- function() {
  lines <- spectral_lines()
  order <- c("Halpha", "Hbeta", "OIII_5008", "OII_3727", "CaII_K", "MgI_b2", "NaI_D2", "Hgamma", "Hdelta", "SII_6718", "G_band",
             "CaII_H", "OIII_4960", "OI_6302", "NII_6585", "CaII_8544")
  lines[match(order, lines$name), c("wave", "label")]
}

#' Plot spectra
#'
#' One panel per spectrum: normalised flux against observed wavelength, masked and unobserved pixels shaded, and what a galaxy
#' is recognised by labelled at the spectrum's redshift.
#'
#' @param x [spectra()].
#' @param rows Which to draw, by number or id; the first four if there are more.
#' @param lines Label spectral lines?
#' @param xlim Range of observed wavelengths, Å.
#' @param col Colour of the flux.
#' @param ... Passed on to [graphics::plot.default()].
#' @return `x`, invisibly.
#' @examples
#' grid <- instrument("sdss")
#' flux <- 1 + 0.2 * sin(grid$wave / 500) + rnorm(3921, sd = 0.05)
#' x <- spectra(flux, rep(400, 3921), z = 0.1, wave = grid)
#' plot(x)
#' @export
plot.spectra <- function(x, rows = NULL, lines = TRUE, xlim = NULL, col = "grey15", ...) {
  rows <- if (is.null(rows)) seq_len(min(4, length(x))) else find_rows(x, rows)
  if (!length(rows)) {
    message("No spectra to plot.")
    return(invisible(x))
  }
  old <- graphics::par(mfrow = c(length(rows), 1), mar = c(1.8, 3.8, 2.6, 1.2), oma = c(1.8, 0, 0, 0), mgp = c(2.4, 0.6, 0),
                       tcl = -0.3, las = 1)
  on.exit(graphics::par(old))
  graphics::par(cex = 0.8) # mfrow shrinks text by the number of panels
  if (is.null(xlim)) xlim <- range(x$instrument$wave)
  for (row in rows) plot_one(x, row, lines, xlim, col, ...)
  graphics::mtext(paste0("observed wavelength (", angstrom(), ", vacuum)"), side = 1, line = 0.4, outer = TRUE, cex = 0.8)
  invisible(x)
}

plot_one <- function(x, row, lines, xlim, col, ...) {
  wave <- x$instrument$wave
  flux <- x$flux[row, ]
  valid <- x$ivar[row, ] > 0
  shown <- wave >= xlim[1] & wave <= xlim[2]
  inside <- flux[shown & if (any(valid & shown)) valid else flux != 0]
  span <- if (length(inside)) stats::quantile(inside, c(0.002, 0.998), names = FALSE) else c(0, 1)
  margin <- max(diff(span), 1e-3 * abs(span[2]), .Machine$double.eps)
  ylim <- c(min(0, span[1]), span[2] + 0.15 * margin)

  has_norm <- !is.na(x$norm[row])
  graphics::plot(range(wave), ylim, type = "n", xlim = xlim, ylim = ylim, xaxs = "i", xlab = "",
                 ylab = if (has_norm) "normalised flux" else "flux (no norm)", ...)
  box <- graphics::par("usr")
  edges <- c(wave[1], (wave[-1] + wave[-length(wave)]) / 2, wave[length(wave)])
  runs <- rle(valid)
  ends <- cumsum(runs$lengths)
  starts <- ends - runs$lengths + 1
  masked <- !runs$values
  if (any(masked)) {
    graphics::rect(edges[starts[masked]], box[3], edges[ends[masked] + 1], box[4], col = "grey90", border = NA)
  }
  seen <- replace(flux, !valid & flux == 0, NA)
  graphics::lines(wave, seen, col = "grey70")
  graphics::lines(wave, replace(flux, !valid, NA), col = col)
  if (lines) label_lines(x$z[row], xlim, box)
  graphics::box()
  graphics::mtext(paste0(x$id[row], "   z = ", format(round(x$z[row], 4))), side = 3, line = 1.4, adj = 0, cex = 0.8)
}

# A label that would run into one already written is left out.
label_lines <- function(z, xlim, box) {
  features <- telling_lines()
  features$wave <- features$wave * (1 + z)
  features <- features[features$wave > xlim[1] & features$wave < xlim[2], ]
  gap <- 0.3 * graphics::strwidth("M", cex = 0.65)
  taken <- matrix(0, 0, 2)
  for (i in seq_len(nrow(features))) {
    wave <- features$wave[i]
    label <- device_label(features$label[i])
    half <- graphics::strwidth(label, cex = 0.75) / 2 + gap
    graphics::segments(wave, box[3], wave, box[4], col = grDevices::adjustcolor("steelblue", 0.35), lty = 3)
    if (wave - half < xlim[1] || wave + half > xlim[2]) next
    if (any(wave - half < taken[, 2] & wave + half > taken[, 1])) next
    taken <- rbind(taken, c(wave - half, wave + half))
    graphics::mtext(label, side = 3, line = 0.15, at = wave, cex = 0.6, col = "steelblue4", las = 1)
  }
}

# Greek letters as plotmath: pdf() has none in its text fonts.
device_label <- function(label) {
  greek <- c(alpha = "\u03b1", beta = "\u03b2", gamma = "\u03b3", delta = "\u03b4", epsilon = "\u03b5", zeta = "\u03b6")
  name <- names(greek)[match(substring(label, 2), greek)]
  if (is.na(name)) label else as.expression(call("*", substr(label, 1, 1), as.name(name)))
}
