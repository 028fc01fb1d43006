/* Normalizing flows: densities of rows of S features, which may depend on C conditions.
 *
 * A row is standardised, goes through L layers, and has the density of N(0, I) at the end times the product of all slopes. A layer maps
 * feature i by an increasing function whose parameters are computed from features 1 ... i - 1 and the conditions, by a masked network
 * (MADE; Germain et al. 2015), and then changes the order of the features. The function is
 *   SPD_FLOW_SPLINE  a rational-quadratic spline of K bins on [-bound, bound], the identity outside (Durkan et al. 2019)
 *   SPD_FLOW_MAF     affine: (softplus(a) + 1e-3) x + t (Papamakarios et al. 2017)
 *
 * Standardisation of column j: t = (x - centre) / scale, then t itself, or tail asinh(t) where tail > 0 (Johnson 1949), for columns with
 * heavy tails. */
#ifndef SPD_DENSITY_FLOW_H
#define SPD_DENSITY_FLOW_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef enum { SPD_FLOW_SPLINE = 0, SPD_FLOW_MAF } spd_flow_type;

enum {
  SPD_FLOW_MOST_FEATURES = 512,
  SPD_FLOW_MOST_HIDDEN = 1024,
  SPD_FLOW_MOST_DEPTH = 4,
  SPD_FLOW_MOST_LAYERS = 64,
  SPD_FLOW_MOST_BINS = 32
};

struct spd_flow {
  spd_flow_type type;
  size_t features, conditions, layers; /* S, C, L */
  size_t hidden, depth;                /* H units in each of the hidden layers of a network, and their number */
  size_t bins;                         /* K; 0 for SPD_FLOW_MAF */
  float bound;
  const float *parameters;             /* spd_flow_size() floats, see spd_flow_start() */
  const uint32_t *order;               /* (L, S): feature j after layer l is this one of its outputs */
  const double *centre, *scale, *tail; /* (C + S), the conditions' first */
};

/* Are the sizes within limits, the orders permutations, the standardisation finite? The parameters are not looked at. */
spd_status spd_flow_check(const struct spd_flow *flow, struct spd_error *error);

/* Number of parameters. For each layer: weights (H, C + S) and biases (H) of the first linear layer, whose inputs are the conditions, then
 * the features; weights (H, H) and biases (H) of each further one; weights (S P, H) and biases (S P) of the last, P = 3 K - 1 (widths,
 * heights, inner derivatives) or 2 (a, t) for each feature in turn. Hidden units are in the order of their degrees: unit h has degree
 * d(h) = lowest + (its place among `degrees` groups of equal size, the first ones larger by one where H is no multiple), with degrees
 * 0 ... S - 1 if there are conditions, else 1 ... S - 1. Feature i has degree i, a condition 0. A hidden unit sees what has its degree or
 * less, a feature's parameters what has less than the feature's. All other weights are 0. */
size_t spd_flow_size(const struct spd_flow *flow);

/* Initial parameters (spd_flow_size() floats), close to the identity, and orders (L, S): reversed, then random, in turn. */
spd_status spd_flow_start(float *parameters, uint32_t *order, const struct spd_flow *flow, uint64_t seed, struct spd_error *error);

/* log p of rows first ... first + count - 1 of x (S columns of n) and conditions (C columns of n), as R has matrices; NULL without
 * conditions. terms is NULL or (L + 2 columns of n): the log density of N(0, I), the log slopes of the standardisation and of each layer,
 * which add up to log p (n). */
spd_status spd_flow_density(double *log_p, double *terms, const struct spd_flow *flow, const double *x, const double *conditions, size_t n,
                            size_t first, size_t count, int threads, struct spd_error *error);

/* Rows first ... first + count - 1 of x (S columns of n): a sample that depends on the seed and the number of the row. */
spd_status spd_flow_sample(double *x, const struct spd_flow *flow, const double *conditions, size_t n, size_t first, size_t count,
                           uint64_t seed, int threads, struct spd_error *error);

/* ---- fitting: maximum likelihood by Adam ---- */

struct spd_flow_options {
  size_t batch_size;
  double rate;          /* the highest of the 1Cycle schedule */
  uint64_t total_steps; /* of the schedule */
  uint64_t seed;        /* of the order of the rows */
  int threads;
};

struct spd_flow_fit;
/* The rows (numbers, from 0) of x and conditions, matrices of n rows, are copied. The flow's parameters are the initial ones. */
spd_status spd_flow_fit_create(struct spd_flow_fit **fit, const struct spd_flow *flow, const double *x, const double *conditions, size_t n,
                               const uint64_t *rows, size_t n_rows, const struct spd_flow_options *options, struct spd_error *error);
void spd_flow_fit_destroy(struct spd_flow_fit *fit); /* NULL is allowed */

struct spd_flow_progress {
  uint64_t epoch, step;
  double loss; /* mean of -log p over the rows of this epoch so far, each before its step */
  double rate;
  int epoch_finished; /* the last advance ended an epoch */
};
/* Steps until `seconds` have passed or the epoch ends, at least one. */
void spd_flow_fit_advance(struct spd_flow_fit *fit, double seconds, struct spd_flow_progress *progress);
/* The averaged parameters (see fit.c), those to use */
const float *spd_flow_fit_parameters(const struct spd_flow_fit *fit);
size_t spd_flow_fit_size(const struct spd_flow_fit *fit); /* their number */

/* Mean of -log p and its gradient (spd_flow_size()) at the flow's parameters: what a step of fitting uses; for tests. */
spd_status spd_flow_gradient(double *loss, float *gradient, const struct spd_flow *flow, const double *x, const double *conditions,
                             size_t n, int threads, struct spd_error *error);

#endif
