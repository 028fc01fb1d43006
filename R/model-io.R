# Models as safetensors files: PyTorch's tensor names and layouts; architecture, training and history as JSON in the metadata. Files of
# torch.save() are read, too: R/published.R.

model_format <- "spender"
model_version <- 1L
first_tensor <- "encoder.conv1.0.weight"
grid_tensors <- c(wave = "encoder.instrument.wave_obs", wave_rest = "decoder.wave_rest")
# Buffers of the published code that are not part of the network.
known_buffers <- "encoder.instrument.skyline_mask"

#' Write a model to a file, and read it back
#'
#' `write_model()` writes a fit as a [safetensors](https://github.com/huggingface/safetensors) file: every parameter under its
#' PyTorch name and in its PyTorch layout, the wavelength grids as tensors, and architecture, training settings and loss
#' history as JSON in the metadata. `read_model()` reads it back, with the same bits in weights and grids.
#'
#' `read_model()` also reads weights of the published PyTorch code: `.pt` files of `torch.save()`, such as those of [download_model()], and
#' plain exports as safetensors (as of the script `system.file("scripts", "export-pytorch.py", package = "spender")`). PyTorch is not
#' needed, and nothing in a file is run: a `.pt` file is a program that builds the weights, of which only the instructions that state
#' dicts need are followed, and anything else is an error. The architecture follows from the tensors' shapes:
#' - convolutions `encoder.conv1.0.weight` (out, in, kernel) to `encoder.conv3.0.weight`, and a weight encoder where there are
#'   `encoder.conv1w.0.weight` to `encoder.conv3w.0.weight`;
#' - linear layers `encoder.mlp.*` and `decoder.mlp.*` (out, in), in the order of their numbers, which need not be consecutive;
#' - redshift as an input of the encoder where its first linear layer has one input more than there are features;
#' - Speculator activations in a decoder with `beta` and `gamma`, leaky ReLU in another;
#' - a line spread function where there is `encoder.instrument.lsf.weight` (1, 1, pixels).
#'
#' Names may begin with `model.`, `weight.` or `module.`; float64, float16 and bfloat16 numbers are converted to float32. Of a checkpoint,
#' which also has losses or an optimizer's state, only the model is read; of one with a model for each of several instruments,
#' the one that `instrument` names. The first paper's encoder sees the redshift; the published code has since dropped that input from it.
#'
#' A fit of several instruments is one file, in the layout of the published code's checkpoints of several: the names of each model begin
#' with its number, `model.0.encoder.conv1.0.weight`, and each has the decoder that all share, so that a program which knows one model can
#' read any of them. Without `instrument`, files of several models with the same decoder are read as such a fit.
#'
#' @param fit A fit from [spender()] or `read_model()`, of one instrument or several.
#' @param path The file, by custom `*.safetensors`; `read_model()` also takes `*.pt`.
#' @param overwrite Whether an existing file may be replaced. The old file stays whole until the new one is complete.
#' @param wave,wave_rest Observed and restframe wavelengths in Angstrom (vacuum, increasing), for a file that holds no
#'   grids; they take precedence over the file's, and are rounded to single precision. `wave` may be an [instrument()].
#' @param pools Sizes of the two max-pools, for a file without our metadata: they do not follow from shapes. By default they equal the
#'   kernels of the convolutions before them.
#' @param decoder_offset Constant that is added to the decoder's output (0 or 1), for a file without our metadata. By default 1 with
#'   Speculator activations and 0 with leaky ReLU.
#' @param instrument Which model of a file with several: its number, its name in the fit, or an [instrument()] or its name (`"sdss"`), found
#'   by the wavelengths that the file has for it. An error names those there are.
#'
#' @return `write_model()`: `path`, invisibly. `read_model()`: a fit of class `spender`; read from a file without our metadata,
#'   its history has no rows and its training settings are empty; a fit of class `spender_joint` of several instruments. From a file with a
#'   published density of latents
#'   (`"desi_edr_galaxy_flow"` of [download_model()]): what [read_density()] returns.
#'
#' @section Errors:
#' `spender_error_format` where the file is cut short, foreign, lacks a tensor, or has one of another shape than the
#' architecture needs; `spender_error_io` where it cannot be opened or written, `spender_error_exists` where it exists already;
#' `spender_error_invalid` where an argument is wrong. Messages name the file and the tensor. Tensors that are no part of the network, and
#' weights that are not finite, are reported by a warning of class `spender_warning_format`.
#'
#' @seealso [download_model()]
#' @examples
#' \donttest{
#' x <- simulate_spectra(20, seed = 1)
#' fit <- spender(x, latents = 2, epochs = 1, progress = FALSE)
#' file <- tempfile(fileext = ".safetensors")
#' write_model(fit, file)
#' again <- read_model(file)
#' identical(again$weights, fit$weights)
#' }
#' @export
write_model <- function(fit, path, overwrite = FALSE) {
  if (!inherits(fit, "spender_joint")) check_fit(fit)
  check_path(path)
  check_flag(overwrite, "overwrite")
  if (dir.exists(path)) abort("io", path, ": is a folder")
  if (!overwrite) check_new_file(path)
  content <- if (inherits(fit, "spender_joint")) joint_content(fit) else model_content(fit)
  .Call(ffi_safetensors_write, path, content$tensors, content$metadata, overwrite)
  invisible(path)
}

# What a file has of a fit: tensors and metadata
model_content <- function(fit) {
  parameters <- lapply(.Call(ffi_network_export, fit$architecture, fit$weights), float32_tensor)
  check_grid(fit$instrument$wave, fit$architecture$n_observed, "the fit's observed grid")
  check_grid(fit$wave_rest, fit$architecture$n_rest, "the fit's restframe grid")
  grids <- setNames(lapply(list(fit$instrument$wave, fit$wave_rest), grid_tensor), grid_tensors)
  metadata <- c(
    format = model_format,
    version = as.character(model_version),
    instrument = paste(fit$instrument$name, collapse = " "),
    architecture = to_json(fit$architecture),
    training = to_json(fit$training),
    history = to_json(as.list(fit$history))
  )
  metadata[["digest"]] <- model_digest(metadata, fit$weights, fit$instrument$wave, fit$wave_rest)
  list(tensors = c(grids, parameters), metadata = metadata)
}

#' @rdname write_model
#' @export
read_model <- function(path, wave = NULL, wave_rest = NULL, pools = NULL, decoder_offset = NULL, instrument = NULL) {
  call <- match.call()
  check_path(path)
  instrument_name <- NULL
  if (inherits(wave, "spender_instrument")) {
    instrument_name <- wave$name
    wave <- wave$wave
  }
  if (!is.null(wave)) wave <- argument_grid(wave, "`wave`")
  if (!is.null(wave_rest)) wave_rest <- argument_grid(wave_rest, "`wave_rest`")
  check_hints(pools, decoder_offset)

  file <- read_tensor_file(path)
  if (is_flow(file$tensors)) {
    if (!all(vapply(list(wave, wave_rest, pools, decoder_offset, instrument), is.null, NA)))
      abort("invalid", path, ": holds a density of latents, for which only `path` has a meaning.")
    return(read_density(path))
  }
  metadata <- as.list(file$metadata)
  several <- identical(metadata[["format"]], joint_format)
  if (is.null(instrument) && all(vapply(list(wave, pools, decoder_offset), is.null, NA)) && (several || one_decoder(file$tensors, path)))
    return(read_joint(path, metadata, call))
  if (several) {
    instrument <- number_in_joint(instrument, metadata, path)
    if (is.numeric(instrument)) metadata <- metadata_of_model(metadata, instrument)
  }
  tensors <- network_tensors(file$tensors, path, instrument,
                             alone = is.null(file$metadata) || length(model_prefixes(names(file$tensors))) > 1)
  ours <- identical(metadata[["format"]], model_format)
  if (ours) {
    if (!is.null(pools) || !is.null(decoder_offset))
      abort("invalid", "`pools` and `decoder_offset` are for files without an architecture; ", path, " has one.")
    check_version(metadata[["version"]], path)
    architecture <- metadata_json(metadata, "architecture", path)
    if (is.null(architecture)) abort("format", path, ": its metadata lacks the architecture")
  } else {
    architecture <- infer_architecture(tensors, wave, pools, decoder_offset, path)
  }
  table <- tryCatch(.Call(ffi_network_table, architecture), spender_error_invalid = function(e) {
    abort("format", path, ": not an architecture that can be built: ", conditionMessage(e))
  })
  check_tensors(tensors, table, path)

  if (is.null(wave)) instrument_name <- metadata[["instrument"]]
  weights <- .Call(ffi_network_import, architecture, read_tensors(tensors[table$name], path))
  if (ours && !is.null(metadata[["digest"]])) { # earlier versions wrote none
    written <- model_digest(metadata, weights, choose_grid(NULL, "wave", architecture$n_observed, tensors, path),
                            choose_grid(NULL, "wave_rest", architecture$n_rest, tensors, path))
    if (!identical(metadata[["digest"]], written)) {
      abort("format", path, ": is damaged: what it holds is not what was written (its digest does not fit)")
    }
  }
  wave <- choose_grid(wave, "wave", architecture$n_observed, tensors, path)
  wave_rest <- choose_grid(wave_rest, "wave_rest", architecture$n_rest, tensors, path)
  if (is.null(instrument_name)) instrument_name <- grid_name(wave)
  training <- metadata_json(metadata, "training", path)
  if (!is.null(training) && !is.list(training)) abort("format", path, ": its metadata 'training' is not a list")

  structure(
    list(
      architecture = architecture,
      weights = weights,
      instrument = new_instrument(wave, instrument_name),
      wave_rest = wave_rest,
      history = read_history(metadata, path),
      training = if (is.null(training)) list() else training,
      call = call
    ),
    class = "spender"
  )
}

# Of all that a model file holds
model_digest <- function(metadata, weights, wave, wave_rest) {
  keys <- c("format", "version", "instrument", "architecture", "training", "history")
  digest_of(list(unlist(unname(as.list(metadata)[keys])), weights, as.double(wave), as.double(wave_rest)))
}

check_hints <- function(pools, decoder_offset) {
  if (!is.null(pools) && !(is.numeric(pools) && length(pools) %in% 2:3 && all(pools %in% seq(1, 1023, 2))))
    abort("invalid", "`pools` must be the sizes of two max-pools, odd numbers.")
  if (!is.null(decoder_offset) && !(length(decoder_offset) == 1 && decoder_offset %in% 0:1))
    abort("invalid", "`decoder_offset` must be 0 or 1.")
}

check_version <- function(version, path) {
  number <- suppressWarnings(as.integer(version))
  if (length(number) != 1 || is.na(number)) abort("format", path, ": its metadata lacks a version")
  if (number > model_version)
    abort("unsupported", path, ": written by a newer spender (format ", number, ", this one reads up to ", model_version, ")")
}

argument_grid <- function(wave, what) {
  check_grid(wave, length(wave), what)
  wave <- as_float32(wave)
  check_grid(wave, length(wave), paste(what, "in single precision"))
  wave
}

check_grid <- function(wave, n, what, class = "invalid") {
  if (!is.numeric(wave) || !all(is.finite(wave)) || any(wave <= 0) || any(diff(wave) <= 0))
    abort(class, what, " must be positive, increasing numbers (Angstrom)")
  if (length(wave) != n) abort(class, what, " has ", length(wave), " elements, the architecture needs ", n)
}

# ---- tensors ----

# Files are row-major, R arrays column-major.
float32_tensor <- function(array) {
  shape <- if (is.null(dim(array))) length(array) else dim(array)
  list(dtype = "F32", shape = shape, data = if (is.null(dim(array))) array else as.vector(aperm(array)))
}

# float32, as instrument() makes grids; float64 for one that would lose bits
grid_tensor <- function(wave) {
  wave <- as.double(wave)
  list(dtype = if (identical(as_float32(wave), wave)) "F32" else "F64", shape = length(wave), data = wave)
}

# The file's tensors under the names that our table has; each remembers its name in the file. `alone`: without those that are beside the
# model.
network_tensors <- function(tensors, path, instrument = NULL, alone = FALSE) {
  prefix <- choose_model(names(tensors), instrument, path)
  tensors <- Map(function(tensor, name) c(tensor[c("dtype", "shape")], file_name = name), tensors, names(tensors))
  if (alone) tensors <- tensors[startsWith(names(tensors), prefix)]
  ours <- startsWith(names(tensors), prefix)
  name <- names(tensors)
  name[ours] <- sub(".mlp.mlp.", ".mlp.", substring(name[ours], nchar(prefix) + 1), fixed = TRUE)
  name[ours] <- number_layers(number_layers(name[ours], tensors[ours], "encoder"), tensors[ours], "decoder")
  twice <- anyDuplicated(name)
  if (twice)
    abort("format", path, ": in one place stand the tensors ", enumerate(names(tensors)[name == name[twice]]))
  setNames(tensors, name)
}

# Positions in a published Sequential depend on whether it has dropout: the l-th linear layer is moved to position 3 l, the parameters of
# its activation to 3 l + 1.
number_layers <- function(names, tensors, part) {
  pattern <- paste0("^", part, "\\.mlp\\.([0-9]{1,6})\\.(weight|bias|beta|gamma)$")
  place <- rep(NA_integer_, length(names))
  found <- grepl(pattern, names)
  place[found] <- as.integer(sub(pattern, "\\1", names[found]))
  what <- sub(pattern, "\\2", names)
  rank <- lengths(lapply(tensors, `[[`, "shape"))
  linear <- sort(unique(place[found & what == "weight" & rank == 2]))
  layer <- findInterval(place, linear) - 1L
  found <- found & layer >= 0
  new_place <- 3L * layer + !place %in% linear
  names[found] <- paste0(part, ".mlp.", new_place[found], ".", what[found])
  names
}

tensor_shape <- function(tensors, name, rank, path) {
  tensor <- tensors[[name]]
  if (is.null(tensor)) abort("format", path, ": tensor '", name, "' is missing")
  if (length(tensor$shape) != rank)
    abort("format", path, ": tensor '", tensor$file_name, "' has ", length(tensor$shape), " dimensions where ", rank, " belong")
  tensor$shape
}

infer_architecture <- function(tensors, wave, pools, decoder_offset, path) {
  conv <- lapply(1:3, function(i) tensor_shape(tensors, paste0("encoder.conv", i, ".0.weight"), 3, path))
  filters <- vapply(conv, `[`, 0, 1)
  kernels <- vapply(conv, `[`, 0, 3)
  if (is.null(pools)) pools <- kernels[1:2]
  if (length(pools) == 2) pools <- c(pools, 1)

  linear <- function(part) {
    name <- grep(paste0("^", part, "\\.mlp\\.[0-9]+\\.weight$"), names(tensors), value = TRUE)
    name <- name[lengths(lapply(tensors[name], `[[`, "shape")) == 2]
    if (length(name) == 0) abort("format", path, ": tensor '", part, ".mlp.0.weight' is missing")
    name[order(as.integer(gsub("[^0-9]", "", name)))]
  }
  units <- function(names) vapply(names, function(name) tensors[[name]]$shape[1], 0, USE.NAMES = FALSE)
  encoder <- linear("encoder")
  decoder <- linear("decoder")
  first <- tensors[[encoder[1]]]
  extra <- first$shape[2] - filters[3] / 2
  if (!extra %in% 0:1)
    abort("format", path, ": tensor '", first$file_name, "' has ", first$shape[2], " inputs; the features are ", filters[3] / 2,
          ", and the redshift may be one more")

  speculator <- any(grepl("^decoder\\.mlp\\.[0-9]+\\.(beta|gamma)$", names(tensors)))
  lsf <- "encoder.instrument.lsf.weight"
  list(
    n_observed = if (is.null(wave)) tensor_length(tensors, "wave", path) else length(wave),
    n_rest = units(decoder)[length(decoder)],
    n_latent = units(encoder)[length(encoder)],
    filters = filters,
    kernels = kernels,
    pools = as.double(pools),
    encoder_hidden = units(encoder)[-length(encoder)],
    decoder_hidden = units(decoder)[-length(decoder)],
    redshift_input = extra == 1,
    weight_attention = any(grepl("^encoder\\.conv[123]w\\.", names(tensors))),
    decoder_activation = if (speculator) "speculator" else "leaky_relu",
    decoder_offset = if (is.null(decoder_offset)) as.double(speculator) else decoder_offset,
    lsf = if (lsf %in% names(tensors)) tensor_shape(tensors, lsf, 3, path)[3] else 0
  )
}

tensor_length <- function(tensors, grid, path) {
  if (is.null(tensors[[grid_tensors[[grid]]]]))
    abort("format", path, ": holds no tensor '", grid_tensors[[grid]], "'; give `", grid, "`")
  tensor_shape(tensors, grid_tensors[[grid]], 1, path)
}

check_tensors <- function(tensors, table, path) {
  missing <- setdiff(table$name, names(tensors))
  if (length(missing) == 1) abort("format", path, ": tensor '", missing, "' is missing")
  if (length(missing) > 1) abort("format", path, ": tensors are missing: ", enumerate(missing))
  show <- function(shape) paste0("(", paste(format(shape, scientific = FALSE, trim = TRUE), collapse = ", "), ")")
  for (i in seq_along(table$name)) {
    tensor <- tensors[[table$name[i]]]
    if (!identical(tensor$shape, table$pytorch_shape[[i]]))
      abort("format", path, ": tensor '", tensor$file_name, "' has the shape ", show(tensor$shape), ", the architecture needs ",
            show(table$pytorch_shape[[i]]))
    if (!tensor$dtype %in% c("F64", "F32", "F16", "BF16"))
      abort("format", path, ": tensor '", tensor$file_name, "' holds ", tensor$dtype, " where floating-point numbers belong")
  }
  unknown <- setdiff(names(tensors), c(table$name, grid_tensors, known_buffers))
  if (length(unknown))
    warn("format", path, ": tensors that are no part of the network are ignored: ",
         enumerate(vapply(tensors[unknown], `[[`, "", "file_name")))
}

# Values of the tensors, under the same names.
read_tensors <- function(tensors, path) {
  file_names <- vapply(tensors, `[[`, "", "file_name")
  values <- lapply(read_tensor_file(path, file_names)$tensors[file_names], `[[`, "data")
  largest <- 3.4028234663852886e38 # of float32
  broken <- !vapply(values, function(x) all(abs(x) <= largest), NA) %in% TRUE
  if (any(broken)) warn("format", path, ": tensors with values that are not finite: ", enumerate(file_names[broken]))
  setNames(values, names(tensors))
}

choose_grid <- function(given, grid, n, tensors, path) {
  if (is.null(given)) {
    tensor_length(tensors, grid, path)
    name <- tensors[[grid_tensors[[grid]]]]$file_name
    wave <- read_tensor_file(path, name)$tensors[[name]]$data
    check_grid(wave, n, paste0(path, ": tensor '", name, "'"), "format")
    return(wave)
  }
  check_grid(given, n, paste0("`", grid, "`"))
  given
}

# ---- metadata ----

metadata_json <- function(metadata, key, path) {
  text <- metadata[[key]]
  if (is.null(text)) return(NULL)
  refuse <- function(e) {
    abort("format", path, ": its metadata '", key, "' is not what write_model() writes: ", sub("\n.*", "", conditionMessage(e)))
  }
  tryCatch(from_json(text), error = refuse, warning = refuse)
}

read_history <- function(metadata, path) {
  columns <- metadata_json(metadata, "history", path)
  if (is.null(columns)) return(empty_history())
  if (length(columns) == 0) return(data.frame())
  if (!is.list(columns) || is.null(names(columns)) || length(unique(lengths(columns))) != 1)
    abort("format", path, ": its metadata 'history' is not a table")
  structure(columns, class = "data.frame", row.names = .set_row_names(length(columns[[1]])))
}

# JSON that gives back the same object, to the bit, for vectors and named lists. A plain number is a double: other programs read 6, not
# 6.0, where a fit counts. What plain JSON would change (integers, missing and infinite numbers, empty vectors, names) is written as
# {"type": ..., "value": ...}. jsonlite writes 15 digits, so numbers are written here.
to_json <- function(x) {
  if (is.null(x)) return("null")
  if (!(is.list(x) || is.atomic(x)) || length(setdiff(names(attributes(x)), "names")))
    abort("invalid", "a model file holds plain vectors and lists, not an object of class ", class(x)[1])
  tags <- names(x)
  if (is.list(x)) {
    items <- vapply(x, to_json, "", USE.NAMES = FALSE)
    plain <- length(x) && !is.null(tags) && all(nzchar(tags)) && !anyDuplicated(tags) && !all(c("type", "value") %in% tags)
    if (plain) return(paste0("{", paste0(json_strings(tags), ":", items, collapse = ","), "}"))
  } else {
    items <- json_items(x)
    plain <- length(x) && is.null(tags) && !anyNA(x) && !is.integer(x) && (!is.double(x) || all(is.finite(x)))
    if (plain) return(if (length(x) == 1) items else paste0("[", paste(items, collapse = ","), "]"))
  }
  paste0("{\"type\":\"", typeof(x), "\",\"value\":[", paste(items, collapse = ","), "]",
         if (!is.null(tags)) paste0(",\"names\":[", paste(json_strings(tags), collapse = ","), "]"), "}")
}

json_strings <- function(x) {
  vapply(enc2utf8(x), function(s) as.character(jsonlite::toJSON(s, auto_unbox = TRUE)), "", USE.NAMES = FALSE)
}

json_items <- function(x) {
  missing <- is.na(x) & !is.nan(x)
  text <- switch(typeof(x),
    logical = tolower(as.character(x)),
    integer = sprintf("%d", x),
    double = json_numbers(x),
    character = json_strings(replace(x, missing, "")),
    abort("invalid", "a model file cannot hold a vector of type ", typeof(x))
  )
  replace(text, missing, "null")
}

# Digits enough for the parser to find the same double
json_numbers <- function(x) {
  text <- sprintf("\"%s\"", x) # "NaN", "Inf", "-Inf"
  finite <- which(is.finite(x))
  text[finite] <- sprintf("%.15g", x[finite])
  parsed <- vapply(jsonlite::parse_json(paste0("[", paste(text[finite], collapse = ","), "]")), as.double, 0)
  longer <- finite[parsed != x[finite]]
  text[longer] <- sprintf("%.17g", x[longer])
  replace(text, text == "-0", "-0.0") # the parser takes whole numbers for integers, which have no sign of 0
}

from_json <- function(text) unpack_json(jsonlite::parse_json(text))

unpack_json <- function(x) {
  if (is.integer(x)) return(as.double(x))
  if (!is.list(x)) return(x)
  if (!is.null(names(x))) {
    if (all(c("type", "value") %in% names(x))) return(unpack_typed(x))
    return(lapply(x, unpack_json))
  }
  if (all(vapply(x, function(item) is.atomic(item) && length(item) == 1, NA))) {
    x <- unlist(x)
    return(if (is.integer(x)) as.double(x) else x)
  }
  lapply(x, unpack_json)
}

unpack_typed <- function(x) {
  vector <- function(as, missing) vapply(x$value, function(item) if (is.null(item)) missing else as(item), missing)
  value <- switch(x$type,
    list = lapply(x$value, unpack_json),
    logical = vector(as.logical, NA),
    integer = vector(as.integer, NA_integer_),
    double = vector(as.double, NA_real_),
    character = vector(as.character, NA_character_),
    stop("unknown type ", x$type)
  )
  if (!is.null(x$names)) names(value) <- unlist(x$names)
  value
}
