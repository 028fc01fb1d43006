/* Training: the same bits for any number of threads, the same seed and any source; each row of an epoch counts once, the short last batch
 * too; the line spread function has its own learning rate; the schedule is 1Cycle's. */
#include "check.h"
#include "cpu/cpu.h"
#include "cpu/create.h"
#include "network/model-struct.h"
#include "small-training.h"
#include "tolerances.h"
#include "vectors.h"

/* What all tests train: spectra of which four in five train; 49 of them, so that the last batch has one row */
struct setting {
  struct spd_architecture architecture;
  struct spd_network net;
  struct small_data data;
  unsigned char is_training[SMALL_ROWS];
};

static struct setting *setting_new(void) {
  struct setting *s = check_alloc(sizeof *s);
  s->architecture = small_architecture();
  MUST(spd_network_init(&s->net, &s->architecture, error));
  s->data = small_data_new(&s->net, SMALL_ROWS, 5);
  for (size_t i = 0; i < SMALL_ROWS; i++) s->is_training[i] = i % 5 != 3;
  return s;
}

static void setting_free(struct setting *s) {
  small_data_free(&s->data);
  free(s);
}

static const struct spd_schedule ten_steps = {.rate = 1e-3, .total_steps = 14, .steps_per_stage = 1};

static void train(struct small_trained *out, const struct setting *s, int threads, uint64_t seed, size_t steps,
                  const struct spd_schedule *schedule) {
  struct spd_backend *backend;
  MUST(spd_cpu_create(&backend, threads, error));
  small_train(out, backend, &s->net, &s->data, s->is_training, seed, steps, schedule, SPD_FEED_AUTO, NULL);
  backend->ops->destroy(backend);
}

/* Mean loss of the rows that train (1) or validate (0), each scored by itself */
static double direct_mean(const struct setting *s, const float *weights, unsigned char mark, size_t *count) {
  struct spd_backend *backend;
  struct spd_model *model;
  const struct small_data *d = &s->data;
  double sum = 0;
  MUST(spd_cpu_create(&backend, 1, error));
  MUST(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, 1, SPD_MODEL_FORWARD, error));
  MUST(spd_model_set_parameters(model, weights, error));
  *count = 0;
  for (size_t i = 0; i < SMALL_ROWS; i++) {
    const size_t m = s->architecture.n_observed;
    double loss;
    if (s->is_training[i] != mark) continue;
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

static void test_threads_and_seeds(const struct setting *s) {
  struct small_trained first, other;
  train(&first, s, 1, 3, 10, &ten_steps);
  for (int threads = 1; threads <= 3; threads++) {
    train(&other, s, threads, 3, 10, &ten_steps);
    CHECK(small_same_bits(&first, &other, s->net.size), "ten steps with 1 and %d threads end in different bits", threads);
    small_trained_free(&other);
  }
  train(&other, s, 1, 4, 10, &ten_steps);
  CHECK(!small_same_bits(&first, &other, s->net.size), "another seed gives the same bits");
  small_trained_free(&other);
  small_trained_free(&first);
}

static void test_sources(struct setting *s) {
  struct small_trained first, other;
  struct spd_surveys surveys = small_surveys_new(&s->data, s->architecture.n_observed);
  train(&first, s, 1, 3, 10, &ten_steps);
  for (int way = SPD_FEED_AUTO; way <= SPD_FEED_STREAMED; way++)
    for (int from_file = 0; from_file < 2; from_file++) {
      struct spd_backend *backend;
      MUST(spd_cpu_create(&backend, 2, error));
      small_train(&other, backend, &s->net, &s->data, s->is_training, 3, 10, &ten_steps, (spd_feed_way)way, from_file ? &surveys : NULL);
      CHECK(small_same_bits(&first, &other, s->net.size), "way %d, %s: other bits than resident spectra give", way,
            from_file ? "a survey" : "memory");
      small_trained_free(&other);
      backend->ops->destroy(backend);
    }
  small_surveys_free(&surveys);
  small_trained_free(&first);
}

/* The same with resolutions, which matter */
static void test_resolved_sources(void) {
  static const struct spd_band bands[] = {{5, 3, 0}, {7, 16, 1}};
  struct setting *s = setting_new();
  struct small_trained without, with;
  s->architecture.lsf = 0;
  MUST(spd_network_init(&s->net, &s->architecture, error));
  small_data_free(&s->data);
  s->data = small_data_new(&s->net, SMALL_ROWS, 5);
  train(&without, s, 1, 3, 10, &ten_steps);
  for (int b = 0; b < 2; b++) {
    float *values = small_resolutions(&bands[b], SMALL_ROWS, s->architecture.n_observed, 8);
    small_band = &bands[b], small_bands = values;
    test_sources(s);
    train(&with, s, 1, 3, 10, &ten_steps);
    CHECK(!small_same_bits(&with, &without, s->net.size), "resolutions change nothing");
    small_trained_free(&with);
    small_band = NULL, small_bands = NULL;
    free(values);
  }
  small_trained_free(&without);
  setting_free(s);
}

static void test_progress(const struct setting *s) {
  struct small_trained t;
  train(&t, s, 1, 4, 10, &ten_steps);
  CHECK(t.progress.steps_per_epoch == 7 && t.progress.step == 10 && t.progress.epoch == 1 && t.progress.step_in_epoch == 3 &&
            t.progress.loss_count == 24,
        "after ten steps: step %llu, epoch %llu, step %llu of %llu, %llu spectra", (unsigned long long)t.progress.step,
        (unsigned long long)t.progress.epoch, (unsigned long long)t.progress.step_in_epoch, (unsigned long long)t.progress.steps_per_epoch,
        (unsigned long long)t.progress.loss_count);
  small_trained_free(&t);
}

/* All parameters but the convolutions' biases, which the norm removes */
static void test_parameters_that_train(const struct setting *s) {
  struct small_trained t;
  size_t moved = 0;
  train(&t, s, 1, 3, 10, &ten_steps);
  for (size_t i = 0; i < s->net.n_parameters; i++) {
    const struct spd_parameter *p = &s->net.parameters[i];
    const int same = memcmp(t.weights + p->offset, s->data.weights + p->offset, p->count * sizeof(float)) == 0;
    if (p->role == SPD_PARAMETER_CONV_BIAS)
      CHECK(same, "%s was trained", p->name);
    else
      moved += !same;
  }
  CHECK(moved + 3 == s->net.n_parameters, "%zu of %zu tensors were trained", moved, s->net.n_parameters - 3);
  small_trained_free(&t);
}

/* At a learning rate of 0 the mean of an epoch is that of all rows, the short batch included. */
static void test_mean_loss(const struct setting *s) {
  struct small_trained t;
  const struct spd_schedule still = {.rate = 0, .constant = 1};
  size_t n_training, n_validation;
  train(&t, s, 2, 3, 7, &still);
  double mean = direct_mean(s, s->data.weights, 1, &n_training);
  CHECK(t.progress.epoch_finished && t.progress.loss_count == n_training && n_training == 49, "an epoch of %llu spectra, wanted %zu",
        (unsigned long long)t.progress.loss_count, n_training);
  CHECK(fabs(t.loss_sum / (double)n_training / mean - 1) < 1e-6, "the epoch's mean loss is %.9g, its rows' %.9g",
        t.loss_sum / (double)n_training, mean);
  mean = direct_mean(s, s->data.weights, 0, &n_validation);
  CHECK(fabs(t.validation / mean - 1) < 1e-6, "the validation loss is %.9g, its rows' %.9g", t.validation, mean);
  CHECK(memcmp(t.weights, s->data.weights, s->net.size * sizeof(float)) == 0, "weights moved at learning rate 0");
  small_trained_free(&t);
}

static void test_loss_falls(const struct setting *s) {
  struct small_trained t;
  size_t n;
  const struct spd_schedule fast = {.rate = 5e-3, .total_steps = 210, .steps_per_stage = 1};
  train(&t, s, 2, 3, 210, &fast);
  const double before = direct_mean(s, s->data.weights, 1, &n), after = direct_mean(s, t.weights, 1, &n);
  CHECK(after < 0.6 * before, "thirty epochs bring the loss from %.4g to %.4g only", before, after);
  small_trained_free(&t);
}

/* ---- the line spread function ---- */

/* One step from the initial weights */
static void one_step(float *weights, const struct setting *s, struct spd_model *model, const struct spd_adam_options *adam) {
  const struct small_data *d = &s->data;
  double losses[SMALL_BATCH];
  MUST(spd_model_set_parameters(model, d->weights, error));
  MUST(spd_model_load(model, d->flux, d->ivar, d->z, SMALL_BATCH, error));
  MUST(spd_model_encode(model, error));
  MUST(spd_model_decode(model, error));
  MUST(spd_model_observe(model, error));
  MUST(spd_model_score(model, losses, error));
  MUST(spd_model_backward(model, error));
  MUST(spd_model_update(model, adam, 1, error));
  MUST(spd_model_get_parameters(weights, model, error));
}

static void test_lsf(const struct setting *s) {
  struct spd_backend *backend;
  struct spd_model *model;
  const size_t lsf = s->architecture.lsf;
  float *weights = check_alloc(s->net.size * sizeof *weights);
  MUST(spd_cpu_create(&backend, 1, error));
  MUST(spd_model_create(&model, &s->net, backend, s->data.wave_observed, s->data.wave_rest, SMALL_BATCH, SPD_MODEL_TRAIN, error));
  for (int factor = 0; factor < 2; factor++) { /* 0 keeps it */
    const struct spd_adam_options adam = {1e-3, 0.9, 0.999, 1e-8, factor, 0};
    one_step(weights, s, model, &adam);
    const int moved = memcmp(weights, s->data.weights, lsf * sizeof *weights) != 0;
    CHECK(moved == factor, "lsf_factor %d: the LSF %s", factor, moved ? "moved" : "stayed");
    const struct spd_parameter *p = parameter_named(&s->net, "decoder.mlp.0.weight");
    CHECK(memcmp(weights + p->offset, s->data.weights + p->offset, p->count * sizeof *weights) != 0, "lsf_factor %d stops the decoder",
          factor);
  }
  for (int nonnegative = 0; nonnegative < 2; nonnegative++) { /* this rate would take most of its weights below zero */
    const struct spd_adam_options adam = {5, 0.9, 0.999, 1e-8, 1.0, nonnegative};
    size_t below = 0, others = 0;
    one_step(weights, s, model, &adam);
    for (size_t i = 0; i < lsf; i++) below += weights[i] < 0;
    for (size_t i = lsf; i < s->net.size; i++) others += weights[i] < 0;
    CHECK((below > 0) == !nonnegative && others > 0, "lsf_nonnegative %d: %zu LSF weights and %zu others below zero", nonnegative, below,
          others);
  }
  free(weights);
  spd_model_destroy(model);
  backend->ops->destroy(backend);
}

/* ---- a decoder that learns at refined latents ---- */

/* At the encoder's own latents the two parts of the gradient are the whole one, bit for bit. */
static void test_parts_of_the_gradient(const struct setting *s) {
  struct spd_backend *backend;
  struct spd_model *model;
  const struct small_data *d = &s->data;
  double losses[SMALL_BATCH];
  float *whole = check_alloc(s->net.size * sizeof *whole), *parts = check_alloc(s->net.size * sizeof *parts);
  float *latent = check_alloc(SMALL_BATCH * s->net.architecture.n_latent * sizeof *latent);
  MUST(spd_cpu_create(&backend, 2, error));
  MUST(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, SMALL_BATCH, SPD_MODEL_TRAIN, error));
  MUST(spd_model_set_parameters(model, d->weights, error));
  for (int in_parts = 0; in_parts < 2; in_parts++) {
    MUST(spd_model_load(model, d->flux, d->ivar, d->z, SMALL_BATCH, error));
    MUST(spd_model_encode(model, error));
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    MUST(spd_model_score(model, losses, error));
    MUST(in_parts ? spd_model_backward_decoder(model, error) : spd_model_backward(model, error));
    if (in_parts) {
      MUST(spd_model_read_gradient(latent, model, SPD_TENSOR_LATENT, error));
      MUST(spd_model_backward_from(model, SPD_TENSOR_LATENT, latent, SPD_TENSOR_INPUT, error));
    }
    MUST(spd_model_get_gradient(in_parts ? parts : whole, model, error));
  }
  CHECK(memcmp(whole, parts, s->net.size * sizeof *whole) == 0, "the gradients of encoder and decoder are not those of the whole");
  free(whole);
  free(parts);
  free(latent);
  spd_model_destroy(model);
  backend->ops->destroy(backend);
}

static void test_refined_training(const struct setting *s) {
  /* long enough for an encoder close to refined latents: else the decoder does not leave it */
  struct spd_schedule long_one = ten_steps;
  const size_t steps = 120, from = 60;
  long_one.total_steps = steps;
  struct small_trained plain, first, other;
  struct spd_backend *backend;
  train(&plain, s, 1, 3, steps, &long_one);
  for (int threads = 1; threads <= 3; threads++) {
    MUST(spd_cpu_create(&backend, threads, error));
    small_train_refined(threads == 1 ? &first : &other, backend, &s->net, &s->data, s->is_training, 3, steps, &long_one, from);
    backend->ops->destroy(backend);
    if (threads == 1) continue;
    CHECK(small_same_bits(&first, &other, s->net.size), "refined: 1 and %d threads end in different bits", threads);
    small_trained_free(&other);
  }
  CHECK(!small_same_bits(&plain, &first, s->net.size), "refined latents change nothing");
  CHECK(first.progress.loss_count == plain.progress.loss_count, "%llu losses of a refined epoch, %llu of a plain one",
        (unsigned long long)first.progress.loss_count, (unsigned long long)plain.progress.loss_count);
  small_trained_free(&first);
  MUST(spd_cpu_create(&backend, 1, error));
  small_train_refined(&first, backend, &s->net, &s->data, s->is_training, 3, steps, &long_one, steps);
  backend->ops->destroy(backend);
  CHECK(small_same_bits(&plain, &first, s->net.size), "before the change-over a training is not the plain one");
  small_trained_free(&first);
  small_trained_free(&plain);
}

/* ---- averaged weights ---- */

enum { AVERAGED = 5 };

/* `steps` steps; after `stop` of them model and training are made anew from the state. out->weights gets the model's; `mean` (size) the
 * training's, and `want` (size) the averages in double of the weights after each step, unless they are NULL. */
static void train_stopped(struct small_trained *out, float *mean, double *want, const struct setting *s, int threads, size_t steps,
                          size_t stop, const struct spd_training_options *options) {
  const struct small_data *d = &s->data;
  const struct spd_source source = {
      .flux = d->flux, .ivar = d->ivar, .z = d->z, .n_rows = SMALL_ROWS, .is_training = s->is_training, .threads = 2};
  const size_t bytes = s->net.size * sizeof(float);
  const size_t capacity = SMALL_BATCH + (options->invariance ? spd_invariance_copies(options->invariance, SMALL_BATCH) : 0);
  struct spd_training_state state;
  struct spd_backend *backend;
  uint64_t count;
  int finished;
  memset(out, 0, sizeof *out);
  out->weights = check_alloc(bytes), out->m = check_alloc(bytes), out->v = check_alloc(bytes);
  memcpy(out->weights, d->weights, bytes);
  MUST(spd_cpu_create(&backend, threads, error));
  for (size_t done = 0; done < steps;) {
    const size_t until = done < stop ? stop : steps;
    struct spd_model *model;
    struct spd_training *training;
    MUST(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, capacity, SPD_MODEL_TRAIN, error));
    MUST(spd_model_set_parameters(model, out->weights, error));
    MUST(spd_model_set_moments(model, out->m, out->v, error));
    MUST(spd_training_create(&training, model, &source, options, error));
    CHECK(spd_training_averages(training) == (options->average > 0), "whether a training keeps averages");
    if (done) {
      if (options->average) MUST(spd_model_set_average(model, mean, error));
      MUST(spd_training_set_state(training, &state, error));
    }
    for (; done < until; done++) {
      MUST(spd_training_advance(training, 0, &out->progress, error));
      /* a fraction at a time: between two calls the weights are the training's */
      if (done % 3 == 1) MUST(spd_training_validate(training, 0, &finished, &out->validation, &count, error));
      if (!want) continue;
      const double fraction = 1.0 / (double)(done < options->average ? done + 1 : options->average);
      MUST(spd_model_get_parameters(out->weights, model, error));
      for (size_t i = 0; i < s->net.size; i++) want[i] += fraction * ((double)out->weights[i] - want[i]);
    }
    state = spd_training_get_state(training);
    do MUST(spd_training_validate(training, 0, &finished, &out->validation, &count, error));
    while (!finished);
    if (mean) MUST(spd_training_get_weights(mean, training, error));
    MUST(spd_model_get_parameters(out->weights, model, error));
    MUST(spd_model_get_moments(out->m, out->v, model, error));
    spd_training_destroy(training);
    spd_model_destroy(model);
  }
  backend->ops->destroy(backend);
}

static void train_averaged(struct small_trained *out, float *mean, double *want, const struct setting *s, int threads, size_t steps,
                           size_t stop) {
  const struct spd_training_options options = {.batch_size = SMALL_BATCH,
                                               .seed = 3,
                                               .schedule = ten_steps,
                                               .adam = {0, 0, 0.999, 1e-8, 1.0, 0},
                                               .refine_from = UINT64_MAX,
                                               .average = AVERAGED};
  train_stopped(out, mean, want, s, threads, steps, stop, &options);
}

static void test_averaged_training(const struct setting *s) {
  const size_t size = s->net.size, steps = 12;
  struct small_trained plain, first, other;
  float *mean = check_alloc(size * sizeof *mean), *resumed = check_alloc(size * sizeof *resumed);
  double *want = check_alloc(size * sizeof *want), *got = check_alloc(size * sizeof *got);
  size_t n_validation;
  memset(want, 0, size * sizeof *want);
  train(&plain, s, 1, 3, steps, &ten_steps);
  train_averaged(&first, mean, want, s, 1, steps, steps);
  for (size_t i = 0; i < size; i++) got[i] = (double)mean[i];
  CHECK_CLOSE("averaged weights", got, want, size, tolerance_for("adam"));
  CHECK(memcmp(plain.weights, first.weights, size * sizeof *mean) == 0, "averages disturb the training");
  const double loss = direct_mean(s, mean, 0, &n_validation);
  CHECK(fabs(first.validation / loss - 1) < 1e-6, "the validation loss is %.9g, that of the averages %.9g", first.validation, loss);
  CHECK(fabs(plain.validation / loss - 1) > 1e-4, "weights and their averages have the same loss");
  for (size_t stop = 2; stop <= 10; stop += 4) { /* before and after the time of averaging */
    train_averaged(&other, resumed, NULL, s, (int)(stop % 3) + 1, steps, stop);
    CHECK(small_same_bits(&first, &other, size) && memcmp(mean, resumed, size * sizeof *mean) == 0,
          "resumed after %zu steps, an averaged training has other bits", stop);
    small_trained_free(&other);
  }
  small_trained_free(&plain);
  small_trained_free(&first);
  free(mean);
  free(resumed);
  free(want);
  free(got);
}

/* ---- losses of invariance ---- */

static const struct spd_invariance_options invariance = {.scale_free = 1,
                                                         .similarity = 1,
                                                         .consistency = 1,
                                                         .sigma = 0.3,
                                                         .amplitude = 20,
                                                         .width = 1000,
                                                         .median_from = 4000,
                                                         .median_to = 5000,
                                                         .fraction = 0.6,
                                                         .z_low = 0,
                                                         .z_high = 0.3,
                                                         .noisy = 0.05,
                                                         .noise = 0.2,
                                                         .masked = 0.05,
                                                         .slope = 3,
                                                         .period = 2,
                                                         .free_from = 3,
                                                         .seed = 3};

/* Likewise, with losses of invariance and all other options */
static void train_invariant(struct small_trained *out, const struct setting *s, int threads, size_t steps, size_t stop, double clip,
                            const uint64_t *ids) {
  const struct spd_training_options options = {.batch_size = SMALL_BATCH,
                                               .seed = 3,
                                               .schedule = ten_steps,
                                               .adam = {0, 0, 0.999, 1e-6, 1.0, 0},
                                               .way = SPD_FEED_AUTO,
                                               .refine_from = UINT64_MAX,
                                               .clip = clip,
                                               .invariance = &invariance,
                                               .ids = ids};
  train_stopped(out, NULL, NULL, s, threads, steps, stop, &options);
}

static void test_invariant_training(const struct setting *s) {
  struct small_trained plain, first, other;
  uint64_t ids[SMALL_ROWS];
  for (uint64_t i = 0; i < SMALL_ROWS; i++) ids[i] = i;
  train(&plain, s, 1, 3, 20, &ten_steps);
  train_invariant(&first, s, 1, 20, 20, 0, NULL);
  CHECK(memcmp(plain.weights, first.weights, s->net.size * sizeof(float)) != 0, "losses of invariance change nothing");
  CHECK(first.progress.loss_count == plain.progress.loss_count, "%llu losses of an epoch with copies, %llu of a plain one",
        (unsigned long long)first.progress.loss_count, (unsigned long long)plain.progress.loss_count);
  small_trained_free(&plain);
  for (size_t stop = 5; stop <= 13; stop += 4) { /* within and between epochs of 7 steps, with other threads, and ids that say the same */
    train_invariant(&other, s, (int)(stop % 3) + 1, 20, stop, 0, ids);
    CHECK(small_same_bits(&first, &other, s->net.size), "resumed after %zu steps, an invariant training has other bits", stop);
    small_trained_free(&other);
  }
  ids[7] = 1000;
  train_invariant(&other, s, 1, 20, 20, 0, ids);
  CHECK(!small_same_bits(&first, &other, s->net.size), "another id gives the same copies");
  small_trained_free(&other);
  train_invariant(&other, s, 2, 20, 20, 1e-3, NULL);
  CHECK(!small_same_bits(&first, &other, s->net.size), "clipping changes nothing");
  small_trained_free(&other);
  small_trained_free(&first);
}

/* A copy follows from seed, epoch and id: not from the batch, its place, or the threads. */
static void test_copies(const struct setting *s) {
  enum { N = 6 };
  static const uint64_t rows[2][N] = {{0, 1, 2, 3, 4, 5}, {9, 3, 2, 8, 7, 1}};
  const struct small_data *d = &s->data;
  struct spd_invariance_options all = invariance;
  const size_t m = s->net.architecture.n_observed;
  float *copies[2];
  all.fraction = 1;
  for (int k = 0; k < 2; k++) {
    struct spd_backend *backend;
    struct spd_model *model;
    struct spd_invariance *v;
    MUST(spd_cpu_create(&backend, k + 1, error));
    MUST(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, 2 * N, SPD_MODEL_TRAIN, error));
    MUST(spd_invariance_create(&v, model, &all, N, N, error));
    MUST(spd_model_load_rows(model, d->flux, d->ivar, d->z, rows[k], N, error));
    MUST(spd_invariance_begin(v, rows[k], N, 4, error));
    MUST(spd_invariance_copy(v, error));
    copies[k] = check_alloc(N * m * sizeof(float));
    memcpy(copies[k], model->flux + N * m, N * m * sizeof(float));
    if (k == 1) {
      CHECK_STATUS(spd_invariance_copy(v, error), SPD_STATUS_INVALID, "too many");
      MUST(spd_invariance_begin(v, rows[k], N, 5, error));
      MUST(spd_invariance_copy(v, error));
      CHECK(memcmp(copies[k], model->flux + N * m, N * m * sizeof(float)) != 0, "another epoch has the same copies");
    }
    spd_invariance_destroy(v);
    spd_model_destroy(model);
    backend->ops->destroy(backend);
  }
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < N; j++)
      if (rows[0][i] == rows[1][j])
        CHECK(memcmp(copies[0] + i * m, copies[1] + j * m, m * sizeof(float)) == 0, "the copy of row %zu depends on the batch",
              (size_t)rows[0][i]);
  free(copies[0]);
  free(copies[1]);
}

static void test_slope_of_epochs(void) {
  const struct spd_invariance_options sdss = {.slope = 9.9, .period = 100, .free_from = 250};
  const double want[] = {0, 0.1, 9.9, 0, 4.9, 0, 0};
  const uint64_t epoch[] = {0, 1, 99, 100, 249, 250, 1000};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    const double got = spd_invariance_slope(&sdss, epoch[i]);
    CHECK(fabs(got - want[i]) < 1e-12, "k is %g in epoch %llu", got, (unsigned long long)epoch[i]);
  }
}

/* ---- refusals ---- */

static void test_refused_trainings(const struct setting *s) {
  const struct small_data *d = &s->data;
  struct spd_backend *backend;
  struct spd_model *model;
  struct spd_training *training;
  unsigned char none[SMALL_ROWS] = {0};
  MUST(spd_cpu_create(&backend, 1, error));
  MUST(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, SMALL_BATCH, SPD_MODEL_TRAIN, error));
  struct spd_source source = {.flux = d->flux, .ivar = d->ivar, .z = d->z, .n_rows = SMALL_ROWS, .is_training = s->is_training};
  struct spd_training_options options = {.batch_size = SMALL_BATCH + 1,
                                         .seed = 1,
                                         .schedule = ten_steps,
                                         .adam = {0, 0, 0.999, 1e-8, 1.0, 0},
                                         .way = SPD_FEED_AUTO,
                                         .refine_from = UINT64_MAX};
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "batch size");
  options.batch_size = 0;
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "batch size");
  options.batch_size = SMALL_BATCH;
  options.invariance = &invariance;
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "copies");
  struct spd_invariance_options outside = invariance;
  outside.fraction = 0, outside.median_from = 9000, outside.median_to = 9500;
  options.invariance = &outside;
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "normalised");
  options.refine_from = 0;
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "refined");
  options.refine_from = UINT64_MAX, options.invariance = NULL;
  source.is_training = none;
  CHECK_STATUS(spd_training_create(&training, model, &source, &options, error), SPD_STATUS_INVALID, "train");
  CHECK_STATUS(spd_model_load(model, d->flux, d->ivar, d->z, SMALL_BATCH + 1, error), SPD_STATUS_INVALID, "batch");
  CHECK_STATUS(spd_model_load(model, d->flux, d->ivar, d->z, 0, error), SPD_STATUS_INVALID, "batch");
  spd_model_destroy(model);
  backend->ops->destroy(backend);
}

static void test_refused_models(const struct setting *s) {
  const struct small_data *d = &s->data;
  struct spd_backend *backend;
  struct spd_model *model;
  MUST(spd_cpu_create(&backend, 1, error));
  CHECK_STATUS(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, 0, SPD_MODEL_TRAIN, error), SPD_STATUS_INVALID,
               "batch");
  d->wave_observed[4] = d->wave_observed[3];
  CHECK_STATUS(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, 2, SPD_MODEL_TRAIN, error), SPD_STATUS_INVALID,
               "increasing");
  d->wave_rest[7] = NAN;
  CHECK_STATUS(spd_model_create(&model, &s->net, backend, d->wave_observed, d->wave_rest, 2, SPD_MODEL_TRAIN, error), SPD_STATUS_INVALID,
               "wavelength");
  backend->ops->destroy(backend);
  CHECK_STATUS(spd_cpu_create(&backend, 0, error), SPD_STATUS_INVALID, "threads");
}

/* ---- the schedule ---- */

static void test_schedule(const char *folder) {
  struct vectors v;
  vectors_read(&v, folder, "schedule");
  for (size_t j = 0; j < v.n_cases; j++) {
    const struct vector_case *c = &v.cases[j];
    const size_t total = vectors_size(c, "total");
    double *rate = check_alloc(total * sizeof *rate), *beta1 = check_alloc(total * sizeof *beta1);
    struct spd_schedule s = {.rate = vectors_number(c, "rate"),
                             .total_steps = total,
                             .steps_per_stage = vectors_size(c, "steps_per_stage"),
                             .cycle_momentum = 1};
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

int main(int argc, char **argv) {
  struct setting *s = setting_new();
  test_threads_and_seeds(s);
  test_sources(s);
  test_progress(s);
  test_parameters_that_train(s);
  test_mean_loss(s);
  test_loss_falls(s);
  test_resolved_sources();
  test_lsf(s);
  test_parts_of_the_gradient(s);
  test_refined_training(s);
  test_averaged_training(s);
  test_invariant_training(s);
  test_copies(s);
  test_slope_of_epochs();
  test_refused_trainings(s);
  test_refused_models(s); /* spoils the grids */
  setting_free(s);
  test_schedule(argc > 1 ? argv[1] : NULL);
  return check_end();
}
