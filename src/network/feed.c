#include "network/feed.h"

#include <stdlib.h>
#include <string.h>

struct spd_feed {
  struct spd_model *model;
  struct spd_backend *backend;
  struct spd_source source;
  size_t width, batch_size;
  const uint64_t *rows; /* (count), of which `loaded` were delivered */
  size_t count, loaded;
  /* resident: on the backend; `owned`: buffers to free */
  int resident;
  const float *flux, *ivar, *z;
  const uint64_t *resident_rows;
  void *owned[4];
  /* streamed */
  struct spd_lane lanes[2];
  size_t sent;               /* of the rows */
  struct spd_reader *reader; /* of a source in surveys */
};

enum { FLUX, IVAR, REDSHIFT, ROWS };

static spd_status copy_of(const void **copy, struct spd_feed *feed, int slot, const void *from, size_t bytes, struct spd_error *error) {
  SPD_TRY(feed->backend->ops->alloc(feed->backend, &feed->owned[slot], bytes, error));
  *copy = feed->owned[slot];
  return from ? feed->backend->ops->upload(feed->backend, feed->owned[slot], from, bytes, error) : SPD_STATUS_OK;
}

/* From the surveys through one lane's worth of host memory. */
static spd_status upload_surveys(struct spd_feed *feed, struct spd_error *error) {
  struct spd_backend *backend = feed->backend;
  const size_t n = feed->batch_size, width = feed->width;
  const uint64_t n_rows = feed->source.n_rows;
  uint64_t *rows = malloc(n_rows * sizeof *rows);
  float *batch = malloc(2 * n * width * sizeof *batch);
  spd_status status = rows && batch ? SPD_STATUS_OK : spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a batch of spectra");
  for (uint64_t i = 0; status == SPD_STATUS_OK && i < n_rows; i++) rows[i] = i;
  if (status == SPD_STATUS_OK) status = spd_reader_start(feed->reader, rows, (size_t)n_rows, feed->source.places, error);
  for (uint64_t from = 0; status == SPD_STATUS_OK && from < n_rows; from += n) {
    const size_t count = n_rows - from < n ? (size_t)(n_rows - from) : n, bytes = count * width * sizeof(float);
    status = spd_reader_next(batch, batch + n * width, count, feed->reader, error);
    if (status == SPD_STATUS_OK) status = backend->ops->upload(backend, (float *)feed->owned[FLUX] + from * width, batch, bytes, error);
    if (status == SPD_STATUS_OK)
      status = backend->ops->upload(backend, (float *)feed->owned[IVAR] + from * width, batch + n * width, bytes, error);
  }
  spd_reader_destroy(feed->reader); /* it knows `rows`, and is not needed any more */
  feed->reader = NULL;
  free(rows);
  free(batch);
  return status;
}

static spd_status make_resident(struct spd_feed *feed, struct spd_error *error) {
  const struct spd_source *source = &feed->source;
  const size_t bytes = source->n_rows * feed->width * sizeof(float);
  const void *flux, *ivar, *z, *rows;
  SPD_TRY(copy_of(&flux, feed, FLUX, source->flux, bytes, error));
  SPD_TRY(copy_of(&ivar, feed, IVAR, source->ivar, bytes, error));
  SPD_TRY(copy_of(&z, feed, REDSHIFT, source->z, source->n_rows * sizeof(float), error));
  SPD_TRY(copy_of(&rows, feed, ROWS, NULL, source->n_rows * sizeof(uint64_t), error));
  feed->flux = flux, feed->ivar = ivar, feed->z = z, feed->resident_rows = rows;
  return feed->reader ? upload_surveys(feed, error) : SPD_STATUS_OK;
}

static size_t batch_bytes(const struct spd_feed *feed, size_t n) { return n * (2 * feed->width + 1) * sizeof(float); }

static spd_status prepare(struct spd_feed *feed, spd_feed_way way, struct spd_error *error) {
  const struct spd_backend_ops *ops = feed->backend->ops;
  const struct spd_source *source = &feed->source;
  if (source->surveys) SPD_TRY(spd_reader_create(&feed->reader, source->surveys, source->threads, error));
  if (feed->reader && ops->shares_host_memory) return SPD_STATUS_OK; /* straight into the model */
  if (way == SPD_FEED_AUTO) {
    size_t available;
    SPD_TRY(ops->available(feed->backend, &available, error));
    feed->resident = batch_bytes(feed, source->n_rows) + source->n_rows * sizeof(uint64_t) <= spd_usable_memory(available);
  } else {
    feed->resident = way == SPD_FEED_RESIDENT;
  }
  if (!feed->resident) {
    for (int i = 0; i < 2; i++) SPD_TRY(ops->lane_open(feed->backend, &feed->lanes[i], batch_bytes(feed, feed->batch_size), error));
    return SPD_STATUS_OK;
  }
  if (!ops->shares_host_memory) return make_resident(feed, error);
  feed->flux = source->flux, feed->ivar = source->ivar, feed->z = source->z;
  return SPD_STATUS_OK;
}

spd_status spd_feed_create(struct spd_feed **out, struct spd_model *model, const struct spd_source *source, size_t batch_size,
                           spd_feed_way way, struct spd_error *error) {
  *out = NULL;
  struct spd_feed *feed = calloc(1, sizeof *feed);
  if (!feed) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the feed");
  feed->model = model;
  feed->backend = spd_model_backend(model);
  feed->source = *source;
  feed->width = spd_model_network(model)->architecture.n_observed;
  feed->batch_size = batch_size;
  spd_status status = prepare(feed, way, error);
  if (status != SPD_STATUS_OK) {
    spd_feed_destroy(feed);
    return status;
  }
  *out = feed;
  return SPD_STATUS_OK;
}

void spd_feed_destroy(struct spd_feed *feed) {
  if (!feed) return;
  spd_reader_destroy(feed->reader);
  for (size_t i = 0; i < sizeof feed->owned / sizeof *feed->owned; i++)
    if (feed->owned[i]) feed->backend->ops->free(feed->backend, feed->owned[i]);
  for (int i = 0; i < 2; i++)
    if (feed->lanes[i].host) feed->backend->ops->lane_close(feed->backend, &feed->lanes[i]);
  free(feed);
}

static size_t batch_at(const struct spd_feed *feed, size_t from) {
  const size_t left = feed->count - from;
  return left < feed->batch_size ? left : feed->batch_size;
}

/* From surveys to a backend that computes in the host's memory: neither resident nor through lanes. */
static int is_direct(const struct spd_feed *feed) { return feed->reader && feed->backend->ops->shares_host_memory; }

static spd_status read_into_model(struct spd_feed *feed, size_t n, size_t from, struct spd_error *error) {
  float *flux, *ivar, *z;
  SPD_TRY(spd_model_input(&flux, &ivar, &z, feed->model, n, error));
  for (size_t i = 0; i < n; i++) z[i] = feed->source.z[feed->rows[from + i]];
  return spd_reader_next(flux, ivar, n, feed->reader, error);
}

/* Fills the lane of the batch that starts at row `sent` and sends it on its way. */
static spd_status send(struct spd_feed *feed, struct spd_error *error) {
  const struct spd_backend_ops *ops = feed->backend->ops;
  const struct spd_source *source = &feed->source;
  const size_t n = batch_at(feed, feed->sent), width = feed->width;
  if (n == 0) return SPD_STATUS_OK;
  struct spd_lane *lane = &feed->lanes[feed->sent / feed->batch_size % 2];
  SPD_TRY(ops->lane_fill(feed->backend, lane, error));
  float *flux = lane->host, *ivar = flux + n * width, *z = ivar + n * width;
  if (feed->reader) SPD_TRY(spd_reader_next(flux, ivar, n, feed->reader, error));
  for (size_t i = 0; i < n; i++) {
    const uint64_t row = feed->rows[feed->sent + i];
    z[i] = source->z[row];
    if (feed->reader) continue;
    memcpy(flux + i * width, source->flux + row * width, width * sizeof *flux);
    memcpy(ivar + i * width, source->ivar + row * width, width * sizeof *ivar);
  }
  feed->sent += n;
  return ops->lane_send(feed->backend, lane, batch_bytes(feed, n), error);
}

spd_status spd_feed_start(struct spd_feed *feed, const uint64_t *rows, size_t count, struct spd_error *error) {
  feed->rows = rows;
  feed->count = count;
  feed->loaded = feed->sent = 0;
  if (feed->reader) SPD_TRY(spd_reader_start(feed->reader, rows, count, feed->source.places, error));
  if (is_direct(feed)) return SPD_STATUS_OK;
  if (!feed->resident) return send(feed, error);
  if (feed->backend->ops->shares_host_memory) {
    feed->resident_rows = rows;
    return SPD_STATUS_OK;
  }
  return feed->backend->ops->upload(feed->backend, feed->owned[ROWS], rows, count * sizeof *rows, error);
}

spd_status spd_feed_next(size_t *n, struct spd_feed *feed, struct spd_error *error) {
  const size_t from = feed->loaded;
  *n = batch_at(feed, from);
  if (*n == 0) return SPD_STATUS_OK;
  feed->loaded += *n;
  if (is_direct(feed)) return read_into_model(feed, *n, from, error);
  if (feed->resident) return spd_model_load_rows(feed->model, feed->flux, feed->ivar, feed->z, feed->resident_rows + from, *n, error);
  SPD_TRY(spd_model_load_lane(feed->model, &feed->lanes[from / feed->batch_size % 2], *n, error));
  return send(feed, error); /* while the backend still works on the batch before */
}
