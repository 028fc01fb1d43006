/* Columns of a catalogue, a binary table in a FITS file such as SDSS's specObj: single numbers and texts, by name. */
#ifndef SPD_CORE_CATALOGUE_H
#define SPD_CORE_CATALOGUE_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

struct spd_catalogue;

/* The table in HDU `hdu`, from 1. Fails with SPD_STATUS_UNSUPPORTED in a build without CFITSIO. */
spd_status spd_catalogue_open(struct spd_catalogue **catalogue, const char *path, int hdu, struct spd_error *error);
void spd_catalogue_close(struct spd_catalogue *catalogue);
uint64_t spd_catalogue_rows(const struct spd_catalogue *catalogue);

/* Looks for a column, whatever its case. *number is 0 where there is none; *width is 0 for numbers, for texts their bytes. A vector
 * of numbers counts as absent. */
spd_status spd_catalogue_find(int *number, size_t *width, struct spd_catalogue *catalogue, const char *name, struct spd_error *error);
/* Rows first ... first + n - 1 (from 0): numbers (n), NaN where the file has none; or texts (n, width + 1), ended by a zero. */
spd_status spd_catalogue_numbers(double *values, struct spd_catalogue *catalogue, int number, uint64_t first, size_t n,
                                 struct spd_error *error);
spd_status spd_catalogue_texts(char *texts, size_t width, struct spd_catalogue *catalogue, int number, uint64_t first, size_t n,
                               struct spd_error *error);

#endif
