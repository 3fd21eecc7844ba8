// BpeModel: byte-pair encoding of one word (Sennrich et al., arXiv 1508.07909, over bytes).
//
// A word starts as its bytes; the adjacent pair of the lowest rank is merged, leftmost first,
// until no pair has a merge. O(n log n) in the word's length through a heap of pairs.
//
// Most words of real text are tokens themselves. A word is looked up whole first, which gives
// the same ids: at load each token that its own merges build is marked as such.
//
// Thread safety: immutable; each thread brings its Workspace.
#ifndef PARALLAX_ENGINE_TOKENIZER_BPE_MODEL_H_
#define PARALLAX_ENGINE_TOKENIZER_BPE_MODEL_H_

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace parallax {

class BpeModel {
 public:
  /// left and right become result; the position in the list of merges is the rank.
  struct Merge {
    int32_t left;
    int32_t right;
    int32_t result;
  };

  /// Buffers that Encode reuses from word to word.
  class Workspace;

  /// `tokens`: the bytes and the id of each token, bytes and ids unique. `ignore_merges`: a word
  /// that is a token is that token, whether or not its merges lead there.
  /// INVALID_ARGUMENT: a byte that UTF-8 text can contain is no token, so that some text could
  /// not be encoded.
  static absl::StatusOr<BpeModel> Create(std::vector<std::pair<std::string, int32_t>> tokens,
                                         std::span<const Merge> merges, bool ignore_merges);

  /// Appends the tokens of `word` to `ids`. REQUIRES: not empty, part of valid UTF-8 text.
  void Encode(std::string_view word, Workspace* workspace, std::vector<int32_t>* ids) const;

 private:
  struct RankedResult {
    int32_t rank;
    int32_t result;
  };
  struct BytesHash {
    using is_transparent = void;
    size_t operator()(std::string_view bytes) const { return std::hash<std::string_view>{}(bytes); }
  };
  using WordMap = absl::flat_hash_map<std::string, int32_t, BytesHash, std::equal_to<>>;

  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  void MergeWord(std::string_view word, Workspace* workspace, std::vector<int32_t>* ids) const;
  void PushPair(int32_t left, Workspace* workspace) const;
  void MergePair(int32_t left, int32_t result, Workspace* workspace) const;

  std::array<int32_t, 256> byte_ids_{};  // -1: no token
  absl::flat_hash_map<uint64_t, RankedResult> merges_;
  WordMap whole_words_;
  size_t longest_whole_word_ = 0;
};

class BpeModel::Workspace {
 private:
  friend class BpeModel;

  static constexpr int32_t kEnd = -1;

  // A token of the word under way; neighbours are linked so that a merge is O(1).
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
    bool merged_away;
  };

  // A pair that may be merged: symbols[left] and its next. Stale once either has changed.
  struct Candidate {
    int32_t rank;
    int32_t left;
    int32_t result;

    // Orders a heap so that the lowest rank, then the leftmost pair, is on top.
    friend bool operator<(const Candidate& a, const Candidate& b) {
      return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
    }
  };

  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_BPE_MODEL_H_
