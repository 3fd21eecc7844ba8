// Bearer tokens: from a file to the principal of a call.
//
// File format, one token a line:
//
//   # name   token                  limits, both optional
//   alice    9f86d081884c7d659a2f   max_concurrent=8 max_requests_per_second=20
//   batch    60303ae22b998861bce3
//
// Names: 1 to 64 of A-Z a-z 0-9 . _ -, unique, not "anonymous". Tokens: 8 to 512 printable
// characters without spaces and #, unique. A field that begins with # begins a comment. Anything
// else is refused with the line's number and the field's; nothing of the file is printed, for a
// token may stand in any place of a line that is not as it should be.
//
// A call carries the metadatum `authorization: Bearer TOKEN`. Only SHA-256 digests are kept;
// each presented token is compared with all of them in constant time.
//
// Thread safety: safe.
#ifndef PARALLAX_SERVER_AUTH_H_
#define PARALLAX_SERVER_AUTH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "server/principal.h"

namespace parallax::server {

using TokenDigest = std::array<uint8_t, 32>;

struct TokenEntry {
  std::string name;
  TokenDigest digest;
  CallerLimits limits;
};

/// INVALID_ARGUMENT naming the line and what is wrong with it, without a word of the file.
absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(std::string_view text);

class Authenticator {
 public:
  /// Serves everyone as one unlimited principal, "anonymous".
  static std::unique_ptr<Authenticator> Anonymous();
  /// Errors: the file cannot be read or parsed, or holds no token.
  static absl::StatusOr<std::unique_ptr<Authenticator>> FromFile(std::string path);

  /// `authorization`: the metadatum's value, if the call has one. UNAUTHENTICATED without
  /// saying which part was wrong.
  absl::StatusOr<std::shared_ptr<Principal>> Authenticate(
      std::optional<std::string_view> authorization) const;

  /// Reads the file again; after an error the old tokens stay. Principals that keep their
  /// name keep their running requests. No effect without a file.
  absl::Status Reload();

  bool requires_token() const { return !path_.empty(); }

  /// Every name that a call was or could have been authenticated as since start, those that
  /// a reload removed included: they may still have live requests.
  std::vector<std::string> PrincipalNames() const;

 private:
  struct Credential {
    TokenDigest digest;
    std::shared_ptr<Principal> principal;
  };
  using Credentials = std::vector<Credential>;

  explicit Authenticator(std::string path);
  std::shared_ptr<const Credentials> Snapshot() const;

  const std::string path_;                      // empty: anonymous
  const std::shared_ptr<Principal> anonymous_;  // null with a file
  mutable Mutex mutex_;
  std::shared_ptr<const Credentials> credentials_ PARALLAX_GUARDED_BY(mutex_);
  std::set<std::string> names_ PARALLAX_GUARDED_BY(mutex_);
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_AUTH_H_
