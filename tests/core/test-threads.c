/* Forward and backward passes give the same bits for any number of threads, and whatever a buffer held before. */
#include "check.h"
#include "cpu/cpu.h"
#include "cpu/create.h"
#include "small-training.h"

/* ---- forward and gradient ---- */

struct pass {
  double losses[32], dz[32];
  float *gradient, *observed, *stem_gradient;
};

static void run_pass(struct pass *out, const struct spd_network *net, const struct small_data *d, size_t n, size_t capacity, size_t warm_up,
                     int threads) {
  struct spd_backend *backend;
  struct spd_model *model;
  MUST(spd_cpu_create(&backend, threads, error));
  MUST(spd_model_create(&model, net, backend, d->wave_observed, d->wave_rest, capacity, SPD_MODEL_GRADIENT, error));
  MUST(spd_model_set_parameters(model, d->weights, error));
  for (size_t round = warm_up ? 0 : 1; round < 2; round++) {
    size_t count = round == 0 ? warm_up : n;
    double losses[32];
    MUST(spd_model_load(model, d->flux, d->ivar, d->z, count, error));
    MUST(spd_model_encode(model, error));
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    MUST(spd_model_score(model, round == 0 ? losses : out->losses, error));
    MUST(spd_model_backward(model, error));
  }
  out->gradient = check_alloc(net->size * sizeof(float));
  out->observed = check_alloc(n * spd_model_tensor_size(model, SPD_TENSOR_OBSERVED) * sizeof(float));
  out->stem_gradient = check_alloc(n * spd_model_tensor_size(model, SPD_TENSOR_STEM) * sizeof(float));
  MUST(spd_model_get_gradient(out->gradient, model, error));
  MUST(spd_model_read(out->observed, model, SPD_TENSOR_OBSERVED, error));
  MUST(spd_model_read_gradient(out->stem_gradient, model, SPD_TENSOR_STEM, error));
  MUST(spd_model_read_redshift_gradient(out->dz, NULL, model, error));
  spd_model_destroy(model);
  backend->ops->destroy(backend);
}

static void free_pass(struct pass *p) {
  free(p->gradient);
  free(p->observed);
  free(p->stem_gradient);
}

static size_t different(const float *a, const float *b, size_t count) {
  size_t sum = 0;
  for (size_t i = 0; i < count; i++) sum += memcmp(a + i, b + i, sizeof *a) != 0;
  return sum;
}

static void compare(const char *what, const struct spd_network *net, const struct pass *a, const struct pass *b, size_t n) {
  size_t stem = n * net->lengths[1] * net->architecture.filters[0];
  CHECK(memcmp(a->losses, b->losses, n * sizeof(double)) == 0, "%s: losses differ", what);
  CHECK(memcmp(a->dz, b->dz, n * sizeof(double)) == 0, "%s: redshift gradients differ", what);
  CHECK(different(a->observed, b->observed, n * net->architecture.n_observed) == 0, "%s: %zu observed values differ", what,
        different(a->observed, b->observed, n * net->architecture.n_observed));
  CHECK(different(a->gradient, b->gradient, net->size) == 0, "%s: %zu of %zu gradients differ", what,
        different(a->gradient, b->gradient, net->size), net->size);
  CHECK(different(a->stem_gradient, b->stem_gradient, stem) == 0, "%s: %zu of %zu gradients of the stem differ", what,
        different(a->stem_gradient, b->stem_gradient, stem), stem);
}

static void test_passes(const char *name, struct spd_architecture a, size_t n, size_t capacity) {
  struct spd_network net;
  struct pass one, other;
  char what[128];
  MUST(spd_network_init(&net, &a, error));
  struct small_data d = small_data_new(&net, capacity, 77);
  run_pass(&one, &net, &d, n, n, 0, 1);
  for (int threads = 2; threads <= 3; threads++) {
    run_pass(&other, &net, &d, n, n, 0, threads);
    snprintf(what, sizeof what, "%s, 1 and %d threads", name, threads);
    compare(what, &net, &one, &other, n);
    free_pass(&other);
  }
  if (capacity > n) { /* an epoch's last batch: a larger model, its buffers full of another batch */
    run_pass(&other, &net, &d, n, capacity, capacity, 2);
    snprintf(what, sizeof what, "%s, after a larger batch", name);
    compare(what, &net, &one, &other, n);
    free_pass(&other);
  }
  free_pass(&one);
  small_data_free(&d);
}

/* ---- weights that a backend keeps in another form ---- */

static void encode_with(float *latent, struct spd_model *model, const float *weights, const struct small_data *d, size_t n) {
  MUST(spd_model_set_parameters(model, weights, error));
  MUST(spd_model_load(model, d->flux, NULL, d->z, n, error));
  MUST(spd_model_encode(model, error));
  MUST(spd_model_read(latent, model, SPD_TENSOR_LATENT, error));
}

/* New weights of a model, and another model at the same address of the same backend, are not taken for the old ones. */
static void test_kept_weights(void) {
  enum { N = 3 };
  struct spd_network net;
  const struct spd_architecture a = small_architecture();
  MUST(spd_network_init(&net, &a, error));
  struct small_data d[2] = {small_data_new(&net, N, 1), small_data_new(&net, N, 2)};
  float latent[2][N * 64], want[N * 64];
  const size_t bytes = N * a.n_latent * sizeof(float);
  struct spd_backend *backend;
  struct spd_model *model;
  MUST(spd_cpu_create(&backend, 1, error));
  cpu_of(backend)->always_fourier = 1;
  for (int i = 0; i < 3; i++) { /* weights 0; then 1 and 0 in a model that follows */
    if (i < 2) MUST(spd_model_create(&model, &net, backend, d[0].wave_observed, d[0].wave_rest, N, SPD_MODEL_FORWARD, error));
    encode_with(latent[i % 2], model, d[i % 2].weights, &d[0], N);
    if (i == 0) memcpy(want, latent[0], bytes);
    if (i != 1) spd_model_destroy(model);
  }
  CHECK(memcmp(latent[0], latent[1], bytes) != 0, "other weights give the same latents");
  CHECK(memcmp(latent[0], want, bytes) == 0, "weights that were set again give other latents");
  backend->ops->destroy(backend);
  MUST(spd_cpu_create(&backend, 1, error));
  cpu_of(backend)->always_fourier = 1;
  MUST(spd_model_create(&model, &net, backend, d[0].wave_observed, d[0].wave_rest, N, SPD_MODEL_FORWARD, error));
  encode_with(want, model, d[1].weights, &d[0], N);
  CHECK(memcmp(latent[1], want, bytes) == 0, "a model that follows another on a backend has its weights");
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  small_data_free(&d[0]), small_data_free(&d[1]);
}

int main(void) {
  struct spd_architecture a = small_architecture();
  test_passes("small", a, 5, 9);
  a.weight_attention = 1, a.lsf = 0;
  test_passes("weight attention", a, 5, 9);
  a = small_architecture(); /* wide and long enough that every stage has several pieces */
  a.n_observed = 1500, a.n_rest = 2100;
  a.filters[0] = 70, a.filters[1] = 150, a.filters[2] = 200, a.kernels[1] = 11, a.pools[1] = 3;
  a.encoder_hidden[0] = 140, a.decoder_hidden[1] = 600;
  test_passes("wide", a, 7, 11);
  test_kept_weights();
  return check_end();
}
