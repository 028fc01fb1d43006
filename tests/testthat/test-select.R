sample_with <- function(meta, z = 0.1, ivar = 4) {
  wave <- toy_grid()$wave
  n <- nrow(meta)
  spectra(matrix(1, n, length(wave)), matrix(ivar, n, length(wave)), rep_len(z, n), toy_grid(), meta = meta, mask_sky = FALSE)
}

test_that("each cut removes what it should, and counts", {
  meta <- data.frame(class = "GALAXY", z_err = 2e-5, zwarning = 0L, plate_quality = "good")[rep(1, 9), ]
  meta$class[2] <- "STAR"
  meta$z_err[4:6] <- c(1e-4, 0, NA)
  meta$zwarning[7] <- 4L
  meta$plate_quality[8] <- "bad"
  z <- rep(0.1, 9)
  z[3] <- 0.51
  ivar <- replace(rep(4, 9), 9, 0)
  x <- sample_with(meta, z, ivar)
  expect_message(chosen <- select_galaxies(x), "Selected 1 of 9")
  expect_equal(chosen$id, "1")
  expect_equal(attr(chosen, "selection"),
               data.frame(cut = c("class", "z", "z_err", "zwarning", "plate_quality", "norm"), removed = c(1L, 1L, 3L, 1L, 1L, 1L),
                          left = c(8L, 7L, 4L, 3L, 2L, 1L)))
  expect_snapshot(invisible(select_galaxies(x, z_max = 1, z_err_max = Inf)))
})

test_that("a cut whose column is absent is skipped, and said", {
  expect_snapshot(chosen <- select_galaxies(toy_spectra(4)))
  expect_equal(chosen$id, c("a", "c"))
  expect_equal(attr(chosen, "selection")$removed, c(2L, 0L, NA, NA, NA, 0L))
  expect_null(attr(chosen[1], "selection"))
})

test_that("redshifts below zero are legitimate, and no spectra are fine", {
  x <- sample_with(data.frame(class = rep("GALAXY", 2)), z = c(-0.001, 0.3))
  expect_length(suppressMessages(select_galaxies(x, z_max = 0.3)), 2)
  expect_length(suppressMessages(select_galaxies(x[0])), 0)
})

test_that("bad arguments are refused", {
  expect_snapshot(error = TRUE, {
    select_galaxies(1)
    select_galaxies(toy_spectra(), z_max = NA_real_)
    select_galaxies(toy_spectra(), z_err_max = "small")
  })
})
