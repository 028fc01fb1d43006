# Checks the style of all R code by lintr (.lintr has the rules). Prints what it finds; the last line is a count.
found <- unlist(lapply(c("R", "tests", "inst/scripts", "tools", "data-raw", "bench"), function(folder) {
  lapply(lintr::lint_dir(folder), function(lint) paste0(file.path(folder, lint$filename), ":", lint$line_number, ": ", lint$message))
}))
if (length(found)) writeLines(found)
cat(length(found), "deviations\n")
quit(status = if (length(found)) 1 else 0)
