/* Shared by the CPU stages: the backend's struct, threads, matrix products, and hot loops for several processors. */
#ifndef SPD_CPU_H
#define SPD_CPU_H

#include "core/hot.h"
#include "core/threads.h"
#include "cpu/kernels.h"
#include "network/backend.h"

struct cpu_fourier;
enum { CPU_CHANNELS = 64 }; /* channels that are processed together, so that the data of a position stays in the cache */

struct cpu_backend {
  struct spd_backend base;
  int threads;
  const struct cpu_kernels *kernels;
  int always_fourier; /* for tests: 1 also where plain products are cheaper, -1 never */
  struct cpu_fourier *plans;
  float *arena; /* workspace of the convolutions, as large as the largest has needed */
  size_t arena_size;
};

static inline struct cpu_backend *cpu_of(const struct spd_backend *backend) { return (struct cpu_backend *)backend; }

/* Calls work(context, piece, thread) for each piece, on the backend's threads (core/threads.h). The division into pieces may depend on the
 * number of threads, the order of a sum may not: one piece computes each element, and results of pieces are added in a fixed order. So the
 * bits are the same for any number of threads. */
static inline void cpu_parallel(const struct spd_backend *backend, size_t pieces, spd_piece *work, const void *context) {
  spd_parallel(cpu_of(backend)->threads, pieces, work, context);
}

/* The arena, grown to at least this many floats. Its content is lost. */
spd_status cpu_arena(float **memory, struct spd_backend *backend, size_t floats, struct spd_error *error);

static inline const struct cpu_kernels *cpu_kernels_of(const struct spd_backend *backend) { return cpu_of(backend)->kernels; }

/* C (m, n) = A (m, k) B (k, n), or C += A B, on the calling thread (product.c). Element (i, l) of A is a[i * a_row + l * a_depth],
 * element (l, j) of B is b[l * b_row + j * b_column]; rows of C are c_row apart. */
void cpu_multiply(const struct spd_backend *backend, float *c, size_t c_row, int add, size_t m, size_t n, size_t k, const float *a,
                  size_t a_row, size_t a_depth, const float *b, size_t b_row, size_t b_column);

/* The same in two steps, if many threads multiply by one B: all of them pack it into cpu_pack_size() floats, then each multiplies some of
 * its strips of `panel` columns. */
size_t cpu_pack_size(const struct spd_backend *backend, size_t n, size_t k);
void cpu_pack(const struct spd_backend *backend, float *packed, size_t n, size_t k, const float *b, size_t b_row, size_t b_column);
void cpu_multiply_packed(const struct spd_backend *backend, float *c, size_t c_row, size_t m, size_t strip, size_t n, size_t k,
                         const float *a, size_t a_row, size_t a_depth, const float *packed);

/* C (m, n) = A (m, k) B (k, n) + beta C by CBLAS, or a plain loop without it: the reference for tests and the bench.
 * transpose_a: A is stored (k, m); transpose_b: B is stored (n, k). */
void cpu_gemm(int transpose_a, int transpose_b, size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
              float beta, float *c, size_t ldc);

/* The convolution as k strided matrix products over gap-padded rows (see backend.h); y's rows start at y + lead * C_out. */
void cpu_conv(const struct spd_backend *backend, float *y, const float *x, const float *w, const struct spd_rows *in, size_t kernel,
              size_t channels_out, size_t n);
/* dw (k, C_in, C_out) from x and dy, whose gap rows are zero. */
void cpu_conv_weight_gradient(const struct spd_backend *backend, float *dw, const float *x, const float *dy, const struct spd_rows *in,
                              size_t kernel, size_t channels_out, size_t n);

/* Callbacks for the rows of one spectrum and some of its channels, row_stride apart; called on the thread that computed them. */
typedef void cpu_rows_take(void *context, const float *rows, size_t row_stride, size_t spectrum, size_t channel, size_t width);
typedef void cpu_rows_give(void *context, float *rows, size_t row_stride, size_t spectrum, size_t channel, size_t width);

/* A convolution over gap-padded rows: y and dy have the rows of x with C_out channels. */
struct cpu_convolution {
  const struct spd_rows *in;
  size_t kernel, out;  /* out: C_out */
  const float *x, *w;  /* rows in; (k, C_in, C_out) */
  uint64_t version;    /* of w; 0: w changes at every step */
  float *y;            /* forward; NULL if `take` consumes the rows */
  const float *dy;     /* backward; NULL if `give` makes the rows */
  float *dx, *dw;      /* may be NULL */
  cpu_rows_take *take; /* gets the rows of y while they are in the cache; may be NULL */
  cpu_rows_give *give; /* makes the rows of dy just in time; may be NULL */
  void *context;       /* of both */
};

/* The convolution and its gradients in the frequency domain (fourier.c). *done is 0, and nothing has happened, where plain
 * products are cheaper: that depends on the shape alone. A spectrum's bits do not depend on which others are in the batch. */
spd_status cpu_fourier_forward(int *done, struct spd_backend *backend, const struct cpu_convolution *c, size_t n, struct spd_error *error);
spd_status cpu_fourier_backward(int *done, struct spd_backend *backend, const struct cpu_convolution *c, size_t n, struct spd_error *error);
void cpu_fourier_free(struct spd_backend *backend);

/* out (count) = sum over n rows of partial (n, count), in row order and in double. */
void cpu_sum_rows(float *out, const float *partial, size_t n, size_t count);

spd_status cpu_stem_forward(struct spd_backend *, const struct spd_stem *, size_t n, struct spd_error *);
spd_status cpu_stem_backward(struct spd_backend *, const struct spd_stem *, size_t n, struct spd_error *);
spd_status cpu_block_forward(struct spd_backend *, const struct spd_block *, size_t n, struct spd_error *);
spd_status cpu_block_backward(struct spd_backend *, const struct spd_block *, size_t n, struct spd_error *);
spd_status cpu_attend_forward(struct spd_backend *, const struct spd_attend *, size_t n, struct spd_error *);
spd_status cpu_attend_backward(struct spd_backend *, const struct spd_attend *, size_t n, struct spd_error *);
spd_status cpu_dense_forward(struct spd_backend *, const struct spd_dense *, size_t n, struct spd_error *);
spd_status cpu_dense_backward(struct spd_backend *, const struct spd_dense *, size_t n, struct spd_error *);
spd_status cpu_resample_forward(struct spd_backend *, const struct spd_resample *, size_t n, struct spd_error *);
spd_status cpu_resample_backward(struct spd_backend *, const struct spd_resample *, size_t n, struct spd_error *);
spd_status cpu_lsf_forward(struct spd_backend *, const struct spd_lsf *, size_t n, struct spd_error *);
spd_status cpu_lsf_backward(struct spd_backend *, const struct spd_lsf *, size_t n, struct spd_error *);
spd_status cpu_resolution_forward(struct spd_backend *, const struct spd_resolution *, size_t n, struct spd_error *);
spd_status cpu_resolution_backward(struct spd_backend *, const struct spd_resolution *, size_t n, struct spd_error *);
spd_status cpu_gaussians(struct spd_backend *, float *band, const float *sigma, size_t size, size_t count, struct spd_error *);
spd_status cpu_calibrate_forward(struct spd_backend *, const struct spd_calibrate *, size_t n, struct spd_error *);
spd_status cpu_calibrate_backward(struct spd_backend *, const struct spd_calibrate *, size_t n, struct spd_error *);
spd_status cpu_loss_forward(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
spd_status cpu_loss_backward(struct spd_backend *, const struct spd_loss *, size_t n, struct spd_error *);
spd_status cpu_augment(struct spd_backend *, const struct spd_augment *, size_t n, struct spd_error *);
spd_status cpu_similarity_forward(struct spd_backend *, const struct spd_similarity *, size_t n, struct spd_error *);
spd_status cpu_similarity_backward(struct spd_backend *, const struct spd_similarity *, size_t n, struct spd_error *);
spd_status cpu_consistency_forward(struct spd_backend *, const struct spd_consistency *, size_t n, struct spd_error *);
spd_status cpu_consistency_backward(struct spd_backend *, const struct spd_consistency *, size_t n, struct spd_error *);
spd_status cpu_dense_tangents(struct spd_backend *, const struct spd_dense *, float *dy, const float *dx, size_t k, size_t n,
                              struct spd_error *);
spd_status cpu_normal(struct spd_backend *, const struct spd_normal *, size_t n, struct spd_error *);
spd_status cpu_spread(struct spd_backend *, const struct spd_spread *, size_t n, struct spd_error *);
spd_status cpu_log_ivar(struct spd_backend *, float *y, const float *x, size_t count, struct spd_error *);
spd_status cpu_add(struct spd_backend *, float *y, const float *x, size_t count, struct spd_error *);
spd_status cpu_average(struct spd_backend *, float *mean, const float *x, float fraction, size_t count, struct spd_error *);
spd_status cpu_exchange(struct spd_backend *, float *x, float *y, size_t count, struct spd_error *);
spd_status cpu_clip(struct spd_backend *, float *gradient, double norm, size_t count, struct spd_error *);
spd_status cpu_adam(struct spd_backend *, float *parameters, float *m, float *v, const float *gradient, size_t count,
                    const struct spd_adam *, struct spd_error *);

#endif
