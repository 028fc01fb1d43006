/* .Call entries that write survey files. Each opens and closes its file, but for sessions. */
#include <stdlib.h>
#include <string.h>

#include "core/bytes.h"
#include "core/files.h"
#include "r-entries.h"
#include "r-numbers.h"
#include "r-session.h"

static const char *path_of(SEXP path) { return R_ExpandFileName(r_text(path, "path")); }

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
