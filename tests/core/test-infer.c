/* Inference: the same rows, order and bits from memory, columns and surveys, for any batch size, and as the model gives them batch by
 * batch; on both backends. Conversion of columns, and the thread that writes. */
#include <fcntl.h>
#include <sys/wait.h>

#include "cuda-devices.h"
#include "data/writer.h"
#include "network/infer.h"
#include "small-training.h"
#include "survey-files.h"

enum { ALL = (1 << SPD_RESULTS) - 1, WIDEST = 300 };

static struct spd_network net;
static struct small_data data;
static struct spd_backend *backend;

/* ---- conversion ---- */

static void test_columns(void) {
  const size_t shapes[][3] = {{1, 1, 1}, {200, 64, 17}, {300, 300, 300}, {90, 7, 33}}; /* rows of the matrix, rows taken, columns */
  for (size_t s = 0; s < 4; s++) {
    const size_t n_rows = shapes[s][0], n = shapes[s][1], width = shapes[s][2];
    double *columns = check_alloc(n_rows * width * sizeof *columns);
    float *one = check_alloc(n * width * sizeof *one), *many = check_alloc(n * width * sizeof *many);
    uint64_t *rows = check_alloc(n * sizeof *rows);
    for (size_t i = 0; i < n_rows * width; i++) columns[i] = 1.0 / (double)(i + 3);
    for (int shuffled = 0; shuffled < 2; shuffled++) {
      int wrong = 0;
      for (size_t i = 0; i < n; i++) rows[i] = shuffled ? (i * 37 + 5) % n_rows : n_rows - n + i;
      spd_columns_take(one, columns, n_rows, rows, n, width, 1);
      spd_columns_take(many, columns, n_rows, rows, n, width, 3);
      for (size_t i = 0; i < n; i++)
        for (size_t m = 0; m < width; m++) wrong += one[i * width + m] != (float)columns[m * n_rows + rows[i]];
      CHECK(wrong == 0, "%d of %zu x %zu values differ", wrong, n, width);
      CHECK(memcmp(one, many, n * width * sizeof *one) == 0, "threads change bits");
    }
    free(columns);
    free(one);
    free(many);
    free(rows);
  }
}

/* ---- results ---- */

/* (SMALL_ROWS, SPD_RESULTS, WIDEST) of `rows`, computed by batches of n */
static double *infer(const struct spd_source *source, unsigned wanted, size_t steps, size_t n, const uint64_t *rows, size_t count) {
  struct spd_model *model;
  struct spd_inference *inference;
  const struct spd_inference_options options = {wanted, {.steps = steps}, n};
  double *out = check_alloc(SMALL_ROWS * SPD_RESULTS * WIDEST * sizeof *out);
  MUST(
      spd_model_create_with_resolution(&model, &net, backend, data.wave_observed, data.wave_rest, n, SPD_MODEL_FORWARD, small_band, error));
  MUST(spd_model_set_parameters(model, data.weights, error));
  MUST(spd_inference_create(&inference, model, source, data.wave_observed, data.wave_rest, &options, error));
  size_t done = 0, some;
  MUST(spd_inference_start(inference, rows, count, error));
  MUST(spd_inference_next(&some, inference, error));
  MUST(spd_inference_start(inference, rows, count, error)); /* begins anew */
  for (;;) {
    MUST(spd_inference_next(&some, inference, error));
    if (some == 0) break;
    if (done == 0) MUST(spd_inference_again(inference, error)); /* changes nothing */
    for (size_t i = 0; i < some; i++)
      for (int r = 0; r < SPD_RESULTS; r++)
        if (wanted >> r & 1) spd_inference_get(out + ((done + i) * SPD_RESULTS + (size_t)r) * WIDEST, inference, (spd_result)r, i);
    done += some;
  }
  CHECK(done == count, "%zu rows of %zu", done, count);
  spd_inference_destroy(inference);
  spd_model_destroy(model);
  return out;
}

/* Each result of each row */
static int same(const double *a, const double *b, size_t rows) {
  int alike = 1;
  for (size_t r = 0; r < rows * SPD_RESULTS; r++) alike &= test_alike(a + r * WIDEST, b + r * WIDEST, WIDEST);
  return alike;
}

static void test_sources(void) {
  const size_t width = net.architecture.n_observed;
  struct spd_surveys surveys = small_surveys_new(&data, width);
  double *flux = check_alloc(SMALL_ROWS * width * sizeof *flux), *ivar = check_alloc(SMALL_ROWS * width * sizeof *ivar);
  for (size_t i = 0; i < SMALL_ROWS; i++)
    for (size_t m = 0; m < width; m++)
      flux[m * SMALL_ROWS + i] = data.flux[i * width + m], ivar[m * SMALL_ROWS + i] = data.ivar[i * width + m];
  const size_t resolved = spd_band_width(small_band, width);
  double *resolution = check_alloc(SMALL_ROWS * (resolved + 1) * sizeof *resolution);
  for (size_t i = 0; i < SMALL_ROWS; i++)
    for (size_t k = 0; k < resolved; k++) resolution[k * SMALL_ROWS + i] = small_bands[i * resolved + k];
  const struct spd_columns columns = {flux, ivar, SMALL_ROWS, resolution};
  const struct spd_source sources[] = {
      {.flux = data.flux, .ivar = data.ivar, .resolution = small_bands, .z = data.z, .n_rows = SMALL_ROWS, .threads = 2},
      {.columns = &columns, .z = data.z, .n_rows = SMALL_ROWS, .threads = 2},
      {.surveys = &surveys, .z = data.z, .n_rows = SMALL_ROWS, .threads = 1, .ahead = 16},
      {.surveys = &surveys, .z = data.z, .n_rows = SMALL_ROWS, .threads = 2, .ahead = 5},
      {.surveys = &surveys, .z = data.z, .n_rows = SMALL_ROWS, .threads = 4, .ahead = 16},
      {.surveys = &surveys, .z = data.z, .n_rows = SMALL_ROWS, .threads = 8, .ahead = 0}};
  enum { SOURCES = sizeof sources / sizeof *sources };
  static const char *const names[] = {"memory", "columns", "surveys, 1 thread", "2 threads", "4 threads", "8 threads"};
  uint64_t rows[SMALL_ROWS];
  for (uint64_t i = 0; i < SMALL_ROWS; i++) rows[i] = i;
  const unsigned wanted[] = {ALL, 1u << SPD_RESULT_LATENT, 1u << SPD_RESULT_LOSS | 1u << SPD_RESULT_CHI2};
  const size_t steps[] = {2, 0, 0};
  for (int w = 0; w < 3; w++) {
    double *first = infer(&sources[0], wanted[w], steps[w], SMALL_ROWS, rows, SMALL_ROWS);
    for (int s = 0; s < SOURCES; s++) {
      double *other = infer(&sources[s], wanted[w], steps[w], 8, rows, SMALL_ROWS);
      CHECK(same(first, other, SMALL_ROWS), "%s: other bits from %s, types %x", backend->ops->name, names[s], wanted[w]);
      free(other);
      uint64_t some[] = {3, 4, 17, 60};
      other = infer(&sources[s], wanted[w], steps[w], 3, some, 4);
      for (size_t i = 0; i < 4; i++)
        CHECK(same(other + i * SPD_RESULTS * WIDEST, first + some[i] * SPD_RESULTS * WIDEST, 1), "%s: row %d differs among few, from %s",
              backend->ops->name, (int)some[i], names[s]);
      free(other);
    }
    free(first);
  }
  small_surveys_free(&surveys);
  free(flux);
  free(ivar);
  free(resolution);
}

/* Against the model itself, in one batch, with what is not known as NaN */
static void test_values(void) {
  const struct spd_architecture *a = &net.architecture;
  const size_t m = a->n_observed, s = a->n_latent;
  struct spd_model *model;
  float *latent = check_alloc(SMALL_ROWS * s * sizeof *latent), *observed = check_alloc(SMALL_ROWS * m * sizeof *observed);
  double losses[SMALL_ROWS];
  uint64_t rows[SMALL_ROWS];
  memset(data.ivar + 5 * m, 0, m * sizeof(float)); /* no weight at all */
  for (uint64_t i = 0; i < SMALL_ROWS; i++) rows[i] = i;
  MUST(spd_model_create(&model, &net, backend, data.wave_observed, data.wave_rest, SMALL_ROWS, SPD_MODEL_FORWARD, error));
  MUST(spd_model_set_parameters(model, data.weights, error));
  MUST(spd_model_load(model, data.flux, data.ivar, data.z, SMALL_ROWS, error));
  MUST(spd_model_encode(model, error));
  MUST(spd_model_read(latent, model, SPD_TENSOR_LATENT, error));
  MUST(spd_model_decode(model, error));
  MUST(spd_model_observe(model, error));
  MUST(spd_model_read(observed, model, SPD_TENSOR_OBSERVED, error));
  MUST(spd_model_score(model, losses, error));
  spd_model_destroy(model);
  const struct spd_source source = {.flux = data.flux, .ivar = data.ivar, .z = data.z, .n_rows = SMALL_ROWS, .threads = 2};
  double *got = infer(&source, ALL, 0, 16, rows, SMALL_ROWS);
  int wrong = 0;
  for (size_t i = 0; i < SMALL_ROWS; i++) {
    const double *row = got + i * SPD_RESULTS * WIDEST;
    if (i == 5) {
      CHECK(isnan(row[SPD_RESULT_LATENT * WIDEST]) && isnan(row[SPD_RESULT_LOSS * WIDEST]), "a spectrum without weight has results");
      continue;
    }
    size_t valid = 0;
    for (size_t k = 0; k < s; k++) wrong += row[SPD_RESULT_LATENT * WIDEST + k] != (double)latent[i * s + k];
    for (size_t p = 0; p < m; p++) {
      const double y = row[SPD_RESULT_OBSERVED * WIDEST + p];
      wrong += !isnan(y) && y != (double)observed[i * m + p];
      valid += data.ivar[i * m + p] > 0;
    }
    wrong += row[SPD_RESULT_LOSS * WIDEST] != losses[i];
    wrong += row[SPD_RESULT_CHI2 * WIDEST] != losses[i] * (2 * (double)m / ((double)valid - (double)s));
  }
  CHECK(wrong == 0, "%s: %d values are not the model's", backend->ops->name, wrong);
  free(latent);
  free(observed);
  free(got);
}

static void test_all(void) {
  const struct spd_architecture a = small_architecture();
  MUST(spd_network_init(&net, &a, error));
  data = small_data_new(&net, SMALL_ROWS, 3);
  test_sources();
  test_values();
  small_data_free(&data);
  struct spd_architecture unresolved = a;
  unresolved.lsf = 0, unresolved.n_calibration = 2, unresolved.calibration_sd[0] = unresolved.calibration_sd[1] = 0.3;
  MUST(spd_network_init(&net, &unresolved, error));
  data = small_data_new(&net, SMALL_ROWS, 3);
  static const struct spd_band bands[] = {{5, 3, 0}, {7, 16, 1}};
  for (int b = 0; b < 2; b++) {
    float *values = small_resolutions(&bands[b], SMALL_ROWS, a.n_observed, 8);
    small_band = &bands[b], small_bands = values;
    test_sources();
    small_band = NULL, small_bands = NULL;
    free(values);
  }
  small_data_free(&data);
}

/* A damaged row is an error at its batch; those before have their results. */
static void test_damage(void) {
  const struct spd_architecture a = small_architecture();
  char path[64];
  snprintf(path, sizeof path, "/tmp/spender-infer-%ld.fits", (long)getpid());
  MUST(spd_network_init(&net, &a, error));
  data = small_data_new(&net, SMALL_ROWS, 3);
  struct spd_surveys surveys = small_surveys_new(&data, a.n_observed);
  struct spd_survey *s = surveys.files;
  unsigned char byte = 0x55;
  CHECK(pwrite(s->file, &byte, 1, (off_t)(s->rows_at + 30 * s->row_bytes + 20)) == 1, "pwrite() fails");
  const struct spd_source source = {.surveys = &surveys, .z = data.z, .n_rows = SMALL_ROWS, .threads = 2, .ahead = 16};
  const struct spd_inference_options options = {1u << SPD_RESULT_LATENT, {.steps = 0}, 8};
  struct spd_model *model;
  struct spd_inference *inference;
  uint64_t rows[SMALL_ROWS];
  size_t n;
  for (uint64_t i = 0; i < SMALL_ROWS; i++) rows[i] = i;
  MUST(spd_model_create(&model, &net, backend, data.wave_observed, data.wave_rest, 8, SPD_MODEL_FORWARD, error));
  MUST(spd_model_set_parameters(model, data.weights, error));
  MUST(spd_inference_create(&inference, model, &source, data.wave_observed, data.wave_rest, &options, error));
  MUST(spd_inference_start(inference, rows, SMALL_ROWS, error));
  for (int batch = 0; batch < 3; batch++) MUST(spd_inference_next(&n, inference, error));
  CHECK_STATUS(spd_inference_next(&n, inference, error), SPD_STATUS_FORMAT, "spectrum 31");
  CHECK(ftruncate(s->file, (off_t)(s->rows_at + 20 * s->row_bytes)) == 0, "ftruncate() fails");
  MUST(spd_inference_start(inference, rows, SMALL_ROWS, error));
  for (int batch = 0; batch < 2; batch++) MUST(spd_inference_next(&n, inference, error));
  CHECK_STATUS(spd_inference_next(&n, inference, error), SPD_STATUS_FORMAT, "is cut");
  spd_inference_destroy(inference);
  spd_model_destroy(model);
  small_surveys_free(&surveys);
  small_data_free(&data);
}

/* ---- the writer ---- */

static void make_chunk(struct spd_writer *writer, const struct spd_survey *s, int first, int count) {
  unsigned char *rows;
  MUST(spd_writer_next(&rows, writer, error));
  for (int i = 0; i < count; i++) survey_file_fill(rows + (size_t)i * s->row_bytes, s, first + i);
  spd_writer_put(writer, (size_t)count);
}

/* Two chunks at a time: their rows are written here, one by one, and appended by the thread. */
static void make_two_chunks(struct spd_writer *writer, const struct spd_survey *s, int first, int count) {
  unsigned char *rows[2];
  for (int c = 0; c < 2; c++) MUST(spd_writer_next(&rows[c], writer, error));
  for (int c = 0; c < 2; c++) {
    MUST(spd_survey_reserve(s, (uint64_t)(first + (c + 1) * count), error));
    for (int i = 0; i < count; i++) {
      unsigned char *row = rows[c] + (size_t)i * s->row_bytes;
      const int number = first + c * count + i;
      survey_file_fill(row, s, number);
      MUST(spd_survey_write_row(row, s, (uint64_t)number, error));
    }
    spd_writer_put_written(writer, (size_t)count);
  }
}

static void test_writer(void) {
  char path[64];
  struct spd_survey s, other;
  struct spd_writer *writer;
  snprintf(path, sizeof path, "/tmp/spender-writer-%ld.fits", (long)getpid());
  survey_file_make(&s, path);
  CHECK_STATUS(spd_survey_reopen(&other, path, error), SPD_STATUS_IO, "another program"); /* two writers */
  MUST(spd_writer_create(&writer, &s, 10, error));
  for (int chunk = 0; chunk < 10; chunk++) make_chunk(writer, &s, 10 * chunk, 10);
  MUST(spd_writer_wait(writer, error));
  for (int chunk = 10; chunk < 20; chunk += 2) make_two_chunks(writer, &s, 10 * chunk, 10);
  MUST(spd_writer_wait(writer, error));
  CHECK(s.n_rows == 200, "%d rows", (int)s.n_rows);
  make_chunk(writer, &s, 200, 3);
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) { /* it has no thread: it refuses, and can be given back */
    struct spd_error refusal = {""};
    alarm(20);
    const int refused = spd_writer_wait(writer, &refusal) == SPD_STATUS_UNSUPPORTED;
    spd_writer_destroy(writer);
    _exit(refused ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a fork's end is %d", status);
  spd_writer_destroy(writer); /* writes what was put */
  spd_survey_close(&s);
  MUST(spd_survey_open(&s, path, error));
  CHECK(s.n_rows == 203, "%d rows", (int)s.n_rows);
  unsigned char *rows = check_alloc(203 * s.row_bytes), *want = check_alloc(s.row_bytes);
  MUST(spd_survey_read(rows, &s, 0, 203, error)); /* checksums fit */
  for (int i = 0; i < 203; i++) {
    survey_file_fill(want, &s, i);
    CHECK(memcmp(rows + (size_t)i * s.row_bytes, want, s.row_bytes - 4) == 0, "row %d differs", i);
  }
  free(rows);
  free(want);
  spd_survey_close(&s);
  /* where writing fails, the error stays, and later chunks are dropped */
  MUST(spd_survey_reopen(&s, path, error));
  MUST(spd_writer_create(&writer, &s, 10, error));
  make_chunk(writer, &s, 203, 10);
  MUST(spd_writer_wait(writer, error));
  const int file = s.file;
  s.file = open("/dev/full", O_RDWR);
  make_chunk(writer, &s, 213, 10);
  CHECK_STATUS(spd_writer_wait(writer, error), SPD_STATUS_IO, "failed");
  unsigned char *buffer;
  CHECK_STATUS(spd_writer_next(&buffer, writer, error), SPD_STATUS_IO, "failed");
  spd_writer_destroy(writer);
  close(s.file);
  s.file = file;
  CHECK(s.n_rows == 213, "%d rows", (int)s.n_rows);
  spd_survey_close(&s);
  unlink(path);
}

int main(void) {
  if (spd_cuda_built() && !test_cuda_here()) return check_end();
  test_columns();
  test_writer();
  backend = test_backend(); /* tests of stages and of refinement vary the order of a played device's threads */
  test_all();
  test_damage();
  backend->ops->destroy(backend);
  return check_end();
}
