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
  plan <- do.call(plan_simulation, c(list(n), arguments))
  if (overwrite) remove_survey(path)
  check_new_file(path)
  session <- new_simulated_survey(path, plan)
  on.exit(close_session(session))
  tick <- progress_bar("Spectra", n, progress)
  part <- 2048 # drawn while the one before is made: long enough that what a draw costs by itself does not count
  for (first in seq(0, n - 1, by = part)) {
    drawn <- draw_objects(plan, min(part, n - first), first)
    .Call(ffi_simulate, drawn$shared, drawn$objects, first, FALSE, plan$recipe,
          list(session = session, columns = unname(simulated_columns(drawn))))
    tick(first + length(drawn$id))
  }
  .Call(ffi_survey_written, session)
  invisible(open_survey(path))
}

# Columns of the file before FLUX and IVAR, resolutions among them; norm and sn_median are filled in where the spectra are made.
simulated_columns <- function(drawn) {
  unknown <- rep(NA_real_, length(drawn$id))
  parameters <- drawn$parameters
  c(list(ID = drawn$id, Z = drawn$objects$z, NORM = unknown), as.list(drawn$meta), list(sn_median = unknown),
    setNames(as.list(parameters), paste0("true_", names(parameters))),
    if (!is.null(drawn$resolution)) setNames(list(drawn$resolution$values), resolution_column(drawn$resolution)))
}

# A new file of them, open to be written to by a session. Texts may be longer than those of the first spectra.
new_simulated_survey <- function(path, plan) {
  columns <- simulated_columns(draw_objects(plan, 1))
  m <- length(plan$instrument$wave)
  repeats <- column_repeats(columns, list(ID = 20, class = 6, subclass = 12, true_type = 12))
  .Call(ffi_survey_create, path, "SPECTRA", plan$instrument$wave, plan$instrument$name, "", "", c(names(columns), "FLUX", "IVAR"),
        unname(c(column_types(columns), "E", "E")), as.double(c(repeats, m, m)))
  .Call(ffi_survey_write, path, 1024)
}
