/* Copies of spectra at other redshifts. A row's pixels are interpolated in order, so the pixel to the left only moves to the right. */
#include <string.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

static double largest_valid(const float *flux, const float *ivar, size_t n) {
  float largest = 0;
  for (size_t m = 0; m < n; m++)
    if (ivar[m] > 0 && flux[m] > largest) largest = flux[m];
  return largest;
}

static void augment_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_augment *s = context;
  const size_t n = s->n_observed, row = i * n;
  const uint64_t key = s->key[i];
  const float *flux = s->flux + row, *ivar = s->ivar + row, *wave = s->wave_observed;
  float *to_flux = s->to_flux + row, *to_ivar = s->to_ivar + row;
  const double deviation = s->noise * largest_valid(flux, ivar, n);
  s->to_z[i] = spd_augmented_redshift(key, s->z_low, s->z_high);
  const double stretch = (1.0 + (double)s->z[i]) / (1.0 + (double)s->to_z[i]);
  memset(to_flux, 0, n * sizeof *to_flux);
  memset(to_ivar, 0, n * sizeof *to_ivar);
  for (size_t m = 0, j = 0; m < n; m++) {
    const double seen_at = (double)wave[m] * stretch;
    if (!spd_covered(seen_at, wave, n)) continue;
    while (j + 2 < n && (double)wave[j + 1] < seen_at) j++;
    const double low = (double)wave[j], high = (double)wave[j + 1];
    spd_augmented_pixel(&to_flux[m], &to_ivar[m], flux, ivar, j, (seen_at - low) / (high - low),
                        spd_augmented_noise(key, m, s->noisy, deviation));
  }
  const size_t size = spd_block_size(s->masked, n), from = spd_block_from(key, size, n);
  memset(to_flux + from, 0, size * sizeof *to_flux);
  memset(to_ivar + from, 0, size * sizeof *to_ivar);
}

spd_status cpu_augment(struct spd_backend *backend, const struct spd_augment *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, augment_row, s);
  return SPD_STATUS_OK;
}
