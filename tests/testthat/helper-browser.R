# A page in headless Chromium, through browser.py.

# Path of Chromium or Chrome; skips without it
browser_path <- function() {
  testthat::skip_on_cran()
  path <- c(Sys.getenv("SPENDER_BROWSER"), Sys.which(c("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")))
  path <- path[nzchar(path)]
  testthat::skip_if_not(length(path) > 0, "no Chromium or Chrome")
  path[[1]]
}

# Does steps, as browser.py knows them; returns what each returned, and `console`, `requests` and `seconds` of the page
browse <- function(steps, downloads = tempdir()) {
  browser <- browser_path()
  python <- Sys.which("python3")
  testthat::skip_if_not(nzchar(python), "no python3 to drive the browser")
  file <- withr::local_tempfile(fileext = ".json")
  errors <- withr::local_tempfile()
  jsonlite::write_json(steps, file, auto_unbox = TRUE)
  out <- suppressWarnings(system2(python, shQuote(c(testthat::test_path("browser.py"), browser, file, downloads)), stdout = TRUE,
                                  stderr = errors))
  if (!is.null(attr(out, "status"))) stop("browser.py: ", paste(utils::tail(readLines(errors), 3), collapse = "\n"))
  results <- jsonlite::fromJSON(out, simplifyVector = FALSE)
  c(list(results = results[-length(results)]), results[[length(results)]])
}

file_url <- function(path, id = NULL) {
  paste0("file://", utils::URLencode(normalizePath(path)), if (!is.null(id)) paste0("#", utils::URLencode(id, reserved = TRUE)))
}
