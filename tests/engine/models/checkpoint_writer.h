// Writes small random checkpoints, in every convention, sharded or not, in every dtype.
//
// Weights are made once under their Hugging Face names and rounded to the storage dtype, so
// that the reference model computes with exactly what the engine loads. The renaming to fla's
// convention is this file's own: it does not share the engine's table.
//
// Thread safety: none needed.
#ifndef PARALLAX_TESTS_ENGINE_MODELS_CHECKPOINT_WRITER_H_
#define PARALLAX_TESTS_ENGINE_MODELS_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/reference/reference_model.h"

namespace parallax::testing {

/// A fresh folder, removed with everything in it at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct CheckpointSpec {
  std::string architecture = "ParallaxQwen3ForCausalLM";
  ReferenceShape shape;
  std::string dtype = "F32";  // or "BF16", "F16"
  int num_shards = 1;         // more than one: with an index
  uint64_t seed = 1;
};

/// A tensor as it goes into a file.
struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

/// A two-layer model of a few thousand weights.
CheckpointSpec TinySpec(const std::string& architecture = "ParallaxQwen3ForCausalLM");

/// Random weights under Hugging Face names, representable in spec.dtype. Probe projections are
/// large enough for the correction to outweigh the softmax output.
ReferenceModel::Tensors MakeTensors(const CheckpointSpec& spec);

/// The same under the names and in the dtype of spec's convention.
RawTensors ToRawTensors(const CheckpointSpec& spec, const ReferenceModel::Tensors& tensors);

nlohmann::json MakeConfig(const CheckpointSpec& spec);

/// The bytes of a safetensors file: with this header, or with the right one for `tensors`.
std::string SafetensorsBytes(const std::string& header, const std::string& data);
std::string SafetensorsBytes(const RawTensors& tensors);

void WriteFile(const std::string& path, const std::string& bytes);

/// config.json and the weights.
void WriteCheckpoint(const CheckpointSpec& spec, const RawTensors& tensors,
                     const std::string& folder);
/// All of the above; returns the weights for the reference.
ReferenceModel::Tensors WriteRandomCheckpoint(const CheckpointSpec& spec,
                                              const std::string& folder);

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_MODELS_CHECKPOINT_WRITER_H_
