/* Prefetches rows of survey files on background threads into two buffers, each of one window of the order (data/order.h) or of fewer
 * rows. The threads verify checksums; rows stay encoded until the consumer decodes them. */
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

/* ahead: rows of a buffer, or fewer where they are long; 0 for a window of the order. threads: how many read (8 at most), and how many
 * decode */
spd_status spd_reader_create(struct spd_reader **reader, const struct spd_surveys *surveys, size_t ahead, int threads,
                             struct spd_error *error);
void spd_reader_destroy(struct spd_reader *reader);

/* Starts delivering these rows of the surveys in this order: places[rows[0]], ..., or rows[0], ... if places is NULL. Both must stay valid
 * until the last one is delivered or the next start. */
spd_status spd_reader_start(struct spd_reader *reader, const uint64_t *rows, size_t count, const uint64_t *places, struct spd_error *error);
/* The next n. flux, ivar: (n, M). Waits for the disk where it must. Fails where the checksum of one does not fit, or one cannot be read:
 * the first of those in the order, whatever the number of threads. */
spd_status spd_reader_next(float *flux, float *ivar, size_t n, struct spd_reader *reader, struct spd_error *error);
/* The same with their resolutions (n, spd_band_width()), which must be of the same shape in all files; NULL: without */
spd_status spd_reader_next_resolved(float *flux, float *ivar, float *resolution, size_t n, struct spd_reader *reader,
                                    struct spd_error *error);

#endif
