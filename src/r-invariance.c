/* Invariance to redshift, for R: what R/invariance.R and R/check-invariance.R need beside a training. */
#include <string.h>

#include "core/rng.h"
#include "cpu/create.h"
#include "network/backend.h"
#include "r-entries.h"
#include "r-numbers.h"

static spd_status move(const struct spd_augment *augment, size_t n, int threads, struct spd_error *error) {
  struct spd_backend *backend;
  SPD_TRY(spd_cpu_create(&backend, threads, error));
  const spd_status status = backend->ops->augment(backend, augment, n, error);
  backend->ops->destroy(backend);
  return status;
}

/* Spectra at redshifts z as they would be at redshift to_z: list(flux, ivar). */
SEXP ffi_move_spectra(SEXP flux, SEXP ivar, SEXP z, SEXP wave, SEXP to_z, SEXP threads) {
  static const char *const names[] = {"flux", "ivar"};
  const size_t n = (size_t)Rf_xlength(z), width = (size_t)Rf_xlength(wave), count = n * width;
  r_check_numbers(z, "z", n);
  r_check_matrix(flux, "flux", n, width);
  r_check_matrix(ivar, "ivar", n, width);
  const double target = r_number(to_z, "to_z");
  const float *grid = r_float_vector(wave, "wave", width), *from_z = r_float_vector(z, "z", n);
  if (width < 2 || !(target > -1 && target < 1e6)) Rf_error("internal: spectra of %zu pixels cannot be moved to z = %g", width, target);
  for (size_t m = 0; m < width; m++)
    if (!(grid[m] > 0 && grid[m] < 1e30) || (m > 0 && !(grid[m] > grid[m - 1]))) Rf_error("internal: 'wave' must increase");
  const int team = r_team_size(threads, n);
  SEXP list = PROTECT(r_list_new(2, names));
  for (int k = 0; k < 2; k++) SET_VECTOR_ELT(list, k, Rf_allocMatrix(REALSXP, (int)n, (int)width));
  float *from = (float *)(void *)R_alloc(2 * count + 1, sizeof *from), *to = (float *)(void *)R_alloc(2 * count + 1, sizeof *to);
  float *z_there = (float *)(void *)R_alloc(n + 1, sizeof *z_there);
  uint64_t *keys = (uint64_t *)(void *)R_alloc(n + 1, sizeof *keys);
  memset(keys, 0, n * sizeof *keys); /* nothing is drawn */
  r_columns_to_floats(from, REAL_RO(flux), n, width, 0, n);
  r_columns_to_floats(from + count, REAL_RO(ivar), n, width, 0, n);
  const struct spd_augment augment = {.n_observed = width,
                                      .wave_observed = grid,
                                      .z_low = target,
                                      .z_high = target,
                                      .key = keys,
                                      .flux = from,
                                      .ivar = from + count,
                                      .z = from_z,
                                      .to_flux = to,
                                      .to_ivar = to + count,
                                      .to_z = z_there};
  struct spd_error error;
  const spd_status status = move(&augment, n, team, &error);
  for (int k = 0; status == SPD_STATUS_OK && k < 2; k++) {
    double *columns = REAL(VECTOR_ELT(list, k));
    for (size_t m = 0; m < width; m++)
      for (size_t i = 0; i < n; i++) columns[m * n + i] = (double)to[k * count + i * width + m];
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return list;
}

/* A number below 2^53 for each id, always the same */
SEXP ffi_id_numbers(SEXP ids) {
  r_check_texts(ids, "ids", R_ANY);
  const R_xlen_t n = Rf_xlength(ids);
  SEXP numbers = PROTECT(Rf_allocVector(REALSXP, n));
  for (R_xlen_t i = 0; i < n; i++) {
    const char *id = CHAR(STRING_ELT(ids, i));
    REAL(numbers)[i] = (double)(spd_hash(id, strlen(id), 0) >> 11);
  }
  UNPROTECT(1);
  return numbers;
}
