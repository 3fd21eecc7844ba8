#include "engine/tokenizer/byte_trie.h"

namespace parallax {

int32_t ByteTrie::Insert(std::string_view key) {
  int32_t node = kRoot;
  for (const char c : key) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t child = Child(node, byte);
    if (child == kNone) {
      child = size();
      nodes_.push_back({.parent = node,
                        .next_sibling = nodes_[node].first_child,
                        .depth = nodes_[node].depth + 1,
                        .byte = byte});
      nodes_[node].first_child = child;
      if (node == kRoot) root_children_[byte] = child;
    }
    node = child;
  }
  return node;
}

}  // namespace parallax
