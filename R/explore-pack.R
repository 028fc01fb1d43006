# Spectra and tables in the few bytes that a page has for them. inst/explore/data.js reads what is written here.

# Steps of residuals per standard deviation: rounding adds (1/8)^2 / 12 = 0.13 % of the noise's variance
residual_steps <- 8
# Steps of sigma per factor of 2: it is right within 2.2 %
sigma_steps <- 16

# One part: n spectra of M pixels as compressed bytes. Flux is stored as its difference from the model in units of its standard deviation,
# the model in steps that are small beside both errors and structure; smooth things by their differences along the spectrum.
#   smallest sigma, step of the model    n + n floats, little-endian
#   sigma: 0 for a pixel without weight, else 1 + steps above the smallest; differences from the pixel before modulo 256    n x M bytes
#   model: differences, zigzag, a plane of low bytes and one of high bytes; -32768 steps where there is none     2 x n x M bytes
#   residual: zigzag, low and high bytes     2 x n x M bytes
pack_spectra <- function(flux, ivar, model) {
  flux <- t(flux) # pixels x spectra, as bytes are ordered
  ivar <- t(ivar)
  model <- t(model)
  valid <- ivar > 0 & is.finite(flux)
  sigma <- 1 / sqrt(ivar)
  sigma[!valid] <- NA
  smallest <- as_float32(by_spectrum(sigma, min, 1))
  code <- pmin(1 + round(sigma_steps * log2(sigma / each_pixel(smallest, sigma))), 255)
  sigma <- each_pixel(smallest, sigma) * 2^((code - 1) / sigma_steps)
  code[!valid] <- 0

  known <- is.finite(model)
  model[!known] <- NA
  low <- by_spectrum(model, min, 0)
  high <- by_spectrum(model, max, 1)
  step <- pmin(by_spectrum(sigma, stats::median, 1) / 8, (high - low) / 500)
  step <- as_float32(pmax(step, pmax(abs(low), abs(high)) / 32000, 1e-30))
  steps <- round(model / each_pixel(step, model))
  steps[!known] <- 0
  residual <- round(residual_steps * (flux - steps * each_pixel(step, model)) / sigma)
  residual <- pmin(pmax(residual, -32768), 32767)
  residual[!valid] <- 0
  steps[!known] <- -32768

  along <- function(v) rbind(v[1, ], v[-1, , drop = FALSE] - v[-nrow(v), , drop = FALSE])
  memCompress(c(writeBin(c(smallest, step), raw(), size = 4, endian = "little"), as.raw(along(code) %% 256),
                two_planes(zigzag((along(steps) + 32768) %% 65536 - 32768)), two_planes(zigzag(residual))), "gzip")
}

# A number of each spectrum from what is known of it; `otherwise` where nothing is
by_spectrum <- function(v, f, otherwise) {
  apply(v, 2, function(pixels) {
    pixels <- pixels[!is.na(pixels)]
    if (length(pixels)) f(pixels) else otherwise
  })
}

each_pixel <- function(number, v) rep(number, each = nrow(v))

# -1, 1, -2, 2 ... as 1, 2, 3, 4 ...
zigzag <- function(v) abs(2 * v + 0.5) - 0.5

two_planes <- function(v) c(as.raw(v %% 256), as.raw(v %/% 256))

# A table as its compressed bytes and a description of the columns in them: numbers in single precision where that loses nothing, else in
# double; text of few different values as codes of categories. Columns of other kinds are left out.
pack_table <- function(table, most_categories = 40) {
  bytes <- list()
  columns <- list()
  at <- 0
  for (name in names(table)) {
    column <- pack_column(table[[name]], if (name == "id") 0 else most_categories)
    if (is.null(column)) next
    at <- at + (-at) %% 8 # where typed arrays may begin
    columns[[name]] <- c(list(name = name, at = at), column[names(column) != "bytes"])
    bytes[[length(bytes) + 1]] <- c(raw(at - sum(lengths(bytes))), column$bytes)
    at <- at + length(column$bytes)
  }
  list(bytes = memCompress(as.raw(unlist(bytes)), "gzip"), columns = unname(columns))
}

pack_column <- function(v, most_categories) {
  if (inherits(v, c("Date", "POSIXt", "difftime"))) v <- format(v)
  if (length(dim(v)) == 2 || !is.atomic(v) && !is.factor(v)) return(NULL)
  if (is.numeric(v) && !inherits(v, "integer64") && !is.factor(v)) {
    v <- as.double(v)
    v[is.na(v)] <- NaN
    short <- as_float32(v)
    single <- all(short == v, na.rm = TRUE)
    size <- if (single) 4 else 8
    return(list(kind = "number", type = if (single) "f4" else "f8", bytes = writeBin(v, raw(), size = size, endian = "little")))
  }
  if (is.complex(v) || is.raw(v)) return(NULL)
  levels <- levels(v)
  v <- plain_text(v)
  v <- enc2utf8(gsub("[[:space:]]+", " ", v))
  v[v %in% c("", " ")] <- NA
  if (is.null(levels)) levels <- names(sort(table(v), decreasing = TRUE)) else levels <- intersect(levels, v)
  levels <- levels[!is.na(levels)]
  if (length(levels) > 1 && length(levels) <= most_categories) {
    codes <- match(v, levels, nomatch = 0)
    return(list(kind = "category", type = "u1", levels = levels, bytes = as.raw(codes)))
  }
  bytes <- charToRaw(paste(ifelse(is.na(v), "", v), collapse = "\n"))
  list(kind = "text", type = "text", length = length(bytes), bytes = bytes)
}
