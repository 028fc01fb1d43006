#include "data/writer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/threads.h"

enum { BUFFERS = 4 }; /* one is begun, one is made, one is written, and one waits where they differ in pace */

struct spd_writer {
  struct spd_survey *survey;
  size_t chunk;
  unsigned char *rows[BUFFERS]; /* (chunk, row_bytes) */
  size_t counts[BUFFERS];
  int written_before[BUFFERS]; /* rows that are in the file, but not appended */
  size_t given, put, written;  /* chunks */
  spd_status status;
  struct spd_error error;
  int stop, running;
  pthread_t thread;
  pid_t process; /* that the thread runs in */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
};

/* The thread was started before a fork() and does not exist here; the file is the parent's to write. */
static int left_behind(const struct spd_writer *w) { return w->running && w->process != getpid(); }

/* After a failure chunks are dropped: a file has its first rows, without gaps. */
static void *write_behind(void *argument) {
  struct spd_writer *w = argument;
  pthread_mutex_lock(&w->mutex);
  for (;;) {
    while (w->written == w->put && !w->stop) pthread_cond_wait(&w->changed, &w->mutex);
    if (w->written == w->put) break;
    const size_t b = w->written % BUFFERS;
    spd_status status = w->status;
    struct spd_error error = {""};
    pthread_mutex_unlock(&w->mutex);
    const int dropped = status != SPD_STATUS_OK;
    if (!dropped)
      status = w->written_before[b] ? spd_survey_append_written(w->survey, w->rows[b], w->counts[b], &error)
                                    : spd_survey_append(w->survey, w->rows[b], w->counts[b], &error);
    pthread_mutex_lock(&w->mutex);
    if (!dropped && status != SPD_STATUS_OK) w->status = status, w->error = error;
    w->written++;
    pthread_cond_broadcast(&w->changed);
  }
  pthread_mutex_unlock(&w->mutex);
  return NULL;
}

spd_status spd_writer_create(struct spd_writer **out, struct spd_survey *survey, size_t chunk, struct spd_error *error) {
  *out = NULL;
  struct spd_writer *w = calloc(1, sizeof *w);
  if (!w) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the writer of %.200s", survey->file_name);
  w->survey = survey;
  w->chunk = chunk;
  pthread_mutex_init(&w->mutex, NULL);
  pthread_cond_init(&w->changed, NULL);
  int complete = 1;
  for (int b = 0; b < BUFFERS; b++) {
    w->rows[b] = malloc(chunk * survey->row_bytes + 1);
    complete = complete && w->rows[b];
  }
  w->process = getpid();
  w->running = complete && spd_thread_start(&w->thread, write_behind, w);
  if (!w->running) {
    spd_writer_destroy(w);
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for the writer of %.200s", survey->file_name);
  }
  *out = w;
  return SPD_STATUS_OK;
}

void spd_writer_destroy(struct spd_writer *w) {
  if (!w) return;
  if (!left_behind(w)) {
    pthread_mutex_lock(&w->mutex);
    w->stop = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
    if (w->running) pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
  }
  for (int b = 0; b < BUFFERS; b++) free(w->rows[b]);
  free(w);
}

/* Until no more than `behind` of the chunks that were given, or put, are to be written, or writing has failed */
static spd_status wait_for(struct spd_writer *w, const size_t *chunks, size_t behind, struct spd_error *error) {
  if (left_behind(w)) return spd_fail(error, SPD_STATUS_UNSUPPORTED, "a file that a process writes cannot be written on in a fork of it");
  pthread_mutex_lock(&w->mutex);
  while (*chunks - w->written > behind && w->status == SPD_STATUS_OK) pthread_cond_wait(&w->changed, &w->mutex);
  const spd_status status = w->status;
  if (status != SPD_STATUS_OK && error) *error = w->error;
  pthread_mutex_unlock(&w->mutex);
  return status;
}

spd_status spd_writer_next(unsigned char **rows, struct spd_writer *w, struct spd_error *error) {
  SPD_TRY(wait_for(w, &w->given, BUFFERS - 1, error));
  *rows = w->rows[w->given++ % BUFFERS];
  memset(*rows, 0, w->chunk * w->survey->row_bytes);
  return SPD_STATUS_OK;
}

static void put(struct spd_writer *w, size_t count, int written_before) {
  if (left_behind(w)) return;
  pthread_mutex_lock(&w->mutex);
  w->written_before[w->put % BUFFERS] = written_before;
  w->counts[w->put++ % BUFFERS] = count;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->mutex);
}

void spd_writer_put(struct spd_writer *w, size_t count) { put(w, count, 0); }
void spd_writer_put_written(struct spd_writer *w, size_t count) { put(w, count, 1); }

spd_status spd_writer_wait(struct spd_writer *w, struct spd_error *error) { return wait_for(w, &w->put, 0, error); }
