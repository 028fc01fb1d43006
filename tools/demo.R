# The main job, from spectra to pictures: read or simulate, select, train the full-size network for a limited time, report, write
# model, latents and pictures to demo-output/. Run by tools/demo.sh.
#
#   Rscript tools/demo.R [folder]
#   SPENDER_DEMO_SECONDS   seconds of training at most, 150 by default
library(spender)

started <- proc.time()[["elapsed"]]
seconds <- as.numeric(Sys.getenv("SPENDER_DEMO_SECONDS", "150"))
if (is.na(seconds) || seconds <= 0) stop("SPENDER_DEMO_SECONDS must be a positive number", call. = FALSE)
output <- "demo-output"
dir.create(output, showWarnings = FALSE)
has_files <- function(folder) {
  dir.exists(folder) && length(list.files(folder, "\\.fits(\\.gz)?$", recursive = TRUE, ignore.case = TRUE)) > 0
}

# ---- spectra ----

data <- Sys.getenv("SPENDER_DATA")
candidates <- if (nzchar(data)) c(file.path(data, "sdss", "galaxy"), data)
candidates <- c(commandArgs(TRUE), candidates)
folder <- Filter(has_files, candidates)[1]
if (length(commandArgs(TRUE)) && !identical(folder, commandArgs(TRUE)[1])) {
  stop("there are no FITS files in ", commandArgs(TRUE)[1], call. = FALSE)
}
if (is.na(folder) || !devices()$built[["cfitsio"]]) {
  message(if (is.na(folder)) "No folder of SDSS files was given (sh tools/demo.sh FOLDER, or SPENDER_DATA): "
          else "Built without CFITSIO, so SDSS files cannot be read: ", "simulating 200 spectra.")
  x <- simulate_spectra(200, seed = 1)
} else {
  message("Reading SDSS files from ", folder)
  x <- suppressWarnings(read_sdss(folder, progress = FALSE))
  if (nrow(problems(x))) {
    message(nrow(problems(x)), " with problems:")
    for (line in utils::capture.output(print(problems(x)[c("id", "reason")], row.names = FALSE))) message("  ", line)
  }
}
# SDSS quotes redshift errors as small as this only where the fit is good; the demo takes what little there is.
x <- select_galaxies(x, z_max = 0.5, z_err_max = Inf)
if (length(x) < 8) stop("only ", length(x), " usable spectra; the demo needs at least 8", call. = FALSE)
print(x)

# ---- training, as long as the time allows ----

message("\nTiming an epoch ...")
# the first epoch also pays for the memory
timed <- min(diff(spender(x, latents = 6, epochs = 3, seed = 1, progress = FALSE)$history$seconds))
epochs <- max(3, min(80, floor(seconds / timed)))
message(sprintf("%.1f s an epoch of %d spectra: %d epochs in about %.0f s on %d thread(s).", timed, length(x), epochs, epochs * timed,
                devices()$threads))
fit <- spender(x, latents = 6, epochs = epochs, seed = 1, progress = FALSE, callback = function(history) {
  n <- nrow(history)
  if (n %in% round(seq(1, epochs, length.out = 12))) {
    with(history[n, ], message(sprintf("  epoch %3d   training %.4f   validation %.4f", epoch, train_loss, validation_loss)))
  }
  TRUE
})
print(fit)

unseen <- x[held_out(fit, x)]
if (length(unseen)) {
  compared <- summary(fit, unseen)$losses
  message(sprintf("\nmean loss of the %d spectra held out   %.4f at the encoder's latents, %.4f at refined ones, %.4f if perfect",
                  length(unseen), compared[["encoder"]], compared[["refined"]], compared[["noise"]]))
  message(sprintf("their median reduced chi^2            %.3f at refined latents", stats::median(predict(fit, unseen, "chi2", refine = 3))))
}

# ---- what is left behind ----

write_model(fit, file.path(output, "model.safetensors"), overwrite = TRUE)
latents <- encode(fit, x, refine = 3)
losses <- predict(fit, x, "loss", refine = 3)
columns <- intersect(c("class", "subclass", "sn_median"), names(x$meta))
table <- data.frame(id = x$id, z = x$z, x$meta[columns], latents, loss = losses)
utils::write.csv(table, file.path(output, "latents.csv"), row.names = FALSE)

picture <- function(name, width, height, draw) {
  path <- file.path(output, name)
  grDevices::png(path, width = width, height = height, res = 110, type = if (capabilities("cairo")) "cairo" else "Xlib")
  on.exit(grDevices::dev.off())
  draw()
  path
}
pictures <- character()
if (requireNamespace("ggplot2", quietly = TRUE)) {
  pictures <- picture("history.png", 900, 600, function() print(plot(fit)))
  # five slices of the redshift range, and of each a spectrum of good signal-to-noise
  sn <- vapply(seq_along(x$id), function(i) {
    valid <- x$ivar[i, ] > 0
    stats::median(x$flux[i, valid] * sqrt(x$ivar[i, valid]))
  }, 0)
  chosen <- vapply(split(seq_along(sn), cut(x$z, 5), drop = TRUE), function(rows) rows[order(-sn[rows])[ceiling(length(rows) / 4)]], 0)
  for (i in chosen) {
    name <- sprintf("reconstruction-z%.3f-%s.png", x$z[i], gsub("[^A-Za-z0-9.-]", "_", x$id[i]))
    pictures <- c(pictures, picture(name, 1400, 1000, function() print(plot_reconstruction(fit, x, i, refine = 3))))
  }
} else message("No pictures: ggplot2 is not installed.")

explore(fit, x, file.path(output, "explore.html"), refine = 3, title = paste(length(x), "spectra of the demo"), overwrite = TRUE)

message("\nWritten to ", output, "/: model.safetensors, latents.csv, ", length(pictures), " pictures, and explore.html, ",
        "which shows every spectrum in a browser")
message(sprintf("%.0f s in all.", proc.time()[["elapsed"]] - started))
