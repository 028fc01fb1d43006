# What the readers of many files share: folders, a progress bar, problems.

# Folders are replaced by the files in them and below whose names match, of which choose() takes some.
expand_folders <- function(files, pattern = "\\.fits(\\.gz)?$", kind = "FITS files", choose = identity) {
  if (!is.character(files)) abort("invalid", "`files` must be names of files or folders, not ", describe(files), ".")
  if (anyNA(files)) abort("invalid", "`files` must not be missing; it is at ", enumerate(which(is.na(files))), ".")
  files <- path.expand(files)
  expanded <- lapply(files, function(file) {
    if (!dir.exists(file)) return(file)
    found <- list.files(file, pattern, full.names = TRUE, recursive = TRUE, ignore.case = TRUE)
    if (!length(found)) abort("files", "There are no ", kind, " in the folder ", file, ".")
    choose(found)
  })
  as.character(unlist(expanded))
}

# The function that .Call entries call with the number of inputs that are done; NULL for none. The bar ends with the calling function.
reading_bar <- function(progress, total, caller = parent.frame()) {
  check_flag(progress, "progress")
  if (progress) progress_bar("Files", total, TRUE, caller)
}

# Rows of problems() for files, or spectra with an id, that were not read
unread_inputs <- function(file, reason, id = rep(NA_character_, length(file))) {
  data.frame(id = id, file = file, row = rep(NA_integer_, length(file)), reason = reason)
}

warn_unread <- function(unread, n_files) {
  if (nrow(unread)) {
    warn("files", nrow(unread), " of ", count(n_files, "file"), " could not be read; problems() says why. The first: ", unread$reason[1],
         ".")
  }
}

# Problems of spectra, in their order, then those of what was not read. named: names of the objects; id: these, made unique
read_problems <- function(found, named, id, files, window, unread) {
  twice <- which(duplicated(named))
  repeated <- data.frame(id = id[twice], file = files[twice], row = twice,
                         reason = rep_len("the id was taken: another file of the same object is in front of it", length(twice)))
  problems <- rbind(norm_problems(found, id, files, window), repeated)
  problems <- rbind(problems[order(problems$row), ], unread)
  row.names(problems) <- NULL
  problems
}

# Whole numbers as integers, unless one is too large
as_integers <- function(x) if (all(is.na(x) | abs(x) < 2^31)) as.integer(x) else x
