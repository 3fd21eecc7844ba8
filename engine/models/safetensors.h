// Reading of safetensors files: strict, memory-mapped, one file or shards.
//
// Layout of a file: 8 bytes little-endian header length N, N bytes of JSON, then the data.
// The header maps each tensor name to {"dtype", "shape", "data_offsets": [begin, end)},
// offsets relative to the data (https://github.com/huggingface/safetensors).
//
// A checkpoint is untrusted input. Refused, with the tensor's name: offsets outside the file,
// overlaps and holes, sizes that differ from shape x dtype, repeated names, unknown dtypes,
// unexpected fields, trailing bytes, header lengths that are absurd.
//
// Thread safety: immutable after Open; safe to read from any thread. A file that is truncated
// while it is mapped raises SIGBUS on access: replace checkpoints by renaming, never in place.
// Errors: NOT_FOUND (no such file), INVALID_ARGUMENT (malformed), both naming the file.
#ifndef PARALLAX_ENGINE_MODELS_SAFETENSORS_H_
#define PARALLAX_ENGINE_MODELS_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace parallax {

// One entry of a header.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as written: "BF16", "F16", "F32", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the data
  uint64_t end = 0;
};

struct SafetensorsHeader {
  uint64_t data_offset = 0;               // bytes from the start of the file to the data
  std::vector<SafetensorsEntry> tensors;  // in file order
};

// Parses and checks the header of a file of `file_size` bytes of which `bytes` are the first
// (the whole header must be among them). Pure: touches no file.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> bytes,
                                                         uint64_t file_size);

// Parses the text of a model.safetensors.index.json: tensor name -> shard file name. Shard
// names are plain file names; anything that leads out of the folder is refused.
absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view json_text);

// A whole file, mapped read-only.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  void ReleasePages() const;

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

// A tensor as it lies in the mapping: little-endian, row-major, not necessarily aligned.
struct SafetensorsTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// All tensors of a model folder.
class SafetensorsCheckpoint {
 public:
  // Maps model.safetensors or, without it, the shards of model.safetensors.index.json.
  static absl::StatusOr<std::unique_ptr<SafetensorsCheckpoint>> Open(const std::string& folder);

  const std::map<std::string, SafetensorsTensor>& tensors() const { return tensors_; }

  // Drops the mapped pages from this process; a later access maps them in again. Called after
  // packing, so that weights do not count twice in the resident set.
  void ReleasePages() const;

 private:
  SafetensorsCheckpoint() = default;
  absl::Status AddFile(const std::string& folder, const std::string& file,
                       const std::map<std::string, std::string>* weight_map);

  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, SafetensorsTensor> tensors_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_SAFETENSORS_H_
