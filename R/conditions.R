# Typed conditions: every error is a "spender_error", every warning a "spender_warning", each with its own subclass,
# so that batch code can catch what it expects and let the rest through.

abort <- function(class, ..., call = NULL) {
  stop(structure(class = c(paste0("spender_error_", class), "spender_error", "error", "condition"),
                 list(message = paste0(...), call = call)))
}

warn <- function(class, ..., call = NULL) {
  warning(structure(class = c(paste0("spender_warning_", class), "spender_warning", "warning", "condition"),
                    list(message = paste0(...), call = call)))
}

# Called from C when a core function returned a status.
raise_core_error <- function(status, message) abort(status, message)

# "3, 17, 20 and 5 more"
enumerate <- function(x, most = 6) {
  if (length(x) <= most) return(paste(x, collapse = ", "))
  paste0(paste(x[seq_len(most)], collapse = ", "), " and ", length(x) - most, " more")
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
  abort("invalid", of, "() does not know the argument ", enumerate(paste0("`", unknown, "`")), ".",
        if (length(near)) paste0(" Did you mean `", near[1], "`?"))
}

# `path` where results are returned
refuse_path <- function(of, type, ...) {
  if ("path" %in% names(list(...))) {
    abort("invalid", of, "() returns its result and takes no `path`: predict(fit, x, \"", type, "\", path = ...) writes to a file.")
  }
}
