sha256 <- function(path) .Call(ffi_sha256, path)

test_that("SHA-256 is that of the standard", {
  path <- withr::local_tempfile()
  digest_of_bytes <- function(bytes) {
    writeBin(bytes, path)
    sha256(path)
  }
  # FIPS 180-4, and sha256sum for lengths around the ends of blocks
  expect_identical(digest_of_bytes(raw()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  expect_identical(digest_of_bytes(charToRaw("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
  expect_identical(digest_of_bytes(rep(charToRaw("a"), 1e6)), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
  skip_if_not(nzchar(Sys.which("sha256sum")))
  for (n in c(1, 54:57, 63:66, 118:121, 1000)) {
    found <- digest_of_bytes(as.raw(seq_len(n) %% 256))
    expect_identical(found, sub(" .*", "", system2("sha256sum", path, stdout = TRUE)), info = n)
  }
})

# A folder with a model under a name with the right digits, as the hub has it
hub <- function(env = parent.frame()) {
  folder <- withr::local_tempdir(.local_envir = env)
  from <- test_path("torch", "sdss-II.pt")
  name <- paste0("spender.test-", substr(sha256(from), 1, 8), ".pt")
  file.copy(from, file.path(folder, name))
  file.copy(from, file.path(folder, "plain.pt"))
  file.copy(from, file.path(folder, "other-00000000.pt"))
  writeLines("<html>not found</html>", file.path(folder, "page.pt"))
  list(folder = folder, name = name, digest = sha256(from))
}

test_that("a model is downloaded, checked, kept, and read", {
  there <- hub()
  server <- local_server(there$folder)
  dir <- withr::local_tempdir()
  get <- function(name, path = dir, ...) download_model(name, path, base_url = server$url, ...)
  path <- get(there$name)
  expect_identical(path, file.path(dir, there$name))
  expect_identical(sha256(path), there$digest)
  expect_false(read_model(path)$architecture$redshift_input)
  asked <- length(server$asked())
  expect_identical(get(there$name), path)
  expect_length(server$asked(), asked) # not again
  expect_match(server$asked()[1], paste0("^/", there$name))

  # one without digits in its name: what came is noted, and compared later
  expect_message(path <- get("plain.pt", file.path(dir, "mine.pt")), there$digest)
  expect_identical(readLines(paste0(path, ".sha256")), paste0(there$digest, "  mine.pt"))
  expect_silent(get("plain.pt", path))
  cat("x", file = path, append = TRUE)
  expect_error(get("plain.pt", path), "its SHA-256 is .*, not [0-9a-f]{64}\\. Without it", class = "spender_error_format")
})

test_that("what was broken off is resumed, and other files are refused", {
  withr::local_options(spender.download_pause = 0)
  there <- hub()
  server <- local_server(there$folder, setNames("once=truncate", there$name))
  dir <- withr::local_tempdir()
  get <- function(name, ...) download_model(name, dir, base_url = server$url, ...)
  expect_error(get(there$name, retries = 0), class = "spender_error_download")
  size <- file.size(file.path(there$folder, there$name))
  expect_identical(file.size(file.path(dir, paste0(there$name, ".part"))), as.double(size %/% 2))
  path <- get(there$name)
  expect_identical(sha256(path), there$digest)
  expect_true(any(grepl(paste0(there$name, " bytes=", size %/% 2, "-"), server$asked())))

  expect_error(get("other-00000000.pt", retries = 3), "its SHA-256 is .*, not 00000000\\.\\.\\.", class = "spender_error_download")
  expect_equal(sum(grepl("other", server$asked())), 1) # not asked again
  expect_error(get("page.pt", retries = 0), "what came is not a file of weights", class = "spender_error_download")
  expect_error(get("sdss_II", retries = 0), "HTTP 404", class = "spender_error_download")
  expect_identical(list.files(dir), there$name)
})

test_that("without a connection the message says where to put the file, and a file that is there is enough", {
  skip_if_not_installed("curl")
  there <- hub()
  dir <- normalizePath(withr::local_tempdir())
  withr::local_dir(dir)
  offline <- function(...) download_model(..., base_url = "http://127.0.0.1:1/hub/", retries = 0)
  name <- "spender.desi-edr.galaxyae-b9bc8d12.pt"
  by_hand <- paste0("get http://127.0.0.1:1/hub/", name, " in another way and put it at ", dir, "/", name, ".")
  expect_error(offline("desi_edr_galaxy"), by_hand, fixed = TRUE, class = "spender_error_download")
  expect_length(list.files(dir), 0)
  file.copy(file.path(there$folder, there$name), dir)
  expect_identical(offline(there$name), there$name)
  writeBin(raw(9), there$name)
  expect_error(offline(there$name), "is not spender.test-", class = "spender_error_format")
})

test_that("names that are none are refused, with those there are", {
  withr::local_dir(withr::local_tempdir())
  expect_snapshot({
    says(download_model("sdss_III"))
    says(download_model("../sdss.pt"))
    says(download_model(c("sdss_I", "sdss_II")))
    says(download_model("sdss_I", 1))
    says(download_model("sdss_I", "no/such/folder.pt"))
    says(download_model("sdss_I", retries = -1))
  })
})
