#' Read a catalogue of spectra
#'
#' Columns of a table in a FITS file, gzipped or not, such as SDSS's `specObj-dr16.fits`
#' (<https://data.sdss.org/datamodel/files/SPECTRO_REDUX/specObj.html>), SDSS-V's `spAll-v6_1_3.fits.gz` or DESI's `zall-pix-iron.fits`:
#' only the requested ones are read, so that the file may be larger than memory.
#'
#' @param file A FITS file.
#' @param columns Names of columns of single numbers or texts, in any case; by default what [select_galaxies()] and [download_sdss()]
#'   need. Those that the file lacks are left out.
#' @param hdu Where the table is: its name (`"ZCATALOG"`), or its number as astronomers count: 1 is the first extension.
#' @return A data frame with lower-case names: `plate`, `mjd`, `fiber` (of `FIBERID`), `run2d`, `class`, `subclass`, `z`, `z_err`,
#'   `zwarning`, `plate_quality` (of `PLATEQUALITY`, or of SDSS-V's `FIELDQUALITY`), `specprimary`, `sn_median_all`, `ra` and `dec`
#'   (degrees; of `PLUG_RA`, `TARGET_RA` or `RA`, the first that is there), and of SDSS-V `field`, `catalogid`, `sdss_id`. DESI's columns
#'   get SDSS's names where they mean the same: `class` (of `SPECTYPE`), `subclass` (`SUBTYPE`), `z_err` (`ZERR`), `zwarning` (`ZWARN`),
#'   `specprimary` (`ZCAT_PRIMARY`); others are `targetid`, `survey`, `program`, `deltachi2`, `fiberstatus` (of `COADD_FIBERSTATUS`),
#'   `desi_target` and `bgs_target`, the bits of the columns of the row's survey, as [read_desi()] has them. Missing values are `NA`; scaled
#'   and unsigned columns have their values. 64-bit integers are texts where they are ids or targeting bits, or where a double would round
#'   one of them.
#' @section Errors: `spender_error_unsupported` if the package was built without CFITSIO; `spender_error_io` and
#'   `spender_error_format` for files that are damaged or have no such table, and for columns with more than one value a row (named).
#' @export
#' @examples
#' survey <- tempfile(fileext = ".fits")
#' x <- simulate_spectra(5, instrument = instrument(seq(4000, 8000, by = 8)), seed = 1)
#' write_survey(x, survey)
#' read_catalogue(survey, c("ID", "Z", "CLASS"))
#' \dontrun{
#' catalogue <- read_catalogue("specObj-dr16.fits")
#' chosen <- select_galaxies(catalogue)
#' download_sdss(chosen, "spectra")
#' survey <- write_survey("spectra", "survey.fits")
#' }
read_catalogue <- function(file, columns = c("PLATE", "MJD", "FIBERID", "RUN2D", "CLASS", "SUBCLASS", "Z", "Z_ERR", "ZWARNING",
                                             "PLATEQUALITY",
                                             "SPECPRIMARY", "SN_MEDIAN_ALL", "FIELD", "CATALOGID", "SDSS_ID", "FIELDQUALITY",
                                             "PLUG_RA", "PLUG_DEC", "TARGET_RA", "TARGET_DEC", "RA", "DEC",
                                             "TARGETID", "SURVEY", "PROGRAM", "SPECTYPE", "SUBTYPE", "ZERR", "ZWARN", "DELTACHI2",
                                             "COADD_FIBERSTATUS", "ZCAT_PRIMARY", target_columns), hdu = 1) {
  check_path(file, "file")
  if (!is.character(columns) || !length(columns)) abort("invalid", "`columns` must be names of columns, not ", describe(columns), ".")
  if (is.character(hdu)) check_path(hdu, "hdu") else check_number(hdu, "hdu", 0, 10000, whole = TRUE)
  read <- .Call(ffi_read_catalogue, file, if (is.character(hdu)) hdu else hdu + 1, columns)
  read <- read[!vapply(read, is.null, NA)]
  if (!length(read)) abort("format", basename(file), " has none of the columns ", enumerate(columns), ".")
  # 64-bit integers: ids and bits stay texts, as do values that a double would round
  read <- Map(function(column, name) {
    if (is.null(attr(column, "integer64"))) return(column)
    attr(column, "integer64") <- NULL
    numbers <- as.numeric(column)
    if (grepl("(ID|_TARGET)$", name, ignore.case = TRUE) && !grepl("FIBERID$", name, ignore.case = TRUE) ||
        any(abs(numbers) >= 2^53, na.rm = TRUE)) column else numbers
  }, read, names(read))
  as.data.frame(usual_names(read, missing(columns)), optional = TRUE)
}

# Names of catalogue columns, and the lower-case names of columns of files that they are made of: the first that is there
usual_columns <- list(fiber = "fiberid", plate_quality = c("platequality", "fieldquality"), class = "spectype", subclass = "subtype",
                      z_err = "zerr", zwarning = "zwarn", specprimary = "zcat_primary", fiberstatus = "coadd_fiberstatus",
                      ra = c("plug_ra", "target_ra", "ra"), dec = c("plug_dec", "target_dec", "dec"))

# With `choose`, columns that mean the same become one; columns that were asked for by name all stay.
usual_names <- function(read, choose) {
  upper <- toupper(names(read))
  if (choose && any(grepl("^(SV[123]_|CMX_)", upper))) { # of a survey other than the main one
    bits <- setNames(read, upper)
    survey <- if (is.null(bits$SURVEY)) rep(NA_character_, length(read[[1]])) else bits$SURVEY
    read <- read[!upper %in% target_columns]
    read$desi_target <- target_bits(bits, "DESI", survey)
    read$bgs_target <- target_bits(bits, "BGS", survey)
  }
  names(read) <- tolower(names(read))
  for (name in names(usual_columns)) {
    there <- intersect(usual_columns[[name]], names(read))
    if (!length(there) || name %in% names(read) && !(choose && name %in% there)) next
    if (choose) read[there[-1]] <- NULL
    names(read)[names(read) == there[1]] <- name
  }
  read
}
