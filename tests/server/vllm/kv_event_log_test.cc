#include "server/vllm/kv_event_log.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parallax::server {
namespace {

using ::smg::grpc::common::KvCacheEvent;
using ::smg::grpc::common::KvEventBatch;
using ::testing::ElementsAre;
using ReadResult = KvEventLog::ReadResult;

Hash128 HashOf(uint64_t low) { return Hash128{.low = low, .high = 1}; }
PrefixLink Root() { return {}; }
PrefixLink LinkTo(uint64_t low) {
  PrefixLink link;
  link.hash = HashOf(low);
  link.publication = 1;
  return link;
}

std::vector<int32_t> Tokens(int32_t first) {
  std::vector<int32_t> tokens(kPageTokens);
  for (int32_t i = 0; i < kPageTokens; ++i) tokens[static_cast<size_t>(i)] = first + i;
  return tokens;
}

std::vector<KvEventBatch> ReadAll(KvEventLog* log, uint64_t* next) {
  std::vector<KvEventBatch> batches;
  KvEventBatch batch;
  while (log->Read(next, &batch) == ReadResult::kBatch) batches.push_back(batch);
  return batches;
}

TEST(KvEventLogTest, PagesOfOnePromptBecomeOneEventWithTheirParent) {
  KvEventLog log(16);
  log.OnStored(Root(), HashOf(10), Tokens(0));
  log.OnStored(LinkTo(10), HashOf(11), Tokens(100));
  log.OnStored(LinkTo(10), HashOf(12), Tokens(200));  // a second child of 10
  log.OnRemoved(HashOf(11));
  uint64_t next = 0;
  const auto batches = ReadAll(&log, &next);
  ASSERT_EQ(batches.size(), 1u);
  EXPECT_EQ(batches[0].sequence_number(), 1u);
  ASSERT_EQ(batches[0].events_size(), 3);
  const auto& first = batches[0].events(0).stored();
  EXPECT_FALSE(first.has_parent_block_hash()) << "it begins a prompt";
  ASSERT_EQ(first.blocks_size(), 2);
  EXPECT_EQ(first.blocks(0).block_hash(), 10);
  EXPECT_EQ(first.blocks(1).block_hash(), 11);
  EXPECT_EQ(first.blocks(1).block_size(), kPageTokens);
  ASSERT_EQ(first.blocks(1).token_ids_size(), kPageTokens);
  EXPECT_EQ(first.blocks(1).token_ids(0), 100u);
  EXPECT_EQ(batches[0].events(1).stored().parent_block_hash(), 10);
  EXPECT_THAT(batches[0].events(2).removed().block_hashes(), ElementsAre(11));
}

TEST(KvEventLogTest, ABatchIsTheSameForEverybodyOnceItWasRead) {
  KvEventLog log(16);
  log.OnStored(Root(), HashOf(1), Tokens(0));
  uint64_t quick = 0;
  const auto first = ReadAll(&log, &quick);
  log.OnCleared();
  const auto second = ReadAll(&log, &quick);
  uint64_t slow = 0;
  const auto all = ReadAll(&log, &slow);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].events(0).SerializeAsString(), first[0].events(0).SerializeAsString());
  EXPECT_EQ(all[1].events(0).SerializeAsString(), second[0].events(0).SerializeAsString());
  EXPECT_TRUE(all[1].events(0).has_cleared());
}

TEST(KvEventLogTest, AReaderGoesOnFromTheNumberThatItAsksFor) {
  KvEventLog log(64);
  uint64_t next = 0;
  for (uint64_t i = 1; i <= 5; ++i) {
    log.OnStored(Root(), HashOf(i), Tokens(0));
    ReadAll(&log, &next);
  }
  uint64_t from_four = 4;
  const auto batches = ReadAll(&log, &from_four);
  ASSERT_EQ(batches.size(), 2u);
  EXPECT_EQ(batches[0].sequence_number(), 4u);
  EXPECT_EQ(batches[0].events(0).stored().blocks(0).block_hash(), 4);
}

TEST(KvEventLogTest, AReaderOfLostHistoryIsToldToForget) {
  KvEventLog log(4);
  uint64_t next = 0;
  for (uint64_t i = 1; i <= 10; ++i) {
    log.OnStored(Root(), HashOf(i), Tokens(0));
    ReadAll(&log, &next);
  }
  uint64_t late = 2;
  const auto batches = ReadAll(&log, &late);
  ASSERT_GE(batches.size(), 2u);
  EXPECT_TRUE(batches[0].has_snapshot());
  EXPECT_TRUE(batches[0].events(0).has_cleared());
  for (size_t i = 1; i < batches.size(); ++i) {
    EXPECT_EQ(batches[i].sequence_number(), batches[i - 1].sequence_number() + 1);
    EXPECT_FALSE(batches[i].has_snapshot());
  }
  EXPECT_EQ(batches.back().sequence_number(), 10u);
}

TEST(KvEventLogTest, ANumberOfAnEarlierLifeOfTheServerStartsOver) {
  KvEventLog log(8);
  log.OnStored(Root(), HashOf(1), Tokens(0));
  uint64_t next = 900;
  const auto batches = ReadAll(&log, &next);
  ASSERT_EQ(batches.size(), 1u);
  EXPECT_EQ(batches[0].sequence_number(), 1u);
}

// However readers and the engine interleave, and whatever the ring forgot: numbers are
// contiguous, and a reader that applies what it gets knows no page that is gone, and every
// page that the ring still tells of.
TEST(KvEventLogTest, ReadersFollowTheCacheThroughAnyInterleaving) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    KvEventLog log(1 + random() % 700);
    std::map<int64_t, bool> held;
    struct Reader {
      uint64_t next = 0;
      uint64_t last = 0;
      std::map<int64_t, bool> known;
    };
    std::vector<Reader> readers(3);
    const auto read = [&](Reader* reader) {
      KvEventBatch batch;
      if (log.Read(&reader->next, &batch) != ReadResult::kBatch) return false;
      if (!batch.has_snapshot()) {
        EXPECT_EQ(batch.sequence_number(), reader->last + 1);
      }
      reader->last = batch.sequence_number();
      EXPECT_LE(batch.events_size(), static_cast<int>(KvEventLog::kMaxBatchEvents));
      for (const KvCacheEvent& event : batch.events()) {
        if (event.has_cleared()) reader->known.clear();
        for (const int64_t hash : event.removed().block_hashes()) reader->known.erase(hash);
        for (const auto& block : event.stored().blocks()) reader->known[block.block_hash()] = true;
      }
      return true;
    };
    for (int step = 0; step < 3000; ++step) {
      const auto page = static_cast<int64_t>(1 + random() % 40);
      const uint32_t action = random() % 100;
      if (action < 60) {
        if (!held.contains(page))
          log.OnStored(Root(), HashOf(static_cast<uint64_t>(page)), Tokens(0));
        held[page] = true;
      } else if (action < 90) {
        if (held.erase(page) > 0) log.OnRemoved(HashOf(static_cast<uint64_t>(page)));
      } else if (action == 90) {
        held.clear();
        log.OnCleared();
      } else {
        read(&readers[random() % readers.size()]);
      }
    }
    for (Reader& reader : readers) {
      while (read(&reader)) {
      }
      for (const auto& [hash, unused] : reader.known) EXPECT_TRUE(held.contains(hash)) << hash;
    }
  }
}

// As in the server: the engine's thread appends while readers take batches.
TEST(KvEventLogTest, ReadersOfAGrowingLogMissNothing) {
  constexpr uint64_t kEvents = 20'000;
  KvEventLog log(2 * kEvents);  // forgets none
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&log] {
      uint64_t next = 0, expected = 1, last_hash = 0;
      KvEventBatch batch;
      while (last_hash < kEvents) {
        if (log.Read(&next, &batch) != ReadResult::kBatch) continue;
        ASSERT_EQ(batch.sequence_number(), expected++);
        for (const KvCacheEvent& event : batch.events()) {
          for (const auto& block : event.stored().blocks()) {
            ASSERT_EQ(static_cast<uint64_t>(block.block_hash()), ++last_hash);
            ASSERT_EQ(block.token_ids(0), static_cast<uint32_t>(last_hash)) << "half written";
          }
        }
      }
    });
  }
  for (uint64_t i = 1; i <= kEvents; ++i) {
    log.OnStored(Root(), HashOf(i), Tokens(static_cast<int32_t>(i)));
  }
  for (std::thread& reader : readers) reader.join();
}

class CountingListener : public KvEventListener {
 public:
  void OnKvEvents() override { ++calls; }
  int calls = 0;
};

TEST(KvEventLogTest, ListenersAreToldOfEventsAndOfTheEnd) {
  KvEventLog log(4);
  auto listener = std::make_shared<CountingListener>();
  ASSERT_TRUE(log.AddListener(listener).ok());
  log.OnCleared();
  EXPECT_EQ(listener->calls, 1);
  log.Close();
  EXPECT_EQ(listener->calls, 2);
  uint64_t next = 0;
  KvEventBatch batch;
  EXPECT_EQ(log.Read(&next, &batch), ReadResult::kClosed);
  log.RemoveListener(listener.get());
  log.OnCleared();
  EXPECT_EQ(listener->calls, 2);
}

TEST(KvEventLogTest, TheNumberOfListenersIsBounded) {
  KvEventLog log(4);
  for (size_t i = 0; i < KvEventLog::kMaxListeners; ++i) {
    ASSERT_TRUE(log.AddListener(std::make_shared<CountingListener>()).ok());
  }
  EXPECT_EQ(log.AddListener(std::make_shared<CountingListener>()).code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace parallax::server
