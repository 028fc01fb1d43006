# Small spectra and networks that train in a second.

small_instrument <- function() instrument(seq(4000, 8000, by = 16), name = "small")

small_spectra <- function(n = 24, ...) simulate_spectra(n, instrument = small_instrument(), seed = 7, ...)

small_network <- function(...) {
  spender_network(filters = c(8, 12, 16), encoder_hidden = c(16, 8), decoder_hidden = c(8, 24), ...)
}

small_fit <- function(x = small_spectra(), ..., latents = 2, epochs = 3, batch_size = 8, validation = 0.2, threads = 1,
                      progress = FALSE, network = small_network()) {
  spender(x, latents = latents, epochs = epochs, batch_size = batch_size, validation = validation, threads = threads,
          progress = progress, network = network, ...)
}

# Runs code in a folder of its own.
in_folder <- function(code) {
  folder <- tempfile("model")
  dir.create(folder)
  old <- setwd(folder)
  on.exit({
    setwd(old)
    unlink(folder, recursive = TRUE)
  })
  force(code)
}

# The class and the message of an error, for snapshots
says <- function(expr) tryCatch({
  expr
  "no error"
}, spender_error = function(e) cat(class(e)[1], ": ", conditionMessage(e), "\n", sep = ""))

# device = "auto" is the CPU until the test ends.
on_cpu <- function(env = parent.frame()) withr::local_envvar(SPENDER_DEVICE = "cpu", .local_envir = env)
