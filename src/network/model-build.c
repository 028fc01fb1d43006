/* Allocates a model's buffers and binds its stages to them, once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "network/model-struct.h"

/* ---- buffers ---- */

static spd_status take(struct spd_model *model, void *pointer, size_t bytes, struct spd_error *error) {
  if (model->n_buffers == MAX_BUFFERS) return spd_fail(error, SPD_STATUS_INVALID, "internal: too many buffers");
  void *memory = model; /* any address, if bytes are only counted */
  model->bytes += bytes;
  if (model->backend) SPD_TRY(model->backend->ops->alloc(model->backend, &memory, bytes, error));
  model->buffers[model->n_buffers++] = memory;
  memcpy(pointer, &memory, sizeof memory);
  return SPD_STATUS_OK;
}

static spd_status take_floats(struct spd_model *model, float **pointer, size_t count, struct spd_error *error) {
  return take(model, pointer, count * sizeof(float), error);
}

/* A plane, followed by its scale, initially 1 */
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

/* A parameter on the backend, and its gradient; NULLs where the network has no such parameter or the model no gradients */
static struct binding bind(const struct spd_model *model, spd_part part, size_t index, spd_parameter_role role) {
  const struct spd_parameter *p = spd_network_find(&model->network, part, index, role);
  struct binding b = {NULL, NULL};
  if (!p) return b;
  b.value = part == SPD_PART_DECODER ? model->decoder_parameters + (p->offset - model->network.decoder) : model->parameters + p->offset;
  if (model->gradient) b.gradient = model->gradient + p->offset;
  return b;
}

static spd_status build_trunk(struct spd_model *model, struct trunk *trunk, const float *input, spd_part part, size_t divisor,
                              struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  const size_t *lengths = model->network.lengths, capacity = model->capacity;
  const int backward = model->purpose != SPD_MODEL_FORWARD;
  struct spd_stem *stem = &trunk->stem;
  struct binding w = bind(model, part, 0, SPD_PARAMETER_CONV_WEIGHT), s = bind(model, part, 0, SPD_PARAMETER_SLOPE);
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
    w = bind(model, part, i, SPD_PARAMETER_CONV_WEIGHT), s = bind(model, part, i, SPD_PARAMETER_SLOPE);
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
      if (block->pool > 1) SPD_TRY(take(model, &block->argmax, capacity * block->out.length * channels * sizeof(uint16_t), error));
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

static spd_status build_dense(struct spd_model *model, struct spd_dense *layer, spd_part part, size_t index, size_t in, size_t out,
                              spd_activation activation, const float *x, struct spd_error *error) {
  const struct binding w = bind(model, part, index, SPD_PARAMETER_LINEAR_WEIGHT), b = bind(model, part, index, SPD_PARAMETER_LINEAR_BIAS);
  const struct binding slope = bind(model, part, index, SPD_PARAMETER_SLOPE), beta = bind(model, part, index, SPD_PARAMETER_BETA),
                       gamma = bind(model, part, index, SPD_PARAMETER_GAMMA);
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

static spd_status build_parameters(struct spd_model *model, struct spd_error *error) {
  const struct spd_network *net = &model->network;
  const size_t own = model->first ? net->decoder : net->size;
  SPD_TRY(take_floats(model, &model->parameters, own, error));
  if (model->purpose != SPD_MODEL_FORWARD) SPD_TRY(take_floats(model, &model->gradient, net->size, error));
  if (model->purpose == SPD_MODEL_TRAIN) {
    SPD_TRY(take_floats(model, &model->m, own, error));
    SPD_TRY(take_floats(model, &model->v, own, error));
  }
  const struct spd_model *owner = model->first ? model->first : model;
  const size_t at = owner->network.decoder;
  model->decoder_parameters = owner->parameters + at;
  if (model->purpose == SPD_MODEL_TRAIN) model->decoder_m = owner->m + at, model->decoder_v = owner->v + at;
  return SPD_STATUS_OK;
}

/* Grids and inputs */
static spd_status build_inputs(struct spd_model *model, const float *wave_observed, const float *wave_rest, struct spd_error *error) {
  const struct spd_network *net = &model->network;
  const size_t n_observed = net->architecture.n_observed, n_rest = net->architecture.n_rest, capacity = model->capacity;
  SPD_TRY(build_parameters(model, error));
  SPD_TRY(take_floats(model, &model->observed_grid, n_observed, error));
  if (model->backend)
    SPD_TRY(model->backend->ops->upload(model->backend, model->observed_grid, wave_observed, n_observed * sizeof(float), error));
  if (model->first) {
    model->rest_grid = model->first->rest_grid;
  } else {
    SPD_TRY(take_floats(model, &model->rest_grid, n_rest, error));
    if (model->backend) SPD_TRY(model->backend->ops->upload(model->backend, model->rest_grid, wave_rest, n_rest * sizeof(float), error));
  }
  SPD_TRY(take_floats(model, &model->flux, capacity * n_observed, error));
  SPD_TRY(take_floats(model, &model->ivar, capacity * n_observed, error));
  return take_floats(model, &model->z, capacity, error);
}

static spd_status build_attention(struct spd_model *model, struct spd_error *error) {
  const struct spd_network *net = &model->network;
  const struct spd_architecture *a = &net->architecture;
  const size_t capacity = model->capacity;
  struct spd_block *last = &model->spectrum.blocks[SPD_BLOCKS - 2], *gate = &model->weights.blocks[SPD_BLOCKS - 2];
  struct spd_attend *attend = &model->attend;
  attend->length = net->lengths[SPD_BLOCKS];
  attend->channels = net->n_feature;
  attend->feature_stride = net->n_feature + (a->redshift_input ? 1 : 0);
  attend->segments = last->y;
  attend->z = model->z;
  if (a->weight_attention) attend->gate = gate->y;
  const size_t map = capacity * attend->length * attend->channels;
  SPD_TRY(take_floats(model, &attend->attention, map, error));
  SPD_TRY(take_floats(model, &attend->feature, capacity * attend->feature_stride, error));
  if (model->purpose == SPD_MODEL_FORWARD) return SPD_STATUS_OK;
  if (model->purpose == SPD_MODEL_GRADIENT) SPD_TRY(take_floats(model, &attend->dattention, map, error));
  SPD_TRY(take_plane(model, &attend->dsegments, 2 * map, error));
  last->dy = attend->dsegments;
  if (!a->weight_attention) return SPD_STATUS_OK;
  SPD_TRY(take_plane(model, &attend->dgate, map, error));
  gate->dy = attend->dgate;
  return SPD_STATUS_OK;
}

static spd_status build_encoder(struct spd_model *model, struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  SPD_TRY(build_trunk(model, &model->spectrum, model->flux, SPD_PART_SPECTRUM, 1, error));
  if (a->weight_attention) {
    SPD_TRY(take_floats(model, &model->log_ivar, model->capacity * a->n_observed, error));
    SPD_TRY(build_trunk(model, &model->weights, model->log_ivar, SPD_PART_WEIGHTS, 2, error));
  }
  SPD_TRY(build_attention(model, error));
  model->n_encoder = a->n_encoder_hidden + 1;
  const float *x = model->attend.feature;
  size_t in = model->attend.feature_stride;
  for (size_t i = 0; i < model->n_encoder; i++) {
    const int final = i + 1 == model->n_encoder;
    const size_t out = final ? a->n_latent : a->encoder_hidden[i];
    SPD_TRY(
        build_dense(model, &model->encoder[i], SPD_PART_ENCODER, i, in, out, final ? SPD_ACTIVATION_NONE : SPD_ACTIVATION_PRELU, x, error));
    x = model->encoder[i].y, in = out;
  }
  model->attend.dfeature = model->encoder[0].dx;
  for (size_t i = 0; i + 1 < model->n_encoder; i++) model->encoder[i].dy = model->encoder[i + 1].dx;
  return SPD_STATUS_OK;
}

static spd_status build_decoder(struct spd_model *model, struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  const float *x = model->encoder[model->n_encoder - 1].y;
  size_t in = a->n_latent;
  model->n_decoder = a->n_decoder_hidden + 1;
  for (size_t i = 0; i < model->n_decoder; i++) {
    const size_t out = i + 1 == model->n_decoder ? a->n_rest : a->decoder_hidden[i];
    SPD_TRY(build_dense(model, &model->decoder[i], SPD_PART_DECODER, i, in, out, a->decoder_activation, x, error));
    x = model->decoder[i].y, in = out;
  }
  model->decoder[model->n_decoder - 1].offset = (float)a->decoder_offset;
  model->encoder[model->n_encoder - 1].dy = model->decoder[0].dx;
  for (size_t i = 0; i + 1 < model->n_decoder; i++) model->decoder[i].dy = model->decoder[i + 1].dx;
  return SPD_STATUS_OK;
}

static spd_status build_lsf(struct spd_model *model, struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  const struct binding kernel = bind(model, SPD_PART_INSTRUMENT, 0, SPD_PARAMETER_LSF);
  struct spd_lsf *lsf = &model->lsf;
  lsf->n_observed = a->n_observed, lsf->size = a->lsf;
  lsf->kernel = kernel.value, lsf->dkernel = kernel.gradient;
  lsf->x = model->resample.y;
  SPD_TRY(take_floats(model, &lsf->y, model->capacity * a->n_observed, error));
  model->observed = lsf->y;
  if (model->purpose == SPD_MODEL_FORWARD) return SPD_STATUS_OK;
  lsf->dy = model->dobserved;
  SPD_TRY(take_floats(model, &lsf->dx, model->capacity * a->n_observed, error));
  SPD_TRY(take(model, &lsf->partial, model->capacity * a->lsf * sizeof(double), error));
  model->resample.dy = lsf->dx;
  return SPD_STATUS_OK;
}

/* The places of pixels between knots, to the backend */
static spd_status place_knots(struct spd_backend *backend, uint32_t *left, float *part, const struct spd_band *band, size_t m,
                              struct spd_error *error) {
  uint32_t *host_left = malloc(m * sizeof *host_left);
  float *host_part = malloc(m * sizeof *host_part);
  spd_status status = host_left && host_part ? SPD_STATUS_OK : spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a resolution");
  if (status == SPD_STATUS_OK) {
    for (size_t i = 0; i < m; i++) spd_band_place(&host_left[i], &host_part[i], i, band->step, m);
    status = backend->ops->upload(backend, left, host_left, m * sizeof *host_left, error);
  }
  if (status == SPD_STATUS_OK) status = backend->ops->upload(backend, part, host_part, m * sizeof *host_part, error);
  free(host_left);
  free(host_part);
  return status;
}

static spd_status build_resolution(struct spd_model *model, const struct spd_band *band, struct spd_error *error) {
  const size_t m = model->network.architecture.n_observed, capacity = model->capacity;
  struct spd_resolution *resolution = &model->resolution;
  uint32_t *left;
  float *part;
  resolution->n_observed = m, resolution->size = band->size, resolution->n_knots = spd_band_knots(band->step, m), resolution->share = 1;
  SPD_TRY(take(model, &left, m * sizeof *left, error));
  SPD_TRY(take_floats(model, &part, m, error));
  if (model->backend) SPD_TRY(place_knots(model->backend, left, part, band, m, error));
  resolution->left = left, resolution->part = part;
  SPD_TRY(take_floats(model, &model->bands, capacity * resolution->n_knots * band->size, error));
  if (band->gaussian) SPD_TRY(take_floats(model, &model->sigmas, capacity * resolution->n_knots, error));
  resolution->band = model->bands;
  resolution->x = model->resample.y;
  SPD_TRY(take_floats(model, &resolution->y, capacity * m, error));
  model->observed = resolution->y;
  if (model->purpose == SPD_MODEL_FORWARD) return SPD_STATUS_OK;
  resolution->dy = model->dobserved;
  SPD_TRY(take_floats(model, &resolution->dx, capacity * m, error));
  model->resample.dy = resolution->dx;
  return SPD_STATUS_OK;
}

/* Redshift, resampling and LSF or resolution */
static spd_status build_transform(struct spd_model *model, const struct spd_band *band, struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  const size_t capacity = model->capacity;
  struct spd_dense *last = &model->decoder[model->n_decoder - 1];
  struct spd_resample *resample = &model->resample;
  resample->n_rest = a->n_rest, resample->n_observed = a->n_observed;
  resample->wave_rest = model->rest_grid, resample->wave_observed = model->observed_grid;
  resample->z = model->z;
  resample->x = last->y;
  SPD_TRY(take_floats(model, &resample->y, capacity * a->n_observed, error));
  model->observed = resample->y;
  if (model->purpose != SPD_MODEL_FORWARD) {
    SPD_TRY(take_floats(model, &model->dobserved, capacity * a->n_observed, error));
    SPD_TRY(take_floats(model, &resample->dx, capacity * a->n_rest, error));
    if (model->purpose == SPD_MODEL_GRADIENT) SPD_TRY(take(model, &resample->dz, capacity * sizeof(double), error));
    resample->dy = model->dobserved;
    last->dy = resample->dx;
  }
  if (band) return build_resolution(model, band, error);
  return a->lsf ? build_lsf(model, error) : SPD_STATUS_OK;
}

static spd_status build_calibration(struct spd_model *model, struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  struct spd_calibrate *calibrate = &model->calibrate;
  const size_t capacity = model->capacity, terms = a->n_calibration;
  calibrate->n_rest = a->n_rest, calibrate->n_observed = a->n_observed, calibrate->lsf = spd_model_footprint(model);
  calibrate->wave_rest = model->rest_grid, calibrate->wave_observed = model->observed_grid;
  calibrate->z = model->z, calibrate->flux = model->flux, calibrate->ivar = model->ivar;
  calibrate->calibration.terms = terms;
  for (size_t k = 0; k < terms; k++) calibrate->calibration.precision[k] = 1 / (a->calibration_sd[k] * a->calibration_sd[k]);
  calibrate->calibration.model = model->observed;
  calibrate->dy = model->dobserved;
  SPD_TRY(take(model, &calibrate->calibration.coefficient, capacity * terms * sizeof(double), error));
  SPD_TRY(take(model, &calibrate->penalty, capacity * sizeof(double), error));
  return take_floats(model, &calibrate->y, capacity * a->n_observed, error);
}

static spd_status build_loss(struct spd_model *model, struct spd_error *error) {
  const struct spd_architecture *a = &model->network.architecture;
  struct spd_loss *loss = &model->loss;
  loss->n_rest = a->n_rest, loss->n_observed = a->n_observed, loss->lsf = spd_model_footprint(model);
  loss->wave_rest = model->rest_grid, loss->wave_observed = model->observed_grid;
  loss->z = model->z, loss->flux = model->flux, loss->ivar = model->ivar;
  loss->model = a->n_calibration ? model->calibrate.y : model->observed, loss->dmodel = model->dobserved;
  loss->penalty = model->calibrate.penalty;
  return take(model, &loss->loss, model->capacity * sizeof(double), error);
}

static struct spd_rows one_row(size_t channels) {
  const struct spd_rows rows = {1, channels, 0, 1};
  return rows;
}

static void set_taps(struct spd_model *model) {
  const struct spd_architecture *a = &model->network.architecture;
  const struct trunk *t = &model->spectrum;
  const struct spd_attend *attend = &model->attend;
  struct tap *taps = model->taps;
  taps[SPD_TENSOR_STEM] = (struct tap){.plane = t->stem.y, .gradient_plane = t->blocks[0].dx, .rows = t->stem.out};
  taps[SPD_TENSOR_BLOCK] = (struct tap){.plane = t->blocks[0].y, .gradient_plane = t->blocks[1].dx, .rows = t->blocks[0].out};
  taps[SPD_TENSOR_SEGMENTS] = (struct tap){.plane = t->blocks[1].y, .gradient_plane = attend->dsegments, .rows = t->blocks[1].out};
  taps[SPD_TENSOR_ATTENTION] =
      (struct tap){.value = attend->attention, .gradient = attend->dattention, .rows = one_row(attend->length * attend->channels)};
  taps[SPD_TENSOR_FEATURE] =
      (struct tap){.value = attend->feature, .gradient = model->encoder[0].dx, .rows = one_row(attend->feature_stride)};
  taps[SPD_TENSOR_LATENT] =
      (struct tap){.value = model->encoder[model->n_encoder - 1].y, .gradient = model->decoder[0].dx, .rows = one_row(a->n_latent)};
  taps[SPD_TENSOR_REST] =
      (struct tap){.value = model->decoder[model->n_decoder - 1].y, .gradient = model->resample.dx, .rows = one_row(a->n_rest)};
  taps[SPD_TENSOR_OBSERVED] = (struct tap){.value = model->observed, .gradient = model->dobserved, .rows = one_row(a->n_observed)};
  taps[SPD_TENSOR_CALIBRATED] =
      (struct tap){.value = a->n_calibration ? model->calibrate.y : model->observed, .rows = one_row(a->n_observed)};
}

static spd_status build(struct spd_model *model, const float *wave_observed, const float *wave_rest, const struct spd_band *band,
                        struct spd_error *error) {
  SPD_TRY(build_inputs(model, wave_observed, wave_rest, error));
  SPD_TRY(build_encoder(model, error));
  SPD_TRY(build_decoder(model, error));
  SPD_TRY(build_transform(model, band, error));
  if (model->network.architecture.n_calibration) SPD_TRY(build_calibration(model, error));
  SPD_TRY(build_loss(model, error));
  set_taps(model);
  return SPD_STATUS_OK;
}

static spd_status check_grid(const float *wave, size_t n, const char *what, struct spd_error *error) {
  for (size_t i = 0; i < n; i++)
    if (!isfinite(wave[i]) || wave[i] <= 0 || (i > 0 && wave[i] <= wave[i - 1]))
      return spd_fail(error, SPD_STATUS_INVALID, "the %s wavelengths must be positive and increasing: pixel %zu is not", what, i + 1);
  return SPD_STATUS_OK;
}

static struct spd_model *blank(const struct spd_network *network, struct spd_backend *backend, const struct spd_backend *like,
                               struct spd_model *first, size_t capacity, spd_model_purpose purpose) {
  struct spd_model *model = calloc(1, sizeof *model);
  if (!model) return NULL;
  model->network = *network;
  model->backend = backend;
  model->like = *like;
  model->first = first;
  model->capacity = capacity;
  model->purpose = purpose;
  return model;
}

/* Bytes of the buffers of such a model, without making it; 0 if that fails. */
static size_t count_bytes(const struct spd_network *network, const struct spd_backend *like, size_t capacity, spd_model_purpose purpose,
                          const struct spd_band *band) {
  struct spd_model *model = blank(network, NULL, like, NULL, capacity, purpose);
  const size_t bytes = model && build(model, NULL, NULL, band, NULL) == SPD_STATUS_OK ? model->bytes : 0;
  free(model);
  return bytes;
}

/* Explains a failed allocation, if the backend knows how much memory is free: how much this batch needs, and which batch size would fit. */
static spd_status no_memory(const struct spd_network *network, struct spd_backend *backend, size_t capacity, spd_model_purpose purpose,
                            const struct spd_band *band, struct spd_error *error) {
  size_t available = 0;
  struct spd_error ignored;
  const size_t all = count_bytes(network, backend, capacity, purpose, band), one = count_bytes(network, backend, 1, purpose, band);
  if (backend->ops->shares_host_memory || capacity < 2 || all <= one ||
      backend->ops->available(backend, &available, &ignored) != SPD_STATUS_OK)
    return SPD_STATUS_NO_MEMORY;
  const double each = (double)(all - one) / (double)(capacity - 1), room = (double)spd_usable_memory(available) - (double)one;
  if (room < 0) return SPD_STATUS_NO_MEMORY;
  const size_t fits = 1 + (size_t)(room / each);
  return spd_fail(error, SPD_STATUS_NO_MEMORY,
                  "a batch of %zu spectra needs %.1f MB of memory on the device, where %.1f MB are free; try a batch size of %zu", capacity,
                  (double)all / 1e6, (double)available / 1e6, fits < capacity ? fits : capacity / 2);
}

static spd_status create(struct spd_model **out, const struct spd_network *network, struct spd_backend *backend, struct spd_model *first,
                         const float *wave_observed, const float *wave_rest, size_t capacity, spd_model_purpose purpose,
                         const struct spd_band *band, struct spd_error *error) {
  if (capacity == 0) return spd_fail(error, SPD_STATUS_INVALID, "the batch size must be at least 1");
  SPD_TRY(check_grid(wave_observed, network->architecture.n_observed, "observed", error));
  if (!first) SPD_TRY(check_grid(wave_rest, network->architecture.n_rest, "restframe", error));
  if (band) SPD_TRY(spd_band_check(band, network->architecture.n_observed, error));
  if (band && network->architecture.lsf)
    return spd_fail(error, SPD_STATUS_INVALID, "a line spread function excludes resolutions of the spectra");
  struct spd_model *model = blank(network, backend, backend, first, capacity, purpose);
  if (!model) return spd_fail(error, SPD_STATUS_NO_MEMORY, "could not allocate a model");
  spd_status status = build(model, wave_observed, wave_rest, band, error);
  if (status != SPD_STATUS_OK) {
    spd_model_destroy(model);
    return status == SPD_STATUS_NO_MEMORY ? no_memory(network, backend, capacity, purpose, band, error) : status;
  }
  *out = model;
  return SPD_STATUS_OK;
}

spd_status spd_model_create(struct spd_model **out, const struct spd_network *network, struct spd_backend *backend,
                            const float *wave_observed, const float *wave_rest, size_t capacity, spd_model_purpose purpose,
                            struct spd_error *error) {
  return spd_model_create_with_resolution(out, network, backend, wave_observed, wave_rest, capacity, purpose, NULL, error);
}

spd_status spd_model_create_with_resolution(struct spd_model **out, const struct spd_network *network, struct spd_backend *backend,
                                            const float *wave_observed, const float *wave_rest, size_t capacity, spd_model_purpose purpose,
                                            const struct spd_band *band, struct spd_error *error) {
  *out = NULL;
  return create(out, network, backend, NULL, wave_observed, wave_rest, capacity, purpose, band, error);
}

static int same_decoder(const struct spd_architecture *a, const struct spd_architecture *b) {
  return a->n_rest == b->n_rest && a->n_latent == b->n_latent && a->n_decoder_hidden == b->n_decoder_hidden &&
         memcmp(a->decoder_hidden, b->decoder_hidden, a->n_decoder_hidden * sizeof *a->decoder_hidden) == 0 &&
         a->decoder_activation == b->decoder_activation && a->decoder_offset == b->decoder_offset;
}

spd_status spd_model_create_beside(struct spd_model **out, struct spd_model *first, const struct spd_network *network,
                                   const float *wave_observed, size_t capacity, const struct spd_band *band, struct spd_error *error) {
  *out = NULL;
  if (first->first || !same_decoder(&first->network.architecture, &network->architecture))
    return spd_fail(error, SPD_STATUS_INVALID, "instruments that share a decoder must have the same latents, decoder and restframe grid");
  return create(out, network, first->backend, first, wave_observed, NULL, capacity, first->purpose, band, error);
}

void spd_model_destroy(struct spd_model *model) {
  if (!model) return;
  for (size_t i = 0; i < MAX_RECORDINGS; i++) model->backend->ops->forget(model->backend, model->recorded[i].recording);
  for (size_t i = 0; i < model->n_buffers; i++) model->backend->ops->free(model->backend, model->buffers[i]);
  free(model);
}
