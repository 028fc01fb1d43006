# Progress of long calls: a bar with the rate and the time left.

# Whether to show it: NULL means in interactive sessions.
shows_progress <- function(progress) {
  if (is.null(progress)) return(interactive())
  check_flag(progress, "progress")
  progress
}

# A function of the number done that moves a bar, which ends with the function that called this; one that does nothing unless `show`.
progress_bar <- function(name, total, show, .envir = parent.frame()) {
  if (!show || total == 0) return(function(done) invisible())
  bar <- cli::cli_progress_bar(name, total = total, .envir = .envir,
                               format = "{cli::pb_name}{cli::pb_bar} {cli::pb_percent}, {cli::pb_rate}, {cli::pb_eta_str}")
  function(done) cli::cli_progress_update(id = bar, set = done, .envir = .envir)
}
