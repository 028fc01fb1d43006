# Starts a server that has `files` and the faults of server.py for some of them; gives its URL and what it was asked for.
local_server <- function(folder, faults = character(), env = parent.frame()) {
  testthat::skip_if_not_installed("curl")
  python <- Sys.which("python3")
  testthat::skip_if_not(nzchar(python), "no python3 to serve files")
  log <- withr::local_tempfile(.local_envir = env)
  out <- withr::local_tempfile(.local_envir = env)
  file.create(log)
  arguments <- c(testthat::test_path("server.py"), folder, log, if (length(faults)) paste(names(faults), faults, sep = ":"))
  pid <- system2("sh", c("-c", shQuote(paste(paste(shQuote(c(python, arguments)), collapse = " "), ">", shQuote(out), "2>&1 & echo $!"))),
                 stdout = TRUE)
  withr::defer(tools::pskill(as.integer(pid), tools::SIGKILL), envir = env)
  for (i in 1:100) {
    port <- if (file.exists(out)) suppressWarnings(readLines(out, 1))
    if (length(port)) break
    Sys.sleep(0.05)
  }
  if (!length(port) || !grepl("^[0-9]+$", port)) testthat::skip("the server did not start")
  list(url = paste0("http://127.0.0.1:", port), asked = function() readLines(log))
}
