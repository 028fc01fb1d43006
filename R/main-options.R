# Options of the command line. A table has a row for each: name, type, default as text, help. Types: number, numbers, text, texts (lists
# have commas), flag (present or not), choice:a|b, choices:a|b.

option <- function(name, type, default, help) data.frame(name = name, type = type, default = default, help = help)

# Those of every command
common_options <- function() {
  rbind(
    option("overwrite", "flag", "", "replace files that exist"),
    option("threads", "number", "", "threads; all cores if not given"),
    option("quiet", "flag", "", "no progress"),
    option("json", "flag", "", "end with one JSON object on the standard output"),
    option("help", "flag", "", "print this and stop")
  )
}

model_option <- function() option("model", "text", "model.safetensors", "the model, as train writes it, or one of the published code")
refine_options <- function(default = "") {
  rbind(
    option("refine", "number", default, "Gauss-Newton steps to the latents of largest likelihood"),
    option("robust", "number", "", "degrees of freedom of Student's t; normal errors if not given"),
    option("prior", "flag", "", "refined latents have the training sample as a prior")
  )
}
device_options <- function(precision = "fp32") {
  rbind(
    option("device", "choice:auto|cpu|cuda", "auto", "where to compute"),
    option("precision", "choice:fp32|tf32|fp16|bf16", precision, "of convolutions and activations on a GPU")
  )
}

options_help <- function(table) {
  kind <- sub("^choices?:", "", table$type)
  kind[table$type == "flag"] <- ""
  kind <- sub("^(numbers?|texts?)$", "<\\1>", kind)
  left <- format(trimws(paste0("--", table$name, " ", kind), "right"))
  default <- ifelse(nzchar(table$default), paste0(" [", table$default, "]"), "")
  paste0("  ", left, "  ", table$help, default, "\n", collapse = "")
}

usage <- function(...) abort("usage", ...)

# A word as the value of an option of this type
option_value <- function(text, name, type) {
  kind <- sub(":.*", "", type)
  values <- if (kind %in% c("numbers", "texts", "choices")) strsplit(text, ",", fixed = TRUE)[[1]] else text
  if (kind %in% c("number", "numbers")) {
    numbers <- suppressWarnings(as.numeric(values))
    if (!length(numbers) || anyNA(numbers)) {
      usage("--", name, " must be ", if (kind == "numbers") "numbers separated by commas" else "a number", ", not \"", text, "\"")
    }
    return(numbers)
  }
  if (kind %in% c("choice", "choices")) {
    known <- strsplit(sub("^[^:]*:", "", type), "|", fixed = TRUE)[[1]]
    if (!length(values) || !all(values %in% known)) {
      few <- if (kind == "choices") "some" else "one"
      usage("--", name, " must be ", few, " of ", paste(known, collapse = ", "), ", not \"", text, "\"")
    }
  }
  values
}

# list(options: every one by name, NULL without value; given: names of those on the command line; input: the other words)
parse_words <- function(words, table) {
  types <- setNames(table$type, table$name)
  values <- Map(function(name, type, default) {
    if (type == "flag") FALSE else if (nzchar(default)) option_value(default, name, type)
  }, table$name, table$type, table$default)
  input <- given <- character()
  while (length(words)) {
    word <- words[1]
    words <- words[-1]
    if (word == "--") {
      input <- c(input, words)
      break
    }
    if (!startsWith(word, "-") || word == "-") {
      input <- c(input, word)
      next
    }
    name <- sub("=.*", "", sub("^--?", "", word))
    if (name == "h") name <- "help"
    if (!name %in% names(types)) usage("there is no option ", sub("=.*", "", word), "; --help lists them")
    given <- c(given, name)
    has_value <- grepl("=", word, fixed = TRUE)
    if (types[[name]] == "flag") {
      if (has_value) usage("--", name, " takes no value")
      values[[name]] <- TRUE
      next
    }
    if (!has_value && !length(words)) usage("--", name, " needs a value")
    values[[name]] <- option_value(if (has_value) sub("^[^=]*=", "", word) else words[1], name, types[[name]])
    if (!has_value) words <- words[-1]
  }
  list(options = values, given = given, input = input)
}

need_input <- function(o, input) {
  if (!length(input) && is.null(o$simulate)) usage("no INPUT was given; --help says more")
  if (length(input) && !is.null(o$simulate)) usage("--simulate and INPUT exclude each other")
  missing <- input[!file.exists(input)]
  if (length(missing)) abort("files", "there is no file or folder ", missing[1])
}

# Hours of work are not lost to a name that was taken, or to a folder that is not there. goes_on: files that may be there
check_outputs <- function(paths, overwrite, goes_on = character()) {
  for (path in paths) {
    folder <- dirname(path)
    if (!dir.exists(folder)) abort("io", "there is no folder ", folder, " to write ", basename(path), " to")
    if (file.access(folder, 2) != 0) abort("io", "the folder ", folder, " cannot be written to")
    if (file.exists(path) && !overwrite && !path %in% goes_on) abort("exists", path, " exists; --overwrite replaces it")
  }
}

is_csv <- function(path) grepl("\\.csv$", path, ignore.case = TRUE)
