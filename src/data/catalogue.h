/* Columns of a catalogue, a table in a FITS file such as SDSS's specObj: single values, by name. */
#ifndef SPD_DATA_CATALOGUE_H
#define SPD_DATA_CATALOGUE_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

struct spd_catalogue;

typedef enum {
  SPD_CATALOGUE_NUMBER,
  SPD_CATALOGUE_LOGICAL, /* and single bits */
  SPD_CATALOGUE_TEXT,
  SPD_CATALOGUE_INTEGER64 /* read as text: a double does not hold it exactly */
} spd_catalogue_kind;

struct spd_catalogue_column {
  int number; /* 0: there is none */
  spd_catalogue_kind kind;
  size_t width; /* bytes of a text */
};

/* The table in the HDU that is called `name`, or, if that is NULL, in HDU `hdu`, from 1; binary or ASCII; the file may be gzipped. Fails
 * with SPD_STATUS_UNSUPPORTED in a build without CFITSIO. */
spd_status spd_catalogue_open(struct spd_catalogue **catalogue, const char *path, const char *name, int hdu, struct spd_error *error);
void spd_catalogue_close(struct spd_catalogue *catalogue);
uint64_t spd_catalogue_rows(const struct spd_catalogue *catalogue);

/* Looks for a column, by its name or else by its name in another case. Fails where its values are not single ones. */
spd_status spd_catalogue_find(struct spd_catalogue_column *column, struct spd_catalogue *catalogue, const char *name,
                              struct spd_error *error);
/* Rows first ... first + n - 1 (from 0): numbers (n), NaN where the file has none; logicals (n): 1, 0, or -1 where it has none; texts (n,
 * width + 1), ended by a zero, empty where it has none. */
spd_status spd_catalogue_numbers(double *values, struct spd_catalogue *catalogue, const struct spd_catalogue_column *column, uint64_t first,
                                 size_t n, struct spd_error *error);
spd_status spd_catalogue_logicals(signed char *values, struct spd_catalogue *catalogue, const struct spd_catalogue_column *column,
                                  uint64_t first, size_t n, struct spd_error *error);
spd_status spd_catalogue_texts(char *texts, struct spd_catalogue *catalogue, const struct spd_catalogue_column *column, uint64_t first,
                               size_t n, struct spd_error *error);

#endif
