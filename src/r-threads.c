#include "r-threads.h"

#include "core/threads.h"

#ifdef SPD_HAVE_OPENMP
#include <omp.h>

int r_threads(SEXP threads) { return spd_threads(threads == R_NilValue ? omp_get_max_threads() : Rf_asInteger(threads)); }

int r_thread_number(void) { return omp_get_thread_num(); }

#else

int r_threads(SEXP threads) {
  (void)threads;
  return 1;
}

int r_thread_number(void) { return 0; }

#endif
