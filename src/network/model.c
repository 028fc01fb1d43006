/* Runs a model: transfers, passes, gradients, updates. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "network/model-struct.h"

const struct spd_network *spd_model_network(const struct spd_model *model) { return &model->network; }
struct spd_backend *spd_model_backend(const struct spd_model *model) {
  return model->backend;
}
size_t spd_model_capacity(const struct spd_model *model) { return model->capacity; }
size_t spd_model_footprint(const struct spd_model *model) {
  return model->resolution.n_knots ? model->resolution.size : model->network.architecture.lsf;
}
size_t spd_model_band_width(const struct spd_model *model) {
  return model->resolution.n_knots * (model->sigmas ? 1 : model->resolution.size);
}

/* ---- transfers ---- */

static spd_status upload(struct spd_model *model, void *to, const void *from, size_t bytes, struct spd_error *error) {
  return model->backend->ops->upload(model->backend, to, from, bytes, error);
}

static spd_status download(const struct spd_model *model, void *to, const void *from, size_t bytes, struct spd_error *error) {
  return model->backend->ops->download(model->backend, to, from, bytes, error);
}

/* A block of parameters or moments: the decoder's may be in another place than the others */
static spd_status upload_block(struct spd_model *model, float *to, float *to_decoder, const float *from, struct spd_error *error) {
  const size_t own = model->network.decoder, all = model->network.size;
  if (!model->first) return upload(model, to, from, all * sizeof(float), error);
  SPD_TRY(upload(model, to, from, own * sizeof(float), error));
  return upload(model, to_decoder, from + own, (all - own) * sizeof(float), error);
}

static spd_status download_block(const struct spd_model *model, float *to, const float *from, const float *from_decoder,
                                 struct spd_error *error) {
  const size_t own = model->network.decoder, all = model->network.size;
  if (!model->first) return download(model, to, from, all * sizeof(float), error);
  SPD_TRY(download(model, to, from, own * sizeof(float), error));
  return download(model, to + own, from_decoder, (all - own) * sizeof(float), error);
}

static spd_status need(const struct spd_model *model, spd_model_purpose purpose, struct spd_error *error) {
  if (model->purpose < purpose)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: the model was made without %s",
                    purpose == SPD_MODEL_TRAIN ? "an optimiser" : "gradients");
  return SPD_STATUS_OK;
}

/* Weights that stay until they are set again may be kept in another form, under a version that no other weights have or had:
 * models on one backend may follow one another at the same address. */
static void renew_version(struct trunk *trunk) {
  static uint64_t last;
  const uint64_t version = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
  for (size_t i = 0; i + 1 < SPD_BLOCKS; i++) trunk->blocks[i].version = version;
}

spd_status spd_model_set_parameters(struct spd_model *model, const float *weights, struct spd_error *error) {
  if (model->purpose == SPD_MODEL_FORWARD) {
    renew_version(&model->spectrum);
    renew_version(&model->weights);
  }
  return upload_block(model, model->parameters, model->decoder_parameters, weights, error);
}

spd_status spd_model_get_parameters(float *weights, const struct spd_model *model, struct spd_error *error) {
  return download_block(model, weights, model->parameters, model->decoder_parameters, error);
}

spd_status spd_model_get_gradient(float *gradient, const struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  return download(model, gradient, model->gradient, model->network.size * sizeof(float), error);
}

spd_status spd_model_set_moments(struct spd_model *model, const float *m, const float *v, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  SPD_TRY(upload_block(model, model->m, model->decoder_m, m, error));
  return upload_block(model, model->v, model->decoder_v, v, error);
}

spd_status spd_model_get_moments(float *m, float *v, const struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  SPD_TRY(download_block(model, m, model->m, model->decoder_m, error));
  return download_block(model, v, model->v, model->decoder_v, error);
}

static spd_status set_count(struct spd_model *model, size_t n, struct spd_error *error) {
  if (n == 0 || n > model->capacity)
    return spd_fail(error, SPD_STATUS_INVALID, "a batch of %zu spectra does not fit a model made for %zu", n, model->capacity);
  model->n = n;
  model->copies = 0;
  model->loss.total = 0;
  model->added_rest = model->added_latent = NULL;
  return SPD_STATUS_OK;
}

spd_status spd_model_load(struct spd_model *model, const float *flux, const float *ivar, const float *z, size_t n,
                          struct spd_error *error) {
  const size_t bytes = n * model->network.architecture.n_observed * sizeof(float);
  SPD_TRY(set_count(model, n, error));
  if (flux) SPD_TRY(upload(model, model->flux, flux, bytes, error));
  if (ivar) SPD_TRY(upload(model, model->ivar, ivar, bytes, error));
  return upload(model, model->z, z, n * sizeof(float), error);
}

spd_status spd_model_load_rows(struct spd_model *model, const float *flux, const float *ivar, const float *z, const uint64_t *rows,
                               size_t n, struct spd_error *error) {
  const size_t width = model->network.architecture.n_observed;
  struct spd_backend *backend = model->backend;
  SPD_TRY(set_count(model, n, error));
  SPD_TRY(backend->ops->gather(backend, model->flux, flux, rows, width, n, error));
  SPD_TRY(backend->ops->gather(backend, model->ivar, ivar, rows, width, n, error));
  return backend->ops->gather(backend, model->z, z, rows, 1, n, error);
}

spd_status spd_model_load_lane(struct spd_model *model, struct spd_lane *lane, size_t n, struct spd_error *error) {
  const size_t bytes = n * model->network.architecture.n_observed * sizeof(float);
  struct spd_backend *backend = model->backend;
  SPD_TRY(set_count(model, n, error));
  SPD_TRY(backend->ops->lane_take(backend, lane, model->flux, 0, bytes, error));
  SPD_TRY(backend->ops->lane_take(backend, lane, model->ivar, bytes, bytes, error));
  SPD_TRY(backend->ops->lane_take(backend, lane, model->z, 2 * bytes, n * sizeof(float), error));
  const size_t before = 2 * bytes + n * sizeof(float), band = n * spd_model_band_width(model) * sizeof(float);
  if (band) SPD_TRY(backend->ops->lane_take(backend, lane, spd_model_band_input(model), before, band, error));
  return spd_model_bands_are_there(model, error);
}

float *spd_model_band_input(struct spd_model *model) { return model->sigmas ? model->sigmas : model->bands; }

spd_status spd_model_bands_are_there(struct spd_model *model, struct spd_error *error) {
  if (!model->sigmas) return SPD_STATUS_OK;
  const struct spd_resolution *r = &model->resolution;
  return model->backend->ops->gaussians(model->backend, model->bands, model->sigmas, r->size, model->n * r->n_knots, error);
}

spd_status spd_model_load_bands(struct spd_model *model, const float *bands, struct spd_error *error) {
  const size_t bytes = model->n * spd_model_band_width(model) * sizeof(float);
  if (bytes) SPD_TRY(upload(model, spd_model_band_input(model), bands, bytes, error));
  return spd_model_bands_are_there(model, error);
}

spd_status spd_model_load_band_rows(struct spd_model *model, const float *bands, const uint64_t *rows, struct spd_error *error) {
  const size_t width = spd_model_band_width(model);
  if (width) SPD_TRY(model->backend->ops->gather(model->backend, spd_model_band_input(model), bands, rows, width, model->n, error));
  return spd_model_bands_are_there(model, error);
}

spd_status spd_model_input(float **flux, float **ivar, float **z, struct spd_model *model, size_t n, struct spd_error *error) {
  if (!model->backend->ops->shares_host_memory) return spd_fail(error, SPD_STATUS_INVALID, "this model is not in the host's memory");
  SPD_TRY(set_count(model, n, error));
  *flux = model->flux, *ivar = model->ivar, *z = model->z;
  return SPD_STATUS_OK;
}

void spd_model_set_total(struct spd_model *model, size_t total) { model->loss.total = total; }

spd_status spd_model_get_redshift(float *z, const struct spd_model *model, struct spd_error *error) {
  return download(model, z, model->z, model->n * sizeof *z, error);
}

spd_status spd_model_set_latent(struct spd_model *model, const float *latent, size_t n, struct spd_error *error) {
  SPD_TRY(set_count(model, n, error));
  struct spd_dense *last = &model->encoder[model->n_encoder - 1];
  return upload(model, last->y, latent, n * last->out * sizeof(float), error);
}

/* ---- passes ---- */

/* One stage call inside the passes below, which name their variables alike */
#define RUN(stage, ...) SPD_TRY(ops->stage(backend, __VA_ARGS__, n, error))
#define PASS_VARIABLES_OF(model, count)                   \
  struct spd_backend *const backend = (model)->backend;   \
  const struct spd_backend_ops *const ops = backend->ops; \
  const size_t n = (count)
#define PASS_VARIABLES(model) PASS_VARIABLES_OF(model, (model)->n)
/* The encoder's: copies come after the spectra */
#define ENCODER_VARIABLES(model) PASS_VARIABLES_OF(model, (model)->n + (model)->copies)

static spd_status trunk_forward(struct spd_model *model, struct trunk *trunk, struct spd_error *error) {
  ENCODER_VARIABLES(model);
  RUN(stem_forward, &trunk->stem);
  for (size_t i = 0; i + 1 < SPD_BLOCKS; i++) RUN(block_forward, &trunk->blocks[i]);
  return SPD_STATUS_OK;
}

static spd_status encode(struct spd_model *model, struct spd_error *error) {
  ENCODER_VARIABLES(model);
  SPD_TRY(trunk_forward(model, &model->spectrum, error));
  if (model->network.architecture.weight_attention) {
    SPD_TRY(ops->log_ivar(backend, model->log_ivar, model->ivar, n * model->network.architecture.n_observed, error));
    SPD_TRY(trunk_forward(model, &model->weights, error));
  }
  RUN(attend_forward, &model->attend);
  for (size_t i = 0; i < model->n_encoder; i++) RUN(dense_forward, &model->encoder[i]);
  return SPD_STATUS_OK;
}

static spd_status decode(struct spd_model *model, struct spd_error *error) {
  PASS_VARIABLES(model);
  for (size_t i = 0; i < model->n_decoder; i++) RUN(dense_forward, &model->decoder[i]);
  return SPD_STATUS_OK;
}

static spd_status observe(struct spd_model *model, struct spd_error *error) {
  PASS_VARIABLES(model);
  RUN(resample_forward, &model->resample);
  if (model->lsf.size) RUN(lsf_forward, &model->lsf);
  if (model->resolution.n_knots) RUN(resolution_forward, &model->resolution);
  return SPD_STATUS_OK;
}

static spd_status calibrate(struct spd_model *model, struct spd_error *error) {
  PASS_VARIABLES(model);
  RUN(calibrate_forward, &model->calibrate);
  return SPD_STATUS_OK;
}

static spd_status trunk_backward(struct spd_model *model, struct trunk *trunk, spd_tensor from, spd_tensor to, struct spd_error *error) {
  ENCODER_VARIABLES(model);
  if (from > SPD_TENSOR_BLOCK) RUN(block_backward, &trunk->blocks[1]); /* from the segments to the pooled map of block 2 */
  if (to == SPD_TENSOR_BLOCK) return SPD_STATUS_OK;
  RUN(block_backward, &trunk->blocks[0]);
  if (to == SPD_TENSOR_STEM) return SPD_STATUS_OK;
  RUN(stem_backward, &trunk->stem);
  return SPD_STATUS_OK;
}

static spd_status encoder_backward(struct spd_model *model, spd_tensor from, spd_tensor to, struct spd_error *error) {
  ENCODER_VARIABLES(model);
  if (from > SPD_TENSOR_BLOCK) {
    for (size_t i = model->n_encoder; i-- > 0;) RUN(dense_backward, &model->encoder[i]);
    if (to < SPD_TENSOR_FEATURE) RUN(attend_backward, &model->attend);
  }
  if (to >= SPD_TENSOR_SEGMENTS) return SPD_STATUS_OK;
  SPD_TRY(trunk_backward(model, &model->spectrum, from, to, error));
  if (!model->network.architecture.weight_attention || to != SPD_TENSOR_INPUT) return SPD_STATUS_OK;
  return trunk_backward(model, &model->weights, SPD_TENSOR_SEGMENTS, to, error);
}

/* Adds gradients of further losses to the gradient of a tensor */
static spd_status add_gradient(struct spd_model *model, spd_tensor tensor, const float *gradient, struct spd_error *error) {
  if (!gradient) return SPD_STATUS_OK;
  return model->backend->ops->add(model->backend, model->taps[tensor].gradient, gradient, model->n * spd_model_tensor_size(model, tensor),
                                  error);
}

/* From the gradient at `model->from`, or from the loss, down to `model->reached`, an earlier tensor */
static spd_status backward(struct spd_model *model, struct spd_error *error) {
  PASS_VARIABLES(model);
  const spd_tensor from = model->from, to = model->reached;
  if (from > SPD_TENSOR_OBSERVED) {
    RUN(loss_backward, &model->loss);
    if (model->calibrate.calibration.terms) RUN(calibrate_backward, &model->calibrate);
  }
  if (from >= SPD_TENSOR_OBSERVED && to < SPD_TENSOR_OBSERVED) {
    if (model->lsf.size) RUN(lsf_backward, &model->lsf);
    if (model->resolution.n_knots) RUN(resolution_backward, &model->resolution);
    RUN(resample_backward, &model->resample);
    SPD_TRY(add_gradient(model, SPD_TENSOR_REST, model->added_rest, error));
  }
  if (from >= SPD_TENSOR_REST && to < SPD_TENSOR_REST) {
    for (size_t i = model->n_decoder; i-- > 0;) RUN(dense_backward, &model->decoder[i]);
    SPD_TRY(add_gradient(model, SPD_TENSOR_LATENT, model->added_latent, error));
  }
  return to < SPD_TENSOR_LATENT ? encoder_backward(model, from, to, error) : SPD_STATUS_OK;
}

/* ---- running them ---- */

static struct pass pass_of(const struct spd_model *model, model_pass *run) {
  const int down = run == backward;
  return (struct pass){.run = run,
                       .n = model->n,
                       .copies = model->copies,
                       .from = down ? model->from : 0,
                       .to = down ? model->reached : 0,
                       .total = down ? model->loss.total : 0,
                       .added_rest = model->added_rest,
                       .added_latent = model->added_latent,
                       .version = model->spectrum.blocks[0].version};
}

static int same_pass(const struct pass *a, const struct pass *b) {
  return a->run == b->run && a->n == b->n && a->copies == b->copies && a->from == b->from && a->to == b->to && a->total == b->total &&
         a->added_rest == b->added_rest && a->added_latent == b->added_latent && a->version == b->version;
}

/* Where the pass's recording is, or will be: in place of the one that has not been used for longest */
static struct recorded *recorded_pass(struct spd_model *model, const struct pass *pass) {
  struct recorded *to = model->recorded, *const end = model->recorded + MAX_RECORDINGS;
  for (struct recorded *r = to; r < end; r++) {
    if (r->used && same_pass(&r->pass, pass)) return r;
    if (r->used < to->used) to = r;
  }
  model->backend->ops->forget(model->backend, to->recording);
  *to = (struct recorded){.pass = *pass};
  return to;
}

struct work {
  struct spd_model *model;
  model_pass *run;
};

static spd_status run_work(const void *context, struct spd_error *error) {
  const struct work *work = context;
  return work->run(work->model, error);
}

static spd_status run(struct spd_model *model, model_pass *pass, struct spd_error *error) {
  struct spd_backend *backend = model->backend;
  const struct pass wanted = pass_of(model, pass);
  const struct work work = {model, pass};
  SPD_TRY(backend->ops->enter(backend, error));
  struct recorded *recorded = recorded_pass(model, &wanted);
  recorded->used = ++model->passes;
  const spd_status status = backend->ops->repeat(backend, &recorded->recording, run_work, &work, error);
  backend->ops->leave(backend);
  return status;
}

spd_status spd_model_encode(struct spd_model *model, struct spd_error *error) { return run(model, encode, error); }
spd_status spd_model_decode(struct spd_model *model, struct spd_error *error) { return run(model, decode, error); }
spd_status spd_model_observe(struct spd_model *model, struct spd_error *error) { return run(model, observe, error); }
spd_status spd_model_calibrate(struct spd_model *model, struct spd_error *error) {
  return model->calibrate.calibration.terms ? run(model, calibrate, error) : SPD_STATUS_OK;
}
spd_status spd_model_get_calibration(double *coefficient, const struct spd_model *model, struct spd_error *error) {
  const struct spd_calibration *calibration = &model->calibrate.calibration;
  return download(model, coefficient, calibration->coefficient, model->n * calibration->terms * sizeof *coefficient, error);
}
spd_status spd_model_score_into(struct spd_model *model, double *losses, struct spd_error *error) {
  struct spd_backend *backend = model->backend;
  struct spd_loss stage = model->loss;
  stage.loss = losses; /* another place with each batch: not in a recording */
  SPD_TRY(spd_model_calibrate(model, error));
  SPD_TRY(backend->ops->enter(backend, error));
  const spd_status status = backend->ops->loss_forward(backend, &stage, model->n, error);
  backend->ops->leave(backend);
  return status;
}
spd_status spd_model_score(struct spd_model *model, double *losses, struct spd_error *error) {
  SPD_TRY(spd_model_score_into(model, model->loss.loss, error));
  return download(model, losses, model->loss.loss, model->n * sizeof *losses, error);
}

static spd_status run_backward(struct spd_model *model, spd_tensor from, spd_tensor to, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  model->from = from, model->reached = to;
  return run(model, backward, error);
}

spd_status spd_model_backward(struct spd_model *model, struct spd_error *error) {
  return run_backward(model, SPD_TENSORS, SPD_TENSOR_INPUT, error);
}
spd_status spd_model_backward_decoder(struct spd_model *model, struct spd_error *error) {
  return run_backward(model, SPD_TENSORS, SPD_TENSOR_LATENT, error);
}

float *spd_model_gradient(struct spd_model *model) { return model->gradient; }

/* From the parameter with this part and index to the last before the next ones, gaps included */
static struct spd_range range_of(const struct spd_network *network, spd_part from, size_t from_index, spd_part to, size_t to_index) {
  size_t first = SIZE_MAX, last = 0;
  for (size_t i = 0; i < network->n_parameters; i++) {
    const struct spd_parameter *p = &network->parameters[i];
    if (p->part == from && p->index == from_index && p->offset < first) first = p->offset;
    if (p->part == to && p->index == to_index && p->offset + p->count > last) last = p->offset + p->count;
  }
  return (struct spd_range){first, last - first};
}

/* Large parameters first: the decoder's, those of the last convolution and of the encoder's layers, and the other convolutions, which are
 * few and take longest. */
size_t spd_model_ranges(struct spd_range *ranges, const struct spd_model *model, int part) {
  const struct spd_network *network = &model->network;
  const struct spd_architecture *a = &network->architecture;
  if (part == 0) {
    ranges[0] = range_of(network, SPD_PART_DECODER, 0, SPD_PART_DECODER, a->n_decoder_hidden);
    if (a->lsf) ranges[1] = range_of(network, SPD_PART_INSTRUMENT, 0, SPD_PART_INSTRUMENT, 0);
    return a->lsf ? 2 : 1;
  }
  if (part == 1) {
    ranges[0] = range_of(network, SPD_PART_SPECTRUM, SPD_BLOCKS - 1, SPD_PART_ENCODER, a->n_encoder_hidden);
    return 1;
  }
  ranges[0] = range_of(network, SPD_PART_SPECTRUM, 0, SPD_PART_SPECTRUM, SPD_BLOCKS - 2);
  if (a->weight_attention) ranges[1] = range_of(network, SPD_PART_WEIGHTS, 0, SPD_PART_WEIGHTS, SPD_BLOCKS - 1);
  return a->weight_attention ? 2 : 1;
}

spd_status spd_model_backward_part(struct spd_model *model, int part, struct spd_error *error) {
  static const spd_tensor bounds[SPD_MODEL_PARTS + 1] = {SPD_TENSORS, SPD_TENSOR_LATENT, SPD_TENSOR_BLOCK, SPD_TENSOR_INPUT};
  return run_backward(model, bounds[part], bounds[part + 1], error);
}

spd_status spd_model_backward_from(struct spd_model *model, spd_tensor from, const float *gradient, spd_tensor to,
                                   struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  if (from < SPD_TENSOR_LATENT || from > SPD_TENSOR_OBSERVED || to > from)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: a gradient can be given at the latents, restframe or observed frame");
  SPD_TRY(upload(model, model->taps[from].gradient, gradient, model->n * spd_model_tensor_size(model, from) * sizeof(float), error));
  return run_backward(model, from, to, error);
}

/* ---- reading ---- */

size_t spd_model_tensor_size(const struct spd_model *model, spd_tensor tensor) {
  if (tensor == SPD_TENSOR_FEATURE) return model->attend.channels; /* without the redshift */
  const struct spd_rows *rows = &model->taps[tensor].rows;
  return rows->length * rows->channels;
}

/* host (n, size) from a plane: widened on the backend, then without its gap rows */
static spd_status read_plane(float *host, const struct spd_model *model, struct spd_plane plane, spd_tensor tensor,
                             struct spd_error *error) {
  const struct spd_rows rows = model->taps[tensor].rows;
  const size_t size = spd_model_tensor_size(model, tensor), all = spd_rows_size(&rows, model->n);
  struct spd_backend *backend = model->backend;
  float *staging = malloc(all * sizeof *staging);
  void *wide = NULL;
  if (!staging) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %.1f MB", (double)all * 4e-6);
  spd_status status = backend->ops->alloc(backend, &wide, all * sizeof *staging, error);
  if (status == SPD_STATUS_OK) status = backend->ops->widen(backend, wide, plane, all, error);
  if (status == SPD_STATUS_OK) status = download(model, staging, wide, all * sizeof *staging, error);
  if (status == SPD_STATUS_OK)
    for (size_t i = 0; i < model->n; i++)
      memcpy(host + i * size, staging + (i * rows.stride + rows.lead) * rows.channels, size * sizeof *host);
  if (wide) backend->ops->free(backend, wide);
  free(staging);
  return status;
}

/* host (n, size) from rows that may have more columns: the features', which the redshift follows */
static spd_status read_rows(float *host, const struct spd_model *model, const float *from, spd_tensor tensor, struct spd_error *error) {
  const size_t size = spd_model_tensor_size(model, tensor), stride = model->taps[tensor].rows.channels, all = model->n * stride;
  if (size == stride) return download(model, host, from, all * sizeof *host, error);
  float *staging = malloc(all * sizeof *staging);
  if (!staging) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %.1f MB", (double)all * 4e-6);
  spd_status status = download(model, staging, from, all * sizeof *staging, error);
  if (status == SPD_STATUS_OK)
    for (size_t i = 0; i < model->n; i++) memcpy(host + i * size, staging + i * stride, size * sizeof *host);
  free(staging);
  return status;
}

spd_status spd_model_read(float *host, struct spd_model *model, spd_tensor tensor, struct spd_error *error) {
  const struct tap *tap = &model->taps[tensor];
  return tap->plane.at ? read_plane(host, model, tap->plane, tensor, error) : read_rows(host, model, tap->value, tensor, error);
}

spd_status spd_model_read_gradient(float *host, struct spd_model *model, spd_tensor tensor, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  if (tensor == SPD_TENSOR_REST && model->reached < SPD_TENSOR_REST)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: the restframe gradient was consumed on the way down");
  if (tensor == SPD_TENSOR_ATTENTION && !model->attend.dattention)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: training does not keep the attention's gradient");
  if (tensor < model->reached) return spd_fail(error, SPD_STATUS_INVALID, "internal: backward did not reach that far");
  const struct tap *tap = &model->taps[tensor];
  return tap->gradient_plane.at ? read_plane(host, model, tap->gradient_plane, tensor, error)
                                : read_rows(host, model, tap->gradient, tensor, error);
}

spd_status spd_model_read_redshift_gradient(double *through_transform, double *through_encoder, struct spd_model *model,
                                            struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  const size_t n = model->n, stride = model->attend.feature_stride;
  if (through_transform && !model->resample.dz)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: training does not keep the redshift's gradient");
  if (through_transform) SPD_TRY(download(model, through_transform, model->resample.dz, n * sizeof(double), error));
  if (!through_encoder) return SPD_STATUS_OK;
  memset(through_encoder, 0, n * sizeof *through_encoder);
  if (stride == model->attend.channels) return SPD_STATUS_OK;
  float *staging = malloc(n * stride * sizeof *staging);
  if (!staging) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate %.1f MB", (double)(n * stride) * 4e-6);
  spd_status status = download(model, staging, model->encoder[0].dx, n * stride * sizeof *staging, error);
  if (status == SPD_STATUS_OK)
    for (size_t i = 0; i < n; i++) through_encoder[i] = staging[(i + 1) * stride - 1];
  free(staging);
  return status;
}

/* ---- update ---- */

static struct spd_adam adam_factors(const struct spd_adam_options *o, uint64_t step) {
  const double decayed1 = 1.0 - pow(o->beta1, (double)step), decayed2 = 1.0 - pow(o->beta2, (double)step);
  return (struct spd_adam){.rate = (float)o->rate,
                           .beta1 = (float)o->beta1,
                           .beta2 = (float)o->beta2,
                           .epsilon = (float)o->epsilon,
                           .new1 = (float)(1.0 - o->beta1),
                           .new2 = (float)(1.0 - o->beta2),
                           .correction1 = (float)(1.0 / decayed1),
                           .correction2 = (float)(1.0 / decayed2),
                           .lowest = -INFINITY};
}

spd_status spd_model_clip(struct spd_model *model, double norm, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  return model->backend->ops->clip(model->backend, model->gradient, norm, model->network.size, error);
}

/* Memory for the average, the first time */
static spd_status need_average(struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  if (model->average) return SPD_STATUS_OK;
  if (model->first) return spd_fail(error, SPD_STATUS_INVALID, "weights of several instruments are not averaged");
  if (model->n_buffers == MAX_BUFFERS) return spd_fail(error, SPD_STATUS_INVALID, "internal: too many buffers");
  void *memory;
  SPD_TRY(model->backend->ops->alloc(model->backend, &memory, model->network.size * sizeof(float), error));
  model->buffers[model->n_buffers++] = model->average = memory;
  return SPD_STATUS_OK;
}

spd_status spd_model_average(struct spd_model *model, double fraction, struct spd_error *error) {
  SPD_TRY(need_average(model, error));
  return model->backend->ops->average(model->backend, model->average, model->parameters, (float)fraction, model->network.size, error);
}

spd_status spd_model_set_average(struct spd_model *model, const float *weights, struct spd_error *error) {
  SPD_TRY(need_average(model, error));
  return upload(model, model->average, weights, model->network.size * sizeof(float), error);
}

spd_status spd_model_get_average(float *weights, struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need_average(model, error));
  return download(model, weights, model->average, model->network.size * sizeof(float), error);
}

spd_status spd_model_exchange_average(struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need_average(model, error));
  return model->backend->ops->exchange(model->backend, model->parameters, model->average, model->network.size, error);
}

/* The parameters before `to` */
static spd_status update_until(struct spd_model *model, size_t to, const struct spd_adam_options *o, uint64_t step,
                               struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  struct spd_backend *backend = model->backend;
  const struct spd_adam adam = adam_factors(o, step);
  const size_t from = model->network.lsf_size; /* the LSF has a learning rate of its own */
  if (from > 0 && o->lsf_factor > 0) {
    struct spd_adam own = adam;
    own.rate = (float)(o->rate * o->lsf_factor);
    if (o->lsf_nonnegative) own.lowest = 0;
    SPD_TRY(backend->ops->adam(backend, model->parameters, model->m, model->v, model->gradient, from, &own, error));
  }
  return backend->ops->adam(backend, model->parameters + from, model->m + from, model->v + from, model->gradient + from, to - from, &adam,
                            error);
}

spd_status spd_model_update(struct spd_model *model, const struct spd_adam_options *o, uint64_t step, struct spd_error *error) {
  if (model->first) return spd_fail(error, SPD_STATUS_INVALID, "internal: a shared decoder is updated by itself");
  return update_until(model, model->network.size, o, step, error);
}

spd_status spd_model_update_encoder(struct spd_model *model, const struct spd_adam_options *o, uint64_t step, struct spd_error *error) {
  return update_until(model, model->network.decoder, o, step, error);
}

spd_status spd_model_update_decoder(struct spd_model *model, const struct spd_adam_options *o, uint64_t step, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  const struct spd_adam adam = adam_factors(o, step);
  const size_t from = model->network.decoder;
  return model->backend->ops->adam(model->backend, model->decoder_parameters, model->decoder_m, model->decoder_v, model->gradient + from,
                                   model->network.size - from, &adam, error);
}

spd_status spd_model_add_decoder(struct spd_model *to, const struct spd_model *from, struct spd_error *error) {
  SPD_TRY(need(to, SPD_MODEL_GRADIENT, error));
  SPD_TRY(need(from, SPD_MODEL_GRADIENT, error));
  return to->backend->ops->add(to->backend, to->gradient + to->network.decoder, from->gradient + from->network.decoder,
                               to->network.size - to->network.decoder, error);
}
