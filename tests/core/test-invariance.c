/* Augmented copies, the losses of redshift invariance, and sums and norms of gradients, on each backend against float64 vectors. */
#include "stage-buffers.h"

static void test_similarity(const struct vector_case *c) {
  const size_t n = vectors_size(c, "n"), rest = vectors_size(c, "n_rest"), latents = vectors_size(c, "n_latent");
  struct spd_similarity s = {.n_rest = rest,
                             .n_latent = latents,
                             .from = vectors_size(c, "start"),
                             .to = vectors_size(c, "end"),
                             .scale_free = (int)vectors_number(c, "scale_free"),
                             .slope = vectors_number(c, "slope"),
                             .factor = vectors_number(c, "factor")};
  s.root = new_floats(vectors_array(c, "root"), rest);
  s.rest = new_floats(vectors_array(c, "rest"), n * rest);
  s.latent = new_floats(vectors_array(c, "latent"), n * latents);
  s.median = new_floats(NULL, n);
  s.middle = new_bytes(n * sizeof *s.middle);
  s.centred = new_floats(NULL, n * rest);
  s.spectral = new_floats(NULL, n * n);
  s.distance = new_floats(NULL, n * n);
  s.sums = new_bytes((2 * n + 4) * sizeof *s.sums);
  s.loss = new_bytes(n * sizeof *s.loss);
  s.drest = new_floats(NULL, n * rest);
  s.dlatent = new_floats(NULL, n * latents);
  OPS(similarity_forward, &s, n);
  check_doubles_of(c, "loss", s.loss, "similarity");
  OPS(similarity_backward, &s, n);
  check_floats(c, "drest", s.drest, "similarity gradient");
  check_floats(c, "dlatent", s.dlatent, "similarity gradient");
}

static void test_consistency(const struct vector_case *c) {
  const size_t n = vectors_size(c, "n"), copies = vectors_size(c, "copies"), latents = vectors_size(c, "n_latent");
  struct spd_consistency s = {.n_latent = latents,
                              .copies = copies,
                              .scale_free = (int)vectors_number(c, "scale_free"),
                              .sigma = vectors_number(c, "sigma"),
                              .factor = vectors_number(c, "factor")};
  const float *latent = new_floats(vectors_array(c, "latent"), n * latents), *copy = new_floats(vectors_array(c, "copy"), copies * latents);
  s.latent = latent, s.copy = copy;
  s.loss = new_bytes(copies * sizeof *s.loss);
  s.dlatent = new_floats(NULL, n * latents);
  s.dcopy = new_floats(NULL, copies * latents);
  OPS(consistency_forward, &s, n);
  check_doubles_of(c, "loss", s.loss, "consistency");
  OPS(consistency_backward, &s, n);
  check_floats(c, "dlatent", s.dlatent, "consistency gradient");
  check_floats(c, "dcopy", s.dcopy, "consistency gradient");
}

static void test_augment(const struct vector_case *c) {
  const size_t n = vectors_size(c, "n"), m = vectors_size(c, "n_observed");
  const double *key = vectors_array(c, "key");
  uint64_t host[16], *keys = new_bytes(sizeof host);
  for (size_t i = 0; i < n; i++) host[i] = (uint64_t)key[i];
  MUST(backend->ops->upload(backend, keys, host, n * sizeof *host, error));
  struct spd_augment a = {.n_observed = m,
                          .z_low = vectors_number(c, "z_low"),
                          .z_high = vectors_number(c, "z_high"),
                          .noisy = vectors_number(c, "noisy"),
                          .noise = vectors_number(c, "noise"),
                          .masked = vectors_number(c, "masked"),
                          .key = keys};
  a.wave_observed = new_floats(vectors_array(c, "wave_observed"), m);
  a.flux = new_floats(vectors_array(c, "flux"), n * m);
  a.ivar = new_floats(vectors_array(c, "ivar"), n * m);
  a.z = new_floats(vectors_array(c, "z"), n);
  a.to_flux = new_floats(NULL, n * m);
  a.to_ivar = new_floats(NULL, n * m);
  a.to_z = new_floats(NULL, n);
  OPS(augment, &a, n);
  check_floats(c, "to_flux", a.to_flux, "augment");
  check_floats(c, "to_ivar", a.to_ivar, "augment");
  check_floats(c, "to_z", a.to_z, "augment");
}

/* Gradients are added, and those with a norm above the limit keep their direction. */
static void test_add_and_clip(void) {
  enum { COUNT = 150001 };
  double *x = check_alloc(COUNT * sizeof *x), *want = check_alloc(COUNT * sizeof *want), squares = 0;
  for (size_t i = 0; i < COUNT; i++) x[i] = (double)((float)(i % 17) - 7.5f), squares += x[i] * x[i];
  for (int clipped = 0; clipped < 2; clipped++) {
    const double norm = sqrt(squares), limit = clipped ? 0.1 * norm : 1.01 * norm;
    float *g = new_floats(x, COUNT), *y = new_floats(x, COUNT);
    OPS(clip, g, limit, COUNT);
    for (size_t i = 0; i < COUNT; i++) want[i] = x[i] * (clipped ? 0.1 : 1);
    double *got = download(g, COUNT);
    CHECK_CLOSE("a clipped gradient", got, want, COUNT, tolerance_for("adam"));
    free(got);
    OPS(add, y, g, COUNT);
    for (size_t i = 0; i < COUNT; i++) want[i] += x[i];
    got = download(y, COUNT);
    CHECK_CLOSE("a sum of gradients", got, want, COUNT, tolerance_for("adam"));
    free(got);
  }
  free(x);
  free(want);
  free_all();
}

/* An average goes a fraction of the way; two arrays change places bit by bit. */
static void test_average_and_exchange(void) {
  enum { COUNT = 150001 };
  double *x = check_alloc(COUNT * sizeof *x), *mean = check_alloc(COUNT * sizeof *mean), *want = check_alloc(COUNT * sizeof *want);
  for (size_t i = 0; i < COUNT; i++) x[i] = (double)((float)(i % 17) - 7.5f), mean[i] = (double)(i % 13);
  for (size_t i = 0; i < COUNT; i++) want[i] = mean[i] + 0.3 * (x[i] - mean[i]);
  float *p = new_floats(x, COUNT), *m = new_floats(mean, COUNT);
  OPS(average, m, p, 0.3f, COUNT);
  double *got = download(m, COUNT);
  CHECK_CLOSE("an average", got, want, COUNT, tolerance_for("adam"));
  OPS(exchange, p, m, COUNT);
  double *first = download(p, COUNT), *second = download(m, COUNT);
  CHECK(memcmp(first, got, COUNT * sizeof *got) == 0 && memcmp(second, x, COUNT * sizeof *x) == 0, "two arrays did not change places");
  free(got);
  free(first);
  free(second);
  free(x);
  free(mean);
  free(want);
  free_all();
}

static void test_all(const char *folder) {
  static const struct stage_test tests[] = {{"similarity", test_similarity}, {"consistency", test_consistency}, {"augment", test_augment}};
  test_vectors(tests, sizeof tests / sizeof *tests, folder);
  test_add_and_clip();
  test_average_and_exchange();
}

int main(int argc, char **argv) {
  on_every_backend(test_all, argc > 1 ? argv[1] : NULL);
  return check_end();
}
