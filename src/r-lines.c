/* .Call entries of lines. */
#include "core/threads.h"
#include "measure/lines.h"
#include "r-entries.h"
#include "r-numbers.h"

struct workspace {               /* one per thread */
  double *flux, *ivar, *changes; /* (R_BLOCK, M), (R_BLOCK, M) or NULL, (R_BLOCK, n_changes, M) */
  double *work;                  /* as spd_lines_work() says */
  struct spd_line *line;         /* (K) */
};

enum { FLUX, FLUX_ERR, EW, EW_ERR, SIGMA, SIGMA_ERR, VELOCITY, VELOCITY_ERR, CONTINUUM, CHI2, FLUX_WITH_NEXT, VALUES };

/* Rows from start to stop - 1, in blocks */
struct measuring {
  const struct spd_lines *lines;
  struct workspace *spaces;
  size_t n, n_changes, start, stop;
  const double *flux, *ivar, *z, *unit, *velocity, *sigma, *changes; /* the last three may be NULL, and ivar */
  double *value[VALUES];                                             /* (n, K), row by row */
  int *pixels;
};

static double known(double x) { return isnan(x) ? NA_REAL : x; }

static void measure_block(const void *context, size_t block, int thread) {
  const struct measuring *c = context;
  const struct workspace *space = &c->spaces[thread];
  const size_t m = c->lines->n_observed, k = c->lines->n_lines, first = c->start + block * R_BLOCK;
  const size_t count = c->stop - first < R_BLOCK ? c->stop - first : R_BLOCK;
  r_columns_to_rows(space->flux, c->flux, c->n, m, first, count);
  if (c->ivar) r_columns_to_rows(space->ivar, c->ivar, c->n, m, first, count);
  if (c->changes) r_columns_to_rows(space->changes, c->changes, c->n, m * c->n_changes, first, count);
  for (size_t i = 0; i < count; i++) {
    const size_t row = first + i, to = row * k;
    const struct spd_lines_spectrum spectrum = {.flux = space->flux + i * m,
                                                .ivar = c->ivar ? space->ivar + i * m : NULL,
                                                .z = c->z[row],
                                                .unit = c->unit[row],
                                                .velocity = c->velocity ? c->velocity + to : NULL,
                                                .sigma = c->sigma ? c->sigma + to : NULL,
                                                .changes = c->changes ? space->changes + i * m * c->n_changes : NULL,
                                                .n_changes = c->n_changes};
    spd_lines_measure(space->line, c->lines, &spectrum, space->work);
    for (size_t l = 0; l < k; l++) {
      const struct spd_line *line = &space->line[l];
      const double values[VALUES] = {line->flux,          line->flux_err, line->ew,           line->ew_err,    line->sigma,
                                     line->sigma_err,     line->velocity, line->velocity_err, line->continuum, line->chi2,
                                     line->flux_with_next};
      for (int v = 0; v < VALUES; v++) c->value[v][to + l] = known(values[v]);
      c->pixels[to + l] = (int)line->pixels;
    }
  }
}

/* An increasing vector of finite numbers */
static const double *increasing(SEXP list, const char *name, size_t least, size_t most, size_t *n) {
  const double *x = r_list_numbers(list, name, R_ANY);
  *n = (size_t)Rf_xlength(r_list_get(list, name));
  if (*n < least || *n > most) Rf_error("internal: '%s' must have %zu to %zu elements", name, least, most);
  for (size_t i = 0; i < *n; i++)
    if (!R_FINITE(x[i]) || (i > 0 && x[i] <= x[i - 1])) Rf_error("internal: '%s' must be finite and increase", name);
  return x;
}

static double limit(SEXP list, const char *name, double lowest) {
  const double value = r_list_real(list, name);
  if (!(value >= lowest)) Rf_error("internal: '%s' must be at least %g", name, lowest);
  return value;
}

static const double *numbers_or_null(SEXP x, const char *name, size_t n) {
  if (Rf_isNull(x)) return NULL;
  r_check_numbers(x, name, n);
  return REAL_RO(x);
}

/* flux, ivar: (n, M), ivar NULL for equal weights; z, unit: (n); shared: a list whose names are the fields of spd_lines, and threads;
 * velocity, sigma: (n * K), a row's lines together, both or neither NULL; changes: (n, M, any) or NULL. Returns a list of the fields of
 * spd_line, each (n * K). */
SEXP ffi_lines(SEXP flux, SEXP ivar, SEXP z, SEXP unit, SEXP shared, SEXP velocity, SEXP sigma, SEXP changes) {
  static const char *const names[VALUES + 1] = {"flux",     "flux_err",     "ew",        "ew_err", "sigma",          "sigma_err",
                                                "velocity", "velocity_err", "continuum", "chi2",   "flux_with_next", "pixels"};
  struct spd_lines lines = {.gap = limit(shared, "gap", 0),
                            .window = limit(shared, "window", 0),
                            .sigma_max = limit(shared, "sigma_max", 0),
                            .velocity_max = limit(shared, "velocity_max", 0)};
  lines.wave = increasing(shared, "wave", 2, 1000000, &lines.n_observed);
  lines.centre = increasing(shared, "centre", 1, 1000, &lines.n_lines);
  const size_t n = (size_t)Rf_xlength(z), m = lines.n_observed, k = lines.n_lines;
  r_check_numbers(z, "z", n);
  r_check_numbers(unit, "unit", n);
  r_check_matrix(flux, "flux", n, m);
  if (!Rf_isNull(ivar)) r_check_matrix(ivar, "ivar", n, m);
  struct measuring c = {.lines = &lines,
                        .n = n,
                        .flux = REAL_RO(flux),
                        .ivar = Rf_isNull(ivar) ? NULL : REAL_RO(ivar),
                        .z = REAL_RO(z),
                        .unit = REAL_RO(unit),
                        .velocity = numbers_or_null(velocity, "velocity", n * k),
                        .sigma = numbers_or_null(sigma, "sigma", n * k)};
  if (!c.velocity != !c.sigma) Rf_error("internal: both velocity and width are kept, or neither");
  if (!Rf_isNull(changes)) {
    r_check_numbers(changes, "changes", R_ANY);
    c.n_changes = n ? (size_t)Rf_xlength(changes) / (n * m) : 0;
    r_check_numbers(changes, "changes", n * m * c.n_changes);
    if (c.n_changes) c.changes = REAL_RO(changes);
  }
  const int threads = r_team_size(r_list_get(shared, "threads"), n);

  SEXP result = PROTECT(r_list_new(VALUES + 1, names));
  for (int v = 0; v < VALUES; v++) {
    SET_VECTOR_ELT(result, v, Rf_allocVector(REALSXP, (R_xlen_t)(n * k)));
    c.value[v] = REAL(VECTOR_ELT(result, v));
  }
  SET_VECTOR_ELT(result, VALUES, Rf_allocVector(INTSXP, (R_xlen_t)(n * k)));
  c.pixels = INTEGER(VECTOR_ELT(result, VALUES));
  c.spaces = (struct workspace *)R_alloc((size_t)threads, sizeof *c.spaces);
  for (int i = 0; i < threads; i++) {
    c.spaces[i].flux = (double *)R_alloc(R_BLOCK * m, sizeof(double));
    c.spaces[i].ivar = c.ivar ? (double *)R_alloc(R_BLOCK * m, sizeof(double)) : NULL;
    c.spaces[i].changes = c.changes ? (double *)R_alloc(R_BLOCK * c.n_changes * m, sizeof(double)) : NULL;
    c.spaces[i].work = (double *)R_alloc(spd_lines_work(&lines), sizeof(double));
    c.spaces[i].line = (struct spd_line *)R_alloc(k, sizeof(struct spd_line));
  }
  for (c.start = 0; c.start < n; c.start = c.stop) {
    c.stop = n - c.start < R_CHUNK ? n : c.start + R_CHUNK;
    spd_parallel(threads, (c.stop - c.start + R_BLOCK - 1) / R_BLOCK, measure_block, &c);
    R_CheckUserInterrupt();
  }
  UNPROTECT(1);
  return result;
}

/* centre: (2); flux: (n, 2); sigma: (n). Returns n dips, see spd_lines_dip(). */
SEXP ffi_lines_dip(SEXP centre, SEXP flux, SEXP sigma) {
  const size_t n = (size_t)Rf_xlength(sigma);
  r_check_numbers(centre, "centre", 2);
  r_check_numbers(sigma, "sigma", n);
  r_check_matrix(flux, "flux", n, 2);
  SEXP out = PROTECT(Rf_allocVector(REALSXP, (R_xlen_t)n));
  for (size_t i = 0; i < n; i++) {
    const double both[2] = {REAL_RO(flux)[i], REAL_RO(flux)[n + i]};
    REAL(out)[i] = known(spd_lines_dip(REAL_RO(centre), both, REAL_RO(sigma)[i]));
    if (i % R_CHUNK == 0) R_CheckUserInterrupt();
  }
  UNPROTECT(1);
  return out;
}
