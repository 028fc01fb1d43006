/* Training in pieces: the same bits for any number of ranks that share them, also when it goes on with another number; the gradient of a
 * batch in pieces is that of the whole one; whichever rank dies in whichever exchange, the others end, and say which. */
#include "cpu/create.h"
#include "played-group.h"
#include "small-training.h"
#include "tolerances.h"

struct setting {
  struct spd_architecture architecture;
  struct spd_network net;
  struct small_data data;
  unsigned char is_training[SMALL_ROWS];
  struct spd_surveys surveys;
};

static struct setting *setting_new(int weight_attention) {
  struct setting *s = check_alloc(sizeof *s);
  s->architecture = small_architecture();
  s->architecture.weight_attention = weight_attention;
  MUST(spd_network_init(&s->net, &s->architecture, error));
  s->data = small_data_new(&s->net, SMALL_ROWS, 5);
  s->surveys = small_surveys_new(&s->data, s->architecture.n_observed);
  for (size_t i = 0; i < SMALL_ROWS; i++) s->is_training[i] = i % 5 != 3; /* 49: the last batch has one spectrum */
  return s;
}

static void setting_free(struct setting *s) {
  small_surveys_free(&s->surveys);
  small_data_free(&s->data);
  free(s);
}

struct job {
  const struct setting *s;
  size_t pieces, steps;
  uint64_t refine_from;
  int from_files, threads;
  double clip;
  const struct small_trained *start; /* to go on from, or NULL */
  const struct spd_training_state *state;
  int stop_rank; /* asks to stop after `stop_step`; -1: none */
  size_t stop_step;
  struct small_trained trained[PLAYED_RANKS];
  struct spd_training_state states[PLAYED_RANKS];
  spd_status status[PLAYED_RANKS];
  struct spd_error error[PLAYED_RANKS];
};

static spd_status steps_of(struct job *j, struct spd_training *training, struct small_trained *out, int rank, struct spd_error *error) {
  uint64_t count;
  int finished;
  for (size_t i = 0; i < j->steps; i++) {
    SPD_TRY(spd_training_advance(training, rank == 1 ? 1e9 : 0, &out->progress, error)); /* the first rank's time counts */
    if (out->progress.stopped) break;
    if (out->progress.epoch_finished) out->loss_sum = out->progress.loss_sum;
    if (i % 5 == 1) SPD_TRY(spd_training_validate(training, 1e9, &finished, &out->validation, &count, error));
    if (rank == j->stop_rank && i + 1 == j->stop_step) spd_training_stop(training);
  }
  return spd_training_validate(training, 1e9, &finished, &out->validation, &count, error);
}

static spd_status train_with(struct job *j, struct spd_group *group, struct spd_model *model, struct spd_training **training, int rank,
                             struct spd_error *error) {
  const struct small_data *d = &j->s->data;
  const struct spd_sharing sharing = {j->pieces, group, NULL};
  const struct spd_source source = {.flux = d->flux,
                                    .ivar = d->ivar,
                                    .z = d->z,
                                    .n_rows = SMALL_ROWS,
                                    .is_training = j->s->is_training,
                                    .surveys = j->from_files ? &j->s->surveys : NULL,
                                    .threads = 1};
  const struct spd_training_options options = {.batch_size = SMALL_BATCH,
                                               .seed = 3,
                                               .schedule = {.rate = 2e-3, .total_steps = 30, .steps_per_stage = 1},
                                               .adam = {0, 0, 0.999, 1e-8, 1.0, 0},
                                               .refine_from = j->refine_from,
                                               .clip = j->clip,
                                               .sharing = j->pieces ? &sharing : NULL};
  struct small_trained *out = &j->trained[rank];
  SPD_TRY(spd_model_set_parameters(model, j->start ? j->start->weights : d->weights, error));
  if (j->start) SPD_TRY(spd_model_set_moments(model, j->start->m, j->start->v, error));
  SPD_TRY(spd_training_create(training, model, &source, &options, error));
  if (j->state) SPD_TRY(spd_training_set_state(*training, j->state, error));
  SPD_TRY(steps_of(j, *training, out, rank, error));
  j->states[rank] = spd_training_get_state(*training);
  SPD_TRY(spd_model_get_parameters(out->weights, model, error));
  return spd_model_get_moments(out->m, out->v, model, error);
}

/* As a rank of the group; alone without */
static void work(struct spd_group *group, void *context) {
  struct job *j = context;
  const int rank = group ? group->rank : 0;
  struct spd_backend *backend;
  struct spd_model *model;
  struct spd_training *training = NULL;
  struct small_trained *out = &j->trained[rank];
  const size_t bytes = j->s->net.size * sizeof(float);
  memset(out, 0, sizeof *out);
  out->weights = check_alloc(bytes), out->m = check_alloc(bytes), out->v = check_alloc(bytes);
  MUST(spd_cpu_create(&backend, j->threads, error));
  MUST(spd_model_create(&model, &j->s->net, backend, j->s->data.wave_observed, j->s->data.wave_rest,
                        j->pieces ? (SMALL_BATCH + j->pieces - 1) / j->pieces : SMALL_BATCH, SPD_MODEL_TRAIN, error));
  j->error[rank].message[0] = '\0';
  j->status[rank] = train_with(j, group, model, &training, rank, &j->error[rank]);
  spd_training_destroy(training);
  spd_model_destroy(model);
  backend->ops->destroy(backend);
}

static void job_free(struct job *j, int size) {
  for (int r = 0; r < (size ? size : 1); r++) small_trained_free(&j->trained[r]);
}

/* size 0: without a group */
static void run(struct job *j, int size, int threads, double patience, int victim, long dies_at) {
  if (size)
    played_run(size, threads, patience, victim, dies_at, work, j);
  else
    work(NULL, j);
}

static void run_well(struct job *j, int size, int threads) {
  run(j, size, threads, 60, -1, -1);
  for (int r = 0; r < (size ? size : 1); r++) CHECK(j->status[r] == SPD_STATUS_OK, "rank %d of %d: %s", r, size, j->error[r].message);
}

static struct job job_of(const struct setting *s, size_t pieces, size_t steps) {
  return (struct job){.s = s, .pieces = pieces, .steps = steps, .refine_from = UINT64_MAX, .threads = 1, .stop_rank = -1};
}

static int same(const struct job *a, int rank_a, const struct job *b, int rank_b) {
  return small_same_bits(&a->trained[rank_a], &b->trained[rank_b], a->s->net.size) && a->states[rank_a].step == b->states[rank_b].step &&
         a->states[rank_a].loss_sum == b->states[rank_b].loss_sum && a->states[rank_a].loss_count == b->states[rank_b].loss_count;
}

/* ---- sums and gathers ---- */

struct numbers {
  size_t count;
  int bad;
};

static void sum_and_gather(struct spd_group *group, void *context) {
  struct numbers *numbers = context;
  const size_t n = numbers->count;
  float *x = check_alloc(n * sizeof *x), *scratch = check_alloc(n * sizeof *scratch);
  size_t bounds[PLAYED_RANKS + 1] = {0};
  unsigned char all[64];
  int bad = 0;
  for (size_t i = 0; i < n; i++) x[i] = spd_uniform(7, (uint64_t)group->rank, i) - 0.5f;
  MUST(spd_group_sum(group, x, scratch, n, error));
  for (size_t i = 0; i < n; i++) {
    float parts[PLAYED_RANKS];
    for (int r = 0; r < group->size; r++) parts[r] = spd_uniform(7, (uint64_t)r, i) - 0.5f;
    for (int width = 1; width < group->size; width *= 2)
      for (int r = 0; r < group->size; r += 2 * width) parts[r] += parts[r + width];
    bad += memcmp(&x[i], &parts[0], sizeof(float)) != 0;
  }
  for (int r = 0; r < group->size; r++) bounds[r + 1] = bounds[r] + (size_t)(r % 3);
  memset(all, 255, sizeof all);
  for (size_t i = bounds[group->rank]; i < bounds[group->rank + 1]; i++) all[i] = (unsigned char)(10 * group->rank + 1);
  MUST(spd_group_gather(group, all, bounds, error));
  for (int r = 0; r < group->size; r++)
    for (size_t i = bounds[r]; i < bounds[r + 1]; i++) bad += all[i] != 10 * r + 1;
  bad += all[bounds[group->size]] != 255;
  __atomic_add_fetch(&numbers->bad, bad, __ATOMIC_RELAXED);
  free(x);
  free(scratch);
}

static void test_group(void) {
  for (int size = 1; size <= 8; size *= 2)
    for (size_t count = 0; count <= 100; count = 3 * count + 1) {
      struct numbers numbers = {count, 0};
      played_run(size, 0, 60, -1, -1, sum_and_gather, &numbers);
      CHECK(numbers.bad == 0, "%d ranks, %zu numbers: %d are not those wanted", size, count, numbers.bad);
    }
}

/* ---- training ---- */

static void test_one_piece(const struct setting *s) {
  struct job plain = job_of(s, 0, 20), one = job_of(s, 1, 20);
  run_well(&plain, 0, 0);
  run_well(&one, 0, 0);
  CHECK(same(&plain, 0, &one, 0), "a training in one piece is not an ordinary one");
  job_free(&plain, 0);
  job_free(&one, 0);
}

/* Gradients of pieces add up to the whole batch's, to rounding. */
static void test_gradient(const struct setting *s) {
  struct spd_backend *backend;
  struct spd_model *model;
  const size_t size = s->net.size, m = s->architecture.n_observed;
  float *whole = check_alloc(size * sizeof *whole), *piece = check_alloc(size * sizeof *piece), *parts = check_alloc(size * sizeof *parts);
  double *sum = check_alloc(size * sizeof *sum), losses[SMALL_BATCH], largest = 0;
  MUST(spd_cpu_create(&backend, 1, error));
  MUST(spd_model_create(&model, &s->net, backend, s->data.wave_observed, s->data.wave_rest, SMALL_BATCH, SPD_MODEL_TRAIN, error));
  MUST(spd_model_set_parameters(model, s->data.weights, error));
  for (size_t from = 0; from <= SMALL_BATCH; from += 3) { /* pieces of 3, 3 and 2; then all */
    const size_t first = from < SMALL_BATCH ? from : 0, left = SMALL_BATCH - first, n = from < SMALL_BATCH && left > 3 ? 3 : left;
    const int all = from + 3 > SMALL_BATCH && from > 6;
    MUST(spd_model_load(model, s->data.flux + first * m, s->data.ivar + first * m, s->data.z + first, n, error));
    if (!all) spd_model_set_total(model, SMALL_BATCH);
    MUST(spd_model_encode(model, error));
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    MUST(spd_model_score(model, losses, error));
    MUST(spd_model_backward(model, error));
    MUST(spd_model_get_gradient(piece, model, error));
    MUST(spd_model_encode(model, error)); /* a backward pass may have destroyed what it read */
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    for (int part = 0; part < SPD_MODEL_PARTS; part++) MUST(spd_model_backward_part(model, part, error));
    MUST(spd_model_get_gradient(parts, model, error));
    CHECK(memcmp(piece, parts, size * sizeof *parts) == 0, "the parts of a backward pass are not the whole");
    for (size_t i = 0; i < size; i++) sum[i] += (double)piece[i];
  }
  MUST(spd_model_load(model, s->data.flux, s->data.ivar, s->data.z, SMALL_BATCH, error));
  MUST(spd_model_encode(model, error));
  MUST(spd_model_decode(model, error));
  MUST(spd_model_observe(model, error));
  MUST(spd_model_score(model, losses, error));
  MUST(spd_model_backward(model, error));
  MUST(spd_model_get_gradient(whole, model, error));
  double worst = 0;
  for (size_t i = 0; i < size; i++) largest = fmax(largest, fabs((double)whole[i])), worst = fmax(worst, fabs(sum[i] - (double)whole[i]));
  CHECK(worst < 1e-5 * largest, "gradients of pieces differ from the batch's by %.3g of %.3g", worst, largest);
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  free(whole);
  free(piece);
  free(parts);
  free(sum);
}

/* Each place of the gradient is in the ranges of one part, but for gaps and biases that have no gradient. */
static void test_ranges(const struct setting *s) {
  struct spd_backend *backend;
  struct spd_model *model;
  unsigned char *times = check_alloc(s->net.size);
  struct spd_range ranges[SPD_MODEL_RANGES];
  size_t wrong = 0;
  MUST(spd_cpu_create(&backend, 1, error));
  MUST(spd_model_create(&model, &s->net, backend, s->data.wave_observed, s->data.wave_rest, 1, SPD_MODEL_TRAIN, error));
  for (int part = 0; part < SPD_MODEL_PARTS; part++)
    for (size_t i = spd_model_ranges(ranges, model, part); i-- > 0;)
      for (size_t at = 0; at < ranges[i].count; at++) times[ranges[i].from + at]++;
  for (size_t i = 0; i < s->net.n_parameters; i++)
    for (size_t at = 0; at < s->net.parameters[i].count; at++) wrong += times[s->net.parameters[i].offset + at] != 1;
  CHECK(wrong == 0, "%zu parameters are not in one range", wrong);
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  free(times);
}

static void test_ranks(const struct setting *s) {
  for (size_t pieces = 2; pieces <= 8; pieces *= 2) {
    struct job alone = job_of(s, pieces, 20);
    run_well(&alone, 0, 0);
    for (int size = 1; size <= (int)pieces && size <= 8; size *= 2)
      for (int threads = 0; threads < 2; threads++) {
        struct job shared = job_of(s, pieces, 20);
        shared.from_files = threads;
        shared.threads = 1 + (size + threads) % 2;
        run_well(&shared, size, threads);
        for (int r = 0; r < size; r++) CHECK(same(&alone, 0, &shared, r), "%zu pieces, rank %d of %d: other bits", pieces, r, size);
        job_free(&shared, size);
      }
    job_free(&alone, 0);
  }
}

static void test_options(const struct setting *s) {
  for (int refined = 0; refined < 2; refined++) {
    struct job alone = job_of(s, 4, 20);
    alone.refine_from = refined ? 5 : UINT64_MAX;
    alone.clip = refined ? 0 : 1e-3;
    struct job shared = alone;
    run_well(&alone, 0, 0);
    run_well(&shared, 2, 1);
    CHECK(same(&alone, 0, &shared, 0) && same(&alone, 0, &shared, 1), "%s: other bits on two ranks", refined ? "refined" : "clipped");
    job_free(&alone, 0);
    job_free(&shared, 2);
  }
}

/* Goes on with another number of ranks, within and between epochs of 7 steps. */
static void test_resume(const struct setting *s) {
  static const int sizes[][2] = {{4, 1}, {1, 2}, {2, 4}};
  struct job whole = job_of(s, 4, 18);
  run_well(&whole, 0, 0);
  for (size_t i = 0; i < 3; i++)
    for (size_t stop = 5; stop <= 9; stop += 2) {
      struct job first = job_of(s, 4, stop);
      run_well(&first, sizes[i][0], 1);
      struct job second = job_of(s, 4, 18 - stop);
      second.start = &first.trained[0];
      second.state = &first.states[sizes[i][0] - 1];
      run_well(&second, sizes[i][1], 0);
      const struct small_trained *a = &whole.trained[0], *b = &second.trained[0];
      const size_t bytes = s->net.size * sizeof(float);
      CHECK(memcmp(a->weights, b->weights, bytes) == 0 && memcmp(a->m, b->m, bytes) == 0 && memcmp(a->v, b->v, bytes) == 0 &&
                whole.states[0].loss_sum == second.states[0].loss_sum && a->validation == b->validation,
            "%d ranks for %zu steps, then %d: other bits", sizes[i][0], stop, sizes[i][1]);
      job_free(&first, sizes[i][0]);
      job_free(&second, sizes[i][1]);
    }
  job_free(&whole, 0);
}

static void test_stop(const struct setting *s) {
  struct job j = job_of(s, 4, 20);
  j.stop_rank = 3, j.stop_step = 6;
  run_well(&j, 4, 1);
  for (int r = 0; r < 4; r++)
    CHECK(j.trained[r].progress.stopped && j.states[r].step == 6, "rank %d stopped after step %llu", r,
          (unsigned long long)j.states[r].step);
  job_free(&j, 4);
}

static void test_refusals(const struct setting *s) {
  static const struct {
    size_t pieces;
    int size;
    const char *words;
  } cases[] = {{3, 1, "powers of two"}, {2, 4, "no more ranks"}, {16, 2, "pieces of one size"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct job j = job_of(s, cases[i].pieces, 1);
    run(&j, cases[i].size, 0, 60, -1, -1);
    for (int r = 0; r < cases[i].size; r++)
      CHECK(j.status[r] == SPD_STATUS_INVALID && strstr(j.error[r].message, cases[i].words), "%zu pieces on %d ranks: %s", cases[i].pieces,
            cases[i].size, j.error[r].message);
    job_free(&j, cases[i].size);
  }
}

/* A rank dies in each of its exchanges: the others end in time, naming it or one that has waited for it. */
static void test_deaths(const struct setting *s) {
  for (int threads = 0; threads < 2; threads++)
    for (long at = 0; at < 40; at += 1 + at / 8) {
      struct job j = job_of(s, 4, 3);
      run(&j, 4, threads, 0.05, 2, at);
      for (int r = 0; r < 4; r++)
        CHECK(j.status[r] != SPD_STATUS_OK && (r == 2 ? strstr(j.error[r].message, "dead") : strstr(j.error[r].message, "rank ")) != NULL,
              "rank 2 dies in exchange %ld: rank %d says \"%s\"", at, r, j.error[r].message);
      job_free(&j, 4);
    }
}

/* What a rank tells, the others say. */
static void tell_or_train(struct spd_group *group, void *context) {
  if (group->rank == 1) {
    group->ops->tell(group, "the disk is full");
    memset(&((struct job *)context)->trained[1], 0, sizeof(struct small_trained));
  } else {
    work(group, context);
  }
}

static void test_told(const struct setting *s) {
  struct job j = job_of(s, 4, 3);
  played_run(4, 1, 60, -1, -1, tell_or_train, &j);
  for (int r = 0; r < 4; r++)
    if (r != 1) CHECK(j.status[r] == SPD_STATUS_DEVICE && strstr(j.error[r].message, "rank 1: the disk is full"), "%s", j.error[r].message);
  job_free(&j, 4);
}

int main(void) {
  struct setting *s = setting_new(0), *weighted = setting_new(1);
  test_group();
  test_one_piece(s);
  test_gradient(s);
  test_ranges(s);
  test_ranges(weighted);
  test_gradient(weighted);
  test_ranks(s);
  test_options(weighted);
  test_resume(s);
  test_stop(s);
  test_refusals(s);
  test_deaths(s);
  test_told(s);
  setting_free(s);
  setting_free(weighted);
  return check_end();
}
