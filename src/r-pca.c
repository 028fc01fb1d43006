/* .Call entries of principal components. Spectra are taken in chunks: blocks of rows go to the restframe, and get their scores, on one
 * thread each; then blocks of restframe pixels take their sums over the chunk. */
#include <limits.h>

#include "core/threads.h"
#include "measure/pca.h"
#include "r-entries.h"
#include "r-numbers.h"

enum { CHUNK = 256, PIXELS = 128 };

struct workspace {     /* one per thread */
  double *flux, *ivar; /* (R_BLOCK, M) */
  double *scores;      /* (R_BLOCK, K) */
  double *work;
};

struct pass {
  struct spd_pca pca;
  const double *packed; /* basis */
  struct workspace *spaces;
  const double *flux, *ivar, *z;
  size_t n, start, count;              /* rows; those of the chunk */
  double *weight, *difference, *known; /* of the chunk: (CHUNK, R), and packed scores */
  double *scores, *sums;               /* results; sums may be NULL */
};

/* ---- arguments ---- */

static double *doubles(size_t n) { return (double *)R_alloc(n, sizeof(double)); }

static const double *grid(SEXP shared, const char *name, size_t *n) {
  const double *x = r_list_numbers(shared, name, R_ANY);
  *n = (size_t)Rf_xlength(r_list_get(shared, name));
  if (*n < 2 || *n > 1000000) Rf_error("internal: a grid has two pixels to a million");
  for (size_t i = 0; i < *n; i++)
    if (!R_FINITE(x[i]) || (i > 0 && x[i] <= x[i - 1])) Rf_error("internal: '%s' must be finite and increase", name);
  return x;
}

/* shared: a list of wave, wave_rest and threads; mean: (R); basis: (R, K) */
static struct spd_pca pca_from(SEXP shared, SEXP mean, SEXP basis) {
  struct spd_pca pca;
  pca.wave = grid(shared, "wave", &pca.n_observed);
  pca.wave_rest = grid(shared, "wave_rest", &pca.n_rest);
  r_check_numbers(mean, "mean", pca.n_rest);
  if (!Rf_isMatrix(basis) || Rf_ncols(basis) > 1000) Rf_error("internal: 'basis' must be a matrix of up to 1000 columns");
  pca.n_components = (size_t)Rf_ncols(basis);
  r_check_matrix(basis, "basis", pca.n_rest, pca.n_components);
  pca.mean = REAL_RO(mean), pca.basis = REAL_RO(basis);
  return pca;
}

/* ---- a pass over spectra ---- */

static void score_block(const void *context, size_t block, int thread) {
  const struct pass *p = context;
  const struct workspace *space = &p->spaces[thread];
  const size_t m = p->pca.n_observed, rest = p->pca.n_rest, k = p->pca.n_components, at = block * R_BLOCK, first = p->start + at;
  const size_t count = p->count - at < R_BLOCK ? p->count - at : R_BLOCK;
  double *weight = p->weight + at * rest, *difference = p->difference + at * rest;
  r_columns_to_rows(space->flux, p->flux, p->n, m, first, count);
  r_columns_to_rows(space->ivar, p->ivar, p->n, m, first, count);
  for (size_t i = 0; i < count; i++)
    spd_pca_to_rest(weight + i * rest, difference + i * rest, &p->pca, space->flux + i * m, space->ivar + i * m, p->z[first + i]);
  spd_pca_scores(space->scores, &p->pca, p->packed, weight, difference, count, space->work);
  for (size_t i = 0; i < count; i++) {
    for (size_t j = 0; j < k; j++) p->scores[j * p->n + first + i] = space->scores[i * k + j];
    if (p->sums) spd_pca_pack_scores(p->known, &p->pca, space->scores + i * k, at + i, p->count);
  }
}

static void add_block(const void *context, size_t block, int thread) {
  (void)thread;
  const struct pass *p = context;
  const size_t from = block * PIXELS, to = p->pca.n_rest - from < PIXELS ? p->pca.n_rest : from + PIXELS;
  spd_pca_add(p->sums, &p->pca, p->known, p->weight, p->difference, p->count, from, to);
}

/* flux, ivar: (n, M); z: (n); shared, mean, basis: see above. sums: NULL, or what a pass over other spectra has left, or numeric() for
 * none. Returns scores (n, K), and the sums with those of these spectra. */
SEXP ffi_pca_pass(SEXP flux, SEXP ivar, SEXP z, SEXP shared, SEXP mean, SEXP basis, SEXP sums) {
  static const char *const names[] = {"scores", "sums"};
  struct pass p = {.pca = pca_from(shared, mean, basis), .n = (size_t)Rf_xlength(z)};
  const size_t m = p.pca.n_observed, rest = p.pca.n_rest, k = p.pca.n_components, width = spd_pca_sums_width(k);
  r_check_numbers(z, "z", p.n);
  r_check_matrix(flux, "flux", p.n, m);
  r_check_matrix(ivar, "ivar", p.n, m);
  const int before = !Rf_isNull(sums) && Rf_xlength(sums) > 0;
  if (!Rf_isNull(sums)) r_check_numbers(sums, "sums", before ? rest * width : 0);
  const int threads = (int)r_whole(r_list_get(shared, "threads"), "threads", 1, 4096);
  p.flux = REAL_RO(flux), p.ivar = REAL_RO(ivar), p.z = REAL_RO(z);

  SEXP result = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(result, 0, Rf_allocMatrix(REALSXP, (int)p.n, (int)k));
  p.scores = REAL(VECTOR_ELT(result, 0));
  if (!Rf_isNull(sums)) {
    SET_VECTOR_ELT(result, 1, Rf_allocVector(REALSXP, (R_xlen_t)(rest * width)));
    p.sums = REAL(VECTOR_ELT(result, 1));
    for (size_t i = 0; i < rest * width; i++) p.sums[i] = before ? REAL_RO(sums)[i] : 0;
  }
  double *packed = doubles(spd_pca_basis_size(&p.pca));
  spd_pca_pack_basis(packed, &p.pca);
  p.packed = packed;
  p.weight = doubles(CHUNK * rest), p.difference = doubles(CHUNK * rest), p.known = doubles(spd_pca_packed_scores_size(&p.pca, CHUNK));
  const size_t work = spd_pca_scores_work(&p.pca, R_BLOCK);
  const int team = spd_threads(threads, rest / PIXELS + CHUNK);
  p.spaces = (struct workspace *)R_alloc((size_t)team, sizeof *p.spaces);
  for (int i = 0; i < team; i++) {
    p.spaces[i].flux = doubles(R_BLOCK * m), p.spaces[i].ivar = doubles(R_BLOCK * m);
    p.spaces[i].scores = doubles(R_BLOCK * k), p.spaces[i].work = doubles(work);
  }
  for (p.start = 0; p.start < p.n; p.start += p.count) {
    p.count = p.n - p.start < CHUNK ? p.n - p.start : CHUNK;
    spd_parallel(team, (p.count + R_BLOCK - 1) / R_BLOCK, score_block, &p);
    if (p.sums) spd_parallel(team, (rest + PIXELS - 1) / PIXELS, add_block, &p);
    R_CheckUserInterrupt();
  }
  UNPROTECT(1);
  return result;
}

/* From the sums of all passes with n_components: how many spectra have weight in each restframe pixel, and what its mean (less that of
 * the passes) and components should be, (R, 1 + K). */
SEXP ffi_pca_solve(SEXP sums, SEXP n_components) {
  static const char *const names[] = {"count", "solution"};
  const size_t k = (size_t)r_whole(n_components, "n_components", 0, 1000), width = spd_pca_sums_width(k);
  r_check_numbers(sums, "sums", R_ANY);
  const size_t rest = (size_t)Rf_xlength(sums) / width;
  if (rest > INT_MAX) Rf_error("internal: too many sums");
  r_check_numbers(sums, "sums", rest * width);
  double *solution = doubles(k + 1), *work = doubles((k + 1) * (k + 1));
  SEXP result = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(result, 0, Rf_allocVector(REALSXP, (R_xlen_t)rest));
  SET_VECTOR_ELT(result, 1, Rf_allocMatrix(REALSXP, (int)rest, (int)k + 1));
  for (size_t r = 0; r < rest; r++) {
    const double *of = REAL_RO(sums) + r * width;
    spd_pca_solve(solution, of, k, work);
    REAL(VECTOR_ELT(result, 0))[r] = of[width - 1];
    for (size_t j = 0; j <= k; j++) REAL(VECTOR_ELT(result, 1))[j * rest + r] = solution[j];
  }
  UNPROTECT(1);
  return result;
}

/* ---- models ---- */

struct modelling {
  struct spd_pca pca;
  const double *scores, *z; /* (n, K), (n) */
  size_t n;
  double *model, *work; /* (n, M); (threads, R_BLOCK * M + R + K) */
};

static void model_block(const void *context, size_t block, int thread) {
  const struct modelling *p = context;
  const size_t m = p->pca.n_observed, rest = p->pca.n_rest, k = p->pca.n_components, first = block * R_BLOCK;
  const size_t count = p->n - first < R_BLOCK ? p->n - first : R_BLOCK;
  double *rows = p->work + (size_t)thread * (R_BLOCK * m + rest + k), *work = rows + R_BLOCK * m, *scores = work + rest;
  for (size_t i = 0; i < count; i++) {
    double *row = rows + i * m;
    for (size_t j = 0; j < k; j++) scores[j] = p->scores[j * p->n + first + i];
    spd_pca_observed(row, &p->pca, scores, p->z[first + i], work);
    for (size_t l = 0; l < m; l++)
      if (isnan(row[l])) row[l] = NA_REAL;
  }
  r_rows_to_columns(p->model, rows, p->n, m, first, count);
}

/* Models in the observed frame (n, M), NA where the restframe grid does not reach. scores: (n, K) */
SEXP ffi_pca_observed(SEXP scores, SEXP z, SEXP shared, SEXP mean, SEXP basis) {
  struct modelling p = {.pca = pca_from(shared, mean, basis), .n = (size_t)Rf_xlength(z)};
  const size_t m = p.pca.n_observed, k = p.pca.n_components;
  r_check_numbers(z, "z", p.n);
  r_check_matrix(scores, "scores", p.n, k);
  const int threads = r_team_size(r_list_get(shared, "threads"), p.n);
  p.scores = REAL_RO(scores), p.z = REAL_RO(z);
  SEXP model = PROTECT(Rf_allocMatrix(REALSXP, (int)p.n, (int)m));
  p.model = REAL(model);
  p.work = doubles((size_t)threads * (R_BLOCK * m + p.pca.n_rest + k));
  spd_parallel(threads, (p.n + R_BLOCK - 1) / R_BLOCK, model_block, &p);
  UNPROTECT(1);
  return model;
}
