/* Row-major matrix product on one thread: CBLAS where configure found one, else a blocked loop. */
#include "cpu/cpu.h"

#ifdef SPD_HAVE_CBLAS
/* The reference interface, declared here because its header has no settled name: 101 row-major, 111 plain, 112 transposed. */
extern void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a, int lda,
                        const float *b, int ldb, float beta, float *c, int ldc);

void cpu_gemm(int transpose_a, int transpose_b, size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
              float beta, float *c, size_t ldc) {
  if (m == 0 || n == 0) return;
  cblas_sgemm(101, transpose_a ? 112 : 111, transpose_b ? 112 : 111, (int)m, (int)n, (int)k, 1.0f, a, (int)lda, b, (int)ldb, beta, c,
              (int)ldc);
}

#else

enum { BLOCK_K = 128, BLOCK_N = 256 };

/* c (rows of n) += a_k * b (k, n): b is a packed panel that stays in cache. A block's sum is made before it is added to c: long
 * sums lose fewer digits that way. */
SPD_HOT static void panel(size_t m, size_t n, size_t k, const float *a, size_t a_row, size_t a_column, const float *b, float *c,
                          size_t ldc) {
  for (size_t i = 0; i < m; i++) {
    float *row = c + i * ldc, sum[BLOCK_N] = {0};
    for (size_t p = 0; p < k; p++) {
      float factor = a[i * a_row + p * a_column];
      const float *from = b + p * BLOCK_N;
      SPD_SIMD
      for (size_t j = 0; j < n; j++) sum[j] += factor * from[j];
    }
    SPD_SIMD
    for (size_t j = 0; j < n; j++) row[j] += sum[j];
  }
}

void cpu_gemm(int transpose_a, int transpose_b, size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b, size_t ldb,
              float beta, float *c, size_t ldc) {
  size_t a_row = transpose_a ? 1 : lda, a_column = transpose_a ? lda : 1;
  size_t b_row = transpose_b ? 1 : ldb, b_column = transpose_b ? ldb : 1;
  float packed[BLOCK_K * BLOCK_N];
  for (size_t i = 0; i < m; i++)
    for (size_t j = 0; j < n; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
  for (size_t p = 0; p < k; p += BLOCK_K) {
    size_t depth = k - p < BLOCK_K ? k - p : BLOCK_K;
    for (size_t j = 0; j < n; j += BLOCK_N) {
      size_t width = n - j < BLOCK_N ? n - j : BLOCK_N;
      for (size_t q = 0; q < depth; q++)
        for (size_t s = 0; s < width; s++) packed[q * BLOCK_N + s] = b[(p + q) * b_row + (j + s) * b_column];
      panel(m, width, depth, a + p * a_column, a_row, a_column, packed, c + j, ldc);
    }
  }
}
#endif
