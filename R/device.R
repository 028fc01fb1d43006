#' Devices that this build and this machine can use
#'
#' @return A list of class `spender_devices`: `built` (optional parts of this build: CBLAS, CFITSIO, CUDA, MPI, NCCL), `cores` (those this
#'   process may use: of its affinity mask, or fewer where a container or batch system grants less processor time), `threads`
#'   (those a fit uses by default: `getOption("spender.threads")`, else `OMP_NUM_THREADS`, else all cores, and no more than
#'   `OMP_THREAD_LIMIT`), `instructions` (the instruction set that convolutions use here: `"avx512"`, `"avx2"` or
#'   `"baseline"`, chosen when the package runs, whatever machine it was built on) and `devices`, a data frame with one row per
#'   device that can be used now: `device` (`"cpu"` or `"cuda"`), `name`, and for GPUs `memory_gb` and `capability` (of compute).
#' @details The same data, seed and build give the same result to the last bit for any number of threads, on processors with the
#'   same instruction set; between instruction sets results differ in the last digits. So it is on a GPU, with the same GPU,
#'   CUDA version, precision and batch size.
#'
#'   A build with CUDA works without a GPU or driver, on the CPU. Of several GPUs the first is used; the environment variable
#'   `CUDA_VISIBLE_DEVICES` selects another. Forks of a process that has used a GPU ([parallel::mclapply()]) cannot use one:
#'   `device = "cuda"` is refused there, and `"auto"` takes the CPU. The processes of [parallel::makeCluster()] can.
#'
#'   `device = "auto"` takes a GPU if there is one. `options(spender.device = "cpu")`, or the environment variable `SPENDER_DEVICE=cpu`
#'   where the option is not set, makes it the CPU; `"cuda"` makes it the GPU, and an error where none can be used.
#'
#'   What a fit or prediction has opened on a GPU stays open for the next one; [release_gpu()] gives it back.
#' @export
#' @examples
#' devices()
devices <- function() {
  info <- .Call(ffi_build_info)
  gpus <- .Call(ffi_cuda_devices)
  structure(list(
    built = unlist(info[c("cblas", "cfitsio", "cuda", "mpi", "nccl")]),
    cores = info$cores,
    threads = default_threads(),
    instructions = info$instructions,
    devices = data.frame(
      device = c("cpu", rep("cuda", length(gpus$name))),
      name = c(paste(info$cores, ngettext(info$cores, "core", "cores")), gpus$name),
      memory_gb = c(NA, gpus$memory / 1e9),
      capability = c(NA, gpus$capability)
    )
  ), class = "spender_devices")
}

#' @export
print.spender_devices <- function(x, ...) {
  cat("built with  ", paste(names(x$built), ifelse(x$built, "yes", "no"), collapse = "   "), "\n", sep = "")
  cat("devices     ", paste0(x$devices$device, " (", x$devices$name, ")", collapse = ", "),
      if (x$built[["cuda"]] && !"cuda" %in% x$devices$device) "; no GPU here", "\n", sep = "")
  cat("threads     ", x$threads, "\n", sep = "")
  cat("vectors     ", x$instructions, "\n", sep = "")
  invisible(x)
}

# The option, OMP_NUM_THREADS, or all cores that this process may use; at most two under R CMD check.
default_threads <- function() {
  threads <- getOption("spender.threads")
  if (is.null(threads)) {
    threads <- threads_of("OMP_NUM_THREADS")
    if (is.na(threads)) threads <- .Call(ffi_build_info)$cores
    threads <- min(threads, threads_of("OMP_THREAD_LIMIT"), na.rm = TRUE)
    limit <- Sys.getenv("_R_CHECK_LIMIT_CORES_")
    if (nzchar(limit) && toupper(limit) != "FALSE") threads <- min(threads, 2)
  }
  check_number(threads, "options(\"spender.threads\")", 1, 4096, whole = TRUE)
  threads
}

# The first number of such a variable ("4", "4,2"); NA where it has none.
threads_of <- function(variable) {
  value <- sub(",.*", "", Sys.getenv(variable))
  if (grepl("^ *[0-9]{1,4} *$", value) && as.integer(value) > 0) min(as.integer(value), 4096L) else NA_integer_
}

fit_threads <- function(threads) {
  if (is.null(threads)) return(default_threads())
  check_number(threads, "threads", 1, 4096, whole = TRUE)
  threads
}

#' Give back what is kept open on a GPU
#'
#' Opening a GPU takes tenths of a second. What a fit or prediction has opened (streams, handles and up to 200 MB of workspace) is
#' therefore kept for the next one, until R ends or the package is unloaded. This function gives it back sooner, for other programs that
#' use the GPU; the next fit opens it anew. CUDA itself keeps some hundred MB for as long as the process lives. Without a GPU the function
#' does nothing.
#'
#' @return `NULL`, invisibly.
#' @seealso [devices()]
#' @export
#' @examples
#' release_gpu()
release_gpu <- function() invisible(.Call(ffi_cuda_release))

# What "auto" means: list(device, asked by). The option, else the environment variable, else a GPU if there is one.
auto_device <- function() {
  option <- getOption("spender.device")
  by <- if (is.null(option)) "SPENDER_DEVICE" else "options(\"spender.device\")"
  device <- if (!is.null(option)) option else Sys.getenv("SPENDER_DEVICE", "auto")
  if (identical(device, "")) device <- "auto"
  check_choice(device, by, c("auto", "cpu", "cuda"))
  list(device = device, by = by)
}

# Resolves `device`: "auto" falls back to the CPU, "cuda" fails instead. Returns the list that .Call entries read; on a CPU precision is
# fp32.
choose_device <- function(device, precision, threads) {
  check_choice(device, "device", c("auto", "cpu", "cuda"))
  by <- "device"
  if (device == "auto") {
    auto <- auto_device()
    device <- auto$device
    by <- auto$by
  }
  check_choice(precision, "precision", c("fp32", "tf32", "fp16", "bf16"))
  threads <- fit_threads(threads)
  gpus <- if (device != "cpu") .Call(ffi_cuda_devices)
  if (device == "cuda" && length(gpus$name) == 0) {
    reason <- if (!.Call(ffi_build_info)$cuda) {
      "this build of spender has no CUDA (see the README's section on installation)"
    } else if (gpus$forked) {
      "a GPU cannot be used in a forked process (parallel::mclapply) whose parent has used it"
    } else {
      "there is no GPU that can be used here (no device, or no driver)"
    }
    abort("unsupported", "`", by, " = \"cuda\"`: ", reason, "; use \"cpu\" or \"auto\".")
  }
  if (length(gpus$name)) return(list(device = "cuda", precision = precision, threads = threads, name = gpus$name[1]))
  list(device = "cpu", precision = "fp32", threads = threads,
       name = paste(threads, ngettext(threads, "thread", "threads")))
}

# A GPU is full with 1024 spectra, a CPU's caches with fewer.
choose_batch_size <- function(batch_size, device) {
  if (is.null(batch_size)) return(if (device$device == "cuda") 1024 else 64)
  check_number(batch_size, "batch_size", 1, 1e6, whole = TRUE)
  batch_size
}

# For main() as a program only: SIGTERM interrupts, so that the fit of the epochs done is kept.
interrupt_on_sigterm <- function() invisible(.Call(ffi_interrupt_on_sigterm))
