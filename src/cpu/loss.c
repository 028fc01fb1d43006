/* l_n = 1/(2M) sum_m w_m (y_m - y'_m)^2 (paper eq. 1), and a penalty; the gradient is that of the batch's mean. */
#include <string.h>

#include "cpu/cpu.h"
#include "network/scalar.h"

static void weighted_range(size_t *from, size_t *to, const struct spd_loss *s, size_t i) {
  spd_coverage_lsf(from, to, s->z[i], s->wave_rest, s->n_rest, s->wave_observed, s->n_observed, s->lsf);
}

static void forward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_loss *s = context;
  const float *y = s->flux + i * s->n_observed, *w = s->ivar + i * s->n_observed, *model = s->model + i * s->n_observed;
  size_t from, to;
  double sum = 0;
  weighted_range(&from, &to, s, i);
  for (size_t m = from; m < to; m++) {
    double difference = (double)y[m] - model[m];
    sum += w[m] * difference * difference;
  }
  if (s->penalty) sum += s->penalty[i];
  s->loss[i] = sum / (2.0 * (double)s->n_observed);
}

spd_status cpu_loss_forward(struct spd_backend *backend, const struct spd_loss *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, forward_row, s);
  return SPD_STATUS_OK;
}

struct batch {
  const struct spd_loss *s;
  size_t n;
};

static void backward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct batch *batch = context;
  const struct spd_loss *s = batch->s;
  const float scale = (float)(1.0 / ((double)s->n_observed * (double)(s->total ? s->total : batch->n)));
  const float *y = s->flux + i * s->n_observed, *w = s->ivar + i * s->n_observed, *model = s->model + i * s->n_observed;
  float *d = s->dmodel + i * s->n_observed;
  size_t from, to;
  weighted_range(&from, &to, s, i);
  memset(d, 0, s->n_observed * sizeof *d);
  for (size_t m = from; m < to; m++) d[m] = scale * w[m] * (model[m] - y[m]);
}

spd_status cpu_loss_backward(struct spd_backend *backend, const struct spd_loss *s, size_t n, struct spd_error *error) {
  (void)error;
  const struct batch batch = {s, n};
  cpu_parallel(backend, n, backward_row, &batch);
  return SPD_STATUS_OK;
}
