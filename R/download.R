#' Download SDSS spectra
#'
#' Downloads the files that [read_sdss()] and [write_survey()] read, several at a time. Existing files are kept; an interrupted transfer is
#' resumed, in this call or the next one.
#'
#' @param ids Which spectra: a data frame with columns `plate`, `mjd`, `fiber` and `run2d` (the version of the reduction, such as `"26"` or
#'   `"v5_13_0"`), as [read_catalogue()] gives; or `plate-mjd-fiber` as text, all of `run2d`.
#' @param dir The folder to put them in; files of one plate share a folder in it.
#' @param run2d The reduction of ids given as text.
#' @param base_url Root of the data release; `PLATE` has at least four digits.
#' @param parallel How many at a time.
#' @param retries Number of further attempts for a file that failed, in this call.
#' @param stall Seconds without data after which a transfer is given up (and tried again).
#' @param progress Show a progress bar?
#' @return A data frame, one row per spectrum in order: `id`, `path`, `url`, `status` (`"there"`, `"downloaded"` or `"failed"`), `bytes` and
#'   `reason` (why it failed). A warning of class `spender_warning_download` counts those that failed.
#' @section Errors: `spender_error_missing_package` without the package curl; `spender_error_invalid` for ids that are none.
#' @seealso [read_catalogue()], [select_galaxies()], [write_survey()]
#' @export
#' @examples
#' # with a connection:   download_sdss("0266-51602-0013", "spectra"); read_sdss("spectra")
#' # without one, a warning counts what could not be had, and the result says why
#' if (requireNamespace("curl", quietly = TRUE)) {
#'   nowhere <- "http://127.0.0.1:1"
#'   result <- suppressWarnings(download_sdss("0266-51602-0013", tempdir(), base_url = nowhere,
#'                                            retries = 0))
#'   print(result[c("id", "status", "reason")])
#' }
download_sdss <- function(ids, dir, run2d = "26", base_url = "https://data.sdss.org/sas/dr16", parallel = 8, retries = 4, stall = 30,
                          progress = interactive()) {
  if (!requireNamespace("curl", quietly = TRUE)) {
    abort("missing_package", "download_sdss() needs the package curl: install.packages(\"curl\").")
  }
  ids <- check_ids(ids, run2d)
  check_number(parallel, "parallel", 1, 100, whole = TRUE)
  check_number(retries, "retries", 0, 100, whole = TRUE)
  check_number(stall, "stall", 1, 3600)
  check_flag(progress, "progress")
  for (argument in c("dir", "base_url")) {
    value <- get(argument)
    if (!is.character(value) || length(value) != 1 || is.na(value)) {
      abort("invalid", "`", argument, "` must be one text, not ", describe(value), ".")
    }
  }
  plate <- sprintf("%04d", ids$plate)
  id <- sprintf("%s-%05d-%04d", plate, ids$mjd, ids$fiber)
  path <- file.path(path.expand(dir), plate, paste0("spec-", id, ".fits"))
  legacy <- grepl("^[0-9]+$", ids$run2d)
  url <- paste(sub("/$", "", base_url), ifelse(legacy, "sdss", "eboss"), "spectro/redux", ids$run2d, "spectra/lite", plate, basename(path),
               sep = "/")
  for (folder in unique(dirname(path))) dir.create(folder, FALSE, TRUE)

  result <- data.frame(id = id, path = path, url = url, status = ifelse(file.exists(path), "there", "failed"), bytes = NA_real_,
                       reason = "")
  left <- which(result$status == "failed" & !duplicated(path))
  tick <- progress_bar("Files", length(left), progress)
  finished <- 0
  result$reason[left] <- download_files(url[left], path[left], parallel, stall, retries, whole_fits,
                                        function() tick(finished <<- finished + 1))
  result$status[left[!nzchar(result$reason[left])]] <- "downloaded"
  twice <- duplicated(path)
  result$status[twice] <- result$status[match(path[twice], path)]
  result$bytes <- file.size(path)
  failed <- which(result$status == "failed")
  if (length(failed)) {
    warn("download", length(failed), " of ", count(nrow(result), "file"), " could not be downloaded: ", enumerate(id[failed], 3),
         ". The first: ", result$reason[failed[1]], ".")
  }
  result
}

check_ids <- function(ids, run2d) {
  if (is.character(ids)) {
    parts <- regmatches(ids, regexec("^([0-9]+)-([0-9]+)-([0-9]+)$", ids))
    bad <- which(lengths(parts) != 4)
    if (length(bad)) abort("invalid", "`ids` must be plate-mjd-fiber, as 0266-51602-0013; not ", enumerate(paste0('"', ids[bad], '"')), ".")
    number <- function(k) as.integer(vapply(parts, `[`, "", k))
    ids <- data.frame(plate = number(2), mjd = number(3), fiber = number(4), run2d = run2d)
  }
  if (!is.data.frame(ids)) abort("invalid", "`ids` must be a data frame or plate-mjd-fiber as text, not ", describe(ids), ".")
  missing <- setdiff(c("plate", "mjd", "fiber", "run2d"), names(ids))
  if (length(missing)) abort("invalid", "`ids` has no column ", enumerate(missing), ".")
  numbers <- lapply(ids[c("plate", "mjd", "fiber")], function(v) suppressWarnings(as.integer(v)))
  if (anyNA(unlist(numbers)) || anyNA(ids$run2d)) abort("invalid", "`ids` has missing values.")
  data.frame(numbers, run2d = trimws(as.character(ids$run2d)))
}

# Why each failed, "" if it did not, after `retries` further rounds for those that did. whole(part) says why a complete transfer is not the
# file, or "".
download_files <- function(urls, paths, parallel, stall, retries, whole, tick) {
  reasons <- rep("", length(urls))
  left <- seq_along(urls)
  for (attempt in 0:retries) {
    if (!length(left)) break
    if (attempt > 0) Sys.sleep(min(2^(attempt - 1), 30) * getOption("spender.download_pause", 1))
    reasons[left] <- download_round(urls[left], paths[left], parallel, stall, whole, tick)
    # a file that the server does not have, or has another one of, is not requested again
    left <- left[nzchar(reasons[left]) & !grepl("HTTP (401|403|404|410)|SHA-256", reasons[left])]
  }
  reasons
}

# One round: each file into path.part, from where it broke off before, and to its name when it is whole. `parallel` transfers are begun,
# and another one whenever one ends.
download_round <- function(urls, paths, parallel, stall, whole, tick) {
  reasons <- rep("", length(urls))
  pool <- curl::new_pool(total_con = parallel, host_con = parallel)
  begun <- 0
  begin <- function() {
    if (begun == length(urls)) return()
    begun <<- begun + 1
    i <- begun
    part <- paste0(paths[i], ".part")
    have <- if (file.exists(part)) file.size(part) else 0
    handle <- curl::new_handle(low_speed_limit = 1, low_speed_time = ceiling(stall), connecttimeout = ceiling(stall), followlocation = TRUE)
    curl::handle_setheaders(handle, `Accept-Encoding` = "identity")
    if (have > 0) curl::handle_setopt(handle, resume_from_large = have)
    to <- file(part, if (have > 0) "ab" else "wb")
    finish <- function(reason) {
      reasons[i] <<- reason
      tick()
      begin()
    }
    curl::curl_fetch_multi(urls[i], data = function(bytes, ...) writeBin(bytes, to), pool = pool, handle = handle,
                           done = function(response) {
      close(to)
      reason <- judge_download(response, part, have, whole)
      if (nzchar(reason)) unlink(part)
      else if (!file.rename(part, paths[i])) reason <- paste("cannot be renamed to", basename(paths[i]))
      finish(reason)
    }, fail = function(message) {
      close(to)
      # a partial file is kept, to be resumed, unless it is an error page or the server does not support ranges
      if (!curl::handle_data(handle)$status_code %in% c(200, 206) || grepl("resume", message)) unlink(part)
      finish(message)
    })
  }
  for (i in seq_len(min(parallel, length(urls)))) begin()
  curl::multi_run(pool = pool)
  reasons
}

# Why the response is not the file, or "". A server may ignore a range request and send the whole file.
judge_download <- function(response, part, have, whole) {
  code <- response$status_code
  if (!code %in% c(200, 206)) return(paste("HTTP", code))
  if (have > 0 && code == 200) return("the server sent the whole file where its rest was asked for")
  length <- content_length(response$headers)
  size <- file.size(part)
  if (!is.na(length) && size != have + length) return(paste0(size, " bytes came instead of ", have + length))
  whole(part)
}

whole_fits <- function(part) {
  size <- file.size(part)
  if (size == 0 || size %% 2880 != 0) "what came is not a whole FITS file" else ""
}

content_length <- function(headers) {
  lines <- curl::parse_headers(headers)
  value <- sub("^content-length: *", "", grep("^content-length:", lines, ignore.case = TRUE, value = TRUE), ignore.case = TRUE)
  if (length(value)) suppressWarnings(as.numeric(value[length(value)])) else NA
}
