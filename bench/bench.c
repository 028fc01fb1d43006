/* Our side of the comparison: the full-size network, no R. A worker that waits for a line on stdin, computes, and answers.
 *
 *   bench MODE THREADS BATCH       MODE: train (steps with Adam) or encode
 *   stdin  "N"     do N steps; answers their seconds, one line
 *          end     answers "peak MB" and ends
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "core/rng.h"
#include "core/train.h"

#define TRY(expr)                                                          \
  do {                                                                     \
    struct spd_error failure = {""}, *error = &failure;                    \
    if ((expr) != SPD_STATUS_OK) {                                         \
      fprintf(stderr, "bench: %s\n", failure.message);                     \
      exit(1);                                                             \
    }                                                                      \
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

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: bench train|encode THREADS BATCH\n");
    return 2;
  }
  const int training = strcmp(argv[1], "train") == 0;
  const size_t batch = (size_t)strtoul(argv[3], NULL, 10), rows = 4 * batch;
  const struct spd_architecture a = {.n_observed = 3921,
                                     .n_rest = 5881,
                                     .n_latent = 6,
                                     .filters = {128, 256, 512},
                                     .kernels = {5, 11, 21},
                                     .pools = {5, 11, 1},
                                     .n_encoder_hidden = 3,
                                     .encoder_hidden = {128, 64, 32},
                                     .n_decoder_hidden = 3,
                                     .decoder_hidden = {64, 256, 1024},
                                     .redshift_input = 1,
                                     .decoder_activation = SPD_ACTIVATION_SPECULATOR,
                                     .decoder_offset = 1};
  struct spd_network net;
  TRY(spd_network_init(&net, &a, error));
  const size_t m = a.n_observed;
  float *wave_observed = floats(m), *wave_rest = floats(a.n_rest), *flux = floats(rows * m), *ivar = floats(rows * m), *z = floats(rows),
        *weights = floats(net.size), *latents = floats(batch * a.n_latent);
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
  TRY(spd_cpu_create(&backend, atoi(argv[2]), error));
  TRY(spd_model_create(&model, &net, backend, wave_observed, wave_rest, batch, training ? SPD_MODEL_TRAIN : SPD_MODEL_FORWARD, error));
  TRY(spd_model_set_parameters(model, weights, error));
  const struct spd_source source = {flux, ivar, z, rows, is_training};
  const struct spd_training_options options = {batch, 1, {.rate = 1e-3, .constant = 1}, {1e-3, 0.9, 0.999, 1e-8, 1.0}};
  if (training) TRY(spd_training_create(&session, model, &source, &options, error));

  char line[64];
  while (fgets(line, sizeof line, stdin) && strncmp(line, "end", 3) != 0) {
    const int steps = atoi(line);
    const double start = now();
    for (int i = 0; i < steps; i++) {
      if (training) {
        struct spd_progress progress;
        TRY(spd_training_advance(session, 0, &progress, error));
      } else {
        const size_t from = (size_t)i % 4 * batch;
        TRY(spd_model_load(model, flux + from * m, NULL, z + from, batch, error));
        TRY(spd_model_encode(model, error));
        TRY(spd_model_read(latents, model, SPD_TENSOR_LATENT, error));
      }
    }
    printf("%.6f\n", now() - start);
    fflush(stdout);
  }
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("%.1f\n", (double)usage.ru_maxrss / 1024);
  spd_training_destroy(session);
  spd_model_destroy(model);
  backend->ops->destroy(backend);
  free(wave_observed), free(wave_rest), free(flux), free(ivar), free(z), free(weights), free(latents), free(is_training);
  return 0;
}
