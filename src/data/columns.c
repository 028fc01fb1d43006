#include "data/columns.h"

#include "core/hot.h"
#include "core/threads.h"

/* A piece is a block of rows of some columns: pages of memory are used as long as the processor knows their addresses, and the lines that
 * the next columns need are requested meanwhile. */
enum { GROUP = 16, ROWS = 64, COLUMNS = 16 * GROUP, LINE = 8 };

struct taking {
  float *to;
  const double *columns;
  size_t n_rows, n, width, column_blocks;
  const uint64_t *rows;
};

static int are_neighbours(const uint64_t *rows, size_t n) {
  for (size_t i = 1; i < n; i++)
    if (rows[i] != rows[0] + i) return 0;
  return 1;
}

/* ROWS rows of GROUP columns, which the caller knows to be there. from, to: of the first of both; next: the same of the next columns */
SPD_HOT static void take_block(float *restrict to, const double *restrict from, const double *restrict next, size_t n_rows, size_t width) {
  float part[GROUP * ROWS];
  for (size_t m = 0; m < GROUP; m++) {
    for (size_t i = 0; i < ROWS; i += LINE) __builtin_prefetch(next + m * n_rows + i);
    for (size_t i = 0; i < ROWS; i++) part[m * ROWS + i] = (float)from[m * n_rows + i];
  }
  for (size_t i = 0; i < ROWS; i++)
    for (size_t m = 0; m < GROUP; m++) to[i * width + m] = part[m * ROWS + i];
}

static void take_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct taking *t = context;
  const size_t first_row = piece / t->column_blocks * ROWS, first_column = piece % t->column_blocks * COLUMNS;
  const size_t last_row = t->n - first_row < ROWS ? t->n : first_row + ROWS;
  const size_t last_column = t->width - first_column < COLUMNS ? t->width : first_column + COLUMNS;
  const size_t count = last_row - first_row;
  const uint64_t *rows = t->rows + first_row;
  const int neighbours = count == ROWS && are_neighbours(rows, ROWS);
  for (size_t m = first_column; m < last_column; m += GROUP) {
    const size_t here = last_column - m < GROUP ? last_column - m : GROUP;
    float *to = t->to + first_row * t->width + m;
    const double *from = t->columns + m * t->n_rows;
    if (neighbours && here == GROUP) {
      const double *next = m + 2 * GROUP <= t->width ? from + GROUP * t->n_rows : from;
      take_block(to, from + rows[0], next + rows[0], t->n_rows, t->width);
      continue;
    }
    for (size_t i = 0; i < count; i++)
      for (size_t l = 0; l < here; l++) to[i * t->width + l] = (float)from[l * t->n_rows + rows[i]];
  }
}

void spd_columns_take(float *to, const double *columns, size_t n_rows, const uint64_t *rows, size_t n, size_t width, int threads) {
  const struct taking taking = {to, columns, n_rows, n, width, (width + COLUMNS - 1) / COLUMNS, rows};
  spd_parallel(threads, taking.column_blocks * ((n + ROWS - 1) / ROWS), take_piece, &taking);
}
