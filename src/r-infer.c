/* .Call entries of inference: a session is opened, advanced a fraction of a second at a time, and ended, from a loop in R. Results go to
 * matrices of R, or row by row to a survey file of results, whose catalogue columns R gives part by part. */
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/threads.h"
#include "data/writer.h"
#include "r-entries.h"
#include "r-network.h"
#include "r-numbers.h"
#include "r-source.h"

struct result {
  spd_result type;
  size_t width;   /* numbers of the inference */
  double *values; /* R's matrix (n, width); NULL: in the file */
  size_t stored;  /* numbers in the file: of a covariance (k, k), its lower triangle */
  size_t k;
  size_t offset; /* in the file's row */
};

struct r_results {
  struct result results[SPD_RESULTS];
  size_t n_results, widest;
  /* Rows are computed segment by segment, so that memory does not grow with their number. */
  struct r_source source;
  const double *z;        /* (n), R's */
  uint64_t *usable;       /* (segment), of which n_usable are there: rows of the present segment that are computed, increasing */
  uint64_t *order;        /* (segment): 0, 1, ...: their numbers in the session's redshifts and places */
  unsigned char *unknown; /* (n): 0, or why a row has no result, as unknown_rows() in R/coverage.R says it */
  size_t n, segment, n_usable;
  size_t examined;           /* rows that belong to this segment or one before */
  size_t done, batch, taken; /* of the usable rows: stored; in the present batch; stored of that */
  int threads;
  double *numbers; /* (rows of a batch, widest): a result before it goes to R's columns, or a row of each thread on its way to the file */
  /* the session's file, or NULL */
  const struct spd_survey *file;
  struct spd_writer *writer;
  unsigned char *part;           /* rows part_first ... of the file, until they are complete */
  size_t part_first, part_count; /* part_count 0: there is none */
};

enum { FILE_PART = 2048 /* rows, at most */, SEGMENT = 65536 /* rows that are computed, about */ };

static int to_file(const struct r_results *r) { return r->writer != NULL; }

/* Rows of the result that are complete */
static size_t complete_rows(const struct r_results *r) { return r->done < r->n_usable ? (size_t)r->usable[r->done] : r->examined; }

/* Hands over the complete rows of the present part. */
static void put_part(struct r_results *r) {
  const size_t complete = complete_rows(r);
  if (r->part_count == 0 || complete <= r->part_first) return;
  const size_t there = complete - r->part_first;
  spd_writer_put(r->writer, there < r->part_count ? there : r->part_count);
  r->part_first += r->part_count;
  r->part_count = 0;
}

void r_results_free(struct r_results *r, struct r_session *session) {
  if (!r) return;
  if (r->writer && session->process == getpid()) put_part(r);
  free(r->usable);
  free(r->order);
  free(r->unknown);
  free(r->numbers);
  free(r);
}

/* ---- opening ---- */

static spd_result result_of(const char *type) {
  static const char *const types[SPD_RESULTS] = {"latent",   "latent_errors",   "covariance", "z",    "rest",
                                                 "observed", "observed_errors", "loss",       "chi2", "calibration"};
  for (int i = 0; i < SPD_RESULTS; i++)
    if (strcmp(type, types[i]) == 0) return (spd_result)i;
  Rf_error("internal: unknown type '%s'", type);
}

/* refine: list(steps, with_redshift, freedom, mean, precision), the last two NULL without a prior */
static struct spd_refine_options refine_options(SEXP refine, size_t n_latent) {
  struct spd_refine_options o = {.steps = (size_t)r_list_whole(refine, "steps", 0, 1000),
                                 .with_redshift = r_list_flag(refine, "with_redshift"),
                                 .freedom = r_list_real(refine, "freedom")};
  if (r_list_get(refine, "mean") == R_NilValue) return o;
  o.mean = r_list_numbers(refine, "mean", n_latent);
  o.precision = r_list_numbers(refine, "precision", n_latent * n_latent);
  return o;
}

/* The last columns of the file, but for PADDING and ROWSUM, are the results. */
static spd_status find_columns(struct r_results *r, struct spd_error *error) {
  size_t c = r->file->n_columns;
  for (size_t i = r->n_results; i-- > 0;) {
    struct result *result = &r->results[i];
    do {
      if (c-- == 0) return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has not the columns of these results", r->file->file_name);
    } while ((int)c == r->file->checksum_column || strcmp(r->file->columns[c].name, "PADDING") == 0);
    const struct spd_survey_column *column = &r->file->columns[c];
    if (column->type != 'E' || column->repeat != result->stored)
      return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has not the columns of these results", r->file->file_name);
    result->offset = column->offset;
  }
  return SPD_STATUS_OK;
}

static spd_status open_results_file(struct r_session *session, const char *path, struct spd_error *error) {
  struct r_results *r = session->results;
  SPD_TRY(r_session_write(session, path, FILE_PART, error));
  r->file = &session->file;
  if (!r->file->is_results) return spd_fail(error, SPD_STATUS_FORMAT, "%.200s is not a file of results", r->file->file_name);
  if (r->file->n_rows > r->n)
    return spd_fail(error, SPD_STATUS_FORMAT, "%.200s has results of more than %zu spectra", r->file->file_name, r->n);
  SPD_TRY(find_columns(r, error));
  r->writer = session->writer;
  return SPD_STATUS_OK;
}

/* Those with a norm that are not in the file yet are to be computed. A segment has whole batches. */
static spd_status choose_rows(struct r_results *r, const double *norm, size_t batch_size, struct spd_error *error) {
  const size_t buffers = batch_size > (size_t)r->threads ? batch_size : (size_t)r->threads;
  r->segment = (SEGMENT + batch_size - 1) / batch_size * batch_size;
  if (r->n < r->segment) r->segment = r->n;
  r->usable = malloc((r->segment + 1) * sizeof *r->usable);
  r->order = malloc((r->segment + 1) * sizeof *r->order);
  r->unknown = calloc(r->n + 1, 1);
  r->numbers = malloc(buffers * r->widest * sizeof *r->numbers);
  if (!r->usable || !r->order || !r->unknown || !r->numbers) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the results");
  for (size_t i = 0; i < r->segment; i++) r->order[i] = i;
  r->examined = r->part_first = to_file(r) ? (size_t)r->file->n_rows : 0;
  for (size_t i = r->part_first; i < r->n; i++) r->unknown[i] = ISNAN(norm[i]);
  return SPD_STATUS_OK;
}

/* Once all rows of the segment before are done */
static spd_status begin_segment(struct r_session *session, struct spd_error *error) {
  struct r_results *r = session->results;
  r->n_usable = r->done = r->batch = r->taken = 0;
  for (; r->examined < r->n && r->n_usable < r->segment; r->examined++) {
    if (r->unknown[r->examined]) continue;
    r_source_place(session, r->n_usable, &r->source, r->z, r->examined);
    r->usable[r->n_usable++] = r->examined;
  }
  return spd_inference_start(session->inference, r->order, r->n_usable, error);
}

/* R_alloc'ed: R expands the next file name into the same buffer. */
static const char *expanded(const char *path) {
  const char *name = R_ExpandFileName(path);
  return strcpy(R_alloc(strlen(name) + 1, 1), name);
}

static spd_status open_inference(struct r_session *session, const struct spd_network *network, const float *parameters,
                                 const float *observed_grid, const float *rest_grid, const struct spd_inference_options *options,
                                 const struct r_device *device, struct spd_error *error) {
  const struct r_results *r = session->results;
  const struct spd_source source = {.columns = session->columns.flux ? &session->columns : NULL,
                                    .z = session->z,
                                    .n_rows = r->segment,
                                    .surveys = session->surveys.n_files ? &session->surveys : NULL,
                                    .ahead = 2 * options->batch_size,
                                    .threads = device->threads,
                                    .places = session->places};
  SPD_TRY(r_session_model(session, network, parameters, observed_grid, rest_grid, options->batch_size, SPD_MODEL_FORWARD, device, error));
  SPD_TRY(spd_inference_create(&session->inference, session->model, &source, observed_grid, rest_grid, options, error));
  return begin_segment(session, error);
}

/* data: see r_check_source(); z (n), norm (n): of the rows of the result, NaN for those without; types: which results; refine: see
 * refine_options(); path: a file of results to append to, whose columns end with the results in this order, or NULL. */
SEXP ffi_infer_open(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP data, SEXP z, SEXP norm, SEXP types,
                    SEXP refine, SEXP path, SEXP options) {
  struct spd_network network;
  r_network(architecture, &network);
  const float *parameters = r_weights(weights, &network);
  const struct spd_architecture *a = &network.architecture;
  const size_t n = (size_t)Rf_xlength(z), n_results = (size_t)Rf_xlength(types);
  r_check_numbers(z, "z", n);
  r_check_numbers(norm, "norm", n);
  r_check_texts(types, "types", R_ANY);
  if (n_results == 0 || n_results > SPD_RESULTS) Rf_error("internal: there must be one result or a few");
  const struct r_source from = r_check_source(data, n, a->n_observed);
  const float *observed_grid = r_float_vector(wave_observed, "wave_observed", a->n_observed),
              *rest_grid = r_float_vector(wave_rest, "wave_rest", a->n_rest);
  const struct r_device device = r_device(options);
  struct spd_inference_options o = {.refine = refine_options(refine, a->n_latent), .batch_size = r_batch_size(options, n)};
  const char *file = path == R_NilValue ? NULL : expanded(r_text(path, "path"));
  for (size_t i = 0; i < n_results; i++) o.wanted |= 1u << result_of(CHAR(STRING_ELT(types, (R_xlen_t)i)));

  struct r_session *session;
  SEXP pointer = PROTECT(r_session_new(&session));
  struct r_results *r = session->results = calloc(1, sizeof *r);
  if (!r) Rf_error("could not allocate the results");
  r->n = n;
  r->threads = device.threads;
  struct spd_error error = {""};
  r->source = from;
  r->z = REAL_RO(z);
  spd_status status = r_source_open(session, &from, n, a->n_observed, &error);
  SEXP kept = PROTECT(Rf_allocVector(VECSXP, 3)), values = PROTECT(Rf_allocVector(VECSXP, (R_xlen_t)n_results));
  Rf_setAttrib(values, R_NamesSymbol, types);
  SET_VECTOR_ELT(kept, 0, values);
  SET_VECTOR_ELT(kept, 1, data); /* its columns are read, and must not be changed in place */
  SET_VECTOR_ELT(kept, 2, z);
  R_SetExternalPtrProtected(pointer, kept);
  const size_t k = a->n_latent + (o.refine.with_redshift ? 1 : 0);
  for (size_t i = 0; i < n_results; i++) {
    struct result *result = &r->results[i];
    result->type = result_of(CHAR(STRING_ELT(types, (R_xlen_t)i)));
    result->width = spd_result_width(result->type, a, o.refine.with_redshift);
    result->k = k;
    result->stored = result->type == SPD_RESULT_COVARIANCE ? k * (k + 1) / 2 : result->width;
    r->widest = result->width > r->widest ? result->width : r->widest;
    if (file) continue;
    SET_VECTOR_ELT(values, (R_xlen_t)i, Rf_allocMatrix(REALSXP, (int)n, (int)result->width));
    result->values = REAL(VECTOR_ELT(values, (R_xlen_t)i));
  }
  r->n_results = n_results;
  if (status == SPD_STATUS_OK && file) status = open_results_file(session, file, &error);
  if (status == SPD_STATUS_OK) status = choose_rows(r, REAL_RO(norm), o.batch_size, &error);
  if (status == SPD_STATUS_OK) status = r_source_allocate(session, r->segment, &error);
  if (status == SPD_STATUS_OK) status = open_inference(session, &network, parameters, observed_grid, rest_grid, &o, &device, &error);
  if (status != SPD_STATUS_OK) {
    r_session_free(pointer);
    r_raise(status, &error);
  }
  UNPROTECT(3);
  return pointer;
}

/* ---- storing ---- */

/* From the batch to R's matrices: first rows of numbers, by blocks of rows, then columns, by blocks of columns */
struct storing {
  struct r_results *r;
  const struct spd_inference *inference;
  const struct result *result;
  size_t first, count; /* of the batch */
};

enum { STORED_ROWS = 4, STORED_COLUMNS = 64 };

static void get_rows(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct storing *s = context;
  for (size_t i = piece * STORED_ROWS; i < (piece + 1) * STORED_ROWS && i < s->count; i++)
    spd_inference_get(s->r->numbers + i * s->result->width, s->inference, s->result->type, s->first + i);
}

static double or_na(double x) { return isnan(x) ? NA_REAL : x; }

static void set_columns(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct storing *s = context;
  const struct r_results *r = s->r;
  const size_t width = s->result->width, first = piece * STORED_COLUMNS;
  const size_t last = width - first < STORED_COLUMNS ? width : first + STORED_COLUMNS;
  for (size_t m = first; m < last; m++)
    for (size_t i = 0; i < s->count; i++) s->result->values[m * r->n + r->usable[r->done + i]] = or_na(r->numbers[i * width + m]);
}

static void put_floats(unsigned char *to, const double *numbers, const struct result *result) {
  if (result->type != SPD_RESULT_COVARIANCE) {
    for (size_t m = 0; m < result->width; m++) spd_put_float(to + 4 * m, (float)numbers[m]);
    return;
  }
  for (size_t a = 0; a < result->k; a++)
    for (size_t b = 0; b <= a; b++, to += 4) spd_put_float(to, (float)numbers[a * result->k + b]);
}

static void put_row(const void *context, size_t i, int thread) {
  const struct storing *s = context;
  const struct r_results *r = s->r;
  double *numbers = r->numbers + (size_t)thread * r->widest;
  unsigned char *row = r->part + (r->usable[r->done + i] - r->part_first) * r->file->row_bytes;
  for (size_t k = 0; k < r->n_results; k++) {
    const struct result *result = &r->results[k];
    spd_inference_get(numbers, s->inference, result->type, s->first + i);
    put_floats(row + result->offset, numbers, result);
  }
}

/* Stores what the present batch has for the matrices, or for the present part of the file. */
static void store(struct r_results *r, const struct spd_inference *inference) {
  struct storing s = {r, inference, NULL, r->taken, r->batch - r->taken};
  const size_t end = to_file(r) ? r->part_first + r->part_count : r->n;
  while (s.count > 0 && r->usable[r->done + s.count - 1] >= end) s.count--;
  for (size_t i = 0; i < s.count; i++)
    if (!spd_inference_knows(inference, r->taken + i)) r->unknown[r->usable[r->done + i]] = 2;
  if (to_file(r)) {
    spd_parallel(r->threads, s.count, put_row, &s);
  } else {
    for (size_t k = 0; k < r->n_results; k++) {
      s.result = &r->results[k];
      spd_parallel(r->threads, (s.count + STORED_ROWS - 1) / STORED_ROWS, get_rows, &s);
      spd_parallel(r->threads, (s.result->width + STORED_COLUMNS - 1) / STORED_COLUMNS, set_columns, &s);
    }
  }
  r->taken += s.count;
  r->done += s.count;
}

/* ---- going on ---- */

/* The catalogue columns of the next rows of the file, FILE_PART at most, once the part before is complete */
SEXP ffi_infer_catalogue(SEXP pointer, SEXP columns) {
  struct r_session *session = r_session_get(pointer);
  struct r_results *r = session->results;
  if (TYPEOF(columns) != VECSXP || Rf_xlength(columns) == 0) Rf_error("internal: 'columns' must be a list");
  if (!r || !to_file(r) || r->part_count) Rf_error("internal: this session takes no catalogue now");
  const size_t n = (size_t)Rf_xlength(VECTOR_ELT(columns, 0));
  if (n == 0 || n > FILE_PART || n > r->n - r->part_first) Rf_error("internal: a catalogue has %d rows at most", FILE_PART);
  struct spd_error error = {""};
  spd_status status = spd_writer_next(&r->part, r->writer, &error);
  if (status == SPD_STATUS_OK) status = r_survey_put(r->part, r->file, columns, n, 0, n, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; r->unknown[r->part_first + i] && k < r->n_results; k++)
      for (size_t m = 0; m < r->results[k].stored; m++) spd_put_float(r->part + i * r->file->row_bytes + r->results[k].offset + 4 * m, NAN);
  r->part_count = n;
  return R_NilValue;
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int is_part_complete(const struct r_results *r) { return to_file(r) && complete_rows(r) >= r->part_first + r->part_count; }

static spd_status advance(struct r_session *session, double seconds, struct spd_error *error) {
  struct r_results *r = session->results;
  const double until = seconds_now() + seconds;
  do {
    if (r->taken == r->batch) {
      if (r->done == r->n_usable && r->examined < r->n) SPD_TRY(begin_segment(session, error));
      if (r->done == r->n_usable || is_part_complete(r)) break;
      size_t n;
      r->taken = r->batch = 0;
      SPD_TRY(spd_inference_next(&n, session->inference, error));
      r->batch = n;
    }
    store(r, session->inference);
  } while (!is_part_complete(r) && seconds_now() < until);
  if (is_part_complete(r)) put_part(r);
  return SPD_STATUS_OK;
}

/* Computes for some time, or until the present part of the file is complete. Returns how many rows are complete. */
SEXP ffi_infer_advance(SEXP pointer, SEXP seconds) {
  struct r_session *session = r_session_get(pointer);
  const double limit = r_number(seconds, "seconds");
  if (!session->results) Rf_error("internal: this session has no results");
  R_CheckUserInterrupt(); /* R's own loop seldom does */
  struct spd_error error = {""};
  const spd_status status = advance(session, limit, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return Rf_ScalarReal((double)complete_rows(session->results));
}

/* For measurements (bench/pace.R): computes the present batch of a session again and again, for some time. Returns how many spectra were
 * computed, and the seconds that they took. */
SEXP ffi_infer_pace(SEXP pointer, SEXP seconds) {
  struct r_session *session = r_session_get(pointer);
  const double limit = r_whole(seconds, "seconds", 0, 60), start = seconds_now();
  struct spd_error error = {""};
  spd_status status = SPD_STATUS_OK;
  size_t computed = 0;
  if (!session->results || session->results->batch == 0) Rf_error("internal: this session has no batch");
  do {
    status = spd_inference_again(session->inference, &error);
    computed += session->results->batch;
  } while (status == SPD_STATUS_OK && seconds_now() < start + limit && !r_interrupted());
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  SEXP out = PROTECT(Rf_allocVector(REALSXP, 2));
  REAL(out)[0] = (double)computed;
  REAL(out)[1] = seconds_now() - start;
  UNPROTECT(1);
  return out;
}

/* The end of a session whose rows are complete. Returns `values`, a list of matrices (of NULL for a file, which gets its
 * checksums), and `unknown`: for each row 0, or why it has no result. */
SEXP ffi_infer_end(SEXP pointer) {
  static const char *const names[] = {"values", "unknown"};
  struct r_session *session = r_session_get(pointer);
  struct r_results *r = session->results;
  if (!r || complete_rows(r) < r->n) Rf_error("internal: these results are not complete");
  SEXP list = PROTECT(r_list_new(2, names));
  SET_VECTOR_ELT(list, 0, VECTOR_ELT(R_ExternalPtrProtected(pointer), 0));
  SET_VECTOR_ELT(list, 1, Rf_allocVector(INTSXP, (R_xlen_t)r->n));
  for (size_t i = 0; i < r->n; i++) INTEGER(VECTOR_ELT(list, 1))[i] = r->unknown[i];
  for (size_t k = 0; k < r->n_results && !to_file(r); k++)
    for (size_t i = 0; i < r->n; i++)
      for (size_t m = 0; r->unknown[i] == 1 && m < r->results[k].width; m++) r->results[k].values[m * r->n + i] = NA_REAL;
  struct spd_error error = {""};
  spd_status status = SPD_STATUS_OK;
  if (to_file(r)) {
    put_part(r);
    status = r_session_finish(session, &error);
  }
  UNPROTECT(1);
  if (status == SPD_STATUS_INTERRUPTED) R_CheckUserInterrupt();
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return list;
}
