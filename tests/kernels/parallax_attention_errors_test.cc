// What ParallaxAttention refuses, and the names it refuses it by.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/parallax_attention.h"

namespace parallax::kernels {
namespace {

class ParallaxAttentionErrorsTest : public testing::Test {
 protected:
  ParallaxAttentionErrorsTest() {
    params_.cache.dtype = DType::kBFloat16;
    params_.cache.num_pages = 4;
    params_.cache.num_kv_heads = 1;
    params_.cache.head_dim = 64;
    memory_.resize(4 * params_.cache.page_bytes());
    params_.cache.data = memory_.data();
    params_.q = View();
    params_.r = View();
    params_.out = View();
    params_.query_start = query_start_;
    params_.context_len = context_len_;
    params_.block_tables = block_tables_;
    params_.max_blocks = 2;
  }
  TensorView View() { return TensorView(values_.data(), DType::kFloat32, {3, 2, 64}); }

  void ExpectError(const std::string& message) {
    try {
      ParallaxAttention(params_, stream_);
      FAIL() << "no error: " << message;
    } catch (const KernelError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(message));
    }
  }

  ThreadPool pool_{2};
  Stream stream_{pool_};
  std::vector<float> values_ = std::vector<float>(3 * 2 * 64);
  std::vector<uint8_t> memory_;
  std::vector<int32_t> query_start_ = {0, 1, 3};
  std::vector<int32_t> context_len_ = {70, 2};
  std::vector<int32_t> block_tables_ = {0, 1, 2, -1};
  ParallaxAttentionParams params_;
};

TEST_F(ParallaxAttentionErrorsTest, AcceptsTheUnchangedBatch) {
  EXPECT_NO_THROW(ParallaxAttention(params_, stream_));
}

TEST_F(ParallaxAttentionErrorsTest, Shapes) {
  params_.r.shape[1] = 1;
  ExpectError("r: must have shape [3, 2, 64], has [3, 1, 64]");
  params_.r = {};
  params_.out.shape[0] = 2;
  ExpectError("out: must have shape [3, 2, 64]");
  params_.out = View();
  params_.cache.head_dim = 60;
  ExpectError("q: must have shape");
}

TEST_F(ParallaxAttentionErrorsTest, Heads) {
  params_.cache.num_kv_heads = 3;
  ExpectError("num_query_heads: must be 1 to 32 times the 3 KV heads, is 2");
  EXPECT_THROW(ParallaxAttentionWorkspaceBytes(8, 8, 24, 100, stream_), KernelError);
  EXPECT_THROW(ParallaxAttentionWorkspaceBytes(8, 8, 512, 100, stream_), KernelError);
}

TEST_F(ParallaxAttentionErrorsTest, QueryStart) {
  query_start_ = {0, 1, 2};
  ExpectError("query_start: must run from 0 to the 3 query rows, runs from 0 to 2");
  query_start_ = {0, 4, 3};
  ExpectError("query_start: must ascend, entry 2 is 3 after 4");
  params_.query_start = params_.query_start.first(2);
  ExpectError("query_start: must have one entry more than context_len's 2, has 2");
}

TEST_F(ParallaxAttentionErrorsTest, ContextLength) {
  context_len_ = {70, 1};
  ExpectError(
      "context_len: must lie between the 2 query rows and the block table's 128 tokens, "
      "entry 1 is 1");
  context_len_ = {129, 2};
  ExpectError("entry 0 is 129");
}

TEST_F(ParallaxAttentionErrorsTest, BlockTables) {
  block_tables_[1] = 4;
  ExpectError("block_tables: must name pages below 4, entry 1 is 4");
  block_tables_[1] = -1;
  ExpectError("entry 1 is -1");
  block_tables_ = {-1, 1, 2, -1};
  params_.sliding_window = 3;  // the first page is behind it
  EXPECT_NO_THROW(ParallaxAttention(params_, stream_));
  params_.block_tables = params_.block_tables.first(3);
  ExpectError("block_tables: must have 4 entries, has 3");
}

TEST_F(ParallaxAttentionErrorsTest, SplitPolicy) {
  params_.split_policy = SplitPolicy::kBalanced;
  ExpectError("split_policy: must be kFixed on the CPU");
}

TEST_F(ParallaxAttentionErrorsTest, WorkspaceTooSmall) {
  params_.cache.num_pages = 33;
  memory_.resize(33 * params_.cache.page_bytes());
  params_.cache.data = memory_.data();
  block_tables_.assign(33, 0);
  params_.block_tables = block_tables_;
  params_.max_blocks = 33;
  query_start_ = {0, 1};
  context_len_ = {2112};
  params_.query_start = query_start_;
  params_.context_len = context_len_;
  params_.q.shape[0] = params_.r.shape[0] = params_.out.shape[0] = 1;
  ExpectError("workspace: must have");
  std::vector<std::byte> workspace(ParallaxAttentionWorkspaceBytes(2, 1, 64, 2112, stream_));
  params_.workspace = workspace;
  EXPECT_NO_THROW(ParallaxAttention(params_, stream_));
}

}  // namespace
}  // namespace parallax::kernels
