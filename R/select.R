#' Choose the galaxies to fit
#'
#' The selection of Melchior et al. (2023), section 2: galaxies with a safe redshift on plates of usable quality.
#'
#' @param x [spectra()].
#' @param z_max The largest redshift.
#' @param z_err_max The redshift's error must be above 0 (SDSS marks a failed redshift by a value of 0 or less) and below this;
#'   `Inf` to take any.
#' @param class The class that the survey's pipeline gave.
#' @param plate_quality Plate qualities to keep; SDSS calls plates with bad spectrophotometry or sky subtraction `"bad"`.
#' @return The spectra that pass all cuts: `class`, `z`, `z_err`, `zwarning` (must be 0), `plate_quality`, and having a norm. A cut
#'   whose catalogue column is absent is skipped, which the message says; a missing value fails its cut. The attribute
#'   `"selection"` is a data frame of the cuts in order (`cut`), how many spectra each one removed (`removed`) and left (`left`),
#'   `NA` for a cut that was skipped.
#' @examples
#' grid <- instrument(seq(4000, 8000, by = 2))
#' x <- spectra(matrix(1, 3, 2001), matrix(4, 3, 2001), z = c(0.1, 0.2, 0.9), wave = grid,
#'              meta = data.frame(class = c("GALAXY", "STAR", "GALAXY"), z_err = 2e-5))
#' chosen <- select_galaxies(x)
#' attr(chosen, "selection")
#' @export
select_galaxies <- function(x, z_max = 0.5, z_err_max = 1e-4, class = "GALAXY", plate_quality = c("good", "marginal")) {
  if (!inherits(x, "spectra")) abort("invalid", "`x` must be spectra, not ", describe(x), ".")
  check_number(z_max, "z_max")
  check_number(z_err_max, "z_err_max")
  meta <- x$meta
  on <- function(column, test) if (!is.null(meta[[column]])) test(meta[[column]])
  cuts <- list(
    class = on("class", function(v) v %in% class),
    z = x$z <= z_max,
    z_err = on("z_err", function(v) v > 0 & v < z_err_max),
    zwarning = on("zwarning", function(v) v == 0),
    plate_quality = on("plate_quality", function(v) v %in% plate_quality),
    norm = !is.na(x$norm)
  )

  keep <- rep(TRUE, length(x))
  selection <- data.frame(cut = names(cuts), removed = NA_integer_, left = NA_integer_)
  for (i in seq_along(cuts)) {
    if (is.null(cuts[[i]])) next
    before <- sum(keep)
    keep <- keep & !is.na(cuts[[i]]) & cuts[[i]]
    selection$removed[i] <- before - sum(keep)
    selection$left[i] <- sum(keep)
  }
  removed <- selection[!is.na(selection$removed) & selection$removed > 0, ]
  skipped <- selection$cut[is.na(selection$removed)]
  message("Selected ", sum(keep), " of ", count(length(x), "spectrum", "spectra"),
          if (nrow(removed)) paste0("; cut by ", paste(removed$cut, removed$removed, collapse = ", ")), ".",
          if (length(skipped)) paste0(" Not in the catalogue, so not cut on: ", enumerate(skipped), "."))
  chosen <- x[keep]
  attr(chosen, "selection") <- selection
  chosen
}
