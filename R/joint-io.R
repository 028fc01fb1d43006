# Model files of several instruments: the models numbered from 0, as the published code's checkpoints have them; of each the metadata of an
# ordinary file, under keys that begin with its number, and the names, history and training of all.

joint_format <- "spender-joint"

joint_content <- function(fit) {
  parts <- lapply(unclass(fit), model_content)
  numbered <- function(part, k) setNames(part, paste0("model.", k - 1, ".", names(part)))
  keys <- function(part, k) setNames(part, paste0(k - 1, ".", names(part)))
  of_each <- seq_along(parts)
  list(tensors = do.call(c, unname(Map(numbered, lapply(parts, `[[`, "tensors"), of_each))),
       metadata = c(format = joint_format, version = as.character(model_version), instruments = to_json(names(fit)),
                    history = to_json(as.list(attr(fit, "history"))), training = to_json(attr(fit, "training")),
                    do.call(c, unname(Map(keys, lapply(parts, `[[`, "metadata"), of_each)))))
}

# call: of read_model()
read_joint <- function(path, metadata, call) {
  ours <- identical(metadata[["format"]], joint_format)
  if (ours) check_version(metadata[["version"]], path)
  names <- if (ours) names_in_joint(metadata, path)
  n <- if (ours) length(names) else length(model_prefixes(names(read_tensor_file(path)$tensors)))
  fits <- lapply(seq_len(n), function(k) {
    fit <- read_model(path, instrument = k)
    fit$call <- call
    fit
  })
  if (is.null(names)) names <- make.unique(tolower(vapply(fits, function(fit) fit$instrument$name, "")), "")
  fits <- setNames(fits, names)
  one <- vapply(fits, function(fit) {
    identical(fit$wave_rest, fits[[1]]$wave_rest) && identical(with_decoder(fit, fits[[1]])$weights, fit$weights)
  }, NA)
  if (!all(one)) abort("format", path, ": its models have not the same decoder: choose one by `instrument`")
  history <- read_history(metadata, path)
  training <- metadata_json(metadata, "training", path)
  new_joint(fits, if (nrow(history)) history else empty_history(names), if (is.list(training)) training else list())
}

names_in_joint <- function(metadata, path) {
  names <- metadata_json(metadata, "instruments", path)
  if (!is.character(names) || !length(names) || anyDuplicated(names)) abort("format", path, ": its metadata 'instruments' is not a list")
  names
}

# The number of the instrument that is meant by its name in the fit; otherwise what was given
number_in_joint <- function(instrument, metadata, path) {
  if (!is.character(instrument) || length(instrument) != 1) return(instrument)
  found <- match(instrument, names_in_joint(metadata, path))
  if (is.na(found)) instrument else found
}

# One model's part of the metadata, as of an ordinary file
metadata_of_model <- function(metadata, k) {
  begins <- paste0(k - 1, ".")
  own <- metadata[startsWith(names(metadata), begins)]
  setNames(own, substring(names(own), nchar(begins) + 1))
}
