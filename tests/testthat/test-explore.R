# Reads what pack_spectra() wrote, by the description in its comment.
unpack_spectra <- function(bytes, n, m) {
  raw <- memDecompress(bytes, "gzip")
  floats <- readBin(raw[seq_len(8 * n)], "double", 2 * n, size = 4, endian = "little")
  plane <- function(k) matrix(as.integer(raw[8 * n + k * n * m + seq_len(n * m)]), m)
  signed <- function(v) ifelse(v %% 2 == 1, -(v + 1) / 2, v / 2)
  code <- apply(plane(0), 2, cumsum) %% 256
  steps <- (apply(signed(plane(1) + 256 * plane(2)), 2, cumsum) + 32768) %% 65536 - 32768
  sigma <- rep(floats[seq_len(n)], each = m) * 2^((code - 1) / sigma_steps)
  model <- steps * rep(floats[n + seq_len(n)], each = m)
  model[steps == -32768] <- 0
  list(flux = t(model + signed(plane(3) + 256 * plane(4)) / residual_steps * sigma), sigma = t(replace(sigma, code == 0, NA)),
       model = t(replace(model, steps == -32768, NA)))
}

explored <- local({
  made <- NULL
  function() {
    if (is.null(made)) {
      x <- small_spectra(60)
      x$meta <- data.frame(kind = rep(c("spiral", "elliptical", NA), 20), "<b>odd</b>" = "a \"quoted\", text", mass = exp(seq_len(60) / 7),
                           check.names = FALSE)
      x$id[c(5, 9)] <- c("</script><b>5</b>", "id/with #,\" 9")
      fit <- small_fit(x, latents = 3)
      path <- file.path(tempdir(), "explored.html")
      message <- testthat::capture_messages(page <- explore(fit, x, path, colour = "kind", overwrite = TRUE, refine = 2, threads = 1))
      made <<- list(x = x, fit = fit, path = path, page = page, message = message)
    }
    made
  }
})

test_that("packed spectra are those that were packed, within their errors", {
  x <- small_spectra(7)
  x$ivar[2, ] <- 0
  x$ivar[3, 5:9] <- 0
  model <- x$flux * 0.9
  x$flux[4, 20] <- 1e4 # a glitch far beyond the noise
  x$ivar[5, 30] <- 1e12
  model[1, 1:40] <- NA
  model[6, ] <- NA
  model[7, 100] <- -3e4
  m <- ncol(x$flux)
  read <- unpack_spectra(pack_spectra(x$flux, x$ivar, model), 7, m)
  sigma <- 1 / sqrt(x$ivar)
  valid <- x$ivar > 0
  expect_identical(is.na(read$sigma), !valid)
  usual <- valid & row(valid) != 5 # the pixel of tiny sigma takes the range of its spectrum
  expect_lt(max(abs(log(read$sigma / sigma)[usual])), log(2) / sigma_steps / 2 * 1.001)
  expect_identical(is.na(read$model), is.na(model))
  step <- apply(model, 1, function(v) max(abs(v), 1e-30, na.rm = TRUE)) / 32000
  spacing <- pmax(apply(ifelse(valid, sigma, NA), 1, stats::median, na.rm = TRUE) / 8, step)
  expect_true(all((abs(read$model - model) <= 0.51 * spacing)[-2, ], na.rm = TRUE))
  expect_true(all(abs(read$model - model)[2, ] <= 0.51 * diff(range(model[2, ])) / 500)) # without errors, by its own range
  within <- abs(x$flux - ifelse(is.na(model), 0, model)) / sigma < 4000
  expect_true(all((abs(read$flux - x$flux) / sigma)[usual & within] <= 0.5 / residual_steps * 1.03))
  expect_lt(read$flux[4, 20], 1e4) # as far as two bytes go, and no further
  expect_gt(read$flux[4, 20], 10)
})

test_that("tables keep every digit, and text of few values as categories", {
  table <- list(id = c("a", "b\nc", "\u03b1"), half = c(0.5, NA, 1e300), exact = c(0.1, 1 / 3, -Inf), number = 1:3,
                seen = c(TRUE, FALSE, NA), class = factor(c("x", "y", "x"), levels = c("y", "x", "z")), one = rep("same", 3),
                matrix = matrix(0, 3, 2), list = list(1, 2, 3), day = as.Date("2020-02-03") + 0:2)
  packed <- pack_table(table)
  kinds <- setNames(vapply(packed$columns, `[[`, "", "kind"), vapply(packed$columns, `[[`, "", "name"))
  expect_identical(kinds, c(id = "text", half = "number", exact = "number", number = "number", seen = "category", class = "category",
                            one = "text", day = "category"))
  raw <- memDecompress(packed$bytes, "gzip")
  columns <- setNames(packed$columns, names(kinds))
  read <- function(name, size) readBin(raw[columns[[name]]$at + seq_len(3 * size)], "double", 3, size, endian = "little")
  expect_identical(columns$half$type, "f8")
  expect_identical(read("exact", 8), table$exact)
  expect_identical(read("number", 4), c(1, 2, 3))
  expect_identical(columns$class$levels, c("y", "x"))
  expect_identical(as.integer(raw[columns$seen$at + 1:3]), match(c("TRUE", "FALSE", NA), columns$seen$levels, nomatch = 0L))
  text <- rawToChar(raw[columns$id$at + seq_len(columns$id$length)])
  expect_identical(strsplit(text, "\n")[[1]], c("a", "b c", "\u03b1"), ignore_attr = TRUE)
})

test_that("the page's losses, latents and models are those of predict()", {
  made <- explored()
  latents <- explore_latents(made$fit, made$x, threads = 1)
  expect_equal(latents$latent, unname(encode(made$fit, made$x, refine = 2, threads = 1)))
  model <- explore_model(made$fit, made$x, latents$latent, list(threads = 1))
  expect_equal(model, unname(reconstruct(made$fit, made$x, normalized = TRUE, refine = 2, threads = 1)), tolerance = 1e-5)
  quality <- explore_quality(made$fit, made$x, model)
  expect_equal(quality$loss, unname(predict(made$fit, made$x, "loss", refine = 2, threads = 1)), tolerance = 1e-5)
  expect_equal(quality$chi2, unname(predict(made$fit, made$x, "chi2", refine = 2, threads = 1)), tolerance = 1e-5)
})

test_that("a page is one file that names nothing outside, and says its size before", {
  made <- explored()
  expect_match(made$message, "60 spectra take about [0-9.]+ MB, in the page", all = FALSE)
  text <- paste(readLines(made$path, encoding = "UTF-8"), collapse = "\n")
  expect_no_match(text, "https?://|src=|<link|@import|url\\(")
  expect_no_match(text, "</script><b>5", fixed = TRUE)
  expect_identical(made$page$n, 60L)
  expect_output(print(made$page), "60 spectra, [0-9.]+ MB")
  expect_error(explore(made$fit, made$x, made$path), class = "spender_error_exists")
  expect_error(explore(made$fit, made$x, refine_z = TRUE), "`refine_z`", class = "spender_error_invalid")
  expect_error(explore(made$fit, made$x[0]), "no spectra", class = "spender_error_invalid")
  expect_error(explore(made$fit, made$x, unusual = 1:60), "named by id", class = "spender_error_invalid")
  expect_error(explore(made$fit, made$x, unusual = c(nobody = 1)), "nobody", class = "spender_error_id")
  expect_error(explore(made$fit, made$x, umap = matrix(0, 3, 2)), "60 rows", class = "spender_error_invalid")
  expect_error(explore(made$fit, made$x, umap = FALSE, colour = "id", spectra = "none"), "`colour`", class = "spender_error_invalid")
  expect_error(explore(made$fit, made$x, colour = "mas"), "`colour`.*\"mass\"", class = "spender_error_invalid")
  expect_error(explore(made$fit, made$x, file.path(tempdir(), "nowhere", "a.html")), "no folder", class = "spender_error_invalid")
})

test_that("a document shows the page in a frame", {
  skip_on_cran() # takes seconds
  skip_if_not_installed("knitr")
  made <- explored()
  withr::local_options(list(knitr.in.progress = TRUE))
  knitr::opts_knit$set(rmarkdown.pandoc.to = "html")
  withr::defer(knitr::opts_knit$set(rmarkdown.pandoc.to = NULL))
  shown <- knitr::knit_print(made$page)
  expect_match(shown, "^<iframe srcdoc=\"&lt;!DOCTYPE html>|^<iframe srcdoc=\"<!DOCTYPE html>")
  expect_no_match(shown, "\n[ \t]*\n[^ ]*<") # what would end the element
})

# Numbers of JSON, where NaN is null
numbers <- function(v) vapply(v, function(e) if (is.null(e)) NA_real_ else as.double(e), 0)

# Where a row's point is drawn, in pixels of the window: what map.js does
point_of <- function(row) {
  sprintf("(() => {
    const limits = (v) => { const f = Array.from(v).filter(Number.isFinite), a = Math.min(...f), b = Math.max(...f), r = 0.04 * (b - a);
      return [a - r, b + r]; };
    const box = document.getElementById('map').getBoundingClientRect();
    const [x, y] = ['axis-x', 'axis-y'].map((id) => Data.columns.get(document.getElementById(id).value).values);
    const at = (v) => (v[%1$d] - limits(v)[0]) / (limits(v)[1] - limits(v)[0]);
    return [box.left + 46 + at(x) * (box.width - 58), box.top + 12 + (1 - at(y)) * (box.height - 50)];
  })()", row - 1)
}

test_that("in a browser: links, clicks, search, keys, flags and brushes", {
  made <- explored()
  downloads <- withr::local_tempdir()
  shown <- list(js = "document.documentElement.dataset.shown")
  picture <- list(js = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
    done(document.getElementById('plot').toDataURL()); })))") # after what was asked for is drawn
  laptop <- list(size = c(1400, 900))
  open <- list(open = file_url(made$path, made$x$id[9]))
  # a point that no other is near to, in the window's pixels
  first <- browse(list(laptop, open, shown, picture, list(key = "j"),
                       list(wait = "document.getElementById('place').textContent[0] !== '\u2013'"),
                       list(js = paste0("[", paste(vapply(seq_along(made$x$id), point_of, ""), collapse = ","), "]")),
                       list(js = "Data.spectrum(8).then((s) => [Array.from(s.flux), Array.from(s.model), Array.from(s.sigma)])")))
  expect_identical(first$console, list())
  expect_true(all(grepl("^file://.*explored\\.html", unlist(first$requests))))
  expect_identical(first$results[[3]], made$x$id[9])
  spectrum <- lapply(first$results[[8]], numbers)
  valid <- made$x$ivar[9, ] > 0
  expect_identical(!is.na(spectrum[[3]]), valid)
  expect_lt(max(abs((spectrum[[1]] - made$x$flux[9, ]) * sqrt(made$x$ivar[9, ]))[valid]), 0.07)
  expect_equal(spectrum[[2]], as.vector(reconstruct(made$fit, made$x[9], normalized = TRUE, refine = 2, threads = 1)), tolerance = 0.01)

  points <- matrix(unlist(first$results[[7]]), ncol = 2, byrow = TRUE)
  apart <- as.matrix(stats::dist(points)) + diag(Inf, 60)
  lone <- order(-apply(apart, 1, min))[1:2]
  chi2 <- predict(made$fit, made$x, "chi2", refine = 2, threads = 1)
  unusual <- made$x$id[order(-chi2)]
  around <- function(p, r) lapply(list(c(-r, -r), c(r, -r), c(r, r), c(-r, r)), function(d) p + d)
  click <- list(click = points[lone[1], ])
  loaded <- function(id) list(wait = sprintf("document.documentElement.dataset.shown === %s", jsonlite::toJSON(id, auto_unbox = TRUE)))
  steps <- list(
    laptop, list(open = file_url(made$path)), loaded(unusual[1]), # the most unusual is shown first
    list(key = "j"), loaded(unusual[2]), list(key = "k"), loaded(unusual[1]), # the list is walked
    click, loaded(made$x$id[lone[1]]), list(js = "decodeURIComponent(location.hash.slice(1))"), picture,
    list(key = "f"), list(key = "n"), list(text = "odd, \"very\""), list(key = "Escape"),
    list(key = "/"), list(text = "with #"), list(key = "Enter"), loaded(made$x$id[9]), picture, # search
    list(key = "f"), list(key = "e"), list(saved = ".csv"),
    list(js = "location.hash = encodeURIComponent(Data.columns.get('id').values[4]); null"), loaded(made$x$id[5]), # a link within the page
    list(js = "document.getElementById('spectrum-title').innerHTML"),
    list(key = "l"), list(drag = c(around(points[lone[2], ], 9), around(points[lone[2], ], 9)[1])),
    list(js = "document.getElementById('chosen').textContent"), list(key = "j"), loaded(made$x$id[lone[2]]), list(key = "Escape"),
    list(js = "document.getElementById('chosen').textContent"),
    list(key = "r"), list(text = "0.1"), list(js = "document.getElementById('chosen').textContent"), list(key = "Escape"),
    list(key = "Escape"),
    list(js = "[...document.querySelectorAll('#legend button')].find((b) => b.textContent.startsWith('spiral')).click()"),
    list(js = "document.getElementById('chosen').textContent"),
    list(size = c(390, 844), touch = TRUE, dark = TRUE), list(js = "document.documentElement.scrollWidth <= innerWidth"),
    list(size = c(1400, 900)), list(js = "document.getElementById('map').focus()"), list(key = "ArrowLeft"), # by keyboard alone
    list(wait = sprintf("document.documentElement.dataset.shown !== %s", jsonlite::toJSON(made$x$id[lone[2]], auto_unbox = TRUE))),
    list(js = "document.getElementById('picture').click()"), list(saved = ".png")
  )
  done <- browse(steps, downloads)
  expect_identical(done$console, list())
  expect_true(all(grepl("^(file|blob):", unlist(done$requests))))
  texts <- Filter(is.character, done$results)
  expect_identical(texts[[1]], made$x$id[lone[1]])
  expect_false(texts[[2]] == texts[[3]])
  expect_identical(texts[[4]], "&lt;/script&gt;&lt;b&gt;5&lt;/b&gt;")
  expect_identical(texts[5:8], list("1 of 60 chosen", "60 spectra", paste(sum(made$x$z >= 0.1), "of 60 chosen"), "20 of 60 chosen"))
  expect_true(done$results[[length(steps) - 6]])
  expect_gt(file.size(list.files(downloads, "png$", full.names = TRUE)), 1e4)
  flags <- utils::read.csv(file.path(downloads, "flags.csv"), check.names = FALSE)
  expect_identical(flags$id, made$x$id[c(lone[1], 9)])
  expect_identical(flags$note, c("odd, \"very\"", ""))
  expect_equal(flags$z, made$x$z[c(lone[1], 9)], tolerance = 1e-15)
  expect_equal(flags$mass, made$x$meta$mass[c(lone[1], 9)], tolerance = 1e-15)
  expect_equal(flags$chi2, unname(chi2[c(lone[1], 9)]), tolerance = 1e-5)
})

test_that("spectra beside the page are read when they are looked at", {
  made <- explored()
  folder <- withr::local_tempdir()
  x <- made$x[rep(1:60, 3)]
  survey <- write_survey(x, file.path(folder, "survey.fits"))
  p <- setNames(seq(0.9, 0.1, length.out = 180), survey_ids(survey))
  path <- file.path(folder, "survey page.html")
  expect_message(page <- explore(made$fit, survey, path, unusual = p, umap = FALSE, most = 0, threads = 1),
                 "in survey page_spectra/ beside the page")
  expect_length(list.files(page$spectra), 3)
  done <- browse(list(list(size = c(1400, 900)), list(open = file_url(path)), list(js = "document.documentElement.dataset.shown"),
                      list(js = "Data.spectrum(70).then((s) => Array.from(s.flux))"),
                      list(js = "document.getElementById('rank').value")))
  expect_identical(done$console, list())
  expect_identical(done$results[[3]], names(p)[180])
  valid <- x$ivar[71, ] > 0
  expect_lt(max(abs((numbers(done$results[[4]])[valid] - x$flux[71, valid]) * sqrt(x$ivar[71, valid]))), 0.07)
  expect_identical(done$results[[5]], "p")
  expect_setequal(basename(unlist(done$requests)), c("survey%20page.html", "part-2.js", "part-1.js"))
  unlink(page$spectra, recursive = TRUE)
  one <- withr::local_tempfile(fileext = ".html") # one spectrum, one latent
  suppressMessages(explore(small_fit(latents = 1, epochs = 1), made$x[1], one, threads = 1))
  lost <- browse(list(list(open = file_url(one)), list(js = "document.documentElement.dataset.shown"), list(open = file_url(path)),
                      list(wait = "!document.getElementById('wait').hidden"),
                      list(js = "document.getElementById('wait').textContent")))
  expect_identical(lost$results[[2]], made$x$id[1])
  expect_match(lost$results[[5]], "is not beside the page")
  expect_match(unlist(lost$console), "ERR_FILE_NOT_FOUND")
})

test_that("20,000 points take less than 3 seconds", {
  browser_path()
  made <- explored()
  n <- 20000
  names <- c("u1", "u2", paste0("s", 1:3), paste0("s", 1:3, "_err"), "chi2", "loss", "z", paste0("column", 1:10))
  table <- withr::with_seed(1, {
    numbers <- lapply(setNames(names, names), function(name) as_float32(stats::runif(n)))
    c(list(id = sprintf("galaxy-%05d", 1:n), class = sample(letters, n, TRUE)), numbers)
  })
  path <- withr::local_tempfile(fileext = ".html")
  stored <- withr::local_tempfile()
  file.create(stored)
  write_page(path, explore_description(made$fit, table, NULL, NULL, "many", "none", NULL), stored)
  done <- browse(list(list(size = c(1400, 900)), list(open = file_url(path, "galaxy-12345")),
                      list(js = "document.documentElement.dataset.shown")))
  expect_identical(done$console, list())
  expect_identical(done$results[[3]], "galaxy-12345")
  expect_lt(done$seconds, 3) # of the processor, since other processes may be busy
})
