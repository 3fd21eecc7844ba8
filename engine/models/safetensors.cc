#include "engine/models/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/models/json_reader.h"

namespace parallax {

using nlohmann::json;

namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxRank = 8;
constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

absl::Status Malformed(const std::string& message) { return absl::InvalidArgumentError(message); }

// Bytes an element takes; 0 = not a dtype of the format.
uint64_t ElementBytes(const std::string& dtype) {
  static constexpr std::pair<const char*, uint64_t> kSizes[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8},
  };
  for (const auto& [name, bytes] : kSizes) {
    if (dtype == name) return bytes;
  }
  return 0;
}

absl::Status ParseShape(const json& value, const std::string& where, SafetensorsEntry& entry) {
  if (!value.is_array() || value.size() > kMaxRank) {
    return Malformed(absl::StrCat(where, "shape = ", JsonExcerpt(value),
                                  ": must be an array of at most ", kMaxRank, " sizes"));
  }
  for (const json& size : value) {
    if (!IsIntegerWithin(size, 0, INT64_MAX)) {
      return Malformed(absl::StrCat(where, "shape = ", JsonExcerpt(value),
                                    ": sizes must be non-negative integers"));
    }
    entry.shape.push_back(size.get<int64_t>());
  }
  return absl::OkStatus();
}

absl::Status ParseOffsets(const json& value, const std::string& where, uint64_t data_bytes,
                          SafetensorsEntry& entry) {
  if (!value.is_array() || value.size() != 2 || !IsIntegerWithin(value[0], 0, INT64_MAX) ||
      !IsIntegerWithin(value[1], 0, INT64_MAX) ||
      value[0].get<int64_t>() > value[1].get<int64_t>()) {
    return Malformed(absl::StrCat(where, "data_offsets = ", JsonExcerpt(value),
                                  ": must be [begin, end] with begin <= end"));
  }
  entry.begin = value[0].get<uint64_t>();
  entry.end = value[1].get<uint64_t>();
  if (entry.end > data_bytes) {
    return Malformed(absl::StrCat(where, "data_offsets = ", JsonExcerpt(value),
                                  ": past the end of the file, which holds ", data_bytes,
                                  " bytes of data (truncated?)"));
  }
  return absl::OkStatus();
}

absl::Status CheckSize(const std::string& where, const SafetensorsEntry& entry) {
  uint64_t expected = ElementBytes(entry.dtype);
  for (const int64_t size : entry.shape) {
    if (__builtin_mul_overflow(expected, static_cast<uint64_t>(size), &expected)) {
      return Malformed(absl::StrCat(where, "shape overflows 64 bits"));
    }
  }
  if (entry.end - entry.begin != expected) {
    return Malformed(absl::StrCat(where, "holds ", entry.end - entry.begin,
                                  " bytes, but its shape and dtype ask for ", expected));
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const json& value,
                                            uint64_t data_bytes) {
  const std::string where = absl::StrCat("tensor ", name, ": ");
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    return Malformed(absl::StrCat(where, JsonExcerpt(value),
                                  ": must have exactly dtype, shape and data_offsets"));
  }
  SafetensorsEntry entry;
  entry.name = name;
  if (const json& dtype = value["dtype"]; dtype.is_string()) entry.dtype = dtype.get<std::string>();
  if (ElementBytes(entry.dtype) == 0) {
    return Malformed(absl::StrCat(where, "dtype = ", JsonExcerpt(value["dtype"]), ": unknown"));
  }
  if (auto status = ParseShape(value["shape"], where, entry); !status.ok()) return status;
  if (auto status = ParseOffsets(value["data_offsets"], where, data_bytes, entry); !status.ok()) {
    return status;
  }
  if (auto status = CheckSize(where, entry); !status.ok()) return status;
  return entry;
}

// Tensors must tile the data: no overlap, no hole, nothing after the last one.
absl::Status CheckTiling(const std::vector<SafetensorsEntry>& sorted, uint64_t data_bytes) {
  uint64_t covered = 0;
  const std::string* previous = nullptr;
  for (const SafetensorsEntry& entry : sorted) {
    if (entry.begin < covered) {
      return Malformed(absl::StrCat("tensor ", entry.name, ": overlaps tensor ", *previous));
    }
    if (entry.begin > covered) {
      return Malformed(absl::StrCat("tensor ", entry.name, ": ", entry.begin - covered,
                                    " unused bytes before it"));
    }
    covered = entry.end;
    previous = &entry.name;
  }
  if (covered != data_bytes) {
    return Malformed(absl::StrCat(data_bytes - covered, " bytes after the last tensor"));
  }
  return absl::OkStatus();
}

absl::Status InFile(const absl::Status& status, const std::string& path) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> bytes,
                                                         uint64_t file_size) {
  if (bytes.size() < 8 || file_size < 8) {
    return Malformed(absl::StrCat("a file of ", file_size, " bytes has no header"));
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | std::to_integer<uint64_t>(bytes[i]);
  if (length < 2 || length > kMaxHeaderBytes || length > file_size - 8 ||
      length > bytes.size() - 8) {
    return Malformed(absl::StrCat("header length ", length, " is impossible in a file of ",
                                  file_size, " bytes (at most ", kMaxHeaderBytes, ")"));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  const absl::StatusOr<json> root = ParseJsonObject(text, "header");
  if (!root.ok()) return root.status();

  SafetensorsHeader header;
  header.data_offset = 8 + length;
  const uint64_t data_bytes = file_size - header.data_offset;
  for (const auto& [name, value] : root->items()) {
    if (name == "__metadata__") continue;
    absl::StatusOr<SafetensorsEntry> entry = ParseEntry(name, value, data_bytes);
    if (!entry.ok()) return entry.status();
    header.tensors.push_back(*std::move(entry));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  if (auto status = CheckTiling(header.tensors, data_bytes); !status.ok()) return status;
  return header;
}

absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view json_text) {
  const absl::StatusOr<json> root = ParseJsonObject(json_text, kIndexFile);
  if (!root.ok()) return root.status();
  const auto weight_map = root->find("weight_map");
  if (weight_map == root->end() || !weight_map->is_object()) {
    return Malformed(absl::StrCat(kIndexFile, ": weight_map is missing or not an object"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, value] : weight_map->items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    if (!absl::EndsWith(file, ".safetensors") || absl::StrContains(file, "/") ||
        file.find('\0') != std::string::npos) {
      return Malformed(absl::StrCat(kIndexFile, ": weight_map.", name, " = ", JsonExcerpt(value),
                                    ": must be the plain name of a .safetensors file"));
    }
    shards[name] = file;
  }
  return shards;
}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::FailedPreconditionError(message);
  }
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Malformed(absl::StrCat(path, ": not a regular file"));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* address = nullptr;
  if (size > 0) address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int map_error = errno;
  close(fd);
  if (address == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": cannot map ", size, " bytes: ", std::strerror(map_error)));
  }
  return std::unique_ptr<MappedFile>(
      new MappedFile({static_cast<const std::byte*>(address), size}));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::ReleasePages() const {
  if (!bytes_.empty()) {
    madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
  }
}

void SafetensorsCheckpoint::ReleasePages() const {
  for (const auto& file : files_) file->ReleasePages();
}

absl::Status SafetensorsCheckpoint::AddFile(const std::string& folder, const std::string& file,
                                            const std::map<std::string, std::string>* weight_map) {
  const std::string path = absl::StrCat(folder, "/", file);
  absl::StatusOr<std::unique_ptr<MappedFile>> mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  const std::span<const std::byte> bytes = (*mapped)->bytes();
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(bytes, bytes.size());
  if (!header.ok()) return InFile(header.status(), path);
  for (SafetensorsEntry& entry : header->tensors) {
    if (weight_map != nullptr) {
      const auto listed = weight_map->find(entry.name);
      if (listed == weight_map->end() || listed->second != file) {
        return Malformed(absl::StrCat(path, ": tensor ", entry.name, ": ", kIndexFile,
                                      " does not place it in this file"));
      }
    }
    tensors_[entry.name] = SafetensorsTensor{
        std::move(entry.dtype), std::move(entry.shape),
        bytes.subspan(header->data_offset + entry.begin, entry.end - entry.begin)};
  }
  files_.push_back(*std::move(mapped));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SafetensorsCheckpoint>> SafetensorsCheckpoint::Open(
    const std::string& folder) {
  auto checkpoint = std::unique_ptr<SafetensorsCheckpoint>(new SafetensorsCheckpoint());
  if (access(absl::StrCat(folder, "/", kSingleFile).c_str(), F_OK) == 0) {
    if (auto status = checkpoint->AddFile(folder, kSingleFile, nullptr); !status.ok()) {
      return status;
    }
    return checkpoint;
  }
  const std::string index_path = absl::StrCat(folder, "/", kIndexFile);
  absl::StatusOr<std::unique_ptr<MappedFile>> index = MappedFile::Open(index_path);
  if (absl::IsNotFound(index.status())) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": holds neither ", kSingleFile, " nor ", kIndexFile));
  }
  if (!index.ok()) return index.status();
  const std::span<const std::byte> text = (*index)->bytes();
  if (text.size() > kMaxIndexBytes) {
    return Malformed(absl::StrCat(index_path, ": ", text.size(), " bytes are too many"));
  }
  const auto weight_map =
      ParseShardIndex({reinterpret_cast<const char*>(text.data()), text.size()});
  if (!weight_map.ok()) return InFile(weight_map.status(), folder);

  std::set<std::string> shard_files;
  for (const auto& [name, file] : *weight_map) shard_files.insert(file);
  for (const std::string& file : shard_files) {
    if (auto status = checkpoint->AddFile(folder, file, &*weight_map); !status.ok()) return status;
  }
  for (const auto& [name, file] : *weight_map) {
    if (!checkpoint->tensors_.contains(name)) {
      return Malformed(absl::StrCat(folder, "/", file, ": tensor ", name, " is missing, though ",
                                    kIndexFile, " lists it"));
    }
  }
  return checkpoint;
}

}  // namespace parallax
