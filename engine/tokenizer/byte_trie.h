// ByteTrie: a set of byte strings as a tree of their prefixes.
//
// Shared by the stop-string matcher and the added-token splitter, which keep what they know of
// a node in arrays of their own. Immutable after the last Insert, then safe for many threads.
#ifndef PARALLAX_ENGINE_TOKENIZER_BYTE_TRIE_H_
#define PARALLAX_ENGINE_TOKENIZER_BYTE_TRIE_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace parallax {

class ByteTrie {
 public:
  static constexpr int32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  ByteTrie() : nodes_(1) { root_children_.fill(kNone); }

  /// Adds `key`; returns its node. Parents have smaller numbers than their children.
  int32_t Insert(std::string_view key);

  /// The node one byte further, or kNone.
  int32_t Child(int32_t node, uint8_t byte) const {
    if (node == kRoot) return root_children_[byte];
    int32_t child = nodes_[node].first_child;
    while (child != kNone && nodes_[child].byte != byte) child = nodes_[child].next_sibling;
    return child;
  }

  int32_t size() const { return static_cast<int32_t>(nodes_.size()); }
  int32_t depth(int32_t node) const { return nodes_[node].depth; }
  int32_t parent(int32_t node) const { return nodes_[node].parent; }
  uint8_t byte(int32_t node) const { return nodes_[node].byte; }

 private:
  struct Node {
    int32_t parent = kNone;
    int32_t first_child = kNone;
    int32_t next_sibling = kNone;
    int32_t depth = 0;  // length of the prefix
    uint8_t byte = 0;   // its last byte
  };

  std::vector<Node> nodes_;
  std::array<int32_t, 256> root_children_;  // nearly every look-up starts, and ends, here
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_BYTE_TRIE_H_
