/* Buffers on a backend for tests of single stages, checks of what a stage made, and the backends that the tests run on. What a stage writes
 * is NaN before (gap rows: zero), so a forgotten element, an accumulation or a write into a gap shows. */
#ifndef SPD_TEST_STAGE_BUFFERS_H
#define SPD_TEST_STAGE_BUFFERS_H

#include "cpu/cpu.h"
#include "cpu/create.h"
#include "cuda-devices.h"
#include "cuda/create.h"
#include "network/backend.h"
#include "network/scalar.h"
#include "tolerances.h"
#include "vectors.h"

static struct spd_backend *backend;
static void *owned[128];
static size_t n_owned;
static char label[160];

#define OPS(stage, ...)                                     \
  do {                                                      \
    MUST(backend->ops->enter(backend, error));              \
    MUST(backend->ops->stage(backend, __VA_ARGS__, error)); \
    backend->ops->leave(backend);                           \
  } while (0)

CHECK_UNUSED static const char *label_of(const struct vector_case *c, const char *what) {
  snprintf(label, sizeof label, "%s %s", c->name, what);
  return label;
}

CHECK_UNUSED static void *new_bytes(size_t bytes) {
  void *p;
  MUST(backend->ops->alloc(backend, &p, bytes, error));
  if (n_owned == sizeof owned / sizeof *owned) exit(2);
  owned[n_owned++] = p;
  return p;
}

CHECK_UNUSED static void free_all(void) {
  while (n_owned) backend->ops->free(backend, owned[--n_owned]);
}

/* values NULL: NaN */
CHECK_UNUSED static float *new_floats(const double *values, size_t count) {
  float *host = check_alloc((count + 1) * sizeof *host), *p = new_bytes(count * sizeof *host);
  for (size_t i = 0; i < count; i++) host[i] = values ? (float)values[i] : NAN;
  MUST(backend->ops->upload(backend, p, host, count * sizeof *host, error));
  free(host);
  return p;
}

/* A plane of these host values, which are freed; stored with `scale` where planes have one */
CHECK_UNUSED static struct spd_plane new_plane(float *host, size_t count, float scale) {
  float *wide = new_bytes(count * sizeof *host);
  struct spd_plane plane = {new_bytes(count * backend->plane_width), new_bytes(sizeof(float))};
  MUST(backend->ops->upload(backend, wide, host, count * sizeof *host, error));
  MUST(backend->ops->narrow(backend, plane, wide, scale, count, error));
  free(host);
  return plane;
}

/* (n, length, channels) into gap-padded rows; values NULL: NaN at the positions */
CHECK_UNUSED static struct spd_plane new_rows(const double *values, const struct spd_rows *rows, size_t n, float scale) {
  size_t size = spd_rows_size(rows, n);
  float *host = check_alloc(size * sizeof *host);
  for (size_t i = 0; i < n; i++)
    for (size_t l = 0; l < rows->length; l++)
      for (size_t c = 0; c < rows->channels; c++)
        host[(rows->lead + i * rows->stride + l) * rows->channels + c] =
            values ? (float)values[(i * rows->length + l) * rows->channels + c] : NAN;
  return new_plane(host, size, values ? scale : 1);
}

/* Elements of a plane without gaps; values NULL: NaN */
CHECK_UNUSED static struct spd_plane new_elements(const double *values, size_t count) {
  float *host = check_alloc((count + 1) * sizeof *host);
  for (size_t i = 0; i < count; i++) host[i] = values ? (float)values[i] : NAN;
  return new_plane(host, count, 1);
}

CHECK_UNUSED static double *download(const float *p, size_t count) {
  float *host = check_alloc((count + 1) * sizeof *host);
  MUST(backend->ops->synchronize(backend, error));
  MUST(backend->ops->download(backend, host, p, count * sizeof *host, error));
  double *values = check_doubles(host, count);
  free(host);
  return values;
}

/* The array of this name, or the one that planes of the present precision make, where the case has one */
CHECK_UNUSED static const struct vector_item *wanted(const struct vector_case *c, const char *what) {
  char own[80];
  const struct vector_item *item = NULL;
  if (tolerance_precision) snprintf(own, sizeof own, "%s-%s", what, tolerance_precision), item = vectors_find(c, own);
  return item ? item : vectors_find(c, what);
}

CHECK_UNUSED static void check_floats(const struct vector_case *c, const char *what, const float *p, const char *tolerance) {
  const struct vector_item *want = wanted(c, what);
  double *got = download(p, want->count);
  CHECK_TOLERATED(label_of(c, what), got, want->values, want->count, tolerance);
  free(got);
}

CHECK_UNUSED static double *download_plane(struct spd_plane plane, size_t count) {
  float *wide = new_bytes(count * sizeof *wide);
  MUST(backend->ops->widen(backend, wide, plane, count, error));
  return download(wide, count);
}

CHECK_UNUSED static void check_elements(const struct vector_case *c, const char *what, struct spd_plane plane, const char *tolerance) {
  const struct vector_item *want = wanted(c, what);
  double *got = download_plane(plane, want->count);
  CHECK_TOLERATED(label_of(c, what), got, want->values, want->count, tolerance);
  free(got);
}

CHECK_UNUSED static void check_doubles_of(const struct vector_case *c, const char *what, const double *p, const char *tolerance) {
  const struct vector_item *want = wanted(c, what);
  double *got = check_alloc(want->count * sizeof *got);
  MUST(backend->ops->synchronize(backend, error));
  MUST(backend->ops->download(backend, got, p, want->count * sizeof *got, error));
  CHECK_CLOSE(label_of(c, what), got, want->values, want->count, tolerance_for(tolerance));
  free(got);
}

enum gaps { GAPS_ZERO, GAPS_ANYTHING };

CHECK_UNUSED static void check_rows(const struct vector_case *c, const char *what, struct spd_plane plane, const struct spd_rows *rows,
                                    size_t n, enum gaps gaps, const char *tolerance) {
  size_t size = spd_rows_size(rows, n), count = n * rows->length * rows->channels, at = 0, touched = 0;
  double *all = download_plane(plane, size), *got = check_alloc(count * sizeof *got);
  for (size_t row = 0; row < size / rows->channels; row++) {
    size_t l = (row - rows->lead) % rows->stride;
    int is_position = row >= rows->lead && (row - rows->lead) / rows->stride < n && l < rows->length;
    for (size_t i = 0; i < rows->channels; i++) {
      double value = all[row * rows->channels + i];
      if (is_position)
        got[at++] = value;
      else
        touched += value != 0;
    }
  }
  CHECK_TOLERATED(label_of(c, what), got, wanted(c, what)->values, count, tolerance);
  if (gaps == GAPS_ZERO) CHECK(touched == 0, "%s: %zu elements of gap rows are not zero", label_of(c, what), touched);
  free(all);
  free(got);
}

struct stage_test {
  const char *file; /* of its vectors */
  void (*test)(const struct vector_case *);
};

CHECK_UNUSED static void test_vectors(const struct stage_test *tests, size_t n, const char *folder) {
  for (size_t i = 0; i < n; i++) {
    struct vectors v;
    vectors_read(&v, folder, tests[i].file);
    for (size_t j = 0; j < v.n_cases; j++) {
      tests[i].test(&v.cases[j]);
      free_all();
    }
    CHECK(v.n_cases > 0, "no vectors for %s", tests[i].file);
    vectors_free(&v);
  }
}

/* Calls test_all(folder) for each `backend`; 0 where there is none */
CHECK_UNUSED static int on_every_backend(void (*test_all)(const char *folder), const char *folder) {
  if (spd_cuda_built()) {
    if (!test_cuda_here()) return 0;
    for (int precision = 0; precision < SPD_PRECISIONS && test_precision(precision); precision++)
      /* orders have nothing to do with the type of planes: all in fp32 and fp16, one each for the others */
      for (int order = precision % 3 % TEST_ORDERS; order < TEST_ORDERS && test_order(order) && test_little_shared(order == 1);
           order += precision == SPD_PRECISION_FP32 || precision == SPD_PRECISION_FP16 ? 1 : TEST_ORDERS) {
        MUST(spd_cuda_create(&backend, (spd_precision)precision, error));
        test_all(folder);
        backend->ops->destroy(backend);
      }
    return 1;
  }
  /* each instruction set, with one to three threads; the last time with convolutions in the frequency domain, which small ones
   * are not by themselves */
  for (size_t run = 0; cpu_kernels_available(run / 3); run++) {
    MUST(spd_cpu_create(&backend, (int)(run % 3) + 1, error));
    cpu_of(backend)->kernels = cpu_kernels_available(run / 3);
    cpu_of(backend)->always_fourier = run % 3 == 2;
    test_all(folder);
    backend->ops->destroy(backend);
  }
  return 1;
}

#endif
