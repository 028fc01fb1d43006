/* .Call entries that prepare spectra and measure them. */
#include "r-spectra.h"

#include "core/hot.h"
#include "core/threads.h"
#include "network/scalar.h"
#include "r-entries.h"

struct spd_preparation r_preparation(SEXP recipe) {
  const double *wave = r_list_numbers(recipe, "wave", R_ANY), *lines = r_list_numbers(recipe, "sky", R_ANY);
  const double *window = r_list_numbers(recipe, "window", 2);
  const size_t n_lines = (size_t)Rf_xlength(r_list_get(recipe, "sky"));
  struct spd_preparation preparation = {.n_observed = (size_t)Rf_xlength(r_list_get(recipe, "wave")),
                                        .wave = wave,
                                        .sky = NULL,
                                        .window = {window[0], window[1]},
                                        .normalize = r_list_flag(recipe, "normalize")};
  if (preparation.n_observed < 2 || preparation.n_observed > 1000000) Rf_error("internal: a grid has two pixels to a million");
  if (n_lines > 0) {
    unsigned char *sky = (unsigned char *)R_alloc(preparation.n_observed, 1);
    const SEXP given = r_list_get(recipe, "half_width");
    const size_t n_given = Rf_xlength(given) == 1 ? 1 : n_lines;
    r_check_numbers(given, "half_width", n_given);
    double *half_widths = (double *)R_alloc(n_lines, sizeof *half_widths);
    for (size_t i = 0; i < n_lines; i++) half_widths[i] = REAL_RO(given)[n_given == 1 ? 0 : i];
    spd_prepare_sky(sky, preparation.wave, preparation.n_observed, lines, half_widths, n_lines);
    preparation.sky = sky;
  }
  return preparation;
}

struct r_block *r_blocks(int n, size_t n_observed) {
  struct r_block *blocks = (struct r_block *)R_alloc((size_t)n, sizeof *blocks);
  for (int i = 0; i < n; i++) {
    blocks[i].flux = (double *)R_alloc(R_BLOCK * n_observed, sizeof(double));
    blocks[i].ivar = (double *)R_alloc(R_BLOCK * n_observed, sizeof(double));
    blocks[i].work = (double *)R_alloc(n_observed, sizeof(double));
  }
  return blocks;
}

/* Blocks of rows of R's matrices; results that are not wanted are NULL. */
struct blocks {
  struct r_block *buffers;
  size_t n, n_observed, start, stop; /* rows start to stop - 1 are computed */
  const double *flux, *ivar, *z;
  double *flux_to, *ivar_to, *norm, *sn;
  int *found, *negative, *valid;
  const struct spd_preparation *preparation;
};

/* Copies the rows of a block into the thread's buffers; returns how many. */
static size_t take_block(struct r_block *buffer, const struct blocks *b, size_t first) {
  const size_t count = b->stop - first < R_BLOCK ? b->n - first : R_BLOCK;
  r_columns_to_rows(buffer->flux, b->flux, b->n, b->n_observed, first, count);
  r_columns_to_rows(buffer->ivar, b->ivar, b->n, b->n_observed, first, count);
  return count;
}

/* All rows, some at a time, with checks for user interrupts in between */
static void in_parts(int threads, spd_piece *piece, struct blocks *b) {
  for (b->start = 0; b->start < b->n; b->start = b->stop) {
    b->stop = b->n - b->start < R_CHUNK ? b->n : b->start + R_CHUNK;
    spd_parallel(threads, (b->stop - b->start + R_BLOCK - 1) / R_BLOCK, piece, b);
    R_CheckUserInterrupt();
  }
}

static void prepare_block(const void *context, size_t block, int thread) {
  const struct blocks *b = context;
  struct r_block *buffer = &b->buffers[thread];
  const size_t first = b->start + block * R_BLOCK, count = take_block(buffer, b, first);
  for (size_t i = 0; i < count; i++) {
    double *y = buffer->flux + i * b->n_observed, *w = buffer->ivar + i * b->n_observed;
    b->negative[first + i] = (int)spd_prepare_clean(y, w, b->n_observed);
    b->found[first + i] = spd_prepare_normalize(&b->norm[first + i], y, w, buffer->work, b->z[first + i], b->preparation);
  }
  r_rows_to_columns(b->flux_to, buffer->flux, b->n, b->n_observed, first, count);
  r_rows_to_columns(b->ivar_to, buffer->ivar, b->n, b->n_observed, first, count);
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
  struct blocks blocks = {.buffers = r_blocks(threads, n_observed),
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
  in_parts(threads, prepare_block, &blocks);
  UNPROTECT(1);
  return result;
}

static void measure_block(const void *context, size_t block, int thread) {
  const struct blocks *b = context;
  struct r_block *buffer = &b->buffers[thread];
  const size_t first = b->start + block * R_BLOCK, count = take_block(buffer, b, first);
  for (size_t i = 0; i < count; i++)
    b->valid[first + i] = (int)spd_prepare_sn(&b->sn[first + i], buffer->flux + i * b->n_observed, buffer->ivar + i * b->n_observed,
                                              buffer->work, b->n_observed);
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
  struct blocks blocks = {.buffers = r_blocks(threads, n_observed),
                          .n = n,
                          .n_observed = n_observed,
                          .flux = REAL_RO(flux),
                          .ivar = REAL_RO(ivar),
                          .sn = REAL(VECTOR_ELT(result, 0)),
                          .valid = INTEGER(VECTOR_ELT(result, 1))};
  in_parts(threads, measure_block, &blocks);
  UNPROTECT(1);
  return result;
}

struct flat {
  const double *flux, *ivar, *rows, *covered; /* covered: (n, 2), the first and last pixel, from 1 */
  size_t n, n_rows, n_observed, start, stop;  /* rows start to stop - 1 are computed */
  double *loss;
  int *valid;
};

enum { FLAT_ROWS = 512 /* whole pages of a column */, FLAT_AT_ONCE = 8192 /* rows between two checks for user interrupts */ };

/* One pixel of `count` rows, which are neighbours in memory. from, to: the first and last covered pixel of each, from 1 */
SPD_HOT static void add_pixel(double *restrict loss, double *restrict valid, const double *restrict flux, const double *restrict ivar,
                              const double *restrict from, const double *restrict to, double pixel, size_t count) {
  SPD_SIMD
  for (size_t i = 0; i < count; i++) {
    const double w = ivar[i], difference = flux[i] - 1, part = w * difference * difference;
    const int covered = (pixel >= from[i]) & (pixel <= to[i]);
    valid[i] += w > 0 ? 1 : 0;
    loss[i] += covered ? part : 0;
  }
}

/* Some rows, column by column */
static void flat_block(const void *context, size_t block, int thread) {
  (void)thread;
  const struct flat *f = context;
  const size_t first = f->start + block * FLAT_ROWS, end = f->stop - first < FLAT_ROWS ? f->stop : first + FLAT_ROWS;
  double loss[FLAT_ROWS] = {0}, valid[FLAT_ROWS] = {0};
  size_t whole = 1; /* rows that are neighbours: all, or each by itself */
  while (first + whole < end && f->rows[first + whole] == f->rows[first] + (double)whole) whole++;
  const size_t count = first + whole == end ? whole : 1;
  for (size_t m = 0; m < f->n_observed; m++)
    for (size_t i = first; i < end; i += count) {
      const size_t at = m * f->n_rows + (size_t)f->rows[i] - 1;
      add_pixel(loss + (i - first), valid + (i - first), f->flux + at, f->ivar + at, f->covered + i, f->covered + f->n + i, (double)m + 1,
                count);
    }
  for (size_t i = first; i < end; i++) f->loss[i] = loss[i - first] / (2 * (double)f->n_observed), f->valid[i] = (int)valid[i - first];
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
  for (f.start = 0; f.start < f.n; f.start = f.stop) {
    f.stop = f.n - f.start < FLAT_AT_ONCE ? f.n : f.start + FLAT_AT_ONCE;
    spd_parallel(team, (f.stop - f.start + FLAT_ROWS - 1) / FLAT_ROWS, flat_block, &f);
    R_CheckUserInterrupt();
  }
  UNPROTECT(1);
  return result;
}

/* Pixels of each spectrum that the restframe grid covers at its redshift: a matrix with columns `from` and `to`, from 1; to < from: none */
SEXP ffi_coverage(SEXP z, SEXP wave_observed, SEXP wave_rest, SEXP lsf) {
  const R_xlen_t n = Rf_xlength(z);
  r_check_numbers(z, "z", (size_t)n);
  const size_t n_observed = (size_t)Rf_xlength(wave_observed), n_rest = (size_t)Rf_xlength(wave_rest);
  const size_t size = (size_t)r_whole(lsf, "lsf", 0, 1e6);
  if (n_observed < 2 || n_rest < 2) Rf_error("internal: a grid has at least two pixels");
  const float *observed = r_float_vector(wave_observed, "wave_observed", n_observed),
              *rest = r_float_vector(wave_rest, "wave_rest", n_rest);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)n, 2));
  for (R_xlen_t i = 0; i < n; i++) {
    size_t from, to;
    spd_coverage_lsf(&from, &to, (double)(float)REAL_RO(z)[i], rest, n_rest, observed, n_observed, size);
    REAL(out)[i] = (double)from + 1;
    REAL(out)[n + i] = (double)to;
  }
  SEXP dimnames = PROTECT(Rf_allocVector(VECSXP, 2)), columns = PROTECT(Rf_allocVector(STRSXP, 2));
  SET_STRING_ELT(columns, 0, Rf_mkChar("from"));
  SET_STRING_ELT(columns, 1, Rf_mkChar("to"));
  SET_VECTOR_ELT(dimnames, 1, columns);
  Rf_setAttrib(out, R_DimNamesSymbol, dimnames);
  UNPROTECT(3);
  return out;
}
