# Catalogue columns that spectra carry: put one under the other, and joined by key.

# Rows one under the other; a column that a part lacks is NA there, of the class that it has elsewhere.
bind_columns <- function(parts, sizes) {
  columns <- unique(unlist(lapply(parts, names)))
  bound <- lapply(columns, function(name) {
    pieces <- lapply(parts, `[[`, name)
    there <- which(!vapply(pieces, is.null, NA))
    filled <- Map(function(piece, n) if (is.null(piece)) missing_like(pieces[[there[1]]], n) else piece, pieces, sizes)
    bind_pieces(filled, name)
  })
  names(bound) <- columns
  structure(bound, row.names = .set_row_names(sum(sizes)), class = "data.frame")
}

# n missing values of a column's class
missing_like <- function(column, n) {
  if (is.data.frame(column)) return(column[rep(NA_integer_, n), , drop = FALSE])
  if (length(dim(column)) == 2) return(column[rep(NA_integer_, n), , drop = FALSE])
  if (inherits(column, "integer64")) return(structure(rep(integer64_missing, n), class = "integer64"))
  if (is.list(column)) return(rep(list(NULL), n))
  column[rep(NA_integer_, n)]
}

# -2^63 as the double that has its bits
integer64_missing <- -0

bind_pieces <- function(pieces, name) {
  class_of <- function(piece) class(piece)[1]
  classes <- vapply(pieces, class_of, "")
  same <- length(unique(classes)) == 1
  if (same && any(vapply(pieces, function(piece) length(dim(piece)) == 2, NA))) {
    if (length(unique(vapply(pieces, ncol, 0L))) != 1) {
      abort("catalogue", "The catalogue column `", name, "` is a matrix of different widths in the parts to be joined.")
    }
    bound <- do.call(rbind, pieces)
    rownames(bound) <- NULL
    return(bound)
  }
  if (same && classes[1] == "factor") {
    levels <- unique(unlist(lapply(pieces, levels)))
    return(factor(unlist(lapply(pieces, as.character)), levels = levels))
  }
  if (same && classes[1] == "integer64") return(structure(unlist(lapply(pieces, unclass)), class = "integer64"))
  plain <- c("logical", "integer", "numeric", "character", "factor", "integer64")
  unknown <- vapply(pieces, function(piece) is.logical(piece) && all(is.na(piece)), NA)
  others <- unique(classes[!unknown])
  if (!same && all(others %in% c("logical", "integer", "numeric"))) return(do.call(c, unname(pieces)))
  if (!same && all(others %in% plain)) return(unlist(lapply(pieces, plain_text)))
  if (!same && length(others) == 1) { # all missing elsewhere
    pieces[unknown] <- lapply(pieces[unknown], function(piece) missing_like(pieces[[which(!unknown)[1]]], length(piece)))
    return(bind_pieces(pieces, name))
  }
  if (!same) {
    abort("catalogue", "The catalogue column `", name, "` is ", enumerate(others), " in the parts to be joined: give it one class in all.")
  }
  do.call(c, unname(pieces))
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

  matched <- match_rows(lapply(mine, function(name) if (name == "id") x$id else x$meta[[name]]), lapply(theirs, function(name) data[[name]]))
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

# Rows of a column of whatever class, where `[` of integer64 is at hand or not
take_from <- function(column, row) {
  if (length(dim(column)) == 2) return(column[row, , drop = FALSE])
  if (!inherits(column, "integer64")) return(column[row])
  values <- unclass(column)[row]
  values[is.na(row)] <- integer64_missing
  structure(values, class = "integer64")
}

# Rows of `theirs` that have the values of the rows of `mine` in every column, and rows of `theirs` whose key another one has. Values are
# compared as values, numbers with texts as exact texts; a missing value matches nothing.
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
