# Files in the layouts of the published models, made by make-torch.py: those in torch/ by PyTorch 2.15, others by the PyTorch found here.
folders <- function() {
  candidates <- c(Sys.getenv("SPENDER_PYTHON"), "/usr/bin/python3", Sys.which("python3"))
  has_torch <- function(python) {
    nzchar(python) && suppressWarnings(system2(python, c("-c", "'import torch, numpy'"), stdout = FALSE, stderr = FALSE)) == 0
  }
  fresh <- file.path(tempdir(), "torch") # made once
  python <- if (!dir.exists(fresh)) Find(has_torch, candidates)
  if (!is.null(python)) {
    dir.create(fresh)
    expect_identical(system2(python, c(test_path("make-torch.py"), fresh), stdout = FALSE, stderr = FALSE), 0L)
  }
  c(test_path("torch"), if (dir.exists(fresh)) fresh)
}

rule <- function(t, n) ((2654435761 * (seq_len(n) - 1) + 40503 * t) %% 2^24) / 2^23 - 1

# All tensors of a model are what make-torch.py put there, to the bit.
expect_rule <- function(path, prefix, rounded = character()) {
  tensors <- .Call(ffi_torch_read, path, NULL)$tensors
  tensors <- tensors[startsWith(names(tensors), prefix) & !grepl("wave|mask", names(tensors))]
  expect_gt(length(tensors), 20)
  for (t in setdiff(seq_along(tensors), match(paste0(prefix, rounded), names(tensors))))
    expect_identical(tensors[[t]]$data, rule(t, prod(tensors[[t]]$shape)), info = names(tensors)[t])
  tensors
}

test_that("published layouts are read to the bit", {
  skip_on_cran() # takes seconds
  for (folder in folders()) {
    at <- function(name) file.path(folder, name)
    # paper I: the encoder sees the redshift; no grid in the file
    expect_rule(at("sdss-I.pt"), "model.")
    expect_error(read_model(at("sdss-I.pt")), "encoder.instrument.wave_obs'; give `wave`", class = "spender_error_format")
    wave <- instrument(seq(4000, 6000, length.out = 60), "mine")
    fit <- expect_silent(read_model(at("sdss-I.pt"), wave = wave))
    expect_true(fit$architecture$redshift_input)
    expect_equal(unlist(fit$architecture[c("n_observed", "n_rest", "n_latent", "lsf", "decoder_offset")], use.names = FALSE),
                 c(60, 70, 3, 5, 1))
    expect_identical(fit$instrument, wave)
    weights <- .Call(ffi_network_export, fit$architecture, fit$weights)
    expect_identical(weights$encoder.conv1.0.weight[2, 1, ], rule(2, 10)[6:10])
    expect_identical(weights$decoder.mlp.0.weight[2, ], rule(19, 9)[4:6])
    expect_identical(weights$decoder.mlp.7.gamma, rule(30, 70))

    # paper II: a list with one model, whose encoder does not see the redshift
    expect_rule(at("sdss-II.pt"), "model.0.")
    fit <- expect_silent(read_model(at("sdss-II.pt")))
    expect_false(fit$architecture$redshift_input)
    expect_identical(fit$architecture$decoder_activation, "speculator")
    expect_identical(fit$instrument$name, "SDSS")
    expect_equal(fit$instrument$wave, instrument("sdss")$wave, tolerance = 1e-6)
    expect_identical(fit$wave_rest[c(1, 70)], c(2359, 9332))
    expect_identical(read_model(at("sdss-II.pt"), instrument = "sdss")$weights, fit$weights)
    spectrum <- spectra(matrix(1, 1, 3921), matrix(1, 1, 3921), 0.1, "sdss")
    expect_length(predict(fit, spectrum, "latent"), 2)

    # DESI: leaky ReLU, a grid in double precision
    expect_rule(at("desi.pt"), "model.")
    fit <- expect_silent(read_model(at("desi.pt")))
    expect_identical(fit$architecture$decoder_activation, "leaky_relu")
    expect_identical(fit$architecture$decoder_offset, 0)
    expect_equal(fit$instrument$wave, seq(4000, 6000, length.out = 61), tolerance = 1e-15)
    write_model(fit, file <- withr::local_tempfile(fileext = ".safetensors"))
    expect_identical(read_model(file)$weights, fit$weights)
  }
})

test_that("of several instruments the one asked for is read", {
  for (folder in folders()) {
    path <- file.path(folder, "five.pt")
    for (i in 0:4) {
      rounded <- if (i == 2) paste0("encoder.conv", 1:2, ".0.weight") else character()
      tensors <- expect_rule(path, paste0("model.", i, "."), rounded)
      fit <- expect_silent(read_model(path, instrument = i + 1))
      expect_length(fit$instrument$wave, 60 + i)
    }
    # types that hold less are rounded as PyTorch does; tensors with other strides are read in order
    types <- vapply(.Call(ffi_torch_read, path, character())$tensors, `[[`, "", "dtype")
    expect_setequal(types, c("F32", "F64", "F16", "BF16", "BOOL"))
    fit <- read_model(path, instrument = 3)
    weights <- .Call(ffi_network_export, fit$architecture, fit$weights)
    expect_equal(weights$encoder.conv1.0.weight[1, 1, ], rule(1, 5), tolerance = 2^-11)
    expect_equal(weights$encoder.conv2.0.weight[1, 1, ], rule(4, 11), tolerance = 2^-8)
    expect_identical(weights$encoder.conv3.0.weight[1, 2, ], rule(7, 42)[22:42])
    fit <- read_model(path, instrument = instrument(seq(4000, 6000, length.out = 63)))
    expect_length(fit$instrument$wave, 63)
  }
  withr::local_dir(test_path("torch"))
  several <- read_model("five.pt") # their decoders are the same
  expect_s3_class(several, "spender_joint")
  expect_identical(several[[3]]$weights, read_model("five.pt", instrument = 3)$weights)
  expect_snapshot({
    says(read_model("five.pt", pools = c(5, 11)))
    says(read_model("five.pt", instrument = 6))
    says(read_model("five.pt", instrument = "sdss"))
    says(read_model("sdss-I.pt", instrument = "sdss"))
    says(read_model("desi.pt", instrument = c(1, 2)))
  })
})

test_that("a published density of latents gives the log p of the Python package that wrote it", {
  withr::local_dir(test_path("torch"))
  flow <- read_model("flow.pt")
  expect_s3_class(flow, "latent_density")
  expect_identical(read_density("flow.pt"), flow)
  points <- rbind(a = c(0, 0, 0), b = c(0.01, -0.02, 0.03), c = c(0.1, 0.05, -0.1), d = c(-0.3, 0.2, 0.1))
  colnames(points) <- flow$columns
  # nflows 0.14 in double precision, printed by make-torch.py; ours is in single precision
  expect_equal(unname(predict(flow, points)), c(4.407376997286892, 4.391662119483356, 3.415975421973563, -9.105167926793003),
               tolerance = 1e-6)
  expect_snapshot(says(read_model("flow.pt", wave = 1:9)))
})

test_that("a foreign name in a pickle is refused, and nothing is run", {
  skip_if_not(nzchar(Sys.which("python3")), "no python3")
  marker <- withr::local_tempfile()
  evil <- withr::local_tempfile(fileext = ".pt")
  # a protocol 2 pickle of an object that touches a file, in an archive as torch.save() makes it
  code <- paste("import os, pickle, sys, zipfile", "class Evil:",
                "    def __reduce__(self): return (getattr(__import__(sys.argv[3]), sys.argv[4]), eval(sys.argv[5]))",
                "with zipfile.ZipFile(sys.argv[1], 'w') as z:",
                "    z.writestr('evil/data.pkl', pickle.dumps({'model': {}, 'x': Evil()}, 2))", sep = "\n")
  script <- withr::local_tempfile(lines = code, fileext = ".py")
  for (call in list(c("os", "system", sprintf("('touch %s',)", marker)), c("builtins", "eval", "('1',)"),
                    c("subprocess", "Popen", "(['x'],)"), c("builtins", "getattr", "(1, 'real')"), c("fractions", "Fraction", "()"))) {
    expect_identical(system2("python3", shQuote(c(script, evil, marker, call))), 0L)
    expect_error(read_model(evil), "nothing of it was run", class = "spender_error_format")
  }
  expect_false(file.exists(marker))
})

test_that("other formats, and damage, are named", {
  bytes <- readBin(test_path("torch", "desi.pt"), "raw", 1e6)
  in_folder({
    writeBin(as.raw(c(0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46)), "old.pt")
    writeBin(bytes[1:5000], "cut.pt")
    writeBin(bytes[1:3], "short.pt")
    at <- grepRaw("desi/data/5", bytes) + 100
    writeBin(replace(bytes, at, xor(bytes[at], as.raw(1))), "flipped.pt")
    expect_snapshot({
      says(read_model("old.pt"))
      says(read_model("cut.pt"))
      says(read_model("short.pt"))
      says(read_model("flipped.pt"))
    })
  })
})
