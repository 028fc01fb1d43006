#include "core/digest.h"

#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/threads.h"

enum { BLOCK = 1 << 20, LANES = 4 };

uint64_t spd_digest_join(uint64_t digest, uint64_t next) { return spd_mix64(digest * 0x9e3779b97f4a7c15u + next); }

/* Four lanes, so that the multiplications do not wait for each other. A step is a bijection of the word that it takes in: two blocks that
 * differ in one word differ. */
static uint64_t digest_block(const unsigned char *bytes, size_t n) {
  uint64_t lanes[LANES] = {1, 2, 3, 4}, last[LANES] = {0};
  size_t i = 0;
  for (; i + sizeof last <= n; i += sizeof last) {
    uint64_t words[LANES];
    memcpy(words, bytes + i, sizeof words);
    for (int l = 0; l < LANES; l++) {
      lanes[l] = (lanes[l] ^ words[l]) * 0xd6e8feb86659fd93u;
      lanes[l] ^= lanes[l] >> 32;
    }
  }
  memcpy(last, bytes + i, n - i);
  uint64_t digest = n;
  for (int l = 0; l < LANES; l++) digest = spd_digest_join(spd_digest_join(digest, lanes[l]), last[l]);
  return digest;
}

struct digesting {
  const unsigned char *bytes;
  size_t n;
  uint64_t *digests; /* of the blocks */
};

static void digest_piece(const void *context, size_t piece, int thread) {
  (void)thread;
  const struct digesting *d = context;
  const size_t from = piece * BLOCK;
  d->digests[piece] = digest_block(d->bytes + from, d->n - from < BLOCK ? d->n - from : BLOCK);
}

uint64_t spd_digest(const void *bytes, size_t n, int threads) {
  const size_t blocks = (n + BLOCK - 1) / BLOCK;
  uint64_t digest = spd_mix64(n), *digests = blocks > 1 ? malloc(blocks * sizeof *digests) : NULL;
  if (digests) {
    const struct digesting digesting = {bytes, n, digests};
    spd_parallel(threads, blocks, digest_piece, &digesting);
    for (size_t b = 0; b < blocks; b++) digest = spd_digest_join(digest, digests[b]);
  } else { /* one block, or no memory for more */
    for (size_t from = 0; from < n; from += BLOCK)
      digest = spd_digest_join(digest, digest_block((const unsigned char *)bytes + from, n - from < BLOCK ? n - from : BLOCK));
  }
  free(digests);
  return digest;
}
