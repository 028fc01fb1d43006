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
  READERS = 8,               /* threads that read, at most */
  RUN = 64,                  /* rows of one read, at most */
  RUN_BYTES = 1 << 19,       /* and bytes, so that they are still in a core's cache when their checksums are computed */
  NEAR_BYTES = 1 << 23 /* of a buffer of fewer rows than a window, at most: two stay in the cache that cores share until they are decoded */
};

struct want { /* a row of the surveys and its position in the buffer */
  uint64_t place;
  size_t position;
};

struct row { /* of a buffer: its slot in `raw`, its file, its number there */
  size_t slot, file;
  uint64_t number; /* in its file */
  int sound;       /* it was read and its checksum fits */
};

struct run { /* wants[from ... from + n - 1], which may repeat: consecutive rows of one file, read at once into the slots from `slot` on */
  size_t from, n, file, slot;
};

/* Planned by one thread, read by all, emptied by the consumer */
struct buffer {
  enum { EMPTY, READING, FULL } state;
  unsigned char *raw; /* (capacity, stride): rows as they are in the files, in the order of the files */
  struct row *rows;   /* (capacity), in the requested order */
  struct want *wants; /* (capacity), in the order of the files */
  struct run *runs;   /* (capacity) */
  size_t count, taken;
  size_t n_runs, begun, done; /* runs that a thread has begun, and those that are done */
  spd_status status;
  struct spd_error error;
};

/* The threads read and verify checksums, run by run. Decoding is left to the consumer's threads, which know where spectra go. */
struct spd_reader {
  const struct spd_surveys *surveys;
  int threads;                    /* that read, and that decode */
  size_t width, capacity, stride; /* M; rows of a buffer; bytes of a row */
  size_t resolution;              /* floats of a spectrum's, 0 unless all files have it in one shape */
  struct buffer buffers[2];
  const uint64_t *rows, *places;
  size_t count, begun;        /* of the rows: how many belong to a buffer that was planned */
  size_t planned, given;      /* buffers that were planned, and that the consumer has emptied */
  size_t taken;               /* rows that the consumer has */
  int planning;               /* one of the threads plans */
  pthread_t readers[READERS]; /* the first `running` */
  pid_t process;              /* that they run in */
  int running, stop;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
};

static int by_place(const void *a, const void *b) {
  const struct want *x = a, *y = b;
  return x->place < y->place ? -1 : x->place > y->place;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

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

/* Number of the sorted wants[0 ... n - 1] that are a run of a file that ends before `end_of_file` */
static size_t run_length(const struct want *wants, size_t n, uint64_t end_of_file, size_t most) {
  const uint64_t first = wants[0].place;
  size_t i = 1;
  while (i < n && wants[i].place < end_of_file && wants[i].place - first < most && wants[i].place - wants[i - 1].place <= 1) i++;
  return i;
}

/* The runs of the next n rows */
static void plan(struct buffer *buffer, const struct spd_reader *r, size_t n) {
  struct want *wants = buffer->wants;
  const size_t most = smaller(RUN, RUN_BYTES / r->stride + 1);
  size_t file = 0, slot = 0;
  for (size_t i = 0; i < n; i++) wants[i] = (struct want){place_of(r, r->begun + i), i};
  qsort(wants, n, sizeof *wants, by_place);
  buffer->n_runs = 0;
  for (size_t from = 0, run; from < n; from += run) {
    while (file + 1 < r->surveys->n_files && wants[from].place >= r->surveys->first[file + 1]) file++;
    run = run_length(wants + from, n - from, r->surveys->first[file + 1], most);
    buffer->runs[buffer->n_runs++] = (struct run){from, run, file, slot};
    slot += (size_t)(wants[from + run - 1].place - wants[from].place) + 1;
  }
  buffer->count = n;
  buffer->taken = buffer->begun = buffer->done = 0;
  buffer->status = SPD_STATUS_OK;
}

/* Row by row where they cannot be read at once: a file may end in the middle of a run. */
static void read_run(struct buffer *buffer, const struct spd_reader *r, const struct run *run) {
  const struct spd_survey *survey = &r->surveys->files[run->file];
  const struct want *wants = buffer->wants + run->from;
  const uint64_t first = wants[0].place, number = first - r->surveys->first[run->file];
  unsigned char *raw = buffer->raw + run->slot * r->stride;
  const size_t count = (size_t)(wants[run->n - 1].place - first) + 1;
  const int at_once = survey->row_bytes == r->stride && spd_survey_read_raw(raw, survey, number, count, NULL) == SPD_STATUS_OK;
  int sound = 0;
  for (size_t i = 0; i < run->n; i++) {
    const size_t next = (size_t)(wants[i].place - first);
    unsigned char *row = raw + next * r->stride;
    if (i == 0 || wants[i].place != wants[i - 1].place)
      sound = (at_once || spd_survey_read_raw(row, survey, number + next, 1, NULL) == SPD_STATUS_OK) && spd_survey_is_sound(row, survey);
    buffer->rows[wants[i].position] = (struct row){run->slot + next, run->file, number + next, sound};
  }
}

/* With the mutex, which is not held meanwhile. The rows that it plans are begun when the others may read them. */
static void plan_next(struct spd_reader *r) {
  struct buffer *buffer = &r->buffers[r->planned % 2];
  r->planning = 1;
  pthread_mutex_unlock(&r->mutex);
  const size_t n = extent(r);
  plan(buffer, r, n);
  pthread_mutex_lock(&r->mutex);
  r->begun += n;
  r->planned++;
  r->planning = 0;
  buffer->state = READING;
  pthread_cond_broadcast(&r->changed);
}

/* The same for the next run of the buffer that was planned last. */
static void read_next(struct buffer *buffer, struct spd_reader *r) {
  const struct run *run = &buffer->runs[buffer->begun++];
  pthread_mutex_unlock(&r->mutex);
  read_run(buffer, r, run);
  pthread_mutex_lock(&r->mutex);
  if (++buffer->done < buffer->n_runs) return;
  buffer->state = FULL;
  pthread_cond_broadcast(&r->changed);
}

static void *read_ahead(void *argument) {
  struct spd_reader *r = argument;
  pthread_mutex_lock(&r->mutex);
  while (!r->stop) {
    struct buffer *last = r->planned > 0 ? &r->buffers[(r->planned - 1) % 2] : NULL;
    if (last && last->state == READING && last->begun < last->n_runs)
      read_next(last, r);
    else if (r->begun == r->count)
      break;
    else if (!r->planning && r->buffers[r->planned % 2].state == EMPTY)
      plan_next(r);
    else
      pthread_cond_wait(&r->changed, &r->mutex);
  }
  pthread_mutex_unlock(&r->mutex);
  return NULL;
}

/* The threads were started before a fork() and do not exist here; one may have held the mutex. */
static int left_behind(const struct spd_reader *r) { return r->running && r->process != getpid(); }

static void stop_threads(struct spd_reader *r) {
  if (!r->running) return;
  pthread_mutex_lock(&r->mutex);
  r->stop = 1;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->mutex);
  while (r->running > 0) pthread_join(r->readers[--r->running], NULL);
  r->stop = 0;
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
  r->stride = most_row_bytes(surveys);
  r->capacity = (size_t)BLOCK * BLOCKS;
  if (ahead > 0) r->capacity = smaller(r->capacity, smaller(ahead, NEAR_BYTES / r->stride + 1));
  if (n_rows < r->capacity) r->capacity = (size_t)n_rows;
  pthread_mutex_init(&r->mutex, NULL);
  pthread_cond_init(&r->changed, NULL);
  int complete = 1;
  for (int b = 0; b < 2; b++) {
    struct buffer *buffer = &r->buffers[b];
    buffer->raw = malloc(r->capacity * r->stride + 1);
    buffer->rows = malloc((r->capacity + 1) * sizeof *buffer->rows);
    buffer->wants = malloc((r->capacity + 1) * sizeof *buffer->wants);
    buffer->runs = malloc((r->capacity + 1) * sizeof *buffer->runs);
    complete = complete && buffer->raw && buffer->rows && buffer->wants && buffer->runs;
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
  if (!left_behind(r)) { /* these would wait for the threads */
    stop_threads(r);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
  }
  for (int b = 0; b < 2; b++) {
    free(r->buffers[b].raw);
    free(r->buffers[b].rows);
    free(r->buffers[b].wants);
    free(r->buffers[b].runs);
  }
  free(r);
}

static spd_status refuse_left_behind(const struct spd_reader *r, struct spd_error *error) {
  if (!left_behind(r)) return SPD_STATUS_OK;
  return spd_fail(error, SPD_STATUS_UNSUPPORTED, "surveys that a process reads cannot be read on in a fork of it (mclapply): start anew");
}

spd_status spd_reader_start(struct spd_reader *r, const uint64_t *rows, size_t count, const uint64_t *places, struct spd_error *error) {
  SPD_TRY(refuse_left_behind(r, error));
  stop_threads(r);
  for (int b = 0; b < 2; b++) r->buffers[b].state = EMPTY;
  r->rows = rows;
  r->places = places;
  r->count = count;
  r->begun = r->planned = r->given = r->taken = 0;
  const int wanted = r->threads < 1 ? 1 : r->threads < READERS ? r->threads : READERS;
  r->process = getpid();
  while (r->running < wanted && spd_thread_start(&r->readers[r->running], read_ahead, r)) r->running++; /* fewer do, too */
  if (r->running == 0) {
    r->count = 0;
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not start a thread that reads surveys");
  }
  return SPD_STATUS_OK;
}

struct decoding {
  float *flux, *ivar, *resolution;
  size_t n;
  const struct buffer *buffer;
  const struct spd_reader *r;
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
    spd_survey_get_spectrum(d->flux + i * r->width, d->ivar + i * r->width, raw, survey);
    if (d->resolution) spd_survey_get_resolution(d->resolution + i * r->resolution, raw, survey);
  }
}

/* Decodes the next n rows of the buffer. One that was not read, or whose checksum does not fit, is read again, for its error. */
static spd_status decode(float *flux, float *ivar, float *resolution, size_t n, const struct buffer *buffer, const struct spd_reader *r,
                         struct spd_error *error) {
  const struct decoding decoding = {flux, ivar, resolution, n, buffer, r};
  for (size_t i = 0; i < n; i++) {
    const struct row *row = &buffer->rows[buffer->taken + i];
    if (!row->sound) SPD_TRY(spd_survey_read(buffer->raw + row->slot * r->stride, &r->surveys->files[row->file], row->number, 1, error));
  }
  spd_parallel(r->threads, (n + DECODED - 1) / DECODED, decode_piece, &decoding);
  return SPD_STATUS_OK;
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
    while (buffer->state != FULL) pthread_cond_wait(&r->changed, &r->mutex);
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
    buffer->state = EMPTY;
    r->given++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
  }
  return SPD_STATUS_OK;
}
