/* Inside a flow: masked networks and elementwise functions on blocks of rows. A tensor of a block is (units, FLOW_ROWS), so that loops over
 * rows are loops over vectors. */
#ifndef SPD_DENSITY_MADE_H
#define SPD_DENSITY_MADE_H

#include "core/hot.h"
#include "cpu/kernels.h"
#include "density/flow.h"

enum { FLOW_ROWS = 64 };

/* A masked linear layer. Units are sorted by degree, so output o sees inputs 0 ... reach[o] - 1, and input i is seen by outputs from
 * first[i] on. */
struct flow_dense {
  size_t n_in, n_out;
  size_t weights, biases; /* places within a layer's parameters; weights (n_out, n_in) */
  size_t *reach, *first;
};

/* What follows from a flow's shape */
struct flow_plan {
  const struct spd_flow *flow;
  const struct cpu_kernels *kernels;
  size_t inputs;      /* C + S */
  size_t per_feature; /* P */
  size_t layer_size;  /* parameters of a layer */
  size_t lowest;      /* degree of a hidden unit */
  size_t degrees;     /* number of hidden units' degrees */
  size_t n_dense;     /* depth + 1 */
  struct flow_dense dense[SPD_FLOW_MOST_DEPTH + 1];
  size_t *tables; /* owned */
};
spd_status flow_plan_create(struct flow_plan *plan, const struct spd_flow *flow, struct spd_error *error);
void flow_plan_free(struct flow_plan *plan);
/* Number of hidden units of this degree or less */
size_t flow_units_up_to(const struct flow_plan *plan, size_t degree);

/* Buffers of a block, for one thread. Those of layer l follow those of layer 0 if all layers are kept, else they are the same. */
struct flow_work {
  float *memory;
  int keep;                                        /* all layers are kept, for a gradient */
  float *inputs;                                   /* (layers or 1, C + S, ROWS): conditions, then features of a layer */
  float *hidden;                                   /* (layers or 1, depth, H, ROWS) after tanh */
  float *outputs;                                  /* (layers or 1, S P, ROWS): parameters of the elementwise functions */
  float *features;                                 /* (S, ROWS): a layer's results, in the end of the whole flow */
  float *slopes;                                   /* (L, ROWS): log slopes of layers */
  float *dfeatures, *dmapped, *dhidden, *doutputs; /* gradients: (S, ROWS), (S, ROWS), (2, H, ROWS), (S P, ROWS) */
  float *turned;                                   /* (ROWS, inputs of a dense layer, padded) */
};
spd_status flow_work_create(struct flow_work *work, const struct flow_plan *plan, int keep, struct spd_error *error);
void flow_work_free(struct flow_work *work);
static inline size_t flow_layer(const struct flow_work *work, size_t layer) { return work->keep ? layer : 0; }

/* Standardised rows: in work->inputs of layer 0 -> work->features and work->slopes */
void flow_forward(const struct flow_plan *plan, struct flow_work *work, const float *parameters);
/* work->features = standardised rows, from work->features = normal ones; conditions are in `inputs` of layer 0. */
void flow_inverse(const struct flow_plan *plan, struct flow_work *work, const float *parameters);
/* After flow_forward() with keep: adds the gradient of sum_r weight_r (-log p_r) to `gradient`; weights (ROWS). */
void flow_backward(float *gradient, const struct flow_plan *plan, struct flow_work *work, const float *parameters, const float *weights);
/* flow_backward() leaves numbers at masked weights: zeros there. */
void flow_clear_masked(float *gradient, const struct flow_plan *plan);

/* ---- elementwise functions of one feature (spline.c, affine.c): raw (P, ROWS) ---- */

/* y (ROWS); adds to log_slope */
void flow_spline_forward(float *y, float *log_slope, const float *x, const float *raw, size_t bins, float bound);
void flow_spline_inverse(float *x, const float *y, const float *raw, size_t bins, float bound);
/* dlog (ROWS): gradient at log_slope */
void flow_spline_backward(float *dx, float *draw, const float *x, const float *raw, const float *dy, const float *dlog, size_t bins,
                          float bound);
void flow_affine_forward(float *y, float *log_slope, const float *x, const float *raw);
void flow_affine_inverse(float *x, const float *y, const float *raw);
void flow_affine_backward(float *dx, float *draw, const float *x, const float *raw, const float *dy, const float *dlog);

/* ---- standardisation (standardise.c) ---- */

/* to (ROWS) from `count` elements of column `column` (conditions first); the others become 0. Adds to log_slope (ROWS, double) if that is
 * not NULL. */
void flow_standardise(float *to, double *log_slope, const double *from, size_t count, const struct spd_flow *flow, size_t column);
void flow_restore(double *to, const float *from, size_t count, const struct spd_flow *flow, size_t column);

#endif
