#' Read a catalogue of spectra
#'
#' Columns of a table in a FITS file, gzipped or not, such as SDSS's `specObj-dr16.fits`
#' (<https://data.sdss.org/datamodel/files/SPECTRO_REDUX/specObj.html>): only the requested ones are read, so that the file may be larger
#' than memory.
#'
#' @param file A FITS file.
#' @param columns Names of columns of single numbers or texts, in any case; by default what [select_galaxies()] and [download_sdss()]
#'   need. Those that the file lacks are left out.
#' @param hdu Where the table is, as astronomers count: 1 is the first extension.
#' @return A data frame with lower-case names: `plate`, `mjd`, `fiber` (of `FIBERID`), `run2d`, `class`, `subclass`, `z`, `z_err`,
#'   `zwarning`, `plate_quality` (of `PLATEQUALITY`, or of SDSS-V's `FIELDQUALITY`), `specprimary`, `sn_median_all`, and of SDSS-V `field`,
#'   `catalogid`, `sdss_id`. Missing values are `NA`; scaled and unsigned columns have their values. 64-bit integers are texts where they
#'   are ids, or where a double would round one of them.
#' @section Errors: `spender_error_unsupported` if the package was built without CFITSIO; `spender_error_io` and
#'   `spender_error_format` for files that are damaged or have no such table, and for columns with more than one value a row (named).
#' @export
#' @examples
#' \dontrun{
#' catalogue <- read_catalogue("specObj-dr16.fits")
#' chosen <- select_galaxies(catalogue)
#' download_sdss(chosen, "spectra")
#' survey <- write_survey("spectra", "survey.fits")
#' }
read_catalogue <- function(file, columns = c("PLATE", "MJD", "FIBERID", "RUN2D", "CLASS", "SUBCLASS", "Z", "Z_ERR", "ZWARNING",
                                             "PLATEQUALITY",
                                             "SPECPRIMARY", "SN_MEDIAN_ALL", "FIELD", "CATALOGID", "SDSS_ID", "FIELDQUALITY"), hdu = 1) {
  check_path(file, "file")
  if (!is.character(columns) || !length(columns)) abort("invalid", "`columns` must be names of columns, not ", describe(columns), ".")
  check_number(hdu, "hdu", 0, 10000, whole = TRUE)
  read <- .Call(ffi_read_catalogue, file, hdu + 1, columns)
  read <- read[!vapply(read, is.null, NA)]
  if (!length(read)) abort("format", basename(file), " has none of the columns ", enumerate(columns), ".")
  # 64-bit integers: ids stay texts, as do values that a double would round
  read <- Map(function(column, name) {
    if (is.null(attr(column, "integer64"))) return(column)
    attr(column, "integer64") <- NULL
    numbers <- as.numeric(column)
    if (grepl("ID$", name, ignore.case = TRUE) && !grepl("FIBERID$", name, ignore.case = TRUE) ||
        any(abs(numbers) >= 2^53, na.rm = TRUE)) column else numbers
  }, read, names(read))
  names(read) <- tolower(names(read))
  names(read)[names(read) == "fiberid"] <- "fiber"
  names(read)[names(read) == "platequality"] <- "plate_quality"
  if ("fieldquality" %in% names(read)) {
    if (!"plate_quality" %in% names(read)) read$plate_quality <- read$fieldquality
    read$fieldquality <- NULL
  }
  as.data.frame(read, optional = TRUE)
}
