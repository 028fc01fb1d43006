#' Read DESI spectra
#'
#' Reads the spectra of the Dark Energy Spectroscopic Instrument, coadded by healpix (`coadd-SURVEY-PROGRAM-PIXEL.fits`) or by tile
#' (`coadd-PETAL-TILE-thruNIGHT.fits`), or one by one for each exposure (`spectra-...`), with the redshifts of the `redrock-...` files
#' beside them, and prepares them as [spectra()] does.
#'
#' @param files Names of files, or of folders: all `coadd-*.fits` and `.fits.gz` in them and below, and those `spectra-*` that have no coadd
#'   there.
#' @param instrument The grid: `"desi"`, or a part of it (`instrument(instrument("desi")$wave[1:4000])`): nothing is resampled.
#' @param mask_sky Mask night-sky lines? Those brighter than \eqn{I = 2} in the units of [sky_lines()], within
#'   \eqn{5 (1 + \log_{10}(I / 2))}{5 (1 + log10(I/2))} Å, which is the rule of the published code, and the bluer ones of [sky_lines()]
#'   within 5 Å. Or a vector of line wavelengths (Å, vacuum) to mask, within 5 Å, instead.
#' @param window As in [spectra()].
#' @param threads How many threads read blocks of spectra; `NULL`: as many as [devices()] says.
#' @param progress Show a progress bar?
#' @param redshifts `NULL` for the `redrock-...` file of the same name in the same folder, gzipped or not. Or a data frame with the columns
#'   `targetid` (as text; or of class integer64) and `z`, perhaps `z_err`, `zwarning`, `class`, `subclass`, `deltachi2`, as
#'   `read_catalogue("zall-pix-iron.fits", hdu = "ZCATALOG")` gives.
#'
#' @param resolution Read the resolution matrices of the arms, too, as the spectra's `resolution` (see [spectra()])? That takes 680 kB of
#'   memory for a spectrum. They are averaged over arms and exposures like the flux, with the same weights, pixel by pixel (of pixels
#'   without weight all count alike), and used as they are: rough from pixel to pixel, with rows that sum to about 1.
#'
#' @details
#' HDUs are found by name. Each arm (B, R, Z) has wavelengths, flux (1e-17 erg/s/cm²/Å), inverse variance and mask; arms share DESI's
#' pixels of 0.8 Å, in vacuum. A target's spectrum is the mean over its arms and exposures,
#' \deqn{\bar y = \frac{\sum w y}{\sum w}, \quad w = \mathrm{ivar} \cdot \mathrm{good},}{mean = sum(w y) / sum(w), w = ivar good,}
#' with the inverse variance \eqn{\sum w}{sum(w)}, where a pixel is good if no bit of its mask is set; pixels without a good one get flux 0,
#' ivar 0. Rows of a file with one TARGETID (`spectra-...`) are one spectrum: exposures whose FIBERSTATUS is not 0 are left out if the
#' target has others. No cosmic rays are searched for between exposures, so prefer the coadds. An arm that is absent leaves its pixels
#' masked; of one that is there in part the error says what lacks. Masks may be compressed (by RICE_1, GZIP_1 or GZIP_2). The table SCORES
#' is not used.
#'
#' Redshifts are joined by TARGETID, never by row. Ids are TARGETIDs as text, as they exceed what a double holds, and negative ones exist.
#' The catalogue: `file`, `targetid`, `survey`, `program`, `healpix` and `tile` (of the file's header, or of the target), `arms` (as
#' `"BRZ"`), `objtype` (`"TGT"`, `"SKY"`), `fiberstatus`, `exposures` (coadded), `desi_target` and `bgs_target` (of the columns of the
#' file's survey, as `SV3_DESI_TARGET`; texts, as they are 64-bit integers), `class` (of SPECTYPE), `subclass`, `z_err`, `zwarning`,
#' `deltachi2`, `ra` and `dec` (of the target, degrees). Each is `NA` where there is none.
#'
#' A file that cannot be used does not stop the others, and neither does a target without a redshift: it has no row in the result but one in
#' [problems()], with the reason, and a warning counts it. A target that was read already (of another file) stays; it gets a new id and a
#' row in [problems()].
#'
#' One spectrum takes 125 kB of memory; [write_survey()] needs that, and half of it again, of one file at a time.
#' @return [spectra()], in the order of `files` and of the targets in them.
#' @section Errors:
#' `spender_error_unsupported` if the package was built without CFITSIO; `spender_error_files` for a folder without such files;
#' `spender_error_grid` if the grid is not a part of DESI's; `spender_error_catalogue` for `redshifts` without the columns, or with two rows
#' of a target. Warnings: `spender_warning_files`, some files could not be read; `spender_warning_targets`, some targets have no redshift.
#' @references DESI Collaboration 2024, AJ 168, 58 (early data release). <https://desidatamodel.readthedocs.io>
#' @examples
#' # a folder of files:   x <- read_desi("healpix/sv3/bright/"); plot(select_galaxies(x))
#' # files without spectra are reported, and stop nothing
#' file <- tempfile("coadd-", fileext = ".fits")
#' writeLines("This is not a spectrum.", file)
#' if (devices()$built[["cfitsio"]]) {
#'   x <- suppressWarnings(read_desi(file))
#'   print(x)
#'   problems(x)$reason
#' }
#' @seealso [select_galaxies()], [write_survey()]
#' @export
read_desi <- function(files, instrument = "desi", mask_sky = TRUE, window = c(5300, 5850), threads = NULL, progress = interactive(),
                      redshifts = NULL, resolution = FALSE) {
  files <- desi_files(files)
  instrument <- instrument(instrument)
  if (!is_desi_grid(instrument)) {
    abort("grid", "DESI's pixels are 3600 + 0.8 m ", angstrom(), ", and the grid ", format(instrument),
          ", is not made of them. Use instrument(\"desi\") or a part of it.")
  }
  check_flag(resolution, "resolution")
  recipe <- c(desi_preparation(instrument, mask_sky, window, threads), resolution = resolution)
  check_flag(progress, "progress")
  absent <- if (!is.null(redshifts)) setdiff(c("class", "subclass", "z_err", "zwarning", "deltachi2"), names(redshifts))
  if (!is.null(redshifts)) redshifts <- check_redshifts(redshifts)

  tables <- lapply(files, function(file) {
    tryCatch(desi_targets(file, redshifts), spender_error_io = conditionMessage, spender_error_format = conditionMessage)
  })
  failed <- vapply(tables, is.character, NA)
  reason <- rep(NA_character_, length(files))
  reason[failed] <- as.character(tables[failed])
  tables <- tables[!failed]
  numbers <- function(name) as.double(unlist(lapply(tables, `[[`, name)))
  sizes <- vapply(tables, function(table) nrow(table$targets), 0L)
  targets <- bind_columns(c(list(no_targets()), lapply(tables, `[[`, "targets")), c(0L, sizes))
  file <- rep(seq_along(tables), sizes)
  raw <- .Call(ffi_read_desi, files[!failed], numbers("n"), as.double(file), numbers("counts"), numbers("rows"), targets$z, recipe,
               reading_bar(progress, nrow(targets)))
  reason[!failed] <- raw$problem

  good <- is.na(raw$problem)[file]
  if (!all(good)) {
    raw[c("flux", "ivar")] <- lapply(raw[c("flux", "ivar")], function(pixels) pixels[good, , drop = FALSE])
    if (resolution) raw$resolution <- raw$resolution[good, , drop = FALSE]
    raw[c("norm", "found")] <- lapply(raw[c("norm", "found")], `[`, good)
    targets <- targets[good, ]
    file <- file[good]
  }
  unread <- unread_inputs(files[!is.na(reason)], reason[!is.na(reason)])
  warn_unread(unread, length(files))
  dropped <- do.call(rbind, lapply(tables[is.na(raw$problem)], `[[`, "dropped"))
  if (NROW(dropped)) {
    warn("targets", nrow(dropped), " of ", count(nrow(dropped) + nrow(targets), "target"), " have no redshift and are left out; ",
         "problems() lists them.")
  }
  id <- make.unique(targets$targetid)
  meta <- desi_catalogue(targets, raw, files[!failed], file)
  problems <- read_problems(raw$found, targets$targetid, id, files[!failed][file], window, rbind(dropped, unread))
  new_spectra(raw$flux, raw$ivar, targets$z, raw$norm, instrument, id, meta[setdiff(names(meta), absent)], problems,
              object = targets$targetid,
              resolution = if (resolution) list(values = raw$resolution, size = 11, step = 1, gaussian = FALSE))
}

# ---- files ----

desi_files <- function(files) {
  expand_folders(files, "^(coadd|spectra)-.*\\.fits(\\.gz)?$", "files coadd-*.fits or spectra-*.fits", function(found) {
    plain <- sub("\\.gz$", "", found)
    coadd <- file.path(dirname(plain), sub("^spectra-", "coadd-", basename(plain)))
    found[coadd == plain | !coadd %in% plain] # exposures are left out where their coadd is
  })
}

is_desi_grid <- function(instrument) {
  pixel <- (instrument$wave - 3600) / 0.8
  all(abs(pixel - round(pixel)) < 0.01) && all(diff(round(pixel)) == 1) # rounded to single precision, they are off by up to 0.0006
}

desi_preparation <- function(instrument, mask_sky, window, threads) {
  recipe <- preparation(instrument, mask_sky, window, TRUE, threads)
  if (isTRUE(mask_sky)) {
    lines <- all_sky_lines()
    recipe$sky <- lines$wave
    recipe$half_width <- desi_half_width(lines$intensity)
  }
  recipe
}

# Columns of a table as a list: single numbers, and 64-bit integers as texts. Those that it lacks are NULL.
desi_table <- function(file, hdu, columns) {
  table <- .Call(ffi_read_catalogue, file, hdu, columns)
  if (is.null(table$TARGETID)) abort("format", basename(file), " has no column TARGETID in HDU ", hdu)
  table$TARGETID <- plain_text(table$TARGETID)
  table
}

# ---- targets ----

target_columns <- c(outer(c("", "SV1_", "SV2_", "SV3_"), c("DESI_TARGET", "BGS_TARGET"), paste0), "CMX_TARGET")
fibermap_columns <- c("TARGETID", "OBJTYPE", "COADD_FIBERSTATUS", "FIBERSTATUS", "COADD_NUMEXP", "TILEID", "TARGET_RA", "TARGET_DEC",
                      target_columns)
redrock_columns <- c("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE", "SUBTYPE", "DELTACHI2")

# Of one file: `n` rows of FIBERMAP; `targets`, those with a redshift, and for each of them how many rows it is coadded from (`counts`) and
# which (`rows`); `dropped`: those without.
desi_targets <- function(file, redshifts) {
  map <- desi_table(file, "FIBERMAP", fibermap_columns)
  id <- map$TARGETID
  n <- length(id)
  of_targets <- desi_rows(map)
  rows <- of_targets$rows
  first <- of_targets$first
  counts <- of_targets$counts

  from <- if (is.null(redshifts)) redrock_of(file) else NULL
  if (!is.null(from)) redshifts <- read_redrock(from)
  row <- match(id[first], redshifts$targetid)
  has <- is.finite(redshifts$z[row]) & redshifts$z[row] > -1
  targets <- data.frame(targetid = id[first], z = redshifts$z[row], tile = as_numbers(map$TILEID, n)[first],
                        objtype = as_texts(map$OBJTYPE, n)[first], redshifts[row, setdiff(names(redshifts), c("targetid", "z"))],
                        fiberstatus = of_targets$status[first], exposures = counts, ra = as_numbers(map$TARGET_RA, n)[first],
                        dec = as_numbers(map$TARGET_DEC, n)[first])
  if (!is.null(map$COADD_NUMEXP)) targets$exposures <- as_numbers(map$COADD_NUMEXP, n)[first]
  targets[target_columns] <- lapply(map[target_columns], function(column) as_texts(column, n)[first])
  source <- if (is.null(from)) "`redshifts`" else basename(from)
  lacks <- ifelse(is.na(row), paste0("no redshift: ", source, " has none of this target"),
                  paste0("no redshift: Z in ", source, " is not finite and above -1"))
  list(n = n, targets = targets[has, ], counts = counts[has], rows = rows[rep(has, counts)],
       dropped = unread_inputs(rep(file, sum(!has)), lacks[!has], id[first][!has]))
}

# Of a table FIBERMAP, a list: `first`, the targets' first rows; `rows`, those they are coadded from, target by target; `counts`, how
# many of them; `status` of each row
desi_rows <- function(map) {
  id <- map$TARGETID
  status <- as_numbers(if (is.null(map$COADD_FIBERSTATUS)) map$FIBERSTATUS else map$COADD_FIBERSTATUS, length(id))
  target <- match(id, unique(id))
  good <- is.na(status) | status == 0
  rows <- which(!is.na(id) & (good | !target %in% target[good]))
  rows <- rows[order(target[rows])]
  first <- rows[!duplicated(target[rows])]
  list(first = first, rows = rows, counts = tabulate(match(target[rows], target[first]), length(first)), status = status)
}

no_targets <- function() {
  none <- data.frame(targetid = character(), z = double(), tile = double(), objtype = character(), class = character(),
                     subclass = character(), z_err = double(), zwarning = double(), deltachi2 = double(), fiberstatus = double(),
                     exposures = double(), ra = double(), dec = double())
  none[target_columns] <- rep(list(character()), length(target_columns))
  none
}

as_numbers <- function(column, n) if (is.null(column)) rep(NA_real_, n) else as.double(column)
as_texts <- function(column, n) {
  if (is.null(column)) return(rep(NA_character_, n))
  text <- plain_text(column)
  text[text %in% ""] <- NA
  text
}

# `survey`, `program`, `healpix` and `arms` are those of the files.
desi_catalogue <- function(targets, raw, files, file) {
  survey <- raw$survey[file]
  data.frame(file = files[file], targetid = targets$targetid, survey = survey, program = raw$program[file],
             healpix = as_integers(raw$healpix[file]), tile = as_integers(ifelse(is.na(raw$tile[file]), targets$tile, raw$tile[file])),
             arms = raw$arms[file], objtype = targets$objtype, fiberstatus = as_integers(targets$fiberstatus),
             exposures = as_integers(targets$exposures), desi_target = target_bits(targets, "DESI", survey),
             bgs_target = target_bits(targets, "BGS", survey), class = targets$class, subclass = targets$subclass, z_err = targets$z_err,
             zwarning = as_integers(targets$zwarning), deltachi2 = targets$deltachi2, ra = targets$ra, dec = targets$dec)
}

# Targeting bits, as text: of the column of the survey that chose the targets, or, where the survey is not known, of the one that has any.
target_bits <- function(table, kind, survey) {
  name <- paste0(kind, "_TARGET")
  n <- length(survey)
  bits <- as_texts(table[[name]], n)
  own <- c(sv1 = paste0("SV1_", name), sv2 = paste0("SV2_", name), sv3 = paste0("SV3_", name),
           cmx = if (kind == "DESI") "CMX_TARGET")
  for (s in names(own)) {
    values <- as_texts(table[[own[[s]]]], n)
    where <- which(survey == s | is.na(survey) & !is.na(values) & values != "0")
    bits[where] <- values[where]
  }
  bits
}

# ---- redshifts ----

# The redrock file beside a file of spectra
redrock_of <- function(file) {
  base <- basename(sub("\\.gz$", "", file))
  name <- sub("^(coadd|spectra)-", "redrock-", base)
  if (name == base) {
    abort("format", basename(file), " has no redshifts: its name is not coadd-... or spectra-..., of which the redrock file's is known; ",
          "give them by `redshifts`")
  }
  candidates <- file.path(dirname(file), paste0(name, c("", ".gz")))
  there <- candidates[file.exists(candidates)]
  if (!length(there)) abort("format", basename(file), " has no redshifts: ", name, " is not beside it; give them by `redshifts`")
  there[1]
}

read_redrock <- function(file) {
  table <- desi_table(file, "REDSHIFTS", redrock_columns)
  if (is.null(table$Z)) abort("format", basename(file), " has no column Z in HDU REDSHIFTS")
  names(table) <- c("targetid", "z", "z_err", "zwarning", "class", "subclass", "deltachi2")
  redshift_table(table)
}

redshift_table <- function(table) {
  n <- length(table$targetid)
  data.frame(targetid = table$targetid, z = as_numbers(table$z, n), class = as_texts(table$class, n),
             subclass = as_texts(table$subclass, n), z_err = as_numbers(table$z_err, n), zwarning = as_numbers(table$zwarning, n),
             deltachi2 = as_numbers(table$deltachi2, n))
}

check_redshifts <- function(redshifts) {
  if (!is.data.frame(redshifts)) abort("invalid", "`redshifts` must be a data frame or NULL, not ", describe(redshifts), ".")
  lacking <- setdiff(c("targetid", "z"), names(redshifts))
  if (length(lacking)) abort("catalogue", "`redshifts` has no column ", code_list(lacking), ".")
  if (is.double(redshifts$targetid) && !is.object(redshifts$targetid) && any(abs(redshifts$targetid) >= 2^53, na.rm = TRUE)) {
    abort("catalogue", "`redshifts$targetid` has numbers of 2^53 or more, which a double does not hold exactly: give them as text.")
  }
  redshifts <- as.list(redshifts)
  redshifts$targetid <- plain_text(redshifts$targetid)
  twice <- unique(redshifts$targetid[duplicated(redshifts$targetid) & !is.na(redshifts$targetid)])
  if (length(twice)) {
    abort("catalogue", "`redshifts` has more than one row of ", enumerate(twice), ": choose those of one survey and program.")
  }
  redshift_table(redshifts)
}
