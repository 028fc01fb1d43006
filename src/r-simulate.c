/* .Call entries of simulated spectra. */
#include <limits.h>

#include "core/rng.h"
#include "core/threads.h"
#include "data/simulate.h"
#include "r-entries.h"
#include "r-spectra.h"
#include "r-util.h"

/* (n, k): row i is that of number first + i in a sample of any size with this seed. */
SEXP ffi_uniforms(SEXP seed, SEXP first, SEXP n, SEXP k) {
  const R_xlen_t rows = (R_xlen_t)r_whole(n, "n", 0, INT_MAX), columns = (R_xlen_t)r_whole(k, "k", 0, INT_MAX);
  const double start = r_whole(first, "first", 0, 1e15), from = r_whole(seed, "seed", -R_MOST_SEED, R_MOST_SEED);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)rows, (int)columns));
  const uint64_t stream = 0x6761; /* none of the streams of data/simulate.c */
  for (R_xlen_t i = 0; i < rows; i++) {
    struct spd_random random = spd_random_start((uint64_t)(int64_t)from, stream, (uint64_t)(start + (double)i));
    for (R_xlen_t j = 0; j < columns; j++) REAL(out)[j * rows + i] = spd_random_uniform(&random);
  }
  UNPROTECT(1);
  return out;
}

static size_t length_of(SEXP list, const char *name) { return (size_t)Rf_xlength(r_list_get(list, name)); }

/* shared: a list whose names are the fields of spd_simulation, components and lines with a column each; R/simulate.R makes it.
 */
static struct spd_simulation simulation_from(SEXP shared) {
  const SEXP components = r_list_get(shared, "components");
  const size_t n_rest = length_of(shared, "extinction"), size = (size_t)Rf_xlength(components);
  const size_t n_observed = length_of(shared, "wave"), n_lines = length_of(shared, "line_wave"), n_lsf = length_of(shared, "lsf");
  if (!Rf_isMatrix(components) || n_rest < 2 || n_observed < 2 || n_lsf % 2 == 0) Rf_error("internal: this is no simulation");
  r_check_matrix(components, "components", n_rest, (size_t)Rf_ncols(components));
  const double *extinction = r_list_numbers(shared, "extinction", n_rest);
  float *narrow = (float *)R_alloc(size + n_rest, sizeof(float));
  for (size_t i = 0; i < size; i++) narrow[i] = (float)REAL_RO(components)[i];
  for (size_t i = 0; i < n_rest; i++) narrow[size + i] = (float)extinction[i];
  return (struct spd_simulation){
      .n_rest = n_rest,
      .log_first = r_list_real(shared, "log_first"),
      .step = r_list_real(shared, "step"),
      .wave_rest = r_list_numbers(shared, "wave_rest", n_rest),
      .n_components = (size_t)Rf_ncols(components),
      .components = narrow,
      .extinction = narrow + size,
      .n_lines = n_lines,
      .line_wave = r_list_numbers(shared, "line_wave", n_lines),
      .n_observed = n_observed,
      .wave = r_list_numbers(shared, "wave", n_observed),
      .integrate = r_list_flag(shared, "integrate"),
      .log_wave = r_list_numbers(shared, "log_wave", n_observed + n_lsf - 1 + (size_t)r_list_flag(shared, "integrate")),
      .n_lsf = n_lsf,
      .lsf = r_list_numbers(shared, "lsf", n_lsf),
      .sky = r_list_numbers(shared, "sky", n_observed),
      .sky_lines = r_list_numbers(shared, "sky_lines", n_observed),
      .photons = r_list_numbers(shared, "photons", n_observed),
      .noise = r_list_flag(shared, "noise"),
      .defects = r_list_flag(shared, "defects"),
      .seed = (uint64_t)(int64_t)r_list_whole(shared, "seed", -R_MOST_SEED, R_MOST_SEED),
  };
}

struct workspace {             /* one per thread */
  double *flux, *ivar, *truth; /* (R_BLOCK, M) */
  double *rest;                /* (R_BLOCK, R) or NULL */
  double *work;
  double *mix, *lines; /* of one object */
};

/* Objects from start to stop - 1, in blocks */
struct making {
  const struct spd_simulation *s;
  const struct spd_preparation *preparation;
  struct workspace *spaces;
  size_t n, start, stop;
  uint64_t offset; /* number of object 0 in the sample */
  const double *z, *mix, *ebv, *lines, *line_sigma, *sn, *brightness, *contrast;
  double *flux, *ivar, *truth, *rest, *norm; /* rest: NULL if not kept */
  int *found;
  spd_status *statuses; /* of the blocks */
  struct spd_error *errors;
};

static void make_block(const void *context, size_t block, int thread) {
  const struct making *k = context;
  const struct spd_simulation *s = k->s;
  struct workspace *space = &k->spaces[thread];
  const size_t n = k->n, n_observed = s->n_observed, first = k->start + block * R_BLOCK;
  const size_t count = k->stop - first < R_BLOCK ? k->stop - first : R_BLOCK;
  k->statuses[block] = SPD_STATUS_OK;
  for (size_t i = 0; i < count; i++) {
    const size_t row = first + i;
    for (size_t c = 0; c < s->n_components; c++) space->mix[c] = k->mix[c * n + row];
    for (size_t l = 0; l < s->n_lines; l++) space->lines[l] = k->lines[l * n + row];
    const struct spd_object object = {k->z[row],          space->mix,       k->ebv[row], space->lines,   k->line_sigma[row],
                                      k->brightness[row], k->contrast[row], k->sn[row],  k->offset + row};
    double *y = space->flux + i * n_observed, *w = space->ivar + i * n_observed, *t = space->truth + i * n_observed;
    double *x = k->rest ? space->rest + i * s->n_rest : NULL;
    k->statuses[block] = spd_simulate(t, y, w, x, &object, s, space->work, &k->errors[block]);
    if (k->statuses[block] != SPD_STATUS_OK) return;
    spd_prepare_clean(y, w, n_observed);
    k->found[row] = spd_prepare_normalize(&k->norm[row], y, w, space->work, k->z[row], k->preparation);
    const double unit = k->found[row] == SPD_NORM_FOUND ? k->norm[row] : 1.0;
    for (size_t m = 0; m < n_observed; m++) t[m] /= unit;
    for (size_t r = 0; x && r < s->n_rest; r++) x[r] /= unit;
  }
  r_rows_to_columns(k->flux, space->flux, n, n_observed, first, count);
  r_rows_to_columns(k->ivar, space->ivar, n, n_observed, first, count);
  r_rows_to_columns(k->truth, space->truth, n, n_observed, first, count);
  if (k->rest) r_rows_to_columns(k->rest, space->rest, n, s->n_rest, first, count);
}

/* objects: a list whose names are the fields of spd_object, n of each; first_row: the number of row 0 in the sample. recipe: as
 * for ffi_prepare_spectra. Returns flux, ivar, norm, found as that does, and truth and rest in the units of flux. */
SEXP ffi_simulate(SEXP shared, SEXP objects, SEXP first_row, SEXP keep_rest, SEXP recipe) {
  struct spd_simulation s = simulation_from(shared);
  struct spd_preparation preparation = r_preparation(recipe);
  size_t n = (size_t)Rf_xlength(r_list_get(objects, "z")), n_observed = s.n_observed;
  if (preparation.n_observed != n_observed) Rf_error("internal: the recipe is for another grid");
  const double row_0 = r_whole(first_row, "first_row", 0, 1e15);
  int with_rest = (int)r_whole(keep_rest, "keep_rest", 0, 1), threads = r_team_size(r_list_get(recipe, "threads"), n);

  static const char *const names[] = {"flux", "ivar", "truth", "rest", "norm", "found"};
  SEXP result = PROTECT(r_list_new(6, names));
  for (int i = 0; i < 3; i++) SET_VECTOR_ELT(result, i, Rf_allocMatrix(REALSXP, (int)n, (int)n_observed));
  if (with_rest) SET_VECTOR_ELT(result, 3, Rf_allocMatrix(REALSXP, (int)n, (int)s.n_rest));
  SET_VECTOR_ELT(result, 4, Rf_allocVector(REALSXP, (R_xlen_t)n));
  SET_VECTOR_ELT(result, 5, Rf_allocVector(INTSXP, (R_xlen_t)n));

  struct workspace *spaces = (struct workspace *)R_alloc((size_t)threads, sizeof *spaces);
  for (int i = 0; i < threads; i++) {
    spaces[i].flux = (double *)R_alloc(3 * R_BLOCK * n_observed, sizeof(double));
    spaces[i].ivar = spaces[i].flux + R_BLOCK * n_observed;
    spaces[i].truth = spaces[i].ivar + R_BLOCK * n_observed;
    spaces[i].rest = with_rest ? (double *)R_alloc(R_BLOCK * s.n_rest, sizeof(double)) : NULL;
    spaces[i].work = (double *)R_alloc(spd_simulate_work(&s), sizeof(double));
    spaces[i].mix = (double *)R_alloc(s.n_components + s.n_lines, sizeof(double));
    spaces[i].lines = spaces[i].mix + s.n_components;
  }
  struct making making = {.s = &s,
                          .preparation = &preparation,
                          .spaces = spaces,
                          .n = n,
                          .offset = (uint64_t)row_0,
                          .z = r_list_numbers(objects, "z", n),
                          .mix = r_list_numbers(objects, "mix", n * s.n_components),
                          .ebv = r_list_numbers(objects, "ebv", n),
                          .lines = r_list_numbers(objects, "lines", n * s.n_lines),
                          .line_sigma = r_list_numbers(objects, "line_sigma", n),
                          .sn = r_list_numbers(objects, "sn", n),
                          .brightness = r_list_numbers(objects, "brightness", n),
                          .contrast = r_list_numbers(objects, "contrast", n),
                          .flux = REAL(VECTOR_ELT(result, 0)),
                          .ivar = REAL(VECTOR_ELT(result, 1)),
                          .truth = REAL(VECTOR_ELT(result, 2)),
                          .rest = with_rest ? REAL(VECTOR_ELT(result, 3)) : NULL,
                          .norm = REAL(VECTOR_ELT(result, 4)),
                          .found = INTEGER(VECTOR_ELT(result, 5)),
                          .statuses = (spd_status *)R_alloc(R_CHUNK / R_BLOCK, sizeof(spd_status)),
                          .errors = (struct spd_error *)R_alloc(R_CHUNK / R_BLOCK, sizeof(struct spd_error))};
  spd_status status = SPD_STATUS_OK;
  struct spd_error error = {""};

  for (size_t start = 0; start < n && status == SPD_STATUS_OK; start += R_CHUNK) {
    size_t stop = n - start < R_CHUNK ? n : start + R_CHUNK;
    making.start = start, making.stop = stop;
    spd_parallel(threads, (stop - start + R_BLOCK - 1) / R_BLOCK, make_block, &making);
    for (size_t block = 0; block * R_BLOCK < stop - start && status == SPD_STATUS_OK; block++) {
      status = making.statuses[block];
      error = making.errors[block];
    }
    R_CheckUserInterrupt();
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}
