#' Spectra in dplyr's verbs
#'
#' Methods of dplyr's verbs for [spectra()] and surveys: conditions, orders and new columns are of the catalogue, which [as.data.frame()]
#' shows, and each spectrum stays with its row. They are there once dplyr is loaded.
#'
#' @param .data,x [spectra()], or a survey for `filter()`, `arrange()` and `slice()`.
#' @param ... As for data frames. `mutate()` changes columns of the catalogue, not `id`, `z` and `norm`.
#' @param y A data frame.
#' @param by Names of the columns by which rows belong together, as in [join_catalogue()]; by default those that both have.
#' @param .preserve,.by_group,copy,suffix,keep Not used.
#' @return Spectra or a survey. `left_join()` is [join_catalogue()]: rows of `y` that would duplicate a spectrum are an error.
#' @seealso [select_galaxies()], [join_catalogue()]
#' @name dplyr-verbs
#' @examplesIf requireNamespace("dplyr", quietly = TRUE)
#' x <- simulate_spectra(12, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' near <- dplyr::filter(x, z < 0.1)
#' dplyr::arrange(near, dplyr::desc(z))$id
NULL

# Rows of the catalogue that a verb returns, in its order
rows_by <- function(verb, x, ...) {
  catalogue <- as.data.frame(x)
  catalogue$.spectrum <- seq_len(nrow(catalogue))
  verb(catalogue, ...)$.spectrum
}

#' @rdname dplyr-verbs
#' @usage \method{filter}{spectra}(.data, ..., .preserve = FALSE)
#' @rawNamespace S3method(dplyr::filter, spectra)
#' @rawNamespace S3method(dplyr::filter, survey)
filter.spectra <- function(.data, ..., .preserve = FALSE) .data[rows_by(dplyr::filter, .data, ...)]
filter.survey <- filter.spectra

#' @rdname dplyr-verbs
#' @usage \method{arrange}{spectra}(.data, ..., .by_group = FALSE)
#' @rawNamespace S3method(dplyr::arrange, spectra)
#' @rawNamespace S3method(dplyr::arrange, survey)
arrange.spectra <- function(.data, ..., .by_group = FALSE) .data[rows_by(dplyr::arrange, .data, ...)]
arrange.survey <- arrange.spectra

#' @rdname dplyr-verbs
#' @usage \method{slice}{spectra}(.data, ..., .preserve = FALSE)
#' @rawNamespace S3method(dplyr::slice, spectra)
#' @rawNamespace S3method(dplyr::slice, survey)
slice.spectra <- function(.data, ..., .preserve = FALSE) .data[rows_by(dplyr::slice, .data, ...)]
slice.survey <- slice.spectra

#' @rdname dplyr-verbs
#' @usage \method{mutate}{spectra}(.data, ...)
#' @rawNamespace S3method(dplyr::mutate, spectra)
mutate.spectra <- function(.data, ...) {
  before <- as.data.frame(.data)
  after <- dplyr::mutate(before, ...)
  own <- c("id", "z", "norm")
  changed <- own[!vapply(own, function(name) identical(after[[name]], before[[name]]), NA)]
  if (length(changed)) {
    abort("invalid", "mutate() changes columns of the catalogue, and ", code_list(changed), " belong", if (length(changed) == 1) "s",
          " to the spectra.")
  }
  .data$meta <- after[setdiff(names(after), own)]
  .data
}

#' @rdname dplyr-verbs
#' @usage \method{left_join}{spectra}(x, y, by = NULL, copy = FALSE, suffix = c(".x", ".y"), ..., keep = NULL)
#' @rawNamespace S3method(dplyr::left_join, spectra)
left_join.spectra <- function(x, y, by = NULL, copy = FALSE, suffix = c(".x", ".y"), ..., keep = NULL) {
  if (is.null(by)) by <- intersect(c("id", names(x$meta)), names(y))
  join_catalogue(x, y, by)
}
