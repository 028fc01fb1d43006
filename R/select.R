#' Choose the galaxies to fit
#'
#' The selection of Melchior et al. (2023), section 2: galaxies with a safe redshift on plates of usable quality. Of DESI, recognised by
#' the catalogue column `targetid`, that of the published code for it: targets with a safe redshift, of fibres in order.
#'
#' @param x [spectra()], a survey from [open_survey()], a catalogue from [read_catalogue()], or the name of a catalogue file to read.
#' @param z_max The largest redshift; `NULL`: 0.5, of DESI 0.8.
#' @param z_err_max The redshift's error must be above 0 (SDSS marks a failed redshift by a value of 0 or less) and below this;
#'   `Inf` to take any. `NULL`: 1e-4; of DESI, 0.0005 (1 + z) for targets of the Bright Galaxy Survey (`bgs_target` not 0), any for others.
#' @param class The class that the survey's pipeline gave.
#' @param plate_quality Plate qualities to keep; SDSS calls plates with bad spectrophotometry or sky subtraction `"bad"`.
#' @return The spectra, or rows of the catalogue, that pass all cuts: `class`, `z` (up to `z_max`), `z_err`, `zwarning` (must be 0),
#'   `plate_quality`, being the best spectrum of its object (`specprimary`, of catalogues), and having a norm (of spectra). A cut
#'   whose catalogue column is absent (or, of `plate_quality`, empty) is skipped, which the message says; a missing value fails its cut. The
#'   attribute `"selection"` is a data frame of the cuts in order (`cut`), how many spectra each one removed (`removed`) and left (`left`),
#'   `NA` for a cut that was skipped; `"dropped"` is one of the rows of `x` that were removed (`row`) and the cut that removed each (`cut`).
#'   DESI has no plates; its further cuts are `fiberstatus` (must be 0), `desi_target` (the target was chosen for something: not 0), and
#'   `deltachi2`, which must be above 40 for targets of the Bright Galaxy Survey.
#' @examples
#' grid <- instrument(seq(4000, 8000, by = 2))
#' x <- spectra(matrix(1, 3, 2001), matrix(4, 3, 2001), z = c(0.1, 0.2, 0.9), wave = grid,
#'              meta = data.frame(class = c("GALAXY", "STAR", "GALAXY"), z_err = 2e-5))
#' chosen <- select_galaxies(x)
#' attr(chosen, "selection")
#' @seealso [download_sdss()] for the spectra of a catalogue
#' @export
select_galaxies <- function(x, z_max = NULL, z_err_max = NULL, class = "GALAXY", plate_quality = c("good", "marginal")) {
  if (is.character(x)) x <- read_catalogue(x)
  if (!inherits(x, c("spectra", "survey", "data.frame"))) {
    abort("invalid", "`x` must be spectra, a survey or a catalogue, not ", describe(x), ".")
  }
  is_catalogue <- is.data.frame(x)
  meta <- if (is_catalogue) x else if (inherits(x, "survey")) survey_catalogue(x, x$columns) else x$meta
  n <- if (is_catalogue) nrow(x) else length(x)
  z <- if (is_catalogue) meta$z else x$z
  is_desi <- !is.null(meta$targetid)
  is_bgs <- if (is.null(meta$bgs_target)) rep(FALSE, n) else !meta$bgs_target %in% c("0", NA)
  if (is.null(z_max)) z_max <- if (is_desi) 0.8 else 0.5
  if (!is.null(z_err_max)) check_number(z_err_max, "z_err_max")
  else z_err_max <- if (is_desi) ifelse(is_bgs, 0.0005 * (1 + if (is.null(z)) NA else z), Inf) else 1e-4
  check_number(z_max, "z_max")
  on <- function(column, test) if (!is.null(meta[[column]])) test(meta[[column]])
  cuts <- list(
    class = on("class", function(v) v %in% class),
    z = if (!is.null(z)) z <= z_max,
    z_err = on("z_err", function(v) v > 0 & v < z_err_max),
    zwarning = on("zwarning", function(v) v == 0),
    # of plates, or of SDSS-V's fields; where no spectrum has one, there is none to be cut on
    plate_quality = on("plate_quality", function(v) if (all(is.na(v))) NULL else v %in% plate_quality),
    specprimary = on("specprimary", function(v) v == 1),
    fiberstatus = on("fiberstatus", function(v) v == 0),
    desi_target = on("desi_target", function(v) v != "0"),
    deltachi2 = on("deltachi2", function(v) !is_bgs | v > 40),
    norm = if (!is_catalogue) !is.na(x$norm)
  )
  cuts[setdiff(c(if (is_catalogue) "norm" else "specprimary",
                 if (is_desi) "plate_quality" else c("fiberstatus", "desi_target", "deltachi2")), names(meta))] <- NULL

  keep <- rep(TRUE, n)
  failed <- rep(NA_integer_, n)
  selection <- data.frame(cut = names(cuts), removed = NA_integer_, left = NA_integer_)
  for (i in seq_along(cuts)) {
    if (is.null(cuts[[i]])) next
    pass <- !is.na(cuts[[i]]) & cuts[[i]]
    failed[keep & !pass] <- i
    selection$removed[i] <- sum(keep & !pass)
    keep <- keep & pass
    selection$left[i] <- sum(keep)
  }
  removed <- selection[!is.na(selection$removed) & selection$removed > 0, ]
  skipped <- selection$cut[is.na(selection$removed)]
  message("Selected ", sum(keep), " of ", count(n, "spectrum", "spectra"),
          if (nrow(removed)) paste0("; cut by ", paste(removed$cut, removed$removed, collapse = ", ")), ".",
          if (length(skipped)) paste0(" Not in the catalogue, so not cut on: ", enumerate(skipped), "."))
  chosen <- if (is_catalogue) x[keep, , drop = FALSE] else x[keep]
  attr(chosen, "selection") <- selection
  attr(chosen, "dropped") <- data.frame(row = which(!keep), cut = names(cuts)[failed[!keep]])
  chosen
}
