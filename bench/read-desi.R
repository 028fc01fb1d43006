# Rates of read_desi() and write_survey() from made-up healpix files of DESI, beside what reading their bytes and CFITSIO alone take.
#   Rscript bench/read-desi.R [folder for the files, 1.4 GB] [spectra in a file, 5000] [repeats, 5] [a Python with astropy, python3] > OUT
# A minute on two free cores. Files are made by bench/desi_files.py, once; they are read from the page cache, so that no disk is measured
# (of write_survey() the disk that the folder is on, where that is one). CFITSIO alone is bench/read-fits.c, on one thread.
suppressMessages(library(spender))
given <- commandArgs(TRUE)
folder <- if (length(given) > 0) given[1] else file.path(tempdir(), "desi")
n <- if (length(given) > 1) as.numeric(given[2]) else 5000
repeats <- if (length(given) > 2) as.numeric(given[3]) else 5
python <- if (length(given) > 3) given[4] else "python3"
few <- max(16, n %/% 10) # spectra of the file with matrices, which take 680 kB of memory each
stopifnot(file.exists("bench/desi_files.py"))
names <- c(packed = "coadd-made-up-1.fits", plain = "coadd-plain-1.fits", matrices = "coadd-matrices-1.fits")
files <- setNames(file.path(folder, names), names(names))
if (!all(file.exists(files))) stopifnot(system2(python, c("bench/desi_files.py", folder, n, 1, few)) == 0)

program <- tempfile()
flags <- function(what) system2("pkg-config", c(what, "cfitsio"), stdout = TRUE)
cc <- strsplit(system2(file.path(R.home("bin"), "R"), c("CMD", "config", "CC"), stdout = TRUE), " ")[[1]]
stopifnot(system2(cc[1], c(cc[-1], "-O2", flags("--cflags"), "-o", program, "bench/read-fits.c", flags("--libs"))) == 0)
alone <- function(file, matrices) scan(text = system2(program, c(file, repeats, as.integer(matrices)), stdout = TRUE), quiet = TRUE)

# The fastest of some calls by the clock, and the least processor time, in microseconds for a spectrum; the first call is not counted: it
# gets memory that the system has not used before
rate <- function(call) {
  length <- call()
  times <- vapply(seq_len(repeats), function(i) {
    gc()
    unlist(system.time(call()))[1:3]
  }, numeric(3))
  c(clock = length / min(times[3, ]), processor = 1e6 * min(times[1, ] + times[2, ]) / length)
}
cpu <- if (file.exists("/proc/cpuinfo")) sub(".*: ", "", grep("model name", readLines("/proc/cpuinfo"), value = TRUE)[1])
cat("# Reading DESI\n\n", cpu, ", ", devices()$threads, " cores, ", format(Sys.Date()), ". `bench/read-desi.R`: files of ", n,
    " spectra, with matrices ", few, ", in the page cache; the best of ", repeats, ".\n\n", sep = "")
cat("| | threads | spectra/s by the clock | processor time, us each |\n|---|---|---|---|\n")
row <- function(what, threads, call) {
  found <- rate(call)
  cat(sprintf("| %s | %d | %.0f | %.1f |\n", what, threads, found[["clock"]], found[["processor"]]))
}
read <- function(kind, threads, ...) function() length(read_desi(files[[kind]], threads = threads, progress = FALSE, ...))
for (threads in 1:2) {
  row("read_desi(), masks compressed", threads, read("packed", threads))
  row("read_desi(), masks not compressed", threads, read("plain", threads))
  row("read_desi(resolution = TRUE)", threads, read("matrices", threads, resolution = TRUE))
  survey <- file.path(folder, "survey.fits")
  row("write_survey() of a file", threads, function() {
    unlink(survey)
    length(write_survey(files[["packed"]], survey, "desi", threads = threads, progress = FALSE))
  })
}
unlink(survey)
cat("\nOn one thread, of the images that are read, processor time in us for a spectrum:\n\n")
cat("| file | their bytes | CFITSIO: flux, ivar, matrices | CFITSIO: masks |\n|---|---|---|---|\n")
for (kind in names(files)) {
  found <- alone(files[[kind]], kind == "matrices") * 1e6 / (if (kind == "matrices") few else n)
  cat(sprintf("| %s | %.1f | %.1f | %.1f |\n", c(packed = "masks compressed", plain = "masks not compressed",
                                                matrices = "with matrices, masks compressed")[[kind]], found[1], found[2], found[3]))
}
