#include "network/backend.h"

struct spd_rows spd_rows_for_kernel(size_t length, size_t channels, size_t kernel) {
  size_t lead = (kernel - 1) / 2;
  struct spd_rows rows = {length, channels, lead, (length + lead + kernel - 1) / kernel * kernel};
  return rows;
}

size_t spd_rows_size(const struct spd_rows *rows, size_t n) { return (n * rows->stride + 2 * rows->lead) * rows->channels; }

size_t spd_stem_partial_size(const struct spd_stem *stage, size_t n) { return n * (stage->kernel + 1) * stage->out.channels; }
