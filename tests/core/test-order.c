/* The order of an epoch is a permutation of its own for each epoch and seed, and a window of it holds few blocks. */
#include "check.h"
#include "data/order.h"

static void test_order(void) {
  const uint64_t sizes[] = {1, 2, 511, 512, 513, 1024, 8191, 8192, 8193, 20000, 70001};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    const uint64_t n = sizes[s];
    uint64_t *order = check_alloc(n * sizeof *order), *next = check_alloc(n * sizeof *next);
    unsigned char *seen = check_alloc(n);
    uint64_t missing = 0, same = 0, in_place = 0;
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
      spd_order_fill(order, n, 9, epoch);
      memset(seen, 0, n);
      for (uint64_t i = 0; i < n; i++) {
        if (order[i] < n) seen[order[i]] = 1;
        in_place += epoch == 0 && order[i] == i;
      }
      for (uint64_t i = 0; i < n; i++) missing += !seen[i];
    }
    CHECK(missing == 0, "the order of %llu rows misses %llu of them", (unsigned long long)n, (unsigned long long)missing);
    spd_order_fill(next, n, 9, 2);
    CHECK(memcmp(order, next, n * sizeof *order) == 0, "the same seed and epoch give another order of %llu rows", (unsigned long long)n);
    spd_order_fill(next, n, 9, 3);
    for (uint64_t i = 0; i < n; i++) same += order[i] == next[i];
    CHECK(n < 500 || same < n / 20, "two epochs agree in %llu of %llu places", (unsigned long long)same, (unsigned long long)n);
    spd_order_fill(next, n, 10, 2);
    same = 0;
    for (uint64_t i = 0; i < n; i++) same += order[i] == next[i];
    CHECK(n < 500 || same < n / 20, "two seeds agree in %llu of %llu places", (unsigned long long)same, (unsigned long long)n);
    CHECK(n < 500 || in_place < n / 20, "%llu of %llu rows stay where they were", (unsigned long long)in_place, (unsigned long long)n);
    /* a window of 16 blocks of 512 rows holds rows of 16 blocks only: what lets a reader stream */
    if (n >= 20000) {
      uint64_t blocks[200] = {0}, count = 0;
      for (uint64_t i = 0; i < SPD_ORDER_WINDOW * SPD_ORDER_BLOCK - SPD_ORDER_BLOCK; i++) blocks[order[i] / SPD_ORDER_BLOCK]++;
      for (uint64_t b = 0; b < 200; b++) count += blocks[b] > 0;
      CHECK(count <= 17, "the first window reads %llu blocks", (unsigned long long)count);
    }
    free(order);
    free(next);
    free(seen);
  }
}

int main(void) {
  test_order();
  return check_end();
}
