// ChoiceText: the text of one choice, token by token: detokenizer, then stop strings.
//
// Thread safety: none; built on the submitting thread, then the engine thread's.
// Cost: appends to the caller's string; allocates nothing once its buffers have their size.
#ifndef PARALLAX_ENGINE_CHOICE_TEXT_H_
#define PARALLAX_ENGINE_CHOICE_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/request.h"
#include "engine/tokenizer/incremental_detokenizer.h"
#include "engine/tokenizer/stop_matcher.h"
#include "engine/tokenizer/tokenizer.h"

namespace parallax {

class ChoiceText {
 public:
  /// `tokenizer` may be null: then there is never any text. With `echo`, the prompt's text is
  /// appended to it and a character that the prompt leaves unfinished is carried on.
  ChoiceText(const Tokenizer* tokenizer, const Request& request, std::string* echo);

  /// Appends what `token` makes known. With `match_stops`, returns the index of the stop
  /// string that it completes; the text has ended then.
  std::optional<size_t> Append(int32_t token, bool match_stops, std::string* text);

  /// The text has ended: appends what was held back.
  void Flush(std::string* text);

 private:
  std::optional<IncrementalDetokenizer> detokenizer_;
  StopMatcher matcher_;
  std::string piece_;  // reused
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CHOICE_TEXT_H_
