/* .Call entries that read SDSS files and prepare spectra. */
#include <string.h>

#include "core/files.h"
#include "data/sdss.h"
#include "core/threads.h"
#include "r-entries.h"
#include "r-model.h"
#include "r-spectra.h"
#include "r-util.h"

/* One per thread */
struct workspace {
  struct spd_sdss_pixels pixels;
  double *flux, *ivar; /* (R_BLOCK, M) */
  double *work;        /* (M) */
};

static struct workspace *new_spaces(int n, size_t n_observed) {
  struct workspace *spaces = (struct workspace *)R_alloc((size_t)n, sizeof *spaces);
  for (int i = 0; i < n; i++) {
    spaces[i].flux = (double *)R_alloc(R_BLOCK * n_observed, sizeof(double));
    spaces[i].ivar = (double *)R_alloc(R_BLOCK * n_observed, sizeof(double));
    spaces[i].work = (double *)R_alloc(n_observed, sizeof(double));
  }
  return spaces;
}

/* Blocks of rows of R's matrices; results that are not wanted are NULL. */
struct blocks {
  struct workspace *spaces;
  size_t n, n_observed;
  const double *flux, *ivar, *z;
  double *flux_to, *ivar_to, *norm, *sn;
  int *found, *negative, *valid;
  const struct spd_preparation *preparation;
};

/* The rows of a block, in the thread's workspace; returns how many. */
static size_t take_block(struct workspace *space, const struct blocks *b, size_t first) {
  const size_t count = b->n - first < R_BLOCK ? b->n - first : R_BLOCK;
  r_columns_to_rows(space->flux, b->flux, b->n, b->n_observed, first, count);
  r_columns_to_rows(space->ivar, b->ivar, b->n, b->n_observed, first, count);
  return count;
}

static void prepare_block(const void *context, size_t block, int thread) {
  const struct blocks *b = context;
  struct workspace *space = &b->spaces[thread];
  const size_t first = block * R_BLOCK, count = take_block(space, b, first);
  for (size_t i = 0; i < count; i++) {
    double *y = space->flux + i * b->n_observed, *w = space->ivar + i * b->n_observed;
    b->negative[first + i] = (int)spd_prepare_clean(y, w, b->n_observed);
    b->found[first + i] = spd_prepare_normalize(&b->norm[first + i], y, w, space->work, b->z[first + i], b->preparation);
  }
  r_rows_to_columns(b->flux_to, space->flux, b->n, b->n_observed, first, count);
  r_rows_to_columns(b->ivar_to, space->ivar, b->n, b->n_observed, first, count);
}

SEXP ffi_prepare_spectra(SEXP flux, SEXP ivar, SEXP z, SEXP recipe) {
  size_t n = (size_t)Rf_xlength(z);
  int threads = r_team_size(r_list_get(recipe, "threads"), n);
  static const char *const names[] = {"flux", "ivar", "norm", "found", "negative"};
  SEXP result = PROTECT(r_list_new(5, names));
  struct spd_preparation preparation = r_preparation(recipe);
  size_t n_observed = preparation.n_observed;
  r_check_numbers(z, "z", n);
  r_check_matrix(flux, "flux", n, n_observed);
  r_check_matrix(ivar, "ivar", n, n_observed);
  SEXP flux_out = Rf_allocMatrix(REALSXP, (int)n, (int)n_observed);
  SET_VECTOR_ELT(result, 0, flux_out);
  SEXP ivar_out = Rf_allocMatrix(REALSXP, (int)n, (int)n_observed);
  SET_VECTOR_ELT(result, 1, ivar_out);
  SET_VECTOR_ELT(result, 2, Rf_allocVector(REALSXP, (R_xlen_t)n));
  SET_VECTOR_ELT(result, 3, Rf_allocVector(INTSXP, (R_xlen_t)n));
  SET_VECTOR_ELT(result, 4, Rf_allocVector(INTSXP, (R_xlen_t)n));
  const struct blocks blocks = {.spaces = new_spaces(threads, n_observed),
                                .n = n,
                                .n_observed = n_observed,
                                .flux = REAL_RO(flux),
                                .ivar = REAL_RO(ivar),
                                .z = REAL_RO(z),
                                .flux_to = REAL(flux_out),
                                .ivar_to = REAL(ivar_out),
                                .norm = REAL(VECTOR_ELT(result, 2)),
                                .found = INTEGER(VECTOR_ELT(result, 3)),
                                .negative = INTEGER(VECTOR_ELT(result, 4)),
                                .preparation = &preparation};
  spd_parallel(threads, (n + R_BLOCK - 1) / R_BLOCK, prepare_block, &blocks);
  UNPROTECT(1);
  return result;
}

static void measure_block(const void *context, size_t block, int thread) {
  const struct blocks *b = context;
  struct workspace *space = &b->spaces[thread];
  const size_t first = block * R_BLOCK, count = take_block(space, b, first);
  for (size_t i = 0; i < count; i++)
    b->valid[first + i] = (int)spd_prepare_sn(&b->sn[first + i], space->flux + i * b->n_observed, space->ivar + i * b->n_observed,
                                              space->work, b->n_observed);
}

/* Per row: median of flux sqrt(ivar) over the valid pixels (NaN without one), and how many are valid. */
SEXP ffi_spectra_quality(SEXP flux, SEXP ivar, SEXP threads_wanted) {
  if (!Rf_isMatrix(flux)) Rf_error("internal: 'flux' must be a matrix of doubles");
  size_t n = (size_t)Rf_nrows(flux), n_observed = (size_t)Rf_ncols(flux);
  r_check_matrix(flux, "flux", n, n_observed);
  r_check_matrix(ivar, "ivar", n, n_observed);
  int threads = r_team_size(threads_wanted, n);
  static const char *const names[] = {"sn", "valid"};
  SEXP result = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(result, 0, Rf_allocVector(REALSXP, (R_xlen_t)n));
  SET_VECTOR_ELT(result, 1, Rf_allocVector(INTSXP, (R_xlen_t)n));
  const struct blocks blocks = {.spaces = new_spaces(threads, n_observed),
                                .n = n,
                                .n_observed = n_observed,
                                .flux = REAL_RO(flux),
                                .ivar = REAL_RO(ivar),
                                .sn = REAL(VECTOR_ELT(result, 0)),
                                .valid = INTEGER(VECTOR_ELT(result, 1))};
  spd_parallel(threads, (n + R_BLOCK - 1) / R_BLOCK, measure_block, &blocks);
  UNPROTECT(1);
  return result;
}

struct flat {
  const double *flux, *ivar, *rows, *covered; /* covered: (n, 2), the first and last pixel, from 1 */
  size_t n, n_rows, n_observed;
  double *loss;
  int *valid;
};

/* Some rows, column by column */
static void flat_block(const void *context, size_t block, int thread) {
  (void)thread;
  const struct flat *f = context;
  const size_t first = block * R_BLOCK, last = f->n - first < R_BLOCK ? f->n : first + R_BLOCK;
  for (size_t i = first; i < last; i++) f->loss[i] = 0, f->valid[i] = 0;
  for (size_t m = 0; m < f->n_observed; m++)
    for (size_t i = first; i < last; i++) {
      const size_t at = m * f->n_rows + (size_t)f->rows[i] - 1;
      const double w = f->ivar[at], difference = f->flux[at] - 1, pixel = (double)m + 1;
      f->valid[i] += w > 0;
      if (pixel >= f->covered[i] && pixel <= f->covered[f->n + i]) f->loss[i] += w * difference * difference;
    }
  for (size_t i = first; i < last; i++) f->loss[i] /= 2 * (double)f->n_observed;
}

/* Of rows (from 1): the loss of a model that is 1 in all covered pixels, and how many pixels are valid. */
SEXP ffi_flat_model(SEXP flux, SEXP ivar, SEXP rows, SEXP covered, SEXP threads) {
  static const char *const names[] = {"loss", "valid"};
  if (!Rf_isMatrix(flux)) Rf_error("internal: 'flux' must be a matrix of doubles");
  struct flat f = {.n = (size_t)Rf_xlength(rows), .n_rows = (size_t)Rf_nrows(flux), .n_observed = (size_t)Rf_ncols(flux)};
  r_check_matrix(flux, "flux", f.n_rows, f.n_observed);
  r_check_matrix(ivar, "ivar", f.n_rows, f.n_observed);
  r_check_matrix(covered, "covered", f.n, 2);
  r_check_rows(rows, f.n, (double)f.n_rows);
  const int team = r_team_size(threads, f.n);
  f.flux = REAL_RO(flux), f.ivar = REAL_RO(ivar), f.rows = REAL_RO(rows), f.covered = REAL_RO(covered);
  SEXP result = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(result, 0, Rf_allocVector(REALSXP, (R_xlen_t)f.n));
  SET_VECTOR_ELT(result, 1, Rf_allocVector(INTSXP, (R_xlen_t)f.n));
  f.loss = REAL(VECTOR_ELT(result, 0)), f.valid = INTEGER(VECTOR_ELT(result, 1));
  spd_parallel(team, (f.n + R_BLOCK - 1) / R_BLOCK, flat_block, &f);
  UNPROTECT(1);
  return result;
}

/* What is known of a file besides its pixels. */
struct outcome {
  spd_status status;
  struct spd_error error;
  struct spd_sdss_object object;
  double norm;
  spd_norm found;
};

/* Row i of the workspace becomes the spectrum, prepared; zeros where the file is bad. */
static void read_one(struct outcome *outcome, struct workspace *space, size_t i, const char *path, struct spd_log_grid grid,
                     const struct spd_preparation *preparation) {
  double *flux = space->flux + i * grid.size, *ivar = space->ivar + i * grid.size;
  outcome->status = spd_sdss_read(&space->pixels, &outcome->object, path, &outcome->error);
  if (outcome->status == SPD_STATUS_OK) {
    const struct spd_sdss_pixels *raw = &space->pixels;
    size_t misplaced = spd_prepare_place(flux, ivar, grid, raw->flux, raw->ivar, raw->loglam, raw->and_mask, raw->n);
    if (misplaced)
      outcome->status = spd_fail(&outcome->error, SPD_STATUS_FORMAT,
                                 "%.200s has pixels that are not spaced by %g in log10 wavelength (loglam of row %zu is %g)",
                                 spd_file_name(path), SPD_SDSS_STEP, misplaced, raw->loglam[misplaced - 1]);
  }
  if (outcome->status != SPD_STATUS_OK) {
    memset(flux, 0, grid.size * sizeof *flux);
    memset(ivar, 0, grid.size * sizeof *ivar);
    return;
  }
  spd_prepare_clean(flux, ivar, grid.size);
  outcome->found = spd_prepare_normalize(&outcome->norm, flux, ivar, space->work, outcome->object.z, preparation);
}

static SEXP text_or_na(const char *text) { return text[0] ? Rf_mkChar(text) : NA_STRING; }

enum { Z, Z_ERR, SN_MEDIAN, NORM, ZWARNING, N_REAL };
enum { FOUND, PLATE, MJD, FIBER, FIELD, N_INTEGER };
enum { PROBLEM, CLASS, SUBCLASS, PLATE_QUALITY, INSTRUMENT, CATALOGID, SDSS_ID, N_TEXT };
static const char *const read_names[] = {
    "flux",    "ivar",  "z",        "z_err",         "sn_median",  "norm",      "zwarning", "found",   "plate", "mjd", "fiber", "field",
    "problem", "class", "subclass", "plate_quality", "instrument", "catalogid", "sdss_id",
};

/* Where a file is bad, `problem` is the sentence and all else is NA; its rows of flux and ivar are zeros. */
static void record(SEXP result, R_xlen_t row, const struct outcome *outcome) {
  int ok = outcome->status == SPD_STATUS_OK;
  const struct spd_sdss_object *object = &outcome->object;
  double reals[N_REAL] = {[Z] = object->z, [Z_ERR] = object->z_err, [SN_MEDIAN] = object->sn_median, [NORM] = outcome->norm,
                          [ZWARNING] = object->zwarning};
  int integers[N_INTEGER] = {[FOUND] = outcome->found,
                             [PLATE] = object->plate,
                             [MJD] = object->mjd,
                             [FIBER] = object->fiber,
                             [FIELD] = object->field};
  const char *texts[N_TEXT] = {[PROBLEM] = "",
                               [CLASS] = object->class_name,
                               [SUBCLASS] = object->subclass,
                               [PLATE_QUALITY] = object->plate_quality,
                               [INSTRUMENT] = object->instrument,
                               [CATALOGID] = object->catalogid,
                               [SDSS_ID] = object->sdss_id};
  if (!ok) texts[PROBLEM] = outcome->error.message;
  int i = 2;
  for (int j = 0; j < N_REAL; j++, i++) REAL(VECTOR_ELT(result, i))[row] = ok && !ISNAN(reals[j]) ? reals[j] : NA_REAL;
  for (int j = 0; j < N_INTEGER; j++, i++)
    INTEGER(VECTOR_ELT(result, i))[row] = ok && integers[j] != SPD_SDSS_UNKNOWN ? integers[j] : NA_INTEGER;
  for (int j = 0; j < N_TEXT; j++, i++)
    SET_STRING_ELT(VECTOR_ELT(result, i), row, ok || j == PROBLEM ? text_or_na(texts[j]) : NA_STRING);
}

/* Files from start to stop - 1, of which the first has outcome 0 */
struct reading {
  struct workspace *spaces;
  struct outcome *outcomes;
  const char **files;
  double *flux, *ivar;
  size_t n, start, stop;
  struct spd_log_grid grid;
  const struct spd_preparation *preparation;
};

static void read_block(const void *context, size_t block, int thread) {
  const struct reading *r = context;
  struct workspace *space = &r->spaces[thread];
  const size_t first = r->start + block * R_BLOCK, count = r->stop - first < R_BLOCK ? r->stop - first : R_BLOCK;
  for (size_t i = 0; i < count; i++)
    read_one(&r->outcomes[first - r->start + i], space, i, r->files[first - r->start + i], r->grid, r->preparation);
  r_rows_to_columns(r->flux, space->flux, r->n, r->grid.size, first, count);
  r_rows_to_columns(r->ivar, space->ivar, r->n, r->grid.size, first, count);
}

/* tick(done) is called on the main thread between chunks. All memory is R's, so an interrupt there leaks nothing. */
SEXP ffi_read_sdss(SEXP paths, SEXP recipe, SEXP log_first, SEXP tick) {
  r_check_texts(paths, "paths", R_ANY);
  if (tick != R_NilValue && !Rf_isFunction(tick)) Rf_error("internal: 'tick' must be a function or NULL");
  size_t n = (size_t)Rf_xlength(paths);
  int threads = r_team_size(r_list_get(recipe, "threads"), n);
  const int n_names = 2 + N_REAL + N_INTEGER + N_TEXT;
  SEXP result = PROTECT(r_list_new(n_names, read_names));
  struct spd_preparation preparation = r_preparation(recipe);
  struct spd_log_grid grid = {r_number(log_first, "log_first"), SPD_SDSS_STEP, preparation.n_observed};
  for (int i = 0; i < n_names; i++)
    SET_VECTOR_ELT(result, i,
                   i < 2                        ? Rf_allocMatrix(REALSXP, (int)n, (int)grid.size)
                   : i < 2 + N_REAL             ? Rf_allocVector(REALSXP, (R_xlen_t)n)
                   : i < 2 + N_REAL + N_INTEGER ? Rf_allocVector(INTSXP, (R_xlen_t)n)
                                                : Rf_allocVector(STRSXP, (R_xlen_t)n));
  struct outcome *outcomes = (struct outcome *)R_alloc(R_CHUNK, sizeof *outcomes);
  const char **files = (const char **)R_alloc(R_CHUNK, sizeof *files);
  struct reading reading = {.spaces = new_spaces(threads, grid.size),
                            .outcomes = outcomes,
                            .files = files,
                            .flux = REAL(VECTOR_ELT(result, 0)),
                            .ivar = REAL(VECTOR_ELT(result, 1)),
                            .n = n,
                            .grid = grid,
                            .preparation = &preparation};
  struct spd_error error = {""};
  spd_status status = SPD_STATUS_OK;

  for (size_t start = 0; start < n && status == SPD_STATUS_OK; start += R_CHUNK) {
    size_t stop = n - start < R_CHUNK ? n : start + R_CHUNK;
    for (size_t i = start; i < stop; i++) files[i - start] = Rf_translateChar(STRING_ELT(paths, (R_xlen_t)i));

    reading.start = start, reading.stop = stop;
    spd_parallel(threads, (stop - start + R_BLOCK - 1) / R_BLOCK, read_block, &reading);

    for (size_t i = start; i < stop; i++) {
      const struct outcome *outcome = &outcomes[i - start];
      record(result, (R_xlen_t)i, outcome);
      if (outcome->status == SPD_STATUS_UNSUPPORTED) {
        status = outcome->status;
        error = outcome->error;
      }
    }
    R_CheckUserInterrupt();
    if (tick != R_NilValue) {
      SEXP call = PROTECT(Rf_lang2(tick, PROTECT(Rf_ScalarReal((double)stop))));
      Rf_eval(call, R_BaseEnv);
      UNPROTECT(2);
    }
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}
