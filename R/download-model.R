# The published hub. A file's name ends in the first digits of its SHA-256.
published_models <- c(
  sdss_I = "spender.sdss.paperI-08798cbc.pt",
  sdss_I_superres = "spender.sdss.paperI.superres-0403266c.pt",
  sdss_II = "spender.sdss.paperII-c273bb69.pt",
  desi_edr_galaxy = "spender.desi-edr.galaxyae-b9bc8d12.pt",
  desi_edr_star = "spender.desi-edr.starae-2e33f4e5.pt",
  desi_edr_galaxy_flow = "spender.desi-edr.galaxyflow-b71f8966.pt",
  desi_edr_star_flow = "spender.desi-edr.starflow-a6ff6fcf.pt"
)

#' Download a published model
#'
#' Downloads weights of the published PyTorch code for [read_model()]. An existing file is kept; an interrupted transfer is resumed, in this
#' call or the next one.
#'
#' | name | spectra | latents | restframe | paper |
#' |---|---|---|---|---|
#' | `"sdss_I"` | SDSS main galaxy sample | 10 | 5881 pixels, z to 0.5 | Melchior et al. 2023 |
#' | `"sdss_I_superres"` | same, with a line spread function | 8 | 11762 pixels | same |
#' | `"sdss_II"` | SDSS main galaxy sample | 6 | 7000 pixels | Liang et al. 2023a |
#' | `"desi_edr_galaxy"` | DESI EDR, bright galaxy survey | 6 | 9780 pixels, z to 0.8 | Liang et al. 2023b |
#' | `"desi_edr_star"` | DESI EDR, Milky Way survey | 6 | 7864 pixels, z to 0.005 | same |
#' | `"desi_edr_galaxy_flow"`, `"desi_edr_star_flow"` | | 6 | | density of the latents of the two |
#'
#' Files of the first paper may lack the wavelengths of the instrument: `read_model(path, wave = instrument("sdss"))` gives them.
#'
#' The SHA-256 of a file is compared with the digits that its name ends in, as its publishers name their files. The name of another file of
#' theirs may be given, too; where it has no such digits, the SHA-256 of what came is told, written to a file beside it (`.sha256`,
#' which `sha256sum -c` reads), and compared by later calls.
#'
#' @param name One of the names above, or the name of another file at `base_url`.
#' @param path The file to write; its published name where `path` is a folder, and by default, in the working directory.
#' @param base_url Where the files are.
#' @inheritParams download_sdss
#' @return `path` of the file.
#' @section Errors: `spender_error_download` where the file could not be had; the message names the address and the place to put it, for a
#'   machine without a connection. `spender_error_format` where an existing file has another SHA-256. `spender_error_missing_package`
#'   without the package curl.
#' @references Melchior, P. et al. 2023, AJ 166, 74. Liang, Y. et al. 2023a, AJ 166, 75. Liang, Y. et al. 2023b, ApJL 956, L6.
#' @seealso [read_model()]
#' @export
#' @examples
#' # with a connection:   fit <- read_model(download_model("sdss_II", "models"))
#' # without one, the message says where the file is and where to put it
#' told <- tryCatch(download_model("sdss_II", tempdir(), base_url = "http://127.0.0.1:1", retries = 0),
#'                  spender_error = conditionMessage)
#' cat(strwrap(told, 80), sep = "\n")
download_model <- function(name, path = NULL, base_url = "https://huggingface.co/pmelchior/spender/resolve/main", retries = 4,
                           stall = 30) {
  check_path(base_url, "base_url")
  check_number(retries, "retries", 0, 100, whole = TRUE)
  check_number(stall, "stall", 1, 3600)
  file <- published_file(name)
  if (is.null(path)) path <- file
  check_path(path)
  path <- path.expand(path)
  if (dir.exists(path)) path <- file.path(path, file)
  url <- paste0(sub("/$", "", base_url), "/", file)

  digest <- published_digest(file, path)
  wrong <- function(part) {
    found <- .Call(ffi_sha256, part)
    if (!startsWith(found, digest)) return(paste0("its SHA-256 is ", found, ", not ", digest, if (nchar(digest) < 64) "..."))
    if (!.Call(ffi_torch_is, part)) "what came is not a file of weights" else ""
  }
  if (file.exists(path)) {
    reason <- wrong(path)
    if (nzchar(reason)) abort("format", path, ": is not ", file, ": ", reason, ". Without it, download_model() gets it again.")
    return(path)
  }
  if (!dir.exists(dirname(path))) abort("io", path, ": there is no folder ", dirname(path))
  place <- file.path(normalizePath(dirname(path)), basename(path))
  by_hand <- paste0("To do without, get ", url, " in another way and put it at ", place, ".")
  if (!requireNamespace("curl", quietly = TRUE))
    abort("missing_package", "download_model() needs the package curl: install.packages(\"curl\"). ", by_hand)
  reason <- download_files(url, path, 1, stall, retries, wrong, function() NULL)
  if (nzchar(reason)) abort("download", file, " could not be downloaded: ", reason, ". ", by_hand)
  if (!nzchar(digest)) {
    digest <- .Call(ffi_sha256, path)
    writeLines(paste0(digest, "  ", basename(path)), paste0(path, ".sha256"))
    message("No checksum of ", file, " is published; this one's SHA-256 is ", digest, ", noted in ", path, ".sha256.")
  }
  path
}

published_file <- function(name) {
  if (is.character(name) && length(name) == 1 && name %in% names(published_models)) return(published_models[[name]])
  if (!is.character(name) || length(name) != 1 || is.na(name) || !grepl("^[A-Za-z0-9_][A-Za-z0-9_.-]*\\.pt$", name)) {
    abort("invalid", "`name` must be one of ", paste0('"', names(published_models), '"', collapse = ", "),
          ", or a file's name that ends in .pt; not ", describe(name), ".")
  }
  name
}

# The first digits of the SHA-256 that a file must have, or all of them; "" where they are not known
published_digest <- function(file, path) {
  found <- regmatches(file, regexec("-([0-9a-f]{8,64})\\.pt$", file))[[1]]
  if (length(found)) return(found[2])
  note <- paste0(path, ".sha256")
  digits <- if (file.exists(path) && file.exists(note)) sub(" .*", "", readLines(note, 1, warn = FALSE))
  if (length(digits) && grepl("^[0-9a-f]{64}$", digits)) digits else ""
}
