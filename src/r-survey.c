/* .Call entries that read survey files. Each opens and closes its files: none stays open between calls. */
#include "r-survey.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "core/digest.h"
#include "core/threads.h"
#include "r-entries.h"
#include "r-numbers.h"

/* ---- opening ---- */

spd_status r_surveys_open(struct spd_surveys *surveys, SEXP paths, SEXP counts, struct spd_error *error) {
  const size_t n = (size_t)Rf_xlength(paths);
  memset(surveys, 0, sizeof *surveys);
  if (n == 0) return spd_fail(error, SPD_STATUS_INVALID, "there is no survey file to open");
  surveys->files = calloc(n, sizeof *surveys->files);
  surveys->first = calloc(n + 1, sizeof *surveys->first);
  if (!surveys->files || !surveys->first) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a list of surveys");
  for (size_t f = 0; f < n; f++) {
    struct spd_survey *file = &surveys->files[f];
    SPD_TRY(spd_survey_open(file, R_ExpandFileName(Rf_translateChar(STRING_ELT(paths, (R_xlen_t)f))), error));
    surveys->n_files++;
    if (counts != R_NilValue) {
      const uint64_t count = REAL_RO(counts)[f] >= 0 ? (uint64_t)REAL_RO(counts)[f] : 0;
      if (file->n_rows < count)
        return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has fewer spectra than when the survey was opened: open_survey() it again",
                        file->file_name);
      file->n_rows = count; /* it may have grown */
    }
    surveys->first[f + 1] = surveys->first[f] + file->n_rows;
    if (file->n_observed != surveys->files[0].n_observed ||
        memcmp(file->wave, surveys->files[0].wave, file->n_observed * sizeof *file->wave) != 0)
      return spd_fail(error, SPD_STATUS_INVALID, "%.200s is on another grid than %.200s", file->file_name, surveys->files[0].file_name);
  }
  return SPD_STATUS_OK;
}

void r_surveys_close(struct spd_surveys *surveys) {
  for (size_t f = 0; f < surveys->n_files; f++) spd_survey_close(&surveys->files[f]);
  free(surveys->files);
  free(surveys->first);
  memset(surveys, 0, sizeof *surveys);
}

/* The same, closed by R's garbage collector where an R error leaves them open. */
static void finalize(SEXP pointer) {
  struct spd_surveys *surveys = R_ExternalPtrAddr(pointer);
  if (!surveys) return;
  R_ClearExternalPtr(pointer);
  r_surveys_close(surveys);
  free(surveys);
}

static SEXP guarded_open(struct spd_surveys **surveys, SEXP paths, SEXP counts) {
  r_check_texts(paths, "paths", R_ANY);
  if (counts != R_NilValue) r_check_numbers(counts, "counts", (size_t)Rf_xlength(paths));
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
  R_RegisterCFinalizerEx(pointer, finalize, TRUE);
  *surveys = calloc(1, sizeof **surveys);
  if (!*surveys) Rf_error("no memory for a list of surveys");
  R_SetExternalPtrAddr(pointer, *surveys);
  struct spd_error error = {""};
  spd_status status = r_surveys_open(*surveys, paths, counts, &error);
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) {
    finalize(pointer);
    r_raise(status, &error);
  }
  return pointer;
}

/* ---- information ---- */

static SEXP texts_to_r(char **texts, size_t n) {
  SEXP out = PROTECT(Rf_allocVector(STRSXP, (R_xlen_t)n));
  for (size_t i = 0; i < n; i++) SET_STRING_ELT(out, (R_xlen_t)i, Rf_mkChar(texts[i]));
  UNPROTECT(1);
  return out;
}

/* Of one file: n, wave, instrument, prepared, part, finished, columns (names), types, repeats. */
SEXP ffi_survey_info(SEXP path) {
  static const char *const names[] = {"n", "wave", "instrument", "finished", "columns", "types", "repeats", "prepared", "part"};
  struct spd_surveys *surveys;
  SEXP pointer = PROTECT(guarded_open(&surveys, path, R_NilValue)), result = PROTECT(r_list_new(9, names));
  const struct spd_survey *s = surveys->files;
  SET_VECTOR_ELT(result, 0, Rf_ScalarReal((double)s->n_rows));
  SET_VECTOR_ELT(result, 1, Rf_allocVector(REALSXP, (R_xlen_t)s->n_observed));
  memcpy(REAL(VECTOR_ELT(result, 1)), s->wave, s->n_observed * sizeof(double));
  SET_VECTOR_ELT(result, 2, Rf_mkString(s->instrument));
  SET_VECTOR_ELT(result, 3, Rf_ScalarLogical(s->finished));
  SET_VECTOR_ELT(result, 7, Rf_mkString(s->prepared));
  SET_VECTOR_ELT(result, 8, Rf_mkString(s->part));
  for (int i = 4; i < 6; i++) SET_VECTOR_ELT(result, i, Rf_allocVector(STRSXP, (R_xlen_t)s->n_columns));
  SET_VECTOR_ELT(result, 6, Rf_allocVector(REALSXP, (R_xlen_t)s->n_columns));
  for (size_t c = 0; c < s->n_columns; c++) {
    const char type[2] = {s->columns[c].type, '\0'};
    SET_STRING_ELT(VECTOR_ELT(result, 4), (R_xlen_t)c, Rf_mkChar(s->columns[c].name));
    SET_STRING_ELT(VECTOR_ELT(result, 5), (R_xlen_t)c, Rf_mkChar(type));
    REAL(VECTOR_ELT(result, 6))[c] = (double)s->columns[c].repeat;
  }
  finalize(pointer);
  UNPROTECT(2);
  return result;
}

/* A list of inputs and reasons. */
SEXP ffi_survey_rejected(SEXP path) {
  static const char *const names[] = {"file", "reason"};
  struct spd_surveys *surveys;
  SEXP pointer = PROTECT(guarded_open(&surveys, path, R_NilValue)), result = PROTECT(r_list_new(2, names));
  char **inputs, **reasons;
  size_t n;
  struct spd_error error = {""};
  spd_status status = spd_survey_rejected(&inputs, &reasons, &n, surveys->files, &error);
  if (status == SPD_STATUS_OK) {
    SET_VECTOR_ELT(result, 0, texts_to_r(inputs, n));
    SET_VECTOR_ELT(result, 1, texts_to_r(reasons, n));
    free(inputs);
    free(reasons);
  }
  finalize(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}

/* ---- rows to R ---- */

static size_t file_of(const struct spd_surveys *surveys, uint64_t row) {
  size_t f = 0;
  while (f + 1 < surveys->n_files && row >= surveys->first[f + 1]) f++;
  return f;
}

enum { MOST_TEXT = 1024 };

/* A text of FITS, n bytes of which MOST_TEXT are looked at, without the spaces at its end. Returns its length. */
static size_t plain_text(char *text, const unsigned char *bytes, size_t n) {
  if (n > MOST_TEXT) n = MOST_TEXT;
  size_t used = 0;
  while (used < n && bytes[used] != '\0') text[used] = (char)bytes[used], used++;
  while (used > 0 && text[used - 1] == ' ') used--;
  for (size_t i = 0; i < used; i++)
    if (text[i] < ' ' || text[i] > '~') text[i] = '?';
  return used;
}

static SEXP text_or_na(const unsigned char *bytes, size_t n) {
  char text[MOST_TEXT];
  const size_t used = plain_text(text, bytes, n);
  return used ? Rf_mkCharLen(text, (int)used) : NA_STRING;
}

static SEXP new_column(char type, R_xlen_t n) {
  return Rf_allocVector(type == 'A' ? STRSXP : type == 'J' ? INTSXP : type == 'L' ? LGLSXP : REALSXP, n);
}

static double number_of(const unsigned char *bytes, const struct spd_survey_column *c) {
  if (c->type == 'D') {
    const double value = spd_get_double(bytes);
    return ISNAN(value) ? NA_REAL : value;
  }
  const int value = c->type == 'J' ? spd_get_int(bytes) : *bytes == 'T' ? 1 : *bytes == 'F' ? 0 : NA_INTEGER;
  return value == NA_INTEGER ? NA_REAL : value;
}

/* type: of the R vector, where it is not the column's: 'D'. */
static void set_cell(SEXP column, R_xlen_t i, const unsigned char *bytes, const struct spd_survey_column *c, char type) {
  switch (type) {
    case 'A': SET_STRING_ELT(column, i, text_or_na(bytes, c->repeat)); break;
    case 'J': INTEGER(column)[i] = spd_get_int(bytes); break; /* R's NA is INT32_MIN, too */
    case 'L': LOGICAL(column)[i] = *bytes == 'T' ? TRUE : *bytes == 'F' ? FALSE : NA_LOGICAL; break;
    default: REAL(column)[i] = number_of(bytes, c);
  }
}

/* Catalogue columns of rows (numbers from 1 over all files): a list named by `names`. Only single values and texts; a column
 * that a file lacks is NA there. */
SEXP ffi_survey_columns(SEXP paths, SEXP counts, SEXP names, SEXP rows) {
  struct spd_surveys *surveys;
  r_check_texts(names, "names", R_ANY);
  SEXP pointer = PROTECT(guarded_open(&surveys, paths, counts));
  r_check_rows(rows, R_ANY, (double)surveys->first[surveys->n_files]);
  const R_xlen_t n = Rf_xlength(rows), n_names = Rf_xlength(names);
  SEXP result = PROTECT(Rf_allocVector(VECSXP, n_names));
  Rf_setAttrib(result, R_NamesSymbol, names);
  struct spd_error error = {""};
  spd_status status = SPD_STATUS_OK;
  for (R_xlen_t k = 0; k < n_names; k++) {
    char type = 0;
    const struct spd_survey_column **places =
        (const struct spd_survey_column **)R_alloc(surveys->n_files, sizeof *places); /* the column in each file */
    for (size_t f = 0; f < surveys->n_files; f++) {
      const struct spd_survey *s = &surveys->files[f];
      places[f] = NULL;
      for (size_t c = 0; c < s->n_columns; c++) {
        const struct spd_survey_column *column = &s->columns[c];
        if (strcmp(column->name, CHAR(STRING_ELT(names, k))) == 0 && column->type != 'E' && (column->type == 'A' || column->repeat == 1))
          places[f] = column;
      }
      if (!places[f]) continue;
      /* numbers of two kinds become doubles; a text is never a number */
      if (type == 0 || type == places[f]->type)
        type = places[f]->type;
      else if (type != 'A' && places[f]->type != 'A')
        type = 'D';
      else
        status =
            spd_fail(&error, SPD_STATUS_FORMAT, "%.200s has texts in column %.60s where another file has numbers, or the other way round",
                     s->file_name, CHAR(STRING_ELT(names, k)));
    }
    if (type == 0) type = 'D';
    SEXP column = new_column(type, n);
    SET_VECTOR_ELT(result, k, column);
    unsigned char bytes[1024];
    size_t f = 0;
    for (R_xlen_t i = 0; i < n && status == SPD_STATUS_OK; i++) {
      const uint64_t row = (uint64_t)REAL_RO(rows)[i] - 1;
      if (row < surveys->first[f] || row >= surveys->first[f + 1]) f = file_of(surveys, row);
      const struct spd_survey_column *place = places[f];
      memset(bytes, 0, sizeof bytes);
      if (i % 65536 == 65535) R_CheckUserInterrupt();
      if (place) {
        size_t size = spd_survey_column_bytes(place);
        status = spd_survey_read_part(bytes, &surveys->files[f], row - surveys->first[f], place->offset,
                                      size < sizeof bytes ? size : sizeof bytes, &error);
        set_cell(column, i, bytes, place, type);
      } else if (type == 'A') {
        SET_STRING_ELT(column, i, NA_STRING);
      } else if (type == 'D') {
        REAL(column)[i] = NA_REAL;
      } else {
        INTEGER(column)[i] = NA_INTEGER;
      }
    }
  }
  finalize(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}

/* A column's digests of texts, or its numbers, which threads take from files in pieces */
struct digesting {
  const struct spd_surveys *surveys;
  const struct spd_survey_column **places; /* in each file */
  const double *rows;
  size_t first, count; /* of the rows */
  uint64_t *texts;     /* or */
  int *numbers;
  size_t *longest; /* of each thread */
  int *odd;        /* a text is empty, or has a code of to_ascii() */
  size_t *failed;  /* the first row, that a thread knows, which cannot be read */
};

enum { DIGESTED = 64 /* rows of a piece */, DIGESTED_AT_ONCE = 65536 /* between two looks for an interrupt */ };

static spd_status digest_cell(const struct digesting *d, size_t i, int thread, struct spd_error *error) {
  const uint64_t row = (uint64_t)d->rows[i] - 1;
  const size_t f = file_of(d->surveys, row);
  const struct spd_survey_column *place = d->places[f];
  unsigned char bytes[MOST_TEXT];
  char text[MOST_TEXT] __attribute__((aligned(8)));
  const size_t size = spd_survey_column_bytes(place) < sizeof bytes ? spd_survey_column_bytes(place) : sizeof bytes;
  SPD_TRY(spd_survey_read_part(bytes, &d->surveys->files[f], row - d->surveys->first[f], place->offset, size, error));
  if (d->numbers) {
    d->numbers[i] = spd_get_int(bytes);
    return SPD_STATUS_OK;
  }
  const size_t n = plain_text(text, bytes, size);
  if (n == 0 || memchr(text, '%', n)) __atomic_store_n(d->odd, 1, __ATOMIC_RELAXED);
  if (n > d->longest[thread]) d->longest[thread] = n;
  d->texts[i] = spd_digest(text, n, 1);
  return SPD_STATUS_OK;
}

static void digest_piece(const void *context, size_t piece, int thread) {
  const struct digesting *d = context;
  for (size_t i = piece * DIGESTED; i < (piece + 1) * DIGESTED && i < d->count; i++)
    if (digest_cell(d, d->first + i, thread, NULL) != SPD_STATUS_OK) __atomic_store_n(d->failed, d->first + i + 1, __ATOMIC_RELAXED);
}

static int by_size(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Sorts them. */
static int are_different(uint64_t *texts, size_t n) {
  qsort(texts, n, sizeof *texts, by_size);
  for (size_t i = 1; i < n; i++)
    if (texts[i] == texts[i - 1]) return 0;
  return 1;
}

/* The places of a column that all files have with the type; 0 where one has not. */
static int find_everywhere(const struct spd_survey_column **places, const struct spd_surveys *surveys, const char *name, char type) {
  for (size_t f = 0; f < surveys->n_files; f++) {
    const struct spd_survey *s = &surveys->files[f];
    places[f] = NULL;
    for (size_t c = 0; c < s->n_columns; c++)
      if (strcmp(s->columns[c].name, name) == 0 && s->columns[c].type == type && (type == 'A' || s->columns[c].repeat == 1))
        places[f] = &s->columns[c];
    if (!places[f]) return 0;
  }
  return 1;
}

static spd_status digest_rows(struct digesting *d, size_t n, int threads, struct spd_error *error) {
  size_t failed = 0;
  d->failed = &failed;
  for (d->first = 0; d->first < n; d->first += DIGESTED_AT_ONCE) {
    if (r_interrupted()) return spd_fail(error, SPD_STATUS_INTERRUPTED, "interrupted");
    d->count = n - d->first < DIGESTED_AT_ONCE ? n - d->first : DIGESTED_AT_ONCE;
    spd_parallel(threads, (d->count + DIGESTED - 1) / DIGESTED, digest_piece, d);
    if (failed) return digest_cell(d, failed - 1, 0, error);
  }
  return SPD_STATUS_OK;
}

/* The digest that ffi_digest() gives of list(column of the rows, as ffi_survey_columns() has it), `others` appended, without the column in
 * R's memory: `name` is one of texts, or of 32-bit integers where `texts` is false. With it `longest`, the most bytes of a text, and
 * `plain`: whether all texts are different, and none is empty or has a percent sign. NULL where a file has no such column. */
SEXP ffi_survey_digest(SEXP paths, SEXP counts, SEXP name, SEXP texts, SEXP rows, SEXP others, SEXP threads) {
  static const char *const names[] = {"digest", "longest", "plain"};
  const char *column = r_text(name, "name");
  const int of_texts = (int)r_whole(texts, "texts", 0, 1), team = r_team_size(threads, SIZE_MAX / 2);
  if (TYPEOF(others) != VECSXP) Rf_error("internal: 'others' must be a list");
  const size_t n_others = (size_t)Rf_xlength(others);
  uint64_t *digests = (uint64_t *)R_alloc(n_others + 1, sizeof *digests);
  for (size_t k = 0; k < n_others; k++) digests[k] = r_digest(VECTOR_ELT(others, (R_xlen_t)k), team);
  struct spd_surveys *surveys;
  SEXP pointer = PROTECT(guarded_open(&surveys, paths, counts));
  r_check_rows(rows, R_ANY, (double)surveys->first[surveys->n_files]);
  const size_t n = (size_t)Rf_xlength(rows);
  struct digesting d = {.surveys = surveys, .rows = REAL_RO(rows)};
  d.places = (const struct spd_survey_column **)R_alloc(surveys->n_files, sizeof *d.places);
  d.longest = (size_t *)R_alloc((size_t)team, sizeof *d.longest);
  memset(d.longest, 0, (size_t)team * sizeof *d.longest);
  int odd = 0;
  d.odd = &odd;
  if (!find_everywhere(d.places, surveys, column, of_texts ? 'A' : 'J')) {
    finalize(pointer);
    UNPROTECT(1);
    return R_NilValue;
  }
  struct spd_error error = {""};
  if (of_texts)
    d.texts = malloc((n + 1) * sizeof *d.texts);
  else
    d.numbers = malloc((n + 1) * sizeof *d.numbers);
  spd_status status = d.texts || d.numbers ? digest_rows(&d, n, team, &error)
                                           : spd_fail(&error, SPD_STATUS_NO_MEMORY, "no memory for the digests of %zu rows", n);
  uint64_t own = spd_digest_join(of_texts ? STRSXP : INTSXP, n), all = spd_digest_join(VECSXP, 1 + n_others);
  if (status == SPD_STATUS_OK) {
    for (size_t i = 0; i < n && of_texts; i++) own = spd_digest_join(own, d.texts[i]);
    if (!of_texts) own = spd_digest_join(own, spd_digest(d.numbers, n * sizeof *d.numbers, team));
    if (of_texts && !odd) odd = !are_different(d.texts, n);
  }
  free(d.texts);
  free(d.numbers);
  finalize(pointer);
  UNPROTECT(1);
  if (status == SPD_STATUS_INTERRUPTED) R_CheckUserInterrupt();
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  all = spd_digest_join(all, own);
  for (size_t k = 0; k < n_others; k++) all = spd_digest_join(all, digests[k]);
  size_t longest = 1;
  for (int t = 0; t < team; t++) longest = d.longest[t] > longest ? d.longest[t] : longest;
  char text[17];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)all);
  SEXP result = PROTECT(r_list_new(3, names));
  SET_VECTOR_ELT(result, 0, Rf_mkString(text));
  SET_VECTOR_ELT(result, 1, Rf_ScalarReal((double)longest));
  SET_VECTOR_ELT(result, 2, Rf_ScalarLogical(!odd));
  UNPROTECT(1);
  return result;
}

/* A column of floats of rows (numbers from 1 over all files): (n, repeat), as it is in the files, checksums verified. */
SEXP ffi_survey_matrix(SEXP paths, SEXP counts, SEXP name, SEXP rows) {
  struct spd_surveys *surveys;
  const char *column = r_text(name, "name");
  SEXP pointer = PROTECT(guarded_open(&surveys, paths, counts));
  r_check_rows(rows, R_ANY, (double)surveys->first[surveys->n_files]);
  const size_t n = (size_t)Rf_xlength(rows);
  struct spd_error error = {""};
  spd_status status = SPD_STATUS_OK;
  size_t width = 0, most = 0, *offsets = (size_t *)R_alloc(surveys->n_files, sizeof *offsets);
  for (size_t f = 0; f < surveys->n_files && status == SPD_STATUS_OK; f++) {
    const struct spd_survey *s = &surveys->files[f];
    const struct spd_survey_column *found = NULL;
    for (size_t c = 0; c < s->n_columns; c++)
      if (strcmp(s->columns[c].name, column) == 0 && s->columns[c].type == 'E') found = &s->columns[c];
    if (!found || (width && found->repeat != width))
      status = spd_fail(&error, SPD_STATUS_FORMAT, "%.200s has no such column of floats: %.60s", s->file_name, column);
    if (!found) continue;
    width = found->repeat;
    offsets[f] = found->offset;
    most = s->row_bytes > most ? s->row_bytes : most;
  }
  SEXP result = PROTECT(Rf_allocMatrix(REALSXP, (int)n, (int)width));
  unsigned char *raw = (unsigned char *)R_alloc(most + 1, 1);
  float *values = (float *)R_alloc(width + 1, sizeof *values);
  double *block = (double *)R_alloc(R_BLOCK * width + 1, sizeof *block);
  for (size_t first = 0; first < n && status == SPD_STATUS_OK; first += R_BLOCK) {
    const size_t count = n - first < R_BLOCK ? n - first : R_BLOCK;
    for (size_t i = 0; i < count && status == SPD_STATUS_OK; i++) {
      const uint64_t row = (uint64_t)REAL_RO(rows)[first + i] - 1;
      const size_t f = file_of(surveys, row);
      status = spd_survey_read(raw, &surveys->files[f], row - surveys->first[f], 1, &error);
      if (status == SPD_STATUS_OK) spd_get_floats(values, raw + offsets[f], width);
      for (size_t m = 0; status == SPD_STATUS_OK && m < width; m++) block[i * width + m] = values[m];
    }
    r_rows_to_columns(REAL(result), block, n, width, first, count);
    if (first % R_CHUNK == 0) R_CheckUserInterrupt();
  }
  finalize(pointer);
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}
