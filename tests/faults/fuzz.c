/* For libFuzzer (clang -fsanitize=fuzzer,address,undefined): the parsers of our own, of survey files or, with -DMODEL, of models. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/safetensors.h"
#include "data/survey.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  static char path[64];
  struct spd_error error;
  if (!path[0]) snprintf(path, sizeof path, "/tmp/spender-fuzz-%ld", (long)getpid());
  FILE *out = fopen(path, "wb");
  if (!out || fwrite(bytes, 1, n, out) != n || fclose(out) != 0) abort();
#ifdef MODEL
  struct spd_safetensors *file;
  if (spd_safetensors_open(&file, path, &error) == SPD_STATUS_OK) {
    for (size_t i = 0; i < file->n_tensors; i++) {
      double *values = malloc((file->tensors[i].count + 1) * sizeof *values);
      if (values) (void)spd_safetensors_read_double(values, file, &file->tensors[i], &error);
      free(values);
    }
    spd_safetensors_close(file);
  }
#else
  struct spd_survey s;
  char **inputs, **reasons;
  size_t n_rejected;
  if (spd_survey_open(&s, path, &error) == SPD_STATUS_OK) {
    if (spd_survey_rejected(&inputs, &reasons, &n_rejected, &s, &error) == SPD_STATUS_OK) {
      free(inputs);
      free(reasons);
    }
    unsigned char *row = malloc(s.row_bytes);
    for (uint64_t i = 0; row && i < s.n_rows; i++) (void)spd_survey_read(row, &s, i, 1, &error);
    free(row);
    spd_survey_close(&s);
  }
#endif
  return 0;
}
