/* The CUDA backend against the CPU, stage tests aside (test-stages runs those): whole networks in every precision, the same bits
 * from run to run and however the spectra come, what a backend leaves to the next, what happens without memory, after a fork, and when a
 * call fails. */
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cpu/create.h"
#include "cuda-devices.h"
#include "cuda/create.h"
#include "small-training.h"

/* ---- every tensor and gradient ---- */

enum { MOST = 320 };
static const char *const tensor_names[SPD_TENSOR_OBSERVED + 1] = {"input",   "stem",   "block", "segments", "attention",
                                                                  "feature", "latent", "rest",  "observed"};

struct pass {
  float *tensors[SPD_TENSOR_OBSERVED + 1], *gradients[SPD_TENSOR_OBSERVED + 1];
  size_t sizes[SPD_TENSOR_OBSERVED + 1];
  double losses[MOST], dz[MOST];
  float *gradient;
};

static void run_pass(struct pass *out, struct spd_backend *backend, const struct spd_network *net, const struct small_data *d, size_t n,
                     size_t capacity, spd_model_purpose purpose) {
  struct spd_model *model;
  memset(out, 0, sizeof *out);
  MUST(spd_model_create(&model, net, backend, d->wave_observed, d->wave_rest, capacity, purpose, error));
  MUST(spd_model_set_parameters(model, d->weights, error));
  for (size_t count = capacity; count > 0; count = count == n ? 0 : n) { /* a full batch first, if n is less */
    MUST(spd_model_load(model, d->flux, d->ivar, d->z, count, error));
    MUST(spd_model_encode(model, error));
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    MUST(spd_model_score(model, out->losses, error));
    if (purpose != SPD_MODEL_FORWARD) MUST(spd_model_backward(model, error));
  }
  for (int t = SPD_TENSOR_STEM; t <= SPD_TENSOR_OBSERVED; t++) {
    out->sizes[t] = n * spd_model_tensor_size(model, (spd_tensor)t);
    out->tensors[t] = check_alloc(out->sizes[t] * sizeof(float));
    MUST(spd_model_read(out->tensors[t], model, (spd_tensor)t, error));
    if (purpose == SPD_MODEL_FORWARD || t == SPD_TENSOR_REST) continue; /* the restframe's is used up on the way */
    out->gradients[t] = check_alloc(out->sizes[t] * sizeof(float));
    MUST(spd_model_read_gradient(out->gradients[t], model, (spd_tensor)t, error));
  }
  if (purpose != SPD_MODEL_FORWARD) {
    out->gradient = check_alloc(net->size * sizeof(float));
    MUST(spd_model_get_gradient(out->gradient, model, error));
    MUST(spd_model_read_redshift_gradient(out->dz, NULL, model, error));
  }
  spd_model_destroy(model);
}

static void free_pass(struct pass *p) {
  for (int t = SPD_TENSOR_STEM; t <= SPD_TENSOR_OBSERVED; t++) free(p->tensors[t]), free(p->gradients[t]);
  free(p->gradient);
}

static double compare(const char *network, const char *what, const float *got, const float *want, size_t count, const char *tolerance) {
  double *a = check_doubles(got, count), *b = check_doubles(want, count), distance = check_distance(a, b, count);
  CHECK(distance <= tolerance_for(tolerance)->rtol, "%s, %s: %.3g of its norm off, \"%s\" allows %.3g", network, what, distance,
        tolerance_for(tolerance)->name, tolerance_for(tolerance)->rtol);
  free(a);
  free(b);
  return distance;
}

/* In fp32 every gradient is the CPU's. With rounded operands some pools have another winner, which moves a gradient elsewhere:
 * what is compared is the whole gradient, one vector of all parameters. */
static void compare_passes(const char *name, const struct spd_network *net, const struct pass *got, const struct pass *want, size_t n) {
  double value = 0, gradient = 0;
  for (int t = SPD_TENSOR_STEM; t <= SPD_TENSOR_OBSERVED; t++) {
    value = fmax(value, compare(name, tensor_names[t], got->tensors[t], want->tensors[t], want->sizes[t], "devices"));
    if (want->gradients[t] && !tolerance_precision)
      gradient = fmax(gradient, compare(name, tensor_names[t], got->gradients[t], want->gradients[t], want->sizes[t], "devices gradient"));
  }
  CHECK(check_distance(got->losses, want->losses, n) <= tolerance_for("devices")->rtol, "%s: losses are %.3g of their norm off", name,
        check_distance(got->losses, want->losses, n));
  for (size_t i = 0; want->gradient && !tolerance_precision && i < net->n_parameters; i++) {
    const struct spd_parameter *p = &net->parameters[i];
    gradient = fmax(gradient, compare(name, p->name, got->gradient + p->offset, want->gradient + p->offset, p->count, "devices gradient"));
  }
  if (want->gradient && tolerance_precision)
    gradient = compare(name, "gradient", got->gradient, want->gradient, net->size, "devices gradient");
  printf("%s, %s: values within %.2g of the CPU's, gradients within %.2g\n", name, tolerance_precision ? tolerance_precision : "fp32",
         value, gradient);
}

static void test_network(const char *name, struct spd_architecture a, size_t n, size_t capacity, spd_model_purpose purpose) {
  struct spd_network net;
  struct spd_backend *cpu, *cuda;
  struct pass want, got;
  MUST(spd_network_init(&net, &a, error));
  MUST(spd_cpu_create(&cpu, 2, error));
  struct small_data d = small_data_new(&net, capacity, 12);
  run_pass(&want, cpu, &net, &d, n, capacity, purpose);
  for (int precision = 0; precision < SPD_PRECISIONS && test_precision(precision); precision++) {
    MUST(spd_cuda_create(&cuda, (spd_precision)precision, error));
    run_pass(&got, cuda, &net, &d, n, capacity, purpose);
    compare_passes(name, &net, &got, &want, n);
    free_pass(&got);
    cuda->ops->destroy(cuda);
  }
  test_precision(SPD_PRECISION_FP32);
  free_pass(&want);
  small_data_free(&d);
  cpu->ops->destroy(cpu);
}

static void test_networks(void) {
  struct spd_architecture a = small_architecture();
  test_network("Speculator, redshift input, LSF", a, 5, 9, SPD_MODEL_GRADIENT);
  test_network("forward only", a, 260, 263, SPD_MODEL_FORWARD);
  a.weight_attention = 1, a.lsf = 0, a.redshift_input = 0, a.decoder_activation = SPD_ACTIVATION_LEAKY;
  test_network("weight attention, leaky ReLU", a, 5, 5, SPD_MODEL_GRADIENT);
  a = small_architecture();
  a.filters[0] = 40, a.filters[1] = 36, a.filters[2] = 70; /* more than a warp's channels, and not a multiple */
  test_network("wide", a, 3, 4, SPD_MODEL_GRADIENT);
  test_little_shared(1);
  test_network("wide, little shared memory", a, 3, 4, SPD_MODEL_GRADIENT);
  test_little_shared(0);
#ifdef __SANITIZE_ADDRESS__
  check_skip("full size", "sanitizers take minutes for it; the same test runs without them");
#else
  test_network("full size", paper_architecture(), 3, 3, SPD_MODEL_GRADIENT);
#endif
}

/* ---- the same bits ---- */

/* Sanitizers take half a second for a step: the last epoch's end, and all ways in all precisions, are left to the other build. */
#ifdef __SANITIZE_ADDRESS__
enum { BIT_STEPS = 8, WAYS_IN_FP32_ONLY = 1 };
#else
enum { BIT_STEPS = 12, WAYS_IN_FP32_ONLY = 0 };
#endif

static void test_bits(void) {
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  struct small_trained first, other;
  unsigned char is_training[SMALL_ROWS];
  const struct spd_schedule schedule = {.rate = 2e-3, .total_steps = BIT_STEPS, .steps_per_stage = 1};
  MUST(spd_network_init(&net, &a, error));
  struct small_data d = small_data_new(&net, SMALL_ROWS, 5);
  for (size_t i = 0; i < SMALL_ROWS; i++) is_training[i] = i % 5 != 3;
  struct spd_surveys surveys = small_surveys_new(&d, a.n_observed);
  for (int precision = 0; precision < SPD_PRECISIONS; precision++) {
    int runs = 0;
    const int orders = precision == SPD_PRECISION_FP32 ? TEST_ORDERS : 1; /* they do not depend on precision */
    for (int order = 0; order < orders && test_order(order); order++)
      for (int way = SPD_FEED_AUTO; way <= SPD_FEED_STREAMED + 2; way++) {
        if (WAYS_IN_FP32_ONLY && precision != SPD_PRECISION_FP32 && way != SPD_FEED_AUTO && way != SPD_FEED_STREAMED + 2) continue;
        const int from_file = way > SPD_FEED_STREAMED; /* the last two: resident and streamed again, from a survey */
        const spd_feed_way as = from_file ? (spd_feed_way)(way - 2) : (spd_feed_way)way;
        struct spd_backend *backend;
        if (runs % 2 == 0) spd_cuda_release(); /* on a backend just opened, and on one that the last training has left */
        MUST(spd_cuda_create(&backend, (spd_precision)precision, error));
        small_train(runs ? &other : &first, backend, &net, &d, is_training, 3, BIT_STEPS, &schedule, as, from_file ? &surveys : NULL);
        backend->ops->destroy(backend);
        if (runs++ == 0) continue;
        CHECK(small_same_bits(&first, &other, net.size), "%s: another run, order %d, way %d: other bits", test_precisions[precision], order,
              way);
        small_trained_free(&other);
      }
    if (precision == SPD_PRECISION_FP32) { /* the CPU's training, up to what the steps make of rounding */
      struct spd_backend *cpu;
      MUST(spd_cpu_create(&cpu, 1, error));
      small_train(&other, cpu, &net, &d, is_training, 3, BIT_STEPS, &schedule, SPD_FEED_AUTO, NULL);
      cpu->ops->destroy(cpu);
      CHECK(fabs(first.validation / other.validation - 1) < 1e-3 && first.progress.loss_count == other.progress.loss_count,
            "%d steps end at a validation loss of %.6g, the CPU's at %.6g", BIT_STEPS, first.validation, other.validation);
      small_trained_free(&other);
    }
    small_trained_free(&first);
  }
  small_surveys_free(&surveys);
  small_data_free(&d);
}

/* ---- where trainings end ---- */

#ifdef TEST_CUDA_ON_CPU
enum { SEEDS = 2, STEPS = 6 }; /* a step takes it some tenths of a second; 3 seeds and 200 steps were tried, bench/results */
#else
enum { SEEDS = 3, STEPS = 200 };
#endif

/* In every precision a training ends as near to the fp32 training of the same seed as fp32 trainings of other seeds do. */
CHECK_UNUSED static void test_ends(void) {
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  unsigned char is_training[SMALL_ROWS];
  const struct spd_schedule schedule = {.rate = 5e-3, .total_steps = STEPS, .steps_per_stage = 1};
  double ends[SPD_PRECISIONS][SEEDS], spread = 0;
  MUST(spd_network_init(&net, &a, error));
  for (size_t i = 0; i < SMALL_ROWS; i++) is_training[i] = i % 5 != 3;
  struct small_data d = small_data_new(&net, SMALL_ROWS, 5);
  for (int seed = 0; seed < SEEDS; seed++) {
    struct small_data other = small_data_new(&net, 1, 20 + (uint64_t)seed); /* for its weights */
    memcpy(d.weights, other.weights, net.size * sizeof *d.weights);
    small_data_free(&other);
    for (int precision = 0; precision < SPD_PRECISIONS; precision++) {
      struct spd_backend *backend;
      struct small_trained trained;
      MUST(spd_cuda_create(&backend, (spd_precision)precision, error));
      small_train(&trained, backend, &net, &d, is_training, (uint64_t)seed, STEPS, &schedule, SPD_FEED_RESIDENT, NULL);
      ends[precision][seed] = trained.validation;
      small_trained_free(&trained);
      backend->ops->destroy(backend);
    }
    for (int before = 0; before < seed; before++)
      spread = fmax(spread, fabs(ends[SPD_PRECISION_FP32][seed] - ends[SPD_PRECISION_FP32][before]));
  }
  for (int precision = 0; precision < SPD_PRECISIONS; precision++) {
    double farthest = 0;
    for (int seed = 0; seed < SEEDS; seed++) farthest = fmax(farthest, fabs(ends[precision][seed] - ends[SPD_PRECISION_FP32][seed]));
    printf("trainings in %s end", test_precisions[precision]);
    for (int seed = 0; seed < SEEDS; seed++) printf(" %.5g", ends[precision][seed]);
    printf(", at most %.2g of fp32's spread from fp32's\n", farthest / spread);
    CHECK(farthest <= spread, "trainings in %s end up to %.3g from fp32's, which are %.3g apart", test_precisions[precision], farthest,
          spread);
  }
  small_data_free(&d);
}

/* ---- what can go wrong ---- */

#ifdef TEST_CUDA_ON_CPU
static int completed; /* the last everything() came to its end, but for giving things back */

enum { FEW = 4 };
#ifdef __SANITIZE_ADDRESS__
enum { EVERY_CALL = 3 };
#else
enum { EVERY_CALL = 1 };
#endif

/* A backend, a model, a step of training through lanes, a validation: every kind of call. */
static spd_status everything(const struct spd_network *net, const struct small_data *d, size_t batch, struct spd_error *error) {
  struct spd_backend *backend = NULL;
  struct spd_model *model = NULL;
  struct spd_training *training = NULL;
  const unsigned char is_training[FEW] = {1, 0, 1, 1};
  const struct spd_source source = {.flux = d->flux, .ivar = d->ivar, .z = d->z, .n_rows = FEW, .is_training = is_training};
  const struct spd_training_options options = {.batch_size = batch < FEW ? batch : FEW,
                                               .seed = 1,
                                               .schedule = {.rate = 1e-3, .constant = 1},
                                               .adam = {0, 0, 0.999, 1e-8, 1.0, 0},
                                               .way = SPD_FEED_STREAMED,
                                               .refine_from = UINT64_MAX};
  struct spd_progress progress;
  double mean;
  uint64_t count;
  int finished;
  spd_status status = spd_cuda_create(&backend, SPD_PRECISION_BF16, error);
  if (status == SPD_STATUS_OK)
    status = spd_model_create(&model, net, backend, d->wave_observed, d->wave_rest, batch, SPD_MODEL_TRAIN, error);
  if (status == SPD_STATUS_OK) status = spd_model_set_parameters(model, d->weights, error);
  if (status == SPD_STATUS_OK) status = spd_training_create(&training, model, &source, &options, error);
  if (status == SPD_STATUS_OK) status = spd_training_advance(training, 0, &progress, error);
  if (status == SPD_STATUS_OK) status = spd_training_validate(training, 1e9, &finished, &mean, &count, error);
  completed = status == SPD_STATUS_OK;
  spd_training_destroy(training);
  spd_model_destroy(model);
  if (backend) backend->ops->destroy(backend);
  return status;
}

static void test_failures(void) {
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  struct spd_error found;
  a.weight_attention = 1;
  MUST(spd_network_init(&net, &a, error));
  struct small_data d = small_data_new(&net, FEW, 5);
  spd_cuda_release();
  CHECK(device_leaks() == 0, "%zu things are still held", device_leaks());
  /* each call fails once; with sanitizers, which take a tenth of a second for each, one in some */
  long calls = 0;
  size_t unreported = 0, leaked = 0;
  for (;; calls += EVERY_CALL) {
    found.message[0] = '\0';
    device_set_failure(calls);
    const spd_status status = everything(&net, &d, 2, &found);
    const int failed = device_failure() < 0;
    device_set_failure(-1);
    spd_cuda_release();
    leaked += device_leaks() != 0;
    if (!failed) {
      CHECK(status == SPD_STATUS_OK, "all calls succeed, but: %s", found.message);
      break;
    }
    if (!completed && (status == SPD_STATUS_OK || found.message[0] == '\0')) {
      unreported++;
      printf("the failure of call %ld is not reported\n", calls);
    }
  }
  printf("%ld calls, %d between two failures\n", calls, EVERY_CALL);
  CHECK(calls > 200 && unreported == 0, "of %ld calls, the failure of %zu is not reported", calls, unreported);
  CHECK(leaked == 0, "after %zu of %ld failures something is still held", leaked, calls);

  /* too little memory */
  struct spd_backend *backend;
  struct spd_model *model;
  device_set_memory((size_t)40 << 20);
  CHECK_STATUS(everything(&net, &d, 100000, error), SPD_STATUS_NO_MEMORY, "batch size of");
  MUST(spd_cuda_create(&backend, SPD_PRECISION_FP32, error));
  size_t fits = 0;
  if (spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, 100000, SPD_MODEL_TRAIN, &found) != SPD_STATUS_OK)
    fits = (size_t)strtoul(strstr(found.message, "batch size of") + strlen("batch size of"), NULL, 10);
  CHECK(fits > 10, "too little memory for 100000 spectra: \"%s\"", found.message);
  MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, fits, SPD_MODEL_TRAIN, error));
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  device_set_memory((size_t)4 << 30);
  spd_cuda_release();
  CHECK(device_leaks() == 0, "%zu things are still held", device_leaks());
  small_data_free(&d);
}
#else
static void test_failures(void) { check_skip("failing calls", "only a device on the CPU fails on demand"); }
#endif

/* In a child every entry refuses, and what the parent made is left alone. */
static void test_fork(void) {
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  struct spd_backend *backend, *other;
  struct spd_model *model;
  struct spd_lane lane;
  MUST(spd_network_init(&net, &a, error));
  struct small_data d = small_data_new(&net, 2, 5);
  MUST(spd_cuda_create(&backend, SPD_PRECISION_FP32, error));
  MUST(spd_cuda_create(&other, SPD_PRECISION_FP32, error));
  other->ops->destroy(other); /* one is kept, one is in use */
  MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, 2, SPD_MODEL_TRAIN, error));
  MUST(spd_model_set_parameters(model, d.weights, error));
  MUST(spd_model_load(model, d.flux, d.ivar, d.z, 2, error));
  MUST(backend->ops->lane_open(backend, &lane, 64, error));
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    struct spd_error refusal = {""};
    struct spd_cuda_device description;
    struct spd_plane plane = {NULL, NULL};
    double losses[2];
    size_t bytes;
    void *memory;
    const struct spd_adam adam = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    int refused = spd_cuda_count() == 0;
    refused += spd_cuda_create(&other, SPD_PRECISION_FP32, &refusal) == SPD_STATUS_UNSUPPORTED && strstr(refusal.message, "fork");
    refused += spd_cuda_describe(&description, 0, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += spd_model_encode(model, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += spd_model_load(model, d.flux, d.ivar, d.z, 2, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += spd_model_score(model, losses, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += spd_model_backward(model, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->gather(backend, NULL, NULL, NULL, 1, 1, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->adam(backend, NULL, NULL, NULL, NULL, 1, &adam, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->clip(backend, NULL, 1, 1, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->widen(backend, NULL, plane, 1, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->alloc(backend, &memory, 1, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->available(backend, &bytes, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->lane_fill(backend, &lane, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->lane_send(backend, &lane, 64, &refusal) == SPD_STATUS_UNSUPPORTED;
    refused += backend->ops->lane_take(backend, &lane, NULL, 0, 64, &refusal) == SPD_STATUS_UNSUPPORTED;
    backend->ops->lane_close(backend, &lane);
    spd_model_destroy(model);
    backend->ops->destroy(backend);
    spd_cuda_release();
    _exit(refused);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 16, "a forked child: status %d, %d of 16 entries refused", status,
        WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  MUST(spd_model_encode(model, error));
  MUST(backend->ops->synchronize(backend, error));
  backend->ops->lane_close(backend, &lane);
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  small_data_free(&d);
}

/* ---- what a destroyed backend leaves to the next ---- */

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A model on a new backend, forward; how long that takes */
static double use_backend(spd_precision precision, const struct spd_network *net, const struct small_data *d) {
  struct spd_backend *backend;
  struct spd_model *model;
  const double start = seconds();
  MUST(spd_cuda_create(&backend, precision, error));
  MUST(spd_model_create(&model, net, backend, d->wave_observed, d->wave_rest, 2, SPD_MODEL_FORWARD, error));
  MUST(spd_model_set_parameters(model, d->weights, error));
  MUST(spd_model_load(model, d->flux, d->ivar, d->z, 2, error));
  MUST(spd_model_encode(model, error));
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  return seconds() - start;
}

static void test_kept(void) {
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  struct spd_backend *used[3];
  MUST(spd_network_init(&net, &a, error));
  struct small_data d = small_data_new(&net, 2, 5);
  spd_cuda_release();
  const double first = use_backend(SPD_PRECISION_FP16, &net, &d), again = use_backend(SPD_PRECISION_FP16, &net, &d);
  printf("a new backend: %.1f ms; the next: %.1f ms\n", 1e3 * first, 1e3 * again);
#ifdef TEST_CUDA_ON_CPU
  const size_t opened = 4, of_one = device_leaks(); /* two streams, cuBLAS and its workspace; an arena if it is small */
#ifdef __SANITIZE_ADDRESS__
  CHECK(of_one == opened, "a destroyed backend leaves %zu things, its large arena among them", of_one);
#else
  CHECK(of_one == opened + 1, "a destroyed backend leaves %zu things, without its arena", of_one);
#endif
  use_backend(SPD_PRECISION_FP32, &net, &d);
  CHECK(device_leaks() == of_one, "after another there are %zu things instead of %zu", device_leaks(), of_one);
  for (int i = 0; i < 3; i++) MUST(spd_cuda_create(&used[i], SPD_PRECISION_BF16, error));
  CHECK(device_leaks() == of_one + 2 * opened, "three backends in use have %zu things", device_leaks());
  for (int i = 0; i < 3; i++) used[i]->ops->destroy(used[i]);
  CHECK(device_leaks() == of_one + opened, "two are kept, with %zu things", device_leaks());
  spd_cuda_release();
  CHECK(device_leaks() == 0, "given back, but for %zu things", device_leaks());
  for (long call = 0; call < 3; call++) { /* what cannot be synchronised is not kept */
    MUST(spd_cuda_create(&used[0], SPD_PRECISION_FP32, error));
    device_set_failure(call);
    used[0]->ops->destroy(used[0]);
    CHECK(device_failure() < 0 && device_leaks() == 0, "a backend whose end fails at call %ld leaves %zu things", call, device_leaks());
    device_set_failure(-1);
  }
#else
  (void)used;
  CHECK(again < 0.02, "a backend after another takes %.0f ms", 1e3 * again);
#endif
  small_data_free(&d);
}

/* A build without CUDA says so. */
static void test_none(void) {
  struct spd_backend *backend;
  struct spd_cuda_device description;
  CHECK(spd_cuda_count() == 0, "a build without CUDA counts %d devices", spd_cuda_count());
  CHECK_STATUS(spd_cuda_create(&backend, SPD_PRECISION_TF32, error), SPD_STATUS_UNSUPPORTED, "no CUDA");
  CHECK_STATUS(spd_cuda_describe(&description, 0, error), SPD_STATUS_UNSUPPORTED, "no CUDA");
  spd_cuda_release();
}

static void test_device(void) {
  struct spd_cuda_device description;
  MUST(spd_cuda_describe(&description, 0, error));
  CHECK(description.name[0] && description.memory > 0 && description.major > 0, "device 0: \"%s\", %zu bytes", description.name,
        description.memory);
  printf("device: %s\n", description.name);
}

int main(void) {
  if (!spd_cuda_built()) {
    test_none();
    return check_end();
  }
  if (!test_cuda_here()) return check_end();
  setvbuf(stdout, NULL, _IOLBF, 0);
  test_device();
  test_kept();
  test_networks();
  test_bits();
#ifndef __SANITIZE_ADDRESS__
  test_ends();
#endif
  test_failures();
  test_fork();
  return check_end();
}
