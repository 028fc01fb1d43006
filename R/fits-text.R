# FITS's texts are ASCII: any other byte, and a percent sign that looks like its code, is written as %XX.
to_ascii <- function(text) {
  odd <- which(grepl("[^ -~]|%[0-9A-F]{2}", text, useBytes = TRUE))
  text[odd] <- vapply(text[odd], function(t) {
    # outside UTF-8 sessions, names of files are bytes of no known encoding: they stay the bytes that they are
    bytes <- charToRaw(if (Encoding(t) == "unknown" && validUTF8(t)) t else enc2utf8(t))
    values <- as.integer(bytes)
    paste(ifelse(values < 32 | values > 126 | values == 37, sprintf("%%%02X", values), rawToChar(bytes, multiple = TRUE)), collapse = "")
  }, "")
  text
}

from_ascii <- function(text) {
  coded <- which(grepl("%[0-9A-F]{2}", text))
  text[coded] <- vapply(text[coded], function(t) {
    decoded <- utils::URLdecode(t)
    if (l10n_info()[["UTF-8"]]) Encoding(decoded) <- "UTF-8" # elsewhere the bytes, which name a file there
    decoded
  }, "")
  text
}
