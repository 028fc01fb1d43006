/* The line spread function: a correlation with the kernel divided by its sum, zero beyond the array. */
#include "cpu/cpu.h"

static double kernel_sum(const struct spd_lsf *s) {
  double sum = 0;
  for (size_t j = 0; j < s->size; j++) sum += s->kernel[j];
  return sum;
}

/* out_m = sum_j k_j / sum x_{m + j - half}; reversed runs the kernel backwards, which is the transpose */
static void correlate(float *out, const float *x, const struct spd_lsf *s, double sum, int reversed) {
  const size_t half = s->size / 2, last = s->n_observed;
  for (size_t m = 0; m < last; m++) {
    double total = 0;
    for (size_t j = 0; j < s->size; j++) {
      if (m + j < half || m + j - half >= last) continue;
      total += (double)s->kernel[reversed ? s->size - 1 - j : j] * x[m + j - half];
    }
    out[m] = (float)(total / sum);
  }
}

static void forward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_lsf *s = context;
  correlate(s->y + i * s->n_observed, s->x + i * s->n_observed, s, kernel_sum(s), 0);
}

spd_status cpu_lsf_forward(struct spd_backend *backend, const struct spd_lsf *s, size_t n, struct spd_error *error) {
  (void)error;
  cpu_parallel(backend, n, forward_row, s);
  return SPD_STATUS_OK;
}

static void backward_row(const void *context, size_t i, int thread) {
  (void)thread;
  const struct spd_lsf *s = context;
  const size_t half = s->size / 2, last = s->n_observed;
  const float *x = s->x + i * last, *dy = s->dy + i * last;
  if (s->dx) correlate(s->dx + i * last, dy, s, kernel_sum(s), 1);
  for (size_t j = 0; s->dkernel && j < s->size; j++) {
    const size_t from = j < half ? half - j : 0, to = last + half - j < last ? last + half - j : last;
    double product = 0;
    for (size_t m = from; m < to; m++) product += (double)dy[m] * x[m + j - half];
    s->partial[i * s->size + j] = product;
  }
}

spd_status cpu_lsf_backward(struct spd_backend *backend, const struct spd_lsf *s, size_t n, struct spd_error *error) {
  (void)error;
  const double sum = kernel_sum(s);
  cpu_parallel(backend, n, backward_row, s);
  if (!s->dkernel) return SPD_STATUS_OK;
  /* with P_j = sum dy x_{m + j - half}: dk_j = (P_j - sum_i k_i P_i / sum) / sum, the second term from the division */
  double products = 0;
  for (size_t j = 0; j < s->size; j++) {
    double total = 0;
    for (size_t i = 0; i < n; i++) total += s->partial[i * s->size + j];
    s->partial[j] = total;
    products += s->kernel[j] * total;
  }
  for (size_t j = 0; j < s->size; j++) s->dkernel[j] = (float)((s->partial[j] - products / sum) / sum);
  return SPD_STATUS_OK;
}
