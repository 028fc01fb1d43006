/* Feeds a model batch by batch: from the backend's memory if the data fits, otherwise through two alternating lanes, so that copying the
 * next batch overlaps with computing the current one. */
#ifndef SPD_NETWORK_FEED_H
#define SPD_NETWORK_FEED_H

#include "data/columns.h"
#include "data/reader.h"
#include "network/model.h"

/* Rows of spectra, in host memory or in survey files. Not owned. */
struct spd_source {
  const float *flux, *ivar;          /* (n_rows, M); NULL: they are in the columns or the surveys */
  const float *resolution;           /* (n_rows, spd_model_band_width()), if the model has resolutions; columns and surveys have theirs */
  const struct spd_columns *columns; /* converted batch by batch, and only streamed */
  int without_ivar;                  /* the model needs none: that of columns is not converted */
  const float *z;                    /* (n_rows) */
  uint64_t n_rows;
  const unsigned char *is_training; /* (n_rows): 1 trains, 0 validates */
  const struct spd_surveys *surveys;
  size_t ahead;           /* rows of surveys that are read ahead at a time, 0 for a window of the order */
  int threads;            /* of the host, which read, decode, convert and copy */
  const uint64_t *places; /* (n_rows): where each row is in the surveys; NULL: at its own number */
};

typedef enum {
  SPD_FEED_AUTO = 0, /* resident where that leaves memory for the rest; of surveys, on a device only */
  SPD_FEED_RESIDENT,
  SPD_FEED_STREAMED
} spd_feed_way;

struct spd_feed;

/* model: made for at least batch_size spectra. The model and the source must outlive the feed. */
spd_status spd_feed_create(struct spd_feed **feed, struct spd_model *model, const struct spd_source *source, size_t batch_size,
                           spd_feed_way way, struct spd_error *error);
void spd_feed_destroy(struct spd_feed *feed);

/* Queues these rows of the source, in this order. `rows` (count <= n_rows) must stay valid until the last is delivered. */
spd_status spd_feed_start(struct spd_feed *feed, const uint64_t *rows, size_t count, struct spd_error *error);
/* The same in batches of other sizes, up to batch_size: batch i ends before row ends[i] - base, and the last is the last of the rows.
 * `ends` must stay valid, too. */
spd_status spd_feed_start_cut(struct spd_feed *feed, const uint64_t *rows, size_t count, const uint64_t *ends, uint64_t base,
                              struct spd_error *error);
/* Loads the next batch into the model; *n is its size, 0 after the last. */
spd_status spd_feed_next(size_t *n, struct spd_feed *feed, struct spd_error *error);

/* Its parts: load a batch; get the following one ready, while the backend works on what it was given in between. */
spd_status spd_feed_load(size_t *n, struct spd_feed *feed, struct spd_error *error);
spd_status spd_feed_ahead(struct spd_feed *feed, struct spd_error *error);
/* The loaded batch's ivar (n, M) on the host, until the batch after next is loaded; NULL where it is only on the backend, or left out */
const float *spd_feed_ivar(const struct spd_feed *feed);

#endif
