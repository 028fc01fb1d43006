# Checks the style of all R code by lintr (.lintr has the rules), that lines of examples fit the manual, and that the site's reference has
# every help page, and so every function, in one group. Prints what it finds; the last line is a count.
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

pages <- list.files("man", "\\.Rd$", full.names = TRUE)
tagged <- function(page, tag) {
  lines <- grep(paste0("^\\\\", tag, "\\{"), readLines(page), value = TRUE)
  sub("\\}$", "", sub("^[^{]*\\{", "", lines))
}
aliases <- lapply(pages, tagged, "alias")
page_of <- function(names) rep(pages, lengths(aliases))[match(names, unlist(aliases))]
exported <- sub("^export\\((.*)\\)$", "\\1", grep("^export\\(", readLines("NAMESPACE"), value = TRUE))
found <- c(found, sprintf("NAMESPACE: %s has no help page", exported[is.na(page_of(exported))]))
grouped <- unlist(lapply(yaml::read_yaml("_pkgdown.yml")$reference, `[[`, "contents"))
found <- c(found, sprintf("_pkgdown.yml: there is no help page of %s", grouped[is.na(page_of(grouped))]))
public <- pages[!vapply(pages, function(page) "internal" %in% tagged(page, "keyword"), NA)]
groups <- table(factor(page_of(grouped), public))
found <- c(found, sprintf("_pkgdown.yml: %s is in %d groups, not one", basename(public), groups)[groups != 1])
if (length(found)) writeLines(found)
cat(length(found), "deviations\n")
quit(status = if (length(found)) 1 else 0)
