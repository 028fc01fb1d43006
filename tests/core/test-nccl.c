/* Sums over GPUs by NCCL, on a device and an NCCL that are played: all ranks ask for the same sums in the same order and have the same
 * weights; nothing waits for a sum without looking after it; whatever call fails, and whichever rank dies, all end and give everything
 * back. */
#include "check.h"
#ifndef TEST_CUDA_ON_CPU

int main(void) {
  check_skip("NCCL", "a build for the played device only");
  return check_end();
}

#else
#include <sched.h>
#include <unistd.h>

#include "cuda-devices.h"
#include "nccl/create.h"
#include "played-group.h"
#include "small-training.h"

enum { ROWS = 12 }; /* nine of which train, in batches of eight */

struct setting {
  struct spd_architecture architecture;
  struct spd_network net;
  struct small_data data;
  unsigned char is_training[ROWS];
};

struct job {
  const struct setting *s;
  size_t pieces, steps;
  int by_nccl, precision;
  struct small_trained trained[PLAYED_RANKS];
  spd_status status[PLAYED_RANKS];
  struct spd_error error[PLAYED_RANKS];
};

/* Ranks take turns: the device knows one thread at a time. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static void leave(void) { pthread_mutex_unlock(&turn); }
static void enter(void) { pthread_mutex_lock(&turn); }
static void yield(void) {
  leave();
  sched_yield();
  usleep(20);
  enter();
}

static spd_status train(struct job *j, struct spd_group *group, struct spd_backend **backend, struct spd_model **model,
                        struct spd_training **training, struct spd_sums **sums, struct small_trained *out, struct spd_error *error) {
  const struct small_data *d = &j->s->data;
  const struct spd_source source = {
      .flux = d->flux, .ivar = d->ivar, .z = d->z, .n_rows = ROWS, .is_training = j->s->is_training, .threads = 1};
  struct spd_sharing sharing = {j->pieces, group, NULL};
  const struct spd_training_options options = {.batch_size = SMALL_BATCH,
                                               .seed = 3,
                                               .schedule = {.rate = 2e-3, .total_steps = 30, .steps_per_stage = 1},
                                               .adam = {0, 0, 0.999, 1e-8, 1.0, 0},
                                               .refine_from = UINT64_MAX,
                                               .sharing = &sharing};
  uint64_t count;
  int finished;
  SPD_TRY(spd_cuda_create(backend, (spd_precision)j->precision, error));
  SPD_TRY(spd_model_create(model, &j->s->net, *backend, d->wave_observed, d->wave_rest, SMALL_BATCH / j->pieces, SPD_MODEL_TRAIN, error));
  SPD_TRY(spd_model_set_parameters(*model, d->weights, error));
  if (j->by_nccl) SPD_TRY(spd_nccl_create(sums, group, *backend, error));
  sharing.sums = *sums;
  SPD_TRY(spd_training_create(training, *model, &source, &options, error));
  for (size_t i = 0; i < j->steps; i++) SPD_TRY(spd_training_advance(*training, i % 2 ? 0 : 1e-9, &out->progress, error));
  SPD_TRY(spd_training_validate(*training, 1e9, &finished, &out->validation, &count, error));
  out->loss_sum = out->progress.loss_sum;
  SPD_TRY(spd_model_get_parameters(out->weights, *model, error));
  return spd_model_get_moments(out->m, out->v, *model, error);
}

static void work(struct spd_group *group, void *context) {
  struct job *j = context;
  const int rank = group ? group->rank : 0;
  const size_t bytes = j->s->net.size * sizeof(float);
  struct spd_backend *backend = NULL;
  struct spd_model *model = NULL;
  struct spd_training *training = NULL;
  struct spd_sums *sums = NULL;
  struct small_trained *out = &j->trained[rank];
  enter();
  memset(out, 0, sizeof *out);
  out->weights = check_alloc(bytes), out->m = check_alloc(bytes), out->v = check_alloc(bytes);
  j->error[rank].message[0] = '\0';
  j->status[rank] = train(j, group, &backend, &model, &training, &sums, out, &j->error[rank]);
  spd_training_destroy(training);
  if (sums) sums->ops->destroy(sums);
  spd_model_destroy(model);
  if (backend) backend->ops->destroy(backend);
  leave();
}

static void run(struct job *j, int size, double patience, int victim, long dies_at) {
  if (size)
    played_run(size, 0, patience, victim, dies_at, work, j);
  else
    work(NULL, j);
}

static void job_free(struct job *j, int size) {
  for (int r = 0; r < (size ? size : 1); r++) small_trained_free(&j->trained[r]);
}

static struct job job_of(const struct setting *s, size_t pieces, size_t steps) {
  return (struct job){.s = s, .pieces = pieces, .steps = steps, .by_nccl = 1};
}

/* Everything is given back. */
static void check_leaks(const char *when, long at) {
  spd_cuda_release();
  CHECK(device_leaks() == 0 && nccl_open() == 0, "%s %ld: %zu things of the device and %ld communicators are left", when, at,
        device_leaks(), nccl_open());
}

/* The same weights on all ranks, from the same number of sums. Through the host, and of two ranks, whose NCCL adds two numbers, they have
 * the bits of one process; of four, NCCL adds in another order, and losses agree to rounding. */
static void test_one(const struct setting *s, int size, int by_nccl, int precision, const char *order) {
  const size_t steps = 3; /* the second has one spectrum: some ranks have none */
  struct job alone = job_of(s, 4, steps), shared = job_of(s, 4, steps);
  alone.by_nccl = 0, shared.by_nccl = by_nccl, alone.precision = shared.precision = precision;
  run(&alone, 0, 60, -1, -1);
  nccl_forget_sums();
  run(&shared, size, 60, -1, -1);
  const struct small_trained *a = &alone.trained[0], *b = &shared.trained[0];
  CHECK(alone.status[0] == SPD_STATUS_OK, "alone: %s", alone.error[0].message);
  for (int r = 0; r < size; r++) {
    CHECK(shared.status[r] == SPD_STATUS_OK, "rank %d: %s", r, shared.error[r].message);
    CHECK(small_same_bits(b, &shared.trained[r], s->net.size), "%s: ranks 0 and %d of %d have different weights", order, r, size);
    /* decoder, LSF, last convolution and encoder, other convolutions */
    CHECK(nccl_sums_of(r) == (by_nccl ? 4 * (long)steps : 0), "%s: rank %d asked for %ld sums", order, r, nccl_sums_of(r));
  }
  if (!by_nccl || size == 2)
    CHECK(small_same_bits(a, b, s->net.size), "%s: %d ranks have other bits than one process", order, size);
  else
    CHECK(fabs(b->loss_sum / a->loss_sum - 1) < 1e-4 && fabs(b->validation / a->validation - 1) < 1e-4,
          "%s: four ranks have losses of %.9g and %.9g, one process %.9g and %.9g", order, b->loss_sum, b->validation, a->loss_sum,
          a->validation);
  job_free(&alone, 0);
  job_free(&shared, size);
}

static void test_ranks(const struct setting *s) {
  static const char *const orders[] = {"all early", "first stream late", "second stream late"};
  for (int order = 0; order < TEST_ORDERS; order++) {
    test_order(order);
    test_one(s, 2, 1, SPD_PRECISION_FP32, orders[order]);
    test_one(s, 4, 1, SPD_PRECISION_FP32, orders[order]);
  }
  test_one(s, 2, 1, SPD_PRECISION_FP16, "fp16");
  test_order(0);
  test_one(s, 2, 0, SPD_PRECISION_FP32, "through the host");
  check_leaks("after trainings", 0);
}

static int failures(const struct job *j) { return (j->status[0] != SPD_STATUS_OK) + (j->status[1] != SPD_STATUS_OK); }

/* Some rank's call fails, of NCCL or of CUDA: that rank says so, the other waits no longer than its patience. */
static void test_failures(const struct setting *s) {
  for (int of_cuda = 0; of_cuda < 2; of_cuda++) {
    const char *what = of_cuda ? "CUDA call" : "NCCL call";
    long reached = 0;
    for (long at = 0; at >= 0; at += 1 + at / 2) {
      struct job j = job_of(s, 4, 1);
      of_cuda ? device_set_failure(at) : nccl_set_failure(at);
      run(&j, 2, 0.5, -1, -1);
      const int happened = (of_cuda ? device_failure() : nccl_failure()) < 0;
      device_set_failure(-1);
      nccl_set_failure(-1);
      if (happened) CHECK(failures(&j) == 2, "%s %ld fails: \"%s\" and \"%s\"", what, at, j.error[0].message, j.error[1].message);
      job_free(&j, 2);
      check_leaks(what, at);
      if (!happened) break;
      reached++;
    }
    CHECK(reached > 5, "%s: only %ld of them", what, reached);
  }
}

static void test_deaths(const struct setting *s) {
  for (long at = 0; at < 8; at += 2) {
    struct job j = job_of(s, 4, 3);
    run(&j, 4, 0.5, 1, at);
    for (int r = 0; r < 4; r++)
      CHECK(j.status[r] != SPD_STATUS_OK && strstr(j.error[r].message, r == 1 ? "dead" : "rank "),
            "rank 1 dies in exchange %ld: rank %d: %s", at, r, j.error[r].message);
    job_free(&j, 4);
    check_leaks("death", at);
  }
}

int main(void) {
  struct setting *s = check_alloc(sizeof *s);
  s->architecture = small_architecture();
  MUST(spd_network_init(&s->net, &s->architecture, error));
  s->data = small_data_new(&s->net, ROWS, 5);
  for (size_t i = 0; i < ROWS; i++) s->is_training[i] = i % 4 != 3;
  device_yield = yield;
  played_leave = leave, played_enter = enter;
  test_ranks(s);
  test_failures(s);
  test_deaths(s);
  small_data_free(&s->data);
  free(s);
  return check_end();
}
#endif
