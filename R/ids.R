# Ids of spectra: unique texts, one for each row. If ids had to be made unique, `object` keeps the original ones, so that training and
# validation never share an object.

# Numbers as exact text, independent of the locale; NA stays NA.
number_text <- function(x) {
  if (inherits(x, "integer64")) return(.Call(ffi_integer64_text, x))
  text <- rep(NA_character_, length(x))
  whole <- !is.na(x) & x == round(x) & abs(x) < 2^53
  text[whole] <- sprintf("%.0f", x[whole] + 0) # no "-0"
  rest <- !is.na(x) & !whole
  text[rest] <- sprintf("%.15g", x[rest])
  text
}

# A column as text
plain_text <- function(x) if (is.numeric(x) || inherits(x, "integer64")) number_text(x) else as.character(x)

check_id <- function(id, names, n) {
  if (is.null(id)) id <- if (is.null(names) || anyNA(names) || any(names == "") || anyDuplicated(names)) seq_len(n) else names
  if (!is.atomic(id) && !is.factor(id)) abort("invalid", "`id` must be a character vector, not ", describe(id), ".")
  if (length(id) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `id` has length ", length(id), ".")
  if (is.double(id) && !is.object(id) && any(abs(id) >= 2^53, na.rm = TRUE)) {
    abort("id", "`id` has numbers of 2^53 or more, which a double does not hold exactly: give the ids as text.")
  }
  id <- unname(plain_text(id))
  if (anyNA(id)) abort("id", "`id` must not be missing; it is in row", if (sum(is.na(id)) > 1) "s", " ", enumerate(which(is.na(id))), ".")
  if (any(id == "")) abort("id", "`id` must not be empty; it is in row", if (sum(id == "") > 1) "s", " ", enumerate(which(id == "")), ".")
  twice <- unique(id[duplicated(id)])
  if (length(twice)) abort("id", "`id` must be unique; these are not: ", enumerate(twice), ".")
  id
}

# Order that matches elements named `own` to the rows named `names`; NULL if either has no names, or they agree already. If no name matches
# (as after rbind(a, b)), rows are paired by position, with a warning.
order_by_name <- function(own, names, what, rows_of = "`flux`'s rows") {
  if (is.null(own) || is.null(names) || length(own) != length(names) || identical(as.character(own), as.character(names))) return(NULL)
  if (anyNA(c(own, names)) || any(own == "") || any(names == "")) return(NULL)
  order <- match(names, own)
  if (all(is.na(order))) {
    warn("names", "The names of ", what, " are others than those of ", rows_of, " (\"", own[1], "\" beside \"", names[1],
         "\"): they are paired by their order.")
    return(NULL)
  }
  if (anyNA(order) || anyDuplicated(own) || anyDuplicated(names)) {
    abort("id", "The names of ", what, " are not those of ", rows_of, ": \"", own[is.na(match(own, names)) | duplicated(own)][1],
          "\" is not among them. Take the names off, unname(), if their order is right.")
  }
  order
}

# Object ids of spectra; objects saved by earlier versions have ids only.
object_of <- function(x) if (is.null(x$object)) x$id else x$object

# Unique ids of all rows of a survey; the same for any division into parts
survey_ids <- function(x) make.unique(survey_catalogue(x, "ID")$ID)

# The same for a file of results: `digest`, with the columns of the catalogue that are kept; `longest`, bytes of the longest one; and `of`,
# a function of row numbers. Of a survey whose ids are unique already, those of some rows are read when they are asked for.
result_ids <- function(x, keep) {
  is_survey <- inherits(x, "survey")
  others <- if (length(keep)) list(list(keep, if (!is_survey) lapply(unname(as.list(x$meta[keep])), plain_column))) else list()
  if (is_survey) {
    known <- column_digest(x, "ID", TRUE, others)
    if (known$plain) return(c(known[c("digest", "longest")], of = function(rows) survey_catalogue(x, "ID", x$rows[rows])$ID))
  }
  ids <- if (is_survey) survey_ids(x) else x$id
  list(digest = digest_of(c(list(ids), others)), longest = max(1, nchar(to_ascii(ids), "bytes")), of = function(rows) ids[rows])
}

ids_of <- function(x, rows) if (inherits(x, "survey")) survey_catalogue(x, "ID", x$rows[rows])$ID else x$id[rows]

# Objects that the spectra of some rows are of
objects_of <- function(x, rows) {
  if (inherits(x, "survey")) objects_in(survey_catalogue(x, name_columns(x), x$rows[rows])) else object_of(x)[rows]
}

# Columns of a survey that identify its spectra, and the object ids in them
name_columns <- function(x) c("ID", if (x$has_objects %in% TRUE) "OBJECT")

objects_in <- function(names) if (is.null(names$OBJECT)) names$ID else ifelse(is.na(names$OBJECT), names$ID, names$OBJECT)
