#include "data/columns.h"

#include "core/hot.h"
#include "core/threads.h"

/* A tile is what one line of the cache holds of each of some columns. A piece is a block of tiles: many rows of few columns, so that pages
 * of memory are used as long as their addresses are known to the processor. */
enum { LINE = 8, GROUP = 16, ROWS = 512, COLUMNS = 4 * GROUP };

struct taking {
  float *to;
  const double *columns;
  size_t n_rows, n, width, row_blocks;
  const uint64_t *rows;
};

static int are_neighbours(const uint64_t *rows, size_t n) {
  for (size_t i = 1; i < n; i++)
    if (rows[i] != rows[0] + i) return 0;
  return 1;
}

/* LINE rows of GROUP columns. from, to: of the first of both */
SPD_HOT static void take_tile(float *restrict to, const double *restrict from, size_t n_rows, size_t width) {
  float part[GROUP * LINE];
  for (size_t m = 0; m < GROUP; m++)
    for (size_t i = 0; i < LINE; i++) part[m * LINE + i] = (float)from[m * n_rows + i];
  for (size_t i = 0; i < LINE; i++)
    for (size_t m = 0; m < GROUP; m++) to[i * width + m] = part[m * LINE + i];
}

static void take_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct taking *t = context;
  const size_t first_row = piece % t->row_blocks * ROWS, first_column = piece / t->row_blocks * COLUMNS;
  const size_t last_row = t->n - first_row < ROWS ? t->n : first_row + ROWS;
  const size_t last_column = t->width - first_column < COLUMNS ? t->width : first_column + COLUMNS;
  for (size_t m = first_column; m < last_column; m += GROUP)
    for (size_t i = first_row; i < last_row; i += LINE) {
      const size_t count = last_row - i < LINE ? last_row - i : LINE, here = last_column - m < GROUP ? last_column - m : GROUP;
      float *to = t->to + i * t->width + m;
      const double *from = t->columns + m * t->n_rows;
      const uint64_t *rows = t->rows + i;
      if (count == LINE && here == GROUP && are_neighbours(rows, LINE)) {
        take_tile(to, from + rows[0], t->n_rows, t->width);
        continue;
      }
      for (size_t k = 0; k < count; k++)
        for (size_t l = 0; l < here; l++) to[k * t->width + l] = (float)from[l * t->n_rows + rows[k]];
    }
}

void spd_columns_take(float *to, const double *columns, size_t n_rows, const uint64_t *rows, size_t n, size_t width, int threads) {
  const struct taking taking = {to, columns, n_rows, n, width, (n + ROWS - 1) / ROWS, rows};
  spd_parallel(threads, taking.row_blocks * ((width + COLUMNS - 1) / COLUMNS), take_piece, &taking);
}
