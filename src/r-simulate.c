/* .Call entries of simulated spectra. Those of a file are made chunk by chunk on a thread of their own, while R draws the parameters of the
 * next ones. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/rng.h"
#include "core/threads.h"
#include "data/simulate.h"
#include "r-entries.h"
#include "r-session.h"
#include "r-spectra.h"

/* (n, k): row i is that of number first + i in a sample of any size with this seed. */
SEXP ffi_uniforms(SEXP seed, SEXP first, SEXP n, SEXP k) {
  const R_xlen_t rows = (R_xlen_t)r_whole(n, "n", 0, INT_MAX), columns = (R_xlen_t)r_whole(k, "k", 0, INT_MAX);
  const double start = r_whole(first, "first", 0, 1e15), from = r_whole(seed, "seed", -R_MOST_SEED, R_MOST_SEED);
  SEXP out = PROTECT(Rf_allocMatrix(REALSXP, (int)rows, (int)columns));
  const uint64_t stream = 0x6761; /* none of the streams of data/simulate.c */
  for (R_xlen_t i = 0; i < rows; i++) {
    struct spd_random random = spd_random_start((uint64_t)(int64_t)from, stream, (uint64_t)(start + (double)i));
    for (R_xlen_t j = 0; j < columns; j++) REAL(out)[j * rows + i] = spd_random_uniform(&random);
  }
  UNPROTECT(1);
  return out;
}

static size_t length_of(SEXP list, const char *name) { return (size_t)Rf_xlength(r_list_get(list, name)); }

/* shared: a list whose names are the fields of spd_simulation, components and lines with a column each; R/simulate.R makes it.
 */
static struct spd_simulation simulation_from(SEXP shared) {
  const SEXP components = r_list_get(shared, "components");
  const size_t n_rest = length_of(shared, "extinction"), size = (size_t)Rf_xlength(components);
  const size_t n_observed = length_of(shared, "wave"), n_lines = length_of(shared, "line_wave"), n_lsf = length_of(shared, "lsf");
  if (!Rf_isMatrix(components) || n_rest < 2 || n_observed < 2 || n_lsf % 2 == 0) Rf_error("internal: this is no simulation");
  r_check_matrix(components, "components", n_rest, (size_t)Rf_ncols(components));
  const double *extinction = r_list_numbers(shared, "extinction", n_rest);
  float *narrow = (float *)R_alloc(size + n_rest, sizeof(float));
  for (size_t i = 0; i < size; i++) narrow[i] = (float)REAL_RO(components)[i];
  for (size_t i = 0; i < n_rest; i++) narrow[size + i] = (float)extinction[i];
  return (struct spd_simulation){
      .n_rest = n_rest,
      .log_first = r_list_real(shared, "log_first"),
      .step = r_list_real(shared, "step"),
      .wave_rest = r_list_numbers(shared, "wave_rest", n_rest),
      .n_components = (size_t)Rf_ncols(components),
      .components = narrow,
      .extinction = narrow + size,
      .n_lines = n_lines,
      .line_wave = r_list_numbers(shared, "line_wave", n_lines),
      .n_observed = n_observed,
      .wave = r_list_numbers(shared, "wave", n_observed),
      .integrate = r_list_flag(shared, "integrate"),
      .log_wave = r_list_numbers(shared, "log_wave", n_observed + n_lsf - 1 + (size_t)r_list_flag(shared, "integrate")),
      .n_lsf = n_lsf,
      .lsf = r_list_numbers(shared, "lsf", n_lsf),
      .deviation = r_list_get(shared, "deviation") == R_NilValue ? NULL : r_list_numbers(shared, "deviation", n_observed),
      .sky = r_list_numbers(shared, "sky", n_observed),
      .sky_lines = r_list_numbers(shared, "sky_lines", n_observed),
      .photons = r_list_numbers(shared, "photons", n_observed),
      .noise = r_list_flag(shared, "noise"),
      .defects = r_list_flag(shared, "defects"),
      .seed = (uint64_t)(int64_t)r_list_whole(shared, "seed", -R_MOST_SEED, R_MOST_SEED),
  };
}

struct workspace {             /* one per thread */
  double *flux, *ivar, *truth; /* (R_BLOCK, M) */
  double *rest;                /* (R_BLOCK, R) or NULL */
  double *work;
  double *mix, *lines; /* of one object */
};

/* Where a file's rows have what is made here; the other columns are R's */
struct places {
  size_t flux, ivar, norm, sn; /* offsets */
};

/* Objects from start to stop - 1, in blocks */
struct making {
  const struct spd_simulation *s;
  const struct spd_preparation *preparation;
  struct workspace *spaces;
  size_t n, start, stop, block; /* block: rows of one */
  uint64_t offset;              /* number of object 0 in the sample */
  const double *z, *mix, *ebv, *lines, *line_sigma, *sn, *brightness, *contrast;
  const double *resolution;                  /* where the simulation has deviations */
  double *flux, *ivar, *truth, *rest, *norm; /* rest: NULL if not kept */
  int *found;
  /* or rows of a file from `start` on, which has object 0 in row `file_first` */
  unsigned char *rows;
  const struct spd_survey *file;
  uint64_t file_first;
  struct places places;
  spd_status *statuses; /* of the blocks */
  struct spd_error *errors;
  int halted; /* blocks that have not begun are left out */
};

static void put_floats(unsigned char *to, const double *from, size_t n) {
  for (size_t m = 0; m < n; m++) spd_put_float(to + 4 * m, (float)from[m]);
}

/* A prepared spectrum into its row of the file, which is written while it is in this core's cache */
static spd_status put_spectrum(const struct making *k, size_t row, double norm, const double *flux, const double *ivar, double *work,
                               struct spd_error *error) {
  const size_t n_observed = k->s->n_observed;
  unsigned char *to = k->rows + (row - k->start) * k->file->row_bytes;
  double sn;
  spd_prepare_sn(&sn, flux, ivar, work, n_observed);
  spd_put_double(to + k->places.norm, norm);
  spd_put_double(to + k->places.sn, sn);
  put_floats(to + k->places.flux, flux, n_observed);
  put_floats(to + k->places.ivar, ivar, n_observed);
  return spd_survey_write_row(to, k->file, k->file_first + row, error);
}

static void make_block(const void *context, size_t block, int thread) {
  const struct making *k = context;
  const struct spd_simulation *s = k->s;
  struct workspace *space = &k->spaces[thread];
  const size_t n = k->n, n_observed = s->n_observed, first = k->start + block * k->block;
  const size_t count = k->stop - first < k->block ? k->stop - first : k->block;
  k->statuses[block] = SPD_STATUS_OK;
  if (__atomic_load_n(&k->halted, __ATOMIC_RELAXED)) return;
  for (size_t i = 0; i < count; i++) {
    const size_t row = first + i;
    for (size_t c = 0; c < s->n_components; c++) space->mix[c] = k->mix[c * n + row];
    for (size_t l = 0; l < s->n_lines; l++) space->lines[l] = k->lines[l * n + row];
    const struct spd_object object = {k->z[row],        space->mix,         k->ebv[row],
                                      space->lines,     k->line_sigma[row], k->brightness[row],
                                      k->contrast[row], k->sn[row],         s->deviation ? k->resolution[row] : 0,
                                      k->offset + row};
    double *y = space->flux + i * n_observed, *w = space->ivar + i * n_observed, *t = space->truth + i * n_observed;
    double *x = k->rest ? space->rest + i * s->n_rest : NULL, norm;
    k->statuses[block] = spd_simulate(t, y, w, x, &object, s, space->work, &k->errors[block]);
    if (k->statuses[block] != SPD_STATUS_OK) return;
    spd_prepare_clean(y, w, n_observed);
    const spd_norm found = spd_prepare_normalize(&norm, y, w, space->work, k->z[row], k->preparation);
    if (k->rows) {
      k->statuses[block] = put_spectrum(k, row, norm, y, w, space->work, &k->errors[block]);
      if (k->statuses[block] != SPD_STATUS_OK) return;
      continue;
    }
    k->found[row] = found, k->norm[row] = norm;
    const double unit = found == SPD_NORM_FOUND ? norm : 1.0;
    for (size_t m = 0; m < n_observed; m++) t[m] /= unit;
    for (size_t r = 0; x && r < s->n_rest; r++) x[r] /= unit;
  }
  if (k->rows) return;
  r_rows_to_columns(k->flux, space->flux, n, n_observed, first, count);
  r_rows_to_columns(k->ivar, space->ivar, n, n_observed, first, count);
  r_rows_to_columns(k->truth, space->truth, n, n_observed, first, count);
  if (k->rest) r_rows_to_columns(k->rest, space->rest, n, s->n_rest, first, count);
}

static size_t offset_of(const struct spd_survey *survey, const char *name, char type, size_t repeat) {
  for (size_t c = 0; c < survey->n_columns; c++) {
    const struct spd_survey_column *column = &survey->columns[c];
    if (strcmp(column->name, name) == 0 && column->type == type && column->repeat == repeat) return column->offset;
  }
  Rf_error("internal: the survey has no column %s", name);
}

static struct places places_in(const struct spd_survey *survey, size_t n_observed) {
  return (struct places){offset_of(survey, "FLUX", 'E', n_observed), offset_of(survey, "IVAR", 'E', n_observed),
                         offset_of(survey, "NORM", 'D', 1), offset_of(survey, "sn_median", 'D', 1)};
}

/* The largest number of rows between two checks for user interrupts: enough that threads seldom wait for the last one */
static size_t rows_at_once(int threads) { return (size_t)R_CHUNK * (size_t)(threads > 2 ? threads / 2 : 1); }

enum { FILE_CHUNK = 1024, FILE_BLOCK = 1 };

/* Makes objects from start to stop - 1. */
static spd_status make(struct making *making, size_t start, size_t stop, int threads, struct spd_error *error) {
  const size_t blocks = (stop - start + making->block - 1) / making->block;
  making->start = start, making->stop = stop;
  spd_parallel(threads, blocks, make_block, making);
  for (size_t block = 0; block < blocks; block++) {
    if (making->statuses[block] == SPD_STATUS_OK) continue;
    *error = making->errors[block];
    return making->statuses[block];
  }
  return SPD_STATUS_OK;
}

/* Doubles of one thread's workspace */
static size_t workspace_size(size_t block, int with_rest, const struct spd_simulation *s) {
  return block * (3 * s->n_observed + (with_rest ? s->n_rest : 0)) + spd_simulate_work(s) + s->n_components + s->n_lines;
}

/* memory: (threads, workspace_size()) */
static void divide(struct workspace *spaces, double *memory, int threads, size_t block, int with_rest, const struct spd_simulation *s) {
  const size_t pixels = block * s->n_observed, rest = with_rest ? block * s->n_rest : 0;
  for (int i = 0; i < threads; i++) {
    double *own = memory + (size_t)i * workspace_size(block, with_rest, s);
    spaces[i] =
        (struct workspace){.flux = own, .ivar = own + pixels, .truth = own + 2 * pixels, .rest = with_rest ? own + 3 * pixels : NULL};
    spaces[i].work = own + 3 * pixels + rest;
    spaces[i].mix = spaces[i].work + spd_simulate_work(s);
    spaces[i].lines = spaces[i].mix + s->n_components;
  }
}

/* ---- chunks of a file ---- */

/* Outlives the entry that began it. R's vectors that it reads are protected by the session's pointer. */
struct r_simulating {
  struct making making;
  struct spd_simulation s;
  struct spd_preparation preparation;
  int threads;
  float *narrow; /* of s */
  unsigned char *sky;
  double *memory;
  spd_status status;
  struct spd_error error;
  int running; /* a chunk is being made */
  pthread_t thread;
  int done;
  pthread_mutex_t mutex; /* of done */
  pthread_cond_t changed;
};

static void free_simulating(struct r_simulating *f) {
  if (!f) return;
  free(f->narrow);
  free(f->sky);
  free(f->memory);
  free(f->making.spaces);
  free(f->making.statuses);
  free(f->making.errors);
  pthread_cond_destroy(&f->changed);
  pthread_mutex_destroy(&f->mutex);
  free(f);
}

/* A copy of what is R_alloc'ed, with workspaces. making: its pointers to R's vectors */
static struct r_simulating *new_simulating(const struct making *making, int threads) {
  struct r_simulating *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  pthread_mutex_init(&f->mutex, NULL);
  pthread_cond_init(&f->changed, NULL);
  f->making = *making, f->s = *making->s, f->preparation = *making->preparation, f->threads = threads;
  f->making.s = &f->s, f->making.preparation = &f->preparation;
  const size_t n_narrow = (f->s.n_components + 1) * f->s.n_rest;
  f->narrow = malloc(n_narrow * sizeof *f->narrow);
  f->sky = malloc(f->s.n_observed);
  f->making.spaces = malloc((size_t)threads * sizeof *f->making.spaces);
  f->making.statuses = malloc(FILE_CHUNK * sizeof *f->making.statuses);
  f->making.errors = malloc(FILE_CHUNK * sizeof *f->making.errors);
  f->memory = malloc((size_t)threads * workspace_size(FILE_BLOCK, 0, &f->s) * sizeof *f->memory);
  if (!f->narrow || !f->sky || !f->memory || !f->making.spaces || !f->making.statuses || !f->making.errors) {
    free_simulating(f);
    return NULL;
  }
  divide(f->making.spaces, f->memory, threads, FILE_BLOCK, 0, &f->s);
  memcpy(f->narrow, f->s.components, n_narrow * sizeof *f->narrow);
  f->s.components = f->narrow, f->s.extinction = f->narrow + n_narrow - f->s.n_rest;
  if (f->preparation.sky) f->preparation.sky = memcpy(f->sky, f->preparation.sky, f->s.n_observed);
  return f;
}

static void *make_chunk(void *argument) {
  struct r_simulating *f = argument;
  f->status = make(&f->making, f->making.start, f->making.stop, f->threads, &f->error);
  pthread_mutex_lock(&f->mutex);
  f->done = 1;
  pthread_cond_signal(&f->changed);
  pthread_mutex_unlock(&f->mutex);
  return NULL;
}

/* With one thread it is made here: one thread is what was asked for. */
static void begin_chunk(struct r_simulating *f, size_t start, size_t stop, unsigned char *rows) {
  f->making.start = start, f->making.stop = stop, f->making.rows = rows;
  f->done = 0;
  f->running = f->threads > 1 && spd_thread_start(&f->thread, make_chunk, f);
  if (!f->running) make_chunk(f);
}

/* Returns whether it came to its end before an interrupt. */
static int wait_for_chunk(struct r_simulating *f) {
  int interrupted = 0;
  pthread_mutex_lock(&f->mutex);
  while (!f->done && !interrupted) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50000000;
    if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
    pthread_cond_timedwait(&f->changed, &f->mutex, &until);
    interrupted = r_interrupted();
  }
  const int done = f->done;
  pthread_mutex_unlock(&f->mutex);
  return done;
}

static void join_chunk(struct r_simulating *f, int stop) {
  if (!f->running) return;
  if (stop) __atomic_store_n(&f->making.halted, 1, __ATOMIC_RELAXED);
  pthread_join(f->thread, NULL);
  f->running = 0;
}

void r_simulating_free(struct r_session *session) {
  struct r_simulating *f = session->simulating;
  if (!f || (f->running && session->process != getpid())) return; /* a fork has not its thread */
  session->simulating = NULL;
  join_chunk(f, 1);
  free_simulating(f);
}

/* Until the chunk that is being made, if there is one, is put to the writer */
static spd_status end_chunk(struct r_session *session, struct spd_error *error) {
  struct r_simulating *f = session->simulating;
  if (!f || f->making.rows == NULL) return SPD_STATUS_OK;
  if (f->running && session->process != getpid())
    return spd_fail(error, SPD_STATUS_UNSUPPORTED, "a survey that a process simulates cannot be simulated on in a fork of it");
  const int done = wait_for_chunk(f);
  join_chunk(f, !done);
  f->making.rows = NULL;
  if (!done) return spd_fail(error, SPD_STATUS_INTERRUPTED, "interrupted");
  if (f->status != SPD_STATUS_OK) *error = f->error;
  SPD_TRY(f->status);
  spd_writer_put_written(session->writer, f->making.stop - f->making.start);
  return SPD_STATUS_OK;
}

spd_status r_simulating_end(struct r_session *session, struct spd_error *error) {
  const spd_status status = end_chunk(session, error);
  r_simulating_free(session);
  return status;
}

/* Begins all chunks of n objects, and ends all but the last; before, the last of the objects that were there before. The catalogue of a
 * chunk is put while the one before is made. columns: what R has of the objects' rows; kept: R's vectors that `next` reads */
static spd_status make_chunks(struct r_simulating *next, SEXP pointer, SEXP columns, SEXP kept, struct spd_error *error) {
  struct r_session *session = r_session_get(pointer);
  const size_t n = next->making.n;
  for (size_t start = 0; start < n; start += FILE_CHUNK) {
    const size_t stop = n - start < FILE_CHUNK ? n : start + FILE_CHUNK;
    unsigned char *rows;
    spd_status status = spd_writer_next(&rows, session->writer, error);
    if (status == SPD_STATUS_OK) status = r_survey_put(rows, &session->file, columns, n, start, stop - start, error);
    if (status == SPD_STATUS_OK) status = end_chunk(session, error);
    if (status != SPD_STATUS_OK) {
      if (session->simulating != next) free_simulating(next);
      return status;
    }
    if (session->simulating != next) {
      r_simulating_free(session);
      session->simulating = next;
      R_SetExternalPtrProtected(pointer, kept);
    }
    SPD_TRY(spd_survey_reserve(&session->file, next->making.file_first + stop, error));
    begin_chunk(next, start, stop, rows);
  }
  return SPD_STATUS_OK;
}

/* objects: a list whose names are the fields of spd_object, n of each; first_row: the number of row 0 in the sample. recipe: as
 * for ffi_prepare_spectra. Returns flux, ivar, norm, found as that does, and truth and rest in the units of flux; or, with file =
 * list(session, columns), NULL: then rows are appended to the file of ffi_survey_write(), with these as their first columns, but for NORM
 * and sn_median. */
SEXP ffi_simulate(SEXP shared, SEXP objects, SEXP first_row, SEXP keep_rest, SEXP recipe, SEXP file) {
  struct spd_simulation s = simulation_from(shared);
  struct spd_preparation preparation = r_preparation(recipe);
  size_t n = (size_t)Rf_xlength(r_list_get(objects, "z")), n_observed = s.n_observed;
  if (preparation.n_observed != n_observed) Rf_error("internal: the recipe is for another grid");
  const double row_0 = r_whole(first_row, "first_row", 0, 1e15);
  int with_rest = (int)r_whole(keep_rest, "keep_rest", 0, 1), threads = (int)r_list_whole(recipe, "threads", 1, 4096);
  struct r_session *session = file == R_NilValue ? NULL : r_session_get(r_list_get(file, "session"));
  const SEXP columns = session ? r_list_get(file, "columns") : R_NilValue;
  if (session && (!session->writer || session->results || with_rest || TYPEOF(columns) != VECSXP))
    Rf_error("internal: this session writes no survey");
  const size_t block = session ? FILE_BLOCK : R_BLOCK, chunk = session ? FILE_CHUNK : rows_at_once(threads);
  threads = spd_threads(threads, n / block + 1);

  static const char *const names[] = {"flux", "ivar", "truth", "rest", "norm", "found"};
  SEXP result = PROTECT(session ? R_NilValue : r_list_new(6, names));
  if (!session) {
    for (int i = 0; i < 3; i++) SET_VECTOR_ELT(result, i, Rf_allocMatrix(REALSXP, (int)n, (int)n_observed));
    if (with_rest) SET_VECTOR_ELT(result, 3, Rf_allocMatrix(REALSXP, (int)n, (int)s.n_rest));
    SET_VECTOR_ELT(result, 4, Rf_allocVector(REALSXP, (R_xlen_t)n));
    SET_VECTOR_ELT(result, 5, Rf_allocVector(INTSXP, (R_xlen_t)n));
  }

  struct making making = {.s = &s,
                          .preparation = &preparation,
                          .n = n,
                          .block = block,
                          .offset = (uint64_t)row_0,
                          .z = r_list_numbers(objects, "z", n),
                          .mix = r_list_numbers(objects, "mix", n * s.n_components),
                          .ebv = r_list_numbers(objects, "ebv", n),
                          .lines = r_list_numbers(objects, "lines", n * s.n_lines),
                          .line_sigma = r_list_numbers(objects, "line_sigma", n),
                          .sn = r_list_numbers(objects, "sn", n),
                          .brightness = r_list_numbers(objects, "brightness", n),
                          .contrast = r_list_numbers(objects, "contrast", n),
                          .resolution = s.deviation ? r_list_numbers(objects, "resolution", n) : NULL,
                          .flux = session ? NULL : REAL(VECTOR_ELT(result, 0)),
                          .ivar = session ? NULL : REAL(VECTOR_ELT(result, 1)),
                          .truth = session ? NULL : REAL(VECTOR_ELT(result, 2)),
                          .rest = with_rest ? REAL(VECTOR_ELT(result, 3)) : NULL,
                          .norm = session ? NULL : REAL(VECTOR_ELT(result, 4)),
                          .found = session ? NULL : INTEGER(VECTOR_ELT(result, 5))};
  spd_status status = SPD_STATUS_OK;
  struct spd_error error = {""};
  if (session) {
    making.places = places_in(&session->file, n_observed);
    const struct making *before = session->simulating ? &session->simulating->making : NULL;
    making.file = &session->file;
    making.file_first = before ? before->file_first + before->n : session->file.n_rows;
    static const char *const vectors[] = {"shared", "objects", "recipe"};
    SEXP kept = PROTECT(r_list_new(3, vectors));
    SET_VECTOR_ELT(kept, 0, shared);
    SET_VECTOR_ELT(kept, 1, objects);
    SET_VECTOR_ELT(kept, 2, recipe);
    struct r_simulating *next = new_simulating(&making, threads);
    status = next ? make_chunks(next, r_list_get(file, "session"), columns, kept, &error)
                  : spd_fail(&error, SPD_STATUS_NO_MEMORY, "no memory for the workspaces of %d threads", threads);
    UNPROTECT(2);
    if (status == SPD_STATUS_INTERRUPTED) R_CheckUserInterrupt();
    if (status != SPD_STATUS_OK) r_raise(status, &error);
    return R_NilValue;
  }
  making.spaces = (struct workspace *)R_alloc((size_t)threads, sizeof *making.spaces);
  making.statuses = (spd_status *)R_alloc(chunk / block, sizeof *making.statuses);
  making.errors = (struct spd_error *)R_alloc(chunk / block, sizeof *making.errors);
  double *memory = (double *)R_alloc((size_t)threads * workspace_size(block, with_rest, &s), sizeof *memory);
  divide(making.spaces, memory, threads, block, with_rest, &s);
  for (size_t start = 0; start < n && status == SPD_STATUS_OK; start += chunk) {
    status = make(&making, start, n - start < chunk ? n : start + chunk, threads, &error);
    R_CheckUserInterrupt();
  }
  UNPROTECT(1);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}
