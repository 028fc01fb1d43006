#include "core/reader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
  BLOCK = 512, /* rows; that of spd_order_fill() */
  BLOCKS = 16, /* of a buffer */
  RUN = 32,    /* rows that one read brings */
  GAP = 4      /* rows that are read in vain rather than beginning a new run */
};

struct want { /* a row of the surveys, and where it stands in the buffer */
  uint64_t place;
  size_t position;
};

struct buffer {
  float *flux, *ivar; /* (capacity, M) */
  size_t count, taken;
  int full;
  spd_status status;
  struct spd_error error;
};

struct spd_reader {
  const struct spd_surveys *surveys;
  size_t width, capacity; /* M; rows of a buffer */
  struct buffer buffers[2];
  unsigned char *raw; /* (RUN, row bytes) */
  struct want *wants; /* (capacity) */
  const uint64_t *rows, *places;
  size_t count, begun; /* of the rows: how many belong to a buffer that was begun */
  size_t given, taken; /* buffers that the consumer has emptied, rows that it has */
  pthread_t thread;
  int running, stop;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
};

static int by_place(const void *a, const void *b) {
  const struct want *x = a, *y = b;
  return x->place < y->place ? -1 : x->place > y->place;
}

static size_t most_row_bytes(const struct spd_surveys *surveys) {
  size_t most = 1;
  for (size_t f = 0; f < surveys->n_files; f++)
    if (surveys->files[f].row_bytes > most) most = surveys->files[f].row_bytes;
  return most;
}

static uint64_t place_of(const struct spd_reader *r, size_t i) { return r->places ? r->places[r->rows[i]] : r->rows[i]; }

/* Rows `begun` ... of one buffer: as far as they lie in 16 blocks, so that no block is read for two buffers. */
static size_t extent(const struct spd_reader *r) {
  uint64_t blocks[BLOCKS];
  size_t n_blocks = 0, i = r->begun;
  for (; i < r->count && i - r->begun < r->capacity; i++) {
    const uint64_t block = r->rows[i] / BLOCK;
    size_t b = 0;
    while (b < n_blocks && blocks[b] != block) b++;
    if (b < n_blocks) continue;
    if (n_blocks == BLOCKS) break;
    blocks[n_blocks++] = block;
  }
  return i - r->begun;
}

/* wants[0 ... n - 1], which lie close together in one file */
static spd_status read_run(struct buffer *buffer, struct spd_reader *r, const struct want *wants, size_t n, size_t file,
                           struct spd_error *error) {
  const struct spd_survey *survey = &r->surveys->files[file];
  const uint64_t first = wants[0].place - r->surveys->first[file];
  SPD_TRY(spd_survey_read(r->raw, survey, first, (size_t)(wants[n - 1].place - wants[0].place) + 1, error));
  for (size_t i = 0; i < n; i++) {
    const size_t to = wants[i].position * r->width;
    spd_survey_get_spectrum(buffer->flux + to, buffer->ivar + to,
                            r->raw + (wants[i].place - wants[0].place) * survey->row_bytes, survey);
  }
  return SPD_STATUS_OK;
}

static int stopped(struct spd_reader *r) {
  pthread_mutex_lock(&r->mutex);
  const int stop = r->stop;
  pthread_mutex_unlock(&r->mutex);
  return stop;
}

static spd_status fill(struct buffer *buffer, struct spd_reader *r, size_t n, struct spd_error *error) {
  size_t file = 0;
  for (size_t i = 0; i < n; i++) r->wants[i] = (struct want){place_of(r, r->begun + i), i};
  qsort(r->wants, n, sizeof *r->wants, by_place);
  for (size_t from = 0, to; from < n && !stopped(r); from = to) {
    const uint64_t first = r->wants[from].place;
    while (file + 1 < r->surveys->n_files && first >= r->surveys->first[file + 1]) file++;
    const uint64_t end = r->surveys->first[file + 1];
    for (to = from + 1; to < n; to++) {
      const uint64_t place = r->wants[to].place;
      if (place >= end || place - r->wants[to - 1].place > GAP || place - first >= RUN) break;
    }
    SPD_TRY(read_run(buffer, r, r->wants + from, to - from, file, error));
  }
  return SPD_STATUS_OK;
}

static void *read_ahead(void *argument) {
  struct spd_reader *r = argument;
  for (size_t k = 0; r->begun < r->count; k++) {
    struct buffer *buffer = &r->buffers[k % 2];
    pthread_mutex_lock(&r->mutex);
    while (buffer->full && !r->stop) pthread_cond_wait(&r->changed, &r->mutex);
    const int stop = r->stop;
    pthread_mutex_unlock(&r->mutex);
    if (stop) break;
    const size_t n = extent(r);
    const spd_status status = fill(buffer, r, n, &buffer->error);
    pthread_mutex_lock(&r->mutex);
    buffer->status = status;
    buffer->count = n;
    buffer->taken = 0;
    buffer->full = 1;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    r->begun += n;
    if (status != SPD_STATUS_OK) break;
  }
  return NULL;
}

static void stop_thread(struct spd_reader *r) {
  if (!r->running) return;
  pthread_mutex_lock(&r->mutex);
  r->stop = 1;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->mutex);
  pthread_join(r->thread, NULL);
  r->running = r->stop = 0;
}

spd_status spd_reader_create(struct spd_reader **out, const struct spd_surveys *surveys, struct spd_error *error) {
  *out = NULL;
  struct spd_reader *r = calloc(1, sizeof *r);
  if (!r) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the reader of surveys");
  const uint64_t n_rows = surveys->first[surveys->n_files];
  r->surveys = surveys;
  r->width = surveys->files[0].n_observed;
  r->capacity = n_rows < BLOCK * BLOCKS ? (size_t)n_rows : (size_t)BLOCK * BLOCKS;
  pthread_mutex_init(&r->mutex, NULL);
  pthread_cond_init(&r->changed, NULL);
  r->raw = malloc(RUN * most_row_bytes(surveys));
  r->wants = malloc((r->capacity + 1) * sizeof *r->wants);
  int complete = r->raw && r->wants;
  for (int b = 0; b < 2; b++) {
    r->buffers[b].flux = malloc((r->capacity * r->width + 1) * sizeof(float));
    r->buffers[b].ivar = malloc((r->capacity * r->width + 1) * sizeof(float));
    complete = complete && r->buffers[b].flux && r->buffers[b].ivar;
  }
  if (!complete) {
    spd_reader_destroy(r);
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the buffers of the reader of surveys");
  }
  *out = r;
  return SPD_STATUS_OK;
}

void spd_reader_destroy(struct spd_reader *r) {
  if (!r) return;
  stop_thread(r);
  for (int b = 0; b < 2; b++) {
    free(r->buffers[b].flux);
    free(r->buffers[b].ivar);
  }
  free(r->raw);
  free(r->wants);
  pthread_cond_destroy(&r->changed);
  pthread_mutex_destroy(&r->mutex);
  free(r);
}

spd_status spd_reader_start(struct spd_reader *r, const uint64_t *rows, size_t count, const uint64_t *places,
                            struct spd_error *error) {
  stop_thread(r);
  for (int b = 0; b < 2; b++) r->buffers[b].full = 0;
  r->rows = rows;
  r->places = places;
  r->count = count;
  r->begun = r->given = r->taken = 0;
  const int failed = pthread_create(&r->thread, NULL, read_ahead, r);
  if (failed)
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not start the thread that reads surveys (%s)", strerror(failed));
  r->running = 1;
  return SPD_STATUS_OK;
}

spd_status spd_reader_next(float *flux, float *ivar, size_t n, struct spd_reader *r, struct spd_error *error) {
  if (n > r->count - r->taken) return spd_fail(error, SPD_STATUS_INVALID, "there are no more spectra to read");
  r->taken += n;
  while (n > 0) {
    struct buffer *buffer = &r->buffers[r->given % 2];
    pthread_mutex_lock(&r->mutex);
    while (!buffer->full) pthread_cond_wait(&r->changed, &r->mutex);
    pthread_mutex_unlock(&r->mutex);
    if (buffer->status != SPD_STATUS_OK) {
      if (error) *error = buffer->error;
      return buffer->status;
    }
    const size_t left = buffer->count - buffer->taken, take = n < left ? n : left;
    memcpy(flux, buffer->flux + buffer->taken * r->width, take * r->width * sizeof *flux);
    memcpy(ivar, buffer->ivar + buffer->taken * r->width, take * r->width * sizeof *ivar);
    flux += take * r->width, ivar += take * r->width, n -= take;
    buffer->taken += take;
    if (buffer->taken < buffer->count) continue;
    pthread_mutex_lock(&r->mutex);
    buffer->full = 0;
    r->given++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
  }
  return SPD_STATUS_OK;
}
