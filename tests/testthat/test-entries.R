# No .Call entry trusts what it gets: each argument of each entry, and each member of its lists, is replaced by things that it should not
# be. The session survives, and what can never be right is an R error.

valid_calls <- function(folder, torch) {
  x <- small_spectra(6)
  fit <- small_fit(x, epochs = 1)
  wave <- fit$instrument$wave
  pca <- spectra_pca(x, 2, iterations = 1)
  device <- list(device = "cpu", threads = 1, precision = "fp32")
  options <- c(device, batch_size = 4)
  recipe <- preparation(small_instrument(), TRUE, c(5300, 5850), TRUE, 1)
  training <- c(device, list(batch_size = 4, seed = 1, rate = 1e-3, total_steps = 4, steps_per_stage = 1, cycle_momentum = FALSE,
                             constant = FALSE,
                             lsf_factor = 1, lsf_nonnegative = FALSE, refine_from = NA_real_, clip = 0, epsilon = 1e-8, average = 0,
                             freeze_decoder = TRUE, pieces = 2))
  shared <- c(training[names(training) != "pieces"], list(share = list(total = 10, pairs = c(1, 3), partner = 5)))
  survey <- write_survey(x, file.path(folder, "survey.fits"))
  path <- survey$files$path
  counts <- survey$files$n
  model <- file.path(folder, "model.safetensors")
  write_model(fit, model)
  open_training <- function() {
    .Call(ffi_train_open, fit$architecture, fit$weights, wave, fit$wave_rest, list(flux = x$flux, ivar = x$ivar, rows = as.double(1:6)),
          x$z, c(TRUE, TRUE, TRUE, TRUE, TRUE, FALSE), training)
  }
  session <- open_training()
  open_joint <- function() {
    .Call(ffi_train_open, fit$architecture, fit$weights, wave, fit$wave_rest, list(flux = x$flux, ivar = x$ivar, rows = as.double(1:6)),
          x$z, c(TRUE, TRUE, TRUE, TRUE, TRUE, FALSE), shared)
  }
  join <- function(session) {
    .Call(ffi_train_join, session, fit$architecture, fit$weights, wave, list(flux = x$flux, ivar = x$ivar, rows = as.double(1:6)), x$z,
          c(TRUE, TRUE, TRUE, TRUE, TRUE, FALSE), shared)
    session
  }
  joint <- join(open_joint())
  flow_x <- matrix(c(1, 3, 2, 5, 4, 0, 0, 1, 3, 1, 2, 5), 6)
  flow_given <- matrix(c(0, 1, 0, 2, 1, 0), 6)
  flow <- new_flow("spline", flow_x, flow_given, rep(TRUE, 6), layers = 2, hidden = c(4, 4), bins = 3, seed = 1)
  flow_options <- list(batch_size = 4, rate = 1e-3, total_steps = 4, seed = 1, threads = 1)
  open_flow <- function() .Call(ffi_flow_open, flow, flow_x, flow_given, as.double(1:6), flow_options)
  flow_fit <- open_flow()
  results <- file.path(folder, "results.fits")
  .Call(ffi_survey_create, results, "RESULTS", wave, "small", "", "", c("ID", "Z", "NORM", "LOSS"), c("A", "D", "D", "E"), c(20, 1, 1, 1))
  open_inference_to <- function(path) {
    .Call(ffi_infer_open, fit$architecture, fit$weights, wave, fit$wave_rest, list(flux = x$flux, ivar = x$ivar, rows = as.double(1:6)),
          x$z, x$norm, "loss", list(steps = 0, with_redshift = FALSE, freedom = 0), path, options)
  }
  ended <- open_inference_to(NULL)
  .Call(ffi_infer_advance, ended, 10)
  with_lsf <- fit$architecture
  inference <- list(steps = 2, with_redshift = TRUE, freedom = 3, mean = c(0, 0), precision = c(1, 0, 0, 1))
  with_lsf$lsf <- 3
  with_lsf$calibration_sd <- c(1, 0.1)
  fits <- file.path(folder, "catalogue.fits")
  writeBin(c(fits_header(SIMPLE = TRUE, BITPIX = 8, NAXIS = 0, EXTEND = TRUE),
             fits_table(list(Z = list(type = "E", values = c(0.1, 0.2))))), fits)
  image <- file.path(folder, "image.fits")
  writeBin(c(fits_header(SIMPLE = TRUE, BITPIX = -32, NAXIS = 2, NAXIS1 = 4, NAXIS2 = 2, CRVAL1 = 4000, CD1_1 = 1),
             writeBin(as.double(1:8), raw(), size = 4, endian = "big"), raw(2848)), image)
  write_sdss(file.path(folder, "spec.fits"))
  coadd <- write_desi(file.path(folder, "coadd-a.fits"), pixels = function(arm, plane) {
    if (plane == "RESOLUTION") array(0.1, c(3, 11, length(desi_arms()[[arm]])))
  })
  tensors <- lapply(read_tensors(network_tensors(.Call(ffi_safetensors_read, model, character())$tensors,
                                                 model)[.Call(ffi_network_table, fit$architecture)$name], model), as.double)
  list(
    fit = fit, folder = folder, open_training = open_training, open_flow = open_flow,
    calls = list(
      ffi_all_finite = list(fit$weights),
      ffi_attention = list(fit$architecture, fit$weights, wave, fit$wave_rest, x$flux, x$ivar, x$z, matrix(0, 6, length(fit$wave_rest)),
                           options),
      ffi_coverage = list(x$z, wave, fit$wave_rest, 0),
      ffi_decode = list(fit$architecture, fit$weights, wave, fit$wave_rest, matrix(0, 6, 2), x$z, "observed", options),
      ffi_digest = list(list(1, "a", TRUE, raw(3)), 1),
      ffi_flat_model = list(x$flux, x$ivar, c(1, 6), matrix(c(1, 1, 251, 251), 2), 1),
      ffi_float32 = list(c(1, 2)),
      ffi_flow_start = list(flow[names(flow) != "weights" & names(flow) != "order"], 1),
      ffi_flow_density = list(flow, flow_x, flow_given, TRUE, 1),
      ffi_desi_masks = list(coadd, 3, c(2, 1), c(1, 3, 2), desi_grid()$wave),
      ffi_flow_sample = list(flow, flow_given, 6, 1, 1),
      ffi_flow_open = list(flow, flow_x, flow_given, as.double(1:6), flow_options),
      ffi_flow_advance = list(flow_fit, 0),
      ffi_flow_weights = list(flow_fit),
      ffi_flow_close = list(open_flow()),
      ffi_group_join = list(1),
      ffi_group_gather = list(raw(3), 1),
      ffi_group_tell = list("text"),
      ffi_id_numbers = list(x$id),
      ffi_infer_advance = list(open_inference_to(NULL), 10),
      ffi_infer_catalogue = list(open_inference_to(results), list(x$id, x$z, x$norm)),
      ffi_infer_end = list(ended),
      ffi_infer_open = list(fit$architecture, fit$weights, wave, fit$wave_rest,
                            list(flux = x$flux, ivar = x$ivar, rows = as.double(1:6), resolution = as_resolution(150, 6, x$instrument)),
                            x$z, x$norm, c("latent", "loss"), inference, NULL, options),
      ffi_infer_pace = list(ended, 0),
      ffi_integer64_text = list(c(1, 2)),
      ffi_lines = list(x$flux, x$ivar, x$z, x$norm, list(wave = wave, centre = c(4862.68, 5008.24), gap = 60, window = 40, sigma_max = 600,
                                                         velocity_max = 600, threads = 1), rep(0, 12), rep(150, 12),
                       array(0.1, c(dim(x$flux), 2))),
      ffi_lines_dip = list(c(3727.09, 3729.88), matrix(c(10, 14, 10, 14), 2), c(50, 140)),
      ffi_move_spectra = list(x$flux, x$ivar, x$z, wave, 0.2, 1),
      ffi_network_export = list(fit$architecture, fit$weights),
      ffi_network_fill = list(fit$architecture, 1),
      ffi_network_carry = list(fit$architecture, fit$weights, fit$architecture),
      ffi_network_set_lsf = list(with_lsf, .Call(ffi_network_fill, with_lsf, 1), c(0.1, 0.8, 0.1)),
      ffi_network_import = list(fit$architecture, tensors),
      ffi_network_table = list(fit$architecture),
      ffi_pca_observed = list(matrix(0.1, 6, 2), x$z, pca_grids(pca, 1), pca$mean, t(pca$components)),
      ffi_pca_pass = list(x$flux, x$ivar, x$z, pca_grids(pca, 1), pca$mean, t(pca$components), numeric()),
      ffi_pca_solve = list(pca_pass(pca, x, TRUE, 1)$sums, 2),
      ffi_prepare_spectra = list(x$flux, x$ivar, x$z, recipe),
      ffi_read_catalogue = list(fits, 2, c("Z", "NONE")),
      ffi_read_desi = list(coadd, 3, c(1, 1), c(2, 1), c(1, 3, 2), c(0.1, 0.2),
                           c(desi_preparation(desi_grid(), TRUE, c(5300, 5850), 1), resolution = TRUE), NULL),
      ffi_read_image = list(image, 1),
      ffi_read_sdss = list(file.path(folder, "spec.fits"),
                           c(preparation(instrument("sdss"), TRUE, c(5300, 5850), TRUE, 1), mask = "and_mask"), 3.578, NULL),
      ffi_safetensors_read = list(model, NULL),
      ffi_safetensors_write = list(file.path(folder, "new.safetensors"), list(a = list(dtype = "F32", shape = 2, data = c(1, 2))),
                                   c(key = "value"), TRUE),
      ffi_sha256 = list(model),
      ffi_torch_is = list(model),
      ffi_torch_read = list(torch, NULL),
      ffi_session_close = list(open_training()),
      ffi_spectra_quality = list(x$flux, x$ivar, 1),
      ffi_split = list(x$id, 0.2, 1),
      ffi_survey_append = list(path, list(x$id, x$z, x$norm, x$meta$class, x$meta$subclass, x$meta$sn_median, x$flux, x$ivar)),
      ffi_survey_columns = list(path, counts, c("ID", "Z"), c(1, 3)),
      ffi_survey_create = list(file.path(folder, "created.fits"), "SPECTRA", wave, "small", "", "1/2",
                               c("ID", "Z", "NORM", "FLUX", "IVAR"), c("A", "D", "D", "E", "E"), c(9, 1, 1, 251, 251)),
      ffi_survey_digest = list(path, counts, "ID", TRUE, c(1, 3), list(c(0.1, 0.2), "a"), 2),
      ffi_survey_finish = list(path, "file", "reason"),
      ffi_survey_info = list(path),
      ffi_survey_locked = list(path),
      ffi_survey_matrix = list(path, counts, "FLUX", c(2, 1)),
      ffi_survey_rejected = list(path),
      ffi_survey_write = list(write_survey(x, file.path(folder, "written.fits"))$files$path, 4),
      ffi_survey_written = list(.Call(ffi_survey_write, write_survey(x, file.path(folder, "ended.fits"))$files$path, 4)),
      ffi_train_advance = list(session, 0),
      ffi_train_join = list(open_joint(), fit$architecture, fit$weights, wave, list(flux = x$flux, ivar = x$ivar, rows = as.double(1:6)),
                            x$z, c(TRUE, TRUE, TRUE, TRUE, TRUE, FALSE), shared),
      ffi_train_joined = list(joint, list(weight = 0.5, sigma = 0.5, scale_free = TRUE)),
      ffi_train_open = list(fit$architecture, fit$weights, wave, fit$wave_rest, list(paths = path, counts = counts, rows = as.double(1:6)),
                            x$z,
                            c(TRUE, TRUE, TRUE, TRUE, TRUE, FALSE), training),
      ffi_train_restore = list(session, .Call(ffi_train_state, session)),
      ffi_train_state = list(session),
      ffi_train_stop = list(open_training()),
      ffi_train_validate = list(session, 10),
      ffi_train_weights = list(session),
      ffi_uniforms = list(1, 0, 3, 2)
    )
  )
}

# ffi_simulate's arguments are made inside simulate_spectra(): they are caught on their way.
simulate_call <- function() {
  caught <- NULL
  code <- body(simulate_spectra)
  replace_call <- function(e) {
    if (is.call(e) && identical(e[[1]], as.name(".Call")) && identical(e[[2]], as.name("ffi_simulate"))) {
      return(bquote({
        catch(list(..(as.list(e)[-(1:2)])))
        .(e)
      }, splice = TRUE))
    }
    if (is.call(e)) for (i in seq_along(e)) if (!identical(e[[i]], quote(expr = ))) e[i] <- list(replace_call(e[[i]])) # nolint
    e
  }
  copy <- simulate_spectra
  body(copy) <- replace_call(code)
  environment(copy) <- list2env(list(catch = function(arguments) caught <<- arguments), parent = asNamespace("spender"))
  copy(4, small_instrument(), seed = 1, threads = 1, resolution = 150)
  caught
}

wrong_values <- function() {
  list(NULL, NA, TRUE, 1L, 0, -1, 1e300, Inf, NaN, c(1, 2), numeric(), "a", NA_character_, c("a", "b"), character(), list(), list(1),
       list(a = 1),
       raw(), raw(7), matrix(0, 1, 1), matrix(0, 6, 251), 1i)
}
never_right <- function() list(quote(a), globalenv(), y ~ x)

# Every list of arguments with one of them, or one member of a list among them, replaced by each value or left out
each_replacement <- function(arguments, values, f) {
  for (i in seq_along(arguments)) {
    for (value in values) {
      wrong <- arguments
      wrong[i] <- list(value)
      f(wrong)
    }
    if (!is.list(arguments[[i]]) || is.null(names(arguments[[i]]))) next
    for (name in names(arguments[[i]])) {
      wrong <- arguments
      wrong[[i]][[name]] <- NULL
      f(wrong)
      for (value in values) {
        wrong <- arguments
        wrong[[i]][name] <- list(value)
        f(wrong)
      }
    }
    wrong <- arguments
    names(wrong[[i]]) <- NULL
    f(wrong)
  }
}

test_that("every entry survives every wrong argument", {
  skip_on_cran() # takes seconds
  skip_without_cfitsio()
  folder <- withr::local_tempdir()
  torch <- normalizePath(test_path("torch", "desi.pt"))
  withr::local_dir(folder)
  made <- valid_calls(folder, torch)
  calls <- c(made$calls, list(ffi_simulate = simulate_call()))
  entries <- names(getDLLRegisteredRoutines("spender")$.Call)
  without_arguments <- c("ffi_build_info", "ffi_cuda_devices", "ffi_cuda_release", "ffi_interrupt_on_sigterm")
  expect_setequal(c(names(calls), without_arguments), entries)
  closed <- made$open_training()
  .Call(ffi_session_close, closed)
  nothing <- methods::new("externalptr")
  tried <- 0
  for (entry in names(calls)) {
    routine <- get(entry, asNamespace("spender"))
    call <- function(arguments) {
      tried <<- tried + 1
      if (entry == "ffi_survey_create") unlink("created.fits")
      tryCatch({
        suppressMessages(do.call(.Call, c(list(routine), arguments), quote = TRUE))
        "no error"
      }, error = function(e) "error")
    }
    expect_identical(call(calls[[entry]]), "no error", info = entry)
    if (entry == "ffi_flow_close") calls[[entry]] <- list(made$open_flow())
    if (entry == "ffi_session_close") calls[[entry]] <- list(made$open_training())
    each_replacement(calls[[entry]], c(wrong_values(), list(closed, nothing)), call)
    accepted <- 0
    each_replacement(calls[[entry]], never_right(), function(arguments) {
      known <- vapply(arguments, function(a) any(vapply(never_right(), identical, NA, a)), NA)
      if (any(known)) accepted <<- accepted + (call(arguments) == "no error")
      else call(arguments)
    })
    expect_identical(accepted, 0, info = entry)
  }
  expect_gt(tried, 5000)
})
