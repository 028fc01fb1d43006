# One pass of spectra through a fit, from which several results are taken (src/network/infer.h): in the core from the matrices or the
# files to the results, a fraction of a second at a time, so that interrupts are answered and progress is shown.

# What the core reads for a fit: rows of spectra in memory, or all of a survey, with their resolutions if it uses them
source_of <- function(fit, x, rows = seq_along(x$z)) {
  c(if (inherits(x, "survey")) list(paths = x$files$path, counts = x$files$n, rows = x$rows)
    else list(flux = x$flux, ivar = x$ivar, rows = as.double(rows)), if (uses_resolution(fit)) list(resolution = x$resolution))
}

# A session, to be closed by close_session(). path: a file of results to append to, instead of matrices; rows: numbers, or NULL for all,
# without copies of what a survey holds
open_inference <- function(fit, x, types, inference, device, batch_size, path = NULL, rows = NULL) {
  if (inherits(x, "survey")) check_unchanged(x)
  data <- if (is.null(rows)) source_of(fit, x) else source_of(fit, if (inherits(x, "survey")) x[rows] else x, rows)
  z <- if (is.null(rows)) x$z else x$z[rows]
  norm <- if (is.null(rows)) x$norm else x$norm[rows]
  .Call(ffi_infer_open, fit$architecture, fit$weights, fit$instrument$wave, fit$wave_rest, data, as.double(z), as.double(norm), types,
        inference, path, c(device, batch_size = min(choose_batch_size(batch_size, device), max(1, length(z)))))
}

close_session <- function(session) .Call(ffi_session_close, session)

# Of some rows of x: a list of `values`, matrices with a row for each spectrum, named by types; and `unknown`, as unknown_rows() has it
infer <- function(fit, x, types, inference = encoder_only, device, batch_size = NULL, tick = function(done) NULL, rows = NULL) {
  session <- open_inference(fit, x, types, inference, device, batch_size, rows = rows)
  on.exit(close_session(session))
  n <- if (is.null(rows)) length(x$z) else length(rows)
  while ((done <- .Call(ffi_infer_advance, session, 0.2)) < n) tick(done)
  .Call(ffi_infer_end, session)
}

# The same to the file `path`, which has the first rows already. catalogue: a function of row numbers, the file's columns before the results
infer_to_file <- function(fit, x, types, inference, device, batch_size, path, catalogue, tick) {
  session <- open_inference(fit, x, types, inference, device, batch_size, path)
  on.exit(close_session(session))
  done <- .Call(ffi_survey_info, path)$n # now that no other program writes to it
  while (done < length(x$z)) {
    rows <- (done + 1):min(length(x$z), done + 2048)
    .Call(ffi_infer_catalogue, session, unname(catalogue(rows)))
    while ((now <- .Call(ffi_infer_advance, session, 0.2)) < max(rows)) tick(now)
    done <- max(rows)
    tick(done)
  }
  .Call(ffi_infer_end, session)$unknown
}
