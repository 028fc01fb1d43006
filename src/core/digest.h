/* Digests that tell whether data are the same as before. Not cryptographic: they do not protect against forgery. */
#ifndef SPD_CORE_DIGEST_H
#define SPD_CORE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/* Of n bytes, which begin where a double may; as fast as memory is read. The same for any number of threads; byte order is the
 * machine's. */
uint64_t spd_digest(const void *bytes, size_t n, int threads);
/* Of a sequence: the digest so far and the next part's. */
uint64_t spd_digest_join(uint64_t digest, uint64_t next);

#endif
