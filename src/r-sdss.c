/* .Call entry that reads SDSS files and prepares their spectra. */
#include <string.h>

#include "core/files.h"
#include "core/threads.h"
#include "data/sdss.h"
#include "r-entries.h"
#include "r-spectra.h"
#include "r-util.h"

/* Of one thread */
struct workspace {
  struct spd_sdss_pixels pixels;
  struct r_block *block;
};

static struct workspace *new_workspaces(int n, size_t n_observed) {
  struct workspace *spaces = (struct workspace *)R_alloc((size_t)n, sizeof *spaces);
  struct r_block *blocks = r_blocks(n, n_observed);
  for (int i = 0; i < n; i++) spaces[i].block = &blocks[i];
  return spaces;
}

/* The result of reading a file, besides its pixels */
struct outcome {
  spd_status status;
  struct spd_error error;
  struct spd_sdss_object object;
  double norm;
  spd_norm found;
};

/* Row i of the workspace becomes the spectrum, prepared; zeros where the file is bad. */
static void read_one(struct outcome *outcome, struct workspace *space, size_t i, const char *path, const char *mask,
                     struct spd_uniform_grid grid, const struct spd_preparation *preparation) {
  double *flux = space->block->flux + i * grid.size, *ivar = space->block->ivar + i * grid.size;
  outcome->status = spd_sdss_read(&space->pixels, &outcome->object, path, mask, &outcome->error);
  if (outcome->status == SPD_STATUS_OK) {
    const struct spd_sdss_pixels *raw = &space->pixels;
    size_t misplaced = spd_prepare_place(flux, ivar, grid, raw->flux, raw->ivar, raw->loglam, raw->mask, raw->n);
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
  outcome->found = spd_prepare_normalize(&outcome->norm, flux, ivar, space->block->work, outcome->object.z, preparation);
}

static SEXP text_or_na(const char *text) { return text[0] ? Rf_mkChar(text) : NA_STRING; }

enum { Z, Z_ERR, SN_MEDIAN, NORM, ZWARNING, RA, DEC, N_REAL };
enum { FOUND, PLATE, MJD, FIBER, FIELD, N_INTEGER };
enum { PROBLEM, CLASS, SUBCLASS, PLATE_QUALITY, INSTRUMENT, CATALOGID, SDSS_ID, N_TEXT };
static const char *const read_names[] = {
    "flux", "ivar",  "z",     "z_err",   "sn_median", "norm",     "zwarning",      "ra",         "dec",       "found",   "plate",
    "mjd",  "fiber", "field", "problem", "class",     "subclass", "plate_quality", "instrument", "catalogid", "sdss_id",
};

/* Where a file is bad, `problem` is the sentence and all else is NA; its rows of flux and ivar are zeros. */
static void record(SEXP result, R_xlen_t row, const struct outcome *outcome) {
  int ok = outcome->status == SPD_STATUS_OK;
  const struct spd_sdss_object *object = &outcome->object;
  double reals[N_REAL] = {
      [Z] = object->z,   [Z_ERR] = object->z_err, [SN_MEDIAN] = object->sn_median, [NORM] = outcome->norm, [ZWARNING] = object->zwarning,
      [RA] = object->ra, [DEC] = object->dec};
  int integers[N_INTEGER] = {
      [FOUND] = outcome->found, [PLATE] = object->plate, [MJD] = object->mjd, [FIBER] = object->fiber, [FIELD] = object->field};
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
  for (int j = 0; j < N_TEXT; j++, i++) SET_STRING_ELT(VECTOR_ELT(result, i), row, ok || j == PROBLEM ? text_or_na(texts[j]) : NA_STRING);
}

/* Files from start to stop - 1, of which the first has outcome 0 */
struct reading {
  struct workspace *spaces;
  struct outcome *outcomes;
  const char **files, *mask; /* mask: the column */
  double *flux, *ivar;
  size_t n, start, stop;
  struct spd_uniform_grid grid;
  const struct spd_preparation *preparation;
};

static void read_block(const void *context, size_t block, int thread) {
  const struct reading *r = context;
  struct workspace *space = &r->spaces[thread];
  const size_t first = r->start + block * R_BLOCK, count = r->stop - first < R_BLOCK ? r->stop - first : R_BLOCK;
  for (size_t i = 0; i < count; i++)
    read_one(&r->outcomes[first - r->start + i], space, i, r->files[first - r->start + i], r->mask, r->grid, r->preparation);
  r_rows_to_columns(r->flux, space->block->flux, r->n, r->grid.size, first, count);
  r_rows_to_columns(r->ivar, space->block->ivar, r->n, r->grid.size, first, count);
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
  struct spd_uniform_grid grid = {r_number(log_first, "log_first"), SPD_SDSS_STEP, preparation.n_observed};
  for (int i = 0; i < n_names; i++)
    SET_VECTOR_ELT(result, i,
                   i < 2                        ? Rf_allocMatrix(REALSXP, (int)n, (int)grid.size)
                   : i < 2 + N_REAL             ? Rf_allocVector(REALSXP, (R_xlen_t)n)
                   : i < 2 + N_REAL + N_INTEGER ? Rf_allocVector(INTSXP, (R_xlen_t)n)
                                                : Rf_allocVector(STRSXP, (R_xlen_t)n));
  struct outcome *outcomes = (struct outcome *)R_alloc(R_CHUNK, sizeof *outcomes);
  const char **files = (const char **)R_alloc(R_CHUNK, sizeof *files);
  struct reading reading = {.spaces = new_workspaces(threads, grid.size),
                            .outcomes = outcomes,
                            .files = files,
                            .mask = r_text(r_list_get(recipe, "mask"), "mask"),
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
