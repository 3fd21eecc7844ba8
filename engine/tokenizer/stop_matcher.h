// StopMatcher: finds stop strings in a text that arrives in pieces.
//
// Text that may begin a stop string is held back; Flush gives it up when the text ends. The
// result does not depend on how the text was cut into pieces: the stop string that is complete
// first wins, and of several that end at the same character the one listed first.
//
// Method: Aho and Corasick, "Efficient string matching" (1975). The depth of the automaton's
// state is the length of the longest end of the text that may begin a stop string: exactly what
// must be held back.
//
// Thread safety: none; one owner at a time. Copies share the immutable automaton, so that the
// choices of one request build it once.
// Cost: one automaton step a byte; no allocation once the held text's buffer has its size.
#ifndef PARALLAX_ENGINE_TOKENIZER_STOP_MATCHER_H_
#define PARALLAX_ENGINE_TOKENIZER_STOP_MATCHER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace parallax {

class StopMatcher {
 public:
  /// REQUIRES: no stop string is empty. `include_stop`: the matched string stays in the text.
  StopMatcher(std::span<const std::string> stop_strings, bool include_stop);

  /// Takes the next piece of text and appends to `*released` what cannot be part of a stop
  /// string any more. On a match returns the index of the stop string, releases all that stands
  /// before it (and itself, if so asked) and drops the rest; Append must not follow.
  std::optional<size_t> Append(std::string_view text, std::string* released);

  /// The text has ended: releases what was held back.
  void Flush(std::string* released);

 private:
  class Automaton;

  std::optional<size_t> Finish(size_t stop, std::string* released);

  std::shared_ptr<const Automaton> automaton_;  // null without stop strings
  bool include_stop_;
  int32_t state_ = 0;
  std::string held_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_STOP_MATCHER_H_
