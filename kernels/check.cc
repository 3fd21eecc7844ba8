#include "kernels/check.h"

#include <sstream>

namespace parallax::kernels {
namespace {

std::string Message(std::string_view op, std::string_view operand, const std::string& problem) {
  std::string message(op);
  message.append(": ").append(operand).append(": ").append(problem);
  return message;
}

void PrintExtents(std::ostringstream& out, const int64_t* extents, size_t rank) {
  out << '[';
  for (size_t axis = 0; axis < rank; ++axis) {
    if (axis > 0) out << ", ";
    if (extents[axis] == kAnyExtent) {
      out << '*';
    } else {
      out << extents[axis];
    }
  }
  out << ']';
}

bool ShapeMatches(const ConstTensorView& tensor, std::initializer_list<int64_t> shape) {
  if (tensor.rank != static_cast<int>(shape.size())) return false;
  int axis = 0;
  for (int64_t extent : shape) {
    if (extent != kAnyExtent && extent != tensor.shape[axis]) return false;
    if (tensor.shape[axis] < 0) return false;
    ++axis;
  }
  return true;
}

}  // namespace

void ThrowKernelError(std::string_view op, std::string_view operand, const std::string& problem) {
  throw KernelError(Message(op, operand, problem));
}

void ThrowOutOfMemory(std::string_view op, std::string_view operand, const std::string& problem) {
  throw OutOfMemoryError(Message(op, operand, problem));
}

void ThrowMissingLibrary(std::string_view op, std::string_view library,
                         const std::string& problem) {
  throw MissingLibraryError(Message(op, library, problem));
}

void ThrowBuiltWithoutCuda(std::string_view op) {
  ThrowKernelError(op, "stream", "is a CUDA stream, but this program was built without CUDA");
}

void CheckAtLeast(std::string_view op, std::string_view operand, int64_t value, int64_t minimum) {
  if (value >= minimum) return;
  ThrowKernelError(op, operand,
                   "must be at least " + std::to_string(minimum) + ", is " + std::to_string(value));
}

void CheckTensor(std::string_view op, std::string_view operand, const ConstTensorView& tensor,
                 DType dtype, std::initializer_list<int64_t> shape, const Stream& stream) {
  CheckTensor(op, operand, tensor, shape, stream);
  if (tensor.dtype == dtype) return;
  ThrowKernelError(
      op, operand,
      "must be " + std::string(DTypeName(dtype)) + ", is " + std::string(DTypeName(tensor.dtype)));
}

void CheckTensor(std::string_view op, std::string_view operand, const ConstTensorView& tensor,
                 std::initializer_list<int64_t> shape, const Stream& stream) {
  if (!ShapeMatches(tensor, shape)) {
    std::ostringstream problem;
    problem << "must have shape ";
    PrintExtents(problem, shape.begin(), shape.size());
    problem << ", has ";
    PrintExtents(problem, tensor.shape.data(), tensor.rank);
    ThrowKernelError(op, operand, problem.str());
  }
  const int last = tensor.rank - 1;
  if (last >= 0 && tensor.shape[last] > 1 && tensor.strides[last] != 1) {
    ThrowKernelError(op, operand,
                     "must have a contiguous last dimension, has stride " +
                         std::to_string(tensor.strides[last]));
  }
  if (tensor.device != stream.device()) {
    ThrowKernelError(op, operand, "must be on the stream's device");
  }
  if (tensor.data == nullptr && tensor.num_elements() > 0) {
    ThrowKernelError(op, operand, "must have data, is null");
  }
}

}  // namespace parallax::kernels
