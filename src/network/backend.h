/* The stages of the network and the table of functions that each backend fills.
 *
 * A stage is a struct: its shape, its parameters, its buffers. The model (network/model.c) allocates and binds them once;
 * forward and backward get the stage and the number n of spectra in this batch. All buffers live on the backend.
 *
 * Gradients: every backward OVERWRITES what it writes, nothing accumulates. A NULL gradient pointer is skipped.
 * Where a comment says "in place", the output takes the place of the input it names.
 *
 * Channels-last rows with gaps: position l of spectrum n is row `lead + n * stride + l` of C floats; all other rows are
 * zero unless the stage says otherwise. stride is a multiple of the kernel k of the convolution that reads it and stride -
 * length >= lead = (k - 1) / 2, so a patch is k * C contiguous floats, and rows r, r + k, r + 2k, ... of a whole batch are one
 * matrix with leading dimension k * C.
 */
#ifndef SPD_NETWORK_BACKEND_H
#define SPD_NETWORK_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "network/network.h"

struct spd_rows {
  size_t length, channels, lead, stride;
};

/* An activation between the stem and the attention, or its gradient: rows as above of the backend's plane type, float or a type
 * of 16 bits (spd_backend.plane_width). `scale` is one float on the backend: stored values are the true ones times it. It is 1 for
 * activations and a power of two for gradients of 16-bit planes whose exponent is short. */
struct spd_plane {
  void *at;
  float *scale;
};
/* Where planes are floats */
static inline float *spd_plane_floats(struct spd_plane plane) { return (float *)plane.at; }

/* Rows that a convolution of kernel k may read. With k = 1 there are no gaps. */
struct spd_rows spd_rows_for_kernel(size_t length, size_t channels, size_t kernel);
/* Floats of n spectra, patches of the last gap rows included. */
size_t spd_rows_size(const struct spd_rows *rows, size_t n);

/* Convolution of one channel, instance norm, PReLU and max-pool in one: the map before the pool is never stored. */
struct spd_stem {
  size_t length, kernel, pool;
  struct spd_rows out;    /* length: pooled positions */
  const float *w, *slope; /* (k, C), (C) */
  float *dw, *dslope;
  const float *x;         /* (N, length) */
  double *moments;        /* (N, k + k*k): window sums m_j and products R_jk of x */
  float *scaled;          /* (N, k + 1, C): taps and offset with the norm folded in */
  uint8_t *winner;        /* (N, out.length, C): place of each window's winner in it, if the backend keeps_winners and backward follows */
  struct spd_plane y, dy; /* rows out */
  float *partial;         /* workspace: spd_stem_partial_size(stage, capacity) */
};
size_t spd_stem_partial_size(const struct spd_stem *stage, size_t n);

/* Convolution, instance norm, PReLU, and max-pool unless pool is 1. */
struct spd_block {
  struct spd_rows in, conv, out; /* conv: same length as in; gaps as the input gradient's convolution needs them */
  size_t kernel, pool;
  const float *w, *slope; /* (k, C_in, C_out), (C_out) */
  float *dw, *dslope;
  struct spd_plane x;       /* rows in */
  uint64_t version;         /* of w, for backends that cache transformed weights; 0: w changes at every step */
  struct spd_plane u;       /* rows conv: the convolution (gap rows hold anything); NULL where no backward follows, which may destroy it */
  float *mean, *inverse_sd; /* (N, C_out), of u as stored */
  uint16_t *argmax;         /* (N, out.length, C_out): position l of the pool's winner; NULL where pool is 1 or no backward follows */
  struct spd_plane y, dy;   /* rows out */
  struct spd_plane dx;      /* rows in; its gap rows hold anything */
  float *partial;           /* (N, C_out) workspace of backward */
};

/* Attention over the segments: a = softmax(keys), e = sum over positions of values * a. */
struct spd_attend {
  size_t length, channels;           /* L segments, C = n_feature */
  struct spd_plane segments;         /* (N, L, 2C): values, then keys */
  struct spd_plane gate;             /* (N, L, C) multiplies the keys; NULL without weight attention */
  const float *z;                    /* (N): stored after the features if feature_stride > C */
  size_t feature_stride;             /* C or C + 1 */
  float *attention;                  /* (N, L, C) */
  float *feature;                    /* (N, feature_stride) */
  const float *dfeature;             /* (N, feature_stride) */
  float *dattention;                 /* (N, L, C): gradient with respect to the softmax's output; may be NULL */
  struct spd_plane dsegments, dgate; /* (N, L, 2C), (N, L, C) */
};

/* Linear layer and activation. */
struct spd_dense {
  size_t in, out;
  spd_activation activation;
  float offset;              /* added after the activation */
  const float *w, *b;        /* (out, in), (out) */
  const float *slope;        /* (out) PReLU */
  const float *beta, *gamma; /* (out) Speculator */
  float *dw, *db, *dslope, *dbeta, *dgamma;
  const float *x; /* (N, in) */
  float *v;       /* (N, out) before the activation; may be y itself where no backward follows */
  float *y;       /* (N, out) */
  float *dy;      /* (N, out); backward turns it into dv, in place */
  float *dx;      /* (N, in) */
};

/* Redshift and linear interpolation of the restframe onto the observed grid; uncovered pixels become 0. */
struct spd_resample {
  size_t n_rest, n_observed;
  const float *wave_rest, *wave_observed; /* (R), (M), increasing */
  const float *z;                         /* (N) */
  const float *x;                         /* (N, R) */
  float *y;                               /* (N, M) */
  float *slope;                           /* (N, M): dy / dz, made by forward unless NULL */
  const float *dy;                        /* (N, M) */
  float *dx;                              /* (N, R) */
  double *dz;                             /* (N) */
};

/* y_m = sum_j k_j x_{m + j - (size-1)/2} / sum k, zero beyond the array. */
struct spd_lsf {
  size_t n_observed, size;
  const float *kernel; /* (size) */
  float *dkernel;
  const float *x;  /* (N, M) */
  float *y;        /* (N, M) */
  const float *dy; /* (N, M) */
  float *dx;       /* (N, M) */
  double *partial; /* (N, size) workspace of backward */
};

/* The resolution of each spectrum: a matrix with `size` diagonals (odd), given at some pixels, the knots, and linear between them
 * (data/band.h has the places): y_m = sum_k b_k(m) x_{m + k - (size-1)/2},  b(m) = (1 - t_m) B_j + t_m B_{j+1},  j = left_m, zero beyond
 * the array, not normalised. With a knot at every pixel it is any band matrix; a smooth one needs few. It has no parameters: backward makes
 * dx alone, by the transpose. */
struct spd_resolution {
  size_t n_observed, size, n_knots;
  size_t share;         /* rows i of x and y have band i / share: 1, or K directions of each spectrum */
  const uint32_t *left; /* (M) from 0 to n_knots - 2 */
  const float *part;    /* (M): t, from 0 to 1 */
  const float *band;    /* (N / share, n_knots, size): B */
  const float *x;       /* (N, M) */
  float *y;             /* (N, M) */
  const float *dy;      /* (N, M) */
  float *dx;            /* (N, M) */
};

/* Flux calibration: each spectrum's model x is multiplied by a polynomial over its pixels, the one that fits the spectrum best,
 *   y_m = q_m x_m,  q_m = sum_k c_k P_k(t_m),  t from -1 to 1, P_k of Legendre,
 *   c minimises sum_m w_m (flux_m - y_m)^2 + sum_k p_k (c_k - [k = 0])^2 over the pixels that the loss counts. */
struct spd_calibration {
  size_t terms;                          /* 0: none, q = 1 */
  double precision[SPD_MAX_CALIBRATION]; /* p */
  const float *model;                    /* (N, M): x */
  double *coefficient;                   /* (N, terms): c */
};

/* Forward finds c and makes y. Since c is at a minimum, the gradient of that sum with respect to x is q times that to y: exact. */
struct spd_calibrate {
  size_t n_rest, n_observed, lsf;
  const float *wave_rest, *wave_observed;
  const float *z;           /* (N) */
  const float *flux, *ivar; /* (N, M) */
  struct spd_calibration calibration;
  double *penalty; /* (N): the sum's second part */
  float *y;        /* (N, M) */
  float *dy;       /* (N, M); backward turns it into the gradient of x, in place */
};

/* l_n = 1/(2M) [sum_m w_m (y_m - y'_m)^2 + penalty_n] over the pixels that the restframe covers with the LSF's whole footprint. */
struct spd_loss {
  size_t n_rest, n_observed, lsf;
  const float *wave_rest, *wave_observed;
  const float *z;           /* (N) */
  const float *flux, *ivar; /* (N, M) */
  const float *model;       /* (N, M) */
  const double *penalty;    /* (N); NULL for 0 */
  double *loss;             /* (N) */
  size_t total;             /* spectra of the whole batch, where this one is a part of it; 0: it is the whole */
  float *dmodel;            /* (N, M): gradient of the mean over the whole batch */
};

/* Copies of the first n spectra of a batch as they would be at another redshift, with more noise and a masked block (Liang et al. 2023,
 * arXiv:2302.02496). A copy follows from its row and its key alone. Pixels where the spectrum was not observed, and those of the block, get
 * flux 0 and weight 0; a pixel that is interpolated from one without weight has none. */
struct spd_augment {
  size_t n_observed;
  const float *wave_observed; /* (M) */
  double z_low, z_high;       /* the new redshift is uniform between them */
  double noisy, noise;        /* fraction of the pixels that get normal noise; its deviation, in units of the largest valid flux */
  double masked;              /* fraction of the pixels that the block masks */
  const uint64_t *key;        /* (N) start of each row's random numbers */
  const float *flux, *ivar;   /* (N, M) */
  const float *z;             /* (N) */
  float *to_flux, *to_ivar;   /* (N, M) */
  float *to_z;                /* (N) */
};

/* Distances between the restframe models of a batch and between its latents should agree, over all pairs (Liang et al. 2023):
 *   x_i = rest_i / median of rest_i,  D_ij = sum_r root_r^2 (x_i - x_j)^2,  d_ij = |s_i - s_j|^2 / S,
 *   l_i = 1/N sum over j != i of f(k (d_ij - D_ij)),  f(t) = sigma(t - 2.5) + sigma(-t - 2.5).
 * With `scale_free` both distances are divided by their means over the pairs. Medians are over pixels from ... to - 1, the lower of the
 * middle two if they are even in number. Gradients, through the medians and means too, are those of `factor` times the mean of l. */
struct spd_similarity {
  size_t n_rest, n_latent, from, to;
  int scale_free;
  double slope, factor;       /* slope: k */
  const float *root;          /* (R): sqrt(W / R) */
  const float *rest, *latent; /* (N, R), (N, S) */
  float *median;              /* (N) */
  uint32_t *middle;           /* (N) the pixel that has the median */
  float *centred;             /* (N, R) root (x_i - the batch's mean), whose products make D */
  float *spectral, *distance; /* (N, N): D, d; backward overwrites D by its coefficients */
  double *sums;               /* (N + 2, 2): of each row; then the units of D and d, and what each pair's derivatives get through them */
  double *loss;               /* (N) */
  float *drest, *dlatent;     /* (N, R), (N, S) */
};

/* The latents s' of the copies of the first C spectra should be those of the spectra:
 *   l_i = sigma(|s'_i - s_i|^2 / (S sigma^2 u)) - 1/2,
 * with u = 1 or, with `scale_free`, the geometric mean of |s_i - s_j|^2 / (2 S) over neighbours of the batch: their typical variance. (A
 * plain mean is what a few galaxies make it, and a training moves some far away to enlarge it.) The gradients are those of `factor` times
 * the mean of l. */
struct spd_consistency {
  size_t n_latent, copies; /* S, C */
  int scale_free;
  double sigma, factor;
  const float *latent, *copy; /* (N, S), (C, S) */
  double *loss;               /* (C) */
  float *dlatent, *dcopy;     /* (N, S), (C, S) */
};

/* Directions d (N, K, M) in which models change: with latents, coefficients of the calibration and redshift, in this order. */
struct spd_directions {
  size_t n_observed, count; /* M, K */
  const float *jacobian;    /* (N, K less the others, M): of the latents, before the calibration; d is q times it */
  const float *slope;       /* (N, M): of the redshift, likewise; NULL without */
  struct spd_calibration calibration;
};

/* Least squares of the latents (Gauss-Newton): with residuals r = flux - model over the pixels that the loss counts, and weights w,
 *   objective = sum w r^2 / 2,   gradient = d W r,   matrix = d W d',
 * and the calibration's expectations as in spd_calibration.
 * With `freedom` nu > 0 errors follow Student's t: objective = (nu + 1) / 2 sum log(1 + w r^2 / nu), and w (nu + 1) / (nu + w r^2) takes
 * the place of w in the other two. */
struct spd_normal {
  size_t n_rest, lsf;
  const float *wave_rest, *wave_observed;
  const float *z;           /* (N) */
  const float *flux, *ivar; /* (N, M) */
  const float *model;       /* (N, M), calibrated */
  struct spd_directions directions;
  double freedom;
  double *objective; /* (N) */
  double *gradient;  /* (N, K); may be NULL */
  double *matrix;    /* (N, K, K), symmetric; may be NULL */
};

/* Standard errors of the model from the covariance C = L L' of latents, calibration and redshift: y = sqrt(diag(d' C d)). */
struct spd_spread {
  struct spd_directions directions;
  const double *factor; /* (N, K, K): L, row-major; above the diagonal it is not read */
  float *y;             /* (N, M) */
};

/* The factors are computed in double and rounded once: 1 - 0.999 in float would be off by 1e-5. */
struct spd_adam {
  float rate, beta1, beta2, epsilon;
  float new1, new2;               /* 1 - beta1, 1 - beta2 */
  float correction1, correction2; /* 1 / (1 - beta1^t), 1 / (1 - beta2^t) */
  float lowest;                   /* parameters do not go below: -INFINITY for no limit */
};

struct spd_backend;

/* Part of the free memory of a backend that may be allocated: a quarter is left for workspaces of stages and libraries. */
static inline size_t spd_usable_memory(size_t available) { return available / 4 * 3; }

/* A host buffer and its copy on the backend, to overlap transfers with computation: call lane_fill, write to `host`, call lane_send, then
 * lane_take. None of them waits for the copy. Alternate two lanes for double buffering. */
struct spd_lane {
  void *host;
  size_t bytes;
  void *backend; /* the backend's own data */
};

struct spd_recording; /* the backend's own */

/* Filled positionally, one comment per entry, because backend.cu is C++14, which has no designated initialisers; the tests compile it with
 * -Werror=missing-field-initializers. */
struct spd_backend_ops {
  const char *name;
  int shares_host_memory; /* host pointers are as good as its own */
  void (*destroy)(struct spd_backend *);

  /* Memory on the backend. alloc zeroes. bytes of 0 are allowed and give a pointer that must not be read. */
  spd_status (*alloc)(struct spd_backend *, void **pointer, size_t bytes, struct spd_error *);
  void (*free)(struct spd_backend *, void *pointer);
  spd_status (*upload)(struct spd_backend *, void *to, const void *from, size_t bytes, struct spd_error *);
  spd_status (*download)(struct spd_backend *, void *to, const void *from, size_t bytes, struct spd_error *);
  spd_status (*synchronize)(struct spd_backend *, struct spd_error *);
  /* Bytes that can still be had. */
  spd_status (*available)(struct spd_backend *, size_t *bytes, struct spd_error *);

  spd_status (*lane_open)(struct spd_backend *, struct spd_lane *, size_t bytes, struct spd_error *);
  void (*lane_close)(struct spd_backend *, struct spd_lane *);
  spd_status (*lane_fill)(struct spd_backend *, struct spd_lane *, struct spd_error *); /* waits until `host` may be written */
  spd_status (*lane_send)(struct spd_backend *, struct spd_lane *, size_t bytes, struct spd_error *);
  spd_status (*lane_take)(struct spd_backend *, struct spd_lane *, void *to, size_t offset, size_t bytes, struct spd_error *);

  /* Brackets around a run of stages: a backend may take and give back process-wide settings here. */
  spd_status (*enter)(struct spd_backend *, struct spd_error *);
  void (*leave)(struct spd_backend *);
  /* Runs work(context) between the two. With the same *recording, initially NULL, it is always the same work on the same buffers: a
   * backend may record what it launches and replay that without calling work(), which has no other effect. */
  spd_status (*repeat)(struct spd_backend *, struct spd_recording **recording, spd_status (*work)(const void *context, struct spd_error *),
                       const void *context, struct spd_error *);
  void (*forget)(struct spd_backend *, struct spd_recording *); /* frees one, or NULL */

  spd_status (*stem_forward)(struct spd_backend *, const struct spd_stem *, size_t n, struct spd_error *);
  spd_status (*stem_backward)(struct spd_backend *, const struct spd_stem *, size_t n, struct spd_error *);
  spd_status (*block_forward)(struct spd_backend *, const struct spd_block *, size_t n, struct spd_error *);
  spd_status (*block_backward)(struct spd_backend *, const struct spd_block *, size_t n, struct spd_error *);
  spd_status (*attend_forward)(struct spd_backend *, const struct spd_attend *, size_t n, struct spd_error *);
  spd_status (*attend_backward)(struct spd_backend *, const struct spd_attend *, size_t n, struct spd_error *);
  spd_status (*dense_forward)(struct spd_backend *, const struct spd_dense *, size_t n, struct spd_error *);
  spd_status (*dense_backward)(struct spd_backend *, const struct spd_dense *, size_t n, struct spd_error *);
  spd_status (*resample_forward)(struct spd_backend *, const struct spd_resample *, size_t n, struct spd_error *);
  spd_status (*resample_backward)(struct spd_backend *, const struct spd_resample *, size_t n, struct spd_error *);
  spd_status (*lsf_forward)(struct spd_backend *, const struct spd_lsf *, size_t n, struct spd_error *);
  spd_status (*lsf_backward)(struct spd_backend *, const struct spd_lsf *, size_t n, struct spd_error *);
  spd_status (*resolution_forward)(struct spd_backend *, const struct spd_resolution *, size_t n, struct spd_error *);
  spd_status (*resolution_backward)(struct spd_backend *, const struct spd_resolution *, size_t n, struct spd_error *);
  /* band (count, size): Gaussians of deviations sigma (count), in pixels */
  spd_status (*gaussians)(struct spd_backend *, float *band, const float *sigma, size_t size, size_t count, struct spd_error *);
  spd_status (*calibrate_forward)(struct spd_backend *, const struct spd_calibrate *, size_t n, struct spd_error *);
  spd_status (*calibrate_backward)(struct spd_backend *, const struct spd_calibrate *, size_t n, struct spd_error *);
  spd_status (*loss_forward)(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
  spd_status (*loss_backward)(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
  spd_status (*augment)(struct spd_backend *, const struct spd_augment *, size_t n, struct spd_error *);
  spd_status (*similarity_forward)(struct spd_backend *, const struct spd_similarity *, size_t n, struct spd_error *);
  spd_status (*similarity_backward)(struct spd_backend *, const struct spd_similarity *, size_t n, struct spd_error *);
  spd_status (*consistency_forward)(struct spd_backend *, const struct spd_consistency *, size_t n, struct spd_error *);
  spd_status (*consistency_backward)(struct spd_backend *, const struct spd_consistency *, size_t n, struct spd_error *);
  /* dy (n, k, out) = act'(v) w dx (n, k, in): k directions for each of n spectra, whose v the forward pass has left */
  spd_status (*dense_tangents)(struct spd_backend *, const struct spd_dense *, float *dy, const float *dx, size_t k, size_t n,
                               struct spd_error *);
  spd_status (*normal)(struct spd_backend *, const struct spd_normal *, size_t n, struct spd_error *);
  spd_status (*spread)(struct spd_backend *, const struct spd_spread *, size_t n, struct spd_error *);
  /* Between planes and floats on the backend, `count` elements; narrow sets the plane's scale. */
  spd_status (*widen)(struct spd_backend *, float *y, struct spd_plane x, size_t count, struct spd_error *);
  spd_status (*narrow)(struct spd_backend *, struct spd_plane y, const float *x, float scale, size_t count, struct spd_error *);
  /* y (n, width): the rows x[rows[i]] of x; rows (n) is the backend's */
  spd_status (*gather)(struct spd_backend *, float *y, const float *x, const uint64_t *rows, size_t width, size_t n, struct spd_error *);
  /* y = log(x + 1e-6): the weight encoder's input. */
  spd_status (*log_ivar)(struct spd_backend *, float *y, const float *x, size_t count, struct spd_error *);
  /* y += x, both (count) */
  spd_status (*add)(struct spd_backend *, float *y, const float *x, size_t count, struct spd_error *);
  /* Scales a gradient (count) to this norm if its norm is larger */
  spd_status (*clip)(struct spd_backend *, float *gradient, double norm, size_t count, struct spd_error *);
  /* mean += fraction (x - mean), both (count) */
  spd_status (*average)(struct spd_backend *, float *mean, const float *x, float fraction, size_t count, struct spd_error *);
  /* Two arrays (count) change places */
  spd_status (*exchange)(struct spd_backend *, float *x, float *y, size_t count, struct spd_error *);
  /* parameters, m, v, gradient: (count) */
  spd_status (*adam)(struct spd_backend *, float *parameters, float *m, float *v, const float *gradient, size_t count,
                     const struct spd_adam *, struct spd_error *);
};

/* A backend's own struct starts with this. */
struct spd_backend {
  const struct spd_backend_ops *ops;
  size_t plane_width; /* bytes of a plane's element: 4 (float) or 2 */
  int records;        /* repeat() replays; tests compare with a backend that does not */
  int keeps_winners;  /* the stem's forward keeps where maxima are; otherwise its backward finds them again */
};

#endif
