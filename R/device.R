#' What this build and this machine can compute on
#'
#' @return A list of class `spender_devices`: `built` (what was compiled in: OpenMP, CBLAS, CFITSIO, CUDA), `cores`, `threads`
#'   (those a fit uses by default), `instructions` (the instruction set that convolutions use here: `"avx512"`, `"avx2"` or
#'   `"baseline"`, chosen when the package runs, whatever machine it was built on) and `devices`, a data frame with one row per
#'   device that can be used now.
#' @details The same data, seed and build give the same result to the last bit for any number of threads, on processors with the
#'   same instruction set; between instruction sets results differ in the last digits.
#' @export
#' @examples
#' devices()
devices <- function() {
  info <- .Call(ffi_build_info)
  structure(list(
    built = unlist(info[c("openmp", "cblas", "cfitsio", "cuda")]),
    cores = info$cores,
    threads = default_threads(),
    instructions = info$instructions,
    devices = data.frame(device = "cpu", name = paste(info$cores, ngettext(info$cores, "core", "cores")))
  ), class = "spender_devices")
}

#' @export
print.spender_devices <- function(x, ...) {
  cat("built with  ", paste(names(x$built), ifelse(x$built, "yes", "no"), collapse = "   "), "\n", sep = "")
  cat("devices     ", paste0(x$devices$device, " (", x$devices$name, ")", collapse = ", "), "\n", sep = "")
  cat("threads     ", x$threads, "\n", sep = "")
  cat("vectors     ", x$instructions, "\n", sep = "")
  invisible(x)
}

# All cores, unless the user says otherwise; two where R CMD check asks packages to be modest.
default_threads <- function() {
  threads <- getOption("spender.threads")
  if (is.null(threads)) {
    threads <- .Call(ffi_build_info)$cores
    limit <- Sys.getenv("_R_CHECK_LIMIT_CORES_")
    if (nzchar(limit) && toupper(limit) != "FALSE") threads <- min(threads, 2)
  }
  check_number(threads, "options(\"spender.threads\")", 1, 4096, whole = TRUE)
  threads
}

fit_threads <- function(threads) {
  if (is.null(threads)) return(default_threads())
  check_number(threads, "threads", 1, 4096, whole = TRUE)
  threads
}

# "auto" is a wish, anything else a demand.
choose_device <- function(device) {
  if (!is.character(device) || length(device) != 1 || !device %in% c("auto", "cpu", "cuda")) {
    abort("invalid", "`device` must be \"auto\", \"cpu\" or \"cuda\", not ", describe(device), ".")
  }
  if (device == "cuda") {
    abort("unsupported", "`device = \"cuda\"`: this build of spender has no CUDA backend; use \"cpu\" or \"auto\".")
  }
  "cpu"
}

# For batch programs only (inst/scripts/train.R): SIGTERM interrupts, so that the fit of the epochs done is kept.
interrupt_on_sigterm <- function() invisible(.Call(ffi_interrupt_on_sigterm))
