#' Explore a fit in the browser
#'
#' Writes one HTML file that needs no network and no server: a map of the spectra, in which any two columns (UMAP, latents, catalogue) are
#' axes and any is the colour, and for the spectrum that is clicked its model, residuals, closer looks at lines, latents with errors and
#' catalogue. Spectra are chosen by brushing, by ranges of a column, or by class, listed by any column (at first the most unusual), searched
#' by id, and flagged; flags are saved as CSV. `page.html#ID` opens the spectrum of that id. Everything can be done by keyboard: the page's
#' `?` lists the keys.
#'
#' The page works in Chrome, Edge and Firefox (113 or later) and Safari (16.4 or later). Points are drawn by WebGL; a hundred thousand of
#' them are no burden. An SDSS spectrum takes some 7 kB: flux and model are stored in steps of an eighth of the
#' standard deviation or less, standard deviations to 2 %. The size is told before the page is made. Spectra that take more than `most` are
#' written to a folder beside the page, which reads those that are looked at; move both together.
#'
#' @param fit A fit from [spender()] or [read_model()].
#' @param x [spectra()] or a survey on the fit's instrument. Choose those of interest by `x[rows]`; add columns by [join_catalogue()].
#' @param path The HTML file to write, or `NULL` for one that lives as long as the session.
#' @param unusual `NULL` to list by reduced \eqn{\chi^2}; or how unusual spectra are: a data frame with a column `id` and a column `p`
#'   (small is unusual) or `score` (large is unusual), whose other columns become columns of the page; or numbers named by id, which are
#'   taken for `p` if none is outside 0 to 1.
#' @param colour Column that colours the map at first; `NULL` for a class if there is one, else the reduced \eqn{\chi^2}.
#' @param umap `TRUE` for [embed_latents()] (left out with a message where uwot is not installed, or there are too few spectra), `FALSE` for
#'   none, or a matrix of two columns that it returned.
#' @param spectra Where the spectra are: `"page"`, in it; `"beside"`, in a folder named after it; `"none"`, the page has the map only;
#'   `"auto"`, in it if they take at most `most` MB, else beside.
#' @param most Megabytes of spectra in the page that `spectra = "auto"` allows.
#' @param title Title of the page.
#' @param overwrite Replace a file `path` that is there?
#' @param ... Passed on to [predict.spender()]: `refine` (2 by default here), `robust`, `prior`, `device`, `precision`, `threads`,
#'   `batch_size`.
#' @return An object of class `spender_page`: `path`, `spectra` (the folder beside, or `NULL`), `n` and `bytes` of all files. Printing it
#'   opens the page in an interactive session; in a knitr document it shows it.
#' @section Errors: `spender_error_exists` for a file that is there, `spender_error_invalid` naming the argument, `spender_error_grid` when
#'   the spectra are not on the fit's grid.
#' @seealso [embed_latents()], [plot_latent()], [plot_reconstruction()]
#' @export
#' @examples
#' x <- simulate_spectra(40, instrument = instrument(seq(4000, 8000, by = 4)), seed = 1)
#' small <- spender_network(filters = c(8, 16, 16), encoder_hidden = 16, decoder_hidden = 16)
#' fit <- spender(x, latents = 3, epochs = 2, network = small, threads = 1, progress = FALSE)
#' page <- explore(fit, x, umap = FALSE)
#' page$path
explore <- function(fit, x, path = NULL, unusual = NULL, colour = NULL, umap = TRUE, spectra = c("auto", "page", "beside", "none"),
                    most = 100, title = NULL, overwrite = FALSE, ...) {
  check_fit(fit)
  check_source(x)
  check_same_grid(fit, x)
  check_dots("explore", ..., known = c("refine", "robust", "prior", "device", "precision", "threads", "batch_size"))
  spectra <- match.arg(spectra)
  check_number(most, "most", 0, 2000) # beyond, browsers refuse
  check_flag(overwrite, "overwrite")
  if (is.null(path)) path <- tempfile("explore-", fileext = ".html")
  check_path(path)
  path <- path.expand(path)
  if (!overwrite) check_new_file(path)
  if (!dir.exists(dirname(path))) abort("invalid", "There is no folder ", dirname(path), " to write `path` to.")
  n <- length(x)
  if (!n) abort("invalid", "`x` has no spectra to explore.")
  ids <- if (inherits(x, "survey")) survey_ids(x) else x$id
  if (is.null(title)) title <- paste(count(n, "spectrum", "spectra"), "of", fit$instrument$name)
  if (!is.character(title) || length(title) != 1 || is.na(title)) abort("invalid", "`title` must be one text, not ", describe(title), ".")
  unusual <- check_unusual(unusual, ids)
  if (is.matrix(umap)) check_umap(umap, n) else check_flag(umap, "umap")

  catalogue <- as.data.frame(x)
  known <- c(names(catalogue), names(unusual), latent_names(fit), paste0(latent_names(fit), "_err"), "u1", "u2", "chi2", "loss")
  if (!is.null(colour)) check_choice(colour, "colour", known)

  latents <- explore_latents(fit, x, ...)
  given <- list(...)
  compute <- given[intersect(names(given), c("device", "precision", "threads", "batch_size"))]
  parts <- parts_of(n, explore_part_size)
  model_of <- function(part, rows) {
    if (calibration_terms(fit)) return(explore_calibrated(fit, part, ...))
    explore_model(fit, part, latents$latent[rows, , drop = FALSE], compute)
  }

  sample <- unique(round(seq(1, n, length.out = min(n, explore_part_size))))
  part <- in_memory(x[sample])
  megabytes <- 4 / 3 * length(pack_spectra(part$flux, part$ivar, model_of(part, sample))) / length(sample) * n / 1e6
  if (spectra == "auto") spectra <- if (megabytes <= most) "page" else "beside"
  beside <- if (spectra == "beside") paste0(sub("\\.html?$", "", path, ignore.case = TRUE), "_spectra")
  if (spectra != "none") {
    message("explore(): ", count(n, "spectrum", "spectra"), " take about ", format(megabytes, digits = 2), " MB, ",
            if (is.null(beside)) "in the page." else paste0("in ", basename(beside), "/ beside the page."))
  }

  writing <- tempfile("explore-", dirname(path), ".part")
  stored <- tempfile("explore-")
  done <- FALSE
  on.exit(unlink(c(writing, stored, if (!done && !is.null(beside)) part_files(beside))))
  if (!is.null(beside)) prepare_folder(beside, overwrite)
  out <- file(stored, "wb")
  tryCatch({
    quality <- lapply(seq_along(parts), function(k) {
      rows <- parts[[k]]
      part <- in_memory(x[rows])
      model <- model_of(part, rows)
      if (spectra != "none") write_part(pack_spectra(part$flux, part$ivar, model), k - 1, out, beside)
      explore_quality(fit, part, model)
    })
  }, finally = close(out))
  table <- explore_table(fit, catalogue, ids, latents, do.call(rbind, quality), unusual, explore_umap(umap, latents$latent))
  about <- explore_description(fit, table, colour, unusual, title, spectra, beside)
  write_page(writing, about, stored)
  if (!file.rename(writing, path)) abort("io", "Cannot write ", path, ".")
  done <- TRUE
  sizes <- file.size(c(path, if (!is.null(beside)) part_files(beside)))
  structure(list(path = path, spectra = beside, n = n, bytes = sum(sizes)), class = "spender_page")
}

# Spectra of one part, which the page unpacks at a time
explore_part_size <- 64

# Columns that say how unusual spectra are, in the order of ids; the attribute `rank` names the one to rank by
check_unusual <- function(unusual, ids) {
  if (is.null(unusual)) return(NULL)
  if (is.numeric(unusual) && !is.null(names(unusual))) {
    name <- if (all(unusual >= 0 & unusual <= 1, na.rm = TRUE)) "p" else "score"
    unusual <- setNames(data.frame(names(unusual), unname(unusual)), c("id", name))
  }
  rank <- intersect(c("p", "score"), names(unusual))[1]
  if (!is.data.frame(unusual) || !"id" %in% names(unusual) || is.na(rank) || !is.numeric(unusual[[rank]])) {
    abort("invalid", "`unusual` must be numbers named by id, or a data frame with the columns `id` and `p` or `score`; it is ",
          describe(unusual), ".")
  }
  row <- match(ids, plain_text(unusual$id))
  if (all(is.na(row))) abort("id", "No id of `unusual` is that of a spectrum: \"", unusual$id[1], "\" beside \"", ids[1], "\".")
  structure(unusual[row, setdiff(names(unusual), "id"), drop = FALSE], rank = rank)
}

check_umap <- function(umap, n) {
  if (!is.numeric(umap) || !identical(dim(umap), c(n, 2L))) {
    abort("invalid", "`umap` must be TRUE, FALSE, or a matrix of ", n, " rows and 2 columns, not ", describe_shape(umap), ".")
  }
}

# Latents and their standard errors; rows of NA for spectra that have none
explore_latents <- function(fit, x, refine = 2, ...) {
  both <- unname(predict_errors(fit, x, "latent_errors", refine = refine, ...))
  s <- seq_len(fit$architecture$n_latent)
  list(latent = both[, s, drop = FALSE], se = both[, -s, drop = FALSE])
}

# Models with the flux calibration of each spectrum, which takes a pass of its own
explore_calibrated <- function(fit, x, refine = 2, ...) suppressWarnings(predict(fit, x, "observed", refine = refine, ...))

# Models at latents that are known already; rows of NA where they are not
explore_model <- function(fit, x, latents, compute) {
  known <- which(stats::complete.cases(latents))
  model <- matrix(NA_real_, nrow(latents), length(fit$instrument$wave))
  if (length(known)) model[known, ] <- do.call(decode, c(list(fit, latents[known, , drop = FALSE], z = x$z[known]), compute))
  model
}

# Loss and reduced chi^2, as predict() has them
explore_quality <- function(fit, x, model) {
  squares <- x$ivar * (x$flux - model)^2
  squares[x$ivar == 0] <- 0
  sums <- rowSums(squares, na.rm = TRUE)
  sums[!rowSums(is.finite(model))] <- NA
  free <- rowSums(x$ivar > 0 & is.finite(model)) - fit$architecture$n_latent - calibration_terms(fit)
  data.frame(chi2 = ifelse(free > 0, sums / free, NA), loss = sums / (2 * ncol(squares)))
}

explore_umap <- function(umap, latents) {
  if (is.matrix(umap)) return(umap)
  if (!umap) return(NULL)
  if (!requireNamespace("uwot", quietly = TRUE)) {
    message("explore(): no UMAP, since uwot is not installed.")
    return(NULL)
  }
  known <- sum(stats::complete.cases(latents))
  if (known <= 15) {
    message("explore(): no UMAP of so few spectra.")
    return(NULL)
  }
  if (known > 50000) message("explore(): UMAP of ", known, " spectra takes minutes.")
  embed_latents(latents)
}

# All that the page knows about spectra, but for their pixels
explore_table <- function(fit, catalogue, ids, latents, quality, unusual, umap) {
  named <- function(m, names) setNames(as.data.frame(matrix(as_float32(m), nrow(m))), names)
  s <- latent_names(fit)
  own <- c(list(id = ids), if (!is.null(umap)) named(umap, c("u1", "u2")), named(latents$latent, s), named(latents$se, paste0(s, "_err")),
           lapply(quality, as_float32))
  further <- setdiff(names(unusual), c(names(own), setdiff(names(catalogue), attr(unusual, "rank"))))
  own <- c(own, unusual[further])
  if (is.character(catalogue$file)) catalogue$file <- basename(catalogue$file) # folders are nobody else's business
  for (name in intersect(c("sn", "masked"), names(catalogue))) catalogue[[name]] <- signif(catalogue[[name]], 4)
  c(own, catalogue[setdiff(names(catalogue), names(own))])
}

# What the page's scripts read, without the table's bytes: those are `table`
explore_description <- function(fit, table, colour, unusual, title, spectra, beside) {
  packed <- pack_table(table)
  names <- vapply(packed$columns, `[[`, "", "name")
  kinds <- vapply(packed$columns, `[[`, "", "kind")
  if (is.null(colour)) colour <- c(names[names %in% c("subclass", "class") & kinds == "category"], "chi2")[1]
  if (!is.character(colour) || length(colour) != 1 || !colour %in% names[kinds != "text"]) {
    abort("invalid", "`colour` must be a column of numbers or classes (", code_list(names[kinds != "text"]), "), not ", describe(colour),
          ".")
  }
  rank <- if (is.null(unusual)) "chi2" else attr(unusual, "rank")
  lines <- spectral_lines()
  lines <- lines[order(line_rank(lines$name)), ]
  s <- latent_names(fit)
  labels <- c(id = "id", u1 = "UMAP 1", u2 = "UMAP 2", setNames(sub("s", "latent ", s), s),
              setNames(sub("s", "error of latent ", s), paste0(s, "_err")), chi2 = "reduced \u03c7\u00b2", z = "redshift",
              sn = "S/N per pixel", masked = "masked fraction", if (!is.null(unusual)) setNames(paste("outlier", rank), rank))
  columns <- lapply(packed$columns, function(column) c(column, list(label = if (column$name %in% names(labels)) labels[[column$name]]
                                                                    else column$name)))
  list(title = title, n = length(table$id), latents = I(s), colour = colour, columns = columns, # I(): an array, of one too
       rank = list(column = rank, descending = rank != "p"), pixels = length(fit$instrument$wave), part_size = explore_part_size,
       spectra = spectra, beside = if (!is.null(beside)) utils::URLencode(basename(beside), reserved = TRUE),
       residual_steps = residual_steps, sigma_steps = sigma_steps, key = substr(digest_of(list(table$id, title)), 1, 12),
       lines = data.frame(wave = lines$wave, label = lines$label, strong = lines$strong, emission = lines$kind == "emission"),
       table = packed$bytes, wave = fit$instrument$wave)
}

prepare_folder <- function(folder, overwrite) {
  old <- part_files(folder)
  if (length(old) && !overwrite) abort("exists", folder, " exists already; `overwrite = TRUE` replaces it.")
  unlink(old)
  if (!dir.exists(folder) && !dir.create(folder)) abort("io", "Cannot make the folder ", folder, ".")
}

part_files <- function(folder) list.files(folder, "^part-[0-9]+\\.js$", full.names = TRUE)

# Part k (from 0) into the page, as text that no browser runs, or into a script beside it, which pages without a server may read
write_part <- function(bytes, k, out, beside) {
  text <- gsub("\n", "", jsonlite::base64_enc(bytes), fixed = TRUE)
  if (is.null(beside)) write_text(out, "<script type=\"text/plain\" id=\"part-", k, "\">", text, "</script>\n")
  else writeLines(paste0("spenderPart(", k, ", \"", text, "\");"), file.path(beside, paste0("part-", k, ".js")))
}

write_text <- function(out, ...) writeBin(charToRaw(enc2utf8(paste0(...))), out)

# The template with its places filled, in the order in which a browser can begin: the spectra come last.
write_page <- function(path, about, stored) {
  own <- function(file) readLines(system.file("explore", file, package = "spender", mustWork = TRUE), encoding = "UTF-8")
  base64 <- function(bytes) gsub("\n", "", jsonlite::base64_enc(bytes), fixed = TRUE)
  description <- about[setdiff(names(about), c("table", "wave"))]
  json <- jsonlite::toJSON(description, auto_unbox = TRUE, digits = NA, null = "null")
  fill <- list(title = escape_html(about$title), style = own("page.css"), description = gsub("</", "<\\/", json, fixed = TRUE),
               table = base64(about$table), wave = base64(writeBin(about$wave, raw(), endian = "little")),
               scripts = unlist(lapply(explore_scripts, own)))
  out <- file(path, "wb")
  on.exit(close(out))
  for (line in own("page.html")) {
    place <- sub("^<!-- (.*) -->$", "\\1", line)
    if (place == "spectra") {
      from <- file(stored, "rb")
      while (length(bytes <- readBin(from, "raw", 2^22))) writeBin(bytes, out)
      close(from)
    } else if (place != line && place %in% names(fill)) write_text(out, paste(fill[[place]], collapse = "\n"), "\n")
    else write_text(out, gsub("{{title}}", fill$title, line, fixed = TRUE), "\n")
  }
}

explore_scripts <- c("data.js", "axes.js", "map.js", "spectrum.js", "list.js", "page.js")

escape_html <- function(text) {
  for (pair in list(c("&", "&amp;"), c("<", "&lt;"), c(">", "&gt;"), c("\"", "&quot;"))) text <- gsub(pair[1], pair[2], text, fixed = TRUE)
  text
}

#' @export
print.spender_page <- function(x, ...) {
  cat("<page> ", count(x$n, "spectrum", "spectra"), ", ", format(x$bytes / 1e6, digits = 2), " MB\n", sep = "")
  fact("file", x$path)
  if (!is.null(x$spectra)) fact("spectra", x$spectra, " (move both together)")
  if (interactive()) utils::browseURL(paste0("file://", normalizePath(x$path)))
  invisible(x)
}

# A frame that holds the page itself, so that the document needs no other file
#' @rawNamespace S3method(knitr::knit_print, spender_page)
#' @noRd
knit_print.spender_page <- function(x, ...) {
  if (!knitr::is_html_output()) return(knitr::asis_output(paste0("`", x$path, "`\n")))
  size <- "title=\"explore\" style=\"width:100%;height:860px;border:1px solid #8884\""
  if (!is.null(x$spectra)) return(knitr::asis_output(paste0("<iframe src=\"", escape_html(x$path), "\" ", size, "></iframe>\n")))
  page <- readChar(x$path, file.size(x$path), useBytes = TRUE)
  Encoding(page) <- "UTF-8"
  page <- gsub("\"", "&quot;", gsub("&", "&amp;", page, fixed = TRUE), fixed = TRUE)
  # an empty line would end the element for Markdown
  knitr::asis_output(paste0("<iframe srcdoc=\"", gsub("\n\\s*\n", "\n", page), "\" ", size, "></iframe>\n"))
}
