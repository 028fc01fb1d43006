/* Row-major matrix products by cuBLAS, which counts columns first: C' = B' A'. */
#include <limits.h>

#include "cuda/cuda.h"

/* Linear layers with fewer weights than this keep every digit: they cost nothing, and the latents are among them. */
static const size_t SMALL_LAYER = (size_t)1 << 18;

cuda_product cuda_product_of_convolution(struct spd_backend *backend) {
  switch (cuda_of(backend)->precision) {
    case SPD_PRECISION_TF32: return CUDA_TF32;
    case SPD_PRECISION_BF16: return CUDA_BF16;
    case SPD_PRECISION_FP16: return CUDA_FP16;
    default: return CUDA_EXACT;
  }
}

cuda_product cuda_product_of_dense(struct spd_backend *backend, size_t weights) {
  return cuda_of(backend)->precision == SPD_PRECISION_FP32 || weights < SMALL_LAYER ? CUDA_EXACT : CUDA_TF32;
}

static spd_status multiply(cublasHandle_t blas, cuda_product product, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                           struct cuda_matrix a, struct cuda_matrix b, struct cuda_result c, size_t batch, const float *factors,
                           struct spd_error *error) {
  const cudaDataType_t type = product == CUDA_BF16 ? CUDA_R_16BF : product == CUDA_FP16 ? CUDA_R_16F : CUDA_R_32F;
  const cudaDataType_t result = c.narrow ? type : CUDA_R_32F;
  const cublasComputeType_t compute = product == CUDA_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  if (batch == 1)
    CUDA_TRY_BLAS(cublasGemmEx(blas, op_b, op_a, n, m, k, factors, b.at, type, (int)b.ld, a.at, type, (int)a.ld, factors + 1, c.at, result,
                               (int)c.ld, compute, CUBLAS_GEMM_DEFAULT));
  else
    CUDA_TRY_BLAS(cublasGemmStridedBatchedEx(blas, op_b, op_a, n, m, k, factors, b.at, type, (int)b.ld, (long long)b.step, a.at, type,
                                             (int)a.ld, (long long)a.step, factors + 1, c.at, result, (int)c.ld, (long long)c.step,
                                             (int)batch, compute, CUBLAS_GEMM_DEFAULT));
  return SPD_STATUS_OK;
}

spd_status cuda_gemm(struct spd_backend *backend, cuda_product product, int transpose_a, int transpose_b, size_t m, size_t n, size_t k,
                     struct cuda_matrix a, struct cuda_matrix b, struct cuda_result c, size_t batch, struct spd_error *error) {
  static const float one_zero[2] = {1, 0}, one_one[2] = {1, 1};
  const cublasOperation_t op_a = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const size_t sizes[] = {m, n, k, a.ld, b.ld, c.ld, batch};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (sizes[i] > INT_MAX)
      return spd_fail(error, SPD_STATUS_INVALID, "a matrix of %zu rows or columns is too large for cuBLAS; try a smaller batch size",
                      sizes[i]);
  const cublasHandle_t blas = cuda_of(backend)->blas;
  if (c.factor) CUDA_TRY_BLAS(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_DEVICE));
  const spd_status status = multiply(blas, product, op_a, op_b, (int)m, (int)n, (int)k, a, b, c, batch,
                                     c.factor ? c.factor
                                     : c.more ? one_one
                                              : one_zero,
                                     error);
  if (c.factor) CUDA_TRY_BLAS(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_HOST));
  return status;
}
