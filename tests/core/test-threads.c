/* The same bits for any number of threads, for the same seed, and whatever a buffer held before; and what training promises
 * beside: the order is a permutation of its own for each epoch, each row counts once, the last short batch is used, the schedule
 * is 1Cycle's. */
#include "check.h"
#include "cpu/cpu.h"
#include "small-training.h"
#include "tolerances.h"
#include "vectors.h"

/* ---- forward and gradient ---- */

struct pass {
  double losses[32], dz[32];
  float *gradient, *observed, *stem_gradient;
};

static void run_pass(struct pass *out, const struct spd_network *net, const struct small_data *d, size_t n, size_t capacity,
                     size_t warm_up, int threads) {
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

/* ---- training ---- */

static void train(struct small_trained *out, const struct spd_network *net, const struct small_data *d, const unsigned char *is_training,
                  int threads, uint64_t seed, size_t steps, const struct spd_schedule *schedule) {
  struct spd_backend *backend;
  MUST(spd_cpu_create(&backend, threads, error));
  small_train(out, backend, net, d, is_training, seed, steps, schedule, SPD_FEED_AUTO, NULL);
  backend->ops->destroy(backend);
}

/* mean over the rows with this mark, each scored by itself */
static double direct_mean(const struct spd_network *net, const struct small_data *d, const float *weights,
                          const unsigned char *is_training, unsigned char mark, size_t *count) {
  struct spd_backend *backend;
  struct spd_model *model;
  double sum = 0;
  MUST(spd_cpu_create(&backend, 1, error));
  MUST(spd_model_create(&model, net, backend, d->wave_observed, d->wave_rest, 1, SPD_MODEL_FORWARD, error));
  MUST(spd_model_set_parameters(model, weights, error));
  *count = 0;
  for (size_t i = 0; i < SMALL_ROWS; i++) {
    const size_t m = net->architecture.n_observed;
    double loss;
    if (is_training[i] != mark) continue;
    MUST(spd_model_load(model, d->flux + i * m, d->ivar + i * m, d->z + i, 1, error));
    MUST(spd_model_encode(model, error));
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    MUST(spd_model_score(model, &loss, error));
    sum += loss;
    ++*count;
  }
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  return sum / (double)*count;
}

static void test_training(void) {
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  struct small_trained first, other;
  unsigned char is_training[SMALL_ROWS];
  size_t n_training, n_validation;
  MUST(spd_network_init(&net, &a, error));
  struct small_data d = small_data_new(&net, SMALL_ROWS, 5);
  for (size_t i = 0; i < SMALL_ROWS; i++) is_training[i] = i % 5 != 3; /* 49 train: the last batch has one row */
  const struct spd_schedule schedule = {.rate = 1e-3, .total_steps = 14, .steps_per_stage = 1};

  train(&first, &net, &d, is_training, 1, 3, 10, &schedule);
  for (int threads = 2; threads <= 3; threads++) {
    train(&other, &net, &d, is_training, threads, 3, 10, &schedule);
    CHECK(small_same_bits(&first, &other, net.size), "ten steps with 1 and %d threads end in different bits", threads);
    small_trained_free(&other);
  }
  train(&other, &net, &d, is_training, 1, 3, 10, &schedule);
  CHECK(small_same_bits(&first, &other, net.size), "the same seed gives different bits");
  small_trained_free(&other);
  struct spd_surveys surveys = small_surveys_new(&d, a.n_observed);
  for (int way = SPD_FEED_AUTO; way <= SPD_FEED_STREAMED; way++)
    for (int from_file = 0; from_file < 2; from_file++) {
      struct spd_backend *backend;
      MUST(spd_cpu_create(&backend, 2, error));
      small_train(&other, backend, &net, &d, is_training, 3, 10, &schedule, (spd_feed_way)way, from_file ? &surveys : NULL);
      CHECK(small_same_bits(&first, &other, net.size), "way %d, %s: other bits than resident spectra give", way,
            from_file ? "a survey" : "memory");
      small_trained_free(&other);
      backend->ops->destroy(backend);
    }
  small_surveys_free(&surveys);
  train(&other, &net, &d, is_training, 1, 4, 10, &schedule);
  CHECK(!small_same_bits(&first, &other, net.size), "another seed gives the same bits");
  CHECK(other.progress.steps_per_epoch == 7 && other.progress.step == 10 && other.progress.epoch == 1 &&
            other.progress.step_in_epoch == 3 && other.progress.loss_count == 24,
        "after ten steps: step %llu, epoch %llu, step %llu of %llu, %llu spectra", (unsigned long long)other.progress.step,
        (unsigned long long)other.progress.epoch, (unsigned long long)other.progress.step_in_epoch,
        (unsigned long long)other.progress.steps_per_epoch, (unsigned long long)other.progress.loss_count);
  small_trained_free(&other);
  size_t moved = 0;
  for (size_t t = 0; t < net.n_parameters; t++) {
    const struct spd_parameter *p = &net.parameters[t];
    if (p->role != SPD_PARAMETER_CONV_BIAS)
      moved += memcmp(first.weights + p->offset, d.weights + p->offset, p->count * sizeof(float)) != 0;
    else CHECK(memcmp(first.weights + p->offset, d.weights + p->offset, p->count * sizeof(float)) == 0, "%s was trained", p->name);
  }
  CHECK(moved + 3 == net.n_parameters, "%zu of %zu tensors were trained", moved, net.n_parameters - 3);
  small_trained_free(&first);

  /* a learning rate of 0: an epoch's sum is that of every row, once, the short batch included */
  const struct spd_schedule still = {.rate = 0, .constant = 1};
  train(&first, &net, &d, is_training, 2, 3, 7, &still);
  double mean = direct_mean(&net, &d, d.weights, is_training, 1, &n_training);
  CHECK(first.progress.epoch_finished && first.progress.loss_count == n_training && n_training == 49,
        "an epoch of %llu spectra, wanted %zu", (unsigned long long)first.progress.loss_count, n_training);
  CHECK(fabs(first.loss_sum / (double)n_training / mean - 1) < 1e-6, "the epoch's mean loss is %.9g, its rows' %.9g",
        first.loss_sum / (double)n_training, mean);
  mean = direct_mean(&net, &d, d.weights, is_training, 0, &n_validation);
  CHECK(fabs(first.validation / mean - 1) < 1e-6, "the validation loss is %.9g, its rows' %.9g", first.validation, mean);
  CHECK(memcmp(first.weights, d.weights, net.size * sizeof(float)) == 0, "weights moved at learning rate 0");
  small_trained_free(&first);

  /* training lowers the loss */
  const struct spd_schedule fast = {.rate = 5e-3, .total_steps = 210, .steps_per_stage = 1};
  train(&first, &net, &d, is_training, 2, 3, 210, &fast);
  double before = direct_mean(&net, &d, d.weights, is_training, 1, &n_training),
         after = direct_mean(&net, &d, first.weights, is_training, 1, &n_training);
  CHECK(after < 0.6 * before, "thirty epochs bring the loss from %.4g to %.4g only", before, after);
  small_trained_free(&first);

  /* the LSF's own learning rate: 0 fixes it */
  struct spd_backend *backend;
  struct spd_model *model;
  double losses[SMALL_BATCH];
  MUST(spd_cpu_create(&backend, 1, error));
  MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, SMALL_BATCH, SPD_MODEL_TRAIN, error));
  float *weights = check_alloc(net.size * sizeof *weights);
  for (int factor = 0; factor < 2; factor++) {
    const struct spd_adam_options adam = {1e-3, 0.9, 0.999, 1e-8, factor, 0};
    MUST(spd_model_set_parameters(model, d.weights, error));
    MUST(spd_model_load(model, d.flux, d.ivar, d.z, SMALL_BATCH, error));
    MUST(spd_model_encode(model, error));
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    MUST(spd_model_score(model, losses, error));
    MUST(spd_model_backward(model, error));
    MUST(spd_model_update(model, &adam, 1, error));
    MUST(spd_model_get_parameters(weights, model, error));
    int lsf_moved = memcmp(weights, d.weights, a.lsf * sizeof *weights) != 0;
    CHECK(lsf_moved == factor, "lsf_factor %d: the LSF %s", factor, lsf_moved ? "moved" : "stayed");
    const struct spd_parameter *p = parameter_named(&net, "decoder.mlp.0.weight");
    CHECK(memcmp(weights + p->offset, d.weights + p->offset, p->count * sizeof *weights) != 0, "lsf_factor %d stops the decoder",
          factor);
  }
  /* ... and its weights stay above zero where that is asked for: this rate would take most of them below */
  for (int nonnegative = 0; nonnegative < 2; nonnegative++) {
    const struct spd_adam_options adam = {5, 0.9, 0.999, 1e-8, 1.0, nonnegative};
    size_t below = 0, others = 0;
    MUST(spd_model_set_parameters(model, d.weights, error));
    MUST(spd_model_backward(model, error));
    MUST(spd_model_update(model, &adam, 1, error));
    MUST(spd_model_get_parameters(weights, model, error));
    for (size_t i = 0; i < a.lsf; i++) below += weights[i] < 0;
    for (size_t i = a.lsf; i < net.size; i++) others += weights[i] < 0;
    CHECK((below > 0) == !nonnegative && others > 0, "lsf_nonnegative %d: %zu LSF weights and %zu others below zero", nonnegative, below,
          others);
  }
  free(weights);
  spd_model_destroy(model);

  /* refusals */
  struct spd_training *training;
  MUST(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, SMALL_BATCH, SPD_MODEL_TRAIN, error));
  struct spd_source source = {.flux = d.flux, .ivar = d.ivar, .z = d.z, .n_rows = SMALL_ROWS, .is_training = is_training};
  struct spd_training_options options = {SMALL_BATCH + 1, 1, schedule, {0, 0, 0.999, 1e-8, 1.0, 0}, SPD_FEED_AUTO};
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "batch size");
  options.batch_size = 0;
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "batch size");
  options.batch_size = SMALL_BATCH;
  memset(is_training, 0, sizeof is_training);
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "train");
  CHECK_STATUS(spd_model_load(model, d.flux, d.ivar, d.z, SMALL_BATCH + 1, error), SPD_STATUS_INVALID, "batch");
  CHECK_STATUS(spd_model_load(model, d.flux, d.ivar, d.z, 0, error), SPD_STATUS_INVALID, "batch");
  spd_model_destroy(model);
  CHECK_STATUS(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, 0, SPD_MODEL_TRAIN, error), SPD_STATUS_INVALID,
               "batch");
  d.wave_observed[4] = d.wave_observed[3];
  CHECK_STATUS(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, 2, SPD_MODEL_TRAIN, error), SPD_STATUS_INVALID,
               "increasing");
  d.wave_rest[7] = NAN;
  CHECK_STATUS(spd_model_create(&model, &net, backend, d.wave_observed, d.wave_rest, 2, SPD_MODEL_TRAIN, error), SPD_STATUS_INVALID,
               "wavelength");
  backend->ops->destroy(backend);
  CHECK_STATUS(spd_cpu_create(&backend, 0, error), SPD_STATUS_INVALID, "threads");
  small_data_free(&d);
}

/* ---- order and schedule ---- */

static void test_order(void) {
  const uint64_t sizes[] = {1, 2, 511, 512, 513, 1024, 8191, 8192, 8193, 20000, 70001};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    const uint64_t n = sizes[s];
    uint64_t *order = check_alloc(n * sizeof *order), *next = check_alloc(n * sizeof *next);
    unsigned char *seen = check_alloc(n);
    uint64_t missing = 0, same = 0, in_place = 0;
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
      spd_order_fill(order, n, 9, epoch);
      memset(seen, 0, n);
      for (uint64_t i = 0; i < n; i++) {
        if (order[i] < n) seen[order[i]] = 1;
        in_place += epoch == 0 && order[i] == i;
      }
      for (uint64_t i = 0; i < n; i++) missing += !seen[i];
    }
    CHECK(missing == 0, "the order of %llu rows misses %llu of them", (unsigned long long)n, (unsigned long long)missing);
    spd_order_fill(next, n, 9, 2);
    CHECK(memcmp(order, next, n * sizeof *order) == 0, "the same seed and epoch give another order of %llu rows",
          (unsigned long long)n);
    spd_order_fill(next, n, 9, 3);
    for (uint64_t i = 0; i < n; i++) same += order[i] == next[i];
    CHECK(n < 500 || same < n / 20, "two epochs agree in %llu of %llu places", (unsigned long long)same, (unsigned long long)n);
    spd_order_fill(next, n, 10, 2);
    same = 0;
    for (uint64_t i = 0; i < n; i++) same += order[i] == next[i];
    CHECK(n < 500 || same < n / 20, "two seeds agree in %llu of %llu places", (unsigned long long)same, (unsigned long long)n);
    CHECK(n < 500 || in_place < n / 20, "%llu of %llu rows stay where they were", (unsigned long long)in_place,
          (unsigned long long)n);
    /* a window of 16 blocks of 512 rows holds rows of 16 blocks only: what lets a reader stream */
    if (n >= 20000) {
      uint64_t blocks[200] = {0}, count = 0;
      for (uint64_t i = 0; i < 16 * 512 - 512; i++) blocks[order[i] / 512]++;
      for (uint64_t b = 0; b < 200; b++) count += blocks[b] > 0;
      CHECK(count <= 17, "the first window reads %llu blocks", (unsigned long long)count);
    }
    free(order);
    free(next);
    free(seen);
  }
}

static void test_schedule(const char *folder) {
  struct vectors v;
  vectors_read(&v, folder, "schedule");
  for (size_t j = 0; j < v.n_cases; j++) {
    const struct vector_case *c = &v.cases[j];
    const size_t total = vectors_size(c, "total");
    double *rate = check_alloc(total * sizeof *rate), *beta1 = check_alloc(total * sizeof *beta1);
    struct spd_schedule s = {.rate = vectors_number(c, "rate"), .total_steps = total,
                             .steps_per_stage = vectors_size(c, "steps_per_stage"), .cycle_momentum = 1};
    for (size_t i = 0; i < total; i++) spd_schedule_at(&rate[i], &beta1[i], &s, i);
    CHECK_CLOSE(c->name, rate, vectors_array(c, "rates"), total, tolerance_for("schedule"));
    CHECK_CLOSE(c->name, beta1, vectors_array(c, "beta1"), total, tolerance_for("schedule"));
    s.cycle_momentum = 0;
    spd_schedule_at(&rate[0], &beta1[0], &s, total / 3);
    CHECK(beta1[0] == 0.9, "%s: beta1 is %g without cycling", c->name, beta1[0]);
    s.constant = 1;
    spd_schedule_at(&rate[0], &beta1[0], &s, total / 3);
    CHECK(rate[0] == s.rate, "%s: a constant rate is %g", c->name, rate[0]);
    free(rate);
    free(beta1);
  }
  vectors_free(&v);
  /* trainings too short for a cycle still have a rate between its end and its top */
  for (uint64_t total = 1; total <= 6; total++) {
    const struct spd_schedule s = {.rate = 1, .total_steps = total, .steps_per_stage = 1};
    size_t wrong = 0;
    for (uint64_t step = 0; step < total + 2; step++) {
      double rate, beta1;
      spd_schedule_at(&rate, &beta1, &s, step);
      wrong += !(rate >= 1 / 25e4 - 1e-12 && rate <= 1);
    }
    CHECK(wrong == 0, "%zu rates of a training of %llu steps are off", wrong, (unsigned long long)total);
  }
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
    if (i < 2)
      MUST(spd_model_create(&model, &net, backend, d[0].wave_observed, d[0].wave_rest, N, SPD_MODEL_FORWARD, error));
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

int main(int argc, char **argv) {
  struct spd_architecture a = small_architecture();
  test_passes("small", a, 5, 9);
  a.weight_attention = 1, a.lsf = 0;
  test_passes("weight attention", a, 5, 9);
  a = small_architecture(); /* wide and long enough that every stage has several pieces */
  a.n_observed = 1500, a.n_rest = 2100;
  a.filters[0] = 70, a.filters[1] = 150, a.filters[2] = 200, a.kernels[1] = 11, a.pools[1] = 3;
  a.encoder_hidden[0] = 140, a.decoder_hidden[1] = 600;
  test_passes("wide", a, 7, 11);
  test_training();
  test_order();
  test_schedule(argc > 1 ? argv[1] : NULL);
  test_kept_weights();
  return check_end();
}
