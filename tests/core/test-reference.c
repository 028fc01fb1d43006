/* The whole network against tensors of an independent float64 implementation: SPENDER_REFERENCE or ../shared/reference holds
 * tiny.safetensors and paper.safetensors (its README says what is in them). Without the folder the tests skip. */
#include <unistd.h>

#include "check.h"
#include "core/rng.h"
#include "cpu/cpu.h"
#include "cuda-devices.h"
#include "cuda/create.h"
#include "data/safetensors.h"
#include "network/model.h"
#include "small-network.h"

static struct spd_safetensors *file;

static const struct spd_safetensors_tensor *need(const char *name) {
  const struct spd_safetensors_tensor *t = spd_safetensors_find(file, name);
  if (!t) {
    check_fail(__FILE__, __LINE__, "%s has no tensor %s", file->path, name);
    exit(check_end());
  }
  return t;
}

static float *floats_of(const char *name) {
  const struct spd_safetensors_tensor *t = need(name);
  float *values = check_alloc(t->count * sizeof *values);
  MUST(spd_safetensors_read_float(values, file, t, error));
  return values;
}

static double *doubles_of(const char *name) {
  const struct spd_safetensors_tensor *t = need(name);
  double *values = check_alloc(t->count * sizeof *values);
  MUST(spd_safetensors_read_double(values, file, t, error));
  return values;
}

static size_t count_of(const char *name) { return need(name)->count; }

/* (n, length, channels) -> (n, channels, length), PyTorch's order */
static void channels_first(double *to, const float *from, size_t n, size_t length, size_t channels) {
  for (size_t i = 0; i < n; i++)
    for (size_t l = 0; l < length; l++)
      for (size_t c = 0; c < channels; c++) to[(i * channels + c) * length + l] = (double)from[(i * length + l) * channels + c];
}

static void check_tensor(struct spd_model *model, spd_tensor tensor, size_t n, size_t channels, const char *name) {
  const size_t size = spd_model_tensor_size(model, tensor), count = n * size;
  float *values = check_alloc(count * sizeof *values);
  double *got = check_alloc(count * sizeof *got), *want = doubles_of(name);
  CHECK(count == count_of(name), "%s: %zu values, wanted %zu", name, count, count_of(name));
  MUST(spd_model_read(values, model, tensor, error));
  if (channels)
    channels_first(got, values, n, size / channels, channels);
  else
    for (size_t i = 0; i < count; i++) got[i] = (double)values[i];
  CHECK_CLOSE(name, got, want, count, tolerance_for("reference"));
  free(values);
  free(got);
  free(want);
}

static void check_forward(struct spd_model *model, size_t n) {
  const struct spd_network *net = spd_model_network(model);
  check_tensor(model, SPD_TENSOR_ATTENTION, n, net->n_feature, "output.attention");
  check_tensor(model, SPD_TENSOR_FEATURE, n, 0, "output.feature");
  check_tensor(model, SPD_TENSOR_LATENT, n, 0, "output.latent");
  check_tensor(model, SPD_TENSOR_REST, n, 0, "output.rest");
  check_tensor(model, SPD_TENSOR_OBSERVED, n, 0, "output.observed");
}

static double forward(double *losses, struct spd_model *model, size_t n) {
  double sum = 0;
  MUST(spd_model_encode(model, error));
  MUST(spd_model_decode(model, error));
  MUST(spd_model_observe(model, error));
  MUST(spd_model_score(model, losses, error));
  for (size_t i = 0; i < n; i++) sum += losses[i];
  return sum / (double)n;
}

/* attention x d(sum over spectra of the restframe pixel nearest 6565 A) / d attention, and d(sum of losses) / dz */
static void check_special_gradients(struct spd_model *model, size_t n, const float *wave_rest) {
  const struct spd_network *net = spd_model_network(model);
  const size_t r = net->architecture.n_rest, size = spd_model_tensor_size(model, SPD_TENSOR_ATTENTION);
  double losses[16], dz[16];
  forward(losses, model, n);
  MUST(spd_model_backward(model, error));
  MUST(spd_model_read_redshift_gradient(dz, NULL, model, error));
  double *want = doubles_of("output.dloss_sum_dz_decoder"), squares = 0, difference = 0;
  for (size_t i = 0; i < n; i++) {
    double got = dz[i] * (double)n; /* of the sum of losses, not their mean */
    squares += want[i] * want[i];
    difference += (got - want[i]) * (got - want[i]);
  }
  CHECK(sqrt(difference) <= tolerance_for("reference gradient norm")->rtol * sqrt(squares), "d loss / dz: relative error %.3g",
        sqrt(difference / squares));
  free(want);

  size_t nearest = 0;
  for (size_t j = 0; j < r; j++)
    if (fabs((double)wave_rest[j] - 6565) < fabs((double)wave_rest[nearest] - 6565)) nearest = j;
  float *gradient = check_alloc(n * r * sizeof *gradient), *da = check_alloc(n * size * sizeof *da), *a = check_alloc(n * size * sizeof *a);
  for (size_t i = 0; i < n; i++) gradient[i * r + nearest] = 1;
  forward(losses, model, n);
  MUST(spd_model_backward_from(model, SPD_TENSOR_REST, gradient, SPD_TENSOR_ATTENTION, error));
  MUST(spd_model_read_gradient(da, model, SPD_TENSOR_ATTENTION, error));
  MUST(spd_model_read(a, model, SPD_TENSOR_ATTENTION, error));
  double *got = check_alloc(n * size * sizeof *got);
  for (size_t i = 0; i < n * size; i++) da[i] *= a[i];
  channels_first(got, da, n, size / net->n_feature, net->n_feature);
  want = doubles_of("output.gradfam_6565");
  CHECK_CLOSE("output.gradfam_6565", got, want, n * size, tolerance_for("reference"));
  squares = difference = 0;
  for (size_t i = 0; i < n * size; i++) {
    squares += want[i] * want[i];
    difference += (got[i] - want[i]) * (got[i] - want[i]);
  }
  CHECK(sqrt(difference) <= tolerance_for("reference gradient norm")->rtol * sqrt(squares), "grad-FAM: relative error %.3g",
        sqrt(difference / squares));
  free(gradient);
  free(da);
  free(a);
  free(got);
  free(want);
}

static void check_adam(struct spd_model *model, const float *weights, size_t n) {
  const struct spd_adam_options options = {1e-3, 0.9, 0.999, 1e-8, 1.0, 0};
  const size_t steps = count_of("output.adam_losses");
  double *want = doubles_of("output.adam_losses"), got[64], losses[16];
  float *zero = check_alloc(spd_model_network(model)->size * sizeof *zero);
  MUST(spd_model_set_parameters(model, weights, error));
  MUST(spd_model_set_moments(model, zero, zero, error));
  for (size_t step = 0; step < steps && step < 64; step++) {
    got[step] = forward(losses, model, n);
    MUST(spd_model_backward(model, error));
    MUST(spd_model_update(model, &options, step + 1, error));
  }
  CHECK_CLOSE("output.adam_losses", got, want, steps, tolerance_for("reference adam loss"));
  free(want);
  free(zero);
}

static void check_losses(const double *losses, size_t n) {
  double *want = doubles_of("output.loss_individual");
  CHECK_CLOSE("output.loss_individual", losses, want, n, tolerance_for("reference"));
  free(want);
}

/* ||got - want|| / ||want|| over the first `count` elements; 0 where both are zero */
static double relative_error(const float *got, const float *want, size_t count) {
  double squares = 0, difference = 0;
  for (size_t i = 0; i < count; i++) {
    squares += (double)want[i] * (double)want[i];
    difference += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
  }
  return squares > 0 ? sqrt(difference / squares) : difference > 0 ? HUGE_VAL : 0;
}

static void test_tiny(void) {
  const size_t n = count_of("input.z");
  struct spd_architecture a = {.n_observed = count_of("input.wave_obs"),
                               .n_rest = count_of("input.wave_rest"),
                               .n_latent = 3,
                               .filters = {8, 16, 32},
                               .kernels = {5, 11, 21},
                               .pools = {5, 11, 1},
                               .n_encoder_hidden = 3,
                               .encoder_hidden = {12, 8, 6},
                               .n_decoder_hidden = 3,
                               .decoder_hidden = {8, 16, 24},
                               .redshift_input = 1,
                               .decoder_activation = SPD_ACTIVATION_SPECULATOR,
                               .decoder_offset = 1,
                               .lsf = 5};
  struct spd_network net;
  struct spd_backend *backend = test_backend();
  struct spd_model *model;
  char name[128];
  double losses[16];
  MUST(spd_network_init(&net, &a, error));
  float *flux = floats_of("input.flux"), *ivar = floats_of("input.ivar"), *z = floats_of("input.z");
  float *wave_observed = floats_of("input.wave_obs"), *wave_rest = floats_of("input.wave_rest");
  float *weights = check_alloc(net.size * sizeof *weights), *gradient = check_alloc(net.size * sizeof *gradient);
  for (size_t t = 0; t < net.n_parameters; t++) {
    const struct spd_parameter *p = &net.parameters[t];
    snprintf(name, sizeof name, "weight.%s", p->name);
    CHECK(count_of(name) == p->count, "%s: %zu values, wanted %zu", name, count_of(name), p->count);
    float *values = floats_of(name);
    spd_parameter_import(weights + p->offset, values, p);
    free(values);
  }
  MUST(spd_model_create(&model, &net, backend, wave_observed, wave_rest, n, SPD_MODEL_GRADIENT, error));
  MUST(spd_model_set_parameters(model, weights, error));
  MUST(spd_model_load(model, flux, ivar, z, n, error));
  double loss = forward(losses, model, n), *want = doubles_of("output.loss");
  CHECK(fabs(loss - want[0]) < 1e-5 * want[0], "loss %.9g, wanted %.9g", loss, want[0]);
  free(want);
  check_losses(losses, n);
  check_tensor(model, SPD_TENSOR_STEM, n, a.filters[0], "output.stage.pool1");
  check_tensor(model, SPD_TENSOR_BLOCK, n, a.filters[1], "output.stage.pool2");
  check_tensor(model, SPD_TENSOR_SEGMENTS, n, a.filters[2], "output.stage.conv3");
  check_forward(model, n);

  MUST(spd_model_backward(model, error));
  MUST(spd_model_get_gradient(gradient, model, error));
  for (size_t t = 0; t < net.n_parameters; t++) {
    const struct spd_parameter *p = &net.parameters[t];
    if (p->role == SPD_PARAMETER_CONV_BIAS) continue; /* zero up to their rounding */
    snprintf(name, sizeof name, "grad.%s", p->name);
    float *values = floats_of(name), *reference = check_alloc(p->count * sizeof *reference);
    spd_parameter_import(reference, values, p);
    double found = relative_error(gradient + p->offset, reference, p->count);
    CHECK(found <= tolerance_for("reference gradient norm")->rtol, "%s: relative error %.3g", name, found);
    free(values);
    free(reference);
  }
  check_special_gradients(model, n, wave_rest);
  spd_model_destroy(model);
  MUST(spd_model_create(&model, &net, backend, wave_observed, wave_rest, n, SPD_MODEL_TRAIN, error));
  MUST(spd_model_set_parameters(model, weights, error));
  MUST(spd_model_load(model, flux, ivar, z, n, error));
  check_adam(model, weights, n);

  spd_model_destroy(model);
  backend->ops->destroy(backend);
  free(flux), free(ivar), free(z), free(wave_observed), free(wave_rest), free(weights), free(gradient);
}

/* The rule that stands for paper.safetensors' weights, in PyTorch's layout. */
static void fill_by_rule(float *values, const struct spd_parameter *p, size_t number, uint64_t seed) {
  const uint64_t tag = 1000 * seed + number;
  double scale = 0.05, shift = 0;
  switch (p->role) {
    case SPD_PARAMETER_BETA: scale = 0.3, shift = 1; break;
    case SPD_PARAMETER_GAMMA: scale = 0.2, shift = 0.1; break;
    case SPD_PARAMETER_SLOPE: scale = 0.1, shift = 0.25; break;
    case SPD_PARAMETER_CONV_WEIGHT: scale = sqrt(3 / (double)(p->shape[0] * p->shape[1])); break;
    case SPD_PARAMETER_LINEAR_WEIGHT: scale = sqrt(3 / (double)p->shape[1]); break;
    default: break;
  }
  for (size_t i = 0; i < p->count; i++) {
    uint64_t h = spd_mix64((uint64_t)i + (tag << 32));
    values[i] = (float)(((double)(h >> 40) / 8388608.0 - 1.0) * scale + shift);
  }
}

/* What the fast paths of the full-size network promise: latents, which are of order 1, within 1e-6 of float64, and each gradient
 * within 1e-5 of its norm. */
static void check_accuracy(const char *kernels, struct spd_model *model, size_t n, double worst_gradient) {
  const size_t count = n * spd_model_tensor_size(model, SPD_TENSOR_LATENT);
  float *latent = check_alloc(count * sizeof *latent), *want = floats_of("output.latent");
  double worst = 0;
  MUST(spd_model_read(latent, model, SPD_TENSOR_LATENT, error));
  for (size_t i = 0; i < count; i++) {
    const double d = fabs((double)latent[i] - (double)want[i]);
    if (!(d <= worst)) worst = d;
  }
  printf("full-size network, %s kernels: latents within %.2g (%.2g of their norm), gradients within %.2g of theirs\n", kernels, worst,
         relative_error(latent, want, count), worst_gradient);
  CHECK(worst <= tolerance_for("full-size latent")->atol, "%s kernels: a latent is %.3g off", kernels, worst);
  CHECK(worst_gradient <= tolerance_for("full-size gradient")->rtol, "%s kernels: a gradient is %.3g off", kernels, worst_gradient);
  free(latent), free(want);
}

/* kernels NULL: on the CUDA device */
static void test_paper_with(const struct cpu_kernels *kernels) {
  const size_t n = count_of("input.z");
  struct spd_architecture a = paper_architecture();
  struct spd_network net;
  struct spd_backend *backend = test_backend();
  struct spd_model *model;
  double losses[16];
  MUST(spd_network_init(&net, &a, error));
  if (kernels) cpu_of(backend)->kernels = kernels;
  const char *at = spd_safetensors_metadata(file, "parameter_order"), *seed = spd_safetensors_metadata(file, "seed");
  if (!at || !seed) {
    check_fail(__FILE__, __LINE__, "no parameter_order or seed in the metadata");
    return;
  }
  float *weights = check_alloc(net.size * sizeof *weights), *values = check_alloc(net.size * sizeof *values);
  float *wave_observed = check_alloc(a.n_observed * sizeof(float)), *wave_rest = check_alloc(a.n_rest * sizeof(float));
  size_t number = 0;
  while (*at) {
    char name[64] = "";
    size_t length = strcspn(at, ",");
    memcpy(name, at, length < sizeof name ? length : sizeof name - 1);
    at += length + (at[length] == ',');
    number++;
    const struct spd_parameter *p = parameter_named(&net, name);
    CHECK(p != NULL, "no parameter %s", name);
    if (!p) continue;
    fill_by_rule(values, p, number, strtoull(seed, NULL, 10));
    spd_parameter_import(weights + p->offset, values, p);
  }
  CHECK(number == net.n_parameters, "%zu parameters, wanted %zu", net.n_parameters, number);
  for (size_t i = 0; i < a.n_observed; i++) wave_observed[i] = (float)pow(10, 3.578 + 1e-4 * (double)i);
  const double first = (double)wave_observed[0] / 1.5, last = (double)wave_observed[a.n_observed - 1];
  for (size_t i = 0; i < a.n_rest; i++) wave_rest[i] = (float)(first + (last - first) * ((double)i / (double)(a.n_rest - 1)));

  float *flux = floats_of("input.flux"), *ivar = floats_of("input.ivar"), *z = floats_of("input.z");
  MUST(spd_model_create(&model, &net, backend, wave_observed, wave_rest, n, SPD_MODEL_GRADIENT, error));
  MUST(spd_model_set_parameters(model, weights, error));
  MUST(spd_model_load(model, flux, ivar, z, n, error));
  double loss = forward(losses, model, n), *want = doubles_of("output.loss");
  CHECK(fabs(loss - want[0]) < 1e-5 * want[0], "loss %.9g, wanted %.9g", loss, want[0]);
  free(want);
  check_losses(losses, n);
  check_forward(model, n);

  float *gradient = check_alloc(net.size * sizeof *gradient);
  MUST(spd_model_backward(model, error));
  MUST(spd_model_get_gradient(gradient, model, error));
  double worst = 0;
  for (size_t t = 0; t < net.n_parameters; t++) {
    const struct spd_parameter *p = &net.parameters[t];
    if (p->role == SPD_PARAMETER_CONV_BIAS) continue;
    char name[128];
    const float *g = gradient + p->offset;
    double squares = 0, rtol = tolerance_for("reference gradient norm")->rtol;
    for (size_t i = 0; i < p->count; i++) squares += (double)g[i] * (double)g[i];
    snprintf(name, sizeof name, "gradnorm.%s", p->name);
    want = doubles_of(name);
    CHECK(fabs(sqrt(squares) - want[0]) <= rtol * want[0], "%s: %.6g, wanted %.6g", name, sqrt(squares), want[0]);
    free(want);
    snprintf(name, sizeof name, "gradhead.%s", p->name);
    float *head = floats_of(name);
    spd_parameter_export(values, g, p);
    double found = relative_error(values, head, count_of(name));
    CHECK(found <= rtol, "%s: relative error %.3g", name, found);
    if (found > worst) worst = found;
    free(head);
  }
  check_accuracy(kernels ? kernels->name : "CUDA", model, n, worst);
  check_special_gradients(model, n, wave_rest);
  spd_model_destroy(model);
  MUST(spd_model_create(&model, &net, backend, wave_observed, wave_rest, n, SPD_MODEL_TRAIN, error));
  MUST(spd_model_set_parameters(model, weights, error));
  MUST(spd_model_load(model, flux, ivar, z, n, error));
  check_adam(model, weights, n);

  spd_model_destroy(model);
  backend->ops->destroy(backend);
  free(flux), free(ivar), free(z), free(wave_observed), free(wave_rest), free(weights), free(values), free(gradient);
}

static void test_paper(void) {
  if (spd_cuda_built())
    test_paper_with(NULL);
  else
    for (size_t i = 0; cpu_kernels_available(i); i++) test_paper_with(cpu_kernels_available(i));
}

int main(void) {
  static const struct {
    const char *name;
    void (*test)(void);
  } files[] = {{"tiny.safetensors", test_tiny}, {"paper.safetensors", test_paper}};
  const char *folder = getenv("SPENDER_REFERENCE");
  if (spd_cuda_built() && !test_cuda_here()) return check_end();
  if (!folder || !*folder) folder = "../shared/reference";
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
    if (access(path, R_OK) != 0) {
      check_skip(files[i].name, "not found; SPENDER_REFERENCE names its folder");
      continue;
    }
    MUST(spd_safetensors_open(&file, path, error));
    files[i].test();
    spd_safetensors_close(file);
  }
  return check_end();
}
