/* The whole small network against finite differences: of every parameter tensor, of the latents, of the redshift through the
 * transformation and through the encoder, and of gradients given at the observed frame. Models are float32, so a
 * derivative is taken along directions of strong signal, at several steps. */
#include "check.h"
#include "cuda-devices.h"
#include "cuda/create.h"
#include "network/invariance.h"
#include "small-network.h"

enum { N = 4, DIRECTIONS = 3, RUNGS = 6 };

struct problem {
  const char *name;
  struct spd_network net;
  struct spd_model *model;
  struct small_data data;
  const float *bands;                /* NULL: without resolutions */
  struct spd_invariance *invariance; /* NULL: the loss is the fidelity alone */
  const struct spd_invariance_options *options;
};

enum { EPOCH = 3 }; /* of the losses of invariance */

static double mean_of(const double *x, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += x[i];
  return sum / (double)n;
}

static void observe(struct problem *p) {
  MUST(spd_model_decode(p->model, error));
  MUST(spd_model_observe(p->model, error));
}

static double loss_now(struct problem *p) {
  double losses[N];
  observe(p);
  MUST(spd_model_score(p->model, losses, error));
  if (!p->invariance) return mean_of(losses, N);
  double similarity, consistency;
  MUST(spd_invariance_losses(p->invariance, EPOCH, error));
  MUST(spd_invariance_read(&similarity, &consistency, p->invariance, error));
  return mean_of(losses, N) + p->options->similarity * similarity + p->options->consistency * consistency;
}

static double loss_of(struct problem *p, const float *weights) {
  MUST(spd_model_set_parameters(p->model, weights, error));
  MUST(spd_model_load(p->model, p->data.flux, p->data.ivar, p->data.z, N, error));
  if (p->bands) MUST(spd_model_load_bands(p->model, p->bands, error));
  if (p->invariance) {
    MUST(spd_invariance_begin(p->invariance, (const uint64_t[]){11, 12, 13, 14}, N, EPOCH, error));
    MUST(spd_invariance_copy(p->invariance, error));
  }
  MUST(spd_model_encode(p->model, error));
  return loss_now(p);
}

/* Central differences at a ladder of steps from h down: wide steps meet the kinks of PReLU and max-pool, narrow ones the noise of
 * float32, so the rung nearest to what is expected is returned. A wrong gradient is far from all of them. `evaluate` gets the
 * signed step. */
static double derivative(double (*evaluate)(void *, double), void *context, double h, double expected) {
  double nearest = HUGE_VAL;
  for (int rung = 0; rung < RUNGS; rung++, h /= 2.5) {
    double here = (evaluate(context, h) - evaluate(context, -h)) / (2 * h);
    if (fabs(here - expected) < fabs(nearest - expected)) nearest = here;
    if (fabs(nearest - expected) < 2e-3 * fabs(expected)) break;
  }
  return nearest;
}

struct along {
  struct problem *problem;
  const float *base;
  const double *direction;
  float *moved;
  size_t offset, count, size;
};

static double along_weights(void *context, double step) {
  struct along *a = context;
  memcpy(a->moved, a->base, a->size * sizeof *a->moved);
  for (size_t i = 0; i < a->count; i++) a->moved[a->offset + i] = (float)((double)a->base[a->offset + i] + step * a->direction[i]);
  return loss_of(a->problem, a->moved);
}

static void compare(const char *network, const char *what, double found, double wanted) {
  const struct check_tolerance *t = tolerance_for("finite difference");
  CHECK(fabs(found - wanted) <= t->atol + t->rtol * fabs(wanted), "%s, %s: gradient %.6g, finite difference %.6g (%.2g relative)", network,
        what, found, wanted, fabs(found / wanted - 1));
}

static void test_parameters(struct problem *p) {
  const size_t size = p->net.size;
  float *gradient = check_alloc(size * sizeof *gradient), *moved = check_alloc(size * sizeof *moved);
  double loss = loss_of(p, p->data.weights);
  MUST(spd_model_backward(p->model, error));
  MUST(spd_model_get_gradient(gradient, p->model, error));
  size_t gaps = 0, end = 0;
  for (size_t t = 0; t < p->net.n_parameters; t++) {
    const struct spd_parameter *q = &p->net.parameters[t];
    for (; end < q->offset; end++) gaps += gradient[end] != 0;
    end = q->offset + q->count;
    if (q->role == SPD_PARAMETER_CONV_BIAS) { /* the norm removes it: no arithmetic, gradient zero */
      for (size_t i = 0; i < q->count; i++) gaps += gradient[q->offset + i] != 0;
      continue;
    }
    for (uint64_t d = 0; d < DIRECTIONS; d++) { /* the gradient itself, then random halves of it */
      double *direction = check_alloc(q->count * sizeof *direction), norm = 0, length = 0, predicted = 0;
      for (size_t i = 0; i < q->count; i++) {
        double g = (double)gradient[q->offset + i];
        direction[i] = d == 0 || q->count == 1 || spd_uniform(d, t, i) < 0.5f ? g : 0;
        norm += direction[i] * direction[i];
        length += (double)p->data.weights[q->offset + i] * (double)p->data.weights[q->offset + i];
      }
      norm = sqrt(norm), length = sqrt(length);
      if (norm > 0) {
        for (size_t i = 0; i < q->count; i++) {
          direction[i] /= norm;
          predicted += direction[i] * (double)gradient[q->offset + i];
        }
        struct along a = {p, p->data.weights, direction, moved, q->offset, q->count, size};
        double h = 5e-4 * loss / predicted;
        if (h > 0.02 * (length + 0.1)) h = 0.02 * (length + 0.1);
        compare(p->name, q->name, predicted, derivative(along_weights, &a, h, predicted));
      }
      CHECK(norm > 0 || d > 0, "%s: the gradient of %s is zero", p->name, q->name);
      free(direction);
    }
  }
  CHECK(gaps == 0, "%s: %zu gradients of gaps and convolution biases are not zero", p->name, gaps);
  free(gradient);
  free(moved);
}

struct latent_step {
  struct problem *problem;
  const float *latent;
  const double *direction;
};

static double along_latents(void *context, double step) {
  struct latent_step *a = context;
  float moved[N * 8];
  const size_t s = a->problem->net.architecture.n_latent;
  for (size_t i = 0; i < N * s; i++) moved[i] = (float)((double)a->latent[i] + step * a->direction[i]);
  MUST(spd_model_set_latent(a->problem->model, moved, N, error));
  return loss_now(a->problem);
}

static void test_latents(struct problem *p) {
  const size_t s = p->net.architecture.n_latent;
  float latent[N * 8], gradient[N * 8];
  double direction[N * 8], norm = 0, predicted = 0;
  double loss = loss_of(p, p->data.weights);
  MUST(spd_model_read(latent, p->model, SPD_TENSOR_LATENT, error));
  MUST(spd_model_backward(p->model, error));
  MUST(spd_model_read_gradient(gradient, p->model, SPD_TENSOR_LATENT, error));
  for (int half = 0; half < 2; half++) {
    norm = predicted = 0;
    for (size_t i = 0; i < N * s; i++) {
      direction[i] = half == 0 || i % 2 ? (double)gradient[i] : 0;
      norm += direction[i] * direction[i];
    }
    for (size_t i = 0; i < N * s; i++) {
      direction[i] /= sqrt(norm);
      predicted += direction[i] * (double)gradient[i];
    }
    struct latent_step a = {p, latent, direction};
    compare(p->name, "latents", predicted, derivative(along_latents, &a, 5e-4 * loss / predicted, predicted));
  }
}

struct redshift_step {
  struct problem *problem;
  const float *latent; /* through the transformation: held; NULL: through the encoder */
  size_t spectrum;
  double moved; /* what float32 made of the step */
};

static double along_redshift(void *context, double step) {
  struct redshift_step *a = context;
  struct problem *p = a->problem;
  float z[N], latent[N * 8];
  memcpy(z, p->data.z, sizeof z);
  z[a->spectrum] = (float)((double)z[a->spectrum] + step);
  a->moved = (double)z[a->spectrum] - (double)p->data.z[a->spectrum];
  MUST(spd_model_load(p->model, p->data.flux, p->data.ivar, z, N, error));
  if (a->latent)
    MUST(spd_model_set_latent(p->model, a->latent, N, error));
  else {
    MUST(spd_model_encode(p->model, error));
    MUST(spd_model_read(latent, p->model, SPD_TENSOR_LATENT, error));
    MUST(spd_model_load(p->model, p->data.flux, p->data.ivar, p->data.z, N, error));
    MUST(spd_model_set_latent(p->model, latent, N, error));
  }
  return loss_now(p);
}

/* Does any observed pixel pass a node of the restframe grid between z - h and z + h? There the derivative jumps. */
static int crosses_node(const struct problem *p, double z, double h) {
  const struct spd_architecture *a = &p->net.architecture;
  for (size_t m = 0; m < a->n_observed; m++) {
    double low = (double)p->data.wave_observed[m] / (1 + z + h), high = (double)p->data.wave_observed[m] / (1 + z - h);
    for (size_t r = 0; r < a->n_rest; r++)
      if ((double)p->data.wave_rest[r] >= low && (double)p->data.wave_rest[r] <= high) return 1;
  }
  return 0;
}

static void test_redshift(struct problem *p) {
  double transform[N], encoder[N];
  float latent[N * 8];
  /* small steps that meet no node: widen from what float32 can still resolve */
  for (size_t i = 0; i < N; i++)
    while (crosses_node(p, (double)p->data.z[i], 6e-6)) p->data.z[i] += 1e-5f;
  loss_of(p, p->data.weights);
  MUST(spd_model_read(latent, p->model, SPD_TENSOR_LATENT, error));
  MUST(spd_model_backward(p->model, error));
  MUST(spd_model_read_redshift_gradient(transform, encoder, p->model, error));
  const struct check_tolerance *t = tolerance_for("finite difference");
  double scale = 0;
  for (size_t i = 0; i < N; i++) scale = fmax(scale, fabs(transform[i]));
  for (size_t i = 0; i < N; i++) {
    struct redshift_step a = {p, latent, i, 0};
    const double h = 5e-6;
    double above = along_redshift(&a, h), up = a.moved, below = along_redshift(&a, -h), down = a.moved;
    double wanted = (above - below) / (up - down);
    /* float32 losses leave noise of 1e-7 loss / h */
    CHECK(fabs(transform[i] - wanted) <= t->rtol * scale + 1e-8 * above / h,
          "%s: d loss / d z[%zu] through the transformation %.6g, finite difference %.6g", p->name, i, transform[i], wanted);
  }
  if (!p->net.architecture.redshift_input) {
    for (size_t i = 0; i < N; i++) CHECK(encoder[i] == 0, "%s: the encoder does not see z, yet its gradient is %g", p->name, encoder[i]);
    return;
  }
  for (size_t i = 0; i < N; i++) {
    struct redshift_step a = {p, NULL, i, 0};
    double loss = along_redshift(&a, 0), h = 2e-4 * loss / fabs(encoder[i]);
    if (h > 0.02) h = 0.02;
    compare(p->name, "z through the encoder", encoder[i], derivative(along_redshift, &a, h, encoder[i]));
  }
}

/* sum of g * observed as a function of the latents, from a gradient given at the observed frame or at the restframe */
static double projection(struct problem *p, spd_tensor tensor, const float *g) {
  const size_t count = N * spd_model_tensor_size(p->model, tensor);
  float *values = check_alloc(count * sizeof *values);
  double sum = 0;
  MUST(spd_model_read(values, p->model, tensor, error));
  for (size_t i = 0; i < count; i++) sum += (double)g[i] * ((double)values[i] - 1);
  free(values);
  return sum;
}

struct projected_step {
  struct problem *problem;
  const float *latent, *g;
  const double *direction;
  spd_tensor tensor;
};

static double along_projection(void *context, double step) {
  struct projected_step *a = context;
  const size_t s = a->problem->net.architecture.n_latent;
  float moved[N * 8];
  for (size_t i = 0; i < N * s; i++) moved[i] = (float)((double)a->latent[i] + step * a->direction[i]);
  MUST(spd_model_set_latent(a->problem->model, moved, N, error));
  observe(a->problem);
  return projection(a->problem, a->tensor, a->g);
}

static void test_backward_from(struct problem *p) {
  const size_t s = p->net.architecture.n_latent;
  const spd_tensor tensors[] = {SPD_TENSOR_REST, SPD_TENSOR_OBSERVED};
  float latent[N * 8], gradient[N * 8];
  for (size_t k = 0; k < 2; k++) {
    const size_t count = N * spd_model_tensor_size(p->model, tensors[k]);
    float *g = check_alloc(count * sizeof *g);
    for (size_t i = 0; i < count; i++) g[i] = spd_uniform(9, k, i) - 0.3f;
    loss_of(p, p->data.weights);
    MUST(spd_model_read(latent, p->model, SPD_TENSOR_LATENT, error));
    MUST(spd_model_backward_from(p->model, tensors[k], g, SPD_TENSOR_LATENT, error));
    MUST(spd_model_read_gradient(gradient, p->model, SPD_TENSOR_LATENT, error));
    double direction[N * 8], norm = 0;
    for (size_t i = 0; i < N * s; i++) norm += (double)gradient[i] * (double)gradient[i];
    for (size_t i = 0; i < N * s; i++) direction[i] = (double)gradient[i] / sqrt(norm);
    struct projected_step a = {p, latent, g, direction, tensors[k]};
    compare(p->name, k ? "gradient given at the observed frame" : "gradient given at the restframe", sqrt(norm),
            derivative(along_projection, &a, 2e-2, sqrt(norm)));
    free(g);
  }
  /* what a whole backward leaves at the encoder's tensors is what the same gradient from the latents leaves there */
  const spd_tensor below[] = {SPD_TENSOR_STEM, SPD_TENSOR_BLOCK, SPD_TENSOR_SEGMENTS, SPD_TENSOR_ATTENTION, SPD_TENSOR_FEATURE};
  for (size_t k = 0; k < sizeof below / sizeof *below; k++) {
    const size_t bytes = N * spd_model_tensor_size(p->model, below[k]) * sizeof(float);
    float *whole = check_alloc(bytes), *part = check_alloc(bytes);
    loss_of(p, p->data.weights);
    MUST(spd_model_backward(p->model, error));
    MUST(spd_model_read_gradient(whole, p->model, below[k], error));
    MUST(spd_model_read_gradient(gradient, p->model, SPD_TENSOR_LATENT, error));
    loss_of(p, p->data.weights);
    MUST(spd_model_backward_from(p->model, SPD_TENSOR_LATENT, gradient, below[k], error));
    MUST(spd_model_read_gradient(part, p->model, below[k], error));
    double largest = 0;
    for (size_t i = 0; i < bytes / sizeof *whole; i++) largest = fmax(largest, fabs((double)whole[i]));
    CHECK(memcmp(whole, part, bytes) == 0 && largest > 0, "%s: gradients at tensor %d differ between backward and backward_from", p->name,
          (int)below[k]);
    free(whole);
    free(part);
  }
  float g[N * 8] = {0};
  CHECK_STATUS(spd_model_backward_from(p->model, SPD_TENSOR_FEATURE, g, SPD_TENSOR_STEM, error), SPD_STATUS_INVALID, "gradient");
}

static void test_resolved(const char *name, struct spd_architecture a, uint64_t seed, const struct spd_band *band) {
  struct problem p = {.name = name};
  struct spd_backend *backend = test_backend();
  MUST(spd_network_init(&p.net, &a, error));
  p.data = small_data_new(&p.net, N, seed);
  /* room for more spectra than the batch holds, as in an epoch's last batch */
  MUST(spd_model_create_with_resolution(&p.model, &p.net, backend, p.data.wave_observed, p.data.wave_rest, N + 3, SPD_MODEL_GRADIENT, band,
                                        error));
  float *bands = band ? small_resolutions(band, N, a.n_observed, seed) : NULL;
  p.bands = bands;
  test_parameters(&p);
  test_latents(&p);
  test_redshift(&p);
  test_backward_from(&p);
  spd_model_destroy(p.model);
  backend->ops->destroy(backend);
  free(bands);
  small_data_free(&p.data);
}

static void test_network(const char *name, struct spd_architecture a, uint64_t seed) { test_resolved(name, a, seed, NULL); }

/* All parameters, through similarity and consistency too. With copies there are more kinks: of 60 seeds, 56 have none within the steps of
 * every direction; these are three of them. */
static void test_invariance(const char *name, struct spd_architecture a, uint64_t seed, int scale_free, double fraction) {
  const struct spd_invariance_options options = {.scale_free = scale_free,
                                                 .similarity = 2,
                                                 .consistency = 3,
                                                 .sigma = scale_free ? 1 : 0.3,
                                                 .amplitude = 20,
                                                 .width = 1000,
                                                 .median_from = 3500,
                                                 .median_to = 5500,
                                                 .fraction = fraction,
                                                 .z_low = 0,
                                                 .z_high = 0.4,
                                                 .noisy = 0.05,
                                                 .noise = 0.2,
                                                 .masked = 0.05,
                                                 .slope = 2,
                                                 .period = 5,
                                                 .free_from = 9};
  struct problem p = {.name = name, .options = &options};
  struct spd_backend *backend = test_backend();
  MUST(spd_network_init(&p.net, &a, error));
  p.data = small_data_new(&p.net, N, seed);
  MUST(spd_model_create(&p.model, &p.net, backend, p.data.wave_observed, p.data.wave_rest, 2 * N + 1, SPD_MODEL_TRAIN, error));
  MUST(spd_invariance_create(&p.invariance, p.model, &options, N + 1, N, error));
  test_parameters(&p);
  spd_invariance_destroy(p.invariance);
  spd_model_destroy(p.model);
  backend->ops->destroy(backend);
  small_data_free(&p.data);
}

int main(void) {
  struct spd_architecture a = small_architecture();
  if (spd_cuda_built() && !test_cuda_here()) return check_end();
  test_network("Speculator, redshift input, LSF", a, 1);
  a.lsf = 0, a.redshift_input = 0;
  test_network("Speculator", a, 2);
  a.decoder_activation = SPD_ACTIVATION_LEAKY, a.decoder_offset = 0, a.redshift_input = 1;
  test_network("leaky ReLU, redshift input, no offset", a, 3);
  a = small_architecture();
  a.n_calibration = 3, a.calibration_sd[0] = 0.5, a.calibration_sd[1] = 0.2, a.calibration_sd[2] = 0.1;
  test_network("calibration, LSF", a, 6);
  a.lsf = 0;
  test_resolved("Gaussians, calibration", a, 7, &(struct spd_band){7, 16, 1});
  a.n_calibration = 0;
  test_resolved("bands", a, 38, &(struct spd_band){5, 3, 0});
  a = small_architecture();
  a.weight_attention = 1;
  test_network("weight attention, redshift input, LSF", a, 4);
  a.lsf = 0, a.redshift_input = 0, a.decoder_activation = SPD_ACTIVATION_LEAKY;
  test_network("weight attention, leaky ReLU", a, 5);
  a = small_architecture();
  test_invariance("scale-free invariance, redshift input", a, 21, 1, 1);
  a.redshift_input = 0;
  test_invariance("scale-free invariance, half of the copies", a, 22, 1, 0.5);
  a.weight_attention = 1;
  test_invariance("published invariance, weight attention", a, 23, 0, 1);
  return check_end();
}
