# A fit without training: what the file must keep does not depend on where the weights come from.
small_fit <- function(...) {
  architecture <- list(n_observed = 139, n_rest = 187, n_latent = 3, filters = c(6, 10, 16), kernels = c(5, 7, 9),
                       pools = c(5, 3, 1), encoder_hidden = c(10, 7), decoder_hidden = c(9, 21), redshift_input = TRUE,
                       weight_attention = FALSE, decoder_activation = "speculator", decoder_offset = 1, lsf = 5)
  architecture <- utils::modifyList(architecture, list(...))
  structure(list(
    architecture = architecture,
    weights = .Call(ffi_network_fill, architecture, 7),
    instrument = instrument(seq(4000, 5000, length.out = architecture$n_observed), "bench"),
    wave_rest = as_float32(seq(2600, 5000, length.out = architecture$n_rest)),
    history = data.frame(epoch = c(1, 2), train_loss = c(pi, 1 / 3), validation_loss = c(NA, 0.1), seconds = c(1e-300, Inf)),
    training = list(epochs = 2L, batch_size = 64, learning_rate = 1e-3, seed = 2^52 + 1, device = "cpu", best = FALSE,
                    z_range = c(0, 0.5), note = "caf\u00e9 \"\\\n", nothing = NULL, none = character(), lost = NaN),
    call = quote(spender(x))
  ), class = "spender")
}

# Writes `fit`, lets `change` alter what is in the file (tensors, metadata), and writes that.
write_changed <- function(path, change, fit = small_fit()) {
  write_model(fit, path, overwrite = TRUE)
  file <- change(.Call(ffi_safetensors_read, path, NULL))
  .Call(ffi_safetensors_write, path, file$tensors, file$metadata, TRUE)
}

as_plain <- function(file) {
  file$metadata <- c(format = "pt")
  file
}

rename <- function(pattern, replacement) {
  function(file) {
    names(file$tensors) <- gsub(pattern, replacement, names(file$tensors), perl = TRUE)
    as_plain(file)
  }
}

kept <- c("architecture", "weights", "instrument", "wave_rest", "history", "training")

test_that("a model comes back the same, to the bit", {
  in_folder({
    for (fit in list(
      small_fit(), small_fit(weight_attention = TRUE, lsf = 0, redshift_input = FALSE),
      small_fit(decoder_activation = "leaky_relu", decoder_offset = 0, encoder_hidden = numeric(), decoder_hidden = 11)
    )) {
      expect_identical(write_model(fit, "a.safetensors", overwrite = TRUE), "a.safetensors")
      expect_identical(unclass(read_model("a.safetensors"))[kept], unclass(fit)[kept])
    }
    expect_identical(list.files(), "a.safetensors")
  })
})

test_that("grids and history keep their bits whatever they are", {
  in_folder({
    fit <- small_fit()
    fit$wave_rest <- seq(2600, 5000, length.out = 187) # no single-precision numbers
    fit$history <- empty_history()
    fit$training <- list()
    write_model(fit, "a.safetensors")
    expect_identical(unclass(read_model("a.safetensors"))[kept], unclass(fit)[kept])
    fit$history <- data.frame()
    write_model(fit, "a.safetensors", overwrite = TRUE)
    expect_identical(read_model("a.safetensors")$history, data.frame())
  })
})

test_that("JSON gives back vectors and lists as they were", {
  set.seed(1)
  numbers <- c(runif(500), exp(rnorm(500, sd = 200)), 1e15, 1e22, 123456789012345678, 5e-324, .Machine$double.xmax, -0)
  for (x in list(numbers[is.finite(numbers)], 1, 1L, c(NA, 1), c(NaN, NA, Inf, -Inf, 0.1), c(1L, NA), NA, c(TRUE, FALSE),
                 NA_character_, c("NA", NA, "Inf", ""), "\u00e9\U1F52D\"\\/\n\t\u0001", character(), integer(), numeric(),
                 logical(), NULL, list(),
                 list(1, "a"), c(a = 1, b = NA), list(a = list(b = 1:3, c = NULL)), list(type = "x", value = 1)))
    expect_identical(from_json(to_json(x)), x)
  expect_identical(to_json(list(n_latent = 6, filters = c(16, 32), offset = 0.5)), '{"n_latent":6,"filters":[16,32],"offset":0.5}')
})

test_that("a plain export of PyTorch weights is read, its architecture inferred from the shapes", {
  in_folder({
    same <- function(fit, change, ...) {
      write_changed("a.safetensors", change, fit)
      got <- read_model("a.safetensors", ...)
      expect_equal(got$architecture, fit$architecture)
      expect_identical(got$weights, fit$weights)
      expect_identical(got$instrument$wave, fit$instrument$wave)
      expect_identical(got$wave_rest, fit$wave_rest)
      expect_identical(nrow(got$history), 0L)
    }
    usual <- small_fit(pools = c(5, 7, 1))
    same(usual, as_plain)
    same(small_fit(), as_plain, pools = c(5, 3))
    same(small_fit(pools = c(5, 7, 1), weight_attention = TRUE, redshift_input = FALSE, lsf = 0), as_plain)
    leaky <- small_fit(pools = c(5, 7, 1), decoder_activation = "leaky_relu", decoder_offset = 0, decoder_hidden = 11)
    same(leaky, as_plain)
    leaky$architecture$decoder_offset <- 1
    same(leaky, as_plain, decoder_offset = 1)

    for (prefix in c("model.", "weight.", "module.", "module.model.")) same(usual, rename("^", prefix))
    same(usual, rename("\\.mlp\\.", ".mlp.mlp."))
    # without dropout: linear layers at 0, 2, 4; activations at 1, 3
    no_dropout <- function(file) {
      tags <- names(file$tensors)
      for (layer in 0:3) for (place in 0:1)
        tags <- sub(paste0("mlp\\.", 3 * layer + place, "\\."), paste0("mlp:", 2 * layer + place, "."), tags)
      names(file$tensors) <- sub("mlp:", "mlp.", tags)
      as_plain(file)
    }
    same(usual, no_dropout)
  })
})

test_that("grids can be given, and an instrument with its name", {
  in_folder({
    fit <- small_fit(pools = c(5, 7, 1))
    write_changed("a.safetensors", function(file) {
      file$tensors[grid_tensors] <- NULL
      as_plain(file)
    }, fit)
    got <- read_model("a.safetensors", wave = fit$instrument, wave_rest = fit$wave_rest)
    expect_identical(got$instrument, fit$instrument)
    expect_identical(got$weights, fit$weights)
    expect_identical(read_model("a.safetensors", fit$instrument$wave, fit$wave_rest)$instrument$name, "custom")
    expect_snapshot({
      says(read_model("a.safetensors"))
      says(read_model("a.safetensors", wave = fit$instrument))
      says(read_model("a.safetensors", wave = 3:1))
      says(read_model("a.safetensors", wave = fit$instrument, wave_rest = 1:9))
      says(read_model("a.safetensors", pools = 4))
      says(read_model("a.safetensors", decoder_offset = 2))
    })
  })
})

test_that("other floating types convert to float32", {
  in_folder({
    fit <- small_fit(pools = c(5, 7, 1))
    write_changed("f64.safetensors", function(file) {
      file$tensors <- lapply(file$tensors, function(t) replace(t, "dtype", "F64"))
      as_plain(file)
    }, fit)
    expect_identical(read_model("f64.safetensors")$weights, fit$weights)

    # bfloat16 is the upper half of float32; every weight is made one
    halve <- function(x) writeBin(x, raw(), size = 4, endian = "little")
    upper <- rep(c(FALSE, FALSE, TRUE, TRUE), length.out = length(fit$weights))
    fit$weights[!upper] <- as.raw(0)
    write_changed("bf16.safetensors", function(file) {
      weights <- !names(file$tensors) %in% grid_tensors
      file$tensors[weights] <- lapply(file$tensors[weights], function(t) {
        list(dtype = "BF16", shape = t$shape, data = halve(t$data)[rep(c(FALSE, FALSE, TRUE, TRUE), length(t$data))])
      })
      as_plain(file)
    }, fit)
    expect_identical(read_model("bf16.safetensors")$weights, fit$weights)
  })
})

test_that("what is no model is refused, naming the file and the tensor", {
  in_folder({
    write_model(small_fit(), "good.safetensors")
    bytes <- readBin("good.safetensors", "raw", 1e6)
    writeBin(raw(), "empty.safetensors")
    writeBin(bytes[1:100], "cut-early.safetensors")
    writeBin(bytes[seq_len(length(bytes) - 1)], "cut-late.safetensors")
    writeLines("SIMPLE  =                    T", "spec.fits")
    drop <- function(...) function(file) { file$tensors[c(...)] <- NULL; file }
    edit <- function(name, ...) function(file) { file$tensors[[name]] <- utils::modifyList(file$tensors[[name]], list(...)); file }
    note <- function(key, value) function(file) { file$metadata[[key]] <- value; file }
    first <- "encoder.conv1.0.weight"
    write_changed("no-model.safetensors", drop(first))
    write_changed("one-missing.safetensors", drop("decoder.mlp.3.bias"))
    write_changed("missing.safetensors", drop("decoder.mlp.3.bias", "decoder.mlp.4.beta"))
    write_changed("shape.safetensors", edit(first, shape = c(5, 1, 6)))
    write_changed("type.safetensors", edit("encoder.conv1.0.bias", dtype = "I32", data = raw(24)))
    write_changed("grid.safetensors", edit("decoder.wave_rest", data = rep(1, 187)))
    write_changed("grid-size.safetensors", edit("decoder.wave_rest", data = 1:3 + 0, shape = 3))
    write_changed("json.safetensors", note("architecture", "{\"n_observed\": 139"))
    write_changed("other.safetensors", note("architecture", to_json(small_fit(lsf = 7)$architecture)))
    impossible <- utils::modifyList(small_fit()$architecture, list(lsf = 4))
    write_changed("impossible.safetensors", note("architecture", to_json(impossible)))
    write_changed("lacking.safetensors", note("architecture", "{\"n_observed\": 139}"))
    write_changed("none.safetensors", function(file) { file$metadata <- file$metadata["format"]; file })
    write_changed("newer.safetensors", note("version", "99"))
    write_changed("history.safetensors", note("history", "{\"epoch\":[1,2],\"train_loss\":[1,2,3]}"))
    write_changed("inputs.safetensors", function(file) as_plain(edit("encoder.mlp.0.weight", shape = c(6, 15))(file)))
    write_changed("two.safetensors", function(file) {
      file$tensors <- c(file$tensors, setNames(file$tensors[first], paste0("model.", first)))
      file
    })
    expect_snapshot({
      says(read_model("absent.safetensors"))
      says(read_model("empty.safetensors"))
      says(read_model("cut-early.safetensors"))
      says(read_model("cut-late.safetensors"))
      says(read_model("spec.fits"))
      says(read_model("no-model.safetensors"))
      says(read_model("one-missing.safetensors"))
      says(read_model("missing.safetensors"))
      says(read_model("shape.safetensors"))
      says(read_model("type.safetensors"))
      says(read_model("grid.safetensors"))
      says(read_model("grid-size.safetensors"))
      says(read_model("json.safetensors"))
      says(read_model("other.safetensors"))
      says(read_model("impossible.safetensors"))
      says(read_model("lacking.safetensors"))
      says(read_model("none.safetensors"))
      says(read_model("newer.safetensors"))
      says(read_model("history.safetensors"))
      says(read_model("inputs.safetensors"))
      says(read_model("two.safetensors"))
      says(read_model("good.safetensors", pools = c(5, 3)))
      says(read_model(c("a", "b")))
    })
  })
})

test_that("tensors of no use and weights that are not finite are warned about", {
  in_folder({
    fit <- small_fit()
    write_changed("a.safetensors", function(file) {
      file$tensors$optimizer <- list(dtype = "F32", shape = 1, data = 1)
      file$tensors$encoder.instrument.skyline_mask <- list(dtype = "BOOL", shape = 2, data = raw(2))
      file
    }, fit)
    expect_warning(got <- read_model("a.safetensors"), "no part of the network are ignored: optimizer$",
                   class = "spender_warning_format")
    expect_identical(got$weights, fit$weights)
    write_changed("foreign.safetensors", function(file) { # a digest is ours where the format is
      file$metadata <- c(format = "pt", digest = "0123")
      file
    }, fit)
    expect_identical(read_model("foreign.safetensors")$weights, fit$weights)
    fit$weights[1:4] <- writeBin(NaN, raw(), size = 4)
    write_model(fit, "b.safetensors")
    expect_warning(got <- read_model("b.safetensors"), "not finite: encoder.instrument.lsf.weight",
                   class = "spender_warning_format")
    expect_identical(got$weights, fit$weights)
  })
})

test_that("an existing file is replaced only on demand, and a refused write leaves nothing", {
  in_folder({
    write_model(small_fit(), "a.safetensors")
    before <- tools::md5sum("a.safetensors")
    dir.create("folder")
    broken <- small_fit()
    broken$weights <- broken$weights[-1]
    short <- small_fit()
    short$wave_rest <- short$wave_rest[-1]
    odd <- small_fit()
    odd$training$when <- as.POSIXct(0, origin = "1970-01-01")
    expect_snapshot({
      says(write_model(small_fit(), "a.safetensors"))
      says(write_model(small_fit(), "folder", overwrite = TRUE))
      says(write_model(small_fit(), "no/such/a.safetensors"))
      says(write_model(small_fit(), "b.safetensors", overwrite = NA))
      says(write_model(small_fit(), 1))
      says(write_model(list(), "b.safetensors"))
      says(write_model(broken, "b.safetensors"))
      says(write_model(short, "b.safetensors"))
      says(write_model(odd, "b.safetensors"))
    })
    expect_identical(sort(list.files()), c("a.safetensors", "folder"))
    expect_identical(tools::md5sum("a.safetensors"), before)
    write_model(small_fit(lsf = 0), "a.safetensors", overwrite = TRUE)
    expect_identical(read_model("a.safetensors")$architecture$lsf, 0)
  })
})

test_that("hundreds of damaged files end in a condition, never in a crash", {
  in_folder({
    write_model(small_fit(), "good.safetensors")
    good <- readBin("good.safetensors", "raw", 1e6)
    header <- 8 + sum(as.integer(good[1:3]) * 256^(0:2))
    set.seed(3)
    outcomes <- vapply(1:600, function(i) {
      bad <- good
      if (i %% 5 == 0) bad <- bad[seq_len(sample(length(bad), 1))]
      at <- sample(min(header, length(bad)), 1 + i %% 3, replace = TRUE)
      bad[at] <- as.raw(sample(255, length(at), replace = TRUE))
      writeBin(bad, "bad.safetensors")
      tryCatch({
        suppressWarnings(read_model("bad.safetensors"), classes = "spender_warning_format")
        "read"
      }, spender_error = function(e) class(e)[1], error = function(e) paste("untyped:", conditionMessage(e)))
    }, "")
    expect_setequal(setdiff(outcomes, "spender_error_unsupported"), c("read", "spender_error_format")) # a version's digit may grow
    expect_gt(mean(outcomes != "read"), 0.8)
  })
})

reference_file <- function(name) {
  folders <- c(Sys.getenv("SPENDER_REFERENCE"), file.path(c("..", "../..", "../../..", "../../../.."), "shared/reference"))
  path <- file.path(folders[nzchar(folders)], name)
  found <- path[file.exists(path)]
  if (length(found) == 0) testthat::skip("no reference files; SPENDER_REFERENCE names their folder")
  normalizePath(found[1])
}

test_that("the reference model is read", {
  path <- reference_file("tiny.safetensors")
  file <- .Call(ffi_safetensors_read, path, c("input.wave_obs", "input.wave_rest", "weight.encoder.conv2.0.weight"))
  expect_warning(
    fit <- read_model(path, wave = file$tensors$input.wave_obs$data, wave_rest = file$tensors$input.wave_rest$data),
    "no part of the network"
  )
  expect_equal(unlist(fit$architecture[c("n_observed", "n_rest", "n_latent", "lsf")], use.names = FALSE), c(257, 421, 3, 5))
  expect_equal(fit$architecture$encoder_hidden, c(12, 8, 6))
  expect_true(fit$architecture$redshift_input)
  weight <- .Call(ffi_network_export, fit$architecture, fit$weights)$encoder.conv2.0.weight
  expect_identical(as.vector(aperm(weight)), file$tensors$weight.encoder.conv2.0.weight$data)
})

test_that("the other reference file is read tensor by tensor", {
  file <- .Call(ffi_safetensors_read, reference_file("paper.safetensors"), NULL)
  expect_identical(file$metadata[["seed"]], "2")
  expect_identical(file$tensors$output.rest$shape, c(3, 5881))
  expect_length(file$tensors$output.rest$data, 3 * 5881)
})

test_that("export-pytorch.py makes files that are read", {
  skip_on_cran() # takes seconds
  candidates <- c(Sys.getenv("SPENDER_PYTHON"), "/usr/bin/python3", Sys.which("python3"))
  has_torch <- function(python) {
    nzchar(python) && suppressWarnings(system2(python, c("-c", "'import torch'"), stdout = FALSE, stderr = FALSE)) == 0
  }
  python <- Find(has_torch, candidates)
  if (is.null(python)) skip("no Python with torch; SPENDER_PYTHON names one")
  script <- system.file("scripts", "export-pytorch.py", package = "spender")
  in_folder({
    # what the published code saves: a list of state dicts, one for each instrument, beside the losses
    writeLines(c(
      "import torch",
      "t = lambda *shape: torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape) / 64",
      "m = {'encoder.instrument.wave_obs': 4000 + torch.arange(40.),",
      "     'decoder.wave_rest': 3000 + torch.arange(50., dtype=torch.float64) / 3,",
      "     'encoder.instrument.skyline_mask': torch.zeros(40, dtype=torch.bool)}",
      "for i, (a, b, k) in enumerate([(1, 4, 5), (4, 6, 7), (6, 8, 9)], 1):",
      "    m.update({f'encoder.conv{i}.0.weight': t(b, a, k), f'encoder.conv{i}.0.bias': t(b), f'encoder.conv{i}.2.weight': t(b)})",
      "for name, sizes in (('encoder', (4, 3, 2)), ('decoder', (2, 5, 50))):",
      "    for i in range(2):",
      "        m.update({f'{name}.mlp.{3*i}.weight': t(sizes[i+1], sizes[i]), f'{name}.mlp.{3*i}.bias': t(sizes[i+1])})",
      "m['encoder.mlp.1.weight'] = t(3).half()",
      "torch.save({'model': [m, m], 'losses': [(0.5, 0.6)]}, 'list.pt')",
      "torch.save(m, 'dict.pt')"
    ), "make.py")
    expect_identical(system2(python, "make.py"), 0L)
    for (name in c("list", "dict")) {
      expect_identical(system2(python, c(shQuote(script), paste0(name, c(".pt", ".safetensors")))), 0L)
      fit <- expect_silent(read_model(paste0(name, ".safetensors")))
      expect_identical(fit$architecture$decoder_activation, "leaky_relu")
      expect_identical(fit$architecture$decoder_offset, 0)
      expect_false(fit$architecture$redshift_input)
      expect_identical(fit$wave_rest, 3000 + 0:49 / 3)
      expect_identical(fit$instrument$wave, 4000 + 0:39)
      weights <- .Call(ffi_network_export, fit$architecture, fit$weights)
      expect_identical(weights$encoder.conv2.0.weight[2, 1, ], (4 * 7 + 1:7) / 64)
      expect_identical(weights$decoder.mlp.3.weight[50, ], (245 + 1:5) / 64)
      expect_identical(weights$encoder.mlp.1.weight, 1:3 / 64)
    }
  })
})
