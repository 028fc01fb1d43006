#include "network/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = SPD_MAX_HIDDEN + 1, MAX_BUFFERS = 160 };

/* The convolutional part; the spectrum's and the weights' encoder have one each. */
struct trunk {
  struct spd_stem stem;
  struct spd_block blocks[SPD_BLOCKS - 1];
};

struct spd_model {
  struct spd_network network;
  struct spd_backend *backend;
  struct spd_backend like; /* the backend's properties, also where bytes are only counted */
  size_t capacity, n; /* n: spectra in the present batch */
  spd_model_purpose purpose;
  float *parameters, *gradient, *m, *v;
  float *flux, *ivar, *z, *log_ivar;
  struct trunk spectrum, weights;
  struct spd_attend attend;
  size_t n_encoder, n_decoder; /* layers */
  struct spd_dense encoder[MAX_LAYERS], decoder[MAX_LAYERS];
  struct spd_resample resample;
  struct spd_lsf lsf;
  struct spd_loss loss;
  float *observed, *dobserved;
  spd_tensor reached;  /* how far down the last backward went; gradients of the tensors it passed in place are gone */
  size_t n_buffers, bytes; /* bytes: of all buffers */
  void *buffers[MAX_BUFFERS];
};

/* ---- building ---- */

static spd_status take(struct spd_model *model, void *pointer, size_t bytes, struct spd_error *error) {
  if (model->n_buffers == MAX_BUFFERS) return spd_fail(error, SPD_STATUS_INVALID, "internal: too many buffers");
  void *memory = model; /* an address to compute with, where bytes are only counted */
  model->bytes += bytes;
  if (model->backend) SPD_TRY(model->backend->ops->alloc(model->backend, &memory, bytes, error));
  model->buffers[model->n_buffers++] = memory;
  memcpy(pointer, &memory, sizeof memory);
  return SPD_STATUS_OK;
}

static spd_status take_floats(struct spd_model *model, float **pointer, size_t count, struct spd_error *error) {
  return take(model, pointer, count * sizeof(float), error);
}

/* A plane and, behind it, its scale of 1 */
static spd_status take_plane(struct spd_model *model, struct spd_plane *plane, size_t count, struct spd_error *error) {
  const size_t bytes = (count * model->like.plane_width + sizeof(float) - 1) / sizeof(float) * sizeof(float);
  const float one = 1;
  SPD_TRY(take(model, &plane->at, bytes + sizeof one, error));
  plane->scale = (float *)((char *)plane->at + bytes);
  return model->backend ? model->backend->ops->upload(model->backend, plane->scale, &one, sizeof one, error) : SPD_STATUS_OK;
}

struct binding {
  const float *value;
  float *gradient;
};

static struct binding bind(const struct spd_model *model, const char *format, size_t number, const char *suffix) {
  char name[64];
  const char *part = suffix;
  /* format holds the name up to the number; suffix what follows it */
  size_t used = 0;
  while (format[used] && used < sizeof name - 1) name[used] = format[used], used++;
  if (number >= 10) name[used++] = (char)('0' + number / 10);
  name[used++] = (char)('0' + number % 10);
  while (*part && used < sizeof name - 1) name[used++] = *part++;
  name[used] = '\0';
  const struct spd_parameter *p = spd_network_find(&model->network, name);
  struct binding none = {NULL, NULL};
  if (!p) return none;
  struct binding b = {model->parameters + p->offset, model->gradient ? model->gradient + p->offset : NULL};
  return b;
}

static spd_status build_trunk(struct spd_model *model, struct trunk *trunk, const float *input, const char *suffix,
                              size_t divisor, struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  const size_t *lengths = model->network.lengths, capacity = model->capacity;
  const int backward = model->purpose != SPD_MODEL_FORWARD;
  char weight[16] = "", slope[16] = "";
  strcat(strcat(weight, suffix), ".0.weight");
  strcat(strcat(slope, suffix), ".2.weight");

  struct spd_stem *stem = &trunk->stem;
  struct binding w = bind(model, "encoder.conv", 1, weight), s = bind(model, "encoder.conv", 1, slope);
  stem->length = lengths[0];
  stem->kernel = a->kernels[0];
  stem->pool = a->pools[0];
  stem->out = spd_rows_for_kernel(lengths[1], a->filters[0] / divisor, a->kernels[1]);
  stem->w = w.value, stem->dw = w.gradient, stem->slope = s.value, stem->dslope = s.gradient;
  stem->x = input;
  SPD_TRY(take(model, &stem->moments, capacity * stem->kernel * (stem->kernel + 1) * sizeof(double), error));
  SPD_TRY(take_floats(model, &stem->scaled, capacity * (stem->kernel + 1) * stem->out.channels, error));
  SPD_TRY(take_plane(model, &stem->y, spd_rows_size(&stem->out, capacity), error));
  if (backward) {
    SPD_TRY(take_floats(model, &stem->partial, spd_stem_partial_size(stem, capacity), error));
    if (model->like.keeps_winners) SPD_TRY(take(model, &stem->winner, capacity * stem->out.length * stem->out.channels, error));
  }

  struct spd_rows in = stem->out;
  struct spd_plane x = stem->y;
  for (size_t i = 1; i < SPD_BLOCKS; i++) {
    struct spd_block *block = &trunk->blocks[i - 1];
    const size_t channels = a->filters[i] / divisor, next = i + 1 < SPD_BLOCKS ? a->kernels[i + 1] : 1;
    w = bind(model, "encoder.conv", i + 1, weight), s = bind(model, "encoder.conv", i + 1, slope);
    block->in = in;
    block->conv = spd_rows_for_kernel(lengths[i], channels, a->kernels[i]);
    block->out = spd_rows_for_kernel(lengths[i + 1], channels, next);
    block->kernel = a->kernels[i];
    block->pool = a->pools[i];
    block->w = w.value, block->dw = w.gradient, block->slope = s.value, block->dslope = s.gradient;
    block->x = x;
    SPD_TRY(take_floats(model, &block->mean, capacity * channels, error));
    SPD_TRY(take_floats(model, &block->inverse_sd, capacity * channels, error));
    SPD_TRY(take_plane(model, &block->y, spd_rows_size(&block->out, capacity), error));
    if (backward) {
      SPD_TRY(take_plane(model, &block->u, spd_rows_size(&block->conv, capacity), error));
      if (block->pool > 1)
        SPD_TRY(take(model, &block->argmax, capacity * block->out.length * channels * sizeof(uint16_t), error));
      SPD_TRY(take_plane(model, &block->dx, spd_rows_size(&block->in, capacity), error));
      SPD_TRY(take_floats(model, &block->partial, capacity * channels, error));
    }
    in = block->out;
    x = block->y;
  }
  stem->dy = trunk->blocks[0].dx;
  for (size_t i = 0; i + 2 < SPD_BLOCKS; i++) trunk->blocks[i].dy = trunk->blocks[i + 1].dx;
  return SPD_STATUS_OK;
}

static spd_status build_dense(struct spd_model *model, struct spd_dense *layer, const char *part, size_t number, size_t in,
                              size_t out, spd_activation activation, const float *x, struct spd_error *error) {
  struct binding w = bind(model, part, 3 * number, ".weight"), b = bind(model, part, 3 * number, ".bias");
  struct binding slope = bind(model, part, 3 * number + 1, ".weight"), beta = bind(model, part, 3 * number + 1, ".beta"),
                 gamma = bind(model, part, 3 * number + 1, ".gamma");
  layer->in = in, layer->out = out, layer->activation = activation;
  layer->w = w.value, layer->dw = w.gradient, layer->b = b.value, layer->db = b.gradient;
  layer->slope = slope.value, layer->dslope = slope.gradient;
  layer->beta = beta.value, layer->dbeta = beta.gradient, layer->gamma = gamma.value, layer->dgamma = gamma.gradient;
  layer->x = x;
  SPD_TRY(take_floats(model, &layer->y, model->capacity * out, error));
  layer->v = layer->y;
  if (model->purpose != SPD_MODEL_FORWARD) {
    SPD_TRY(take_floats(model, &layer->v, model->capacity * out, error));
    SPD_TRY(take_floats(model, &layer->dx, model->capacity * in, error));
  }
  return SPD_STATUS_OK;
}

static spd_status build(struct spd_model *model, const float *wave_observed, const float *wave_rest, struct spd_error *error) {
  const struct spd_network *net = &model->network;
  const struct spd_architecture *a = &net->architecture;
  const size_t capacity = model->capacity, n_observed = a->n_observed, n_rest = a->n_rest;
  const int backward = model->purpose != SPD_MODEL_FORWARD;
  float *observed_grid, *rest_grid;

  SPD_TRY(take_floats(model, &model->parameters, net->size, error));
  if (backward) SPD_TRY(take_floats(model, &model->gradient, net->size, error));
  if (model->purpose == SPD_MODEL_TRAIN) {
    SPD_TRY(take_floats(model, &model->m, net->size, error));
    SPD_TRY(take_floats(model, &model->v, net->size, error));
  }
  SPD_TRY(take_floats(model, &observed_grid, n_observed, error));
  SPD_TRY(take_floats(model, &rest_grid, n_rest, error));
  if (model->backend) {
    SPD_TRY(model->backend->ops->upload(model->backend, observed_grid, wave_observed, n_observed * sizeof(float), error));
    SPD_TRY(model->backend->ops->upload(model->backend, rest_grid, wave_rest, n_rest * sizeof(float), error));
  }
  SPD_TRY(take_floats(model, &model->flux, capacity * n_observed, error));
  SPD_TRY(take_floats(model, &model->ivar, capacity * n_observed, error));
  SPD_TRY(take_floats(model, &model->z, capacity, error));

  /* encoder */
  SPD_TRY(build_trunk(model, &model->spectrum, model->flux, "", 1, error));
  struct spd_block *last = &model->spectrum.blocks[SPD_BLOCKS - 2], *gate = &model->weights.blocks[SPD_BLOCKS - 2];
  struct spd_attend *attend = &model->attend;
  attend->length = net->lengths[SPD_BLOCKS];
  attend->channels = net->n_feature;
  attend->feature_stride = net->n_feature + (a->redshift_input ? 1 : 0);
  attend->v = last->y;
  attend->z = model->z;
  if (a->weight_attention) {
    SPD_TRY(take_floats(model, &model->log_ivar, capacity * n_observed, error));
    SPD_TRY(build_trunk(model, &model->weights, model->log_ivar, "w", 2, error));
    attend->gate = gate->y;
  }
  const size_t map = capacity * attend->length * attend->channels;
  SPD_TRY(take_floats(model, &attend->attention, map, error));
  SPD_TRY(take_floats(model, &attend->feature, capacity * attend->feature_stride, error));
  if (backward) {
    if (model->purpose == SPD_MODEL_GRADIENT) SPD_TRY(take_floats(model, &attend->dattention, map, error));
    SPD_TRY(take_plane(model, &attend->dv, 2 * map, error));
    last->dy = attend->dv;
    if (a->weight_attention) {
      SPD_TRY(take_plane(model, &attend->dgate, map, error));
      gate->dy = attend->dgate;
    }
  }
  model->n_encoder = a->n_encoder_hidden + 1;
  const float *x = attend->feature;
  size_t in = attend->feature_stride;
  for (size_t i = 0; i < model->n_encoder; i++) {
    const int final = i + 1 == model->n_encoder;
    const size_t out = final ? a->n_latent : a->encoder_hidden[i];
    SPD_TRY(build_dense(model, &model->encoder[i], "encoder.mlp.", i, in, out,
                        final ? SPD_ACTIVATION_NONE : SPD_ACTIVATION_PRELU, x, error));
    x = model->encoder[i].y, in = out;
  }
  attend->dfeature = model->encoder[0].dx;

  /* decoder */
  model->n_decoder = a->n_decoder_hidden + 1;
  for (size_t i = 0; i < model->n_decoder; i++) {
    const int final = i + 1 == model->n_decoder;
    const size_t out = final ? n_rest : a->decoder_hidden[i];
    SPD_TRY(build_dense(model, &model->decoder[i], "decoder.mlp.", i, in, out, a->decoder_activation, x, error));
    if (final) model->decoder[i].offset = (float)a->decoder_offset;
    x = model->decoder[i].y, in = out;
  }
  for (size_t i = 0; i + 1 < model->n_encoder; i++) model->encoder[i].dy = model->encoder[i + 1].dx;
  model->encoder[model->n_encoder - 1].dy = model->decoder[0].dx;
  for (size_t i = 0; i + 1 < model->n_decoder; i++) model->decoder[i].dy = model->decoder[i + 1].dx;

  /* redshift, resampling, LSF, loss */
  struct spd_resample *resample = &model->resample;
  resample->n_rest = n_rest, resample->n_observed = n_observed;
  resample->wave_rest = rest_grid, resample->wave_observed = observed_grid;
  resample->z = model->z;
  resample->x = x;
  SPD_TRY(take_floats(model, &resample->y, capacity * n_observed, error));
  model->observed = resample->y;
  if (backward) {
    SPD_TRY(take_floats(model, &model->dobserved, capacity * n_observed, error));
    SPD_TRY(take_floats(model, &resample->dx, capacity * n_rest, error));
    if (model->purpose == SPD_MODEL_GRADIENT) SPD_TRY(take(model, &resample->dz, capacity * sizeof(double), error));
    resample->dy = model->dobserved;
    model->decoder[model->n_decoder - 1].dy = resample->dx;
  }
  if (a->lsf) {
    struct spd_lsf *lsf = &model->lsf;
    const struct spd_parameter *kernel = spd_network_find(net, "encoder.instrument.lsf.weight");
    lsf->n_observed = n_observed, lsf->size = a->lsf;
    lsf->kernel = model->parameters + kernel->offset;
    lsf->x = resample->y;
    SPD_TRY(take_floats(model, &lsf->y, capacity * n_observed, error));
    model->observed = lsf->y;
    if (backward) {
      lsf->dkernel = model->gradient + kernel->offset;
      lsf->dy = model->dobserved;
      SPD_TRY(take_floats(model, &lsf->dx, capacity * n_observed, error));
      SPD_TRY(take(model, &lsf->partial, capacity * a->lsf * sizeof(double), error));
      resample->dy = lsf->dx;
    }
  }
  struct spd_loss *loss = &model->loss;
  loss->n_rest = n_rest, loss->n_observed = n_observed, loss->lsf = a->lsf;
  loss->wave_rest = rest_grid, loss->wave_observed = observed_grid;
  loss->z = model->z, loss->flux = model->flux, loss->ivar = model->ivar;
  loss->model = model->observed, loss->dmodel = model->dobserved;
  return take(model, &loss->loss, capacity * sizeof(double), error);
}

static spd_status check_grid(const float *wave, size_t n, const char *what, struct spd_error *error) {
  for (size_t i = 0; i < n; i++)
    if (!isfinite(wave[i]) || wave[i] <= 0 || (i > 0 && wave[i] <= wave[i - 1]))
      return spd_fail(error, SPD_STATUS_INVALID, "the %s wavelengths must be positive and increasing: pixel %zu is not", what,
                      i + 1);
  return SPD_STATUS_OK;
}

static struct spd_model *blank(const struct spd_network *network, struct spd_backend *backend, const struct spd_backend *like, size_t capacity,
                               spd_model_purpose purpose) {
  struct spd_model *model = calloc(1, sizeof *model);
  if (!model) return NULL;
  model->network = *network;
  model->backend = backend;
  model->like = *like;
  model->capacity = capacity;
  model->purpose = purpose;
  return model;
}

/* Bytes of the buffers of such a model, without making it; 0 if that fails. */
static size_t count_bytes(const struct spd_network *network, const struct spd_backend *like, size_t capacity, spd_model_purpose purpose) {
  struct spd_model *model = blank(network, NULL, like, capacity, purpose);
  const size_t bytes = model && build(model, NULL, NULL, NULL) == SPD_STATUS_OK ? model->bytes : 0;
  free(model);
  return bytes;
}

/* The backend's own sentence, or a better one where it knows how much memory is left: what a batch takes, and which would fit
 * with a quarter to spare for workspaces. */
static spd_status no_memory(const struct spd_network *network, struct spd_backend *backend, size_t capacity,
                            spd_model_purpose purpose, struct spd_error *error) {
  size_t available = 0;
  struct spd_error ignored;
  const size_t all = count_bytes(network, backend, capacity, purpose),
               one = count_bytes(network, backend, 1, purpose);
  if (backend->ops->shares_host_memory || capacity < 2 || all <= one ||
      backend->ops->available(backend, &available, &ignored) != SPD_STATUS_OK)
    return SPD_STATUS_NO_MEMORY;
  const double each = (double)(all - one) / (double)(capacity - 1), room = 0.75 * (double)available - (double)one;
  if (room < 0) return SPD_STATUS_NO_MEMORY;
  const size_t fits = 1 + (size_t)(room / each);
  return spd_fail(error, SPD_STATUS_NO_MEMORY,
                  "a batch of %zu spectra needs %.1f MB of memory on the device, where %.1f MB are free; try a batch size of %zu",
                  capacity, (double)all / 1e6, (double)available / 1e6, fits < capacity ? fits : capacity / 2);
}

spd_status spd_model_create(struct spd_model **out, const struct spd_network *network, struct spd_backend *backend,
                            const float *wave_observed, const float *wave_rest, size_t capacity, spd_model_purpose purpose,
                            struct spd_error *error) {
  *out = NULL;
  if (capacity == 0) return spd_fail(error, SPD_STATUS_INVALID, "the batch size must be at least 1");
  SPD_TRY(check_grid(wave_observed, network->architecture.n_observed, "observed", error));
  SPD_TRY(check_grid(wave_rest, network->architecture.n_rest, "restframe", error));
  struct spd_model *model = blank(network, backend, backend, capacity, purpose);
  if (!model) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a model");
  spd_status status = build(model, wave_observed, wave_rest, error);
  if (status != SPD_STATUS_OK) {
    spd_model_destroy(model);
    return status == SPD_STATUS_NO_MEMORY ? no_memory(network, backend, capacity, purpose, error) : status;
  }
  *out = model;
  return SPD_STATUS_OK;
}

void spd_model_destroy(struct spd_model *model) {
  if (!model) return;
  for (size_t i = 0; i < model->n_buffers; i++) model->backend->ops->free(model->backend, model->buffers[i]);
  free(model);
}

const struct spd_network *spd_model_network(const struct spd_model *model) { return &model->network; }
struct spd_backend *spd_model_backend(const struct spd_model *model) { return model->backend; }
size_t spd_model_capacity(const struct spd_model *model) { return model->capacity; }

/* ---- transfers ---- */

static spd_status upload(struct spd_model *model, void *to, const void *from, size_t bytes, struct spd_error *error) {
  return model->backend->ops->upload(model->backend, to, from, bytes, error);
}

static spd_status download(const struct spd_model *model, void *to, const void *from, size_t bytes, struct spd_error *error) {
  return model->backend->ops->download(model->backend, to, from, bytes, error);
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
  return upload(model, model->parameters, weights, model->network.size * sizeof(float), error);
}

spd_status spd_model_get_parameters(float *weights, const struct spd_model *model, struct spd_error *error) {
  return download(model, weights, model->parameters, model->network.size * sizeof(float), error);
}

spd_status spd_model_get_gradient(float *gradient, const struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  return download(model, gradient, model->gradient, model->network.size * sizeof(float), error);
}

spd_status spd_model_set_moments(struct spd_model *model, const float *m, const float *v, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  SPD_TRY(upload(model, model->m, m, model->network.size * sizeof(float), error));
  return upload(model, model->v, v, model->network.size * sizeof(float), error);
}

spd_status spd_model_get_moments(float *m, float *v, const struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  SPD_TRY(download(model, m, model->m, model->network.size * sizeof(float), error));
  return download(model, v, model->v, model->network.size * sizeof(float), error);
}

static spd_status set_count(struct spd_model *model, size_t n, struct spd_error *error) {
  if (n == 0 || n > model->capacity)
    return spd_fail(error, SPD_STATUS_INVALID, "a batch of %zu spectra does not fit a model made for %zu", n, model->capacity);
  model->n = n;
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

spd_status spd_model_load_rows(struct spd_model *model, const float *flux, const float *ivar, const float *z,
                               const uint64_t *rows, size_t n, struct spd_error *error) {
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
  return backend->ops->lane_take(backend, lane, model->z, 2 * bytes, n * sizeof(float), error);
}

spd_status spd_model_input(float **flux, float **ivar, float **z, struct spd_model *model, size_t n, struct spd_error *error) {
  if (!model->backend->ops->shares_host_memory)
    return spd_fail(error, SPD_STATUS_INVALID, "this model is not in the host's memory");
  SPD_TRY(set_count(model, n, error));
  *flux = model->flux, *ivar = model->ivar, *z = model->z;
  return SPD_STATUS_OK;
}

spd_status spd_model_set_latent(struct spd_model *model, const float *latent, size_t n, struct spd_error *error) {
  SPD_TRY(set_count(model, n, error));
  struct spd_dense *last = &model->encoder[model->n_encoder - 1];
  return upload(model, last->y, latent, n * last->out * sizeof(float), error);
}

/* ---- passes ---- */

/* One stage call inside the passes below, which name their variables alike */
#define RUN(stage, ...) SPD_TRY(ops->stage(backend, __VA_ARGS__, n, error))
#define PASS_VARIABLES(model)                             \
  struct spd_backend *const backend = (model)->backend;   \
  const struct spd_backend_ops *const ops = backend->ops; \
  const size_t n = (model)->n

static spd_status bracketed(struct spd_model *model, spd_status (*pass)(struct spd_model *, spd_tensor, struct spd_error *),
                            spd_tensor to, struct spd_error *error) {
  SPD_TRY(model->backend->ops->enter(model->backend, error));
  spd_status status = pass(model, to, error);
  model->backend->ops->leave(model->backend);
  return status;
}

static spd_status trunk_forward(struct spd_model *model, struct trunk *trunk, struct spd_error *error) {
  PASS_VARIABLES(model);
  RUN(stem_forward, &trunk->stem);
  for (size_t i = 0; i + 1 < SPD_BLOCKS; i++) RUN(block_forward, &trunk->blocks[i]);
  return SPD_STATUS_OK;
}

static spd_status encode(struct spd_model *model, spd_tensor to, struct spd_error *error) {
  PASS_VARIABLES(model);
  (void)to;
  SPD_TRY(trunk_forward(model, &model->spectrum, error));
  if (model->network.architecture.weight_attention) {
    SPD_TRY(ops->log_ivar(backend, model->log_ivar, model->ivar, n * model->network.architecture.n_observed, error));
    SPD_TRY(trunk_forward(model, &model->weights, error));
  }
  RUN(attend_forward, &model->attend);
  for (size_t i = 0; i < model->n_encoder; i++) RUN(dense_forward, &model->encoder[i]);
  return SPD_STATUS_OK;
}

static spd_status decode(struct spd_model *model, spd_tensor to, struct spd_error *error) {
  PASS_VARIABLES(model);
  (void)to;
  for (size_t i = 0; i < model->n_decoder; i++) RUN(dense_forward, &model->decoder[i]);
  return SPD_STATUS_OK;
}

static spd_status observe(struct spd_model *model, spd_tensor to, struct spd_error *error) {
  PASS_VARIABLES(model);
  (void)to;
  RUN(resample_forward, &model->resample);
  if (model->lsf.size) RUN(lsf_forward, &model->lsf);
  return SPD_STATUS_OK;
}


spd_status spd_model_encode(struct spd_model *model, struct spd_error *error) {
  return bracketed(model, encode, SPD_TENSOR_LATENT, error);
}
spd_status spd_model_decode(struct spd_model *model, struct spd_error *error) {
  return bracketed(model, decode, SPD_TENSOR_REST, error);
}
spd_status spd_model_observe(struct spd_model *model, struct spd_error *error) {
  return bracketed(model, observe, SPD_TENSOR_OBSERVED, error);
}
spd_status spd_model_score_into(struct spd_model *model, double *losses, struct spd_error *error) {
  PASS_VARIABLES(model);
  struct spd_loss stage = model->loss;
  stage.loss = losses;
  SPD_TRY(ops->enter(backend, error));
  spd_status status = ops->loss_forward(backend, &stage, n, error);
  ops->leave(backend);
  return status;
}
spd_status spd_model_score(struct spd_model *model, double *losses, struct spd_error *error) {
  SPD_TRY(spd_model_score_into(model, model->loss.loss, error));
  return download(model, losses, model->loss.loss, model->n * sizeof *losses, error);
}

static spd_status trunk_backward(struct spd_model *model, struct trunk *trunk, spd_tensor to, struct spd_error *error) {
  PASS_VARIABLES(model);
  RUN(block_backward, &trunk->blocks[1]); /* from the segments to the pooled map of block 2 */
  if (to == SPD_TENSOR_BLOCK) return SPD_STATUS_OK;
  RUN(block_backward, &trunk->blocks[0]);
  if (to == SPD_TENSOR_STEM) return SPD_STATUS_OK;
  RUN(stem_backward, &trunk->stem);
  return SPD_STATUS_OK;
}

/* From the gradient at `model->reached`, which lies above `to`; TO_INPUT goes through the stem as well. */
#define TO_INPUT ((spd_tensor)-1)
static spd_status backward(struct spd_model *model, spd_tensor to, struct spd_error *error) {
  PASS_VARIABLES(model);
  const spd_tensor from = model->reached;
  model->reached = to;
  if (from >= SPD_TENSOR_OBSERVED && (int)to < SPD_TENSOR_OBSERVED) {
    if (model->lsf.size) RUN(lsf_backward, &model->lsf);
    RUN(resample_backward, &model->resample);
  }
  if (from >= SPD_TENSOR_REST && (int)to < SPD_TENSOR_REST)
    for (size_t i = model->n_decoder; i-- > 0;) RUN(dense_backward, &model->decoder[i]);
  if ((int)to < SPD_TENSOR_LATENT)
    for (size_t i = model->n_encoder; i-- > 0;) RUN(dense_backward, &model->encoder[i]);
  if ((int)to < SPD_TENSOR_FEATURE) RUN(attend_backward, &model->attend);
  if ((int)to >= SPD_TENSOR_SEGMENTS) return SPD_STATUS_OK;
  SPD_TRY(trunk_backward(model, &model->spectrum, to, error));
  if (model->network.architecture.weight_attention && to == TO_INPUT)
    SPD_TRY(trunk_backward(model, &model->weights, to, error));
  return SPD_STATUS_OK;
}

spd_status spd_model_backward(struct spd_model *model, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  struct spd_backend *backend = model->backend;
  SPD_TRY(backend->ops->enter(backend, error));
  spd_status status = backend->ops->loss_backward(backend, &model->loss, model->n, error);
  model->reached = SPD_TENSOR_OBSERVED;
  if (status == SPD_STATUS_OK) status = backward(model, TO_INPUT, error);
  backend->ops->leave(backend);
  return status;
}

static const struct spd_plane no_plane;

/* The first three tensors are planes, the others floats. */
static struct spd_plane plane_at(const struct spd_model *model, spd_tensor tensor) {
  switch (tensor) {
    case SPD_TENSOR_STEM:
      return model->spectrum.stem.y;
    case SPD_TENSOR_BLOCK:
      return model->spectrum.blocks[0].y;
    case SPD_TENSOR_SEGMENTS:
      return model->spectrum.blocks[1].y;
    default:
      return no_plane;
  }
}

static struct spd_plane gradient_plane_at(const struct spd_model *model, spd_tensor tensor) {
  switch (tensor) {
    case SPD_TENSOR_STEM:
      return model->spectrum.blocks[0].dx;
    case SPD_TENSOR_BLOCK:
      return model->spectrum.blocks[1].dx;
    case SPD_TENSOR_SEGMENTS:
      return model->attend.dv;
    default:
      return no_plane;
  }
}

static float *gradient_at(const struct spd_model *model, spd_tensor tensor) {
  switch (tensor) {
    case SPD_TENSOR_ATTENTION:
      return model->attend.dattention;
    case SPD_TENSOR_FEATURE:
      return model->encoder[0].dx;
    case SPD_TENSOR_LATENT:
      return model->decoder[0].dx;
    case SPD_TENSOR_REST:
      return model->resample.dx;
    case SPD_TENSOR_OBSERVED:
      return model->dobserved;
    default:
      return NULL;
  }
}

static float *value_at(const struct spd_model *model, spd_tensor tensor) {
  switch (tensor) {
    case SPD_TENSOR_ATTENTION:
      return model->attend.attention;
    case SPD_TENSOR_FEATURE:
      return model->attend.feature;
    case SPD_TENSOR_LATENT:
      return model->encoder[model->n_encoder - 1].y;
    case SPD_TENSOR_REST:
      return model->decoder[model->n_decoder - 1].y;
    case SPD_TENSOR_OBSERVED:
      return model->observed;
    default:
      return NULL;
  }
}

spd_status spd_model_backward_from(struct spd_model *model, spd_tensor from, const float *gradient, spd_tensor to,
                                   struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  if (from < SPD_TENSOR_LATENT || to > from)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: a gradient can be given at the latents, restframe or observed frame");
  SPD_TRY(
      upload(model, gradient_at(model, from), gradient, model->n * spd_model_tensor_size(model, from) * sizeof(float), error));
  model->reached = from;
  return bracketed(model, backward, to, error);
}

/* ---- reading ---- */

/* Memory layout of a tensor: `length` rows of `channels` elements; spectra start `stride` rows apart, after `lead` rows */
static struct spd_rows layout(const struct spd_model *model, spd_tensor tensor) {
  const struct spd_architecture *a = &model->network.architecture;
  struct spd_rows rows = {1, 0, 0, 1};
  switch (tensor) {
    case SPD_TENSOR_STEM:
      return model->spectrum.stem.out;
    case SPD_TENSOR_BLOCK:
      return model->spectrum.blocks[0].out;
    case SPD_TENSOR_SEGMENTS:
      return model->spectrum.blocks[1].out;
    case SPD_TENSOR_ATTENTION:
      rows.channels = model->attend.length * model->attend.channels;
      break;
    case SPD_TENSOR_FEATURE:
      rows.channels = model->attend.feature_stride;
      break;
    case SPD_TENSOR_LATENT:
      rows.channels = a->n_latent;
      break;
    case SPD_TENSOR_REST:
      rows.channels = a->n_rest;
      break;
    case SPD_TENSOR_OBSERVED:
      rows.channels = a->n_observed;
      break;
  }
  return rows;
}

size_t spd_model_tensor_size(const struct spd_model *model, spd_tensor tensor) {
  if (tensor == SPD_TENSOR_FEATURE) return model->attend.channels;
  struct spd_rows rows = layout(model, tensor);
  return rows.length * rows.channels;
}

/* host (n, size) from a plane: widened on the backend, then without its gap rows */
static spd_status read_plane(float *host, const struct spd_model *model, struct spd_plane plane, spd_tensor tensor,
                             struct spd_error *error) {
  const struct spd_rows rows = layout(model, tensor);
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
static spd_status read_rows(float *host, const struct spd_model *model, const float *from, spd_tensor tensor,
                            struct spd_error *error) {
  const size_t size = spd_model_tensor_size(model, tensor), stride = layout(model, tensor).channels, all = model->n * stride;
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
  const struct spd_plane plane = plane_at(model, tensor);
  return plane.at ? read_plane(host, model, plane, tensor, error) : read_rows(host, model, value_at(model, tensor), tensor, error);
}

spd_status spd_model_read_gradient(float *host, struct spd_model *model, spd_tensor tensor, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_GRADIENT, error));
  if (tensor == SPD_TENSOR_REST && (int)model->reached < SPD_TENSOR_REST)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: the restframe gradient was consumed on the way down");
  if (tensor == SPD_TENSOR_ATTENTION && !model->attend.dattention)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: training does not keep the attention's gradient");
  if ((int)tensor < (int)model->reached)
    return spd_fail(error, SPD_STATUS_INVALID, "internal: backward did not reach that far");
  const struct spd_plane plane = gradient_plane_at(model, tensor);
  return plane.at ? read_plane(host, model, plane, tensor, error) : read_rows(host, model, gradient_at(model, tensor), tensor, error);
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

spd_status spd_model_update(struct spd_model *model, const struct spd_adam_options *o, uint64_t step, struct spd_error *error) {
  SPD_TRY(need(model, SPD_MODEL_TRAIN, error));
  struct spd_backend *backend = model->backend;
  struct spd_adam adam = {(float)o->rate,
                          (float)o->beta1,
                          (float)o->beta2,
                          (float)o->epsilon,
                          (float)(1.0 - o->beta1),
                          (float)(1.0 - o->beta2),
                          (float)(1.0 / (1.0 - pow(o->beta1, (double)step))),
                          (float)(1.0 / (1.0 - pow(o->beta2, (double)step))),
                          -INFINITY};
  size_t from = 0, size = model->network.size;
  if (model->lsf.size) { /* the LSF stands first in the block and has a learning rate of its own */
    from = model->network.parameters[1].offset;
    struct spd_adam own = adam;
    own.rate = (float)(o->rate * o->lsf_factor);
    if (o->lsf_nonnegative) own.lowest = 0;
    if (o->lsf_factor > 0)
      SPD_TRY(backend->ops->adam(backend, model->parameters, model->m, model->v, model->gradient, from, &own, error));
  }
  return backend->ops->adam(backend, model->parameters + from, model->m + from, model->v + from, model->gradient + from,
                            size - from, &adam, error);
}
