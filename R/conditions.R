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

# "`a`, `b` and 5 more"
code_list <- function(x, most = 6) enumerate(paste0("`", x, "`"), most)
