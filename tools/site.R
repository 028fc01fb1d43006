# Builds the site of _pkgdown.yml into build/site, for reading without a network, and checks its links. Run by tools/site.sh, in the
# repository's root, with the package installed where R finds it.
options(pkgdown.internet = FALSE)
folder <- "build/site"
unlink(folder, recursive = TRUE)
own <- function(name) normalizePath(file.path("tools/site", name)) # pkgdown changes folders
pkg <- pkgdown::as_pkgdown(".", override = list(destination = folder, template = list(path = own("templates"), assets = own("assets"))))
pkgdown::check_pkgdown(pkg)
pkgdown::init_site(pkg)
pkgdown::build_home(pkg, preview = FALSE)
pkgdown::build_reference(pkg, lazy = FALSE, devel = FALSE, preview = FALSE, run_dont_run = FALSE, seed = 1)
pkgdown::build_articles(pkg, lazy = FALSE, preview = FALSE)
pkgdown::build_news(pkg, preview = FALSE)

# measured results, which README and articles link to
for (file in list.files("bench/results", "\\.md$", full.names = TRUE)) {
  body <- tempfile(fileext = ".html")
  rmarkdown::pandoc_convert(normalizePath(file), to = "html5", from = "gfm", output = body)
  title <- sub("^# *", "", grep("^#", readLines(file), value = TRUE)[1])
  page <- sub("md$", "html", file)
  dir.create(file.path(folder, dirname(page)), recursive = TRUE, showWarnings = FALSE)
  pkgdown::render_page(pkg, "title-body", list(pagetitle = title, body = paste(readLines(body), collapse = "\n")), page, depth = 2L)
}

# what the pages' search reads: of each its title, the functions it documents, and its text
pages <- setdiff(list.files(folder, "\\.html$", recursive = TRUE), c("404.html", "LICENSE-text.html"))
rows <- lapply(pages, function(page) {
  main <- xml2::xml_find_first(xml2::read_html(file.path(folder, page)), "//main")
  words <- function(nodes) trimws(gsub("\\s+", " ", paste(xml2::xml_text(nodes), collapse = " ")))
  topic <- match(basename(page), pkg$topics$file_out)
  list(path = page, title = words(xml2::xml_find_first(main, ".//h1")), text = words(main),
       names = I(if (startsWith(page, "reference/") && !is.na(topic)) pkg$topics$alias[[topic]] else character()))
})
writeLines(paste0("window.siteIndex = ", jsonlite::toJSON(rows, auto_unbox = TRUE), ";"), file.path(folder, "search.js"), useBytes = TRUE)
stopifnot(file.copy(file.path(R.home("doc"), "html", "katex"), folder, recursive = TRUE)) # R 4.2 or newer
unlink(file.path(folder, c("pkgdown.js", "link.svg")))
