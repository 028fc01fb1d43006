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
  if (length(absent)) abort("catalogue", "The spectra have no catalogue column ", code_list(absent), ".")
  absent <- setdiff(theirs, names(data))
  if (length(absent)) abort("catalogue", "`data` has no column ", code_list(absent), ".")
  new <- setdiff(names(data), theirs)
  present <- intersect(new, names(x$meta))
  if (length(present)) abort("catalogue", "The spectra already have ", code_list(present), ".")

  matched <- match_rows(lapply(mine, function(name) if (name == "id") x$id else x$meta[[name]]),
                        lapply(theirs, function(name) data[[name]]))
  if (length(matched$twice)) {
    keys <- do.call(paste, c(lapply(theirs, function(name) plain_text(data[[name]])[matched$twice]), sep = " "))
    abort("catalogue", "`data` has more than one row for ", enumerate(unique(keys)), ".")
  }
  row <- matched$row
  if (anyNA(row)) {
    warn("unmatched", sum(is.na(row)), " of ", count(length(x), "spectrum", "spectra"),
         " are not in `data`; their new columns are NA.")
  }
  x$meta[new] <- lapply(new, function(name) take_from(data[[name]], row))
  x
}

# Rows of a column of any class, also integer64 without the package bit64
take_from <- function(column, row) {
  if (length(dim(column)) == 2) return(column[row, , drop = FALSE])
  if (!inherits(column, "integer64")) return(column[row])
  values <- unclass(column)[row]
  values[is.na(row)] <- integer64_missing
  structure(values, class = "integer64")
}

# `row`: for each row of `mine` the row of `theirs` with equal values in all columns; `twice`: rows of `theirs` with a duplicated key.
# Values are compared by value, numbers with texts as exact texts; missing values match nothing.
match_rows <- function(mine, theirs) {
  codes <- Map(function(a, b) {
    if (is.factor(a)) a <- as.character(a)
    if (is.factor(b)) b <- as.character(b)
    if (inherits(a, "integer64") || inherits(b, "integer64") || is.character(a) || is.character(b)) {
      a <- plain_text(a)
      b <- plain_text(b)
    }
    known <- unique(b[!is.na(b)])
    list(mine = match(a, known), theirs = match(b, known))
  }, mine, theirs)
  combine <- function(side) {
    columns <- lapply(codes, `[[`, side)
    key <- if (length(columns) == 1) columns[[1]] else do.call(paste, columns)
    key[Reduce(`|`, lapply(columns, is.na))] <- NA
    key
  }
  key <- combine("theirs")
  row <- match(combine("mine"), key, incomparables = NA)
  list(row = row, twice = which(duplicated(key) & !is.na(key)))
}
