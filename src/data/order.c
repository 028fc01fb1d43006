#include "data/order.h"

#include <string.h>

#include "core/rng.h"

enum { BLOCK = SPD_ORDER_BLOCK, WINDOW = SPD_ORDER_WINDOW, EPOCH_SALT = 0x5eed, WINDOW_SALT = 0x3107 };

static void shuffle(uint64_t *x, uint64_t n, uint64_t key) {
  for (uint64_t i = n; i > 1; i--) {
    uint64_t j = spd_below(spd_mix64(key ^ spd_mix64(i)), i), swap = x[i - 1];
    x[i - 1] = x[j];
    x[j] = swap;
  }
}

/* The order of the blocks is kept in the first entries of `order`; windows are written from the last to the first, so that no block number
 * is overwritten before it is read. */
void spd_order_fill(uint64_t *order, uint64_t n_rows, uint64_t seed, uint64_t epoch) {
  if (n_rows == 0) return;
  const uint64_t key = spd_mix64(spd_mix64(seed) ^ spd_mix64(epoch + EPOCH_SALT)), n_blocks = (n_rows + BLOCK - 1) / BLOCK;
  const uint64_t short_rows = n_rows - (n_blocks - 1) * BLOCK;
  for (uint64_t b = 0; b < n_blocks; b++) order[b] = b;
  shuffle(order, n_blocks, key);
  uint64_t short_place = 0;
  while (order[short_place] != n_blocks - 1) short_place++;
  const uint64_t n_windows = (n_blocks + WINDOW - 1) / WINDOW;
  for (uint64_t w = n_windows; w-- > 0;) {
    uint64_t blocks[WINDOW];
    const uint64_t first = w * WINDOW;
    const uint64_t count = n_blocks - first < WINDOW ? n_blocks - first : WINDOW;
    memcpy(blocks, order + first, count * sizeof *blocks);
    const uint64_t start = first * BLOCK - (short_place < first ? BLOCK - short_rows : 0);
    uint64_t used = 0;
    for (uint64_t b = 0; b < count; b++) {
      const uint64_t rows = blocks[b] == n_blocks - 1 ? short_rows : BLOCK;
      for (uint64_t i = 0; i < rows; i++) order[start + used + i] = blocks[b] * BLOCK + i;
      used += rows;
    }
    shuffle(order + start, used, spd_mix64(key ^ spd_mix64(w + WINDOW_SALT)));
  }
}
