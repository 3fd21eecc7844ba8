#include "engine/tokenizer/stop_matcher.h"

#include <algorithm>
#include <vector>

#include "engine/tokenizer/byte_trie.h"

namespace parallax {

class StopMatcher::Automaton {
 public:
  static constexpr int32_t kNoMatch = -1;

  explicit Automaton(std::span<const std::string> stops) : stops_(stops.begin(), stops.end()) {
    std::vector<int32_t> ends;
    for (const std::string& stop : stops_) ends.push_back(trie_.Insert(stop));
    match_.assign(trie_.size(), kNoMatch);
    for (size_t i = stops_.size(); i-- > 0;) match_[ends[i]] = static_cast<int32_t>(i);
    LinkFailures();
  }

  int32_t Next(int32_t state, uint8_t byte) const {
    while (true) {
      const int32_t child = trie_.Child(state, byte);
      if (child != ByteTrie::kNone) return child;
      if (state == ByteTrie::kRoot) return ByteTrie::kRoot;
      state = failure_[state];
    }
  }

  int32_t Match(int32_t state) const { return match_[state]; }
  size_t Depth(int32_t state) const { return trie_.depth(state); }
  size_t StopLength(size_t stop) const { return stops_[stop].size(); }

 private:
  // failure_[node]: the longest proper end of the node's string that is also in the trie.
  // Shorter strings first, as a node's link is found through links of shorter ones.
  void LinkFailures() {
    failure_.assign(trie_.size(), ByteTrie::kRoot);
    std::vector<std::vector<int32_t>> by_depth;
    for (int32_t node = 1; node < trie_.size(); ++node) {
      by_depth.resize(std::max<size_t>(by_depth.size(), trie_.depth(node) + 1));
      by_depth[trie_.depth(node)].push_back(node);
    }
    for (size_t depth = 2; depth < by_depth.size(); ++depth) {
      for (const int32_t node : by_depth[depth]) {
        failure_[node] = Next(failure_[trie_.parent(node)], trie_.byte(node));
      }
    }
    // A stop string that ends a longer one ends with it: the one listed first counts.
    for (const std::vector<int32_t>& nodes : by_depth) {
      for (const int32_t node : nodes) {
        const int32_t inherited = match_[failure_[node]];
        if (inherited == kNoMatch) continue;
        if (match_[node] == kNoMatch || inherited < match_[node]) match_[node] = inherited;
      }
    }
  }

  std::vector<std::string> stops_;
  ByteTrie trie_;
  std::vector<int32_t> failure_;  // [node]
  std::vector<int32_t> match_;    // [node] stop string that is complete here, or kNoMatch
};

StopMatcher::StopMatcher(std::span<const std::string> stop_strings, bool include_stop)
    : include_stop_(include_stop) {
  if (!stop_strings.empty()) automaton_ = std::make_shared<const Automaton>(stop_strings);
}

std::optional<size_t> StopMatcher::Append(std::string_view text, std::string* released) {
  if (automaton_ == nullptr) {
    released->append(text);
    return std::nullopt;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    state_ = automaton_->Next(state_, static_cast<uint8_t>(text[i]));
    const int32_t stop = automaton_->Match(state_);
    if (stop != Automaton::kNoMatch) {
      held_.append(text.substr(0, i + 1));
      return Finish(stop, released);
    }
  }
  const size_t hold = automaton_->Depth(state_);
  if (held_.empty() && hold == 0) {
    released->append(text);
    return std::nullopt;
  }
  held_.append(text);
  released->append(held_, 0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
  return std::nullopt;
}

// REQUIRES: the held text ends with the stop string.
std::optional<size_t> StopMatcher::Finish(size_t stop, std::string* released) {
  const size_t cut = include_stop_ ? 0 : automaton_->StopLength(stop);
  released->append(held_, 0, held_.size() - cut);
  held_.clear();
  return stop;
}

void StopMatcher::Flush(std::string* released) {
  released->append(held_);
  held_.clear();
  state_ = ByteTrie::kRoot;
}

}  // namespace parallax
