#include "engine/tokenizer/bpe_model.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace parallax {
namespace {

// Bytes that no UTF-8 text contains: C0, C1, F5..FF.
bool OccursInUtf8(int byte) { return byte < 0xC0 || (byte > 0xC1 && byte < 0xF5); }

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(std::vector<std::pair<std::string, int32_t>> tokens,
                                          std::span<const Merge> merges, bool ignore_merges) {
  BpeModel model;
  model.byte_ids_.fill(-1);
  for (const auto& [bytes, id] : tokens) {
    if (bytes.size() == 1) model.byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (OccursInUtf8(byte) && model.byte_ids_[byte] < 0) {
      return absl::InvalidArgumentError(absl::StrFormat("no token stands for byte 0x%02X", byte));
    }
  }
  model.merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    model.merges_[PairKey(merge.left, merge.right)] = {static_cast<int32_t>(rank), merge.result};
  }
  Workspace workspace;
  std::vector<int32_t> ids;
  for (auto& [bytes, id] : tokens) {
    if (bytes.empty()) continue;
    ids.clear();
    // A token with a byte outside of UTF-8 may lack the token of that byte.
    const bool mergeable = std::all_of(bytes.begin(), bytes.end(), [&](char c) {
      return model.byte_ids_[static_cast<uint8_t>(c)] >= 0;
    });
    if (mergeable) model.MergeWord(bytes, &workspace, &ids);
    if (!ignore_merges && (ids.size() != 1 || ids[0] != id)) continue;
    model.longest_whole_word_ = std::max(model.longest_whole_word_, bytes.size());
    model.whole_words_.emplace(std::move(bytes), id);
  }
  return model;
}

void BpeModel::Encode(std::string_view word, Workspace* workspace,
                      std::vector<int32_t>* ids) const {
  if (word.size() <= longest_whole_word_) {
    const auto whole = whole_words_.find(word);
    if (whole != whole_words_.end()) {
      ids->push_back(whole->second);
      return;
    }
  }
  MergeWord(word, workspace, ids);
}

void BpeModel::MergeWord(std::string_view word, Workspace* workspace,
                         std::vector<int32_t>* ids) const {
  auto& symbols = workspace->symbols_;
  auto& heap = workspace->heap_;
  symbols.clear();
  heap.clear();
  const auto size = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < size; ++i) {
    symbols.push_back({.id = byte_ids_[static_cast<uint8_t>(word[i])],
                       .previous = i - 1,
                       .next = i + 1 < size ? i + 1 : Workspace::kEnd,
                       .merged_away = false});
  }
  for (int32_t i = 0; i < size; ++i) PushPair(i, workspace);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Workspace::Candidate top = heap.back();
    heap.pop_back();
    const Workspace::Symbol& left = symbols[top.left];
    if (left.merged_away || left.next == Workspace::kEnd) continue;
    const auto merge = merges_.find(PairKey(left.id, symbols[left.next].id));
    if (merge == merges_.end() || merge->second.rank != top.rank) continue;  // stale
    MergePair(top.left, top.result, workspace);
  }
  for (int32_t i = 0; i != Workspace::kEnd; i = symbols[i].next) ids->push_back(symbols[i].id);
}

void BpeModel::PushPair(int32_t left, Workspace* workspace) const {
  if (left == Workspace::kEnd) return;
  const Workspace::Symbol& symbol = workspace->symbols_[left];
  if (symbol.next == Workspace::kEnd) return;
  const auto merge = merges_.find(PairKey(symbol.id, workspace->symbols_[symbol.next].id));
  if (merge == merges_.end()) return;
  workspace->heap_.push_back({merge->second.rank, left, merge->second.result});
  std::push_heap(workspace->heap_.begin(), workspace->heap_.end());
}

void BpeModel::MergePair(int32_t left, int32_t result, Workspace* workspace) const {
  auto& symbols = workspace->symbols_;
  const int32_t right = symbols[left].next;
  symbols[left].id = result;
  symbols[left].next = symbols[right].next;
  if (symbols[right].next != Workspace::kEnd) symbols[symbols[right].next].previous = left;
  symbols[right].merged_away = true;
  PushPair(symbols[left].previous, workspace);
  PushPair(left, workspace);
}

}  // namespace parallax
