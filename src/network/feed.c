#include "network/feed.h"

#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

struct spd_feed {
  struct spd_model *model;
  struct spd_backend *backend;
  struct spd_source source;
  size_t width, resolved, batch_size; /* resolved: floats of a resolution, 0 without */
  const uint64_t *rows;               /* (count), of which `loaded` were delivered */
  size_t count, loaded;
  const uint64_t *ends; /* where batches end, counted from `base`; NULL: all have batch_size rows */
  uint64_t base;
  size_t loaded_batches, sent_batches;
  /* resident: on the backend; `owned`: buffers to free */
  int resident;
  const float *flux, *ivar, *z, *resolution;
  const uint64_t *resident_rows;
  void *owned[5];
  /* streamed */
  struct spd_lane lanes[2];
  size_t sent;               /* of the rows */
  struct spd_reader *reader; /* of a source in surveys */
  uint64_t *places;          /* (batch_size): rows of the columns that a batch has */
  const float *host_ivar;    /* of the loaded batch, or NULL */
};

enum { FLUX, IVAR, REDSHIFT, ROWS, RESOLUTION };

static spd_status copy_of(const void **copy, struct spd_feed *feed, int slot, const void *from, size_t bytes, struct spd_error *error) {
  SPD_TRY(feed->backend->ops->alloc(feed->backend, &feed->owned[slot], bytes, error));
  *copy = feed->owned[slot];
  return from ? feed->backend->ops->upload(feed->backend, feed->owned[slot], from, bytes, error) : SPD_STATUS_OK;
}

/* From the surveys through one lane's worth of host memory. */
static spd_status upload_surveys(struct spd_feed *feed, struct spd_error *error) {
  struct spd_backend *backend = feed->backend;
  const size_t n = feed->batch_size, width = feed->width, resolved = feed->resolved;
  const uint64_t n_rows = feed->source.n_rows;
  uint64_t *rows = malloc(n_rows * sizeof *rows);
  float *batch = malloc(n * (2 * width + resolved) * sizeof *batch);
  spd_status status = rows && batch ? SPD_STATUS_OK : spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a batch of spectra");
  for (uint64_t i = 0; status == SPD_STATUS_OK && i < n_rows; i++) rows[i] = i;
  if (status == SPD_STATUS_OK) status = spd_reader_start(feed->reader, rows, (size_t)n_rows, feed->source.places, error);
  for (uint64_t from = 0; status == SPD_STATUS_OK && from < n_rows; from += n) {
    const size_t count = n_rows - from < n ? (size_t)(n_rows - from) : n, bytes = count * width * sizeof(float);
    float *resolution = resolved ? batch + 2 * n * width : NULL;
    status = spd_reader_next_resolved(batch, batch + n * width, resolution, count, feed->reader, error);
    if (status == SPD_STATUS_OK) status = backend->ops->upload(backend, (float *)feed->owned[FLUX] + from * width, batch, bytes, error);
    if (status == SPD_STATUS_OK)
      status = backend->ops->upload(backend, (float *)feed->owned[IVAR] + from * width, batch + n * width, bytes, error);
    if (status == SPD_STATUS_OK && resolved)
      status = backend->ops->upload(backend, (float *)feed->owned[RESOLUTION] + from * resolved, resolution,
                                    count * resolved * sizeof(float), error);
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
  const void *flux, *ivar, *z, *rows, *resolution = NULL;
  SPD_TRY(copy_of(&flux, feed, FLUX, source->flux, bytes, error));
  SPD_TRY(copy_of(&ivar, feed, IVAR, source->ivar, bytes, error));
  SPD_TRY(copy_of(&z, feed, REDSHIFT, source->z, source->n_rows * sizeof(float), error));
  SPD_TRY(copy_of(&rows, feed, ROWS, NULL, source->n_rows * sizeof(uint64_t), error));
  if (feed->resolved)
    SPD_TRY(copy_of(&resolution, feed, RESOLUTION, source->resolution, source->n_rows * feed->resolved * sizeof(float), error));
  feed->flux = flux, feed->ivar = ivar, feed->z = z, feed->resident_rows = rows, feed->resolution = resolution;
  return feed->reader ? upload_surveys(feed, error) : SPD_STATUS_OK;
}

/* Spectra that are decoded or converted, straight into a model in the host's memory: neither resident nor through lanes. */
static int is_direct(const struct spd_feed *feed) {
  return (feed->reader || feed->source.columns) && feed->backend->ops->shares_host_memory;
}

static size_t batch_bytes(const struct spd_feed *feed, size_t n) { return n * (2 * feed->width + 1 + feed->resolved) * sizeof(float); }

static spd_status prepare(struct spd_feed *feed, spd_feed_way way, struct spd_error *error) {
  const struct spd_backend_ops *ops = feed->backend->ops;
  const struct spd_source *source = &feed->source;
  if (source->surveys) SPD_TRY(spd_reader_create(&feed->reader, source->surveys, source->ahead, source->threads, error));
  if (source->columns) {
    feed->places = malloc(feed->batch_size * sizeof *feed->places);
    if (!feed->places) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the numbers of a batch's rows");
    way = SPD_FEED_STREAMED;
  }
  if (is_direct(feed)) return SPD_STATUS_OK;
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
  feed->flux = source->flux, feed->ivar = source->ivar, feed->z = source->z, feed->resolution = source->resolution;
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
  feed->resolved = spd_model_band_width(model);
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
  free(feed->places);
  free(feed);
}

/* Rows of a batch that begins at row `from` */
static size_t batch_at(const struct spd_feed *feed, size_t from, size_t batch) {
  const size_t left = feed->count - from;
  if (feed->ends && left > 0) return (size_t)(feed->ends[batch] - feed->base) - from;
  return left < feed->batch_size ? left : feed->batch_size;
}

/* Rows of a source in memory on their way to a lane */
struct gathering {
  float *flux, *ivar, *resolution;
  const struct spd_source *source;
  const uint64_t *rows;
  size_t n, width, resolved;
};

enum { GATHERED = 8 /* rows of a piece */ };

static void gather_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct gathering *g = context;
  const struct spd_source *source = g->source;
  for (size_t i = piece * GATHERED; i < (piece + 1) * GATHERED && i < g->n; i++) {
    memcpy(g->flux + i * g->width, source->flux + g->rows[i] * g->width, g->width * sizeof(float));
    memcpy(g->ivar + i * g->width, source->ivar + g->rows[i] * g->width, g->width * sizeof(float));
    if (g->resolved) memcpy(g->resolution + i * g->resolved, source->resolution + g->rows[i] * g->resolved, g->resolved * sizeof(float));
  }
}

/* n spectra of the queued rows from `from` on into the host's memory. The reader delivers them in their order only. */
static spd_status fetch(float *flux, float *ivar, float *z, float *resolution, struct spd_feed *feed, size_t from, size_t n,
                        struct spd_error *error) {
  const struct spd_source *source = &feed->source;
  const uint64_t *rows = feed->rows + from;
  const size_t width = feed->width, resolved = feed->resolved;
  for (size_t i = 0; i < n; i++) z[i] = source->z[rows[i]];
  if (feed->reader) return spd_reader_next_resolved(flux, ivar, resolved ? resolution : NULL, n, feed->reader, error);
  if (source->columns) {
    for (size_t i = 0; i < n; i++) feed->places[i] = source->places ? source->places[rows[i]] : rows[i];
    const struct spd_columns *columns = source->columns;
    spd_columns_take(flux, columns->flux, columns->n_rows, feed->places, n, width, source->threads);
    if (!source->without_ivar) spd_columns_take(ivar, columns->ivar, columns->n_rows, feed->places, n, width, source->threads);
    if (resolved) spd_columns_take(resolution, columns->resolution, columns->n_rows, feed->places, n, resolved, source->threads);
    return SPD_STATUS_OK;
  }
  const struct gathering gathering = {flux, ivar, resolution, source, rows, n, width, resolved};
  spd_parallel(source->threads, (n + GATHERED - 1) / GATHERED, gather_piece, &gathering);
  return SPD_STATUS_OK;
}

static spd_status fetch_into_model(struct spd_feed *feed, size_t n, size_t from, struct spd_error *error) {
  float *flux, *ivar, *z;
  SPD_TRY(spd_model_input(&flux, &ivar, &z, feed->model, n, error));
  feed->host_ivar = ivar;
  SPD_TRY(fetch(flux, ivar, z, spd_model_band_input(feed->model), feed, from, n, error));
  return spd_model_bands_are_there(feed->model, error);
}

/* Fills the lane of the batch that starts at row `sent` and sends it on its way. */
static spd_status send(struct spd_feed *feed, struct spd_error *error) {
  const struct spd_backend_ops *ops = feed->backend->ops;
  const size_t n = batch_at(feed, feed->sent, feed->sent_batches), width = feed->width;
  if (n == 0) return SPD_STATUS_OK;
  struct spd_lane *lane = &feed->lanes[feed->sent_batches++ % 2];
  SPD_TRY(ops->lane_fill(feed->backend, lane, error));
  float *flux = lane->host, *ivar = flux + n * width;
  SPD_TRY(fetch(flux, ivar, ivar + n * width, ivar + n * width + n, feed, feed->sent, n, error));
  feed->sent += n;
  return ops->lane_send(feed->backend, lane, batch_bytes(feed, n), error);
}

spd_status spd_feed_start(struct spd_feed *feed, const uint64_t *rows, size_t count, struct spd_error *error) {
  return spd_feed_start_cut(feed, rows, count, NULL, 0, error);
}

spd_status spd_feed_start_cut(struct spd_feed *feed, const uint64_t *rows, size_t count, const uint64_t *ends, uint64_t base,
                              struct spd_error *error) {
  feed->rows = rows;
  feed->count = count;
  feed->ends = ends, feed->base = base;
  feed->loaded = feed->sent = 0;
  feed->loaded_batches = feed->sent_batches = 0;
  if (feed->reader) SPD_TRY(spd_reader_start(feed->reader, rows, count, feed->source.places, error));
  if (is_direct(feed)) return SPD_STATUS_OK;
  if (!feed->resident) return send(feed, error);
  if (feed->backend->ops->shares_host_memory) {
    feed->resident_rows = rows;
    return SPD_STATUS_OK;
  }
  return feed->backend->ops->upload(feed->backend, feed->owned[ROWS], rows, count * sizeof *rows, error);
}

static spd_status load_resident(struct spd_feed *feed, size_t n, size_t from, struct spd_error *error) {
  float *flux, *ivar, *z;
  SPD_TRY(spd_model_load_rows(feed->model, feed->flux, feed->ivar, feed->z, feed->resident_rows + from, n, error));
  SPD_TRY(spd_model_load_band_rows(feed->model, feed->resolution, feed->resident_rows + from, error));
  if (!feed->backend->ops->shares_host_memory) return SPD_STATUS_OK;
  SPD_TRY(spd_model_input(&flux, &ivar, &z, feed->model, n, error));
  feed->host_ivar = ivar;
  return SPD_STATUS_OK;
}

spd_status spd_feed_load(size_t *n, struct spd_feed *feed, struct spd_error *error) {
  const size_t from = feed->loaded;
  const size_t batch = feed->loaded_batches;
  *n = batch_at(feed, from, batch);
  if (*n == 0) return SPD_STATUS_OK;
  feed->loaded += *n;
  feed->loaded_batches++;
  if (is_direct(feed)) return fetch_into_model(feed, *n, from, error);
  if (feed->resident) return load_resident(feed, *n, from, error);
  struct spd_lane *lane = &feed->lanes[batch % 2];
  feed->host_ivar = (const float *)lane->host + *n * feed->width;
  return spd_model_load_lane(feed->model, lane, *n, error);
}

spd_status spd_feed_ahead(struct spd_feed *feed, struct spd_error *error) {
  if (is_direct(feed) || feed->resident || feed->sent > feed->loaded) return SPD_STATUS_OK;
  return send(feed, error);
}

spd_status spd_feed_next(size_t *n, struct spd_feed *feed, struct spd_error *error) {
  SPD_TRY(spd_feed_load(n, feed, error));
  return spd_feed_ahead(feed, error); /* while the backend still works on the batch before */
}

const float *spd_feed_ivar(const struct spd_feed *feed) {
  return feed->source.columns && feed->source.without_ivar ? NULL : feed->host_ivar;
}
