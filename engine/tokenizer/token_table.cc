#include "engine/tokenizer/token_table.h"

namespace parallax {

TokenTable::TokenTable(std::span<const TokenEntry> entries) {
  offsets_.reserve(entries.size() + 1);
  flags_.reserve(entries.size());
  offsets_.push_back(0);
  for (const TokenEntry& entry : entries) {
    if (entry.present) bytes_ += entry.bytes;
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
    uint8_t flags = 0;
    if (entry.present) flags |= kPresent;
    if (entry.present && entry.special) flags |= kSpecial;
    if (entry.present && entry.space_mark) flags |= kSpaceMark;
    flags_.push_back(flags);
  }
}

}  // namespace parallax
