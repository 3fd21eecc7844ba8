#include "kernels/cuda/linear/cublaslt.h"

#include <dlfcn.h>

#include <string>

#include "kernels/check.h"

namespace parallax::kernels::cuda {
namespace {

constexpr char kOp[] = "LinearPlans";

void CheckStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string problem = std::string(what) + " failed with status " + std::to_string(status);
  if (status == CUBLAS_STATUS_ALLOC_FAILED) ThrowOutOfMemory(kOp, "cuBLASLt", problem);
  ThrowKernelError(kOp, "cuBLASLt", problem);
}

cudaDataType_t OutputType(const MatmulShape& shape) {
  return shape.y_is_float ? CUDA_R_32F : CUDA_R_16BF;
}

}  // namespace

// The library is never unloaded: it keeps state in the CUDA context.
struct CublasLt::Functions {
  explicit Functions(void* library) : library_(library) {}

  template <typename Function>
  struct Symbol {
    Symbol(void* library, const char* name)
        : call(reinterpret_cast<Function*>(dlsym(library, name))) {
      if (call == nullptr) ThrowMissingLibrary(kOp, "cuBLASLt", std::string("has no ") + name);
    }
    template <typename... Args>
    auto operator()(Args... args) const {
      return call(args...);
    }
    Function* call;
  };

  void* library_;
  Symbol<decltype(cublasLtCreate)> create{library_, "cublasLtCreate"};
  Symbol<decltype(cublasLtDestroy)> destroy{library_, "cublasLtDestroy"};
  Symbol<decltype(cublasLtGetVersion)> get_version{library_, "cublasLtGetVersion"};
  Symbol<decltype(cublasLtMatmul)> matmul{library_, "cublasLtMatmul"};
  Symbol<decltype(cublasLtMatmulAlgoGetHeuristic)> get_heuristic{library_,
                                                                 "cublasLtMatmulAlgoGetHeuristic"};
  Symbol<decltype(cublasLtMatmulDescCreate)> create_operation{library_, "cublasLtMatmulDescCreate"};
  Symbol<decltype(cublasLtMatmulDescDestroy)> destroy_operation{library_,
                                                                "cublasLtMatmulDescDestroy"};
  Symbol<decltype(cublasLtMatmulDescSetAttribute)> set_operation{library_,
                                                                 "cublasLtMatmulDescSetAttribute"};
  Symbol<decltype(cublasLtMatrixLayoutCreate)> create_layout{library_,
                                                             "cublasLtMatrixLayoutCreate"};
  Symbol<decltype(cublasLtMatrixLayoutDestroy)> destroy_layout{library_,
                                                               "cublasLtMatrixLayoutDestroy"};
  Symbol<decltype(cublasLtMatrixLayoutSetAttribute)> set_layout{library_,
                                                                "cublasLtMatrixLayoutSetAttribute"};
  Symbol<decltype(cublasLtMatmulPreferenceCreate)> create_preference{
      library_, "cublasLtMatmulPreferenceCreate"};
  Symbol<decltype(cublasLtMatmulPreferenceDestroy)> destroy_preference{
      library_, "cublasLtMatmulPreferenceDestroy"};
  Symbol<decltype(cublasLtMatmulPreferenceSetAttribute)> set_preference{
      library_, "cublasLtMatmulPreferenceSetAttribute"};
};

CublasLt::CublasLt() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    ThrowMissingLibrary(kOp, "cuBLASLt",
                        "cannot be loaded (" + std::string(dlerror()) +
                            "); install it, or put its folder into LD_LIBRARY_PATH");
  }
  functions_ = std::make_unique<Functions>(library);
  CheckStatus(functions_->create(&handle_), "cublasLtCreate");
  version_ = functions_->get_version();
}

CublasLt::~CublasLt() { functions_->destroy(handle_); }

Matmul::Matmul(const CublasLt& library, const MatmulShape& shape)
    : library_(library), shape_(shape) {
  // cuBLASLt is column-major: y^T [N, tokens] = W [K, N] transposed, times x^T [K, tokens]. The
  // numbers of tokens and the strides are set with each call.
  const CublasLt::Functions& lt = *library_.functions_;
  CheckStatus(lt.create_operation(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  CheckStatus(
      lt.set_operation(operation_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
      "transposition");
  if (shape.has_bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = CUDA_R_16BF;
    CheckStatus(
        lt.set_operation(operation_, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)),
        "bias");
    CheckStatus(
        lt.set_operation(operation_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof(type)),
        "bias type");
  }
  const int64_t inputs = shape.num_inputs;
  const int64_t outputs = shape.num_outputs;
  CheckStatus(lt.create_layout(&weight_, CUDA_R_16BF, inputs, outputs, inputs), "weight layout");
  CheckStatus(lt.create_layout(&x_, CUDA_R_16BF, inputs, 1, inputs), "x layout");
  CheckStatus(lt.create_layout(&y_, OutputType(shape), outputs, 1, outputs), "y layout");
}

Matmul::~Matmul() {
  const CublasLt::Functions& lt = *library_.functions_;
  for (cublasLtMatrixLayout_t layout : {weight_, x_, y_}) lt.destroy_layout(layout);
  lt.destroy_operation(operation_);
}

void Matmul::SetTokens(int tokens, int64_t x_stride, int64_t y_stride) {
  const CublasLt::Functions& lt = *library_.functions_;
  const auto set = [&](cublasLtMatrixLayout_t layout, int64_t stride) {
    const uint64_t columns = tokens;
    CheckStatus(lt.set_layout(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof(columns)),
                "columns");
    CheckStatus(lt.set_layout(layout, CUBLASLT_MATRIX_LAYOUT_LD, &stride, sizeof(stride)),
                "stride");
  };
  set(x_, x_stride);
  set(y_, y_stride);
}

std::vector<cublasLtMatmulAlgo_t> Matmul::Candidates(int tokens, size_t workspace_bytes,
                                                     int limit) {
  const CublasLt::Functions& lt = *library_.functions_;
  SetTokens(tokens, shape_.num_inputs, shape_.num_outputs);
  cublasLtMatmulPreference_t preference = nullptr;
  CheckStatus(lt.create_preference(&preference), "preference");
  const uint64_t bytes = workspace_bytes;
  const uint32_t reductions =
      CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  lt.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes));
  lt.set_preference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                    sizeof(reductions));
  std::vector<cublasLtMatmulHeuristicResult_t> found(limit);
  int count = 0;
  const cublasStatus_t status = lt.get_heuristic(library_.handle_, operation_, weight_, x_, y_, y_,
                                                 preference, limit, found.data(), &count);
  lt.destroy_preference(preference);
  CheckStatus(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) {
    if (found[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(found[i].algo);
  }
  Check(!algorithms.empty(), kOp, "tokens", "a number that cuBLASLt has an algorithm for", tokens);
  return algorithms;
}

bool Matmul::Run(const LinearParams& params, const cublasLtMatmulAlgo_t& algorithm,
                 std::span<std::byte> workspace, const Stream& stream) {
  const CublasLt::Functions& lt = *library_.functions_;
  SetTokens(params.tokens, params.x_stride, params.y_stride);
  if (shape_.has_bias) {
    CheckStatus(lt.set_operation(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &params.bias,
                                 sizeof(params.bias)),
                "bias pointer");
  }
  const float alpha = 1.0f;
  const float beta = shape_.accumulates ? 1.0f : 0.0f;
  const cublasStatus_t status = lt.matmul(
      library_.handle_, operation_, &alpha, params.weight, weight_, params.x, x_, &beta, params.y,
      y_, params.y, y_, &algorithm, workspace.data(), workspace.size(), stream.cuda_stream());
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
  CheckStatus(status, "cublasLtMatmul");
  return true;
}

}  // namespace parallax::kernels::cuda
