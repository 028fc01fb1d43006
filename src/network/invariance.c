#include "network/invariance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "network/model-struct.h"

enum { BUFFERS = 16, EPOCH_SALT = 0xc09 };

struct spd_invariance {
  struct spd_model *model;
  struct spd_backend *backend;
  struct spd_invariance_options options;
  size_t batch_size, most;
  struct spd_augment augment;
  struct spd_similarity similarity;
  struct spd_consistency consistency;
  uint64_t *host_keys, *keys; /* (most) of the spectra of the next batches, on the host and on the backend */
  size_t n_keys, used;        /* used: their spectra were copied, or would have been */
  size_t n_buffers;
  void *buffers[BUFFERS];
};

double spd_invariance_slope(const struct spd_invariance_options *o, uint64_t epoch) {
  if (epoch >= o->free_from || o->period < 2) return 0;
  return o->slope * (double)(epoch % o->period) / (double)(o->period - 1);
}

size_t spd_invariance_copies(const struct spd_invariance_options *o, size_t n) {
  const size_t copies = (size_t)ceil(o->fraction * (double)n);
  return copies < n ? copies : n;
}

/* ---- making ---- */

static spd_status take(struct spd_invariance *v, void *pointer, size_t bytes, struct spd_error *error) {
  void *memory = NULL;
  SPD_TRY(v->backend->ops->alloc(v->backend, &memory, bytes, error));
  v->buffers[v->n_buffers++] = memory;
  memcpy(pointer, &memory, sizeof memory);
  return SPD_STATUS_OK;
}

/* Weights of the pixels, and which of them normalise */
static spd_status weigh(struct spd_invariance *v, struct spd_error *error) {
  const struct spd_invariance_options *o = &v->options;
  struct spd_similarity *s = &v->similarity;
  const size_t bytes = s->n_rest * sizeof(float);
  float *wave = malloc(bytes), *root = malloc(bytes), *there;
  spd_status status = wave && root ? v->backend->ops->download(v->backend, wave, v->model->rest_grid, bytes, error)
                                   : spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the weights of the similarity");
  for (size_t r = 0; status == SPD_STATUS_OK && r < s->n_rest; r++) {
    const double x = 0.5 * ((double)wave[r] - 5000.0) / o->width;
    root[r] = (float)sqrt(o->amplitude * exp(-x * x) / (double)s->n_rest);
    s->from += (double)wave[r] < o->median_from;
    s->to += (double)wave[r] <= o->median_to;
  }
  if (status == SPD_STATUS_OK) status = take(v, &there, bytes, error);
  if (status == SPD_STATUS_OK) status = v->backend->ops->upload(v->backend, there, root, bytes, error);
  if (status == SPD_STATUS_OK) s->root = there;
  free(wave);
  free(root);
  if (status == SPD_STATUS_OK && s->from >= s->to)
    return spd_fail(error, SPD_STATUS_INVALID, "the restframe grid has no pixel between %g and %g Angstrom, where models are normalised",
                    o->median_from, o->median_to);
  return status;
}

static spd_status build(struct spd_invariance *v, struct spd_error *error) {
  struct spd_model *m = v->model;
  const struct spd_architecture *a = &m->network.architecture;
  const size_t n = v->batch_size, copies = spd_invariance_copies(&v->options, n), n_latent = a->n_latent;
  v->augment = (struct spd_augment){.n_observed = a->n_observed,
                                    .wave_observed = m->observed_grid,
                                    .z_low = v->options.z_low,
                                    .z_high = v->options.z_high,
                                    .noisy = v->options.noisy,
                                    .noise = v->options.noise,
                                    .masked = v->options.masked,
                                    .flux = m->flux,
                                    .ivar = m->ivar,
                                    .z = m->z};
  v->host_keys = malloc((v->most + 1) * sizeof *v->host_keys);
  if (!v->host_keys) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the keys of the copies");
  SPD_TRY(take(v, &v->keys, v->most * sizeof *v->keys, error));

  struct spd_similarity *s = &v->similarity;
  s->n_rest = a->n_rest, s->n_latent = n_latent, s->scale_free = v->options.scale_free;
  s->rest = m->taps[SPD_TENSOR_REST].value, s->latent = m->taps[SPD_TENSOR_LATENT].value;
  SPD_TRY(weigh(v, error));
  SPD_TRY(take(v, &s->median, n * sizeof *s->median, error));
  SPD_TRY(take(v, &s->middle, n * sizeof *s->middle, error));
  SPD_TRY(take(v, &s->centred, n * s->n_rest * sizeof *s->centred, error));
  SPD_TRY(take(v, &s->spectral, n * n * sizeof *s->spectral, error));
  SPD_TRY(take(v, &s->distance, n * n * sizeof *s->distance, error));
  SPD_TRY(take(v, &s->sums, (2 * n + 4) * sizeof *s->sums, error));
  SPD_TRY(take(v, &s->loss, n * sizeof *s->loss, error));
  SPD_TRY(take(v, &s->drest, n * s->n_rest * sizeof *s->drest, error));
  SPD_TRY(take(v, &s->dlatent, n * n_latent * sizeof *s->dlatent, error));

  struct spd_consistency *c = &v->consistency;
  c->n_latent = n_latent, c->scale_free = v->options.scale_free, c->sigma = v->options.sigma;
  c->latent = s->latent;
  SPD_TRY(take(v, &c->loss, copies * sizeof *c->loss, error));
  return take(v, &c->dlatent, n * n_latent * sizeof *c->dlatent, error);
}

spd_status spd_invariance_create(struct spd_invariance **out, struct spd_model *model, const struct spd_invariance_options *options,
                                 size_t batch_size, size_t most, struct spd_error *error) {
  *out = NULL;
  struct spd_invariance *v = calloc(1, sizeof *v);
  if (!v) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate the losses of invariance");
  v->model = model;
  v->backend = model->backend;
  v->options = *options;
  v->batch_size = batch_size;
  v->most = most;
  const spd_status status = build(v, error);
  if (status != SPD_STATUS_OK) {
    spd_invariance_destroy(v);
    return status;
  }
  *out = v;
  return SPD_STATUS_OK;
}

void spd_invariance_destroy(struct spd_invariance *v) {
  if (!v) return;
  for (size_t i = 0; i < v->n_buffers; i++) v->backend->ops->free(v->backend, v->buffers[i]);
  free(v->host_keys);
  free(v);
}

/* ---- a batch ---- */

spd_status spd_invariance_begin(struct spd_invariance *v, const uint64_t *ids, size_t count, uint64_t epoch, struct spd_error *error) {
  const uint64_t key = spd_mix64(spd_mix64(v->options.seed) ^ spd_mix64(epoch + EPOCH_SALT));
  if (count > v->most) return spd_fail(error, SPD_STATUS_INVALID, "internal: %zu spectra, at most %zu were expected", count, v->most);
  for (size_t i = 0; i < count; i++) v->host_keys[i] = spd_mix64(key ^ spd_mix64(ids[i]));
  v->n_keys = count, v->used = 0;
  return v->backend->ops->upload(v->backend, v->keys, v->host_keys, count * sizeof *v->keys, error);
}

spd_status spd_invariance_copy(struct spd_invariance *v, struct spd_error *error) {
  struct spd_model *m = v->model;
  const struct spd_backend_ops *ops = v->backend->ops;
  const size_t n = m->n, copies = spd_invariance_copies(&v->options, n), width = v->augment.n_observed;
  if (n > v->batch_size || n + copies > m->capacity || n > v->n_keys - v->used)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: %zu spectra and %zu copies are too many", n, copies);
  v->augment.key = v->keys + v->used;
  v->used += n;
  if (copies == 0) return SPD_STATUS_OK;
  v->augment.to_flux = m->flux + n * width;
  v->augment.to_ivar = m->ivar + n * width;
  v->augment.to_z = m->z + n;
  SPD_TRY(ops->enter(v->backend, error));
  const spd_status status = ops->augment(v->backend, &v->augment, copies, error);
  ops->leave(v->backend);
  if (status == SPD_STATUS_OK) m->copies = copies;
  return status;
}

static spd_status losses(struct spd_invariance *v, double slope, struct spd_error *error) {
  struct spd_model *m = v->model;
  const struct spd_backend_ops *ops = v->backend->ops;
  struct spd_similarity *s = &v->similarity;
  struct spd_consistency *c = &v->consistency;
  const size_t n = m->n, n_latent = s->n_latent;
  const double share = m->loss.total ? (double)n / (double)m->loss.total : 1; /* of the whole batch */
  s->slope = slope, s->factor = share * v->options.similarity;
  c->copies = m->copies, c->factor = share * v->options.consistency * (v->options.cycle_consistency ? slope : 1);
  c->copy = c->latent + n * n_latent;
  c->dcopy = m->taps[SPD_TENSOR_LATENT].gradient + n * n_latent;
  m->added_rest = m->added_latent = NULL;
  if (s->factor > 0 && slope > 0) { /* otherwise it is constant */
    SPD_TRY(ops->similarity_forward(v->backend, s, n, error));
    SPD_TRY(ops->similarity_backward(v->backend, s, n, error));
    m->added_rest = s->drest, m->added_latent = s->dlatent;
  }
  if (c->copies == 0) return SPD_STATUS_OK;
  SPD_TRY(ops->consistency_forward(v->backend, c, n, error));
  SPD_TRY(ops->consistency_backward(v->backend, c, n, error));
  if (m->added_latent) return ops->add(v->backend, s->dlatent, c->dlatent, n * n_latent, error);
  m->added_latent = c->dlatent;
  return SPD_STATUS_OK;
}

spd_status spd_invariance_losses(struct spd_invariance *v, uint64_t epoch, struct spd_error *error) {
  SPD_TRY(v->backend->ops->enter(v->backend, error));
  const spd_status status = losses(v, spd_invariance_slope(&v->options, epoch), error);
  v->backend->ops->leave(v->backend);
  return status;
}

static spd_status mean(double *to, struct spd_invariance *v, const double *from, size_t n, struct spd_error *error) {
  double *host = malloc((n + 1) * sizeof *host);
  if (!host) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %zu losses", n);
  const spd_status status = v->backend->ops->download(v->backend, host, from, n * sizeof *host, error);
  *to = 0;
  for (size_t i = 0; status == SPD_STATUS_OK && i < n; i++) *to += host[i] / (double)n;
  free(host);
  return status;
}

spd_status spd_invariance_read(double *similarity, double *consistency, struct spd_invariance *v, struct spd_error *error) {
  SPD_TRY(mean(similarity, v, v->similarity.loss, v->model->n, error));
  return mean(consistency, v, v->consistency.loss, v->consistency.copies, error);
}
