/* Masked networks on blocks of rows: forward, inverse and gradient of a flow's layers. */
#include "density/made.h"

#include <stdlib.h>
#include <string.h>

#include "density/scalar.h"

/* Outputs (or inputs) that are computed together; weights that one of them lacks are zeros. */
enum { CHUNK = 12, WIDEST_LANES = 16 };

/* ---- shape ---- */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

size_t flow_units_up_to(const struct flow_plan *plan, size_t degree) {
  if (degree < plan->lowest) return 0;
  const size_t hidden = plan->flow->hidden, groups = least(degree - plan->lowest + 1, plan->degrees);
  return groups * (hidden / plan->degrees) + least(groups, hidden % plan->degrees);
}

static size_t degree_of_unit(const struct flow_plan *plan, size_t unit) {
  size_t degree = plan->lowest;
  while (flow_units_up_to(plan, degree) <= unit) degree++;
  return degree;
}

static void set_reach(const struct flow_plan *plan, size_t number) {
  const struct spd_flow *flow = plan->flow;
  const struct flow_dense *d = &plan->dense[number];
  const int is_first = number == 0, is_last = number + 1 == plan->n_dense;
  for (size_t o = 0; o < d->n_out; o++) {
    if (is_last)
      d->reach[o] = flow_units_up_to(plan, o / plan->per_feature); /* feature i, from 0, has degree i + 1 */
    else if (is_first)
      d->reach[o] = least(flow->conditions + degree_of_unit(plan, o), plan->inputs);
    else
      d->reach[o] = flow_units_up_to(plan, degree_of_unit(plan, o));
  }
  size_t o = 0;
  for (size_t i = 0; i < d->n_in; i++) {
    while (o < d->n_out && d->reach[o] <= i) o++;
    d->first[i] = o;
  }
}

spd_status flow_plan_create(struct flow_plan *plan, const struct spd_flow *flow, struct spd_error *error) {
  memset(plan, 0, sizeof *plan);
  const size_t s = flow->features, h = flow->hidden;
  plan->flow = flow;
  plan->kernels = cpu_kernels_available(0);
  plan->inputs = flow->conditions + s;
  plan->per_feature = flow->type == SPD_FLOW_SPLINE ? 3 * flow->bins - 1 : 2;
  plan->lowest = flow->conditions || s == 1 ? 0 : 1;
  plan->degrees = flow->conditions || s == 1 ? s : s - 1;
  plan->n_dense = flow->depth + 1;
  size_t tables = 0;
  for (size_t i = 0; i < plan->n_dense; i++) {
    struct flow_dense *d = &plan->dense[i];
    d->n_in = i == 0 ? plan->inputs : h;
    d->n_out = i == flow->depth ? s * plan->per_feature : h;
    d->weights = plan->layer_size;
    d->biases = d->weights + d->n_out * d->n_in;
    plan->layer_size = d->biases + d->n_out;
    tables += d->n_in + d->n_out;
  }
  plan->tables = malloc(tables * sizeof *plan->tables);
  if (!plan->tables) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a flow");
  size_t *next = plan->tables;
  for (size_t i = 0; i < plan->n_dense; i++) {
    plan->dense[i].reach = next, next += plan->dense[i].n_out;
    plan->dense[i].first = next, next += plan->dense[i].n_in;
    set_reach(plan, i);
  }
  return SPD_STATUS_OK;
}

void flow_plan_free(struct flow_plan *plan) {
  free(plan->tables);
  plan->tables = NULL;
}

static size_t pad(size_t n) { return (n + WIDEST_LANES - 1) / WIDEST_LANES * WIDEST_LANES; }

spd_status flow_work_create(struct flow_work *work, const struct flow_plan *plan, int keep, struct spd_error *error) {
  const struct spd_flow *flow = plan->flow;
  const size_t s = flow->features, layers = keep ? flow->layers : 1, outputs = s * plan->per_feature;
  const size_t widest = plan->inputs > flow->hidden ? plan->inputs : flow->hidden;
  struct {
    float **at;
    size_t floats;
  } parts[] = {{&work->inputs, layers * plan->inputs * FLOW_ROWS}, {&work->hidden, layers * flow->depth * flow->hidden * FLOW_ROWS},
               {&work->outputs, layers * outputs * FLOW_ROWS},     {&work->features, s * FLOW_ROWS},
               {&work->slopes, flow->layers * FLOW_ROWS},          {&work->dfeatures, keep ? s * FLOW_ROWS : 0},
               {&work->dmapped, keep ? s * FLOW_ROWS : 0},         {&work->dhidden, keep ? 2 * flow->hidden * FLOW_ROWS : 0},
               {&work->doutputs, keep ? outputs * FLOW_ROWS : 0},  {&work->turned, keep ? FLOW_ROWS * pad(widest) : 0}};
  const size_t n = sizeof parts / sizeof *parts;
  size_t floats = 0;
  for (size_t i = 0; i < n; i++) floats += pad(parts[i].floats);
  void *memory = NULL;
  if (posix_memalign(&memory, 64, floats * sizeof(float))) {
    work->memory = NULL;
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a block of a flow");
  }
  memset(memory, 0, floats * sizeof(float));
  work->memory = memory, work->keep = keep;
  float *next = memory;
  for (size_t i = 0; i < n; i++) *parts[i].at = next, next += pad(parts[i].floats);
  return SPD_STATUS_OK;
}

void flow_work_free(struct flow_work *work) { free(work->memory); }

/* ---- linear layers ---- */

/* Outputs from ... to - 1 of y (n_out, ROWS) = W x + b */
static void dense_forward(const struct flow_plan *plan, float *y, const struct flow_dense *d, const float *parameters, const float *x,
                          size_t from, size_t to) {
  const struct cpu_kernels *k = plan->kernels;
  for (size_t o = from; o < to; o += CHUNK) {
    const size_t rows = least(to - o, CHUNK);
    for (size_t i = 0; i < rows; i++) {
      const float bias = parameters[d->biases + o + i];
      for (size_t r = 0; r < FLOW_ROWS; r++) y[(o + i) * FLOW_ROWS + r] = bias;
    }
    k->product(y + o * FLOW_ROWS, FLOW_ROWS, 1, rows, FLOW_ROWS, d->reach[o + rows - 1], parameters + d->weights + o * d->n_in, d->n_in, 1,
               x, k->panel, FLOW_ROWS, cpu_nothing_ahead);
  }
}

/* dx (n_in, ROWS) = W^T dy */
static void dense_inputs_gradient(const struct flow_plan *plan, float *dx, const struct flow_dense *d, const float *parameters,
                                  const float *dy) {
  const struct cpu_kernels *k = plan->kernels;
  for (size_t i = 0; i < d->n_in; i += CHUNK) {
    const size_t rows = least(d->n_in - i, CHUNK), from = d->first[i];
    k->product(dx + i * FLOW_ROWS, FLOW_ROWS, 0, rows, FLOW_ROWS, d->n_out - from, parameters + d->weights + from * d->n_in + i, 1, d->n_in,
               dy + from * FLOW_ROWS, k->panel, FLOW_ROWS, cpu_nothing_ahead);
  }
}

SPD_HOT static void add_row_sums(float *restrict sums, const float *restrict y, size_t n) {
  for (size_t i = 0; i < n; i++, y += FLOW_ROWS) {
    float sum = 0;
    SPD_SIMD_SUM(sum)
    for (size_t r = 0; r < FLOW_ROWS; r++) sum += y[r];
    sums[i] += sum;
  }
}

/* to (ROWS, row) from x (n, ROWS) */
static void turn(float *restrict to, size_t row, const float *restrict x, size_t n) {
  for (size_t i = 0; i < n; i += 16)
    for (size_t r = 0; r < FLOW_ROWS; r += 16) {
      const size_t end = least(n, i + 16);
      for (size_t q = r; q < r + 16; q++)
        for (size_t j = i; j < end; j++) to[q * row + j] = x[j * FLOW_ROWS + q];
    }
}

/* gradient += dy x^T for the weights, also some that are masked (flow_clear_masked()), and sums of dy for the biases */
static void dense_gradient(const struct flow_plan *plan, float *gradient, const struct flow_dense *d, const float *dy, const float *x,
                           float *turned) {
  const struct cpu_kernels *k = plan->kernels;
  const size_t row = pad(d->n_in);
  turn(turned, row, x, d->n_in);
  for (size_t o = 0; o < d->n_out; o += CHUNK) {
    const size_t rows = least(d->n_out - o, CHUNK), reach = d->reach[o + rows - 1];
    for (size_t i = 0; i < reach; i += k->panel)
      k->multiply(gradient + d->weights + o * d->n_in + i, d->n_in, 1, rows, least(reach - i, k->panel), FLOW_ROWS, dy + o * FLOW_ROWS,
                  FLOW_ROWS, 1, turned + i, row, cpu_nothing_ahead);
  }
  add_row_sums(gradient + d->biases, dy, d->n_out);
}

void flow_clear_masked(float *gradient, const struct flow_plan *plan) {
  for (size_t l = 0; l < plan->flow->layers; l++, gradient += plan->layer_size)
    for (size_t i = 0; i < plan->n_dense; i++) {
      const struct flow_dense *d = &plan->dense[i];
      for (size_t o = 0; o < d->n_out; o++)
        memset(gradient + d->weights + o * d->n_in + d->reach[o], 0, (d->n_in - d->reach[o]) * sizeof *gradient);
    }
}

/* ---- hidden units ---- */

SPD_HOT static void squash(float *restrict x, size_t n) {
  SPD_SIMD
  for (size_t i = 0; i < n; i++) x[i] = flow_tanh(x[i]);
}

/* dx = dy (1 - y^2), in place */
SPD_HOT static void squash_gradient(float *restrict dy, const float *restrict y, size_t n) {
  SPD_SIMD
  for (size_t i = 0; i < n; i++) dy[i] *= 1.0f - y[i] * y[i];
}

/* Hidden units from ... to - 1 of every hidden layer; they see units before `to` only. */
static void hidden_forward(const struct flow_plan *plan, float *hidden, const float *parameters, const float *inputs, size_t from,
                           size_t to) {
  const size_t size = plan->flow->hidden * FLOW_ROWS;
  for (size_t i = 0; i < plan->flow->depth; i++) {
    float *y = hidden + i * size;
    dense_forward(plan, y, &plan->dense[i], parameters, i == 0 ? inputs : y - size, from, to);
    squash(y + from * FLOW_ROWS, (to - from) * FLOW_ROWS);
  }
}

/* ---- layers ---- */

static void map_forward(const struct spd_flow *flow, float *y, float *slope, const float *x, const float *raw) {
  if (flow->type == SPD_FLOW_SPLINE)
    flow_spline_forward(y, slope, x, raw, flow->bins, flow->bound);
  else
    flow_affine_forward(y, slope, x, raw);
}

static void map_inverse(const struct spd_flow *flow, float *x, const float *y, const float *raw) {
  if (flow->type == SPD_FLOW_SPLINE)
    flow_spline_inverse(x, y, raw, flow->bins, flow->bound);
  else
    flow_affine_inverse(x, y, raw);
}

static void map_backward(const struct spd_flow *flow, float *dx, float *draw, const float *x, const float *raw, const float *dy,
                         const float *dlog) {
  if (flow->type == SPD_FLOW_SPLINE)
    flow_spline_backward(dx, draw, x, raw, dy, dlog, flow->bins, flow->bound);
  else
    flow_affine_backward(dx, draw, x, raw, dy, dlog);
}

/* Buffers of one layer */
struct layer {
  float *conditions, *features, *hidden, *last, *outputs;
  const float *parameters;
  const uint32_t *order;
};
static struct layer layer_of(const struct flow_plan *plan, const struct flow_work *work, const float *parameters, size_t l) {
  const struct spd_flow *flow = plan->flow;
  const size_t at = flow_layer(work, l), size = flow->hidden * FLOW_ROWS;
  struct layer layer = {.conditions = work->inputs + at * plan->inputs * FLOW_ROWS,
                        .hidden = work->hidden + at * flow->depth * size,
                        .outputs = work->outputs + at * flow->features * plan->per_feature * FLOW_ROWS,
                        .parameters = parameters + l * plan->layer_size,
                        .order = flow->order + l * flow->features};
  layer.features = layer.conditions + flow->conditions * FLOW_ROWS;
  layer.last = layer.hidden + (flow->depth - 1) * size;
  return layer;
}

void flow_forward(const struct flow_plan *plan, struct flow_work *work, const float *parameters) {
  const struct spd_flow *flow = plan->flow;
  const size_t s = flow->features;
  const struct flow_dense *last = &plan->dense[flow->depth];
  memset(work->slopes, 0, flow->layers * FLOW_ROWS * sizeof(float));
  for (size_t l = 0; l < flow->layers; l++) {
    const struct layer now = layer_of(plan, work, parameters, l);
    hidden_forward(plan, now.hidden, now.parameters, now.conditions, 0, flow->hidden);
    dense_forward(plan, now.outputs, last, now.parameters, now.last, 0, last->n_out);
    for (size_t i = 0; i < s; i++)
      map_forward(flow, work->features + i * FLOW_ROWS, work->slopes + l * FLOW_ROWS, now.features + i * FLOW_ROWS,
                  now.outputs + i * plan->per_feature * FLOW_ROWS);
    if (l + 1 == flow->layers) return;
    const struct layer next = layer_of(plan, work, parameters, l + 1);
    if (work->keep) memcpy(next.conditions, now.conditions, flow->conditions * FLOW_ROWS * sizeof(float));
    for (size_t j = 0; j < s; j++)
      memcpy(next.features + j * FLOW_ROWS, work->features + now.order[j] * FLOW_ROWS, FLOW_ROWS * sizeof(float));
  }
}

void flow_inverse(const struct flow_plan *plan, struct flow_work *work, const float *parameters) {
  const struct spd_flow *flow = plan->flow;
  const size_t s = flow->features, p = plan->per_feature;
  for (size_t l = flow->layers; l-- > 0;) {
    const struct layer now = layer_of(plan, work, parameters, l);
    hidden_forward(plan, now.hidden, now.parameters, now.conditions, 0, flow_units_up_to(plan, 0));
    for (size_t i = 0; i < s; i++) { /* feature i, then the hidden units of its degree, i + 1 */
      dense_forward(plan, now.outputs, &plan->dense[flow->depth], now.parameters, now.last, i * p, (i + 1) * p);
      map_inverse(flow, now.features + i * FLOW_ROWS, work->features + i * FLOW_ROWS, now.outputs + i * p * FLOW_ROWS);
      hidden_forward(plan, now.hidden, now.parameters, now.conditions, flow_units_up_to(plan, i), flow_units_up_to(plan, i + 1));
    }
    const uint32_t *order = l > 0 ? now.order - s : NULL; /* of the layer before, whose outputs these are */
    for (size_t j = 0; j < s; j++)
      memcpy(work->features + (order ? order[j] : j) * FLOW_ROWS, now.features + j * FLOW_ROWS, FLOW_ROWS * sizeof(float));
  }
}

static void network_backward(float *gradient, const struct flow_plan *plan, struct flow_work *work, const struct layer *now, int inputs) {
  const struct spd_flow *flow = plan->flow;
  const size_t size = flow->hidden * FLOW_ROWS;
  const float *dy = work->doutputs;
  for (size_t i = flow->depth + 1; i-- > 0;) {
    const struct flow_dense *d = &plan->dense[i];
    const float *x = i == 0 ? now->conditions : now->hidden + (i - 1) * size;
    dense_gradient(plan, gradient, d, dy, x, work->turned);
    if (i == 0) break;
    float *dx = work->dhidden + i % 2 * size;
    dense_inputs_gradient(plan, dx, d, now->parameters, dy);
    squash_gradient(dx, x, size);
    dy = dx;
  }
  /* turned: (C + S, ROWS) here */
  if (inputs) dense_inputs_gradient(plan, work->turned, &plan->dense[0], now->parameters, dy);
}

void flow_backward(float *gradient, const struct flow_plan *plan, struct flow_work *work, const float *parameters, const float *weights) {
  const struct spd_flow *flow = plan->flow;
  const size_t s = flow->features, p = plan->per_feature;
  float dlog[FLOW_ROWS];
  for (size_t r = 0; r < FLOW_ROWS; r++) dlog[r] = -weights[r];
  for (size_t i = 0; i < s; i++) /* -log N(u) = u^2 / 2 + ... */
    for (size_t r = 0; r < FLOW_ROWS; r++) work->dmapped[i * FLOW_ROWS + r] = work->features[i * FLOW_ROWS + r] * weights[r];
  for (size_t l = flow->layers; l-- > 0;) {
    const struct layer now = layer_of(plan, work, parameters, l);
    for (size_t i = 0; i < s; i++)
      map_backward(flow, work->dfeatures + i * FLOW_ROWS, work->doutputs + i * p * FLOW_ROWS, now.features + i * FLOW_ROWS,
                   now.outputs + i * p * FLOW_ROWS, work->dmapped + i * FLOW_ROWS, dlog);
    network_backward(gradient + l * plan->layer_size, plan, work, &now, l > 0);
    if (l == 0) return;
    const float *through = work->turned + flow->conditions * FLOW_ROWS;
    const uint32_t *order = now.order - s;
    for (size_t j = 0; j < s; j++)
      for (size_t r = 0; r < FLOW_ROWS; r++)
        work->dmapped[order[j] * FLOW_ROWS + r] = work->dfeatures[j * FLOW_ROWS + r] + through[j * FLOW_ROWS + r];
  }
}
