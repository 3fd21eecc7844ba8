#include "kernels/cuda/linear/linear_params.h"

#include "kernels/check.h"

namespace parallax::kernels::cuda {
namespace {

bool TakesOutputs(const LinearParams& p) {
  return p.num_outputs > 0 && p.num_outputs % (IsGated(p) ? 16 : 8) == 0;
}

}  // namespace

bool TakesMatrix(const LinearParams& p) {
  return TakesOutputs(p) && p.num_inputs > 0 && p.num_inputs % 8 == 0;
}

void CheckAligned(std::string_view op, const void* pointer, const char* operand) {
  Check(reinterpret_cast<uintptr_t>(pointer) % 16 == 0, op, operand,
        "16-byte aligned; address modulo 16",
        static_cast<double>(reinterpret_cast<uintptr_t>(pointer) % 16));
}

void CheckOperands(std::string_view op, const LinearParams& p) {
  Check(p.x && p.weight && p.y, op, "x, weight, y", "given; null operands",
        !p.x + !p.weight + !p.y);
  Check(TakesOutputs(p), op, "num_outputs",
        IsGated(p) ? "a positive multiple of 16" : "a positive multiple of 8", p.num_outputs);
  Check(p.x_stride == 0 || (p.x_stride >= p.num_inputs && p.x_stride % 8 == 0), op, "x_stride",
        "0, or a multiple of 8 no less than num_inputs", static_cast<double>(p.x_stride));
  const bool is_float = p.y_dtype == DType::kFloat32;
  const bool accumulates = p.epilogue == LinearEpilogue::kAccumulate;
  Check(is_float ? !IsGated(p) : p.y_dtype == DType::kBFloat16 && !accumulates, op, "y_dtype",
        "bfloat16 (kStore, kSiluAndMul) or float32 (kStore, kAccumulate)",
        static_cast<double>(p.y_dtype));
  CheckAligned(op, p.x, "x");
  CheckAligned(op, p.weight, "weight");
}

void CheckLayer(std::string_view op, const LinearParams& p) {
  CheckOperands(op, p);
  Check(TakesMatrix(p), op, "num_inputs", "a positive multiple of 8", p.num_inputs);
  Check(p.y_stride == 0 || (p.y_stride >= OutputWidth(p) && p.y_stride % 8 == 0), op, "y_stride",
        "0, or a multiple of 8 no less than y's width", static_cast<double>(p.y_stride));
  Check(!p.norm.squares && !p.next_norm.weight, op, "norm, next_norm",
        "null: SkinnyLinear alone takes them; tokens", p.tokens);
  CheckAligned(op, p.bias, "bias");
  CheckAligned(op, p.y, "y");
}

}  // namespace parallax::kernels::cuda
