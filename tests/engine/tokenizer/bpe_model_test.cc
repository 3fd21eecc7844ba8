#include "engine/tokenizer/bpe_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace parallax {
namespace {

struct TestModel {
  std::vector<std::pair<std::string, int32_t>> tokens;  // [id] the 256 bytes come first
  std::vector<BpeModel::Merge> merges;
};

TestModel BytesOnly() {
  TestModel model;
  for (int byte = 0; byte < 256; ++byte) {
    model.tokens.emplace_back(std::string(1, static_cast<char>(byte)), byte);
  }
  return model;
}

// Merges of random tokens over few letters; tokens made in two ways have two merges.
TestModel RandomModel(std::mt19937* random) {
  TestModel model = BytesOnly();
  std::map<std::string, int32_t> ids;
  std::vector<int32_t> used = {'a', 'b', 'c'};
  for (const auto& [bytes, id] : model.tokens) ids[bytes] = id;
  std::set<std::pair<int32_t, int32_t>> known;
  for (int i = static_cast<int>((*random)() % 40); i > 0; --i) {
    const int32_t left = used[(*random)() % used.size()];
    const int32_t right = used[(*random)() % used.size()];
    if (!known.insert({left, right}).second) continue;
    const std::string bytes = model.tokens[left].first + model.tokens[right].first;
    const auto [entry, is_new] = ids.emplace(bytes, static_cast<int32_t>(model.tokens.size()));
    if (is_new) {
      model.tokens.emplace_back(bytes, entry->second);
      used.push_back(entry->second);
    }
    model.merges.push_back({left, right, entry->second});
  }
  std::shuffle(model.merges.begin(), model.merges.end(), *random);
  return model;
}

// The algorithm as its paper has it: merge the best pair, leftmost first, look again.
std::vector<int32_t> Reference(const TestModel& model, const std::string& word) {
  std::vector<int32_t> ids;
  for (const char c : word) ids.push_back(static_cast<uint8_t>(c));
  while (true) {
    size_t best_rank = model.merges.size(), best_at = 0;
    for (size_t at = 0; at + 1 < ids.size(); ++at) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (model.merges[rank].left == ids[at] && model.merges[rank].right == ids[at + 1]) {
          best_rank = rank;
          best_at = at;
        }
      }
    }
    if (best_rank == model.merges.size()) return ids;
    ids[best_at] = model.merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

std::vector<int32_t> Encode(const BpeModel& model, const std::string& word) {
  BpeModel::Workspace workspace;
  std::vector<int32_t> ids;
  model.Encode(word, &workspace, &ids);
  return ids;
}

TEST(BpeModel, AgreesWithTheTextbookAlgorithm) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 300; ++i) {
    const TestModel test = RandomModel(&random);
    const auto model = BpeModel::Create(test.tokens, test.merges, /*ignore_merges=*/false);
    ASSERT_TRUE(model.ok()) << model.status();
    for (int j = 0; j < 20; ++j) {
      std::string word;
      for (int length = 1 + static_cast<int>(random() % 25); length > 0; --length) {
        word += static_cast<char>('a' + random() % 3);
      }
      ASSERT_EQ(Encode(*model, word), Reference(test, word)) << word;
    }
  }
}

TEST(BpeModel, OnlyIgnoreMergesFindsTokensThatMergesDoNotBuild) {
  TestModel test = BytesOnly();
  test.tokens.emplace_back("abc", 256);
  EXPECT_EQ(Encode(*BpeModel::Create(test.tokens, {}, false), "abc"),
            (std::vector<int32_t>{'a', 'b', 'c'}));
  EXPECT_EQ(Encode(*BpeModel::Create(test.tokens, {}, true), "abc"), std::vector<int32_t>{256});
  EXPECT_EQ(Encode(*BpeModel::Create(test.tokens, {}, true), "abca"),
            (std::vector<int32_t>{'a', 'b', 'c', 'a'}));
}

TEST(BpeModel, EveryByteOfUtf8NeedsAToken) {
  TestModel test = BytesOnly();
  test.tokens.erase(test.tokens.begin() + 0xFF);  // occurs in no UTF-8 text
  EXPECT_TRUE(BpeModel::Create(test.tokens, {}, false).ok());
  test.tokens.erase(test.tokens.begin() + 0xE2);
  const auto model = BpeModel::Create(test.tokens, {}, false);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(model.status().message().find("0xE2"), absl::string_view::npos) << model.status();
}

}  // namespace
}  // namespace parallax
