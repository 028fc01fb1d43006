/* Memory that stages share, and sums over rows. */
#include <stdlib.h>

#include "cpu/cpu.h"

void cpu_sum_rows(float *out, const float *partial, size_t n, size_t count) {
  for (size_t i = 0; i < count; i++) {
    double sum = 0;
    for (size_t row = 0; row < n; row++) sum += (double)partial[row * count + i];
    out[i] = (float)sum;
  }
}

spd_status cpu_arena(float **memory, struct spd_backend *backend, size_t floats, struct spd_error *error) {
  struct cpu_backend *cpu = cpu_of(backend);
  if (cpu->arena_size < floats) {
    void *larger = NULL;
    free(cpu->arena);
    cpu->arena = NULL, cpu->arena_size = 0;
    SPD_TRY(backend->ops->alloc(backend, &larger, floats * sizeof(float), error));
    cpu->arena = larger, cpu->arena_size = floats;
  }
  *memory = cpu->arena;
  return SPD_STATUS_OK;
}
