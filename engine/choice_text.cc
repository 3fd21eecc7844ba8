#include "engine/choice_text.h"

#include <span>

namespace parallax {
namespace {

// The prompt that the choice's text continues; none if its own text is to come first too.
std::span<const int32_t> PrecedingTokens(const Request& request) {
  if (request.prompt_is_empty_text || request.sampling.echo) return {};
  return request.prompt;
}

}  // namespace

ChoiceText::ChoiceText(const Tokenizer* tokenizer, const Request& request, std::string* echo)
    : matcher_(request.sampling.stop_strings, request.sampling.include_stop) {
  if (tokenizer == nullptr) return;
  detokenizer_.emplace(*tokenizer, PrecedingTokens(request), request.sampling.skip_special_tokens);
  if (!request.sampling.echo) return;
  for (const int32_t token : request.prompt) detokenizer_->Append(token, echo);
}

std::optional<size_t> ChoiceText::Append(int32_t token, bool match_stops, std::string* text) {
  if (!detokenizer_.has_value()) return std::nullopt;
  if (!match_stops) {
    matcher_.Flush(text);  // what was held back stands before this token's text
    detokenizer_->Append(token, text);
    return std::nullopt;
  }
  piece_.clear();
  detokenizer_->Append(token, &piece_);
  return matcher_.Append(piece_, text);
}

void ChoiceText::Flush(std::string* text) {
  if (!detokenizer_.has_value()) return;
  matcher_.Flush(text);
  detokenizer_->Flush(text);
}

}  // namespace parallax
