/* Passes that a CUDA backend has recorded and replays: the same bits as launched one by one, whatever changes between them, and what
 * happens when a call fails in between. */
#include "cuda-devices.h"
#include "small-training.h"

/* A device on the CPU takes tenths of a second for a step: fp32 and fp16, whose gradients have scales, run with sanitizers, the other two
 * without. */
#if defined __SANITIZE_ADDRESS__
static const int precisions[] = {SPD_PRECISION_FP32, SPD_PRECISION_FP16};
#elif defined TEST_CUDA_ON_CPU
static const int precisions[] = {SPD_PRECISION_TF32, SPD_PRECISION_BF16};
#else
static const int precisions[] = {SPD_PRECISION_FP32, SPD_PRECISION_TF32, SPD_PRECISION_BF16, SPD_PRECISION_FP16};
#endif

#ifdef TEST_CUDA_ON_CPU
enum { COUNTED = 1 };
static size_t replays(void) { return device_replays(); }
#else
enum { COUNTED = 0 };
static size_t replays(void) { return 0; }
#endif

/* With a workspace of its own */
static struct spd_backend *new_backend(int precision, int records) {
  struct spd_backend *backend;
  spd_cuda_release();
  MUST(spd_cuda_create(&backend, (spd_precision)precision, error));
  CHECK(backend->records, "a new backend does not record");
  backend->records = records;
  return backend;
}

/* Another model's pass on the same backend, whose stages need more of its workspace: more with more channels */
static void use_workspace(struct spd_backend *backend, size_t channels) {
  const size_t n = 2;
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  struct spd_model *model;
  a.filters[0] = a.filters[1] = 48, a.filters[2] = channels;
  MUST(spd_network_init(&net, &a, error));
  struct small_data d = small_data_new(&net, n, 9);
  MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, n, SPD_MODEL_FORWARD, error));
  MUST(spd_model_set_parameters(model, d.weights, error));
  MUST(spd_model_load(model, d.flux, d.ivar, d.z, n, error));
  MUST(spd_model_encode(model, error));
  spd_model_destroy(model);
  small_data_free(&d);
}

/* ---- trainings ---- */

enum { ROWS = 13, BATCH = 4, STEPS = 12 }; /* epochs of batches of 4, 4 and 1, validations of 4 */

static const struct spd_invariance_options invariance = {.scale_free = 1,
                                                         .similarity = 0.1,
                                                         .consistency = 0.1,
                                                         .sigma = 1,
                                                         .amplitude = 1,
                                                         .width = 1500,
                                                         .median_from = 3000,
                                                         .median_to = 6000,
                                                         .fraction = 0.3,
                                                         .z_low = 0,
                                                         .z_high = 0.5,
                                                         .noisy = 0.1,
                                                         .noise = 0.1,
                                                         .masked = 0.1,
                                                         .slope = 3,
                                                         .period = 3,
                                                         .free_from = 100,
                                                         .seed = 5};

enum { PLAIN, CLIPPED, INVARIANT, REFINED, KINDS };
static const char *const kinds[KINDS] = {"plain", "calibrated, clipped and averaged", "with copies", "at refined latents, the LSF fixed"};

static struct spd_network network_of(int kind) {
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  if (kind == CLIPPED) a.weight_attention = 1, a.n_calibration = 2, a.calibration_sd[0] = 0.1, a.calibration_sd[1] = 0.1;
  MUST(spd_network_init(&net, &a, error));
  return net;
}

static struct small_trained train(struct spd_backend *backend, int kind, int grow) {
  const struct spd_network net = network_of(kind);
  const unsigned char is_training[ROWS] = {1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 1, 0};
  struct small_data d = small_data_new(&net, ROWS, 5);
  const struct spd_source source = {.flux = d.flux, .ivar = d.ivar, .z = d.z, .n_rows = ROWS, .is_training = is_training};
  const struct spd_training_options options = {.batch_size = BATCH,
                                               .seed = 1,
                                               .schedule = {.rate = 1e-3, .total_steps = STEPS, .steps_per_stage = 1},
                                               .adam = {0, 0, 0.999, 1e-8, kind == REFINED ? 0.0 : 1.0, 0},
                                               .way = SPD_FEED_STREAMED,
                                               .refine_from = kind == REFINED ? 4 : UINT64_MAX,
                                               .clip = kind == CLIPPED ? 1e-2 : 0,
                                               .average = kind == CLIPPED ? 3 : 0,
                                               .invariance = kind == INVARIANT ? &invariance : NULL};
  const size_t bytes = net.size * sizeof(float);
  struct small_trained out = {check_alloc(bytes), check_alloc(bytes), check_alloc(bytes), 0, 0, {0, 0, 0, 0, 0, 0, 0}};
  struct spd_model *model;
  struct spd_training *training;
  uint64_t count;
  int finished;
  MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, 2 * BATCH, SPD_MODEL_TRAIN, error));
  MUST(spd_model_set_parameters(model, d.weights, error));
  MUST(spd_training_create(&training, model, &source, &options, error));
  for (int i = 0; i < 2; i++) /* recorded before a step, whose batches may have copies */
    MUST(spd_training_validate(training, 1e9, &finished, &out.validation, &count, error));
  for (size_t i = 0; i < STEPS; i++) {
    MUST(spd_training_advance(training, 0, &out.progress, error));
    if (!out.progress.epoch_finished) continue;
    MUST(spd_training_validate(training, 1e9, &finished, &out.validation, &count, error));
    if (grow && i < STEPS / 2) use_workspace(backend, 64 + 8 * i);
  }
  MUST(spd_model_get_parameters(out.weights, model, error));
  MUST(spd_model_get_moments(out.m, out.v, model, error));
  spd_training_destroy(training);
  spd_model_destroy(model);
  small_data_free(&d);
  return out;
}

static void test_trainings(void) {
  for (size_t p = 0; p < sizeof precisions / sizeof *precisions; p++)
    for (int kind = 0; kind < KINDS; kind++) {
      const int precision = precisions[p];
      const size_t size = network_of(kind).size, before = replays();
      struct spd_backend *backend = new_backend(precision, 0);
      struct small_trained want = train(backend, kind, 0);
      CHECK(replays() == before, "a backend that does not record replays");
      backend->ops->destroy(backend);
      size_t last = 0;
      for (int grow = 0; grow < 2; grow++) {
        const size_t start = replays();
        backend = new_backend(precision, 1);
        struct small_trained got = train(backend, kind, grow);
        backend->ops->destroy(backend);
        CHECK(small_same_bits(&want, &got, size), "%s, %s%s: other bits from recordings", test_precisions[precision], kinds[kind],
              grow ? ", a workspace that moves" : "");
        const size_t now = replays() - start;
        printf("%s, %s: %zu replays\n", test_precisions[precision], kinds[kind], now);
        CHECK(!COUNTED || (now >= STEPS && (!grow || now < last)), "%s, %s: %zu replays, %zu before", test_precisions[precision],
              kinds[kind], now, last);
        last = now;
        small_trained_free(&got);
      }
      small_trained_free(&want);
    }
}

/* ---- batches of many sizes, other spectra, other weights ---- */

enum { MOST = 5, ROUNDS = 9 };

struct results {
  float *values; /* latents, restframes, models and, if there are any, the gradients of three backward passes */
  size_t count;
};

static void append(struct results *r, size_t count) {
  r->values = realloc(r->values, (r->count + count) * sizeof *r->values);
  r->count += count;
}

static void append_gradient(struct results *r, struct spd_model *model) {
  const size_t size = spd_model_network(model)->size;
  append(r, size);
  MUST(spd_model_get_gradient(r->values + r->count - size, model, error));
}

static void run_batch(struct results *r, struct spd_model *model, size_t n, spd_model_purpose purpose) {
  double losses[MOST];
  float slopes[MOST * 3];
  MUST(spd_model_encode(model, error));
  MUST(spd_model_decode(model, error));
  MUST(spd_model_observe(model, error));
  MUST(spd_model_score(model, losses, error));
  for (spd_tensor t = SPD_TENSOR_LATENT; t <= SPD_TENSOR_OBSERVED; t++) {
    const size_t count = n * spd_model_tensor_size(model, t);
    append(r, count);
    MUST(spd_model_read(r->values + r->count - count, model, t, error));
  }
  if (purpose == SPD_MODEL_FORWARD) return;
  for (size_t i = 0; i < n * 3; i++) slopes[i] = (float)(i % 5) - 2;
  MUST(spd_model_backward(model, error));
  append_gradient(r, model);
  MUST(spd_model_backward_decoder(model, error));
  append_gradient(r, model);
  MUST(spd_model_backward_from(model, SPD_TENSOR_LATENT, slopes, SPD_TENSOR_INPUT, error));
  append_gradient(r, model);
}

/* With new weights the recordings become more than a model keeps. */
static struct results run_batches(struct spd_backend *backend, spd_model_purpose purpose) {
  const struct spd_network net = network_of(PLAIN);
  const size_t m = net.architecture.n_observed;
  struct small_data d = small_data_new(&net, MOST + ROUNDS, 5);
  struct results r = {NULL, 0};
  struct spd_model *model;
  MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, MOST, purpose, error));
  for (size_t round = 0; round < ROUNDS; round++) {
    if (round % 3 == 0) {
      for (size_t i = 0; i < net.size; i++) d.weights[i] *= 1.01f;
      MUST(spd_model_set_parameters(model, d.weights, error));
    }
    for (size_t n = 1; n <= MOST; n++) {
      MUST(spd_model_load(model, d.flux + round * m, d.ivar + round * m, d.z + round, n, error));
      run_batch(&r, model, n, purpose);
    }
  }
  spd_model_destroy(model);
  small_data_free(&d);
  return r;
}

static void test_batches(void) {
  for (int order = 0; order < TEST_ORDERS && test_order(order); order++)
    for (int purpose = SPD_MODEL_FORWARD; purpose <= SPD_MODEL_GRADIENT; purpose++) {
      struct results results[2];
      for (int records = 0; records < 2; records++) {
        struct spd_backend *backend = new_backend(SPD_PRECISION_FP32, records);
        results[records] = run_batches(backend, (spd_model_purpose)purpose);
        backend->ops->destroy(backend);
      }
      CHECK(results[0].count == results[1].count && memcmp(results[0].values, results[1].values, results[0].count * sizeof(float)) == 0,
            "batches of many sizes, order %d, purpose %d: other bits from recordings", order, purpose);
      free(results[0].values);
      free(results[1].values);
    }
  test_order(0);
}

/* ---- what can go wrong ---- */

#ifdef TEST_CUDA_ON_CPU
enum { PAIR = 2 };

static void read_latents(float *to, struct spd_model *model) { MUST(spd_model_read(to, model, SPD_TENSOR_LATENT, error)); }

/* Each call of the pass that records fails once, and of the one that replays: that is reported, and the next passes succeed. */
static void test_failures(void) {
  const struct spd_network net = network_of(CLIPPED);
  struct small_data d = small_data_new(&net, PAIR, 5);
  struct spd_backend *backend = new_backend(SPD_PRECISION_FP16, 1);
  float want[PAIR * 3], got[PAIR * 3];
  for (int replayed = 0; replayed < 2; replayed++) {
    size_t unreported = 0, wrong = 0;
    long calls = 0;
    for (int failed = 1; failed; calls++) {
      struct spd_model *model;
      struct spd_error found = {""};
      MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, PAIR, SPD_MODEL_FORWARD, error));
      MUST(spd_model_set_parameters(model, d.weights, error));
      MUST(spd_model_load(model, d.flux, d.ivar, d.z, PAIR, error));
      for (int i = 0; i <= replayed; i++) MUST(spd_model_encode(model, error));
      read_latents(want, model);
      device_set_failure(calls);
      const spd_status status = spd_model_encode(model, &found);
      failed = device_failure() < 0;
      device_set_failure(-1);
      unreported += failed && (status != SPD_STATUS_DEVICE || found.message[0] == '\0');
      CHECK(failed || status == SPD_STATUS_OK, "all calls succeed, but: %s", found.message);
      for (int i = 0; i < 2; i++) {
        MUST(spd_model_load(model, d.flux, d.ivar, d.z, PAIR, error));
        MUST(spd_model_encode(model, error));
        read_latents(got, model);
        wrong += memcmp(got, want, sizeof got) != 0;
      }
      spd_model_destroy(model);
    }
    printf("%s: %ld calls\n", replayed ? "replayed" : "recorded", calls - 1);
    CHECK(replayed ? calls < 10 : calls > 30, "a pass makes %ld calls", calls - 1);
    CHECK(unreported == 0, "of %ld calls, the failure of %zu is not reported", calls, unreported);
    CHECK(wrong == 0, "after the failures of %ld calls, %zu passes have other results", calls, wrong);
  }
  backend->ops->destroy(backend);
  spd_cuda_release();
  CHECK(device_leaks() == 0, "%zu things are still held", device_leaks());
  small_data_free(&d);
}

static struct spd_backend *waiting;
static spd_status wait_for_it(const void *context, struct spd_error *error) {
  (void)context;
  return waiting->ops->synchronize(waiting, error);
}

/* Work that waits cannot be recorded. It says so, and leaves the stream as it was. */
static void test_unfit_work(void) {
  struct spd_recording *recording = NULL;
  waiting = new_backend(SPD_PRECISION_FP32, 1);
  MUST(waiting->ops->repeat(waiting, &recording, wait_for_it, NULL, error));
  for (int i = 0; i < 2; i++)
    CHECK_STATUS(waiting->ops->repeat(waiting, &recording, wait_for_it, NULL, error), SPD_STATUS_DEVICE, "cudaErrorStreamCapture");
  MUST(waiting->ops->synchronize(waiting, error));
  waiting->ops->forget(waiting, recording);
  waiting->ops->destroy(waiting);
}
#else
static void test_failures(void) { check_skip("failing calls", "only a device on the CPU fails on demand"); }
static void test_unfit_work(void) { check_skip("work that cannot be recorded", "how it fails depends on the driver"); }
#endif

int main(void) {
  if (!spd_cuda_built() || !test_cuda_here()) return check_end();
  setvbuf(stdout, NULL, _IOLBF, 0);
  test_trainings();
  test_batches();
  test_failures();
  test_unfit_work();
  spd_cuda_release();
  return check_end();
}
