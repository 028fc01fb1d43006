/* Our side of the comparison: the full-size network, no R. A worker that waits for a line on stdin, computes, and answers.
 *
 *   bench MODE DEVICE BATCH [sr] [small]   MODE: train (steps with Adam), encode, or reconstruct (encode, decode, observed frame);
 *                                   DEVICE: threads on the CPU, or cuda:fp32, cuda:tf32, cuda:fp16, cuda:bf16; sr: a restframe grid
 *                                   twice as fine and an LSF of 5 pixels; small: filters 16, 32, 64
 *                                   On a GPU the spectra are there already, and steps are waited for once in an epoch of EPOCH or,
 *                                   where nothing is trained, at the end
 *   stdin  "N"          does N steps; answers their seconds, one line
 *          "stages N"   the same; answers "stage seconds" for each stage, one line
 *          end          answers "peak MB" and ends
 *   bench peak THREADS             GFLOP/s of OpenBLAS, each thread with a matrix product of its own
 *   bench products                 GFLOP/s of one thread: multiply-adds in registers, then our products for the widest linear layer of 64
 *                                  spectra and its two gradients, packing included
 *   bench kernels                  the instruction set that was chosen
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "core/rng.h"
#include "cpu/cpu.h"
#include "cpu/create.h"
#include "cuda/create.h"
#include "network/train.h"

#define TRY(expr)                                       \
  do {                                                  \
    struct spd_error failure = {""}, *error = &failure; \
    if ((expr) != SPD_STATUS_OK) {                      \
      fprintf(stderr, "bench: %s\n", failure.message);  \
      exit(1);                                          \
    }                                                   \
  } while (0)

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *floats(size_t count) {
  float *p = calloc(count, sizeof *p);
  if (!p) exit(1);
  return p;
}

/* ---- stages: the backend's table with a clock around each entry ---- */

static const struct spd_backend_ops *plain;
static double spent[32];
static const char *const stage_names[] = {"stem forward",   "stem backward",   "block2 forward",   "block2 backward",
                                          "block3 forward", "block3 backward", "attend forward",   "attend backward",
                                          "dense forward",  "dense backward",  "resample forward", "resample backward",
                                          "lsf forward",    "lsf backward",    "loss forward",     "loss backward"};
#define TIMED(index, stage, type)                                                                                   \
  static spd_status timed_##stage(struct spd_backend *b, const struct type *s, size_t n, struct spd_error *error) { \
    const double start = now();                                                                                     \
    spd_status status = plain->stage(b, s, n, error);                                                               \
    if (status == SPD_STATUS_OK) status = plain->synchronize(b, error);                                             \
    spent[index] += now() - start;                                                                                  \
    return status;                                                                                                  \
  }
TIMED(0, stem_forward, spd_stem)
TIMED(1, stem_backward, spd_stem)
TIMED(2 + 2 * (s->pool == 1), block_forward, spd_block)
TIMED(3 + 2 * (s->pool == 1), block_backward, spd_block)
TIMED(6, attend_forward, spd_attend)
TIMED(7, attend_backward, spd_attend)
TIMED(8, dense_forward, spd_dense)
TIMED(9, dense_backward, spd_dense)
TIMED(10, resample_forward, spd_resample)
TIMED(11, resample_backward, spd_resample)
TIMED(12, lsf_forward, spd_lsf)
TIMED(13, lsf_backward, spd_lsf)
TIMED(14, loss_forward, spd_loss)
TIMED(15, loss_backward, spd_loss)
enum { ADAM = 16 };
static spd_status timed_adam(struct spd_backend *b, float *parameters, float *m, float *v, const float *gradient, size_t count,
                             const struct spd_adam *adam, struct spd_error *error) {
  const double start = now();
  spd_status status = plain->adam(b, parameters, m, v, gradient, count, adam, error);
  if (status == SPD_STATUS_OK) status = plain->synchronize(b, error);
  spent[ADAM] += now() - start;
  return status;
}

static struct spd_backend_ops with_clocks(const struct spd_backend_ops *ops) {
  struct spd_backend_ops timed = *ops;
  timed.stem_forward = timed_stem_forward, timed.stem_backward = timed_stem_backward;
  timed.block_forward = timed_block_forward, timed.block_backward = timed_block_backward;
  timed.attend_forward = timed_attend_forward, timed.attend_backward = timed_attend_backward;
  timed.dense_forward = timed_dense_forward, timed.dense_backward = timed_dense_backward;
  timed.resample_forward = timed_resample_forward, timed.resample_backward = timed_resample_backward;
  timed.lsf_forward = timed_lsf_forward, timed.lsf_backward = timed_lsf_backward;
  timed.loss_forward = timed_loss_forward, timed.loss_backward = timed_loss_backward;
  timed.adam = timed_adam;
  return timed;
}

static void print_stages(double total) {
  double others = total - spent[ADAM];
  for (int i = 0; i < ADAM; i++) {
    others -= spent[i];
    if (spent[i] > 0) printf("%s %.6f, ", stage_names[i], spent[i]);
  }
  if (spent[ADAM] > 0) printf("adam %.6f, ", spent[ADAM]);
  printf("the rest %.6f\n", others);
}

/* ---- the worker ---- */

#ifdef SPD_HAVE_OPENBLAS
extern void openblas_set_num_threads(int);
#endif

enum { SQUARE = 1024 };

static void multiply_squares(const void *context, size_t i, int thread) {
  (void)thread;
  const size_t n = SQUARE;
  float *a = *(float *const *)context + i * 3 * n * n;
  cpu_gemm(0, 0, n, n, n, a, n, a + n * n, n, 0, a + 2 * n * n, n);
}

static void print_peak(int threads) {
  const size_t n = SQUARE;
  double best = 0;
  struct spd_backend *backend;
  TRY(spd_cpu_create(&backend, threads, error));
#ifdef SPD_HAVE_OPENBLAS
  openblas_set_num_threads(1);
#endif
  float *m = floats((size_t)threads * 3 * n * n);
  for (int round = 0; round < 12; round++) {
    const double start = now();
    cpu_parallel(backend, (size_t)threads, multiply_squares, &m);
    const double speed = 2e-9 * (double)threads * (double)(n * n * n) / (now() - start);
    if (speed > best) best = speed;
  }
  printf("%.1f\n", best);
  free(m);
  backend->ops->destroy(backend);
}

/* Sums in registers, as many as hide the latency of a multiply-add; the loop's bounds are all that the compiler cannot know. */
#define SUMS 12
#define FMA_LOOP(name, lanes, attributes)                                              \
  typedef float name##_vec __attribute__((vector_size(4 * lanes)));                    \
  attributes static double name(const float *x, long steps) {                          \
    name##_vec a = {0}, b = {0}, sum[SUMS];                                            \
    for (int i = 0; i < lanes; i++) a[i] = x[i], b[i] = x[lanes + i];                  \
    for (int j = 0; j < SUMS; j++) sum[j] = a + (float)j;                              \
    for (long k = 0; k < steps; k++) {                                                 \
      _Pragma("GCC unroll 12") for (int j = 0; j < SUMS; j++) sum[j] = sum[j] * b + a; \
    }                                                                                  \
    double total = 0;                                                                  \
    for (int j = 0; j < SUMS; j++) total += sum[j][0];                                 \
    return total;                                                                      \
  }
#if defined(__x86_64__)
FMA_LOOP(fma_avx512, 16, __attribute__((target("avx512f,fma"))))
FMA_LOOP(fma_avx2, 8, __attribute__((target("avx2,fma"))))
#endif
FMA_LOOP(fma_baseline, 4, )

static double best_of(int rounds, double operations, void (*run)(void *), void *context) {
  double best = 0;
  for (int i = 0; i < rounds; i++) {
    const double start = now();
    run(context);
    const double speed = 1e-9 * operations / (now() - start);
    if (speed > best) best = speed;
  }
  return best;
}

enum { FMA_STEPS = 4000000 };
static float fma_numbers[32];
static volatile double sink;
static void run_fma(void *kernels) {
  const char *name = ((const struct cpu_kernels *)kernels)->name;
#if defined(__x86_64__)
  if (strcmp(name, "avx512") == 0)
    sink = fma_avx512(fma_numbers, FMA_STEPS);
  else if (strcmp(name, "avx2") == 0)
    sink = fma_avx2(fma_numbers, FMA_STEPS);
  else
#endif
    sink = fma_baseline(fma_numbers, name[0] ? FMA_STEPS : 0);
}

static float *backend_floats(struct spd_backend *backend, size_t count) {
  void *memory;
  TRY(backend->ops->alloc(backend, &memory, count * sizeof(float), error));
  return memory;
}

struct layer {
  struct spd_backend *backend;
  int which;
  float *x, *w, *y;
};
enum { LAYER_ROWS = 64, LAYER_IN = 1024, LAYER_OUT = 5881 };

static void run_layer(void *context) {
  const struct layer *l = context;
  if (l->which == 0) /* units by spectra: weights as they are */
    cpu_multiply(l->backend, l->y, LAYER_ROWS, 0, LAYER_OUT, LAYER_ROWS, LAYER_IN, l->w, LAYER_IN, 1, l->x, 1, LAYER_IN);
  else if (l->which == 1) /* dw = dy' x */
    cpu_multiply(l->backend, l->w, LAYER_IN, 0, LAYER_OUT, LAYER_IN, LAYER_ROWS, l->y, 1, LAYER_OUT, l->x, LAYER_IN, 1);
  else /* dx = dy w */
    cpu_multiply(l->backend, l->x, LAYER_IN, 0, LAYER_ROWS, LAYER_IN, LAYER_OUT, l->y, LAYER_OUT, 1, l->w, LAYER_IN, 1);
}

static void print_products(void) {
  const struct cpu_kernels *kernels = cpu_kernels_available(0);
  const char *const names[] = {"forward", "weights' gradient", "input's gradient"};
  struct layer l = {NULL, 0, NULL, NULL, NULL};
  TRY(spd_cpu_create(&l.backend, 1, error));
  l.x = backend_floats(l.backend, LAYER_ROWS * LAYER_IN), l.w = backend_floats(l.backend, (size_t)LAYER_IN * LAYER_OUT);
  l.y = backend_floats(l.backend, LAYER_ROWS * LAYER_OUT);
  for (int i = 0; i < 32; i++) fma_numbers[i] = 0.5f;
  const double lanes = (double)kernels->lanes, peak = best_of(15, 2.0 * SUMS * lanes * FMA_STEPS, run_fma, (void *)kernels);
  printf("%s: multiply-adds in registers %.1f", kernels->name, peak);
  for (l.which = 0; l.which < 3; l.which++) {
    const double speed = best_of(15, 2.0 * LAYER_ROWS * LAYER_IN * LAYER_OUT, run_layer, &l);
    printf(", %s %.1f (%.0f %%)", names[l.which], speed, 100 * speed / peak);
  }
  printf("\n");
  l.backend->ops->free(l.backend, l.x), l.backend->ops->free(l.backend, l.w), l.backend->ops->free(l.backend, l.y);
  l.backend->ops->destroy(l.backend);
}

typedef enum { ENCODE, RECONSTRUCT, TRAIN } mode;
enum { EPOCH = 16 };

static void infer(struct spd_model *model, mode what) {
  TRY(spd_model_encode(model, error));
  if (what == ENCODE) return;
  TRY(spd_model_decode(model, error));
  TRY(spd_model_observe(model, error));
}

static void *backend_copy(struct spd_backend *backend, const void *from, size_t bytes) {
  void *to;
  TRY(backend->ops->alloc(backend, &to, bytes, error));
  TRY(backend->ops->upload(backend, to, from, bytes, error));
  return to;
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "peak") == 0) return print_peak(atoi(argv[2])), 0;
  if (argc == 2 && strcmp(argv[1], "products") == 0) return print_products(), 0;
  if (argc == 2 && strcmp(argv[1], "kernels") == 0) return puts(cpu_kernels_available(0)->name) < 0;
  const char *const modes[] = {"encode", "reconstruct", "train"};
  int what = 0;
  while (argc > 1 && what < 3 && strcmp(argv[1], modes[what]) != 0) what++;
  const int sr = argc > 4 && strcmp(argv[4], "sr") == 0, small = argc > 4 + sr && strcmp(argv[4 + sr], "small") == 0;
  if (argc != 4 + sr + small || what == 3) {
    fprintf(stderr, "usage: bench train|encode|reconstruct DEVICE BATCH [sr] [small]\n");
    return 2;
  }
  const int gpu = strncmp(argv[2], "cuda", 4) == 0;
  const size_t batch = (size_t)strtoul(argv[3], NULL, 10), batches = gpu ? EPOCH : 4, rows = batches * batch;
  const struct spd_architecture a = {.n_observed = 3921,
                                     .n_rest = sr ? 11762 : 5881,
                                     .n_latent = 6,
                                     .filters = {small ? 16 : 128, small ? 32 : 256, small ? 64 : 512},
                                     .kernels = {5, 11, 21},
                                     .pools = {5, 11, 1},
                                     .n_encoder_hidden = 3,
                                     .encoder_hidden = {128, 64, 32},
                                     .n_decoder_hidden = 3,
                                     .decoder_hidden = {64, 256, 1024},
                                     .redshift_input = 1,
                                     .decoder_activation = SPD_ACTIVATION_SPECULATOR,
                                     .decoder_offset = 1,
                                     .lsf = sr ? 5 : 0};
  struct spd_network net;
  TRY(spd_network_init(&net, &a, error));
  const size_t m = a.n_observed;
  float *wave_observed = floats(m), *wave_rest = floats(a.n_rest), *flux = floats(rows * m), *ivar = floats(rows * m), *z = floats(rows),
        *weights = floats(net.size), *out = floats(batch * m);
  unsigned char *is_training = malloc(rows);
  if (!is_training) return 1;
  memset(is_training, 1, rows);
  double ratio = 1.000230285; /* 10^1e-4 */
  wave_observed[0] = 3784.4258f;
  double wave = wave_observed[0];
  for (size_t i = 1; i < m; i++) wave_observed[i] = (float)(wave *= ratio);
  for (size_t i = 0; i < a.n_rest; i++)
    wave_rest[i] = (float)(wave_observed[0] / 1.5 + (wave_observed[m - 1] - wave_observed[0] / 1.5) * (double)i / (double)(a.n_rest - 1));
  for (size_t i = 0; i < rows * m; i++) {
    flux[i] = 0.5f + spd_uniform(1, 1, i);
    ivar[i] = 10 * spd_uniform(1, 2, i);
  }
  for (size_t i = 0; i < rows; i++) z[i] = 0.45f * spd_uniform(1, 3, i);
  spd_network_fill(weights, &net, 1);

  struct spd_backend *backend;
  struct spd_model *model;
  struct spd_training *session = NULL;
  if (gpu)
    TRY(spd_cuda_create(&backend,
                        strstr(argv[2], "bf16")   ? SPD_PRECISION_BF16
                        : strstr(argv[2], "fp16") ? SPD_PRECISION_FP16
                        : strstr(argv[2], "tf32") ? SPD_PRECISION_TF32
                                                  : SPD_PRECISION_FP32,
                        error));
  else
    TRY(spd_cpu_create(&backend, atoi(argv[2]), error));
  plain = backend->ops;
  const struct spd_backend_ops timed = with_clocks(plain);
  TRY(spd_model_create(&model, &net, backend, wave_observed, wave_rest, batch, what == TRAIN ? SPD_MODEL_TRAIN : SPD_MODEL_FORWARD, error));
  TRY(spd_model_set_parameters(model, weights, error));
  const struct spd_source source = {.flux = flux, .ivar = ivar, .z = z, .n_rows = rows, .is_training = is_training};
  const struct spd_training_options options = {.batch_size = batch,
                                               .seed = 1,
                                               .schedule = {.rate = 1e-3, .constant = 1},
                                               .adam = {1e-3, 0.9, 0.999, 1e-8, 1.0, 0},
                                               .way = SPD_FEED_AUTO,
                                               .refine_from = UINT64_MAX};
  if (what == TRAIN) TRY(spd_training_create(&session, model, &source, &options, error));
  float *gpu_flux = NULL, *gpu_z = NULL;
  uint64_t *order = malloc(rows * sizeof *order), *gpu_order = NULL;
  if (!order) return 1;
  for (size_t i = 0; i < rows; i++) order[i] = i;
  if (gpu && what != TRAIN) {
    gpu_flux = backend_copy(backend, flux, rows * m * sizeof *flux);
    gpu_z = backend_copy(backend, z, rows * sizeof *z);
    gpu_order = backend_copy(backend, order, rows * sizeof *order);
  }

  char line[64];
  while (fgets(line, sizeof line, stdin) && strncmp(line, "end", 3) != 0) {
    const int stages = strncmp(line, "stages ", 7) == 0, steps = atoi(line + (stages ? 7 : 0));
    memset(spent, 0, sizeof spent);
    backend->ops = stages ? &timed : plain;
    const double start = now();
    struct spd_progress progress = {.step = 0};
    for (int i = 0; what != TRAIN && i < steps; i++) {
      const size_t first = (size_t)i % batches * batch;
      if (gpu)
        TRY(spd_model_load_rows(model, gpu_flux, gpu_flux, gpu_z, gpu_order + first, batch, error));
      else
        TRY(spd_model_load(model, flux + first * m, NULL, z + first, batch, error));
      infer(model, (mode)what);
      if (!gpu || i + 1 == steps) TRY(spd_model_read(out, model, what == ENCODE ? SPD_TENSOR_LATENT : SPD_TENSOR_OBSERVED, error));
    }
    for (int i = 0; what == TRAIN && i < steps; i += gpu ? EPOCH : 1) TRY(spd_training_advance(session, gpu ? 1e9 : 0, &progress, error));
    backend->ops = plain;
    if (stages)
      print_stages(now() - start);
    else
      printf("%.6f\n", now() - start);
    fflush(stdout);
  }
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("%.1f\n", (double)usage.ru_maxrss / 1024);
  spd_training_destroy(session);
  spd_model_destroy(model);
  backend->ops->free(backend, gpu_flux), backend->ops->free(backend, gpu_z), backend->ops->free(backend, gpu_order);
  backend->ops->destroy(backend);
  free(order), free(wave_observed), free(wave_rest), free(flux), free(ivar), free(z), free(weights), free(out), free(is_training);
  return 0;
}
