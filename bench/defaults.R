# What defaults reach on small samples, beside the settings that were the defaults before: batches of 64, a rate of 1e-3, the last epoch,
# random initial weights.
#   Rscript bench/defaults.R [folder of SDSS files] > bench/results/DATE-defaults.md
suppressMessages(library(spender))
folder <- commandArgs(TRUE)[1]
small <- spender_network(filters = c(16, 32, 64))
cases <- list(
  "README: 200 simulated, full network" = list(x = simulate_spectra(200, seed = 1), network = spender_network(), epochs = 20),
  "200 simulated, small network" = list(x = simulate_spectra(200, seed = 1), network = small, epochs = 20),
  "60 of 2,000 pixels, small network" = list(x = simulate_spectra(60, instrument = instrument(seq(4000, 7998, by = 2)), seed = 1),
                                             network = small, epochs = 20),
  "2,000 simulated, small network" = list(x = simulate_spectra(2000, seed = 1), network = small, epochs = 20)
)
if (!is.na(folder)) {
  real <- suppressWarnings(select_galaxies(read_sdss(folder, progress = FALSE), z_err_max = Inf))
  cases[[paste0(length(real), " real, small network")]] <- list(x = real, network = small, epochs = 20)
}
processor <- if (file.exists("/proc/cpuinfo")) sub(".*: ", "", grep("model name", readLines("/proc/cpuinfo"), value = TRUE)[1])
cat("# Defaults on small samples\n\n", processor, ", ", devices()$threads, " threads, ", devices()$instructions, ", ", format(Sys.Date()),
    "\n\n", sep = "")
cat("Mean losses of the spectra held out (15 %).\n\n")
columns <- c("sample", "settings", "epochs", "s", "encoder", "refined (3 steps)", "median reduced chi^2", "perfect", "flat")
cat("| ", paste(columns, collapse = " | "), " |\n|", strrep("---|", length(columns)), "\n", sep = "")
for (name in names(cases)) {
  case <- cases[[name]]
  for (settings in c("before", "defaults")) {
    options <- if (settings == "before") list(epochs = case$epochs, batch_size = 64, learning_rate = 1e-3, init = "random", best = FALSE)
    arguments <- c(list(quote(case$x), network = case$network, progress = FALSE), options)
    seconds <- system.time(fit <- do.call(spender, arguments))[["elapsed"]]
    unseen <- case$x[held_out(fit, case$x)]
    losses <- summary(fit, unseen)$losses
    cat(sprintf("| %s | %s | %d | %.0f | %.3f | %.3f | %.3f | %.3f | %.3g |\n", name, settings, nrow(fit$history), seconds,
                losses[["encoder"]], losses[["refined"]], stats::median(predict(fit, unseen, "chi2", refine = 3)), losses[["noise"]],
                fit$training$flat_loss))
  }
}
