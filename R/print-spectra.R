#' @export
summary.spectra <- function(object, ...) {
  check_dots("summary", ...)
  check_whole(object, "object")
  catalogue <- as.data.frame(object)
  structure(list(n = length(object), instrument = object$instrument, z = catalogue$z, sn = catalogue$sn,
                 masked = catalogue$masked, norm = catalogue$norm, meta = names(object$meta),
                 class = if (!is.null(object$meta$class)) table(object$meta$class, useNA = "ifany"),
                 problems = object$problems, truth = names(object$truth),
                 resolution = if (!is.null(object$resolution)) describe_resolution(object$resolution)), class = "summary.spectra")
}

#' @export
print.spectra <- function(x, ...) {
  print_facts(summary(x))
  invisible(x)
}

#' @export
print.summary.spectra <- function(x, ...) {
  print_facts(x)
  if (x$n) {
    cat("\n")
    print(t(vapply(list(redshift = x$z, `S/N` = x$sn, masked = x$masked, norm = x$norm), function(v) {
      stats::quantile(v, c(0, 0.05, 0.5, 0.95, 1), na.rm = TRUE)
    }, double(5))), digits = 3)
  }
  if (length(x$class)) cat("\nclass: ", paste0(names(x$class), " ", x$class, collapse = ", "), "\n", sep = "")
  if (nrow(x$problems)) {
    cat("\nproblems:\n")
    print(x$problems, right = FALSE)
  }
  invisible(x)
}

fact <- function(name, ...) cat_narrow(paste0(...), paste0("  ", formatC(name, width = -13)))

# Prints a text after a label; what a narrow console has no room for goes on below the text.
cat_narrow <- function(text, label = "", width = getOption("width")) {
  lines <- paste0(label, text)
  if (nchar(lines, "width") > width) {
    lines <- strwrap(text, max(width, nchar(label) + 20), initial = label, prefix = strrep(" ", nchar(label)))
  }
  cat(lines, sep = "\n")
}

print_facts <- function(s) {
  between <- function(v, digits) {
    v <- v[!is.na(v)]
    if (length(v) == 1) return(formatC(v, digits = digits, format = "f"))
    v <- formatC(c(stats::median(v), range(v)), digits = digits, format = "f")
    paste0(v[2], " to ", v[3], ", median ", v[1])
  }
  cat("<spectra> ", count(s$n, "spectrum", "spectra"), "\n", sep = "")
  fact("grid", format(s$instrument))
  if (s$n) {
    fact("redshift", between(s$z, 3))
    if (!all(is.na(s$sn))) fact("S/N", between(s$sn, 1), " (per pixel)")
    fact("masked", sprintf("%.1f %% of the pixels", 100 * mean(s$masked)))
  }
  if (!is.null(s$resolution)) fact("resolution", s$resolution)
  without <- sum(is.na(s$norm))
  if (without) fact("without norm", without, " (fits leave ", if (without == 1) "it" else "them", " out)")
  if (length(s$meta)) fact("catalogue", enumerate(s$meta, 8))
  if (length(s$truth)) fact("truth", enumerate(s$truth, 8))
  if (nrow(s$problems)) {
    out <- is.na(s$problems$row)
    unread <- sum(out & is.na(s$problems$id))
    dropped <- sum(out) - unread
    rest <- sum(!out)
    what <- c(if (rest) count(rest, "spectrum", "spectra"), if (dropped) paste(count(dropped, "target"), "left out"),
              if (unread) paste(count(unread, "file"), "not read"))
    fact("problems", paste(what, collapse = ", "), "; see problems()")
  }
}

# Lines by which a galaxy spectrum is recognised, the most informative first
telling_lines <- function() {
  lines <- spectral_lines()
  order <- c("Halpha", "Hbeta", "OIII_5008", "OII_3727", "CaII_K", "MgI_b2", "NaI_D2", "Hgamma", "Hdelta", "SII_6718", "G_band",
             "CaII_H", "OIII_4960", "OI_6302", "NII_6585", "CaII_8544")
  lines[match(order, lines$name), c("wave", "label")]
}

count <- function(n, noun, plural = paste0(noun, "s")) paste(n, if (n == 1) noun else plural)
