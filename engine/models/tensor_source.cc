#include "engine/models/tensor_source.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace parallax {

using kernels::DType;

namespace {

constexpr size_t kMaxListedNames = 5;

std::optional<DType> FloatDType(const std::string& dtype) {
  if (dtype == "F32") return DType::kFloat32;
  if (dtype == "BF16") return DType::kBFloat16;
  if (dtype == "F16") return DType::kFloat16;
  return std::nullopt;
}

std::string ShapeString(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

float BFloat16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

float Float16ToFloat(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int mantissa = bits & 0x3ff;
  float magnitude = 0;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Rounds the float32 pattern of a value of moderate size to nearest; ties need no care here.
uint16_t DummyBits16(float value, DType dtype) {
  if (dtype == DType::kBFloat16) {
    return static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0x8000u) >> 16);
  }
  // Scaling by 2^-112 moves the exponent bias from 127 to 15; subnormals come out right.
  const uint32_t scaled = std::bit_cast<uint32_t>(std::fabs(value) * 0x1p-112f) + 0x1000u;
  return static_cast<uint16_t>(scaled >> 13 | (value < 0 ? 0x8000u : 0u));
}

// The i-th number (from 0) of SplitMix64's sequence from `seed`: any place can start anywhere.
uint64_t SplitMix64At(uint64_t seed, int64_t i) {
  uint64_t z = seed + 0x9e3779b97f4a7c15u * (static_cast<uint64_t>(i) + 1);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

uint64_t HashName(uint64_t seed, const std::string& name) {
  uint64_t hash = seed ^ 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// Calls work(begin, end) for parts of [0, count), each long enough for a thread of its own.
void ForRanges(int64_t count, const std::function<void(int64_t, int64_t)>& work) {
  constexpr int64_t kLeastElements = int64_t{1} << 18;
  constexpr int64_t kMostThreads = 32;
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t parts =
      std::clamp<int64_t>(count / kLeastElements, 1, std::min(cores, kMostThreads));
  std::vector<std::thread> threads;
  for (int64_t part = 1; part < parts; ++part) {
    threads.emplace_back(work, count * part / parts, count * (part + 1) / parts);
  }
  work(0, count / parts);
  for (std::thread& thread : threads) thread.join();
}

std::shared_ptr<void> AllocateBytes(size_t bytes) {
  return std::shared_ptr<void>(::operator new (bytes, std::align_val_t{64}),
                               [](void* p) { ::operator delete (p, std::align_val_t{64}); });
}

HostTensor AllocateTensor(DType dtype, const std::vector<int64_t>& shape) {
  HostTensor tensor;
  tensor.dtype = dtype;
  tensor.shape = shape;
  std::shared_ptr<void> memory =
      AllocateBytes(static_cast<size_t>(tensor.num_elements()) * kernels::DTypeSize(dtype));
  tensor.data = memory.get();
  tensor.owner = std::move(memory);
  return tensor;
}

// The memory of a tensor that AllocateTensor has just made and nobody else sees.
void* MutableData(const HostTensor& tensor) { return const_cast<void*>(tensor.data); }

}  // namespace

int64_t HostTensor::num_elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

kernels::ConstTensorView HostTensor::view() const {
  assert(shape.size() == 1 || shape.size() == 2);
  return shape.size() == 1 ? kernels::ConstTensorView(data, dtype, {shape[0]})
                           : kernels::ConstTensorView(data, dtype, {shape[0], shape[1]});
}

std::vector<float> HostTensor::ToFloat() const {
  std::vector<float> values(num_elements());
  if (dtype == DType::kFloat32) {
    std::memcpy(values.data(), data, values.size() * sizeof(float));
    return values;
  }
  const auto* bits = static_cast<const uint16_t*>(data);
  std::transform(bits, bits + values.size(), values.begin(),
                 dtype == DType::kBFloat16 ? BFloat16ToFloat : Float16ToFloat);
  return values;
}

HostTensor ToFloat32Tensor(const HostTensor& tensor) {
  auto values = std::make_shared<std::vector<float>>(tensor.ToFloat());
  HostTensor converted{DType::kFloat32, tensor.shape, values->data(), nullptr};
  converted.owner = std::move(values);
  return converted;
}

CheckpointTensorSource::CheckpointTensorSource(
    std::shared_ptr<const SafetensorsCheckpoint> checkpoint)
    : checkpoint_(std::move(checkpoint)) {}

bool CheckpointTensorSource::Contains(const std::string& name) const {
  return checkpoint_->tensors().contains(name);
}

absl::StatusOr<HostTensor> CheckpointTensorSource::Get(const std::string& name,
                                                       const std::vector<int64_t>& shape) {
  const auto found = checkpoint_->tensors().find(name);
  if (found == checkpoint_->tensors().end()) {
    return absl::NotFoundError(absl::StrCat("tensor ", name, " is missing from the checkpoint"));
  }
  const SafetensorsTensor& stored = found->second;
  if (stored.shape != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": shape ", ShapeString(stored.shape),
                     ", but config.json asks for ", ShapeString(shape)));
  }
  const std::optional<DType> dtype = FloatDType(stored.dtype);
  if (!dtype) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ": dtype ", stored.dtype,
                                                   " is not supported; known: BF16, F16, F32"));
  }
  used_.insert(name);
  HostTensor tensor{*dtype, shape, stored.bytes.data(), checkpoint_};
  if (reinterpret_cast<uintptr_t>(tensor.data) % kernels::DTypeSize(*dtype) != 0) {
    // The format does not promise alignment.
    tensor = AllocateTensor(*dtype, shape);
    std::memcpy(MutableData(tensor), stored.bytes.data(), stored.bytes.size());
  }
  return tensor;
}

void CheckpointTensorSource::Ignore(const std::string& name) { used_.insert(name); }

absl::Status CheckpointTensorSource::CheckAllUsed() const {
  std::vector<std::string> extra;
  size_t count = 0;
  for (const auto& [name, tensor] : checkpoint_->tensors()) {
    if (used_.contains(name)) continue;
    if (++count <= kMaxListedNames) extra.push_back(name);
  }
  if (count == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the checkpoint holds ", count, " tensors that its config.json has no use for: ",
                   absl::StrJoin(extra, ", "), count > kMaxListedNames ? ", ..." : ""));
}

void CheckpointTensorSource::ReleasePages() { checkpoint_->ReleasePages(); }

absl::StatusOr<HostTensor> DummyTensorSource::Get(const std::string& name,
                                                  const std::vector<int64_t>& shape) {
  HostTensor tensor = AllocateTensor(dtype_, shape);
  const bool norm = shape.size() == 1;
  // Uniform on [-1, 1) has variance 1/3.
  const float spread =
      norm ? 0.1f : static_cast<float>(std::sqrt(3.0 / static_cast<double>(shape.back())));
  const float center = norm ? 1.0f : 0.0f;
  const uint64_t seed = HashName(seed_, name);
  ForRanges(tensor.num_elements(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto random = static_cast<int32_t>(SplitMix64At(seed, i) >> 32);
      const float value = center + spread * static_cast<float>(random) * 0x1p-31f;
      if (dtype_ == DType::kFloat32) {
        static_cast<float*>(MutableData(tensor))[i] = value;
      } else {
        static_cast<uint16_t*>(MutableData(tensor))[i] = DummyBits16(value, dtype_);
      }
    }
  });
  return tensor;
}

}  // namespace parallax
