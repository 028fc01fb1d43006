#include "r-spectra.h"

#include <math.h>

#include "core/threads.h"

int r_team_size(SEXP wanted, size_t n) {
  const double threads = Rf_isNumeric(wanted) && Rf_xlength(wanted) == 1 ? Rf_asReal(wanted) : NAN;
  if (!(threads >= 1 && threads <= 4096)) Rf_error("internal: the number of threads must be between 1 and 4096");
  return spd_threads((int)threads, (n + R_BLOCK - 1) / R_BLOCK);
}

void r_rows_to_columns(double *columns, const double *rows, size_t n, size_t n_observed, size_t first, size_t count) {
  for (size_t m = 0; m < n_observed; m++)
    for (size_t i = 0; i < count; i++) columns[m * n + first + i] = rows[i * n_observed + m];
}

void r_columns_to_rows(double *rows, const double *columns, size_t n, size_t n_observed, size_t first, size_t count) {
  for (size_t m = 0; m < n_observed; m++)
    for (size_t i = 0; i < count; i++) rows[i * n_observed + m] = columns[m * n + first + i];
}

struct spd_preparation r_preparation(SEXP recipe) {
  SEXP wave = r_list_get(recipe, "wave"), lines = r_list_get(recipe, "sky"), window = r_list_get(recipe, "window");
  struct spd_preparation preparation = {.n_observed = (size_t)Rf_xlength(wave),
                                        .wave = REAL(wave),
                                        .sky = NULL,
                                        .window = {REAL(window)[0], REAL(window)[1]},
                                        .normalize = r_list_flag(recipe, "normalize")};
  if (Rf_xlength(lines) > 0) {
    unsigned char *sky = (unsigned char *)R_alloc(preparation.n_observed, 1);
    spd_prepare_sky(sky, preparation.wave, preparation.n_observed, REAL(lines), (size_t)Rf_xlength(lines),
                    r_list_real(recipe, "half_width"));
    preparation.sky = sky;
  }
  return preparation;
}
