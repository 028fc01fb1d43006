/* Large blocks of memory. */
#ifndef SPD_CORE_MEMORY_H
#define SPD_CORE_MEMORY_H

#include <stddef.h>

/* Memory for free(), or NULL: not zeroed; of several MB on huge pages, where the system has them, which saves page faults and TLB misses.
 */
void *spd_memory_new(size_t bytes);

#endif
