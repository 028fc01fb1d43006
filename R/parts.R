# Predictions of a survey in parts, by several jobs or ranks: each writes a file of its own, and join_predictions() makes one of them.

# `part` of predict(): c(k, n), "k/n", or "rank" for that of the process among those that a launcher has started
check_part <- function(part, path) {
  if (is.null(part)) return(NULL)
  if (is.null(path)) abort("invalid", "`part` is about the file `path`, and none is given.")
  if (identical(part, "rank")) return(launcher_part())
  if (is.character(part) && length(part) == 1 && grepl("^[0-9]+/[0-9]+$", part)) part <- as.numeric(strsplit(part, "/", fixed = TRUE)[[1]])
  if (!is.numeric(part) || length(part) != 2 || anyNA(part) || any(part != round(part)) || part[1] < 1 || part[2] < part[1] ||
      part[2] > 99999) {
    abort("invalid", "`part` must be the number of a part and of all parts, such as c(2, 8), or \"rank\", not ", describe(part), ".")
  }
  as.double(part)
}

# Rank and number of ranks, as mpirun or srun have left them in the environment. MPI itself is not needed.
launcher_part <- function() {
  for (names in list(c("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), c("PMI_RANK", "PMI_SIZE"), c("SLURM_PROCID", "SLURM_NTASKS"))) {
    values <- suppressWarnings(as.numeric(Sys.getenv(names)))
    if (!anyNA(values)) return(c(values[1] + 1, values[2]))
  }
  abort("invalid", "`part = \"rank\"`: neither mpirun nor srun has started this process.")
}

# Errors of a process that a launcher has started say which it is, and where: the log is that of all
name_rank <- function(of_rank, part, code) {
  if (!of_rank) return(code)
  withCallingHandlers(code, error = function(e) {
    e$message <- paste0("rank ", part[1] - 1, " (", Sys.info()[["nodename"]], "): ", conditionMessage(e))
    stop(e)
  })
}

# "latents.fits" -> "latents-2-of-8.fits"
part_path <- function(path, part) {
  if (is.null(part)) return(path)
  paste0(sub("(\\.[A-Za-z]+)?$", "", path), "-", part[1], "-of-", part[2], regmatches(path, regexpr("(\\.[A-Za-z]+)?$", path)))
}

part_rows <- function(n, part) {
  if (is.null(part)) return(seq_len(n))
  first <- floor(n * (part[1] - 1) / part[2]) + 1
  seq_len(floor(n * part[1] / part[2]) - first + 1) + first - 1
}

# As the card PART of a file has it: "2/8"; "" for the whole
part_text <- function(part) paste(as.integer(part), collapse = "/")

#' Join predictions of parts
#'
#' Makes one file of those that [predict.spender()] has written with `part`: to the last byte the one that a single call without `part`
#' would have written.
#'
#' @param paths All parts, in any order.
#' @param path The file to write.
#' @param overwrite Replace a file that is there?
#' @param progress Show a progress bar? `NULL`: in interactive sessions.
#' @return `path`, invisibly; [read_predictions()] reads it.
#' @section Errors: `spender_error_parts` where a part is missing, given twice, not finished, or of other spectra or another fit;
#'   `spender_error_exists` for a file that is there.
#' @seealso [read_predictions()], which also reads all parts at once.
#' @export
#' @examples
#' x <- simulate_spectra(16, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 2, epochs = 2, network = small, threads = 1, progress = FALSE)
#' path <- tempfile(fileext = ".fits")
#' parts <- c(predict(fit, x, "latent", path = path, part = c(1, 2)),
#'            predict(fit, x, "latent", path = path, part = c(2, 2)))
#' basename(parts)
#' join_predictions(parts, path)
#' dim(read_predictions(path))
join_predictions <- function(paths, path, overwrite = FALSE, progress = NULL) {
  if (!is.character(paths) || !length(paths) || anyNA(paths)) abort("invalid", "`paths` must be names of files, not ", describe(paths), ".")
  check_path(path)
  check_flag(overwrite, "overwrite")
  path <- path.expand(path)
  if (normalizePath(path, mustWork = FALSE) %in% normalizePath(paths, mustWork = FALSE)) abort("invalid", "`path` is one of the parts.")
  info <- lapply(paths, function(p) .Call(ffi_survey_info, p))
  order <- order_of_parts(paths, info)
  paths <- paths[order]
  info <- info[order]
  if (overwrite) remove_survey(path)
  check_new_file(path)
  first <- info[[1]]
  ours <- !first$columns %in% c("PADDING", "ROWSUM")
  temporary <- paste0(path, ".joining")
  remove_survey(temporary)
  on.exit(unlink(temporary))
  .Call(ffi_survey_create, temporary, "RESULTS", first$wave, first$instrument, first$prepared, "",
        first$columns[ours], first$types[ours], first$repeats[ours])
  n <- vapply(info, `[[`, 0, "n")
  tick <- progress_bar("Spectra", sum(n), shows_progress(progress))
  for (i in seq_along(paths)) {
    for (rows in parts_of(n[i], 16384)) {
      .Call(ffi_survey_append, temporary, unname(read_columns(paths[i], info[[i]], first$columns[ours], first$types[ours], rows)))
      tick(sum(n[seq_len(i - 1)]) + max(rows, 0))
    }
  }
  finish_survey(temporary)
  if (!file.rename(temporary, path)) abort("io", "The file ", path, " could not be made.")
  invisible(path)
}

read_columns <- function(path, info, columns, types, rows) {
  floats <- types == "E"
  out <- vector("list", length(columns))
  out[!floats] <- .Call(ffi_survey_columns, path, info$n, columns[!floats], as.double(rows))
  out[floats] <- lapply(columns[floats], function(name) .Call(ffi_survey_matrix, path, info$n, name, as.double(rows)))
  out
}

order_of_parts <- function(paths, info) {
  refuse <- function(i, ...) abort("parts", basename(paths[i]), " ", ...)
  parts <- vapply(info, `[[`, "", "part")
  other <- which(!grepl("^[0-9]+/[0-9]+$", parts))
  if (length(other)) refuse(other[1], "is not a part: predict() has not written it with `part`.")
  for (i in seq_along(info)) {
    other <- differing_parts(info[[i]]$prepared, info[[1]]$prepared)
    if (length(other)) refuse(i, "has not the same ", enumerate(other), " as ", basename(paths[1]), ".")
  }
  part <- as.numeric(sub("/.*", "", parts))
  numbers <- as.numeric(sub(".*/", "", parts))
  number <- numbers[1]
  other <- which(numbers != number)
  if (length(other)) refuse(other[1], "is one of ", numbers[other[1]], " parts, ", basename(paths[1]), " one of ", number, ".")
  if (anyDuplicated(part)) refuse(anyDuplicated(part), "is a part that was given before, ", part[anyDuplicated(part)], " of ", number, ".")
  missing <- setdiff(seq_len(number), part)
  if (length(missing)) abort("parts", "Of ", number, " parts these are missing: ", enumerate(missing), ".")
  unfinished <- which(!vapply(info, `[[`, NA, "finished"))
  if (length(unfinished)) refuse(unfinished[1], "is not finished: the same call of predict() goes on with it.")
  order(part)
}

# read_predictions() of several files
read_parts <- function(paths, table) {
  if (!is.character(paths) || !length(paths) || anyNA(paths)) abort("invalid", "`path` must be names of files, not ", describe(paths), ".")
  order <- order_of_parts(paths, lapply(paths, function(path) .Call(ffi_survey_info, path)))
  values <- lapply(paths[order], read_predictions, table = table)
  if (!is.list(values[[1]])) return(bind_results(values))
  bound <- lapply(setNames(nm = names(values[[1]])), function(name) bind_results(lapply(values, `[[`, name)))
  if (!table) return(bound)
  structure(bound, class = "data.frame", row.names = seq_len(sum(vapply(values, nrow, 0L))))
}

# Vectors, matrices or arrays with a row for each spectrum, one below the other
bind_results <- function(values) {
  first <- values[[1]]
  if (is.null(dim(first))) return(do.call(c, values))
  if (length(dim(first)) == 2) return(do.call(rbind, values))
  flat <- do.call(rbind, lapply(values, function(v) matrix(v, dim(v)[1])))
  array(flat, c(nrow(flat), dim(first)[-1]), c(list(unlist(lapply(values, function(v) dimnames(v)[[1]]))), dimnames(first)[-1]))
}
