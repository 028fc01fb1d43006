/* .Call entries of survey files. Each opens and closes its files: none stays open between calls. */
#include "r-survey.h"

#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "core/files.h"
#include "r-entries.h"
#include "r-numbers.h"
#include "r-session.h"

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

static const char *path_of(SEXP path) { return R_ExpandFileName(r_text(path, "path")); }

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

static SEXP text_or_na(const unsigned char *bytes, size_t n) {
  char text[1024];
  if (n > sizeof text) n = sizeof text;
  size_t used = 0;
  while (used < n && bytes[used] != '\0') text[used] = (char)bytes[used], used++;
  while (used > 0 && text[used - 1] == ' ') used--;
  for (size_t i = 0; i < used; i++)
    if (text[i] < ' ' || text[i] > '~') text[i] = '?';
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

/* ---- rows from R ---- */

/* columns: names, types and widths (vectors of one length), as of spd_survey_column. */
SEXP ffi_survey_create(SEXP path, SEXP table, SEXP wave, SEXP instrument, SEXP prepared, SEXP part, SEXP names, SEXP types, SEXP repeats) {
  const size_t n = (size_t)Rf_xlength(names);
  const char *kind = r_text(table, "table"), *made_for = r_text(instrument, "instrument"), *made_how = r_text(prepared, "prepared");
  const char *which = r_text(part, "part");
  const char *where = path_of(path);
  r_check_texts(names, "names", n);
  r_check_texts(types, "types", n);
  r_check_numbers(repeats, "repeats", n);
  r_check_numbers(wave, "wave", R_ANY);
  for (size_t c = 0; c < n; c++)
    if (!(REAL_RO(repeats)[c] >= 0 && REAL_RO(repeats)[c] <= 1e6)) Rf_error("internal: a column has up to a million values a row");
  struct spd_survey_column *columns = (struct spd_survey_column *)R_alloc(n, sizeof *columns);
  memset(columns, 0, n * sizeof *columns);
  for (size_t c = 0; c < n; c++) {
    strncpy(columns[c].name, CHAR(STRING_ELT(names, (R_xlen_t)c)), SPD_FITS_TEXT - 1);
    columns[c].type = CHAR(STRING_ELT(types, (R_xlen_t)c))[0];
    columns[c].repeat = (size_t)REAL_RO(repeats)[c];
  }
  struct spd_survey survey;
  struct spd_error error = {""};
  spd_status status =
      spd_survey_create(&survey, where, kind, REAL_RO(wave), (size_t)Rf_xlength(wave), made_for, made_how, which, columns, n, &error);
  if (status == SPD_STATUS_OK) spd_survey_close(&survey);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}

static void put_text(unsigned char *to, SEXP text, size_t width) {
  const size_t n = text == NA_STRING ? 0 : (size_t)LENGTH(text);
  for (size_t k = 0; k < width && k < n; k++) to[k] = (unsigned char)(CHAR(text)[k] >= ' ' && CHAR(text)[k] <= '~' ? CHAR(text)[k] : '?');
}

/* A column of `count` rows from `first` on; x: a vector, or a matrix for a column of floats. values: (R_BLOCK, repeat). */
static void put_column(unsigned char *rows, size_t row_bytes, SEXP x, size_t first, size_t count, const struct spd_survey_column *c,
                       float *values) {
  if (c->type == 'E') r_columns_to_floats(values, REAL_RO(x), (size_t)Rf_nrows(x), c->repeat, first, count);
  for (size_t i = 0; i < count; i++) {
    unsigned char *to = rows + i * row_bytes + c->offset;
    const size_t row = first + i;
    switch (c->type) {
      case 'E': spd_put_floats(to, values + i * c->repeat, c->repeat); break;
      case 'A': put_text(to, STRING_ELT(x, (R_xlen_t)row), c->repeat); break;
      case 'J': spd_put_int(to, INTEGER(x)[row]); break;
      case 'L': *to = LOGICAL(x)[row] == NA_LOGICAL ? 0 : LOGICAL(x)[row] ? 'T' : 'F'; break;
      default: spd_put_double(to, REAL_RO(x)[row]);
    }
  }
}

static int fits(SEXP x, size_t n, const struct spd_survey_column *c) {
  switch (c->type) {
    case 'E': return Rf_isReal(x) && Rf_isMatrix(x) && (size_t)Rf_nrows(x) == n && (size_t)Rf_ncols(x) == c->repeat;
    case 'A': return Rf_isString(x) && (size_t)Rf_xlength(x) == n;
    case 'J': return c->repeat == 1 && TYPEOF(x) == INTSXP && (size_t)Rf_xlength(x) == n;
    case 'L': return c->repeat == 1 && TYPEOF(x) == LGLSXP && (size_t)Rf_xlength(x) == n;
    default: return c->repeat == 1 && Rf_isReal(x) && (size_t)Rf_xlength(x) == n;
  }
}

static int is_own(const struct spd_survey *survey, size_t c) {
  return strcmp(survey->columns[c].name, "PADDING") == 0 || (int)c == survey->checksum_column;
}

spd_status r_survey_put(unsigned char *rows, const struct spd_survey *survey, SEXP columns, size_t n, size_t first, size_t count,
                        struct spd_error *error) {
  R_xlen_t k = 0;
  size_t widest = 1;
  for (size_t c = 0; c < survey->n_columns && k < Rf_xlength(columns); c++) {
    const struct spd_survey_column *column = &survey->columns[c];
    if (is_own(survey, c)) continue;
    if (!fits(VECTOR_ELT(columns, k++), n, column))
      return spd_fail(error, SPD_STATUS_INVALID, "what is to be appended does not fit the column %.60s of %.200s", column->name,
                      survey->file_name);
    if (column->type == 'E' && column->repeat > widest) widest = column->repeat;
  }
  if (k < Rf_xlength(columns)) return spd_fail(error, SPD_STATUS_INVALID, "%.200s has fewer columns", survey->file_name);
  float *values = malloc(R_BLOCK * widest * sizeof *values);
  if (!values) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for %zu rows", count);
  for (size_t i = 0; i < count; i += R_BLOCK) {
    k = 0;
    for (size_t c = 0; c < survey->n_columns && k < Rf_xlength(columns); c++)
      if (!is_own(survey, c))
        put_column(rows + i * survey->row_bytes, survey->row_bytes, VECTOR_ELT(columns, k++), first + i,
                   count - i < R_BLOCK ? count - i : R_BLOCK, &survey->columns[c], values);
  }
  free(values);
  return SPD_STATUS_OK;
}

static spd_status append(struct spd_survey *survey, SEXP columns, size_t n, struct spd_error *error) {
  R_xlen_t wanted = 0;
  for (size_t c = 0; c < survey->n_columns; c++) wanted += !is_own(survey, c);
  if (Rf_xlength(columns) != wanted)
    return spd_fail(error, SPD_STATUS_INVALID, "%.200s has %lld columns to append to", survey->file_name, (long long)wanted);
  unsigned char *rows = calloc(n ? n : 1, survey->row_bytes);
  spd_status status =
      rows ? r_survey_put(rows, survey, columns, n, 0, n, error) : spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for %zu rows", n);
  if (status == SPD_STATUS_OK) status = spd_survey_append(survey, rows, n, error);
  free(rows);
  return status;
}

/* columns: n values each, in the order of the file's columns, PADDING and ROWSUM left out. */
SEXP ffi_survey_append(SEXP path, SEXP columns) {
  const char *where = path_of(path);
  struct spd_survey survey;
  struct spd_error error = {""};
  if (TYPEOF(columns) != VECSXP) Rf_error("internal: 'columns' must be a list");
  const size_t n = Rf_xlength(columns) ? (size_t)Rf_xlength(VECTOR_ELT(columns, 0)) : 0;
  spd_status status = spd_survey_reopen(&survey, where, &error);
  if (status == SPD_STATUS_OK) {
    status = append(&survey, columns, n, &error);
    spd_survey_close(&survey);
  }
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}

/* A session that appends to a survey file, by ffi_simulate(), `chunk` rows at a time */
SEXP ffi_survey_write(SEXP path, SEXP chunk) {
  const char *expanded = path_of(path);
  const char *where = strcpy(R_alloc(strlen(expanded) + 1, 1), expanded);
  const size_t rows = (size_t)r_whole(chunk, "chunk", 1, 65536);
  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct spd_error error = {""};
  const spd_status status = r_session_write(session, where, rows, &error);
  if (status != SPD_STATUS_OK) {
    r_session_free(pointer);
    r_raise(status, &error);
  }
  UNPROTECT(1);
  return pointer;
}

/* Waits until its rows are in the file, and ends the file. */
SEXP ffi_survey_written(SEXP pointer) {
  struct r_session *session = r_session_get(pointer);
  if (!session->writer || session->results) Rf_error("internal: this session writes no survey");
  struct spd_error error = {""};
  const spd_status status = r_session_finish(session, &error);
  if (status == SPD_STATUS_INTERRUPTED) R_CheckUserInterrupt();
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}

/* Whether a program has the file open to append to */
SEXP ffi_survey_locked(SEXP path) { return Rf_ScalarLogical(spd_file_is_locked(path_of(path))); }

SEXP ffi_survey_finish(SEXP path, SEXP inputs, SEXP reasons) {
  const size_t n = (size_t)Rf_xlength(inputs);
  const char *where = path_of(path);
  r_check_texts(inputs, "inputs", n);
  r_check_texts(reasons, "reasons", n);
  const char **in = (const char **)R_alloc(n + 1, sizeof *in), **why = (const char **)R_alloc(n + 1, sizeof *why);
  for (size_t i = 0; i < n; i++) {
    in[i] = CHAR(STRING_ELT(inputs, (R_xlen_t)i));
    why[i] = CHAR(STRING_ELT(reasons, (R_xlen_t)i));
  }
  struct spd_survey survey;
  struct spd_error error = {""};
  spd_status status = spd_survey_reopen(&survey, where, &error);
  if (status == SPD_STATUS_OK) {
    status = spd_survey_finish(&survey, in, why, n, r_interrupted, &error);
    spd_survey_close(&survey);
  }
  if (status == SPD_STATUS_INTERRUPTED) R_CheckUserInterrupt();
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}
