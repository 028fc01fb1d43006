#' The package as a program
#'
#' `spender::main()` runs a command of the command line: from spectra to a survey file, a model, latents, outliers and a page, without R
#' code of one's own. `--help` after a command lists its options.
#'
#' @param arguments The words of the command line.
#' @param quit Leave R with the exit code?
#' @return The exit code, invisibly, unless R is left.
#'
#' @section On the command line:
#' ```sh
#' Rscript -e 'spender::main()' COMMAND [options] [INPUT ...]
#' ```
#' or, shorter, the program that the package installs, linked to a folder of the search path:
#' ```sh
#' mkdir -p ~/bin
#' ln -s "$(Rscript -e 'cat(system.file("scripts/spender", package = "spender"))')" ~/bin/spender
#' spender COMMAND [options] [INPUT ...]
#' ```
#' The commands' default names of files make this a complete analysis:
#' ```sh
#' spender ingest folder-of-spectra     # survey.fits, by write_survey()
#' spender train survey.fits            # model.safetensors, by spender()
#' spender encode survey.fits           # latents.fits, by predict(path = )
#' spender outliers survey.fits         # outliers.csv, by outliers()
#' spender explore --unusual outliers.csv survey.fits   # explore.html, by explore()
#' ```
#' `INPUT` is survey files, files of SDSS, BOSS or DESI, folders of these, or `.rds` files of [spectra()]. Progress and messages go to
#' the standard error, one line an epoch or a bar; `--quiet` leaves them out. With `--json` the last thing a command does is to write one
#' JSON object to the standard output: `command`, `status` (the exit code), `seconds`, `warnings`, and what was made (`output`,
#' `spectra`, and numbers of the command), or an `error` with its `class`, as R has it, and `message`.
#' @section Exit codes:
#' - 0: done
#' - 1: it could not be done: the input is missing, damaged or has no usable spectrum, the training diverged, or a file is there already or
#'   cannot be written
#' - 2: the command line is wrong
#' - 3: stopped by SIGINT or SIGTERM; `train` has written the model of the epochs done, if there are any
#' - 4: stopped by SIGINT or SIGTERM, and the same command goes on from there: `ingest`, `encode` to a FITS file, and `train` with
#'   `--checkpoint` and `--resume`
#' @seealso `vignette("cluster")`
#' @export
#' @examples
#' main("--help")
#' main(c("encode", "--help"))
main <- function(arguments = commandArgs(TRUE), quit = missing(arguments)) {
  if (!is.character(arguments) || anyNA(arguments)) abort("invalid", "`arguments` must be texts, not ", describe(arguments), ".")
  check_flag(quit, "quit")
  if (quit) interrupt_on_sigterm()
  status <- run_program(arguments)
  if (quit) quit(save = "no", status = status)
  invisible(status)
}

run_program <- function(arguments) {
  commands <- program_commands()
  if (!length(arguments)) {
    message(program_usage(commands))
    return(2)
  }
  if (arguments[1] %in% c("--help", "-h", "help")) {
    cat(program_usage(commands), exit_codes, sep = "\n")
    return(0)
  }
  if (arguments[1] == "--version") {
    cat("spender", format(utils::packageVersion("spender")), "\n")
    return(0)
  }
  if (!arguments[1] %in% names(commands)) {
    message("spender: there is no command ", arguments[1], "; --help lists them")
    return(2)
  }
  run_command(arguments[1], commands[[arguments[1]]], arguments[-1])
}

run_command <- function(name, command, words) {
  say <- function(...) message("spender ", name, ": ", ...)
  json <- "--json" %in% words # whatever is wrong with the others
  started <- proc.time()[["elapsed"]]
  warnings <- character()
  options <- list()
  failed <- function(e) {
    say(conditionMessage(e))
    list(status = if (inherits(e, "spender_error_usage")) 2 else 1,
         error = list(class = sub("^spender_error_", "", class(e)[1]), message = conditionMessage(e)))
  }
  outcome <- withCallingHandlers(tryCatch({
    parsed <- parse_words(words, command$options)
    options <- parsed$options
    if (options$help) {
      cat(command_help(name, command))
      return(0)
    }
    command$run(options, parsed$input, parsed$given)
  }, error = failed, interrupt = function(e) {
    goes_on <- command$goes_on(options)
    say("stopped", if (goes_on) "; the same command goes on from here")
    list(status = if (goes_on) 4 else 3)
  }), spender_warning = function(w) {
    warnings <<- c(warnings, conditionMessage(w))
    message(conditionMessage(w))
    invokeRestart("muffleWarning")
  })
  status <- if (is.null(outcome$status)) 0 else outcome$status
  if (json && !isFALSE(outcome$first)) {
    outcome <- c(list(command = name, status = status, seconds = round(proc.time()[["elapsed"]] - started, 1)),
                 outcome[names(outcome) != "status"], list(warnings = I(warnings)))
    cat(jsonlite::toJSON(outcome, auto_unbox = TRUE, digits = NA, null = "null", na = "null"), "\n", sep = "")
  }
  status
}

# Commands: one line of description, what INPUT is, the table of options, `run(options, input, given)`, which returns what --json shows,
# and whether the same command goes on where it was stopped.
program_commands <- function() {
  never <- function(o) FALSE
  list(
    ingest = list(summary = "read files of spectra into one survey file", options = ingest_options(), run = run_ingest,
                  goes_on = function(o) is.null(o$simulate),
                  input = "files of SDSS, BOSS or DESI, or folders of them; files that the survey has are not read again"),
    train = list(summary = "train an autoencoder and write the model", options = train_options(), run = run_train,
                 goes_on = function(o) !is.null(o$checkpoint) && o$resume,
                 input = paste0(any_input, "; surveys are read during training and may be larger than memory")),
    encode = list(summary = "write latents and other results of a model", options = encode_options(), run = run_encode,
                  goes_on = function(o) !is.null(o$output) && !is_csv(o$output), input = any_input),
    join = list(summary = "make one file of the parts that encode --part has written", options = join_options(), run = run_join,
                goes_on = never, input = "all parts"),
    outliers = list(summary = "rank spectra by how odd they are", options = outliers_options(), run = run_outliers, goes_on = never,
                    input = any_input),
    explore = list(summary = "write a page that shows spectra, models and latents in a browser", options = explore_options(),
                   run = run_explore, goes_on = never, input = any_input)
  )
}

any_input <- "survey files, SDSS, BOSS or DESI files, folders of these, or .rds files of spectra()"

program_usage <- function(commands) {
  paste0(c("spender: autoencode galaxy spectra\n\n  Rscript -e 'spender::main()' COMMAND [options] [INPUT ...]\n\nCommands",
           paste0("  ", format(names(commands)), "  ", vapply(commands, `[[`, "", "summary")),
           "\nCOMMAND --help lists its options, --version says which version this is."), collapse = "\n")
}

command_help <- function(name, command) {
  paste0("\nspender ", name, ": ", command$summary, "\n\n  Rscript -e 'spender::main()' ", name, " [options] [INPUT ...]\n\n",
         paste(strwrap(paste("INPUT:", command$input), 100), collapse = "\n"),
         "\nOptions are given as --name value or --name=value; flags take no value.\n\nOptions\n", options_help(command$options),
         exit_codes, "\n")
}

exit_codes <- "
Exit codes
  0  done
  1  it could not be done: missing, damaged or unusable input, a diverged training, a file that exists or cannot be written
  2  the command line is wrong
  3  stopped by SIGINT or SIGTERM; train has written the model of the epochs done, if there are any
  4  stopped by SIGINT or SIGTERM, and the same command goes on from there (ingest, encode, train with --checkpoint and --resume)"
