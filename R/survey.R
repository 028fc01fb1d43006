#' Surveys larger than memory
#'
#' A survey is one FITS file of prepared spectra, or several, of which only redshifts and norms are in memory. It is used like
#' [spectra()]: [spender()] trains on it, [predict()][predict.spender()] and its relatives read it in parts.
#'
#' @param paths Names of survey files on one grid; they count as one survey, in this order.
#' @param x A survey.
#' @param i Numbers or a logical vector: which spectra, in which order. Nothing is read.
#' @param row.names,optional Ignored.
#' @param ... For methods; not used.
#'
#' @section Format:
#' The primary HDU is an image, `WAVELENGTH` (Å, vacuum, doubles). The table `SPECTRA` follows, with a row for each spectrum: `ID`, `Z`,
#' `NORM` (`NaN` for a spectrum without norm), catalogue columns, then `FLUX` and `IVAR` (\eqn{M} floats each, prepared as
#' [spectra()] says), and `ROWSUM`, a checksum of the row that is verified whenever a spectrum is read. A column `OBJECT` follows `ID` if
#' rows of one object have different ids. Spectra with a `resolution` (see [spectra()]) have it in a column after `IVAR`, whose name gives
#' `size` and `step`: `RESOLUTION_SIGMA_13_64` has the standard deviations of Gaussians in pixels, `RESOLUTION_BAND_11_1` the diagonals
#' of one pixel after the other. The card `PREPARED` of the first header says how the spectra were made: digests of the grid and
#' the mask, and the window. Inputs that were rejected are in a last table, `REJECTED`. The file of a survey that is still being written, or
#' whose writer was killed, holds whole rows.
#' @return `open_survey()`: an object of class `survey`, a list of `files` (a data frame of `path` and `n`), `rows` (numbers of its
#'   spectra over all files), `z`, `norm`, `instrument` and `columns`. `x[i]` is a smaller survey, `as_spectra(x)` reads it into memory as
#'   [spectra()] (ids that repeat are made unique, and known as one object), `as.data.frame(x)` is its
#'   catalogue, [problems()] lists what was rejected.
#' @section Errors: `spender_error_io` where a file cannot be opened, `spender_error_format` where it is not a survey, cut, or damaged;
#'   `spender_error_grid` for files on different grids; `spender_error_changed` where a file was changed or replaced since it was opened (it
#'   may have grown).
#' @seealso [write_survey()], [simulate_survey()]
#' @export
#' @examples
#' path <- tempfile(fileext = ".fits")
#' write_survey(simulate_spectra(50, instrument(seq(4000, 8000, by = 8)), seed = 1), path)
#' survey <- open_survey(path)
#' survey
#' nearby <- survey[survey$z < 0.1]
#' head(as.data.frame(nearby))
#' as_spectra(nearby[1:3])
open_survey <- function(paths) {
  if (!is.character(paths) || !length(paths) || anyNA(paths)) {
    abort("invalid", "`paths` must be names of survey files, not ", describe(paths), ".")
  }
  paths <- normalizePath(paths, mustWork = FALSE)
  info <- lapply(paths, function(path) .Call(ffi_survey_info, path))
  first <- info[[1]]
  for (i in seq_along(info)) {
    if (!identical(info[[i]]$wave, first$wave)) abort("grid", basename(paths[i]), " is on another grid than ", basename(paths[1]), ".")
  }
  empty <- which(!vapply(info, function(f) all(c("FLUX", "IVAR") %in% f$columns), NA))
  if (length(empty)) abort("format", basename(paths[empty[1]]), " holds results of a fit, not spectra: see read_predictions().")
  n <- vapply(info, `[[`, 0, "n")
  rows <- as.double(seq_len(sum(n)))
  known <- .Call(ffi_survey_columns, paths, n, c("Z", "NORM"), rows)
  columns <- unique(unlist(lapply(info, function(f) f$columns[f$types != "E" & (f$types == "A" | f$repeats == 1)])))
  structure(list(files = data.frame(path = paths, n = n, file_state(paths),
                                    sample = vapply(seq_along(paths), function(i) row_sample(paths[i], n[i]),
                                                    "")), rows = rows, z = known$Z, norm = known$NORM,
                 instrument = new_instrument(first$wave, first$instrument), has_objects = "OBJECT" %in% columns,
                 columns = setdiff(columns, own_columns), resolution = shared_resolution(info, paths)), class = "survey")
}

#' @rdname open_survey
#' @export
as_spectra <- function(x) {
  if (inherits(x, "spectra")) return(x)
  check_survey(x)
  check_unchanged(x)
  flux <- .Call(ffi_survey_matrix, x$files$path, x$files$n, "FLUX", x$rows)
  ivar <- .Call(ffi_survey_matrix, x$files$path, x$files$n, "IVAR", x$rows)
  resolution <- x$resolution
  if (!is.null(resolution)) {
    values <- .Call(ffi_survey_matrix, x$files$path, x$files$n, resolution_column(resolution), x$rows)
    values[!is.finite(values) | resolution$gaussian & values < 0] <- 0
    resolution <- c(list(values = values), resolution)
  }
  bad <- !is.finite(flux) | !is.finite(ivar) | ivar < 0
  if (any(bad)) flux[bad] <- ivar[bad] <- 0
  catalogue <- survey_catalogue(x, c(name_columns(x), x$columns))
  id <- make.unique(catalogue$ID)
  without <- which(is.na(x$norm))
  new_spectra(flux, ivar, x$z, x$norm, x$instrument, id, catalogue[x$columns], survey_problems(id[without], without),
              object = objects_in(catalogue), resolution = resolution)
}

# The shape of the resolutions in files; NULL if none has one
shared_resolution <- function(info, paths) {
  shapes <- lapply(info, function(f) resolution_of_column(f$columns[f$types == "E"]))
  other <- which(!vapply(shapes, identical, NA, shapes[[1]]))
  if (length(other)) {
    abort("grid", basename(paths[other[1]]), " has other resolutions of its spectra than ", basename(paths[1]),
          ", or only one of the two has any: write_survey() the files as one.")
  }
  shapes[[1]]
}

# Columns that are not part of the catalogue. OBJECT: ids of objects, if rows of one object have different ids
own_columns <- c("ID", "OBJECT", "Z", "NORM", "FLUX", "IVAR", "ROWSUM", "PADDING")

# Size and time, by which a changed or replaced file is recognised
file_state <- function(paths) {
  info <- file.info(paths, extra_cols = FALSE)
  data.frame(size = info$size, time = as.double(info$mtime))
}

# A digest of the checksums of some rows, spread over the first n
row_sample <- function(path, n) {
  rows <- unique(round(seq(1, n, length.out = min(n, 64))))
  digest_of(.Call(ffi_survey_columns, path, n, c("ROWSUM", "Z", "NORM"), as.double(if (n > 0) rows))[1:3])
}

# A file may have grown since it was opened, but its rows must be those that were there. Looked at again only where its size or time
# changed.
check_unchanged <- function(x) {
  if (is.null(x$files$time)) return(invisible()) # opened by an earlier version
  now <- file_state(x$files$path)
  for (f in which(!(now$size %in% NA) & (now$size != x$files$size | now$time != x$files$time))) {
    same <- now$size[f] >= x$files$size[f] && identical(row_sample(x$files$path[f], x$files$n[f]), x$files$sample[f])
    if (!same) {
      abort(c("changed", "format"), basename(x$files$path[f]),
            " was changed or replaced since the survey was opened: open_survey() it again.")
    }
  }
}

survey_catalogue <- function(x, columns, rows = x$rows) {
  check_unchanged(x)
  catalogue <- .Call(ffi_survey_columns, x$files$path, x$files$n, columns, rows)
  as.data.frame(lapply(catalogue, function(column) if (is.character(column)) from_ascii(column) else column), optional = TRUE)
}

#' @export
length.survey <- function(x) length(x$rows)

#' @export
dim.survey <- function(x) c(length(x$rows), length(x$instrument$wave))

#' @rdname open_survey
#' @export
`[.survey` <- function(x, i, ...) {
  if (...length()) abort("invalid", "A survey has rows to choose, x[i], but the pixels of its spectra stay together.")
  if (missing(i)) return(x)
  if (is.character(i)) {
    row <- match(i, survey_ids(x))
    if (anyNA(row)) abort("id", "No spectrum has the id ", enumerate(paste0('"', unique(i[is.na(row)]), '"')), ".")
    i <- row
  }
  row <- find_rows(x, i)
  x[c("rows", "z", "norm")] <- list(x$rows[row], x$z[row], x$norm[row])
  x
}

#' @rdname open_survey
#' @export
as.data.frame.survey <- function(x, row.names = NULL, optional = FALSE, ...) {
  catalogue <- survey_catalogue(x, c("ID", x$columns))
  cbind(data.frame(id = make.unique(catalogue$ID), z = x$z, norm = x$norm), catalogue[setdiff(x$columns, c("id", "z", "norm"))])
}

#' @export
problems.survey <- function(x, ...) {
  check_dots("problems", ...)
  rejected <- do.call(rbind, lapply(x$files$path, rejected_of))
  without <- which(is.na(x$norm))
  rbind(survey_problems(if (length(without)) survey_ids(x)[without] else character(), without),
        unread_inputs(rejected$file, sub("^TARGETID -?[0-9]+: ", "", rejected$reason), rejected_target(rejected$reason)))
}

rejected_of <- function(path) as.data.frame(lapply(.Call(ffi_survey_rejected, path), from_ascii))

# Problems that a survey file can report: spectra without norm (the file does not store the reason)
survey_problems <- function(id, row) {
  n <- length(row)
  data.frame(id = id, file = rep(NA_character_, n), row = row, reason = rep("no norm", n))
}

#' @export
print.survey <- function(x, ...) {
  cat("<survey> ", count(length(x), "spectrum", "spectra"), if (length(x) < sum(x$files$n)) paste0(" of ", sum(x$files$n)), "\n", sep = "")
  fact("files", enumerate(basename(x$files$path), 4))
  fact("grid", format(x$instrument))
  if (length(x)) {
    z <- formatC(c(range(x$z), stats::median(x$z)), digits = 3, format = "f")
    fact("redshift", z[1], " to ", z[2], ", median ", z[3])
  }
  if (!is.null(x$resolution)) fact("resolution", describe_resolution(x$resolution))
  if (anyNA(x$norm)) fact("without norm", sum(is.na(x$norm)), " (fits leave them out)")
  if (length(x$columns)) fact("catalogue", enumerate(x$columns, 8))
  invisible(x)
}

#' @export
plot.survey <- function(x, rows = seq_len(min(4, length(x))), ...) {
  part <- as_spectra(x[rows])
  plot(part, rows = seq_along(part$z), ...)
}

#' @export
summary.survey <- function(object, ...) {
  check_dots("summary", ...)
  class <- if ("class" %in% object$columns) table(survey_catalogue(object, "class")$class, useNA = "ifany")
  quantiles <- t(vapply(list(redshift = object$z, norm = object$norm), stats::quantile, double(5), probs = c(0, 0.05, 0.5, 0.95, 1),
                        na.rm = TRUE))
  structure(list(survey = object, quantiles = quantiles, class = class, problems = problems(object)), class = "summary.survey")
}

#' @export
print.summary.survey <- function(x, ...) {
  print(x$survey)
  cat("\n")
  print(x$quantiles, digits = 3)
  if (length(x$class)) cat("\nclass: ", paste0(names(x$class), " ", x$class, collapse = ", "), "\n", sep = "")
  if (nrow(x$problems)) {
    cat("\nproblems:\n")
    print(utils::head(x$problems, 20), right = FALSE)
    if (nrow(x$problems) > 20) cat("... and ", nrow(x$problems) - 20, " more; see problems()\n", sep = "")
  }
  invisible(x)
}

# The spectra of a survey in memory, if they are not too many
in_memory <- function(x, most = 50000) {
  if (!inherits(x, "survey")) return(x)
  if (length(x) > most) abort("invalid", "This needs spectra in memory, and the survey has ", length(x), " of them: choose some with [.")
  as_spectra(x)
}

# Calls f(spectra, rows) on parts of a survey, in order.
in_parts <- function(x, f, size = 2048) {
  ids <- survey_ids(x)
  for (rows in parts_of(length(x), size)) {
    part <- as_spectra(x[rows])
    part$id <- ids[rows] # unique over all parts
    f(part, rows)
  }
}

# 1 ... n, some at a time; one part without rows for none.
parts_of <- function(n, size) {
  if (n == 0) return(list(integer()))
  lapply(seq(1, n, by = size), function(first) first:min(n, first + size - 1))
}
