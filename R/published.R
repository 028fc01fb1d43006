# Weights of the published PyTorch code: files of torch.save(), which model of a file is meant, and the density of latents.

# list(metadata, tensors) of a safetensors file, list(tensors) of one of torch.save(); `names`: the tensors whose numbers are read
read_tensor_file <- function(path, names = character()) {
  if (.Call(ffi_torch_is, path)) .Call(ffi_torch_read, path, names) else .Call(ffi_safetensors_read, path, names)
}

# What the names of the model's tensors begin with. A checkpoint of several instruments has a list of models, numbered from 0.
choose_model <- function(names, instrument, path) {
  prefixes <- "^((model|weight|module|[0-9]+)\\.)*"
  first <- names[sub(prefixes, "", names) == first_tensor]
  if (length(first) == 0) abort("format", path, ": not a model: tensor '", first_tensor, "' is missing")
  prefix <- substr(first, 1, nchar(first) - nchar(first_tensor))
  if (is.null(instrument) && length(prefix) == 1) return(prefix)
  grids <- model_grids(paste0(prefix, grid_tensors[["wave"]]), path)
  prefix[which_instrument(instrument, grids, path)]
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

# ---- the density of latents ----

flow_layer <- "(^|^.*\\.)_transform\\._transforms\\.1\\._transforms\\.([0-9]{1,4})\\._transforms\\."

is_flow <- function(tensors) any(grepl(paste0(flow_layer, "0\\.autoregressive_net\\.initial_layer\\.weight$"), names(tensors)))

# Masked autoregressive flow as a state dict of the Python package nflows: an affine transform, then layers, each a masked network
# (initial_layer, blocks, final_layer) and a permutation. Masks are applied here.
read_flow <- function(tensors, path) {
  data <- read_tensor_file(path, names(tensors))$tensors
  root <- unique(sub(paste0(flow_layer, ".*$"), "\\1", grep(flow_layer, names(tensors), value = TRUE)))
  if (length(root) > 1) abort("format", path, ": holds more than one density of latents")
  get <- function(name, dim = NULL) {
    name <- paste0(root, "_transform._transforms.", name)
    tensor <- data[[name]]
    if (is.null(tensor)) abort("format", path, ": tensor '", name, "' is missing")
    if (length(tensor$shape) != max(1, length(dim)) || !all(is.na(dim) | tensor$shape == dim) || !all(is.finite(tensor$data)))
      abort("format", path, ": tensor '", name, "' does not fit a density of latents")
    if (length(dim) == 2) matrix(tensor$data, tensor$shape[1], tensor$shape[2], byrow = TRUE) else tensor$data
  }
  shift <- get("0._shift")
  scale <- get("0._scale", length(shift))
  if (any(scale <= 0)) abort("format", path, ": tensor '", root, "_transform._transforms.0._scale' is not positive")
  numbers <- as.integer(sub(paste0(flow_layer, ".*$"), "\\2", grep(flow_layer, names(tensors), value = TRUE)))
  if (max(numbers) >= length(unique(numbers))) abort("format", path, ": layers of its density of latents are missing")
  layers <- lapply(seq(0, max(numbers)), function(l) {
    part <- function(...) paste0("1._transforms.", l, "._transforms.", ...)
    linear <- function(name, n_in, n_out) {
      name <- part("0.autoregressive_net.", name)
      weight <- get(paste0(name, ".weight"), c(n_out, n_in)) * get(paste0(name, ".mask"), c(n_out, n_in))
      list(weight = weight, bias = get(paste0(name, ".bias"), nrow(weight)))
    }
    network <- list(linear("initial_layer", length(shift), NA))
    hidden <- nrow(network[[1]]$weight)
    block <- paste0(root, "_transform._transforms.", part("0.autoregressive_net.blocks."))
    blocks <- unique(sub("\\..*$", "", substring(names(tensors), nchar(block) + 1)[startsWith(names(tensors), block)]))
    for (b in seq_along(blocks)) network <- c(network, list(linear(paste0("blocks.", b - 1, ".linear"), hidden, hidden)))
    order <- get(part("1._permutation"), length(shift)) + 1
    if (!setequal(order, seq_along(shift))) abort("format", path, ": the order of latents after layer ", l + 1, " is no permutation")
    list(network = c(network, list(linear("final_layer", hidden, 2 * length(shift)))), order = order)
  })
  structure(list(shift = shift, scale = scale, layers = layers), class = "published_flow")
}

#' Log density of latents in a published flow
#'
#' [read_model()] reads the densities of latents that are published beside the models (`download_model("desi_edr_galaxy_flow")`):
#' masked autoregressive flows (Papamakarios et al. 2017). Latents of low density belong to unusual spectra; the published
#' catalogues of outliers list \eqn{-\ln p}.
#'
#' With u = scale · s + shift, each of the layers turns u into u′ᵢ = (softplus(aᵢ) + 10⁻³) uᵢ + tᵢ and changes the order of its elements;
#' aᵢ and tᵢ depend on u₁ … uᵢ₋₁ through a masked network with tanh. In the end
#' \deqn{\ln p = -\tfrac12 |u|^2 - \tfrac{S}{2} \ln 2\pi + \sum \ln \textrm{scale},}
#' where the sum is over all scales of all layers. Latents must be those of the model that the flow was fitted to.
#'
#' @param object A flow from [read_model()].
#' @param latents A matrix with a row for each spectrum, as from [encode()].
#' @param ... None.
#' @return \eqn{\ln p}, one for each row; NA for rows with missing latents.
#' @section Errors: `spender_error_dimension` where the latents have another number of columns than the flow's.
#' @references Papamakarios, G., Pavlakou, T. & Murray, I. 2017, Advances in Neural Information Processing Systems 30. Liang, Y. et al.
#'   2023, ApJL 956, L6.
#' @export
#' @examples
#' \dontrun{
#' fit <- read_model(download_model("desi_edr_galaxy", "models"))
#' flow <- read_model(download_model("desi_edr_galaxy_flow", "models"))
#' log_p <- predict(flow, encode(fit, x))
#' }
predict.published_flow <- function(object, latents, ...) {
  check_dots("predict", ...)
  if (is.data.frame(latents)) latents <- as.matrix(latents)
  if (is.numeric(latents) && !is.matrix(latents)) latents <- matrix(latents, 1)
  if (!is.numeric(latents)) abort("invalid", "`latents` must be a matrix of numbers, not ", describe(latents), ".")
  n <- length(object$shift)
  if (ncol(latents) != n) abort("dimension", "`latents` has ", count(ncol(latents), "column"), ", but the flow is one of ", n, " latents.")
  u <- t(latents) * object$scale + object$shift # a column for each spectrum
  log_scale <- sum(log(object$scale))
  for (layer in object$layers) {
    h <- u
    for (i in seq_along(layer$network)) {
      h <- layer$network[[i]]$weight %*% h + layer$network[[i]]$bias
      if (i < length(layer$network)) h <- tanh(h)
    }
    raw <- h[2 * seq_len(n) - 1, , drop = FALSE]
    slope <- pmax(raw, 0) + log1p(exp(-abs(raw))) + 1e-3 # softplus without overflow
    u <- (slope * u + h[2 * seq_len(n), , drop = FALSE])[layer$order, , drop = FALSE]
    log_scale <- log_scale + colSums(log(slope))
  }
  setNames(log_scale - colSums(u^2) / 2 - n / 2 * log(2 * pi), rownames(latents))
}

#' @export
print.published_flow <- function(x, ...) {
  cat("<published_flow> density of ", length(x$shift), " latents, ", count(length(x$layers), "layer"), "\n", sep = "")
  invisible(x)
}
