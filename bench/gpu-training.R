# Does a GPU train to the same result as the CPU? The same fit from several seeds on both, in fp32: the two losses of a seed must
# differ by less than three times the spread between the CPU's seeds. Ends with status 1 where they do not.
#   Rscript bench/gpu-training.R [EPOCHS]
library(spender)
arguments <- commandArgs(TRUE)
epochs <- if (length(arguments)) as.numeric(arguments[1]) else 20
seeds <- 1:4
x <- simulate_spectra(600, instrument = instrument(seq(3800, 9200, by = 4)), seed = 1)
network <- spender_network(filters = c(32, 64, 128))
run <- function(device, precision, seed) {
  fit <- spender(x[1:500], latents = 4, network = network, epochs = epochs, batch_size = 32, validation = 0, device = device,
                 precision = precision, seed = seed, progress = FALSE)
  c(training = fit$history$train_loss[epochs], held_out = mean(predict(fit, x[501:600], "loss", device = "cpu")))
}
print(devices())
if (!"cuda" %in% devices()$devices$device) {
  message("there is no GPU to compare with")
  quit(status = 1)
}
cpu <- sapply(seeds, function(seed) run("cpu", "fp32", seed))
spread <- apply(cpu, 1, sd)
cat(sprintf("%d epochs of 500 simulated spectra, 4 latents, filters 32, 64, 128; seeds %s\n", epochs, paste(seeds, collapse = ", ")))
show <- function(name, losses) {
  cat(sprintf("%-10s %-9s %s\n", name, rownames(losses), apply(losses, 1, function(l) paste(sprintf("%.5f", l), collapse = "  "))),
      sep = "")
}
show("cpu", cpu)
cat(sprintf("spread of the CPU's seeds: %.2g training, %.2g held out\n", spread[1], spread[2]))
bad <- FALSE
for (precision in c("fp32", "tf32", "fp16", "bf16")) {
  gpu <- sapply(seeds, function(seed) run("cuda", precision, seed))
  show(paste("cuda", precision), gpu)
  worst <- apply(abs(gpu - cpu) / spread, 1, max)
  cat(sprintf("%s: farthest from the CPU by %.2g (training) and %.2g (held out) of the spread\n", precision, worst[1], worst[2]))
  if (precision == "fp32") bad <- any(worst > 3)
}
quit(status = if (bad) 1 else 0)
