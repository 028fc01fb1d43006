# Densities as safetensors files: networks under the names and in the layout of PyTorch's nflows, as the published flows have them.

density_format <- "spender-density"
density_version <- "1"
# Tensors of ours, in the order of their digest: the standardisation and the calibration
own_tensors <- c("centre", "scale", "tail", "log_p", "chi2", "latents", "conditions")

#' Write a density to a file, and read it back
#'
#' `write_density()` writes a density as a [safetensors](https://github.com/huggingface/safetensors) file: its networks under the names
#' that the Python package `nflows` gives to the published flows (`_transform._transforms.0._scale`,
#' `..._transforms.1._transforms.L._transforms.0.autoregressive_net.initial_layer.weight`, ...), all else in further tensors and in the
#' metadata. `read_density()` reads it back, with the same bits in the weights.
#'
#' `read_density()` also reads the published flows (`download_model("desi_edr_galaxy_flow")`), masked autoregressive flows of `nflows` with
#' feed-forward blocks and tanh, as `torch.save()` wrote them or as safetensors: an affine transform (the published one multiplies latents
#' by 20), layers of a masked network (`initial_layer`, `blocks`, `final_layer`) each followed by a permutation. Sizes follow from the
#' tensors' shapes. Such a density has no calibrating rows; see [calibrate_density()]. With conditions, or for splines, the layout is
#' ours.
#'
#' @param density From [latent_density()] or `read_density()`.
#' @param path The file, by custom `*.safetensors`.
#' @param overwrite Whether an existing file may be replaced.
#' @return `write_density()`: `path`, invisibly. `read_density()`: a density, see [latent_density()].
#' @section Errors: `spender_error_format` where the file is cut short, foreign or lacks a tensor, `spender_error_unsupported` for flows of
#'   another kind, `spender_error_io` where it cannot be opened or written, `spender_error_exists` where it exists already.
#' @export
#' @examples
#' x <- cbind(s1 = rnorm(600), s2 = rexp(600))
#' d <- latent_density(x, layers = 2, hidden = c(16, 16), epochs = 20, threads = 1)
#' path <- tempfile(fileext = ".safetensors")
#' write_density(d, path)
#' identical(predict(read_density(path), x), predict(d, x))
write_density <- function(density, path, overwrite = FALSE) {
  check_density(density)
  check_path(path)
  check_flag(overwrite, "overwrite")
  if (dir.exists(path)) abort("io", path, ": is a folder")
  if (!overwrite) check_new_file(path)
  flow <- density$flow
  tensors <- flow_tensors(flow)
  doubles <- function(x) list(dtype = "F64", shape = if (is.null(dim(x))) length(x) else dim(x),
                              data = as.double(if (is.null(dim(x))) x else aperm(x)))
  own <- c(flow[c("centre", "scale", "tail")], density$calibration)
  own <- own[lengths(own) > 0]
  kept <- density[c("columns", "conditions", "kept", "training", "parts", "identity", "encoding")]
  kept$history <- as.list(density$history)
  metadata <- c(format = density_format, version = density_version,
                flow = to_json(flow[c("type", "features", "conditions", "layers", "hidden", "depth", "bins", "bound")]),
                density = to_json(kept))
  own <- lapply(own, doubles)
  metadata[["digest"]] <- density_digest(metadata, lapply(own, `[[`, "data"), flow$weights, flow$order)
  .Call(ffi_safetensors_write, path, c(tensors, setNames(own, paste0("spender.", names(own)))), metadata, overwrite)
  invisible(path)
}

# Of all that a file holds; matrices by row, as files have them
density_digest <- function(metadata, own, weights, order) {
  digest_of(list(unname(unlist(as.list(metadata)[c("format", "version", "flow", "density")])), unname(own), weights, as.double(order)))
}

#' @rdname write_density
#' @export
read_density <- function(path) {
  check_path(path)
  if (.Call(ffi_torch_is, path)) {
    return(published_density(read_tensor_file(path, names(read_tensor_file(path)$tensors))$tensors, path))
  }
  file <- .Call(ffi_safetensors_read, path, NULL)
  metadata <- as.list(file$metadata)
  if (!identical(metadata[["format"]], density_format)) return(published_density(file$tensors, path))
  if (!identical(metadata[["version"]], density_version)) {
    abort("unsupported", path, ": written by another version of spender (format ", metadata[["version"]], ", this one reads ",
          density_version, ")")
  }
  flow <- metadata_json(metadata, "flow", path)
  kept <- metadata_json(metadata, "density", path)
  stored <- intersect(own_tensors, sub("spender.", "", names(file$tensors), fixed = TRUE))
  own <- setNames(file$tensors[paste0("spender.", stored)], stored)
  value <- function(name) {
    tensor <- own[[name]]
    if (length(tensor$shape) < 2) tensor$data else matrix(tensor$data, tensor$shape[1], byrow = TRUE)
  }
  for (name in c("centre", "scale", "tail")) flow[name] <- list(value(name))
  check_stored_flow(flow, path)
  flow <- import_flow(flow, file$tensors, "", path, masks_needed = TRUE)
  if (!identical(metadata[["digest"]], density_digest(metadata, lapply(own, `[[`, "data"), flow$weights, flow$order))) {
    abort("format", path, ": is damaged: what it holds is not what was written (its digest does not fit)")
  }
  history <- empty_flow_history()
  if (length(kept$history[[1]])) history <- as.data.frame(kept$history)
  latents <- value("latents")
  conditions <- value("conditions")
  calibration <- list(log_p = value("log_p"), chi2 = value("chi2"), latents = latents,
                      conditions = if (is.null(conditions)) matrix(0, NROW(latents), 0) else conditions)
  structure(c(list(flow = flow, history = history, calibration = calibration), kept[setdiff(names(kept), "history")]),
            class = "latent_density")
}

# The metadata may be of any content; sizes that no flow has are refused before tensors are looked for.
check_stored_flow <- function(flow, path) {
  whole <- function(name, least, most) {
    value <- flow[[name]]
    is.numeric(value) && length(value) == 1 && is.finite(value) && value == round(value) && value >= least && value <= most
  }
  valid <- is.list(flow) && flow$type %in% c("spline", "maf") && whole("features", 1, 512) && whole("conditions", 0, 512) &&
    whole("layers", 1, 64) && whole("hidden", 1, 1024) && whole("depth", 1, 4) && whole("bins", 0, 32) && is.numeric(flow$bound) &&
    length(flow$bound) == 1 && length(flow$centre) == flow$conditions + flow$features
  if (!isTRUE(valid)) abort("format", path, ": its metadata 'flow' is not that of a flow")
}

# ---- the layout of nflows ----

layer_prefix <- function(layer) paste0("_transform._transforms.1._transforms.", layer - 1, "._transforms.")

# Weights of the conditions, which the first linear layer has beside those of the features
context_name <- function(name) sub("initial_layer", "context_layer.weight", name, fixed = TRUE)

# Linear layers of a masked network: names, sizes, and degrees of their units in the files' order
network_layout <- function(flow) {
  s <- flow$features
  lowest <- if (flow$conditions > 0 || s == 1) 0 else 1
  degrees <- (seq_len(flow$hidden) - 1) %% (s - lowest) + lowest
  per_feature <- if (flow$type == "spline") 3 * flow$bins - 1 else 2
  inputs <- c(rep(0, flow$conditions), seq_len(s))
  outputs <- rep(seq_len(s), each = per_feature)
  names <- c("initial_layer", if (flow$depth > 1) paste0("blocks.", seq_len(flow$depth - 1) - 1, ".linear"), "final_layer")
  lapply(seq_along(names), function(i) {
    from <- if (i == 1) inputs else degrees
    to <- if (i == length(names)) outputs else degrees
    list(name = names[i], from = from, to = to, order_from = if (i == 1) seq_along(inputs) else order(degrees),
         order_to = if (i == length(names)) seq_along(outputs) else order(degrees),
         mask = if (i == length(names)) outer(to, from, ">") else outer(to, from, ">="))
  })
}

flow_tensors <- function(flow) {
  values <- readBin(flow$weights, "numeric", length(flow$weights) / 4, size = 4)
  whole <- function(x) list(dtype = "I64", shape = length(x), data = writeBin(as.integer(x), raw(), size = 8))
  out <- list()
  if (flow$type == "maf" && flow$conditions == 0) {
    out[["_transform._transforms.0._shift"]] <- float32_tensor(-flow$centre / flow$scale)
    out[["_transform._transforms.0._scale"]] <- float32_tensor(1 / flow$scale)
  }
  at <- 0
  for (layer in seq_len(flow$layers)) {
    for (dense in network_layout(flow)) {
      n_to <- length(dense$to)
      n_from <- length(dense$from)
      weight <- matrix(0, n_to, n_from)
      weight[dense$order_to, dense$order_from] <- matrix(values[at + seq_len(n_to * n_from)], n_to, byrow = TRUE)
      bias <- numeric(n_to)
      bias[dense$order_to] <- values[at + n_to * n_from + seq_len(n_to)]
      at <- at + n_to * (n_from + 1)
      name <- paste0(layer_prefix(layer), "0.autoregressive_net.", dense$name)
      given <- dense$name == "initial_layer" & seq_len(n_from) <= flow$conditions
      if (any(given)) out[[context_name(name)]] <- float32_tensor(weight[, given, drop = FALSE])
      out[[paste0(name, ".weight")]] <- float32_tensor(weight[, !given, drop = FALSE])
      out[[paste0(name, ".bias")]] <- float32_tensor(bias)
      out[[paste0(name, ".mask")]] <- float32_tensor(dense$mask[, !given, drop = FALSE] + 0)
      out[[paste0(name, ".degrees")]] <- whole(dense$to)
    }
    out[[paste0(layer_prefix(layer), "1._permutation")]] <- whole(flow$order[, layer] - 1)
  }
  out
}

# flow with `weights` and `order` from the file's tensors, whose names begin with `prefix`
import_flow <- function(flow, tensors, prefix, path, masks_needed = FALSE) {
  tensor <- function(name, shape) {
    found <- tensors[[paste0(prefix, name)]]
    if (is.null(found)) abort("format", path, ": tensor '", prefix, name, "' is missing")
    if (!identical(as.double(found$shape), as.double(shape))) {
      abort("format", path, ": tensor '", prefix, name, "' is ", paste(found$shape, collapse = " x "), ", not ",
            paste(shape, collapse = " x "))
    }
    if (length(shape) == 2) matrix(found$data, shape[1], byrow = TRUE) else found$data
  }
  weights <- list()
  order <- matrix(0, flow$features, flow$layers)
  for (layer in seq_len(flow$layers)) {
    for (dense in network_layout(flow)) {
      name <- paste0(layer_prefix(layer), "0.autoregressive_net.", dense$name)
      given <- if (dense$name == "initial_layer") flow$conditions else 0
      size <- c(length(dense$to), length(dense$from) - given)
      weight <- tensor(paste0(name, ".weight"), size)
      there <- function(what) masks_needed || !is.null(tensors[[paste0(prefix, name, what)]])
      if (there(".mask") && any(tensor(paste0(name, ".mask"), size) != dense$mask[, given + seq_len(size[2]), drop = FALSE]) ||
          there(".degrees") && any(tensor(paste0(name, ".degrees"), size[1]) != dense$to)) {
        abort("unsupported", path, ": '", prefix, name, "' is not masked as a network with degrees in turn")
      }
      if (given) weight <- cbind(tensor(context_name(name), c(size[1], given)), weight)
      weight <- (weight * dense$mask)[dense$order_to, dense$order_from, drop = FALSE]
      weights <- c(weights, list(t(weight), tensor(paste0(name, ".bias"), size[1])[dense$order_to]))
    }
    permutation <- tensor(paste0(layer_prefix(layer), "1._permutation"), flow$features)
    if (!setequal(permutation, seq_len(flow$features) - 1)) abort("format", path, ": the permutation of layer ", layer, " is none")
    order[, layer] <- permutation + 1
  }
  flow$weights <- writeBin(as.double(unlist(weights)), raw(), size = 4)
  flow$order <- order
  flow
}

# A flow of the published kind (spender/flow.py of the published code): its shape follows from the tensors.
published_density <- function(tensors, path) {
  names <- names(tensors)
  first <- "_transform._transforms.1._transforms.0._transforms.0.autoregressive_net.initial_layer.weight"
  found <- names[endsWith(names, first)]
  if (length(found) != 1) {
    abort("format", path, ": not a density: ",
          if (length(found)) "it holds more than one flow" else paste0("tensor '", first, "' is missing"))
  }
  prefix <- substr(found, 1, nchar(found) - nchar(first))
  mine <- substring(names[startsWith(names, prefix)], nchar(prefix) + 1)
  foreign <- grep("context_layer|batch_norm|linear_layers", mine, value = TRUE)
  if (length(foreign)) abort("unsupported", path, ": has ", enumerate(foreign), "; only feed-forward networks without context are read")
  largest <- function(pattern) {
    found <- regmatches(mine, regexec(pattern, mine))
    max(0, as.integer(vapply(found[lengths(found) > 0], `[`, "", 2)) + 1)
  }
  shape <- tensors[[found]]$shape
  if (length(shape) != 2) abort("format", path, ": tensor '", found, "' is no matrix")
  last <- tensors[[sub("initial_layer", "final_layer", found, fixed = TRUE)]]
  if (is.null(last)) abort("format", path, ": tensor '", sub("initial_layer", "final_layer", found, fixed = TRUE), "' is missing")
  if (last$shape[1] != 2 * shape[2]) {
    abort("unsupported", path, ": a layer has ", last$shape[1], " parameters for ", shape[2], " features; only affine flows are read")
  }
  flow <- list(type = "maf", features = shape[2], conditions = 0,
               layers = largest("^_transform\\._transforms\\.1\\._transforms\\.([0-9]{1,3})\\."), hidden = shape[1],
               depth = 1 + largest("\\.blocks\\.([0-9]{1,3})\\."), bins = 0, bound = 4, centre = numeric(shape[2]))
  check_stored_flow(flow, path)
  affine <- lapply(c(shift = "_transform._transforms.0._shift", scale = "_transform._transforms.0._scale"), function(name) {
    tensor <- tensors[[paste0(prefix, name)]]
    if (is.null(tensor)) abort("format", path, ": tensor '", prefix, name, "' is missing")
    rep_len(tensor$data, shape[2])
  })
  if (!all(is.finite(affine$shift)) || !all(is.finite(affine$scale) & affine$scale > 0)) {
    abort("format", path, ": its affine transform is not finite and increasing")
  }
  flow[c("centre", "scale", "tail")] <- list(-affine$shift / affine$scale, 1 / affine$scale, rep(0, shape[2]))
  structure(list(flow = import_flow(flow, tensors, prefix, path), columns = paste0("s", seq_len(shape[2])), conditions = character(),
                 history = empty_flow_history(), kept = 0, training = list(), parts = integer(), calibration = list(), identity = NULL,
                 encoding = list()), class = "latent_density")
}
