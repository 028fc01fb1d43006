#' Surveys larger than memory
#'
#' A survey is one FITS file of prepared spectra, or several, of which nothing but redshifts and norms is in memory. It goes where
#' [spectra()] go: [spender()] trains on it, [predict()][predict.spender()] and its relatives read it in parts.
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
#' [spectra()] says), and `ROWSUM`, a checksum of the row that is verified whenever a spectrum is read. `OBJECT` stands beside `ID` where rows of one
#' object have ids of their own. The card `PREPARED` of the first header says how the spectra were made: digests of the grid and the mask, and the window. Inputs that were rejected are
#' in a last table, `REJECTED`. The file of a survey that is still being written, or whose writer was killed, holds whole rows.
#' @return `open_survey()`: an object of class `survey`, a list of `files` (a data frame of `path` and `n`), `rows` (numbers of its
#'   spectra over all files), `z`, `norm`, `instrument` and `columns`. `x[i]` is a smaller survey, `as_spectra(x)` reads it into memory as
#'   [spectra()] (ids that repeat are made unique, and known as one object), `as.data.frame(x)` is its
#'   catalogue, [problems()] lists what was rejected.
#' @section Errors: `spender_error_io` where a file cannot be opened, `spender_error_format` where it is not a survey, cut, or damaged;
#'   `spender_error_grid` for files on different grids; `spender_error_changed` where a file was changed or replaced since it was opened (it may
#'   have grown).
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
  structure(list(files = data.frame(path = paths, n = n, file_state(paths), sample = vapply(seq_along(paths), function(i) row_sample(paths[i], n[i]), "")), rows = rows, z = known$Z, norm = known$NORM,
                 instrument = new_instrument(first$wave, first$instrument), has_objects = "OBJECT" %in% columns,
                 columns = setdiff(columns, own_columns)), class = "survey")
}

#' @rdname open_survey
#' @export
as_spectra <- function(x) {
  if (inherits(x, "spectra")) return(x)
  check_survey(x)
  check_unchanged(x)
  flux <- .Call(ffi_survey_matrix, x$files$path, x$files$n, "FLUX", x$rows)
  ivar <- .Call(ffi_survey_matrix, x$files$path, x$files$n, "IVAR", x$rows)
  bad <- !is.finite(flux) | !is.finite(ivar) | ivar < 0
  if (any(bad)) flux[bad] <- ivar[bad] <- 0
  catalogue <- survey_catalogue(x, c(name_columns(x), x$columns))
  id <- make.unique(catalogue$ID)
  without <- which(is.na(x$norm))
  new_spectra(flux, ivar, x$z, x$norm, x$instrument, id, catalogue[x$columns], survey_problems(id[without], without),
              object = objects_in(catalogue))
}

# Columns that are no part of the catalogue. OBJECT: what rows of one object are called, where their ids are not that.
own_columns <- c("ID", "OBJECT", "Z", "NORM", "FLUX", "IVAR", "ROWSUM", "PADDING")

# What tells that a file is another, or was changed
file_state <- function(paths) {
  info <- file.info(paths, extra_cols = FALSE)
  data.frame(size = info$size, time = as.double(info$mtime))
}

# A digest of the checksums of some rows, spread over the first n
row_sample <- function(path, n) {
  rows <- unique(round(seq(1, n, length.out = min(n, 64))))
  digest_of(.Call(ffi_survey_columns, path, n, c("ROWSUM", "Z", "NORM"), as.double(if (n > 0) rows))[1:3])
}

# A file may have grown since it was opened, but its rows must be those that were there. Looked at again only where its size or time changed.
check_unchanged <- function(x) {
  if (is.null(x$files$time)) return(invisible()) # opened by an earlier version
  now <- file_state(x$files$path)
  for (f in which(!(now$size %in% NA) & (now$size != x$files$size | now$time != x$files$time))) {
    same <- now$size[f] >= x$files$size[f] && identical(row_sample(x$files$path[f], x$files$n[f]), x$files$sample[f])
    if (!same) abort(c("changed", "format"), basename(x$files$path[f]), " was changed or replaced since the survey was opened: open_survey() it again.")
  }
}

# A survey's own files are not written to while it is read.
check_not_source <- function(path, x) {
  if (inherits(x, "survey") && normalizePath(path, mustWork = FALSE) %in% x$files$path) {
    abort("exists", path, " is a file of the survey that is read; choose another.")
  }
}

check_survey <- function(x) {
  if (!inherits(x, "survey")) abort("invalid", "`x` must be a survey from open_survey() or spectra, not ", describe(x), ".")
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
  n <- nrow(rejected)
  rbind(survey_problems(if (length(without)) survey_ids(x)[without] else character(), without),
        data.frame(id = rep(NA_character_, n), file = rejected$file, row = rep(NA_integer_, n), reason = rejected$reason))
}

rejected_of <- function(path) as.data.frame(lapply(.Call(ffi_survey_rejected, path), from_ascii))

# FITS's texts are ASCII: any other byte, and a percent sign that looks like its code, is written as %XX.
to_ascii <- function(text) {
  odd <- which(grepl("[^ -~]|%[0-9A-F]{2}", text, useBytes = TRUE))
  text[odd] <- vapply(text[odd], function(t) {
    # outside UTF-8 sessions, names of files are bytes of no known encoding: they stay the bytes that they are
    bytes <- charToRaw(if (Encoding(t) == "unknown" && validUTF8(t)) t else enc2utf8(t))
    values <- as.integer(bytes)
    paste(ifelse(values < 32 | values > 126 | values == 37, sprintf("%%%02X", values), rawToChar(bytes, multiple = TRUE)), collapse = "")
  }, "")
  text
}

from_ascii <- function(text) {
  coded <- which(grepl("%[0-9A-F]{2}", text))
  text[coded] <- vapply(text[coded], function(t) {
    decoded <- utils::URLdecode(t)
    if (l10n_info()[["UTF-8"]]) Encoding(decoded) <- "UTF-8" # elsewhere the bytes, which name a file there
    decoded
  }, "")
  text
}

# As a survey tells them: spectra without norm, but not why.
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
  quantiles <- t(vapply(list(redshift = object$z, norm = object$norm), stats::quantile, double(5), probs = c(0, 0.05, 0.5, 0.95, 1), na.rm = TRUE))
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

# Spectra in memory, of a survey that is small enough for what is done with them.
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

#' Write a survey file
#'
#' Prepares spectra, or takes prepared ones, and appends them to one FITS file, in bounded memory: from SDSS or BOSS files hundreds of
#' thousands at a time. A program that was killed is called again with the same arguments and goes on where it was.
#'
#' @param x Names of SDSS or BOSS files or folders, as for [read_sdss()]; or [spectra()], or a survey (whose rows are copied).
#' @param path The file to write.
#' @param instrument,mask_sky,window,threads As in [read_sdss()].
#' @param overwrite Replace a file that is there? Otherwise a survey that was made from files is continued: files that it has, or
#'   that were rejected, are not read again; any other file is an error.
#' @param progress Show a progress bar?
#' @return The survey, opened, invisibly: see [open_survey()] for the format. Files that could not be read are in [problems()], with
#'   reasons; a spectrum without norm has its row.
#' @section Errors: `spender_error_exists` for a file that is there and cannot be continued, or was made with another mask, window or grid; `spender_error_io` where writing fails (the
#'   file then holds the rows before); those of [read_sdss()].
#' @seealso [open_survey()]
#' @export
#' @inherit open_survey examples
write_survey <- function(x, path, instrument = "sdss", mask_sky = TRUE, window = c(5300, 5850), threads = NULL, overwrite = FALSE,
                         progress = interactive()) {
  check_flag(overwrite, "overwrite")
  check_flag(progress, "progress")
  if (!is.character(path) || length(path) != 1 || is.na(path)) abort("invalid", "`path` must be one file name, not ", describe(path), ".")
  path <- path.expand(path)
  if (!inherits(x, "spectra") && !is.character(x)) check_survey(x)
  check_not_source(path, x)
  if (overwrite) unlink(c(path, rejects_path(path)))
  if (is.character(x)) return(invisible(ingest(x, path, instrument, mask_sky, window, threads, progress)))
  if (file.exists(path)) abort("exists", path, " exists already; `overwrite = TRUE` replaces it.")
  if (inherits(x, "spectra")) {
    append_spectra(x, path)
  } else {
    widths <- text_widths(x)
    if (anyDuplicated(survey_catalogue(x, "ID")$ID)) { # ids are made unique, and objects kept beside them
      widths$OBJECT <- max(widths$OBJECT, widths$ID)
      widths$ID <- widths$ID + 8
    }
    in_parts(x, function(part, rows) append_spectra(part, path, widths))
  }
  finish_survey(path)
  invisible(open_survey(path))
}

rejects_path <- function(path) paste0(path, ".rejected")

append_spectra <- function(x, path, widths = list(), prepared = "") {
  meta <- x$meta
  nested <- vapply(meta, function(column) is.list(column) && !inherits(column, "POSIXlt") || !is.null(dim(column)), NA)
  if (any(nested)) {
    abort("invalid", "A survey file holds numbers and texts, one a spectrum, and the catalogue column ", enumerate(paste0("`", names(meta)[nested], "`")),
          " is a list or a matrix: leave it out, x$meta$", names(meta)[nested][1], " <- NULL.")
  }
  own <- toupper(names(meta)) %in% own_columns
  if (any(own)) abort("invalid", "A catalogue column cannot be called ", names(meta)[own][1], " in a survey file, which has its own.")
  odd <- !grepl("^[ -~]{1,60}$", names(meta)) | duplicated(names(meta))
  if (any(odd)) {
    abort("invalid", "Catalogue columns need names of their own, of up to 60 ASCII characters, in a survey file: not \"", names(meta)[odd][1], "\".")
  }
  # OBJECT stands in all parts of a file or in none
  names <- if (file.exists(path)) "OBJECT" %in% .Call(ffi_survey_info, path)$columns
           else !is.null(widths$OBJECT) || !identical(object_of(x), x$id)
  objects <- if (names) list(OBJECT = object_of(x))
  append_rows(c(list(ID = x$id), objects, list(Z = x$z, NORM = x$norm), lapply(meta, plain_column), list(FLUX = x$flux, IVAR = x$ivar)), path, "SPECTRA",
              x$instrument$wave, x$instrument$name, widths, prepared)
}

# Of the text columns of a survey, in bytes: the widest of its files.
text_widths <- function(x) {
  widths <- list()
  for (path in x$files$path) {
    info <- .Call(ffi_survey_info, path)
    for (i in which(info$types == "A")) widths[[info$columns[i]]] <- max(widths[[info$columns[i]]], info$repeats[i])
  }
  widths
}

# Appends to a file, which the first rows make. columns: named, matrices for vectors of floats; widths: of text columns, where later
# texts may be longer.
append_rows <- function(columns, path, table, wave, instrument, widths = list(), prepared = "") {
  columns <- lapply(columns, function(column) if (is.character(column)) to_ascii(column) else column)
  if (!file.exists(path)) {
    types <- vapply(columns, function(column) {
      if (is.matrix(column)) "E" else switch(typeof(column), character = "A", integer = "J", logical = "L", "D")
    }, "")
    repeats <- mapply(function(column, name, type) {
      if (type == "E") ncol(column) else if (type == "A") max(1, nchar(column, "bytes"), widths[[name]], na.rm = TRUE) else 1
    }, columns, names(columns), types)
    .Call(ffi_survey_create, path, table, wave, instrument, prepared, names(columns), unname(types), as.double(repeats))
  }
  info <- .Call(ffi_survey_info, path)
  ours <- setdiff(info$columns, c("PADDING", "ROWSUM"))
  if (!identical(ours, names(columns)) || !identical(info$wave, wave)) {
    abort("grid", basename(path), " has other columns or another grid than what is to be appended.")
  }
  place <- match(ours, info$columns)
  as_type <- function(column, type) {
    switch(type, A = as.character(column), J = as.integer(column), L = as.logical(column), D = as.double(column), column)
  }
  columns <- Map(as_type, columns, info$types[place])
  texts <- which(info$types[place] == "A")
  long <- texts[vapply(columns[texts], function(column) max(0, nchar(column, "bytes"), na.rm = TRUE), 0) > info$repeats[place][texts]]
  if (length(long)) abort("invalid", "Column ", ours[long[1]], " of ", basename(path), " is too narrow for the texts to append.")
  .Call(ffi_survey_append, path, unname(columns))
}

# Dates and 64-bit integers become texts.
plain_column <- function(column) {
  if (inherits(column, "POSIXt")) return(format(column, "%Y-%m-%dT%H:%M:%OS6", tz = "UTC"))
  if (is.object(column)) return(plain_text(column))
  if (is.numeric(column) || is.logical(column)) column else as.character(column)
}

finish_survey <- function(path, rejected = data.frame(file = character(), reason = character())) {
  .Call(ffi_survey_finish, path, to_ascii(rejected$file), to_ascii(rejected$reason))
}

# Reads files some at a time. What is done is known from the column `file` and from the sidecar of rejected ones, into which each goes
# before the spectra of its part are appended, so that a kill between the two only reads a part again.
ingest <- function(files, path, instrument, mask_sky, window, threads, progress, part = 1024) {
  files <- expand_folders(files)
  prepared <- preparation_text(preparation(instrument(instrument), mask_sky, window, TRUE, threads))
  rejected <- data.frame(file = character(), reason = character())
  if (file.exists(path)) {
    survey <- open_survey(path)
    if (!"file" %in% survey$columns) abort("exists", path, " exists already and was not made from files; `overwrite = TRUE` replaces it.")
    there <- .Call(ffi_survey_info, path)$prepared
    other <- if (nzchar(there)) differing_parts(there, prepared) # files of earlier versions do not say
    if (length(other)) {
      abort("exists", path, " exists already and was made otherwise: not the same ", enumerate(other), ". Give the arguments it was made with, or `overwrite = TRUE`.")
    }
    rejected <- unique(rbind(rejected, rejected_of(path)))
    done <- survey_catalogue(survey, "file")$file
  } else {
    done <- character()
  }
  sidecar <- rejects_path(path)
  if (file.exists(sidecar)) rejected <- unique(rbind(rejected, read_rejects(sidecar)))
  rejected <- rejected[!duplicated(rejected$file), ]
  if (nrow(rejected)) write_rejects(rejected, sidecar) # those of the table too, which appending cuts off
  left <- files[!to_ascii(files) %in% to_ascii(c(done, rejected$file))]
  # as long as data/sdss.h lets texts be
  widths <- list(ID = max(20, nchar(basename(to_ascii(files)), "bytes")), file = max(256, nchar(to_ascii(files), "bytes")), class = 63,
                 subclass = 63, plate_quality = 63, instrument = 63)
  bar <- if (progress && length(left)) cli::cli_progress_bar("Reading spectra", total = length(left))
  for (rows in parts_of(length(left), part)) {
    some <- left[rows]
    if (!length(some)) break
    x <- withCallingHandlers(read_sdss(some, instrument, mask_sky, window, threads, progress = FALSE),
                             spender_warning_files = function(w) invokeRestart("muffleWarning"))
    unread <- problems(x)[is.na(problems(x)$row), c("file", "reason")]
    if (nrow(unread)) {
      rejected <- rbind(rejected, unread)
      write_rejects(rejected, sidecar)
    }
    x$id <- object_of(x) # in a file ids may repeat, whichever part the spectra come in
    if (length(x)) append_spectra(x, path, widths, prepared)
    if (progress) cli::cli_progress_update(set = max(rows), id = bar)
  }
  if (!file.exists(path)) {
    abort("files", "None of the ", length(files), " files could be read; ", basename(sidecar), " says why. The first: ",
          rejected$reason[1], ".")
  }
  finish_survey(path, rejected)
  unlink(sidecar)
  if (nrow(rejected)) {
    warn("files", nrow(rejected), " of ", count(length(files), "file"), " could not be read; problems() says why. The first: ",
         rejected$reason[1], ".")
  }
  open_survey(path)
}

# How spectra were prepared, as a survey file keeps it
preparation_text <- function(recipe) {
  short <- function(x) substr(digest_of(x), 1, 12)
  paste0("wave:", short(recipe$wave), " mask_sky:", if (length(recipe$sky)) short(c(recipe$sky, recipe$half_width)) else "none",
         " window:", sprintf("%.6g", recipe$window[1]), "-", sprintf("%.6g", recipe$window[2]))
}

write_rejects <- function(rejected, path) {
  lines <- paste(to_ascii(rejected$file), to_ascii(rejected$reason), sep = "\t")
  temporary <- paste0(path, ".tmp")
  con <- file(temporary, "wb")
  writeLines(lines, con)
  close(con)
  file.rename(temporary, path)
}

read_rejects <- function(path) {
  parts <- strsplit(readLines(path, warn = FALSE), "\t", fixed = TRUE)
  parts <- parts[lengths(parts) == 2]
  data.frame(file = from_ascii(vapply(parts, `[`, "", 1)), reason = from_ascii(vapply(parts, `[`, "", 2)))
}

#' Simulate a survey
#'
#' [simulate_spectra()] into a survey file, some thousand spectra at a time, in bounded memory.
#'
#' @param n Number of spectra.
#' @param path The file to write.
#' @param ... Arguments of [simulate_spectra()], except `rest` and `galaxies`. A `seed` is chosen where none is given; the spectra are those of
#'   `simulate_spectra(n, ...)` with that seed.
#' @param overwrite Replace a file that is there?
#' @param progress Show a progress bar?
#' @return The survey, opened, invisibly. The true parameters are columns of its catalogue, their names with `true_` in front.
#' @export
#' @examples
#' path <- tempfile(fileext = ".fits")
#' survey <- simulate_survey(100, path, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' survey
simulate_survey <- function(n, path, ..., overwrite = FALSE, progress = interactive()) {
  check_number(n, "n", 1, 1e9, whole = TRUE)
  check_flag(overwrite, "overwrite")
  check_flag(progress, "progress")
  arguments <- list(...)
  unknown <- setdiff(names(arguments), setdiff(names(formals(simulate_spectra)), c("n", "rest", "galaxies")))
  if (length(unknown) || length(arguments) && is.null(names(arguments))) {
    abort("invalid", "simulate_survey() does not know the argument ", enumerate(paste0("`", unknown, "`")), ".")
  }
  each <- vapply(arguments[intersect(c("z", "sn"), names(arguments))], length, 1L)
  wrong <- names(each)[!each %in% c(0, 1, n)]
  if (length(wrong)) abort("invalid", "`", wrong[1], "` must be one number or one for each of the ", n, " spectra.")
  if (is.null(arguments$seed)) arguments$seed <- sample.int(.Machine$integer.max, 1)
  if (overwrite) unlink(path)
  if (file.exists(path)) abort("exists", path, " exists already; `overwrite = TRUE` replaces it.")
  part <- 4096
  bar <- if (progress) cli::cli_progress_bar("Simulating spectra", total = n)
  for (first in seq(0, n - 1, by = part)) {
    rows <- min(part, n - first)
    given <- lapply(arguments[intersect(c("z", "sn"), names(arguments))], function(v) if (length(v) > 1) v[first + seq_len(rows)] else v)
    if (!is.null(arguments$z)) given$z_grid <- range(arguments$z)
    given$sn_each <- identical(length(arguments$sn), as.integer(n))
    x <- do.call(simulate_rows, c(list(n = rows, first = first, rest = FALSE), utils::modifyList(arguments, given)))
    parameters <- x$truth$parameters
    x$meta <- cbind(x$meta, setNames(parameters, paste0("true_", names(parameters))))
    append_spectra(x, path, list(ID = 20, subclass = 12, true_type = 12))
    if (progress) cli::cli_progress_update(set = first + rows, id = bar)
  }
  finish_survey(path)
  invisible(open_survey(path))
}
