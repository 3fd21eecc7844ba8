#include "kernels/cuda/linear/tensor_launch.h"

#include <string>

#include "kernels/check.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/linear/tensor_split.h"

namespace parallax::kernels::cuda {
namespace {

void CheckAligned(std::string_view op, const void* pointer, const char* operand) {
  Check(reinterpret_cast<uintptr_t>(pointer) % 16 == 0, op, operand,
        "16-byte aligned; address modulo 16",
        static_cast<double>(reinterpret_cast<uintptr_t>(pointer) % 16));
}

}  // namespace

int DeviceAttribute(std::string_view op, cudaDeviceAttr attribute, int device) {
  int value = 0;
  CheckCuda(cudaDeviceGetAttribute(&value, attribute, device), op, "device attribute");
  return value;
}

bool IsHopper(std::string_view op, int device) {
  return DeviceAttribute(op, cudaDevAttrComputeCapabilityMajor, device) == 9;
}

bool TakesShape(const LinearParams& p, int max_tokens) {
  return p.tokens >= 1 && p.tokens <= max_tokens && p.num_outputs > 0 &&
         p.num_outputs % (IsGated(p) ? 16 : 8) == 0 && p.num_inputs > 0 && p.num_inputs % 8 == 0;
}

void CheckTensorParams(std::string_view op, const LinearParams& p, int max_tokens) {
  Check(p.x && p.weight && p.y, op, "x, weight, y", "given; null operands",
        !p.x + !p.weight + !p.y);
  Check(p.tokens >= 1 && p.tokens <= max_tokens, op, "tokens", "1.." + std::to_string(max_tokens),
        p.tokens);
  Check(p.num_outputs > 0 && p.num_outputs % (IsGated(p) ? 16 : 8) == 0, op, "num_outputs",
        IsGated(p) ? "a positive multiple of 16" : "a positive multiple of 8", p.num_outputs);
  Check(p.num_inputs > 0 && p.num_inputs % 8 == 0, op, "num_inputs", "a positive multiple of 8",
        p.num_inputs);
  Check(p.x_stride == 0 || (p.x_stride >= p.num_inputs && p.x_stride % 8 == 0), op, "x_stride",
        "0, or a multiple of 8 no less than num_inputs", static_cast<double>(p.x_stride));
  Check(p.y_stride == 0 || (p.y_stride >= OutputWidth(p) && p.y_stride % 8 == 0), op, "y_stride",
        "0, or a multiple of 8 no less than y's width", static_cast<double>(p.y_stride));
  const bool is_float = p.y_dtype == DType::kFloat32;
  const bool accumulates = p.epilogue == LinearEpilogue::kAccumulate;
  Check(is_float ? !IsGated(p) : p.y_dtype == DType::kBFloat16 && !accumulates, op, "y_dtype",
        "bfloat16 (kStore, kSiluAndMul) or float32 (kStore, kAccumulate)",
        static_cast<double>(p.y_dtype));
  Check(!p.norm.squares && !p.next_norm.weight, op, "norm, next_norm",
        "null: SkinnyLinear alone takes them; tokens", p.tokens);
  CheckAligned(op, p.x, "x");
  CheckAligned(op, p.weight, "weight");
  CheckAligned(op, p.bias, "bias");
  CheckAligned(op, p.y, "y");
}

ClusterLaunch::ClusterLaunch(dim3 grid, int cluster, int threads, int shared_bytes) {
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = attributes;
  if (cluster == 1) return;
  cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
}

void ClusterLaunch::AllowProgrammatic() {
  cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
}

void PrepareKernel(std::string_view op, const void* kernel) {
  cudaFuncAttributes attributes;
  CheckCuda(cudaFuncGetAttributes(&attributes, kernel), op, "loading");
  CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 TensorSharedBytes(1)),
            op, "shared memory");
}

}  // namespace parallax::kernels::cuda
