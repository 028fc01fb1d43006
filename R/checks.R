# Checks of arguments. Each stops with a sentence that names the argument, the expected value and the given one.

check_counts <- function(x, name, length = NULL) {
  if (!is.numeric(x) || anyNA(x) || any(x < 1) || any(x != round(x)) || (!is.null(length) && length(x) != length)) {
    abort("invalid", "`", name, "` must be ", if (is.null(length)) "" else paste0(length, " "), "positive whole numbers.")
  }
}

check_number <- function(x, name, min = -Inf, max = Inf, whole = FALSE) {
  if (!is.numeric(x) || length(x) != 1 || is.na(x) || x < min || x > max || (whole && x != round(x))) {
    range <- if (is.finite(max)) paste0(" between ", format(min), " and ", format(max, scientific = FALSE))
             else if (is.finite(min)) paste0(" of at least ", format(min)) else ""
    abort("invalid", "`", name, "` must be one ", if (whole) "whole ", "number", range, ", not ", describe(x), ".")
  }
}

check_flag <- function(x, name) {
  if (!is.logical(x) || length(x) != 1 || is.na(x)) abort("invalid", "`", name, "` must be TRUE or FALSE, not ", describe(x), ".")
}

# Arguments in `...` of a function that takes none there, or only those that are `known`
check_dots <- function(of, ..., known = character()) {
  names <- names(list(...))
  if (is.null(names)) names <- rep("", ...length())
  unknown <- setdiff(names, known)
  if (!length(unknown)) return(invisible())
  if (any(unknown == "")) abort("invalid", of, "() has an argument too many: further ones need names.")
  near <- setdiff(names(formals(sys.function(-1))), "...")
  near <- near[utils::adist(unknown[1], near)[1, ] <= 2]
  abort("invalid", of, "() does not know the argument ", code_list(unknown), ".",
        if (length(near)) paste0(" Did you mean `", near[1], "`?"))
}

# `path` where results are returned
refuse_path <- function(of, type, ...) {
  if ("path" %in% names(list(...))) {
    abort("invalid", of, "() returns its result and takes no `path`: predict(fit, x, \"", type, "\", path = ...) writes to a file.")
  }
}

check_spectra <- function(x, name = "x") {
  if (!inherits(x, "spectra")) {
    abort("invalid", "`", name, "` must be spectra, as made by spectra(), read_sdss() or simulate_spectra(); it is ",
          describe(x), ".")
  }
  check_whole(x, name)
}

# Fields of an object may have been changed by hand.
check_whole <- function(x, name = "x") {
  n <- length(x$z)
  width <- length(x$instrument$wave)
  for (field in c("flux", "ivar")) {
    if (!is.matrix(x[[field]]) || !is.double(x[[field]]) || !identical(dim(x[[field]]), c(n, width))) {
      abort("invalid", "`", name, "$", field, "` must be a matrix of numbers with a row for each of the ", n,
            " redshifts and a column for each of the ",
            width, " pixels; it is ", describe_shape(x[[field]]), ". Choose spectra by `x[rows]`, which keeps all fields together.")
    }
  }
  for (field in c("z", "norm", "id", if (!is.null(x$object)) "object")) {
    if (length(x[[field]]) != n || !(if (field %in% c("id", "object")) is.character else is.numeric)(x[[field]])) {
      abort("invalid", "`", name, "$", field, "` must have an element for each of the ", n, " redshifts; it is ",
            describe_shape(x[[field]]),
            ". Choose spectra by `x[rows]`, which keeps all fields together.")
    }
  }
  r <- x$resolution
  if (!is.null(r) && (!is.list(r) || !is.matrix(r$values) || !is.double(r$values) || nrow(r$values) != n)) {
    abort("invalid", "`", name, "$resolution` must have values for each of the ", n, " redshifts, as spectra() makes them.")
  }
  if (!is.data.frame(x$meta) || nrow(x$meta) != n) {
    abort("invalid", "`", name, "$meta` must be a data frame with a row for each of the ", n, " redshifts; it is ", describe_shape(x$meta),
          ".")
  }
}

check_survey <- function(x) {
  if (!inherits(x, "survey")) abort("invalid", "`x` must be a survey from open_survey() or spectra, not ", describe(x), ".")
}

# Spectra in memory or in files
check_source <- function(x) if (!inherits(x, "survey")) check_spectra(x)

# Of one instrument (FALSE), or a list with a name for each of several (TRUE)
check_sources <- function(x, name = "x") {
  if (!is.list(x) || is.object(x)) {
    check_source(x)
    return(FALSE)
  }
  names <- names(x)
  if (!length(x) || is.null(names) || anyNA(names) || any(names == "") || anyDuplicated(names)) {
    abort("invalid", "A list `", name, "` must have spectra or a survey of each instrument, by different names, such as ",
          "list(sdss = x, desi = y).")
  }
  if (length(x) > 16) abort("invalid", "A fit has at most 16 instruments, not ", length(x), ".")
  for (of in names) if (!inherits(x[[of]], "survey")) check_spectra(x[[of]], paste0(name, "$", of))
  TRUE
}

check_network <- function(network) {
  if (!inherits(network, "spender_network")) {
    abort("invalid", "`network` must come from spender_network(); it is ", describe(network), ".")
  }
}

check_fit <- function(fit) {
  if (inherits(fit, "spender_joint")) {
    abort("invalid", "`fit` is of several instruments: choose one, such as fit$", names(fit)[1], ".")
  }
  if (!inherits(fit, "spender")) {
    abort("invalid", "`fit` must be a fit from spender() or read_model(); it is ", describe(fit), ".")
  }
}

check_same_grid <- function(fit, x) {
  ours <- fit$instrument$wave
  theirs <- x$instrument$wave
  if (length(ours) != length(theirs) || any(abs(ours - theirs) > 1e-6 * ours)) {
    abort("grid", "The spectra's wavelength grid (", describe_grid(theirs), ") is not the fit's (", describe_grid(ours), ").")
  }
  check_has_resolution(fit, x)
}

check_pixels <- function(x, name, instrument) {
  if (is.data.frame(x)) x <- as.matrix(x)
  if (!is.numeric(x) && !(is.logical(x) && all(is.na(x))) || length(dim(x)) > 2) {
    abort("invalid", "`", name, "` must be a numeric matrix or vector, not ", describe(x), ".")
  }
  if (!is.matrix(x)) x <- matrix(x, nrow = 1)
  if (ncol(x) != length(instrument$wave)) {
    abort("dimension", "`", name, "` has ", count(ncol(x), "pixel"), " a spectrum, but the grid `wave` has ",
          length(instrument$wave), ".")
  }
  storage.mode(x) <- "double"
  x
}

check_redshift <- function(z, n) {
  if (!is.numeric(z) && !(is.logical(z) && all(is.na(z)))) abort("invalid", "`z` must be numeric, not ", describe(z), ".")
  if (length(z) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `z` has length ", length(z), ".")
  z <- as.double(z)
  bad <- which(!is.finite(z) | z <= -1)
  if (length(bad)) {
    abort("redshift", "`z` must be finite and above -1; it is not in row", if (length(bad) > 1) "s", " ", enumerate(bad), ".")
  }
  z
}

# Row names that are the spectra's, in another order, are followed; others are taken for the numbers that data frames keep of rows.
check_meta <- function(meta, n, names = NULL) {
  if (is.null(meta)) return(data.frame(row.names = seq_len(n)))
  if (!is.data.frame(meta)) abort("invalid", "`meta` must be a data frame, not ", describe(meta), ".")
  if (nrow(meta) != n) abort("dimension", "`flux` has ", count(n, "row"), ", but `meta` has ", nrow(meta), ".")
  meta <- as.data.frame(meta)
  own <- row.names(meta)
  if (!is.null(names) && !identical(own, names) && !anyDuplicated(names) && setequal(own, names)) {
    meta <- meta[match(names, own), , drop = FALSE]
  }
  row.names(meta) <- NULL
  meta
}

check_truth <- function(truth, n) {
  if (!is.null(truth) && !is.list(truth)) abort("invalid", "`truth` must be a list or NULL, not ", describe(truth), ".")
  wrong <- which(vapply(truth, function(e) has_rows(e) && nrow(e) != n, NA))
  if (length(wrong)) {
    abort("dimension", "`flux` has ", count(n, "row"), ", but `truth$", names(truth)[wrong[1]], "` has ", nrow(truth[[wrong[1]]]), ".")
  }
}

check_positive <- function(x, name, n) {
  if (!is.numeric(x) || !length(x) %in% c(1, n) || any(!is.finite(x)) || any(x <= 0))
    abort("invalid", "`", name, "` must be one number or one for each of the ", n, " spectra, finite and above 0.")
}

# One of some texts
check_choice <- function(x, name, choices) {
  if (!is.character(x) || length(x) != 1 || !x %in% choices) {
    quoted <- paste0("\"", choices, "\"")
    abort("invalid", "`", name, "` must be ", paste(quoted[-length(quoted)], collapse = ", "), " or ", quoted[length(quoted)], ", not ",
          describe(x), ".")
  }
}

# One file name, there or not
check_path <- function(x, name = "path") {
  if (!is.character(x) || length(x) != 1 || is.na(x) || !nzchar(x)) {
    abort("invalid", "`", name, "` must be one file name, not ", describe(x), ".")
  }
}

# A file to be made
check_new_file <- function(path) {
  if (file.exists(path)) abort("exists", path, " exists already; `overwrite = TRUE` replaces it.")
}

describe <- function(x) {
  if (is.null(x)) return("NULL")
  if (is.atomic(x) && length(x) == 1) return(if (is.character(x)) paste0("\"", x, "\"") else format(x))
  paste0("an object of class \"", class(x)[1], "\" and length ", length(x))
}

describe_shape <- function(x) {
  if (is.null(x)) return("missing")
  if (length(dim(x)) == 2) return(paste(if (is.data.frame(x)) "a data frame" else paste("a", typeof(x), "matrix"), "of",
                                        paste(dim(x), collapse = " by ")))
  paste("a", class(x)[1], "of length", length(x))
}
