/* The order in which the spectra of a training are visited in an epoch: the rows are divided into blocks, the blocks are shuffled, a
 * number of consecutive blocks forms a window, and the rows of a window are shuffled. It is the same from memory and from files, and a
 * reader needs no more than one window in memory. */
#ifndef SPD_DATA_ORDER_H
#define SPD_DATA_ORDER_H

#include <stdint.h>

enum { SPD_ORDER_BLOCK = 512 /* rows */, SPD_ORDER_WINDOW = 16 /* blocks */ };

/* order: (n_rows) */
void spd_order_fill(uint64_t *order, uint64_t n_rows, uint64_t seed, uint64_t epoch);

#endif
