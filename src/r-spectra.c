#include "r-spectra.h"

#include "core/threads.h"

int r_team_size(SEXP wanted, size_t n) {
  return spd_threads((int)r_whole(wanted, "threads", 1, 4096), n / R_BLOCK + 1);
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
    spd_prepare_sky(sky, preparation.wave, preparation.n_observed, lines, n_lines, r_list_real(recipe, "half_width"));
    preparation.sky = sky;
  }
  return preparation;
}
