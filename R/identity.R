# Fingerprints: digests by which files identify the data and settings that they were made from.

digest_of <- function(x) .Call(ffi_digest, x, default_threads())

# Digest of flux, ivar, redshifts and norms; of a survey the checksums of its rows are read instead of flux and ivar.
data_digest <- function(x) {
  if (!inherits(x, "survey")) return(digest_of(c(list(x$flux, x$ivar, as.double(x$z), as.double(x$norm)), unname(x$resolution))))
  column_digest(x, "ROWSUM", FALSE, list(as.double(x$z), as.double(x$norm)))$digest
}

# digest_of(c(list(column), others)) for one of a survey's columns, texts or whole numbers, without the column in R's memory where all
# files have it; and what ffi_survey_digest() says of texts
column_digest <- function(x, name, texts, others) {
  check_unchanged(x)
  known <- .Call(ffi_survey_digest, x$files$path, x$files$n, name, texts, x$rows, others, default_threads())
  if (!is.null(known)) return(known)
  list(digest = digest_of(c(unname(as.list(survey_catalogue(x, name))), others)), longest = NA, plain = FALSE)
}

# Fingerprint of a fit: short, since a card of a file has room for 68 characters
fit_identity <- function(fit) {
  shape <- as.double(unlist(Filter(is.numeric, fit$architecture))) # whether a number is an integer depends on where the fit was read
  if (uses_resolution(fit)) shape <- c(shape, -1)
  substr(digest_of(list(fit$weights, shape, fit$wave_rest, fit$instrument$wave)), 1, 8)
}

# Fingerprint of results, as stored in their file: the type (of several, their beginnings), and short digests of the fit, the spectra and
# their ids (result_ids()), with the catalogue columns that are kept. Of all types, refined, it has the 68 characters of a card.
result_identity <- function(fit, x, types, ids, inference) {
  short <- function(..., digits = 8) substr(digest_of(list(...)), 1, digits)
  type <- if (length(types) > 1) paste(substr(types, 1, 2), collapse = if (length(types) > 4) "" else "+") else types
  paste0(type, " fit:", fit_identity(fit),
         " spectra:", short(data_digest(x)), " ids:", substr(ids$digest, 1, 8),
         if (inference$steps > 0) paste0(" refine:", short(inference, digits = 4)))
}

# Fingerprint of the preparation of spectra, as stored in a survey file
preparation_text <- function(recipe) {
  short <- function(x) substr(digest_of(x), 1, 12)
  paste0("wave:", short(recipe$wave), " mask_sky:", if (length(recipe$sky)) short(c(recipe$sky, recipe$half_width)) else "none",
         " window:", sprintf("%.6g", recipe$window[1]), "-", sprintf("%.6g", recipe$window[2]))
}

# Names of the parts that differ in two texts such as result_identity() and preparation_text() make
differing_parts <- function(there, wanted) {
  split_parts <- function(text) {
    words <- strsplit(text, " ", fixed = TRUE)[[1]]
    named <- grepl(":", words, fixed = TRUE)
    setNames(c(words[!named], sub("^[^:]*:", "", words[named])), c(rep("type", sum(!named)), sub(":.*", "", words[named])))
  }
  there <- split_parts(there)
  wanted <- split_parts(wanted)
  all <- union(names(wanted), names(there))
  all[vapply(all, function(name) !identical(unname(there[name]), unname(wanted[name])), NA)]
}
