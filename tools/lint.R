# Checks the style of all R code by lintr (.lintr has the rules), and that lines of examples fit the manual. Prints what it finds; the last
# line is a count.
found <- unlist(lapply(c("R", "tests", "inst/scripts", "tools", "data-raw", "bench"), function(folder) {
  lapply(lintr::lint_dir(folder), function(lint) paste0(file.path(folder, lint$filename), ":", lint$line_number, ": ", lint$message))
}))
widest <- 100 # R CMD check's
for (file in list.files("R", full.names = TRUE)) {
  lines <- readLines(file)
  tag <- cumsum(grepl("^#' @|^[^#]", lines))
  example <- tag %in% tag[grepl("^#' @examples", lines)] & grepl("^#' [^@]", lines)
  found <- c(found, sprintf("%s:%d: Lines of examples should not be more than %d characters.", file,
                            which(example & nchar(lines) - 3 > widest), widest))
}
if (length(found)) writeLines(found)
cat(length(found), "deviations\n")
quit(status = if (length(found)) 1 else 0)
