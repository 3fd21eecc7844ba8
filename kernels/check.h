// Host-side validation of op arguments.
//
// An op checks what it is given before it touches memory and throws KernelError with a
// message "op: operand: what is wrong, and the offending value". Nothing else is thrown by
// ops. The engine turns the exception into a status where it calls the forward pass.
#ifndef PARALLAX_KERNELS_CHECK_H_
#define PARALLAX_KERNELS_CHECK_H_

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels/stream.h"
#include "kernels/tensor_view.h"

namespace parallax::kernels {

class KernelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Memory that an op needs is not to be had, of the device or of the host.
class OutOfMemoryError : public KernelError {
 public:
  using KernelError::KernelError;
};

// A shared library that is loaded at run time is not there, or not the right one.
class MissingLibraryError : public KernelError {
 public:
  using KernelError::KernelError;
};

// Matches any extent in CheckTensor.
inline constexpr int64_t kAnyExtent = -1;

// Throws KernelError("<op>: <operand>: <problem>").
[[noreturn]] void ThrowKernelError(std::string_view op, std::string_view operand,
                                   const std::string& problem);
[[noreturn]] void ThrowOutOfMemory(std::string_view op, std::string_view operand,
                                   const std::string& problem);
[[noreturn]] void ThrowMissingLibrary(std::string_view op, std::string_view library,
                                      const std::string& problem);

// Throws the error of an op whose CUDA form is not part of this build.
[[noreturn]] void ThrowBuiltWithoutCuda(std::string_view op);

// Throws unless `value` is at least `minimum`.
void CheckAtLeast(std::string_view op, std::string_view operand, int64_t value, int64_t minimum);

// Throws unless `condition`; the message shows `value`.
inline void Check(bool condition, std::string_view op, std::string_view operand,
                  std::string_view requirement, double value) {
  if (condition) return;
  ThrowKernelError(op, operand,
                   "must be " + std::string(requirement) + ", is " + std::to_string(value));
}

// Throws unless `tensor` lies on the stream's device, has this dtype and shape (kAnyExtent
// matches all), a contiguous last dimension, and data when it is not empty.
void CheckTensor(std::string_view op, std::string_view operand, const ConstTensorView& tensor,
                 DType dtype, std::initializer_list<int64_t> shape, const Stream& stream);

// The same without a demand on the dtype.
void CheckTensor(std::string_view op, std::string_view operand, const ConstTensorView& tensor,
                 std::initializer_list<int64_t> shape, const Stream& stream);

}  // namespace parallax::kernels

#endif  // PARALLAX_KERNELS_CHECK_H_
