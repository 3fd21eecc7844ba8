// Where weights come from: a checkpoint's files, or a seeded generator.
//
// A source hands out tensors by name, having checked them against the shape that the model's
// configuration asks for. Floating-point tensors only: bf16, f16, f32.
//
// Thread safety: none; one thread loads a model. The tensors may outlive the source.
// Errors: NOT_FOUND (missing tensor), INVALID_ARGUMENT (shape, dtype, extra tensor), always
// with the tensor's name.
#ifndef PARALLAX_ENGINE_MODELS_TENSOR_SOURCE_H_
#define PARALLAX_ENGINE_MODELS_TENSOR_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/models/safetensors.h"
#include "kernels/dtype.h"
#include "kernels/tensor_view.h"

namespace parallax {

// A tensor in host memory, aligned for its dtype.
struct HostTensor {
  kernels::DType dtype = kernels::DType::kFloat32;
  std::vector<int64_t> shape;  // rank 1 or 2
  const void* data = nullptr;
  std::shared_ptr<const void> owner;  // keeps `data` alive

  int64_t num_elements() const;
  kernels::ConstTensorView view() const;
  std::vector<float> ToFloat() const;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // Whether the source holds `name` at all.
  virtual bool Contains(const std::string& name) const = 0;

  // The tensor `name`, which must have `shape`.
  virtual absl::StatusOr<HostTensor> Get(const std::string& name,
                                         const std::vector<int64_t>& shape) = 0;

  // Accepts `name` unread: a tensor that a checkpoint may hold and the model derives itself.
  virtual void Ignore(const std::string& name) = 0;

  // Refuses the source if it holds tensors that were neither read nor ignored.
  virtual absl::Status CheckAllUsed() const = 0;

  // Called once everything was read and packed: lets go of memory that is unlikely to be
  // touched again (tensors stay valid).
  virtual void ReleasePages() {}
};

// Tensors of a checkpoint folder, mapped from its files.
class CheckpointTensorSource : public TensorSource {
 public:
  explicit CheckpointTensorSource(std::shared_ptr<const SafetensorsCheckpoint> checkpoint);

  bool Contains(const std::string& name) const override;
  absl::StatusOr<HostTensor> Get(const std::string& name,
                                 const std::vector<int64_t>& shape) override;
  void Ignore(const std::string& name) override;
  absl::Status CheckAllUsed() const override;
  void ReleasePages() override;

 private:
  const std::shared_ptr<const SafetensorsCheckpoint> checkpoint_;
  std::set<std::string> used_;
};

// `--load-format dummy`: random weights without files, for benchmarks and tests. A tensor's
// values depend on the seed and its name alone. Matrices are uniform with variance 1 / columns,
// which keeps activations of order one through any depth; norms lie around one.
class DummyTensorSource : public TensorSource {
 public:
  DummyTensorSource(uint64_t seed, kernels::DType dtype) : seed_(seed), dtype_(dtype) {}

  bool Contains(const std::string& name) const override { return true; }
  absl::StatusOr<HostTensor> Get(const std::string& name,
                                 const std::vector<int64_t>& shape) override;
  void Ignore(const std::string& name) override {}
  absl::Status CheckAllUsed() const override { return absl::OkStatus(); }

 private:
  const uint64_t seed_;
  const kernels::DType dtype_;
};

// A float32 copy, for fused groups whose members differ in dtype.
HostTensor ToFloat32Tensor(const HostTensor& tensor);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_TENSOR_SOURCE_H_
