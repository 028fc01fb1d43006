#include "data/reader.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/threads.h"
#include "data/order.h"

enum {
  BLOCK = SPD_ORDER_BLOCK,
  BLOCKS = SPD_ORDER_WINDOW, /* of a buffer */
  RUN = 64                   /* rows of one read, at most */
};

struct want { /* a row of the surveys and its position in the buffer */
  uint64_t place;
  size_t position;
};

struct row { /* of a buffer: its slot in `raw`, its file, its number there */
  size_t slot, file;
  uint64_t number; /* in its file */
};

struct buffer {
  unsigned char *raw; /* (capacity, stride): rows as they are in the files, in the order of the files */
  struct row *rows;   /* (capacity), in the requested order */
  size_t count, taken;
  int full;
  spd_status status;
  struct spd_error error;
};

/* The thread only reads. Checksums and decoding are left to the consumer's threads, so that on few cores it takes little time from them. */
struct spd_reader {
  const struct spd_surveys *surveys;
  int threads;                    /* that decode */
  size_t width, capacity, stride; /* M; rows of a buffer; bytes of a row */
  size_t resolution;              /* floats of a spectrum's, 0 unless all files have it in one shape */
  struct buffer buffers[2];
  struct want *wants; /* (capacity) */
  const uint64_t *rows, *places;
  size_t count, begun; /* of the rows: how many belong to a buffer that was begun */
  size_t given, taken; /* buffers that the consumer has emptied, rows that it has */
  pthread_t thread;
  pid_t process; /* that the thread runs in */
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

static size_t shared_resolution(const struct spd_surveys *surveys) {
  const struct spd_survey *first = surveys->files;
  for (size_t f = 0; f < surveys->n_files; f++) {
    const struct spd_survey *s = &surveys->files[f];
    if (s->resolution_column < 0 || strcmp(s->columns[s->resolution_column].name, first->columns[first->resolution_column].name) != 0)
      return 0;
  }
  return first->columns[first->resolution_column].repeat;
}

static uint64_t place_of(const struct spd_reader *r, size_t i) { return r->places ? r->places[r->rows[i]] : r->rows[i]; }

/* Number of rows, from `begun` on, for one buffer: as long as they belong to no more blocks than a window has, so that no block is read for
 * two buffers. */
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

static int stopped(struct spd_reader *r) {
  pthread_mutex_lock(&r->mutex);
  const int stop = r->stop;
  pthread_mutex_unlock(&r->mutex);
  return stop;
}

/* Number of the sorted wants[0 ... n - 1], which may repeat, that are consecutive rows of one file and can be read at once */
static size_t run_length(const struct want *wants, size_t n, uint64_t end_of_file) {
  const uint64_t first = wants[0].place;
  size_t i = 1;
  while (i < n && wants[i].place < end_of_file && wants[i].place - first < RUN && wants[i].place - wants[i - 1].place <= 1) i++;
  return i;
}

/* Reads n such rows of file `file` into the slots from `slot` on. */
static spd_status read_run(struct buffer *buffer, struct spd_reader *r, const struct want *wants, size_t n, size_t file, size_t slot,
                           struct spd_error *error) {
  const struct spd_survey *survey = &r->surveys->files[file];
  const uint64_t first = wants[0].place, number = first - r->surveys->first[file];
  const size_t count = (size_t)(wants[n - 1].place - first) + 1;
  for (size_t i = 0; i < n; i++) {
    const size_t next = (size_t)(wants[i].place - first);
    buffer->rows[wants[i].position] = (struct row){slot + next, file, number + next};
  }
  if (survey->row_bytes == r->stride) return spd_survey_read_raw(buffer->raw + slot * r->stride, survey, number, count, error);
  for (size_t k = 0; k < count; k++) SPD_TRY(spd_survey_read_raw(buffer->raw + (slot + k) * r->stride, survey, number + k, 1, error));
  return SPD_STATUS_OK;
}

static spd_status fill(struct buffer *buffer, struct spd_reader *r, size_t n, struct spd_error *error) {
  const struct want *wants = r->wants;
  size_t file = 0, slot = 0;
  for (size_t i = 0; i < n; i++) r->wants[i] = (struct want){place_of(r, r->begun + i), i};
  qsort(r->wants, n, sizeof *wants, by_place);
  for (size_t from = 0, run; from < n && !stopped(r); from += run) {
    while (file + 1 < r->surveys->n_files && wants[from].place >= r->surveys->first[file + 1]) file++;
    run = run_length(wants + from, n - from, r->surveys->first[file + 1]);
    SPD_TRY(read_run(buffer, r, wants + from, run, file, slot, error));
    slot += (size_t)(wants[from + run - 1].place - wants[from].place) + 1;
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

/* The thread was started before a fork() and does not exist here; it may have held the mutex. */
static int left_behind(const struct spd_reader *r) { return r->running && r->process != getpid(); }

static void stop_thread(struct spd_reader *r) {
  if (!r->running) return;
  pthread_mutex_lock(&r->mutex);
  r->stop = 1;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->mutex);
  pthread_join(r->thread, NULL);
  r->running = r->stop = 0;
}

spd_status spd_reader_create(struct spd_reader **out, const struct spd_surveys *surveys, size_t ahead, int threads,
                             struct spd_error *error) {
  *out = NULL;
  struct spd_reader *r = calloc(1, sizeof *r);
  if (!r) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the reader of surveys");
  const uint64_t n_rows = surveys->first[surveys->n_files];
  r->surveys = surveys;
  r->threads = threads;
  r->width = surveys->files[0].n_observed;
  r->resolution = shared_resolution(surveys);
  r->capacity = ahead > 0 && ahead < (size_t)BLOCK * BLOCKS ? ahead : (size_t)BLOCK * BLOCKS;
  if (n_rows < r->capacity) r->capacity = (size_t)n_rows;
  pthread_mutex_init(&r->mutex, NULL);
  pthread_cond_init(&r->changed, NULL);
  r->stride = most_row_bytes(surveys);
  r->wants = malloc((r->capacity + 1) * sizeof *r->wants);
  int complete = r->wants != NULL;
  for (int b = 0; b < 2; b++) {
    r->buffers[b].raw = malloc(r->capacity * r->stride + 1);
    r->buffers[b].rows = malloc((r->capacity + 1) * sizeof *r->buffers[b].rows);
    complete = complete && r->buffers[b].raw && r->buffers[b].rows;
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
  if (!left_behind(r)) { /* these would wait for the thread */
    stop_thread(r);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
  }
  for (int b = 0; b < 2; b++) {
    free(r->buffers[b].raw);
    free(r->buffers[b].rows);
  }
  free(r->wants);
  free(r);
}

static spd_status refuse_left_behind(const struct spd_reader *r, struct spd_error *error) {
  if (!left_behind(r)) return SPD_STATUS_OK;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "surveys that a process reads cannot be read on in a fork of it (mclapply): start anew");
}

spd_status spd_reader_start(struct spd_reader *r, const uint64_t *rows, size_t count, const uint64_t *places, struct spd_error *error) {
  SPD_TRY(refuse_left_behind(r, error));
  stop_thread(r);
  for (int b = 0; b < 2; b++) r->buffers[b].full = 0;
  r->rows = rows;
  r->places = places;
  r->count = count;
  r->begun = r->given = r->taken = 0;
  r->running = spd_thread_start(&r->thread, read_ahead, r);
  if (!r->running) {
    r->count = 0;
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not start the thread that reads surveys");
  }
  r->process = getpid();
  return SPD_STATUS_OK;
}

struct decoding {
  float *flux, *ivar, *resolution;
  size_t n;
  const struct buffer *buffer;
  const struct spd_reader *r;
  size_t *damaged; /* the first row that is, or n */
};

enum { DECODED = 4 /* rows of a piece */ };

static void decode_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct decoding *d = context;
  const struct spd_reader *r = d->r;
  for (size_t i = piece * DECODED; i < (piece + 1) * DECODED && i < d->n; i++) {
    const struct row *row = &d->buffer->rows[d->buffer->taken + i];
    const unsigned char *raw = d->buffer->raw + row->slot * r->stride;
    const struct spd_survey *survey = &r->surveys->files[row->file];
    if (spd_survey_is_sound(raw, survey)) {
      spd_survey_get_spectrum(d->flux + i * r->width, d->ivar + i * r->width, raw, survey);
      if (d->resolution) spd_survey_get_resolution(d->resolution + i * r->resolution, raw, survey);
      continue;
    }
    size_t first = __atomic_load_n(d->damaged, __ATOMIC_RELAXED);
    while (i < first && !__atomic_compare_exchange_n(d->damaged, &first, i, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
  }
}

/* Decodes the next n rows of the buffer. */
static spd_status decode(float *flux, float *ivar, float *resolution, size_t n, const struct buffer *buffer, const struct spd_reader *r,
                         struct spd_error *error) {
  size_t damaged = n;
  const struct decoding decoding = {flux, ivar, resolution, n, buffer, r, &damaged};
  spd_parallel(r->threads, (n + DECODED - 1) / DECODED, decode_piece, &decoding);
  if (damaged == n) return SPD_STATUS_OK;
  const struct row *row = &buffer->rows[buffer->taken + damaged];
  return spd_survey_damaged(&r->surveys->files[row->file], row->number, error);
}

spd_status spd_reader_next(float *flux, float *ivar, size_t n, struct spd_reader *r, struct spd_error *error) {
  return spd_reader_next_resolved(flux, ivar, NULL, n, r, error);
}

spd_status spd_reader_next_resolved(float *flux, float *ivar, float *resolution, size_t n, struct spd_reader *r, struct spd_error *error) {
  SPD_TRY(refuse_left_behind(r, error));
  if (resolution && !r->resolution) return spd_fail(error, SPD_STATUS_FORMAT, "the surveys do not have resolutions of one shape");
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
    buffer->status =
        decode(flux, ivar, resolution, take, buffer, r, &buffer->error); /* permanent: the rows that follow would be other ones */
    if (buffer->status != SPD_STATUS_OK) continue;
    flux += take * r->width, ivar += take * r->width, n -= take;
    if (resolution) resolution += take * r->resolution;
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
