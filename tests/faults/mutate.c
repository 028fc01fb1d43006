/* Mutated files through the C entry points that read them: no crash, no hang, whatever the bytes.
 *
 *   mutate sdss|survey|model FILE COUNT     FILE: a good one; prints one line, "N passed, N failed, 0 skipped", and what failed
 *
 * Each mutation runs in a process of its own, for ten seconds at most. Mutation i follows from i alone: "mutate KIND FILE -i OUT"
 * writes it to OUT.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/rng.h"
#include "data/catalogue.h"
#include "data/image.h"
#include "data/safetensors.h"
#include "data/sdss.h"
#include "data/survey.h"

static void read_model(const char *path) {
  struct spd_safetensors *file;
  struct spd_error error;
  if (spd_safetensors_open(&file, path, &error) != SPD_STATUS_OK) return;
  for (size_t i = 0; i < file->n_tensors; i++) {
    const struct spd_safetensors_tensor *t = &file->tensors[i];
    double *values = malloc((t->count + 1) * sizeof *values);
    if (values) (void)spd_safetensors_read_double(values, file, t, &error);
    free(values);
  }
  spd_safetensors_close(file);
}

static void read_survey(const char *path) {
  struct spd_survey s;
  struct spd_error error;
  char **inputs, **reasons;
  size_t n;
  if (spd_survey_open(&s, path, &error) != SPD_STATUS_OK) return;
  if (spd_survey_rejected(&inputs, &reasons, &n, &s, &error) == SPD_STATUS_OK) {
    free(inputs);
    free(reasons);
  }
  unsigned char *row = malloc(s.row_bytes);
  float *pixels = malloc(2 * s.n_observed * sizeof *pixels);
  for (uint64_t i = 0; row && pixels && i < s.n_rows; i++)
    if (spd_survey_read(row, &s, i, 1, &error) == SPD_STATUS_OK && !s.is_results)
      spd_survey_get_spectrum(pixels, pixels + s.n_observed, row, &s);
  free(row);
  free(pixels);
  spd_survey_close(&s);
}

static void read_sdss(const char *path) {
  static struct spd_sdss_pixels pixels;
  struct spd_sdss_object object;
  struct spd_error error;
  (void)spd_sdss_read(&pixels, &object, path, "and_mask", &error);
}

static size_t mutate(unsigned char *bytes, size_t size, uint64_t i) {
  struct spd_random random = spd_random_start(2026, 11, i);
  const double u = spd_random_uniform(&random);
  if (u < 0.2) return (size_t)(spd_random_uniform(&random) * (double)size);
  const int changes = 1 + (int)(8 * spd_random_uniform(&random) * spd_random_uniform(&random));
  /* most damage where it matters: headers, at the beginning and between the parts */
  const size_t reach = u < 0.6 ? (size < 30000 ? size : 30000) : size;
  for (int k = 0; k < changes; k++) {
    const size_t at = (size_t)(spd_random_uniform(&random) * (double)reach);
    const double how = spd_random_uniform(&random);
    if (how < 0.5)
      bytes[at] ^= (unsigned char)(1 << (int)(8 * spd_random_uniform(&random)));
    else if (how < 0.8)
      bytes[at] = (unsigned char)(256 * spd_random_uniform(&random));
    else
      bytes[at] = (unsigned char)("0123456789-' "[(int)(13 * spd_random_uniform(&random))]);
  }
  return size;
}

static int write_file(const char *path, const unsigned char *bytes, size_t n) {
  FILE *out = fopen(path, "wb");
  if (!out) return 0;
  const int done = fwrite(bytes, 1, n, out) == n;
  return fclose(out) == 0 && done;
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: mutate sdss|survey|model FILE COUNT|-NUMBER [OUT]\n"), 2;
  void (*reader)(const char *) = strcmp(argv[1], "sdss") == 0 ? read_sdss : strcmp(argv[1], "survey") == 0 ? read_survey : read_model;
  FILE *in = fopen(argv[2], "rb");
  if (!in) return perror(argv[2]), 2;
  fseek(in, 0, SEEK_END);
  const size_t size = (size_t)ftell(in);
  rewind(in);
  unsigned char *good = malloc(size), *bad = malloc(size);
  if (fread(good, 1, size, in) != size) return 2;
  fclose(in);
  const long count = atol(argv[3]);
  char path[64];
  snprintf(path, sizeof path, "/tmp/spender-mutate-%ld", (long)getpid());
  int passed = 0, failed = 0;
  if (count < 0) {
    memcpy(bad, good, size);
    return !write_file(argc > 4 ? argv[4] : "mutated", bad, mutate(bad, size, (uint64_t)-count));
  }
  for (long i = 1; i <= count; i++) {
    memcpy(bad, good, size);
    if (!write_file(path, bad, mutate(bad, size, (uint64_t)i))) return 2;
    const pid_t child = fork();
    if (child == 0) {
      alarm(10);
      reader(path);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      passed++;
      continue;
    }
    failed++;
    printf("not ok %s mutation %ld: %s\n", argv[1], i, WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "hangs" : "crashes");
  }
  unlink(path);
  free(good);
  free(bad);
  printf("%d passed, %d failed, 0 skipped\n", passed, failed);
  return failed > 0;
}
