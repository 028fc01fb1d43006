# Settings of a training that were not given, chosen from the number of training spectra, the network and the device.
# Measured on simulated spectra (bench/results, "defaults"): small samples need small batches to make enough steps, and over-fit after some
# fifty passes; large ones learn the same in fewer passes. Networks with narrow convolutions take higher rates, small batches lower ones,
# and weights that were `trained` before still lower ones.
training_plan <- function(options, n, architecture, device, trained = FALSE) {
  if (is.null(options$epochs)) options$epochs <- min(100, max(10, round(60 * (200 / n)^0.25)))
  if (is.null(options$batch_size)) {
    most <- if (device$device == "cuda") 1024 else 64
    options$batch_size <- max(options$pieces, min(most, max(8, 2^round(log2(n) / 2))))
  }
  if (is.null(options$learning_rate)) {
    times <- sqrt(512 / max(architecture$filters) * min(options$batch_size, 64) / 64)
    options$learning_rate <- signif((if (trained) 5e-5 else 1e-3) * min(3, max(1, times)), 2)
  }
  options
}
