#include "server/vllm/tokenizer_archive.h"

#include <openssl/sha.h>
#include <zlib.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace parallax::server {
namespace {

constexpr std::array<const char*, 11> kNames = {"tokenizer.json",
                                                "tokenizer.model",
                                                "tokenizer_config.json",
                                                "special_tokens_map.json",
                                                "added_tokens.json",
                                                "vocab.json",
                                                "merges.txt",
                                                "chat_template.jinja",
                                                "chat_template.json",
                                                "config.json",
                                                "generation_config.json"};

// 1980-01-01, the first day that zip knows: the archive depends on the files alone.
constexpr uint16_t kDate = 0x0021;
constexpr uint16_t kVersion = 20;  // 2.0, the first with method "stored" as it is today

void Put(uint32_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

// What local and central headers have in common, from "version needed" on.
void PutEntry(const std::string& name, const std::string& content, std::string* out) {
  const auto crc = static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()));
  Put(kVersion, 2, out);
  Put(0, 2, out);  // flags
  Put(0, 2, out);  // method: stored
  Put(0, 2, out);  // time
  Put(kDate, 2, out);
  Put(crc, 4, out);
  Put(static_cast<uint32_t>(content.size()), 4, out);  // compressed
  Put(static_cast<uint32_t>(content.size()), 4, out);
  Put(static_cast<uint32_t>(name.size()), 2, out);
  Put(0, 2, out);  // extra field
}

std::string Sha256Hex(std::string_view bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return absl::BytesToHexString(digest);
}

}  // namespace

std::string MakeStoredZip(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string zip;
  std::string directory;
  for (const auto& [name, content] : files) {
    const auto offset = static_cast<uint32_t>(zip.size());
    Put(0x04034b50, 4, &zip);
    PutEntry(name, content, &zip);
    zip += name;
    zip += content;
    Put(0x02014b50, 4, &directory);
    Put(kVersion, 2, &directory);  // made by
    PutEntry(name, content, &directory);
    Put(0, 2, &directory);  // comment
    Put(0, 2, &directory);  // disk
    Put(0, 2, &directory);  // internal attributes
    Put(0, 4, &directory);  // external attributes
    Put(offset, 4, &directory);
    directory += name;
  }
  const auto directory_offset = static_cast<uint32_t>(zip.size());
  zip += directory;
  Put(0x06054b50, 4, &zip);
  Put(0, 4, &zip);  // disks
  Put(static_cast<uint32_t>(files.size()), 2, &zip);
  Put(static_cast<uint32_t>(files.size()), 2, &zip);
  Put(static_cast<uint32_t>(directory.size()), 4, &zip);
  Put(directory_offset, 4, &zip);
  Put(0, 2, &zip);  // comment
  return zip;
}

TokenizerArchive::TokenizerArchive(std::string zip)
    : zip_(std::move(zip)), sha256_(Sha256Hex(zip_)) {}

absl::StatusOr<std::unique_ptr<TokenizerArchive>> TokenizerArchive::FromFolder(
    const std::string& folder) {
  std::vector<std::pair<std::string, std::string>> files;
  size_t bytes = 0;
  for (const char* name : kNames) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::ifstream file(path, std::ios::binary);
    if (!file) continue;
    std::error_code error;
    bytes += std::filesystem::file_size(path, error);
    if (error || bytes > kMaxBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(folder, ": the tokenizer's files have more than ", kMaxBytes, " bytes"));
    }
    std::ostringstream content;
    content << file.rdbuf();
    files.emplace_back(name, std::move(content).str());
  }
  if (files.empty()) return absl::NotFoundError(absl::StrCat(folder, " has no tokenizer"));
  return std::make_unique<TokenizerArchive>(MakeStoredZip(files));
}

}  // namespace parallax::server
