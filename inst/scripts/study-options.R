# Options of the study programs, name=value on the command line: a list like `defaults`, whose values say which are numbers.
read_options <- function(defaults) {
  for (argument in commandArgs(TRUE)) {
    parts <- regmatches(argument, regexec("^([a-z]+)=(.*)$", argument))[[1]]
    if (length(parts) != 3 || !parts[2] %in% names(defaults)) {
      stop("not an option: ", argument, "; known are ", paste(names(defaults), collapse = ", "))
    }
    defaults[[parts[2]]] <- if (is.numeric(defaults[[parts[2]]])) as.numeric(parts[3]) else parts[3]
  }
  defaults
}

numbers <- function(text) as.numeric(strsplit(text, ",", fixed = TRUE)[[1]])
