#include "density/flow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/threads.h"
#include "density/made.h"

#define LOG_2PI 1.8378770664093454836

/* ---- shape ---- */

spd_status spd_flow_check(const struct spd_flow *f, struct spd_error *error) {
  const struct {
    const char *name;
    size_t value, lowest, highest;
  } sizes[] = {{"features", f->features, 1, SPD_FLOW_MOST_FEATURES}, {"conditions", f->conditions, 0, SPD_FLOW_MOST_FEATURES},
               {"layers", f->layers, 1, SPD_FLOW_MOST_LAYERS},       {"hidden units", f->hidden, 1, SPD_FLOW_MOST_HIDDEN},
               {"hidden layers", f->depth, 1, SPD_FLOW_MOST_DEPTH},  {"bins", f->bins, 2, SPD_FLOW_MOST_BINS}};
  for (size_t i = 0; i < (f->type == SPD_FLOW_SPLINE ? 6 : 5); i++)
    if (sizes[i].value < sizes[i].lowest || sizes[i].value > sizes[i].highest)
      return spd_fail(error, SPD_STATUS_INVALID, "a flow has %zu %s, but must have %zu to %zu", sizes[i].value, sizes[i].name,
                      sizes[i].lowest, sizes[i].highest);
  if (f->type == SPD_FLOW_SPLINE && !(f->bound >= 1e-3f && f->bound <= 1e3f))
    return spd_fail(error, SPD_STATUS_INVALID, "a flow's splines reach to %g, but must reach to 0.001 ... 1000", (double)f->bound);
  for (size_t j = 0; j < f->conditions + f->features; j++)
    if (!(f->scale[j] > 0) || !isfinite(f->scale[j]) || !isfinite(f->centre[j]) || !(f->tail[j] >= 0) || !isfinite(f->tail[j]))
      return spd_fail(error, SPD_STATUS_INVALID, "column %zu of a flow has no valid standardisation", j + 1);
  for (size_t l = 0; l < f->layers; l++)
    for (size_t j = 0; j < f->features; j++) {
      const uint32_t *order = f->order + l * f->features;
      size_t times = 0;
      for (size_t i = 0; i < f->features; i++) times += order[i] == j;
      if (times != 1) return spd_fail(error, SPD_STATUS_INVALID, "the order of a flow's features after layer %zu is no permutation", l + 1);
    }
  return SPD_STATUS_OK;
}

size_t spd_flow_size(const struct spd_flow *f) {
  const size_t per_feature = f->type == SPD_FLOW_SPLINE ? 3 * f->bins - 1 : 2, h = f->hidden, outputs = f->features * per_feature;
  return f->layers * ((f->conditions + f->features + 1) * h + (f->depth - 1) * (h + 1) * h + (h + 1) * outputs);
}

enum { WEIGHTS_STREAM = 0xf10u, ORDER_STREAM, SAMPLE_STREAM };

/* Weights uniform within 1 / sqrt(number of inputs seen), the last layer's small; biases so that the functions are close to the identity */
static void start_layer(float *parameters, const struct flow_plan *plan, uint64_t seed, uint64_t stream) {
  const struct spd_flow *flow = plan->flow;
  for (size_t i = 0; i < plan->n_dense; i++) {
    const struct flow_dense *d = &plan->dense[i];
    const int is_last = i + 1 == plan->n_dense;
    for (size_t o = 0; o < d->n_out; o++) {
      const float range = (is_last ? 0.1f : 1.0f) / sqrtf((float)(d->reach[o] ? d->reach[o] : 1));
      for (size_t k = 0; k < d->reach[o]; k++) {
        const size_t at = d->weights + o * d->n_in + k;
        parameters[at] = range * (2.0f * spd_uniform(seed, stream, at) - 1.0f);
      }
      float *bias = &parameters[d->biases + o];
      if (!is_last)
        *bias = range * (2.0f * spd_uniform(seed, stream, d->biases + o) - 1.0f);
      else if (flow->type == SPD_FLOW_SPLINE ? o % plan->per_feature >= 2 * flow->bins : o % 2 == 0)
        *bias = 0.5397424f; /* softplus() is 0.999: slopes and scales are 1 */
    }
  }
}

spd_status spd_flow_start(float *parameters, uint32_t *order, const struct spd_flow *flow, uint64_t seed, struct spd_error *error) {
  struct flow_plan plan;
  SPD_TRY(flow_plan_create(&plan, flow, error));
  memset(parameters, 0, spd_flow_size(flow) * sizeof *parameters);
  for (size_t l = 0; l < flow->layers; l++) {
    uint32_t *now = order + l * flow->features;
    start_layer(parameters + l * plan.layer_size, &plan, seed, spd_mix64(WEIGHTS_STREAM + l));
    for (size_t j = 0; j < flow->features; j++) now[j] = (uint32_t)(flow->features - 1 - j);
    struct spd_random random = spd_random_start(seed, ORDER_STREAM, l);
    for (size_t j = flow->features; l % 2 == 1 && j > 1; j--) { /* Fisher & Yates */
      const size_t other = (size_t)(spd_random_uniform(&random) * (double)j);
      const uint32_t swapped = now[j - 1];
      now[j - 1] = now[other], now[other] = swapped;
    }
  }
  flow_plan_free(&plan);
  return SPD_STATUS_OK;
}

/* ---- rows in parallel ---- */

enum { BLOCKS = 16 }; /* of a piece */

/* A call over many rows: one buffer for each thread, and what a block does */
struct call {
  const struct spd_flow *flow;
  struct flow_plan plan;
  struct flow_work *works; /* (threads) */
  int threads;
  double *log_p, *terms, *out; /* of a density; of a sample */
  const double *x, *conditions;
  size_t n, first, count;
  uint64_t seed;
  void (*block)(const struct call *, struct flow_work *, size_t from, size_t count);
};

static void piece_of_blocks(const void *context, size_t piece, int thread) {
  const struct call *c = context;
  const size_t begin = piece * BLOCKS * FLOW_ROWS, left = c->count - begin, count = left < BLOCKS * FLOW_ROWS ? left : BLOCKS * FLOW_ROWS;
  for (size_t done = 0; done < count; done += FLOW_ROWS)
    c->block(c, &c->works[thread], c->first + begin + done, count - done < FLOW_ROWS ? count - done : FLOW_ROWS);
}

static spd_status run(struct call *call, int threads, struct spd_error *error) {
  const size_t pieces = (call->count + BLOCKS * FLOW_ROWS - 1) / (BLOCKS * FLOW_ROWS);
  spd_status status = flow_plan_create(&call->plan, call->flow, error);
  if (status != SPD_STATUS_OK) return status;
  call->threads = spd_threads(threads, pieces);
  call->works = calloc((size_t)call->threads, sizeof *call->works);
  if (!call->works) status = spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for %d threads of a flow", call->threads);
  for (int t = 0; t < call->threads && status == SPD_STATUS_OK; t++) status = flow_work_create(&call->works[t], &call->plan, 0, error);
  if (status == SPD_STATUS_OK) spd_parallel(call->threads, pieces, piece_of_blocks, call);
  for (int t = 0; call->works && t < call->threads; t++) flow_work_free(&call->works[t]);
  free(call->works);
  flow_plan_free(&call->plan);
  return status;
}

static void density_block(const struct call *c, struct flow_work *work, size_t from, size_t count) {
  const struct spd_flow *flow = c->flow;
  const size_t conditions = flow->conditions, s = flow->features;
  double slope[FLOW_ROWS] = {0};
  for (size_t j = 0; j < conditions; j++)
    flow_standardise(work->inputs + j * FLOW_ROWS, NULL, c->conditions + j * c->n + from, count, flow, j);
  for (size_t j = 0; j < s; j++)
    flow_standardise(work->inputs + (conditions + j) * FLOW_ROWS, slope, c->x + j * c->n + from, count, flow, conditions + j);
  flow_forward(&c->plan, work, flow->parameters);
  for (size_t r = 0; r < count; r++) {
    double square = 0, sum = slope[r];
    for (size_t j = 0; j < s; j++) square += (double)work->features[j * FLOW_ROWS + r] * (double)work->features[j * FLOW_ROWS + r];
    const double normal = -0.5 * square - 0.5 * LOG_2PI * (double)s;
    for (size_t l = 0; l < flow->layers; l++) sum += (double)work->slopes[l * FLOW_ROWS + r];
    c->log_p[from + r] = normal + sum;
    if (!c->terms) continue;
    double *term = c->terms + from + r;
    term[0] = normal, term[c->n] = slope[r];
    for (size_t l = 0; l < flow->layers; l++) term[(l + 2) * c->n] = (double)work->slopes[l * FLOW_ROWS + r];
  }
}

spd_status spd_flow_density(double *log_p, double *terms, const struct spd_flow *flow, const double *x, const double *conditions, size_t n,
                            size_t first, size_t count, int threads, struct spd_error *error) {
  struct call call = {.flow = flow,
                      .log_p = log_p,
                      .terms = terms,
                      .x = x,
                      .conditions = conditions,
                      .n = n,
                      .first = first,
                      .count = count,
                      .block = density_block};
  return run(&call, threads, error);
}

static void sample_block(const struct call *c, struct flow_work *work, size_t from, size_t count) {
  const struct spd_flow *flow = c->flow;
  const size_t conditions = flow->conditions, s = flow->features;
  double normals[SPD_FLOW_MOST_FEATURES];
  for (size_t j = 0; j < conditions; j++)
    flow_standardise(work->inputs + j * FLOW_ROWS, NULL, c->conditions + j * c->n + from, count, flow, j);
  for (size_t r = 0; r < count; r++) {
    struct spd_random random = spd_random_start(c->seed, SAMPLE_STREAM, from + r);
    spd_random_normals(normals, s, &random);
    for (size_t j = 0; j < s; j++) work->features[j * FLOW_ROWS + r] = (float)normals[j];
  }
  flow_inverse(&c->plan, work, flow->parameters);
  for (size_t j = 0; j < s; j++) flow_restore(c->out + j * c->n + from, work->features + j * FLOW_ROWS, count, flow, conditions + j);
}

spd_status spd_flow_sample(double *x, const struct spd_flow *flow, const double *conditions, size_t n, size_t first, size_t count,
                           uint64_t seed, int threads, struct spd_error *error) {
  struct call call = {
      .flow = flow, .out = x, .conditions = conditions, .n = n, .first = first, .count = count, .seed = seed, .block = sample_block};
  return run(&call, threads, error);
}
