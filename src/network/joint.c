#include "network/joint.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "network/model-struct.h"

struct spd_joint {
  struct spd_backend *backend;
  struct spd_training *trainings[SPD_MAX_INSTRUMENTS];
  size_t n;
  struct spd_joint_options options;
  /* where pairs are pulled together */
  struct spd_consistency consistency;
  float *dlatent[2]; /* of both instruments' latents, (capacity of the model, S) on the backend */
  float *zeros;      /* (capacity of the second, S) on the host */
  size_t pairs;      /* of the present step */
};

/* ---- making ---- */

static spd_status take(struct spd_joint *j, void *pointer, size_t bytes, struct spd_error *error) {
  void *memory = NULL;
  SPD_TRY(j->backend->ops->alloc(j->backend, &memory, bytes, error));
  memcpy(pointer, &memory, sizeof memory);
  return SPD_STATUS_OK;
}

static spd_status prepare_pairs(struct spd_joint *j, struct spd_error *error) {
  struct spd_consistency *c = &j->consistency;
  const struct spd_model *first = spd_training_model(j->trainings[0]);
  size_t capacity = 0;
  c->n_latent = first->network.architecture.n_latent;
  c->scale_free = j->options.scale_free, c->sigma = j->options.sigma, c->factor = j->options.weight;
  for (int k = 0; k < 2; k++) {
    const struct spd_model *model = spd_training_model(j->trainings[k]);
    capacity = model->capacity;
    SPD_TRY(take(j, &j->dlatent[k], capacity * c->n_latent * sizeof(float), error));
  }
  SPD_TRY(take(j, &c->loss, first->capacity * sizeof *c->loss, error));
  j->zeros = calloc(capacity * c->n_latent + 1, sizeof *j->zeros);
  if (!j->zeros) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the gradients of pairs");
  c->latent = first->taps[SPD_TENSOR_LATENT].value, c->copy = spd_training_model(j->trainings[1])->taps[SPD_TENSOR_LATENT].value;
  c->dlatent = j->dlatent[0], c->dcopy = j->dlatent[1];
  return SPD_STATUS_OK;
}

static spd_status check(struct spd_training *const *trainings, size_t n, const struct spd_joint_options *o, struct spd_error *error) {
  if (n < 1 || n > SPD_MAX_INSTRUMENTS)
    return spd_fail(error, SPD_STATUS_INVALID, "a fit has between 1 and %d instruments, not %zu", SPD_MAX_INSTRUMENTS, n);
  uint64_t all = 0;
  const struct spd_model *first = spd_training_model(trainings[0]);
  const struct spd_training_options *wanted = spd_training_options(trainings[0]);
  for (size_t k = 0; k < n; k++) {
    const struct spd_training_options *of = spd_training_options(trainings[k]);
    const struct spd_share *share = &of->share;
    if (k > 0 && spd_training_model(trainings[k])->first != first)
      return spd_fail(error, SPD_STATUS_INVALID, "internal: instrument %zu has a decoder of its own", k + 1);
    if (share->total == 0 || share->total != wanted->share.total || of->batch_size != wanted->batch_size ||
        share->n_pairs != wanted->share.n_pairs || of->seed != wanted->seed)
      return spd_fail(error, SPD_STATUS_INVALID, "internal: instrument %zu has other options than the first", k + 1);
    if (of->average > 0 && n > 1) return spd_fail(error, SPD_STATUS_INVALID, "weights of several instruments are not averaged");
    if (of->clip > 0) return spd_fail(error, SPD_STATUS_INVALID, "a gradient of several instruments is not clipped");
    all += spd_training_size(trainings[k]);
  }
  if (all != wanted->share.total) return spd_fail(error, SPD_STATUS_INVALID, "internal: the instruments' spectra are not all");
  if (o->weight > 0 && (n != 2 || wanted->share.n_pairs == 0))
    return spd_fail(error, SPD_STATUS_INVALID, "only latents of two instruments that have seen the same objects are pulled together");
  if (o->weight > 0 && wanted->refine_from != UINT64_MAX)
    return spd_fail(error, SPD_STATUS_INVALID, "a decoder that learns at refined latents excludes a loss of the encoder's");
  return SPD_STATUS_OK;
}

spd_status spd_joint_create(struct spd_joint **out, struct spd_training *const *trainings, size_t n,
                            const struct spd_joint_options *options, struct spd_error *error) {
  *out = NULL;
  SPD_TRY(check(trainings, n, options, error));
  struct spd_joint *j = calloc(1, sizeof *j);
  if (!j) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the training state");
  j->backend = spd_model_backend(spd_training_model(trainings[0]));
  j->options = *options;
  j->n = n;
  memcpy(j->trainings, trainings, n * sizeof *trainings);
  const spd_status status = options->weight > 0 ? prepare_pairs(j, error) : SPD_STATUS_OK;
  if (status != SPD_STATUS_OK) {
    spd_joint_destroy(j);
    return status;
  }
  *out = j;
  return SPD_STATUS_OK;
}

void spd_joint_destroy(struct spd_joint *j) {
  if (!j) return;
  for (int k = 0; k < 2; k++)
    if (j->dlatent[k]) j->backend->ops->free(j->backend, j->dlatent[k]);
  if (j->consistency.loss) j->backend->ops->free(j->backend, j->consistency.loss);
  free(j->zeros);
  free(j);
}

/* ---- a step ---- */

static spd_status add_to_latents(struct spd_model *m, float *gradient, struct spd_error *error) {
  if (m->added_latent) /* of the losses of invariance: added to ours, which a second use overwrites */
    SPD_TRY(m->backend->ops->add(m->backend, gradient, m->added_latent, m->n * m->network.architecture.n_latent, error));
  m->added_latent = gradient;
  return SPD_STATUS_OK;
}

static spd_status pull(struct spd_joint *j, struct spd_error *error) {
  struct spd_model *first = spd_training_model(j->trainings[0]), *second = spd_training_model(j->trainings[1]);
  const struct spd_backend_ops *ops = j->backend->ops;
  j->consistency.copies = j->pairs;
  SPD_TRY(ops->consistency_forward(j->backend, &j->consistency, first->n, error));
  SPD_TRY(ops->consistency_backward(j->backend, &j->consistency, first->n, error));
  SPD_TRY(add_to_latents(first, j->dlatent[0], error));
  return add_to_latents(second, j->dlatent[1], error);
}

/* Gradients of the pairs' loss at the latents of both, which the backward passes add. Those of the second's other spectra are 0. */
static spd_status pull_together(struct spd_joint *j, struct spd_error *error) {
  const struct spd_model *second = spd_training_model(j->trainings[1]);
  const size_t row = j->consistency.n_latent * sizeof(float);
  if (j->pairs == 0) return SPD_STATUS_OK;
  SPD_TRY(j->backend->ops->upload(j->backend, (char *)j->dlatent[1] + j->pairs * row, j->zeros, (second->n - j->pairs) * row, error));
  SPD_TRY(j->backend->ops->enter(j->backend, error));
  const spd_status status = pull(j, error);
  j->backend->ops->leave(j->backend);
  return status;
}

static spd_status one_step(struct spd_joint *j, struct spd_error *error) {
  size_t total = 0, parts[SPD_MAX_INSTRUMENTS], with = j->n; /* with: the first instrument that has a spectrum in this batch */
  for (size_t k = j->n; k-- > 0;) {
    parts[k] = spd_training_next(j->trainings[k]);
    total += parts[k];
    if (parts[k] > 0) with = k;
  }
  j->pairs = spd_training_next_pairs(j->trainings[0]);
  for (size_t k = 0; k < j->n; k++) SPD_TRY(spd_training_forward(j->trainings[k], total, error));
  if (j->options.weight > 0) SPD_TRY(pull_together(j, error));
  for (size_t k = 0; k < j->n; k++) SPD_TRY(spd_training_backward(j->trainings[k], error));
  for (size_t k = with + 1; k < j->n; k++)
    if (parts[k] > 0) SPD_TRY(spd_model_add_decoder(spd_training_model(j->trainings[with]), spd_training_model(j->trainings[k]), error));
  for (size_t k = 0; k < j->n; k++) SPD_TRY(spd_training_update(j->trainings[k], k == with, error));
  return SPD_STATUS_OK;
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

spd_status spd_joint_advance(struct spd_joint *j, double seconds, struct spd_progress *progress, struct spd_error *error) {
  const double until = seconds_now() + seconds;
  do SPD_TRY(one_step(j, error));
  while (!spd_training_epoch_done(j->trainings[0]) && seconds_now() < until);
  for (size_t k = 0; k < j->n; k++) SPD_TRY(spd_training_report(j->trainings[k], &progress[k], error));
  return SPD_STATUS_OK;
}
