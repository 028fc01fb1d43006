# Weights of the published PyTorch code: files of torch.save(), which model of a file is meant, and whether it is a density of latents.

# list(metadata, tensors) of a safetensors file, list(tensors) of one of torch.save(); `names`: the tensors whose numbers are read
read_tensor_file <- function(path, names = character()) {
  if (.Call(ffi_torch_is, path)) .Call(ffi_torch_read, path, names) else .Call(ffi_safetensors_read, path, names)
}

# What the names of the model's tensors begin with. A checkpoint of several instruments has a list of models, numbered from 0.
choose_model <- function(names, instrument, path) {
  prefix <- model_prefixes(names)
  if (length(prefix) == 0) abort("format", path, ": not a model: tensor '", first_tensor, "' is missing")
  if (is.null(instrument) && length(prefix) == 1) return(prefix)
  grids <- model_grids(paste0(prefix, grid_tensors[["wave"]]), path)
  prefix[which_instrument(instrument, grids, path)]
}

model_prefixes <- function(names) {
  prefixes <- "^((model|weight|module|[0-9]+)\\.)*"
  first <- names[sub(prefixes, "", names) == first_tensor]
  substr(first, 1, nchar(first) - nchar(first_tensor))
}

# Whether tensors are those of several models with the same decoder
one_decoder <- function(tensors, path) {
  prefix <- model_prefixes(names(tensors))
  if (length(prefix) < 2) return(FALSE)
  own <- lapply(prefix, function(p) {
    sort(grep("^decoder\\.", substring(names(tensors)[startsWith(names(tensors), p)], nchar(p) + 1), value = TRUE))
  })
  if (length(unique(own)) != 1) return(FALSE)
  shapes <- lapply(prefix, function(p) lapply(tensors[paste0(p, own[[1]])], function(t) t$shape))
  if (length(unique(lapply(shapes, unname))) != 1) return(FALSE)
  values <- read_tensor_file(path, paste0(rep(prefix, each = length(own[[1]])), own[[1]]))$tensors
  all(vapply(own[[1]], function(name) length(unique(lapply(values[paste0(prefix, name)], `[[`, "data"))) == 1, NA))
}

# Instruments after the grids of these tensors; NULL where there is none
model_grids <- function(names, path) {
  tensors <- read_tensor_file(path, names)$tensors
  lapply(names, function(name) {
    wave <- tensors[[name]]$data
    if (length(wave) > 1 && all(is.finite(wave))) new_instrument(wave, grid_name(wave))
  })
}

which_instrument <- function(instrument, grids, path) {
  there <- function() {
    described <- vapply(grids, function(grid) if (is.null(grid)) "no wavelengths" else sub("^custom, ", "", format(grid)), "")
    enumerate(paste0(seq_along(grids), " (", described, ")"), 12)
  }
  if (is.null(instrument))
    abort("invalid", path, ": holds more than one model; choose one by `instrument`: ", there(), ".")
  if (is.numeric(instrument)) {
    found <- match(instrument, seq_along(grids))
  } else {
    wave <- instrument(instrument)$wave
    found <- which(vapply(grids, function(grid) !is.null(grid) && same_grid(grid$wave, wave), NA))
  }
  if (length(found) != 1 || is.na(found))
    abort("invalid", path, ": `instrument` must be one of the models that it holds: ", there(), "; not ", describe(instrument), ".")
  found
}

# Published grids are powers of ten of single-precision numbers: within 6e-7 of ours, a hundredth of a pixel.
same_grid <- function(a, b) length(a) == length(b) && all(abs(a - b) <= 1e-6 * b)

# "SDSS" for a grid that is a known instrument's
grid_name <- function(wave) {
  same <- names(Filter(function(known) same_grid(wave, known), known_instruments()))
  if (length(same)) toupper(same[1]) else "custom"
}

# Networks of a masked autoregressive flow, see read_density()
is_flow <- function(tensors) any(grepl("autoregressive_net\\.initial_layer\\.weight$", names(tensors)))
