served_folder <- function(n, env = parent.frame()) {
  folder <- withr::local_tempdir(.local_envir = env)
  for (i in seq_len(n)) write_sdss(file.path(folder, sprintf("spec-0266-51602-%04d.fits", i)), flux = i,
                                   object = list(FIBERID = list(type = "J", values = i)))
  folder
}

test_that("files are downloaded into folders by plate, and not again", {
  served <- served_folder(5)
  server <- local_server(served)
  dir <- withr::local_tempdir()
  ids <- data.frame(plate = 266, mjd = 51602, fiber = c(1:5, 2), run2d = "26")
  result <- download_sdss(ids, dir, base_url = server$url, parallel = 2)
  expect_identical(result$status, rep("downloaded", 6))
  expect_true(all(file.exists(result$path)))
  expect_identical(basename(dirname(result$path)), rep("0266", 6))
  expect_identical(unname(tools::md5sum(result$path[3])), unname(tools::md5sum(file.path(served, basename(result$path[3])))))
  expect_match(server$asked()[1], "/sdss/spectro/redux/26/spectra/lite/0266/spec-0266-51602-")
  n <- length(server$asked())
  again <- download_sdss(c("0266-51602-0001", "266-51602-2"), dir, base_url = server$url)
  expect_identical(again$status, c("there", "there"))
  expect_length(server$asked(), n)
  expect_match(suppressWarnings(download_sdss(data.frame(plate = 3586, mjd = 55181, fiber = 1, run2d = "v5_13_0"), dir,
                                              base_url = server$url, retries = 0))$url,
               "/eboss/spectro/redux/v5_13_0/spectra/lite/3586/")
})

test_that("what breaks off goes on, and what fails is tried again", {
  withr::local_options(spender.download_pause = 0)
  served <- served_folder(5)
  name <- function(i) sprintf("spec-0266-51602-%04d.fits", i)
  server <- local_server(served, setNames(c("once=truncate", "once=error", "once=truncate"), name(c(1, 2, 4))))
  dir <- withr::local_tempdir()
  result <- download_sdss(sprintf("0266-51602-%04d", 1:5), dir, base_url = server$url, retries = 2)
  expect_identical(result$status, rep("downloaded", 5))
  expect_identical(unname(tools::md5sum(result$path)), unname(tools::md5sum(file.path(served, name(1:5)))))
  size <- file.size(file.path(served, name(1)))
  expect_true(any(grepl(paste0(name(1), " bytes=", size %/% 2, "-"), server$asked()))) # only the rest was asked for
  expect_length(list.files(dir, "part$", recursive = TRUE), 0)
})

test_that("what cannot be had says why, and leaves nothing that looks like a file", {
  skip_on_cran() # takes seconds
  withr::local_options(spender.download_pause = 0)
  served <- served_folder(4)
  name <- function(i) sprintf("spec-0266-51602-%04d.fits", i)
  writeBin(raw(3000), file.path(served, name(4))) # no FITS file has that size
  server <- local_server(served, setNames(c("error", "stall"), name(c(1, 2))))
  dir <- withr::local_tempdir()
  expect_warning(result <- download_sdss(sprintf("0266-51602-%04d", c(1:4, 9)), dir, base_url = server$url, retries = 1, stall = 1),
                 class = "spender_warning_download")
  expect_identical(result$status, c("failed", "failed", "downloaded", "failed", "failed"))
  expect_match(result$reason[1], "HTTP 500")
  expect_match(result$reason[2], "low speed|Operation too slow", ignore.case = TRUE)
  expect_match(result$reason[4], "not a whole FITS file")
  expect_match(result$reason[5], "HTTP 404")
  expect_equal(sum(grepl(name(9), server$asked())), 1) # 404 is not asked again
  expect_equal(sum(grepl(name(1), server$asked())), 2)
  expect_identical(list.files(dir, "fits$", recursive = TRUE), file.path("0266", name(3)))
  # an unreachable server
  result <- suppressWarnings(download_sdss("0266-51602-0001", dir, base_url = "http://127.0.0.1:1", retries = 0))
  expect_identical(result$status, "failed")
})

test_that("a server that sends the whole for the rest does no harm", {
  withr::local_options(spender.download_pause = 0)
  served <- served_folder(1)
  name <- "spec-0266-51602-0001.fits"
  server <- local_server(served, setNames("whole", name))
  dir <- withr::local_tempdir()
  dir.create(file.path(dir, "0266"))
  writeBin(raw(100), file.path(dir, "0266", paste0(name, ".part")))
  result <- download_sdss("0266-51602-0001", dir, base_url = server$url, retries = 1)
  expect_identical(result$status, "downloaded")
  expect_identical(unname(tools::md5sum(result$path)), unname(tools::md5sum(file.path(served, name))))
})

test_that("ids that are none are named", {
  skip_if_not_installed("curl")
  expect_snapshot(error = TRUE, {
    download_sdss("spec-1-2-3", tempdir())
    download_sdss(data.frame(plate = 1, mjd = 2), tempdir())
    download_sdss(data.frame(plate = NA, mjd = 2, fiber = 3, run2d = "26"), tempdir())
    download_sdss(7, tempdir())
    download_sdss("0266-51602-0001", c("a", "b"))
  })
})
