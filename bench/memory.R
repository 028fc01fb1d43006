#!/usr/bin/env Rscript
# Memory of a fit of spectra in memory: largest resident memory of spender() above what its caller holds, which is two matrices of doubles.
#
#   Rscript bench/memory.R [N ...]      numbers of spectra; default 1000 4000 16000
# Each N is a process of its own. Linux only: it reads /proc/self.
sizes <- as.numeric(commandArgs(TRUE))
if (!length(sizes)) sizes <- c(1000, 4000, 16000)
script <- tempfile(fileext = ".R")
writeLines('
  suppressPackageStartupMessages(library(spender))
  megabytes <- function(key) as.numeric(gsub("[^0-9]", "", grep(key, readLines("/proc/self/status"), value = TRUE))) / 1024
  x <- simulate_spectra(as.numeric(commandArgs(TRUE)), seed = 1)
  invisible(gc())
  cat("5", file = "/proc/self/clear_refs") # the peak so far is forgotten
  before <- megabytes("VmRSS")
  fit <- spender(x, network = spender_network(filters = c(16, 32, 64)), epochs = 1, device = "cpu", progress = FALSE)
  cat(length(x$flux) / 2^20, megabytes("VmHWM") - before, "\\n")
', script)
cat("| spectra | the caller's flux and ivar, MB | as float32, MB | spender() adds, MB | beyond one float32 copy, MB |\n",
    "|---|---|---|---|---|\n", sep = "")
for (n in sizes) {
  found <- scan(text = system2(file.path(R.home("bin"), "Rscript"), c("--vanilla", script, n), stdout = TRUE), quiet = TRUE)
  cat(sprintf("| %d | %.0f | %.0f | %.0f | %.0f |\n", n, 16 * found[1], 8 * found[1], found[2], found[2] - 8 * found[1]))
}
