#' Write a survey file
#'
#' Prepares spectra, or takes prepared ones, and appends them to one FITS file, in bounded memory: from SDSS, BOSS or DESI files hundreds of
#' thousands at a time. A program that was killed continues when it is called again with the same arguments.
#'
#' @param x Names of files or folders, as for [read_sdss()], or, if `instrument` is `"desi"` or a part of it, for [read_desi()]; or
#'   [spectra()], or a survey (whose rows are copied).
#' @param path The file to write.
#' @param instrument,mask_sky,window,threads As in [read_sdss()] or [read_desi()].
#' @param overwrite Replace a file that is there? Otherwise a survey that was made from files is continued: files that it has, or
#'   that were rejected, are not read again; any other file is an error.
#' @param progress Show a progress bar?
#' @param resolution Of files: read the spectra's resolutions, too, as [read_sdss()] and [read_desi()] do? All of one survey have them, or
#'   none. They are 16 kB for a spectrum of SDSS, 340 kB for one of DESI. ([spectra()] and surveys that have resolutions keep them in any
#'   case.)
#' @param mask Of files of SDSS: as in [read_sdss()].
#' @return The survey, opened, invisibly: see [open_survey()] for the format. Files that could not be read are in [problems()], with
#'   reasons; a spectrum without norm has its row.
#' @section Errors: `spender_error_exists` for a file that is there and cannot be continued, or was made with another mask, window or grid;
#'   `spender_error_io` where writing fails (the file then holds the rows before); those of [read_sdss()] and [read_desi()].
#' @seealso [open_survey()]
#' @export
#' @inherit open_survey examples
write_survey <- function(x, path, instrument = "sdss", mask_sky = TRUE, window = c(5300, 5850), threads = NULL, overwrite = FALSE,
                         progress = interactive(), resolution = FALSE, mask = c("and", "or")) {
  check_flag(overwrite, "overwrite")
  check_flag(progress, "progress")
  check_flag(resolution, "resolution")
  mask <- match.arg(mask)
  check_path(path)
  path <- path.expand(path)
  if (!inherits(x, "spectra") && !is.character(x)) check_survey(x)
  check_not_source(path, x)
  if (overwrite) {
    remove_survey(path)
    unlink(rejects_path(path))
  }
  if (is.character(x)) return(invisible(ingest(x, path, instrument, mask_sky, window, threads, progress, resolution, mask)))
  check_new_file(path)
  if (inherits(x, "spectra")) {
    append_spectra(x, path)
  } else {
    widths <- text_widths(x)
    if (anyDuplicated(survey_catalogue(x, "ID")$ID)) { # ids are made unique, and objects kept in OBJECT
      widths$OBJECT <- max(widths$OBJECT, widths$ID)
      widths$ID <- widths$ID + 8
    }
    tick <- progress_bar("Spectra", length(x), progress)
    in_parts(x, function(part, rows) {
      append_spectra(part, path, widths)
      tick(max(0, rows))
    })
  }
  finish_survey(path)
  invisible(open_survey(path))
}

rejects_path <- function(path) paste0(path, ".rejected")

# A survey's own files are not written to while it is read.
check_not_source <- function(path, x) {
  if (inherits(x, "survey") && normalizePath(path, mustWork = FALSE) %in% x$files$path) {
    abort("exists", path, " is a file of the survey that is read; choose another.")
  }
}

# A file that may be there, and not one that another program writes
remove_survey <- function(path) {
  if (file.exists(path) && .Call(ffi_survey_locked, path)) {
    abort("io", basename(path), " is being written by another program, or elsewhere in this one.")
  }
  unlink(path)
}

# Catalogue columns that a survey file can hold: a list or data frame
check_columns <- function(meta) {
  nested <- vapply(meta, function(column) is.list(column) && !inherits(column, "POSIXlt") || !is.null(dim(column)), NA)
  if (any(nested)) {
    abort("invalid", "A survey file holds numbers and texts, one a spectrum, and the catalogue column ",
          code_list(names(meta)[nested]),
          " is a list or a matrix: leave it out, x$meta$", names(meta)[nested][1], " <- NULL.")
  }
  own <- toupper(names(meta)) %in% own_columns
  if (any(own)) abort("invalid", "A catalogue column cannot be called ", names(meta)[own][1], " in a survey file, which has its own.")
  odd <- !grepl("^[ -~]{1,60}$", names(meta)) | duplicated(names(meta))
  if (any(odd)) {
    abort("invalid", "Catalogue columns need names of their own, of up to 60 ASCII characters, in a survey file: not \"",
          names(meta)[odd][1], "\".")
  }
}

append_spectra <- function(x, path, widths = list(), prepared = "") {
  meta <- x$meta
  check_columns(meta)
  # all parts of a file have OBJECT, or none
  names <- if (file.exists(path)) "OBJECT" %in% .Call(ffi_survey_info, path)$columns
           else !is.null(widths$OBJECT) || !identical(object_of(x), x$id)
  objects <- if (names) list(OBJECT = object_of(x))
  resolution <- if (!is.null(x$resolution)) setNames(list(x$resolution$values), resolution_column(x$resolution))
  append_rows(c(list(ID = x$id), objects, list(Z = x$z, NORM = x$norm), lapply(meta, plain_column), list(FLUX = x$flux, IVAR = x$ivar),
                resolution),
              path, "SPECTRA",
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
    .Call(ffi_survey_create, path, table, wave, instrument, prepared, "", names(columns), unname(column_types(columns)),
          as.double(column_repeats(columns, widths)))
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

# Types and numbers of elements (src/data/survey.h) of named columns in a file
column_types <- function(columns) {
  vapply(columns, function(column) {
    if (is.matrix(column)) "E" else switch(typeof(column), character = "A", integer = "J", logical = "L", "D")
  }, "")
}

column_repeats <- function(columns, widths = list()) {
  mapply(function(column, name, type) {
    if (type == "E") ncol(column) else if (type == "A") max(1, nchar(column, "bytes"), widths[[name]], na.rm = TRUE) else 1
  }, columns, names(columns), column_types(columns))
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

# How files of a grid are read: several at a time, or each by itself, since a file of DESI has hundreds or thousands of spectra. widths: of
# text columns, as long as data/sdss.h lets texts be, or as DESI's columns are.
file_reader <- function(instrument, mask = "and") {
  if (is_desi_grid(instrument)) {
    if (mask == "or") abort("invalid", "`mask` chooses between two masks of SDSS's files; those of DESI have one.")
    list(read = read_desi, preparation = desi_preparation, files = desi_files, part = 1,
         resolution = list(size = 11, step = 1, gaussian = FALSE),
         widths = list(targetid = 20, survey = 20, program = 20, arms = 3, objtype = 20, desi_target = 20, bgs_target = 20, class = 20,
                       subclass = 20))
  } else {
    list(read = function(...) read_sdss(..., mask = mask), files = expand_folders, part = 1024,
         resolution = list(size = 25, step = 1, gaussian = TRUE),
         preparation = function(instrument, mask_sky, window, threads) preparation(instrument, mask_sky, window, TRUE, threads),
         widths = list(class = 63, subclass = 63, plate_quality = 63, instrument = 63, mask = 3))
  }
}

# Resolutions in the shape that all parts of a file have
in_shape <- function(resolution, shape, m) {
  if (resolution$size > shape$size) {
    abort("invalid", "A line spread function is up to ", format(max(resolution$values), digits = 3), " pixels wide (standard deviation), ",
          "more than a survey of these files holds.")
  }
  reshape_resolution(resolution, shape$size, shape$step, shape$gaussian, m)
}

# Reads files in parts. Files that are done are known from the column `file` and from the sidecar of rejected ones, which is written before
# the spectra of a part are appended, so that after a kill between the two the part is only read again.
ingest <- function(files, path, instrument, mask_sky, window, threads, progress, resolution = FALSE, mask = "and", part = reader$part) {
  instrument <- instrument(instrument)
  reader <- file_reader(instrument, mask)
  files <- reader$files(files)
  prepared <- paste0(preparation_text(reader$preparation(instrument, mask_sky, window, threads)), if (resolution) " lsf:read",
                     if (mask != "and") paste0(" mask:", mask))
  rejected <- data.frame(file = character(), reason = character())
  if (file.exists(path)) {
    survey <- open_survey(path)
    if (!"file" %in% survey$columns) abort("exists", path, " exists already and was not made from files; `overwrite = TRUE` replaces it.")
    there <- .Call(ffi_survey_info, path)$prepared
    other <- if (nzchar(there)) differing_parts(there, prepared) # files of earlier versions do not say
    if (length(other)) {
      abort("exists", path, " exists already and was made otherwise: not the same ", enumerate(other),
            ". Give the arguments it was made with, or `overwrite = TRUE`.")
    }
    rejected <- unique(rbind(rejected, rejected_of(path)))
    done <- survey_catalogue(survey, "file")$file
  } else {
    done <- character()
  }
  sidecar <- rejects_path(path)
  if (file.exists(sidecar)) rejected <- unique(rbind(rejected, read_rejects(sidecar)))
  if (nrow(rejected)) write_rejects(rejected, sidecar) # those of the table too, which appending cuts off
  left <- files[!to_ascii(files) %in% to_ascii(c(done, rejected$file[is.na(rejected_target(rejected$reason))]))]
  widths <- c(list(ID = max(20, nchar(basename(to_ascii(files)), "bytes")), file = max(256, nchar(to_ascii(files), "bytes"))),
              reader$widths)
  tick <- progress_bar("Files", length(left), progress)
  for (rows in parts_of(length(left), part)) {
    some <- left[rows]
    if (!length(some)) break
    muffle <- function(w) invokeRestart("muffleWarning")
    x <- withCallingHandlers(reader$read(some, instrument, mask_sky, window, threads, progress = FALSE, resolution = resolution),
                             spender_warning_files = muffle, spender_warning_targets = muffle)
    unread <- problems(x)[is.na(problems(x)$row), ]
    if (nrow(unread)) {
      rejected <- unique(rbind(rejected, data.frame(file = unread$file, reason = rejection(unread$id, unread$reason))))
      write_rejects(rejected, sidecar)
    }
    if (resolution && length(x)) x$resolution <- in_shape(x$resolution, reader$resolution, length(x$instrument$wave))
    x$id <- object_of(x) # in a file ids may repeat, whichever part the spectra come in
    if (length(x)) append_spectra(x, path, widths, prepared)
    tick(max(rows))
  }
  if (!file.exists(path)) {
    abort("files", "None of the ", length(files), " files could be read; ", basename(sidecar), " says why. The first: ",
          rejected$reason[1], ".")
  }
  finish_survey(path, rejected)
  unlink(sidecar)
  of_target <- !is.na(rejected_target(rejected$reason))
  warn_unread(rejected[!of_target, ], length(files))
  if (any(of_target)) warn("targets", count(sum(of_target), "target"), " have no redshift and are left out; problems() lists them.")
  open_survey(path)
}

# A survey file lists what was rejected by file and reason; of a target in a file, the reason begins with its id.
rejection <- function(id, reason) ifelse(is.na(id), reason, paste0("TARGETID ", id, ": ", reason))
rejected_target <- function(reason) {
  of_target <- grepl("^TARGETID -?[0-9]+: ", reason)
  ifelse(of_target, sub("^TARGETID (-?[0-9]+): .*", "\\1", reason), NA_character_)
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
