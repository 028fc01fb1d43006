# Joins parts of spectra: catalogue columns and truth.

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

# The truth of joined spectra: elements that all parts have. Elements without rows are dropped unless they are equal.
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
