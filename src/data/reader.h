/* Reads spectra from survey files ahead of who needs them, in a thread of its own and bounded memory: two buffers, each for the
 * rows of 16 blocks of 512 (a window of spd_order_fill()), as the files have them. Whoever takes them decodes them.
 */
#ifndef SPD_DATA_READER_H
#define SPD_DATA_READER_H

#include "data/survey.h"

/* Survey files on one grid, one after the other. */
struct spd_surveys {
  struct spd_survey *files; /* (n_files), open, none of them RESULTS */
  size_t n_files;
  uint64_t *first; /* (n_files + 1): the number of each file's first row, then of all */
};

struct spd_reader;

/* threads: how many decode */
spd_status spd_reader_create(struct spd_reader **reader, const struct spd_surveys *surveys, int threads,
                             struct spd_error *error);
void spd_reader_destroy(struct spd_reader *reader);

/* From now on these rows of the surveys come, in this order: places[rows[0]], ...; rows themselves where places is NULL. Both
 * must stay until all have come, or until the next start. */
spd_status spd_reader_start(struct spd_reader *reader, const uint64_t *rows, size_t count, const uint64_t *places,
                            struct spd_error *error);
/* The next n. flux, ivar: (n, M). Waits for the disk where it must. Fails where the checksum of one does not fit. */
spd_status spd_reader_next(float *flux, float *ivar, size_t n, struct spd_reader *reader, struct spd_error *error);

#endif
