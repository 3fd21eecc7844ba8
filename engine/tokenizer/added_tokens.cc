#include "engine/tokenizer/added_tokens.h"

#include <utility>

#include "engine/tokenizer/character_class.h"
#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

// The last character of `text`. REQUIRES: not empty, valid UTF-8.
Utf8Char LastCharacter(std::string_view text) {
  size_t begin = text.size() - 1;
  while ((static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return DecodeUtf8(text.substr(begin));
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(LastCharacter(text).code_point);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(DecodeUtf8(text).code_point);
}

size_t TrailingSpaceBegin(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char last = LastCharacter(text);
    if (!IsWhiteSpace(last.code_point)) break;
    text.remove_suffix(last.length);
  }
  return text.size();
}

size_t LeadingSpaceEnd(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const Utf8Char next = DecodeUtf8(text.substr(end));
    if (!IsWhiteSpace(next.code_point)) break;
    end += next.length;
  }
  return end;
}

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  return !EndsWithWord(text.substr(0, begin)) && !StartsWithWord(text.substr(end));
}

}  // namespace

AddedTokenSplitter::AddedTokenSplitter(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)) {
  std::vector<int32_t> nodes;
  for (const AddedToken& token : tokens_) nodes.push_back(trie_.Insert(token.content));
  token_at_node_.assign(trie_.size(), -1);
  for (size_t i = 0; i < nodes.size(); ++i) token_at_node_[nodes[i]] = static_cast<int32_t>(i);
}

const AddedToken* AddedTokenSplitter::LongestAt(std::string_view text, size_t at) const {
  const AddedToken* longest = nullptr;
  int32_t node = ByteTrie::kRoot;
  for (; at < text.size(); ++at) {
    node = trie_.Child(node, static_cast<uint8_t>(text[at]));
    if (node == ByteTrie::kNone) break;
    if (token_at_node_[node] >= 0) longest = &tokens_[token_at_node_[node]];
  }
  return longest;
}

std::optional<AddedTokenSplitter::Match> AddedTokenSplitter::Find(std::string_view text,
                                                                  size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (const AddedToken* token = LongestAt(text, at)) {
      return Match{at, at + token->content.size(), token};
    }
  }
  return std::nullopt;
}

absl::Status AddedTokenSplitter::Split(std::string_view text, TextFunction on_text,
                                       TokenFunction on_token) const {
  if (tokens_.empty()) return on_text(text);
  size_t text_begin = 0;
  size_t search_from = 0;
  while (std::optional<Match> match = Find(text, search_from)) {
    search_from = match->end;
    auto [begin, end, token] = *match;
    if (token->single_word && !StandsAlone(text, begin, end)) continue;
    if (token->lstrip) begin = TrailingSpaceBegin(text.substr(0, begin));
    if (token->rstrip) end += LeadingSpaceEnd(text.substr(end));
    if (text_begin < begin) {
      if (absl::Status status = on_text(text.substr(text_begin, begin - text_begin));
          !status.ok()) {
        return status;
      }
    }
    on_token(token->id);
    text_begin = end;
  }
  return text_begin < text.size() ? on_text(text.substr(text_begin)) : absl::OkStatus();
}

}  // namespace parallax
