/* Digests: no number of threads changes them, any change of the bytes does, at every length and place. */
#include "check.h"
#include "core/digest.h"
#include "core/rng.h"

int main(void) {
  enum { MOST = (3 << 20) + 77 };
  unsigned char *bytes = check_alloc(MOST);
  for (size_t i = 0; i < MOST; i++) bytes[i] = (unsigned char)spd_mix64(i);
  const size_t sizes[] = {0, 1, 7, 8, 31, 32, 33, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, MOST};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    const size_t n = sizes[s];
    const uint64_t digest = spd_digest(bytes, n, 1);
    for (int threads = 2; threads < 6; threads++) CHECK(spd_digest(bytes, n, threads) == digest, "%zu bytes: %d threads", n, threads);
    for (size_t t = 0; t < s; t++) CHECK(spd_digest(bytes, sizes[t], 1) != digest, "%zu bytes have the digest of %zu", n, sizes[t]);
    size_t same = 0;
    for (size_t change = 0; n && change < 200; change++) {
      const size_t at = change < n && change < 100 ? change : (size_t)spd_below(spd_mix64(change), n);
      const unsigned char flip = (unsigned char)(1 << change % 8);
      bytes[at] ^= flip;
      same += spd_digest(bytes, n, 2) == digest;
      bytes[at] ^= flip;
    }
    CHECK(same == 0, "%zu bytes: %zu flipped bits do not change the digest", n, same);
  }
  uint64_t words[8] = {1, 2, 3, 4, 5, 6, 7, 8}, turned[8] = {5, 6, 7, 8, 1, 2, 3, 4}, zeros[8] = {0};
  CHECK(spd_digest(words, 64, 1) != spd_digest(turned, 64, 1), "rows that change places");
  CHECK(spd_digest(zeros, 32, 1) != spd_digest(zeros, 64, 1), "zeros of two lengths");
  CHECK(spd_digest_join(1, 2) != spd_digest_join(2, 1), "parts that change places");
  free(bytes);
  return check_end();
}
