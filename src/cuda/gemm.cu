/* Row-major matrix products by cuBLAS, which counts columns first: C' = B' A'. */
#include <limits.h>

#include "cuda/cuda.h"

/* Linear layers with fewer weights than this keep every digit: they cost nothing, and the latents are among them. */
static const size_t SMALL_LAYER = (size_t)1 << 18;

cuda_product cuda_product_of_convolution(struct spd_backend *backend) {
  switch (cuda_of(backend)->precision) {
    case SPD_PRECISION_TF32:
      return CUDA_TF32;
    case SPD_PRECISION_BF16:
      return CUDA_BF16;
    default:
      return CUDA_EXACT;
  }
}

cuda_product cuda_product_of_dense(struct spd_backend *backend, size_t weights) {
  return cuda_of(backend)->precision == SPD_PRECISION_FP32 || weights < SMALL_LAYER ? CUDA_EXACT : CUDA_TF32;
}

spd_status cuda_gemm(struct spd_backend *backend, cuda_product product, int transpose_a, int transpose_b, size_t m, size_t n,
                     size_t k, struct cuda_matrix a, struct cuda_matrix b, float *c, size_t ldc, size_t step_c,
                     size_t batch, struct spd_error *error) {
  const float one = 1, zero = 0;
  const cublasOperation_t op_a = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cudaDataType_t type = product == CUDA_BF16 ? CUDA_R_16BF : CUDA_R_32F;
  const cublasComputeType_t compute = product == CUDA_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  const size_t sizes[] = {m, n, k, a.ld, b.ld, ldc, batch};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (sizes[i] > INT_MAX)
      return spd_fail(error, SPD_STATUS_INVALID, "a matrix of %zu rows or columns is too large for cuBLAS; try a smaller batch size",
                      sizes[i]);
  if (batch == 1)
    CUDA_TRY_BLAS(cublasGemmEx(cuda_of(backend)->blas, op_b, op_a, (int)n, (int)m, (int)k, &one, b.at, type, (int)b.ld, a.at, type,
                               (int)a.ld, &zero, c, CUDA_R_32F, (int)ldc, compute, CUBLAS_GEMM_DEFAULT));
  else
    CUDA_TRY_BLAS(cublasGemmStridedBatchedEx(cuda_of(backend)->blas, op_b, op_a, (int)n, (int)m, (int)k, &one, b.at, type,
                                             (int)b.ld, (long long)b.step, a.at, type, (int)a.ld, (long long)a.step, &zero, c,
                                             CUDA_R_32F, (int)ldc, (long long)step_c, (int)batch, compute, CUBLAS_GEMM_DEFAULT));
  return SPD_STATUS_OK;
}
