#' Simulate a survey
#'
#' [simulate_spectra()] into a survey file, some thousand spectra at a time, in bounded memory.
#'
#' @param n Number of spectra.
#' @param path The file to write.
#' @param ... Arguments of [simulate_spectra()], except `rest` and `galaxies`. A `seed` is chosen where none is given; the spectra are those
#'   of `simulate_spectra(n, ...)` with that seed.
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
  check_path(path)
  arguments <- list(...)
  unknown <- setdiff(names(arguments), setdiff(names(formals(simulate_spectra)), c("n", "rest", "galaxies")))
  if (length(unknown) || length(arguments) && is.null(names(arguments))) {
    abort("invalid", "simulate_survey() does not know the argument ", code_list(unknown), ".")
  }
  each <- vapply(arguments[intersect(c("z", "sn"), names(arguments))], length, 1L)
  wrong <- names(each)[!each %in% c(0, 1, n)]
  if (length(wrong)) abort("invalid", "`", wrong[1], "` must be one number or one for each of the ", n, " spectra.")
  if (is.null(arguments$seed)) arguments$seed <- sample.int(.Machine$integer.max, 1)
  if (overwrite) remove_survey(path)
  check_new_file(path)
  part <- 4096
  tick <- progress_bar("Spectra", n, progress)
  for (first in seq(0, n - 1, by = part)) {
    rows <- min(part, n - first)
    given <- lapply(arguments[intersect(c("z", "sn"), names(arguments))], function(v) if (length(v) > 1) v[first + seq_len(rows)] else v)
    if (!is.null(arguments$z)) given$z_grid <- range(arguments$z)
    given$sn_each <- identical(length(arguments$sn), as.integer(n))
    x <- do.call(simulate_rows, c(list(n = rows, first = first, rest = FALSE), utils::modifyList(arguments, given)))
    parameters <- x$truth$parameters
    x$meta <- cbind(x$meta, setNames(parameters, paste0("true_", names(parameters))))
    append_spectra(x, path, list(ID = 20, subclass = 12, true_type = 12))
    tick(first + rows)
  }
  finish_survey(path)
  invisible(open_survey(path))
}
