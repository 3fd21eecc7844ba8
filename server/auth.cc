#include "server/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/string_view.h"

namespace parallax::server {
namespace {

constexpr std::string_view kAnonymous = "anonymous";
constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMinTokenBytes = 8;
constexpr size_t kMaxTokenBytes = 512;

TokenDigest Digest(std::string_view token) {
  TokenDigest digest;
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), digest.data());
  return digest;
}

bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

absl::Status CheckName(absl::string_view name) {
  const bool valid = !name.empty() && name.size() <= kMaxNameBytes &&
                     std::all_of(name.begin(), name.end(), IsNameByte) &&
                     name != ToAbsl(kAnonymous);
  if (valid) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the name must be 1 to ", kMaxNameBytes,
                                                 " of A-Z a-z 0-9 . _ - and not \"anonymous\""));
}

absl::Status CheckToken(absl::string_view token) {
  // A # that were part of a token would be one that somebody meant to begin a comment.
  const bool printable = std::all_of(token.begin(), token.end(),
                                     [](char c) { return c > 0x20 && c < 0x7f && c != '#'; });
  if (printable && token.size() >= kMinTokenBytes && token.size() <= kMaxTokenBytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("the token must be ", kMinTokenBytes, " to ",
                                                 kMaxTokenBytes,
                                                 " printable characters other than #"));
}

absl::Status ParseLimit(absl::string_view field, CallerLimits* limits) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(field, absl::MaxSplits('=', 1));
  if (parts.first == "max_concurrent") {
    int32_t value = 0;
    if (!absl::SimpleAtoi(parts.second, &value) || value < 1) {
      return absl::InvalidArgumentError("max_concurrent must be a whole number, at least 1");
    }
    limits->max_concurrent = value;
    return absl::OkStatus();
  }
  if (parts.first == "max_requests_per_second") {
    double value = 0;
    if (!absl::SimpleAtod(parts.second, &value) || !std::isfinite(value) || value <= 0) {
      return absl::InvalidArgumentError("max_requests_per_second must be a number more than 0");
    }
    limits->max_requests_per_second = value;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "neither max_concurrent=N nor max_requests_per_second=R; a name and a token have no spaces");
}

absl::StatusOr<TokenEntry> ParseLine(const std::vector<absl::string_view>& fields) {
  if (fields.size() < 2) return absl::InvalidArgumentError("NAME TOKEN is expected");
  if (absl::Status s = CheckName(fields[0]); !s.ok()) return s;
  if (absl::Status s = CheckToken(fields[1]); !s.ok()) return s;
  TokenEntry entry{std::string(fields[0]), Digest({fields[1].data(), fields[1].size()}), {}};
  for (size_t i = 2; i < fields.size(); ++i) {
    if (absl::Status s = ParseLimit(fields[i], &entry.limits); !s.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("field ", i + 1, ": ", s.message()));
    }
  }
  return entry;
}

// The fields before a comment.
std::vector<absl::string_view> SplitLine(absl::string_view line) {
  std::vector<absl::string_view> fields =
      absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
  const auto comment =
      std::find_if(fields.begin(), fields.end(), [](absl::string_view f) { return f[0] == '#'; });
  fields.erase(comment, fields.end());
  return fields;
}

// `lines` are the entries'.
absl::Status CheckUnique(const std::vector<TokenEntry>& entries, const std::vector<int>& lines,
                         const TokenEntry& added) {
  for (size_t i = 0; i < entries.size(); ++i) {
    const bool same_name = entries[i].name == added.name;
    if (!same_name && entries[i].digest != added.digest) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the same ", same_name ? "name" : "token", " as in line ", lines[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenEntry>> ReadTokenFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--auth-token-file: ", path, " cannot be read, or is empty: ", std::strerror(errno)));
  }
  absl::StatusOr<std::vector<TokenEntry>> entries = ParseTokenFile(text.str());
  if (entries.ok() && entries->empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--auth-token-file: ", path, " has no token"));
  }
  if (entries.ok()) return entries;
  return absl::InvalidArgumentError(
      absl::StrCat("--auth-token-file: ", path, ": ", entries.status().message()));
}

}  // namespace

absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(std::string_view text) {
  std::vector<TokenEntry> entries;
  std::vector<int> lines;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(ToAbsl(text), '\n')) {
    ++line_number;
    const std::vector<absl::string_view> fields = SplitLine(line);
    if (fields.empty()) continue;
    absl::StatusOr<TokenEntry> entry = ParseLine(fields);
    absl::Status status = entry.ok() ? CheckUnique(entries, lines, *entry) : entry.status();
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line_number, ": ", status.message()));
    }
    entries.push_back(*std::move(entry));
    lines.push_back(line_number);
  }
  return entries;
}

Authenticator::Authenticator(std::string path)
    : path_(std::move(path)),
      anonymous_(path_.empty()
                     ? std::make_shared<Principal>(std::string(kAnonymous), CallerLimits())
                     : nullptr),
      credentials_(std::make_shared<Credentials>()) {}

std::unique_ptr<Authenticator> Authenticator::Anonymous() {
  return std::unique_ptr<Authenticator>(new Authenticator(""));
}

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::FromFile(std::string path) {
  std::unique_ptr<Authenticator> authenticator(new Authenticator(std::move(path)));
  if (absl::Status s = authenticator->Reload(); !s.ok()) return s;
  return authenticator;
}

std::shared_ptr<const Authenticator::Credentials> Authenticator::Snapshot() const {
  MutexLock lock(&mutex_);
  return credentials_;
}

absl::StatusOr<std::shared_ptr<Principal>> Authenticator::Authenticate(
    std::optional<std::string_view> authorization) const {
  if (!requires_token()) return anonymous_;
  constexpr std::string_view kScheme = "Bearer ";
  const std::string_view header = authorization.value_or(std::string_view());
  const bool has_scheme = header.starts_with(kScheme);
  const TokenDigest digest = Digest(has_scheme ? header.substr(kScheme.size()) : header);
  const auto credentials = Snapshot();
  // No early exit: the time must not tell which entry matched, or whether one did.
  std::shared_ptr<Principal> match;
  for (const Credential& credential : *credentials) {
    if (CRYPTO_memcmp(credential.digest.data(), digest.data(), digest.size()) == 0) {
      match = credential.principal;
    }
  }
  if (has_scheme && match != nullptr) return match;
  return absl::UnauthenticatedError(
      "the metadatum authorization must be \"Bearer \" and a token that this server knows");
}

absl::Status Authenticator::Reload() {
  if (!requires_token()) return absl::OkStatus();
  absl::StatusOr<std::vector<TokenEntry>> entries = ReadTokenFile(path_);
  if (!entries.ok()) return entries.status();
  const auto old = Snapshot();
  auto fresh = std::make_shared<Credentials>();
  for (TokenEntry& entry : *entries) {
    std::shared_ptr<Principal> principal;
    for (const Credential& credential : *old) {
      if (credential.principal->name() == entry.name) principal = credential.principal;
    }
    if (principal != nullptr) {
      principal->SetLimits(entry.limits);
    } else {
      principal = std::make_shared<Principal>(std::move(entry.name), entry.limits);
    }
    fresh->push_back({entry.digest, std::move(principal)});
  }
  MutexLock lock(&mutex_);
  for (const Credential& credential : *fresh) names_.insert(credential.principal->name());
  credentials_ = std::move(fresh);
  return absl::OkStatus();
}

std::vector<std::string> Authenticator::PrincipalNames() const {
  if (!requires_token()) return {anonymous_->name()};
  MutexLock lock(&mutex_);
  return {names_.begin(), names_.end()};
}

}  // namespace parallax::server
