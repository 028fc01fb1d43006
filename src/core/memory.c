#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* MADV_HUGEPAGE */
#endif
#include "core/memory.h"

#include <stdint.h>
#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

void *spd_memory_new(size_t bytes) {
  const size_t huge = (size_t)2 << 20;
  void *pointer;
  if (bytes > SIZE_MAX - 2 * huge) return NULL;
  const size_t alignment = bytes >= 2 * huge ? huge : 64;
  const size_t rounded = (bytes + alignment) / alignment * alignment;
  if (posix_memalign(&pointer, alignment, rounded) != 0) return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment == huge) madvise(pointer, rounded, MADV_HUGEPAGE);
#endif
  return pointer;
}
