// What LinearPlans needs of cuBLASLt, loaded at run time.
//
// Thread safety: one thread at a time. Errors: KernelError.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_CUBLASLT_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_CUBLASLT_H_

#include <cublasLt.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

// What algorithms depend on, but for the number of tokens.
struct MatmulShape {
  int num_outputs = 0;
  int num_inputs = 0;
  bool y_is_float = false;
  bool accumulates = false;
  bool has_bias = false;  // REQUIRES: y is bf16 then, as the bias is

  auto operator<=>(const MatmulShape&) const = default;
};

class CublasLt {
 public:
  CublasLt();  // throws when the library, or a function of it, is not there
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  size_t version() const { return version_; }

 private:
  friend class Matmul;
  struct Functions;
  std::unique_ptr<Functions> functions_;
  cublasLtHandle_t handle_ = nullptr;
  size_t version_ = 0;
};

// y = x W^T (+ bias) (+ y): one shape, any number of tokens. The descriptors are made once.
class Matmul {
 public:
  Matmul(const CublasLt& library, const MatmulShape& shape);  // `library` must outlive it
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  // At most `limit` algorithms that need at most workspace_bytes, the likely fastest first. Those
  // whose result would depend on the order of atomics, or round partial sums to bf16, are not
  // among them. Throws when there is none.
  std::vector<cublasLtMatmulAlgo_t> Candidates(int tokens, size_t workspace_bytes, int limit);

  // Strides are given (not 0). False when the algorithm does not take this number of tokens.
  bool Run(const LinearParams& params, const cublasLtMatmulAlgo_t& algorithm,
           std::span<std::byte> workspace, const Stream& stream);

 private:
  void SetTokens(int tokens, int64_t x_stride, int64_t y_stride);

  const CublasLt& library_;
  const MatmulShape shape_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t weight_ = nullptr;
  cublasLtMatrixLayout_t x_ = nullptr;
  cublasLtMatrixLayout_t y_ = nullptr;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_CUBLASLT_H_
