#include "engine/tokenizer/incremental_detokenizer.h"

#include <algorithm>
#include <cstring>

#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

constexpr size_t kLongestIncomplete = 3;

// Copies the valid text of `bytes` with U+FFFD for what is ill-formed; returns the unfinished
// character at the end.
std::string_view AppendSanitized(std::string_view bytes, std::string* text) {
  while (!bytes.empty()) {
    // Copy the longest valid stretch in one go.
    const size_t valid = FindInvalidUtf8(bytes).value_or(bytes.size());
    text->append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (bytes.empty()) break;
    const Utf8Char bad = DecodeUtf8(bytes);
    if (bad.status == Utf8Status::kIncomplete) return bytes;
    text->append(kReplacementCharacter);
    bytes.remove_prefix(bad.length);
  }
  return {};
}

}  // namespace

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer,
                                               std::span<const int32_t> prompt,
                                               bool skip_special_tokens)
    : tokenizer_(&tokenizer),
      skip_special_tokens_(skip_special_tokens),
      at_text_start_(tokenizer.leading_space() != LeadingSpace::kKeep) {
  for (size_t i = 0; i < prompt.size() && at_text_start_; ++i) {
    if (!IsSkipped(prompt[i])) DropLeadingSpace(prompt[i], tokenizer.TokenBytes(prompt[i]));
  }
  // Only the last three bytes can be part of an unfinished character.
  std::string tail;
  for (size_t i = prompt.size(); i > 0 && tail.size() < kLongestIncomplete; --i) {
    if (!IsSkipped(prompt[i - 1])) tail.insert(0, tokenizer.TokenBytes(prompt[i - 1]));
  }
  const std::string_view unfinished = IncompleteUtf8Suffix(tail);
  std::copy(unfinished.begin(), unfinished.end(), pending_);
  pending_size_ = static_cast<int>(unfinished.size());
}

void IncrementalDetokenizer::Append(int32_t id, std::string* text) {
  if (IsSkipped(id)) return;
  std::string_view bytes = tokenizer_->TokenBytes(id);
  if (at_text_start_) bytes = DropLeadingSpace(id, bytes);
  AppendBytes(bytes, text);
}

void IncrementalDetokenizer::Flush(std::string* text) {
  if (pending_size_ > 0) text->append(kReplacementCharacter);
  pending_size_ = 0;
}

std::string_view IncrementalDetokenizer::DropLeadingSpace(int32_t id, std::string_view bytes) {
  if (bytes.empty()) return bytes;
  const bool drop = tokenizer_->StartsWithSpaceMark(id);
  if (drop) bytes.remove_prefix(1);
  if (!bytes.empty() || tokenizer_->leading_space() == LeadingSpace::kDropOnce) {
    at_text_start_ = false;
  }
  return bytes;
}

void IncrementalDetokenizer::AppendBytes(std::string_view bytes, std::string* text) {
  if (pending_size_ > 0) CompletePending(&bytes, text);
  if (pending_size_ > 0) return;  // `bytes` ended before the character did
  const std::string_view unfinished = AppendSanitized(bytes, text);
  std::copy(unfinished.begin(), unfinished.end(), pending_);
  pending_size_ = static_cast<int>(unfinished.size());
}

// Moves bytes, one by one, behind the pending ones until those are a character or ill-formed.
void IncrementalDetokenizer::CompletePending(std::string_view* bytes, std::string* text) {
  while (!bytes->empty()) {
    pending_[pending_size_] = bytes->front();
    const std::string_view candidate(pending_, pending_size_ + 1);
    const Utf8Char next = DecodeUtf8(candidate);
    if (next.status == Utf8Status::kInvalid) {
      // The new byte does not belong to the character: it starts the next one.
      text->append(kReplacementCharacter);
      pending_size_ = 0;
      return;
    }
    bytes->remove_prefix(1);
    ++pending_size_;
    if (next.status == Utf8Status::kValid) {
      text->append(candidate);
      pending_size_ = 0;
      return;
    }
  }
}

}  // namespace parallax
