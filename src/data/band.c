#include "data/band.h"

#include <stdlib.h>
#include <string.h>

spd_status spd_band_check(const struct spd_band *band, size_t n_observed, struct spd_error *error) {
  if (band->size % 2 == 0 || band->size > 1023)
    return spd_fail(error, SPD_STATUS_INVALID, "a resolution must have an odd number of diagonals up to 1023, not %zu", band->size);
  if (band->step == 0 || n_observed < 2)
    return spd_fail(error, SPD_STATUS_INVALID, "a resolution cannot be given at every %zu-th of %zu pixels", band->step, n_observed);
  return SPD_STATUS_OK;
}

size_t spd_band_width(const struct spd_band *band, size_t n_observed) {
  return band ? spd_band_knots(band->step, n_observed) * (band->gaussian ? 1 : band->size) : 0;
}

/* A number from 1 to 10^6 without a sign, ended by `end` */
static int read_number(size_t *number, const char **at, char end) {
  char *stop;
  if (**at < '1' || **at > '9') return 0;
  const unsigned long value = strtoul(*at, &stop, 10);
  if (value > 1000000 || *stop != end) return 0;
  *number = value;
  *at = stop + (end != '\0');
  return 1;
}

int spd_band_of_name(struct spd_band *band, const char *name) {
  static const char *const kinds[] = {"RESOLUTION_BAND_", "RESOLUTION_SIGMA_"};
  for (int gaussian = 0; gaussian < 2; gaussian++) {
    const char *at = name + strlen(kinds[gaussian]);
    if (strncmp(name, kinds[gaussian], strlen(kinds[gaussian])) != 0) continue;
    band->gaussian = gaussian;
    return read_number(&band->size, &at, '_') && read_number(&band->step, &at, '\0');
  }
  return 0;
}
