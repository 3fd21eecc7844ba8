// TokenizerArchive: the tokenizer's files of a model folder as one zip archive, for gateways
// that tokenize themselves and do not have the folder.
//
// Stored, not deflated: read once at start, sent rarely. The names are a fixed list, so
// nothing else in the folder can leave it.
//
// Thread safety: const after construction.
#ifndef PARALLAX_SERVER_VLLM_TOKENIZER_ARCHIVE_H_
#define PARALLAX_SERVER_VLLM_TOKENIZER_ARCHIVE_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace parallax::server {

class TokenizerArchive {
 public:
  static constexpr size_t kMaxBytes = size_t{200} << 20;  // what the gateway takes

  /// NOT_FOUND if the folder has no tokenizer, RESOURCE_EXHAUSTED over kMaxBytes.
  static absl::StatusOr<std::unique_ptr<TokenizerArchive>> FromFolder(const std::string& folder);

  explicit TokenizerArchive(std::string zip);

  std::string_view zip() const { return zip_; }
  /// Hexadecimal, lower case.
  const std::string& sha256() const { return sha256_; }

 private:
  const std::string zip_;
  const std::string sha256_;
};

/// A zip archive (PKWARE APPNOTE 6.3, method 0) of files given as name and content. REQUIRES:
/// fewer than 65,535 files, all together less than 4 GiB.
std::string MakeStoredZip(const std::vector<std::pair<std::string, std::string>>& files);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_TOKENIZER_ARCHIVE_H_
