/* How many threads a parallel region of the glue gets. */
#ifndef SPD_R_THREADS_H
#define SPD_R_THREADS_H

#include "r-util.h"

/* threads: an integer that R has checked, or NULL for as many as OpenMP would take. One in a forked child (mclapply), where
 * the OpenMP runtime's threads no longer exist and a second would wait for ever; one without OpenMP. */
int r_threads(SEXP threads);

/* Within a parallel region: 0 to r_threads() - 1. */
int r_thread_number(void);

#endif
