#include "measure/pca.h"

#include <math.h>
#include <string.h>

#include "core/cholesky.h"
#include "core/hot.h"

/* Vectors of doubles, as they lie in memory: anywhere */
enum { LANES = 4, VECTORS = 3, PANEL = LANES * VECTORS, ROWS = 4, BLOCK = 256 };
typedef double vec __attribute__((vector_size(8 * LANES)));
typedef double vec_in_memory __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

/* Columns up to a whole number of panels; pairs of k things, each with itself too */
static size_t padded(size_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }
static size_t pairs(size_t k) { return k * (k + 1) / 2; }

/* ---- products ---- */

/* C (rows, PANEL) += A (rows, depth) B (depth, PANEL), term by term */
SPD_HOT_INLINE void multiply_rows(double *restrict c, size_t c_row, const int rows, size_t depth, const double *restrict a, size_t a_row,
                                  size_t a_depth, const double *restrict b) {
  vec sum[ROWS][VECTORS];
  SPD_UNROLL
  for (int i = 0; i < rows; i++) {
    SPD_UNROLL
    for (int j = 0; j < VECTORS; j++) sum[i][j] = *(const vec_in_memory *)(c + (size_t)i * c_row + j * LANES);
  }
  for (size_t k = 0; k < depth; k++, a += a_depth, b += PANEL) {
    SPD_UNROLL
    for (int i = 0; i < rows; i++) {
      SPD_UNROLL
      for (int j = 0; j < VECTORS; j++) sum[i][j] += a[(size_t)i * a_row] * *(const vec_in_memory *)(b + j * LANES);
    }
  }
  SPD_UNROLL
  for (int i = 0; i < rows; i++) {
    SPD_UNROLL
    for (int j = 0; j < VECTORS; j++) *(vec_in_memory *)(c + (size_t)i * c_row + j * LANES) = sum[i][j];
  }
}

SPD_HOT static void multiply_panel(double *c, size_t c_row, size_t rows, size_t depth, const double *a, size_t a_row, size_t a_depth,
                                   const double *b) {
  size_t i = 0;
  for (; i + ROWS <= rows; i += ROWS) multiply_rows(c + i * c_row, c_row, ROWS, depth, a + i * a_row, a_row, a_depth, b);
  for (; i < rows; i++) multiply_rows(c + i * c_row, c_row, 1, depth, a + i * a_row, a_row, a_depth, b);
}

/* b: `columns` in panels, each (b_depth, PANEL), of which the rows from `from` on are taken */
static void multiply(double *c, size_t c_row, size_t rows, size_t columns, size_t depth, const double *a, size_t a_row, size_t a_depth,
                     const double *b, size_t b_depth, size_t from) {
  for (size_t j = 0; j < padded(columns); j += PANEL)
    multiply_panel(c + j, c_row, rows, depth, a, a_row, a_depth, b + j * b_depth + from * PANEL);
}

/* Element (row, column) of a matrix in panels */
static double *in_panels(double *b, size_t depth, size_t row, size_t column) {
  return b + (column / PANEL * depth + row) * PANEL + column % PANEL;
}

/* ---- spectra ---- */

void spd_pca_to_rest(double *weight, double *difference, const struct spd_pca *pca, const double *flux, const double *ivar, double z) {
  const size_t m = pca->n_observed, n = pca->n_rest;
  const double *x = pca->wave_rest, *wave = pca->wave, stretch = 1 + z;
  size_t left = 0;
  for (size_t r = 0; r < n; r++) {
    const double at = x[r] * stretch;
    while (left + 1 < m && wave[left + 1] <= at) left++;
    weight[r] = difference[r] = 0;
    if (at < wave[0] || left + 1 >= m) continue;
    const double w = ivar[left] < ivar[left + 1] ? ivar[left] : ivar[left + 1];
    if (!(w > 0)) continue;
    const double per_pixel = 1 / (wave[left + 1] - wave[left]), t = (at - wave[left]) * per_pixel;
    const double share = (r + 1 < n ? x[r + 1] - x[r] : x[r] - x[r - 1]) * stretch * per_pixel;
    weight[r] = share < 1 ? w * share : w;
    difference[r] = weight[r] * ((1 - t) * flux[left] + t * flux[left + 1] - pca->mean[r]);
  }
}

void spd_pca_observed(double *model, const struct spd_pca *pca, const double *scores, double z, double *work) {
  const size_t n = pca->n_rest;
  const double *x = pca->wave_rest;
  memcpy(work, pca->mean, n * sizeof *work);
  for (size_t k = 0; k < pca->n_components; k++)
    for (size_t r = 0; r < n; r++) work[r] += scores[k] * pca->basis[k * n + r];
  size_t left = 0;
  for (size_t i = 0; i < pca->n_observed; i++) {
    const double at = pca->wave[i] / (1 + z);
    model[i] = NAN;
    if (!(at >= x[0] && at <= x[n - 1])) continue;
    while (left + 2 < n && x[left + 1] <= at) left++;
    model[i] = work[left] + (work[left + 1] - work[left]) * ((at - x[left]) / (x[left + 1] - x[left]));
  }
}

/* ---- scores from components ---- */

size_t spd_pca_basis_size(const struct spd_pca *pca) {
  return pca->n_rest * (padded(pairs(pca->n_components)) + padded(pca->n_components));
}

void spd_pca_pack_basis(double *packed, const struct spd_pca *pca) {
  const size_t n = pca->n_rest, k = pca->n_components;
  double *components = packed + n * padded(pairs(k));
  memset(packed, 0, spd_pca_basis_size(pca) * sizeof *packed);
  for (size_t a = 0, pair = 0; a < k; a++) {
    for (size_t b = 0; b <= a; b++, pair++)
      for (size_t r = 0; r < n; r++) *in_panels(packed, n, r, pair) = pca->basis[a * n + r] * pca->basis[b * n + r];
    for (size_t r = 0; r < n; r++) *in_panels(components, n, r, a) = pca->basis[a * n + r];
  }
}

size_t spd_pca_scores_work(const struct spd_pca *pca, size_t n) {
  const size_t k = pca->n_components;
  return n * (padded(pairs(k)) + padded(k)) + k * k;
}

/* The solution of normal equations whose lower triangle is in rows, damped a little where weights are few: 1e-9 of the mean diagonal. 0
 * without weights */
static void solve_normal(double *x, const double *triangle, const double *right, size_t k, double *work) {
  double size = 0;
  for (size_t a = 0; a < k; a++) {
    memcpy(work + a * k, triangle + pairs(a), (a + 1) * sizeof *work);
    size += work[a * k + a];
  }
  for (size_t a = 0; a < k; a++) work[a * k + a] += 1e-9 * size / (double)k;
  memcpy(x, right, k * sizeof *x);
  if (size > 0 && spd_cholesky(work, k))
    spd_cholesky_solve(x, work, k);
  else
    memset(x, 0, k * sizeof *x);
}

/* Has any of the next `depth` pixels of n spectra weight? */
static int has_weight(const double *weight, size_t n, size_t depth, size_t n_rest) {
  for (size_t i = 0; i < n; i++)
    for (size_t r = 0; r < depth; r++)
      if (weight[i * n_rest + r] > 0) return 1;
  return 0;
}

void spd_pca_scores(double *scores, const struct spd_pca *pca, const double *packed, const double *weight, const double *difference,
                    size_t n, double *work) {
  const size_t rest = pca->n_rest, k = pca->n_components, wide = padded(pairs(k)), narrow = padded(k);
  double *normal = work, *right = work + n * wide;
  if (k == 0) return;
  memset(work, 0, n * (wide + narrow) * sizeof *work);
  for (size_t from = 0; from < rest; from += BLOCK) {
    const size_t depth = rest - from < BLOCK ? rest - from : BLOCK;
    if (!has_weight(weight + from, n, depth, rest)) continue;
    multiply(normal, wide, n, pairs(k), depth, weight + from, rest, 1, packed, rest, from);
    multiply(right, narrow, n, k, depth, difference + from, rest, 1, packed + rest * wide, rest, from);
  }
  for (size_t i = 0; i < n; i++) solve_normal(scores + i * k, normal + i * wide, right + i * narrow, k, right + n * narrow);
}

/* ---- components from scores ---- */

size_t spd_pca_sums_width(size_t n_components) { return padded(pairs(n_components + 1)) + padded(n_components + 1) + 1; }

size_t spd_pca_packed_scores_size(const struct spd_pca *pca, size_t n) {
  return n * (padded(pairs(pca->n_components + 1)) + padded(pca->n_components + 1));
}

void spd_pca_pack_scores(double *packed, const struct spd_pca *pca, const double *scores, size_t i, size_t n) {
  const size_t k = pca->n_components + 1, wide = padded(pairs(k));
  for (size_t j = 0; j < wide + padded(k); j++) *in_panels(packed, n, i, j) = 0;
  for (size_t a = 0, pair = 0; a < k; a++) {
    const double first = a ? scores[a - 1] : 1;
    for (size_t b = 0; b <= a; b++, pair++) *in_panels(packed, n, i, pair) = first * (b ? scores[b - 1] : 1);
    *in_panels(packed, n, i, wide + a) = first;
  }
}

void spd_pca_add(double *sums, const struct spd_pca *pca, const double *packed_scores, const double *weight, const double *difference,
                 size_t n, size_t from, size_t to) {
  const size_t rest = pca->n_rest, k = pca->n_components + 1, width = spd_pca_sums_width(k - 1), wide = padded(pairs(k));
  double *first = sums + from * width;
  multiply(first, width, to - from, pairs(k), n, weight + from, 1, rest, packed_scores, n, 0);
  multiply(first + wide, width, to - from, k, n, difference + from, 1, rest, packed_scores + wide * n, n, 0);
  for (size_t i = 0; i < n; i++)
    for (size_t r = from; r < to; r++) sums[r * width + width - 1] += weight[i * rest + r] > 0;
}

void spd_pca_solve(double *solution, const double *sums, size_t n_components, double *work) {
  const size_t k = n_components + 1;
  solve_normal(solution, sums, sums + padded(pairs(k)), k, work);
}
