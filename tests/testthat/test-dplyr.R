test_that("verbs of dplyr keep spectra and their rows together", {
  skip_if_not_installed("dplyr")
  x <- small_spectra(12)
  x$meta$kind <- rep(c("a", "b", "c"), 4)
  low <- stats::median(x$z)
  survey <- write_survey(x, withr::local_tempfile())
  for (source in list(x, survey)) {
    near <- dplyr::filter(source, z < low, kind != "a")
    expect_s3_class(near, class(source)[1])
    expect_identical(as.data.frame(near)$id, x$id[x$z < low & x$meta$kind != "a"])
    ordered <- dplyr::arrange(source, kind, dplyr::desc(z))
    expect_identical(as.data.frame(ordered)$id, x$id[order(x$meta$kind, -x$z)])
    expect_equal(as_spectra(ordered)$flux, as_spectra(source)$flux[order(x$meta$kind, -x$z), ], ignore_attr = TRUE)
    expect_identical(as.data.frame(dplyr::slice(source, 3:1))$id, x$id[3:1])
  }
  expect_length(dplyr::filter(x, z > 10), 0)

  more <- dplyr::mutate(x, double = 2 * z, kind = toupper(kind))
  expect_identical(more$meta$double, 2 * x$z)
  expect_identical(more$meta$kind, toupper(x$meta$kind))
  expect_identical(more$flux, x$flux)
  expect_error(dplyr::mutate(x, z = 0), "`z` belongs to the spectra", class = "spender_error_invalid")

  masses <- data.frame(id = rev(x$id), mass = rev(seq_along(x$id)))
  expect_identical(dplyr::left_join(x, masses)$meta$mass, seq_along(x$id))
  expect_identical(dplyr::left_join(x, data.frame(kind = c("b", "a", "c"), size = 1:3), by = "kind")$meta$size, rep(c(2L, 1L, 3L), 4))
  expect_error(dplyr::left_join(x, rbind(masses, masses)), "more than one row", class = "spender_error_catalogue")
})
