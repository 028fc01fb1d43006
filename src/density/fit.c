/* Fits a flow by maximum likelihood: batches of rows in a random order, Adam, 1Cycle schedule.
 *
 * A batch is cut into pieces of PIECE rows, each with a gradient of its own; these are added in order, so the number of threads does not
 * change a bit. The parameters to use are an exponential average over the last tens of steps (Polyak & Juditsky 1992), which the noise of
 * single batches does not reach. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/rng.h"
#include "core/threads.h"
#include "density/made.h"
#include "density/scalar.h"
#include "network/backend.h"
#include "network/schedule.h"

#define LOG_2PI 1.8378770664093454836

enum { PIECE = 2 * FLOW_ROWS, UPDATE = 4096, ROWS_STREAM = 0xf1eu };

struct spd_flow_fit {
  struct spd_flow flow;
  struct flow_plan plan;
  struct spd_flow_options options;
  int threads;
  size_t n, size, pieces;              /* rows; parameters; of a batch */
  float *rows;                         /* (n, C + S) standardised */
  double slope;                        /* mean log slope of the standardisation */
  uint64_t *order;                     /* (n) of this epoch */
  float *parameters, *average, *m, *v; /* (size) */
  float *gradients;                    /* (pieces, size) */
  double *losses;                      /* (pieces): sums over their rows */
  struct flow_work *works;             /* (threads) */
  size_t from, count;                  /* the batch: places in `order` */
  struct spd_adam adam;
  float keep; /* of the average, at this step */
  uint64_t epoch, step;
  double loss_sum;
  uint64_t loss_count;
};

/* ---- the gradient of a batch ---- */

/* Rows from ... from + count - 1 of the order -> the inputs of layer 0; further ones are zeros. */
static void load_block(float *inputs, const struct spd_flow_fit *fit, size_t from, size_t count) {
  const size_t width = fit->plan.inputs;
  for (size_t r = 0; r < FLOW_ROWS; r++) {
    const float *row = fit->rows + fit->order[from + (r < count ? r : 0)] * width;
    for (size_t j = 0; j < width; j++) inputs[j * FLOW_ROWS + r] = r < count ? row[j] : 0;
  }
}

static void gradient_piece(const void *context, size_t piece, int thread) {
  const struct spd_flow_fit *fit = context;
  struct flow_work *work = &fit->works[thread];
  const size_t s = fit->flow.features, begin = piece * PIECE, end = begin + PIECE < fit->count ? begin + PIECE : fit->count;
  float *gradient = fit->gradients + piece * fit->size;
  double loss = 0;
  memset(gradient, 0, fit->size * sizeof *gradient);
  for (size_t at = begin; at < end; at += FLOW_ROWS) {
    const size_t count = end - at < FLOW_ROWS ? end - at : FLOW_ROWS;
    float weights[FLOW_ROWS];
    for (size_t r = 0; r < FLOW_ROWS; r++) weights[r] = r < count ? 1.0f / (float)fit->count : 0;
    load_block(work->inputs, fit, fit->from + at, count);
    flow_forward(&fit->plan, work, fit->parameters);
    for (size_t r = 0; r < count; r++) {
      for (size_t j = 0; j < s; j++) loss += 0.5 * (double)work->features[j * FLOW_ROWS + r] * (double)work->features[j * FLOW_ROWS + r];
      for (size_t l = 0; l < fit->flow.layers; l++) loss -= (double)work->slopes[l * FLOW_ROWS + r];
    }
    flow_backward(gradient, &fit->plan, work, fit->parameters, weights);
  }
  flow_clear_masked(gradient, &fit->plan);
  fit->losses[piece] = loss;
}

/* The gradients of the pieces of this batch; returns their number. */
static size_t batch_gradients(struct spd_flow_fit *fit) {
  const size_t pieces = (fit->count + PIECE - 1) / PIECE;
  spd_parallel(fit->threads, pieces, gradient_piece, fit);
  for (size_t i = 0; i < pieces; i++) fit->loss_sum += fit->losses[i];
  fit->loss_count += fit->count;
  return pieces;
}

SPD_HOT static void add(float *restrict sum, const float *restrict part, size_t n) {
  SPD_SIMD
  for (size_t i = 0; i < n; i++) sum[i] += part[i];
}

/* ---- a step ---- */

SPD_HOT static void update(float *restrict p, float *restrict average, float *restrict m, float *restrict v, const float *restrict g,
                           size_t n, const struct spd_adam *adam, float keep) {
  const struct spd_adam a = *adam;
  SPD_SIMD
  for (size_t i = 0; i < n; i++) {
    spd_adam_update(&p[i], &m[i], &v[i], g[i], a.rate, a.beta1, a.new1, a.beta2, a.new2, a.epsilon, a.correction1, a.correction2, a.lowest);
    average[i] += (1.0f - keep) * (p[i] - average[i]);
  }
}

static void update_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct spd_flow_fit *fit = context;
  const size_t from = piece * UPDATE, n = fit->size - from < UPDATE ? fit->size - from : UPDATE;
  float *sum = fit->gradients + from;
  for (size_t i = 1; i * PIECE < fit->count; i++) add(sum, sum + i * fit->size, n);
  update(fit->parameters + from, fit->average + from, fit->m + from, fit->v + from, sum, n, &fit->adam, fit->keep);
}

static void take_step(struct spd_flow_fit *fit) {
  double rate, beta1;
  const struct spd_schedule schedule = {.rate = fit->options.rate, .total_steps = fit->options.total_steps, .steps_per_stage = 1};
  spd_schedule_at(&rate, &beta1, &schedule, fit->step);
  const double t = (double)fit->step + 1, beta2 = 0.999;
  fit->adam = (struct spd_adam){.rate = (float)rate,
                                .beta1 = (float)beta1,
                                .beta2 = (float)beta2,
                                .epsilon = 1e-8f,
                                .new1 = (float)(1 - beta1),
                                .new2 = (float)(1 - beta2),
                                .correction1 = (float)(1 / (1 - pow(beta1, t))),
                                .correction2 = (float)(1 / (1 - pow(beta2, t))),
                                .lowest = -INFINITY};
  fit->keep = (float)fmin(0.98, t / (t + 10));
  batch_gradients(fit);
  spd_parallel(fit->threads, (fit->size + UPDATE - 1) / UPDATE, update_piece, fit);
  fit->step++;
}

static void shuffle(struct spd_flow_fit *fit) {
  for (size_t i = 0; i < fit->n; i++) fit->order[i] = i;
  for (size_t i = fit->n; i > 1; i--) { /* Fisher & Yates */
    const uint64_t bits = spd_mix64(spd_mix64(spd_mix64(fit->options.seed) ^ (ROWS_STREAM + fit->epoch)) ^ i);
    const size_t other = (size_t)spd_below(bits, i);
    const uint64_t swapped = fit->order[i - 1];
    fit->order[i - 1] = fit->order[other], fit->order[other] = swapped;
  }
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void spd_flow_fit_advance(struct spd_flow_fit *fit, double seconds, struct spd_flow_progress *progress) {
  const double start = seconds_now();
  int finished = 0;
  do {
    fit->from += fit->count;
    if (fit->from == 0 && fit->count == 0) {
      shuffle(fit);
      fit->loss_sum = 0, fit->loss_count = 0;
    }
    fit->count = fit->n - fit->from < fit->options.batch_size ? fit->n - fit->from : fit->options.batch_size;
    take_step(fit);
    finished = fit->from + fit->count == fit->n;
  } while (!finished && seconds_now() - start < seconds);
  if (finished) fit->from = fit->count = 0, fit->epoch++;
  *progress =
      (struct spd_flow_progress){.epoch = fit->epoch,
                                 .step = fit->step,
                                 .rate = (double)fit->adam.rate,
                                 .epoch_finished = finished,
                                 .loss = fit->loss_sum / (double)fit->loss_count + 0.5 * LOG_2PI * (double)fit->flow.features - fit->slope};
}

const float *spd_flow_fit_parameters(const struct spd_flow_fit *fit) { return fit->average; }
size_t spd_flow_fit_size(const struct spd_flow_fit *fit) { return fit->size; }

/* ---- life ---- */

static void load_rows(struct spd_flow_fit *fit, const double *x, const double *conditions, size_t n, const uint64_t *rows) {
  const size_t c = fit->flow.conditions, width = fit->plan.inputs;
  for (size_t from = 0; from < fit->n; from += FLOW_ROWS) {
    const size_t count = fit->n - from < FLOW_ROWS ? fit->n - from : FLOW_ROWS;
    for (size_t j = 0; j < width; j++) {
      const double *column = j < c ? conditions + j * n : x + (j - c) * n;
      double values[FLOW_ROWS], slopes[FLOW_ROWS] = {0};
      float to[FLOW_ROWS];
      for (size_t r = 0; r < count; r++) values[r] = column[rows[from + r]];
      flow_standardise(to, slopes, values, count, &fit->flow, j);
      for (size_t r = 0; r < count; r++) {
        fit->rows[(from + r) * width + j] = to[r];
        if (j >= c) fit->slope += slopes[r] / (double)fit->n;
      }
    }
  }
}

void spd_flow_fit_destroy(struct spd_flow_fit *fit) {
  if (!fit) return;
  for (int t = 0; fit->works && t < fit->threads; t++) flow_work_free(&fit->works[t]);
  void *owned[] = {fit->rows, fit->order,     fit->parameters, fit->average, fit->m,
                   fit->v,    fit->gradients, fit->losses,     fit->works,   (void *)(uintptr_t)fit->flow.order};
  for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
  flow_plan_free(&fit->plan);
  free(fit);
}

static spd_status fill(struct spd_flow_fit *fit, const struct spd_flow *flow, const double *x, const double *conditions, size_t n,
                       const uint64_t *rows, struct spd_error *error) {
  const size_t orders = flow->layers * flow->features;
  uint32_t *order = malloc(orders * sizeof *order);
  fit->flow.order = order;
  fit->rows = malloc(fit->n * (flow->conditions + flow->features) * sizeof(float));
  fit->order = malloc(fit->n * sizeof *fit->order);
  fit->parameters = malloc(fit->size * sizeof(float));
  fit->average = malloc(fit->size * sizeof(float));
  fit->m = calloc(fit->size, sizeof(float));
  fit->v = calloc(fit->size, sizeof(float));
  fit->gradients = malloc(fit->pieces * fit->size * sizeof(float));
  fit->losses = calloc(fit->pieces, sizeof *fit->losses);
  fit->works = calloc((size_t)fit->threads, sizeof *fit->works);
  if (!order || !fit->rows || !fit->order || !fit->parameters || !fit->average || !fit->m || !fit->v || !fit->gradients || !fit->losses ||
      !fit->works)
    return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a flow of %zu parameters and %zu rows", fit->size, fit->n);
  memcpy(order, flow->order, orders * sizeof *order);
  memcpy(fit->parameters, flow->parameters, fit->size * sizeof(float));
  memcpy(fit->average, flow->parameters, fit->size * sizeof(float));
  SPD_TRY(flow_plan_create(&fit->plan, &fit->flow, error));
  for (int t = 0; t < fit->threads; t++) SPD_TRY(flow_work_create(&fit->works[t], &fit->plan, 1, error));
  load_rows(fit, x, conditions, n, rows);
  return SPD_STATUS_OK;
}

spd_status spd_flow_fit_create(struct spd_flow_fit **result, const struct spd_flow *flow, const double *x, const double *conditions,
                               size_t n, const uint64_t *rows, size_t n_rows, const struct spd_flow_options *options,
                               struct spd_error *error) {
  *result = NULL;
  if (n_rows == 0 || options->batch_size == 0) return spd_fail(error, SPD_STATUS_INVALID, "a flow needs rows to be fitted to");
  struct spd_flow_fit *fit = calloc(1, sizeof *fit);
  if (!fit) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for a flow");
  fit->flow = *flow;
  fit->options = *options;
  if (fit->options.batch_size > n_rows) fit->options.batch_size = n_rows;
  fit->n = n_rows, fit->size = spd_flow_size(flow);
  fit->pieces = (fit->options.batch_size + PIECE - 1) / PIECE;
  fit->threads = spd_threads(options->threads, fit->pieces);
  const spd_status status = fill(fit, flow, x, conditions, n, rows, error);
  fit->flow.parameters = fit->parameters;
  fit->flow.centre = fit->flow.scale = fit->flow.tail = NULL; /* the caller's, and no longer needed */
  if (status == SPD_STATUS_OK)
    *result = fit;
  else
    spd_flow_fit_destroy(fit);
  return status;
}

spd_status spd_flow_gradient(double *loss, float *gradient, const struct spd_flow *flow, const double *x, const double *conditions,
                             size_t n, int threads, struct spd_error *error) {
  struct spd_flow_fit *fit = NULL;
  uint64_t *rows = calloc(n ? n : 1, sizeof *rows);
  if (!rows) return spd_fail(error, SPD_STATUS_NO_MEMORY, "no memory for %zu rows", n);
  for (size_t i = 0; i < n; i++) rows[i] = i;
  const struct spd_flow_options options = {.batch_size = n, .threads = threads};
  const spd_status status = spd_flow_fit_create(&fit, flow, x, conditions, n, rows, n, &options, error);
  if (status == SPD_STATUS_OK) {
    for (size_t i = 0; i < n; i++) fit->order[i] = i;
    fit->count = n;
    const size_t pieces = batch_gradients(fit);
    memcpy(gradient, fit->gradients, fit->size * sizeof(float));
    for (size_t i = 1; i < pieces; i++) add(gradient, fit->gradients + i * fit->size, fit->size);
    *loss = fit->loss_sum / (double)n + 0.5 * LOG_2PI * (double)flow->features - fit->slope;
  }
  spd_flow_fit_destroy(fit);
  free(rows);
  return status;
}
