/* .Call entries that read SDSS files and prepare spectra. */
#include <string.h>

#include "core/sdss.h"
#include "r-entries.h"
#include "r-model.h"
#include "r-spectra.h"
#include "r-threads.h"
#include "r-util.h"

struct workspace { /* one per thread */
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
  double *norm = REAL(VECTOR_ELT(result, 2)), *flux_to = REAL(flux_out), *ivar_to = REAL(ivar_out);
  int *found = INTEGER(VECTOR_ELT(result, 3)), *negative = INTEGER(VECTOR_ELT(result, 4));
  const double *flux_from = REAL(flux), *ivar_from = REAL(ivar), *redshift = REAL(z);
  struct workspace *spaces = new_spaces(threads, n_observed);

#ifdef SPD_HAVE_OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic)
#endif
  for (size_t first = 0; first < n; first += R_BLOCK) {
    struct workspace *space = &spaces[r_thread_number()];
    size_t count = n - first < R_BLOCK ? n - first : R_BLOCK;
    r_columns_to_rows(space->flux, flux_from, n, n_observed, first, count);
    r_columns_to_rows(space->ivar, ivar_from, n, n_observed, first, count);
    for (size_t i = 0; i < count; i++) {
      double *y = space->flux + i * n_observed, *w = space->ivar + i * n_observed;
      negative[first + i] = (int)spd_prepare_clean(y, w, n_observed);
      found[first + i] = spd_prepare_normalize(&norm[first + i], y, w, space->work, redshift[first + i], &preparation);
    }
    r_rows_to_columns(flux_to, space->flux, n, n_observed, first, count);
    r_rows_to_columns(ivar_to, space->ivar, n, n_observed, first, count);
  }
  UNPROTECT(1);
  return result;
}

/* Per row: median of flux sqrt(ivar) over the valid pixels (NaN without one), and how many are valid. */
SEXP ffi_spectra_quality(SEXP flux, SEXP ivar, SEXP threads_wanted) {
  size_t n = (size_t)Rf_nrows(flux), n_observed = (size_t)Rf_ncols(flux);
  r_check_matrix(flux, "flux", n, n_observed);
  r_check_matrix(ivar, "ivar", n, n_observed);
  int threads = r_team_size(threads_wanted, n);
  static const char *const names[] = {"sn", "valid"};
  SEXP result = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(result, 0, Rf_allocVector(REALSXP, (R_xlen_t)n));
  SET_VECTOR_ELT(result, 1, Rf_allocVector(INTSXP, (R_xlen_t)n));
  double *sn = REAL(VECTOR_ELT(result, 0));
  int *valid = INTEGER(VECTOR_ELT(result, 1));
  const double *flux_from = REAL(flux), *ivar_from = REAL(ivar);
  struct workspace *spaces = new_spaces(threads, n_observed);

#ifdef SPD_HAVE_OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic)
#endif
  for (size_t first = 0; first < n; first += R_BLOCK) {
    struct workspace *space = &spaces[r_thread_number()];
    size_t count = n - first < R_BLOCK ? n - first : R_BLOCK;
    r_columns_to_rows(space->flux, flux_from, n, n_observed, first, count);
    r_columns_to_rows(space->ivar, ivar_from, n, n_observed, first, count);
    for (size_t i = 0; i < count; i++) {
      const double *y = space->flux + i * n_observed, *w = space->ivar + i * n_observed;
      valid[first + i] = (int)spd_prepare_sn(&sn[first + i], y, w, space->work, n_observed);
    }
  }
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
                                 spd_sdss_file_name(path), SPD_SDSS_STEP, misplaced, raw->loglam[misplaced - 1]);
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

enum { Z, Z_ERR, SN_MEDIAN, NORM, N_REAL };
enum { FOUND, ZWARNING, PLATE, MJD, FIBER, N_INTEGER };
enum { PROBLEM, CLASS, SUBCLASS, PLATE_QUALITY, INSTRUMENT, N_TEXT };
static const char *const read_names[] = {
    "flux",  "ivar", "z",     "z_err",   "sn_median", "norm",     "found",         "zwarning",
    "plate", "mjd",  "fiber", "problem", "class",     "subclass", "plate_quality", "instrument",
};

/* Where a file is bad, `problem` is the sentence and all else is NA; its rows of flux and ivar are zeros. */
static void record(SEXP result, R_xlen_t row, const struct outcome *outcome) {
  int ok = outcome->status == SPD_STATUS_OK;
  const struct spd_sdss_object *object = &outcome->object;
  double reals[N_REAL] = {[Z] = object->z, [Z_ERR] = object->z_err, [SN_MEDIAN] = object->sn_median, [NORM] = outcome->norm};
  int integers[N_INTEGER] = {[FOUND] = outcome->found,
                             [ZWARNING] = object->zwarning,
                             [PLATE] = object->plate,
                             [MJD] = object->mjd,
                             [FIBER] = object->fiber};
  const char *texts[N_TEXT] = {[PROBLEM] = "",
                               [CLASS] = object->class_name,
                               [SUBCLASS] = object->subclass,
                               [PLATE_QUALITY] = object->plate_quality,
                               [INSTRUMENT] = object->instrument};
  if (!ok) texts[PROBLEM] = outcome->error.message;
  int i = 2;
  for (int j = 0; j < N_REAL; j++, i++) REAL(VECTOR_ELT(result, i))[row] = ok && !ISNAN(reals[j]) ? reals[j] : NA_REAL;
  for (int j = 0; j < N_INTEGER; j++, i++)
    INTEGER(VECTOR_ELT(result, i))[row] = ok && integers[j] != SPD_SDSS_UNKNOWN ? integers[j] : NA_INTEGER;
  for (int j = 0; j < N_TEXT; j++, i++)
    SET_STRING_ELT(VECTOR_ELT(result, i), row, ok || j == PROBLEM ? text_or_na(texts[j]) : NA_STRING);
}

/* tick(done) is called on the main thread between chunks. All memory is R's, so an interrupt there leaks nothing. */
SEXP ffi_read_sdss(SEXP paths, SEXP recipe, SEXP log_first, SEXP tick) {
  size_t n = (size_t)Rf_xlength(paths);
  int threads = r_team_size(r_list_get(recipe, "threads"), n);
  const int n_names = 2 + N_REAL + N_INTEGER + N_TEXT;
  SEXP result = PROTECT(r_list_new(n_names, read_names));
  struct spd_preparation preparation = r_preparation(recipe);
  struct spd_log_grid grid = {Rf_asReal(log_first), SPD_SDSS_STEP, preparation.n_observed};
  for (int i = 0; i < n_names; i++)
    SET_VECTOR_ELT(result, i,
                   i < 2                        ? Rf_allocMatrix(REALSXP, (int)n, (int)grid.size)
                   : i < 2 + N_REAL             ? Rf_allocVector(REALSXP, (R_xlen_t)n)
                   : i < 2 + N_REAL + N_INTEGER ? Rf_allocVector(INTSXP, (R_xlen_t)n)
                                                : Rf_allocVector(STRSXP, (R_xlen_t)n));
  double *flux = REAL(VECTOR_ELT(result, 0)), *ivar = REAL(VECTOR_ELT(result, 1));
  struct workspace *spaces = new_spaces(threads, grid.size);
  struct outcome *outcomes = (struct outcome *)R_alloc(R_CHUNK, sizeof *outcomes);
  const char **files = (const char **)R_alloc(R_CHUNK, sizeof *files);
  struct spd_error error = {""};
  spd_status status = SPD_STATUS_OK;

  for (size_t start = 0; start < n && status == SPD_STATUS_OK; start += R_CHUNK) {
    size_t stop = n - start < R_CHUNK ? n : start + R_CHUNK;
    for (size_t i = start; i < stop; i++) files[i - start] = Rf_translateChar(STRING_ELT(paths, (R_xlen_t)i));

#ifdef SPD_HAVE_OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic)
#endif
    for (size_t first = start; first < stop; first += R_BLOCK) {
      struct workspace *space = &spaces[r_thread_number()];
      size_t count = stop - first < R_BLOCK ? stop - first : R_BLOCK;
      for (size_t i = 0; i < count; i++)
        read_one(&outcomes[first - start + i], space, i, files[first - start + i], grid, &preparation);
      r_rows_to_columns(flux, space->flux, n, grid.size, first, count);
      r_rows_to_columns(ivar, space->ivar, n, grid.size, first, count);
    }

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
