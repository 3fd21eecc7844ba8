#include "engine/models/safetensors.h"

#include <cstring>
#include <filesystem>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/models/checkpoint_writer.h"

namespace parallax {
namespace {

using testing::CheckpointSpec;
using ::testing::HasSubstr;
using testing::RawTensors;
using testing::SafetensorsBytes;
using testing::TempFolder;
using testing::TinySpec;
using testing::ToRawTensors;
using testing::WriteCheckpoint;
using testing::WriteFile;

absl::StatusOr<SafetensorsHeader> Parse(const std::string& bytes) {
  return ParseSafetensorsHeader(std::as_bytes(std::span(bytes)), bytes.size());
}

std::string Refusal(const std::string& header, size_t data_bytes) {
  const auto parsed = Parse(SafetensorsBytes(header, std::string(data_bytes, '\0')));
  if (parsed.ok()) return "accepted";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

TEST(SafetensorsHeader, ReadsTensorsInFileOrder) {
  const auto header = Parse(SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},
          "b":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
          "a":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},
          "empty":{"dtype":"F16","shape":[0,5],"data_offsets":[32,32]}})",
      std::string(32, 'x')));
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[0].name, "b");
  EXPECT_EQ(header->tensors[1].name, "a");
  EXPECT_EQ(header->tensors[1].dtype, "BF16");
  EXPECT_EQ(header->tensors[1].begin, 24u);
  EXPECT_EQ(header->tensors[2].shape, (std::vector<int64_t>{0, 5}));
}

TEST(SafetensorsHeader, RefusesImpossibleLengths) {
  EXPECT_FALSE(Parse("").ok());
  EXPECT_FALSE(Parse("1234567").ok());
  for (const uint64_t length :
       {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{1} << 40, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    const auto parsed = Parse(bytes + "{}");
    EXPECT_THAT(std::string(parsed.status().message()),
                HasSubstr("header length " + std::to_string(length)));
  }
}

TEST(SafetensorsHeader, RefusesByTensorName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}})",
       "tensor w: data_offsets = [0,16]: past the end"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
       "tensor w: data_offsets = [8,0]"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", "tensor w: data_offsets"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", "tensor w: data_offsets"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})",
       "tensor w: data_offsets"},
      {R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
       "tensor w: holds 8 bytes, but its shape and dtype ask for 12"},
      {R"({"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,8]}})", "tensor w: holds 8 bytes"},
      {R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})",
       "tensor w: shape overflows"},
      {R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "tensor w: shape = [-2]"},
      {R"({"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", "tensor w: shape = [2.0]"},
      {R"({"w":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", "tensor w: shape = 2"},
      {R"({"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})",
       "tensor w: shape"},
      {R"({"w":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}})",
       "tensor w: dtype = \"Q4\": unknown"},
      {R"({"w":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", "tensor w: dtype = 7"},
      {R"({"w":{"dtype":"F32","shape":[2]}})", "tensor w: "},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"scale":1}})",
       "exactly dtype, shape and data_offsets"},
      {R"({"w":[1,2]})", "tensor w: [1,2]"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       "4 bytes after the last tensor"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "tensor w: 4 unused bytes before it"},
      {R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
           "w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "tensor w: overlaps tensor v"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
           "w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       "\"w\" appears twice"},
      {R"([])", "not an object"},
      {R"({"w":)", "parse error"},
  };
  for (const auto& [header, message] : cases) {
    EXPECT_THAT(Refusal(header, 8), HasSubstr(message)) << header;
  }
}

TEST(SafetensorsHeader, SurvivesRandomDamage) {
  const std::string good = SafetensorsBytes(ToRawTensors(TinySpec(), MakeTensors(TinySpec())));
  const size_t header_end = good.find("}}", 8) + 2;
  std::mt19937_64 random(20240611);
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = good.substr(0, std::min<size_t>(good.size(), header_end + 64));
    for (int flips = 0; flips < 3; ++flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    // The outcome does not matter; reading out of bounds would.
    (void)ParseSafetensorsHeader(std::as_bytes(std::span(damaged)), good.size());
  }
}

TEST(ShardIndex, RefusesNamesThatLeaveTheFolder) {
  for (const char* file :
       {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", ""}) {
    const auto parsed = ParseShardIndex(R"({"weight_map":{"w":")" + std::string(file) + R"("}})");
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("weight_map.w")) << file;
  }
  EXPECT_FALSE(ParseShardIndex(R"({"weight_map":{"w":3}})").ok());
  EXPECT_FALSE(ParseShardIndex(R"({"metadata":{}})").ok());
}

class CheckpointFiles : public ::testing::Test {
 protected:
  std::string Refusal() {
    const auto opened = SafetensorsCheckpoint::Open(folder_.path());
    return opened.ok() ? "accepted" : std::string(opened.status().message());
  }

  const CheckpointSpec spec_ = [] {
    CheckpointSpec spec = TinySpec();
    spec.num_shards = 3;
    return spec;
  }();
  const RawTensors tensors_ = ToRawTensors(spec_, MakeTensors(spec_));
  TempFolder folder_;
};

TEST_F(CheckpointFiles, ShardsHoldWhatOneFileHolds) {
  WriteCheckpoint(spec_, tensors_, folder_.path());
  const auto opened = SafetensorsCheckpoint::Open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_EQ((*opened)->tensors().size(), tensors_.size());
  for (const auto& [name, tensor] : (*opened)->tensors()) {
    const std::string_view bytes(reinterpret_cast<const char*>(tensor.bytes.data()),
                                 tensor.bytes.size());
    EXPECT_EQ(bytes, tensors_.at(name).bytes) << name;
    EXPECT_EQ(tensor.shape, tensors_.at(name).shape) << name;
  }
}

TEST_F(CheckpointFiles, NoWeightsAtAll) {
  const auto opened = SafetensorsCheckpoint::Open(folder_.path());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Refusal(), HasSubstr("holds neither model.safetensors nor"));
}

TEST_F(CheckpointFiles, MissingShard) {
  WriteCheckpoint(spec_, tensors_, folder_.path());
  std::filesystem::remove(folder_.File("model-2-of-3.safetensors"));
  EXPECT_THAT(Refusal(), HasSubstr("model-2-of-3.safetensors: No such file"));
}

TEST_F(CheckpointFiles, TruncatedShard) {
  WriteCheckpoint(spec_, tensors_, folder_.path());
  const std::string shard = folder_.File("model-3-of-3.safetensors");
  std::filesystem::resize_file(shard, std::filesystem::file_size(shard) - 1);
  EXPECT_THAT(Refusal(), HasSubstr("past the end of the file"));
  EXPECT_THAT(Refusal(), HasSubstr("model-3-of-3.safetensors"));
}

TEST_F(CheckpointFiles, EmptyFile) {
  WriteFile(folder_.File("model.safetensors"), "");
  EXPECT_THAT(Refusal(), HasSubstr("a file of 0 bytes has no header"));
}

TEST_F(CheckpointFiles, FolderInPlaceOfAFile) {
  std::filesystem::create_directory(folder_.File("model.safetensors"));
  EXPECT_THAT(Refusal(), HasSubstr("not a regular file"));
}

TEST_F(CheckpointFiles, IndexAndShardsDisagree) {
  WriteCheckpoint(spec_, tensors_, folder_.path());
  RawTensors other = {{"stray", {"F32", {1}, std::string(4, '\0')}}};
  WriteFile(folder_.File("model-1-of-3.safetensors"), SafetensorsBytes(other));
  EXPECT_THAT(Refusal(), HasSubstr("tensor stray: model.safetensors.index.json does not place it"));
  WriteFile(folder_.File("model-1-of-3.safetensors"), SafetensorsBytes(RawTensors{}));
  EXPECT_THAT(Refusal(), HasSubstr("is missing, though model.safetensors.index.json lists it"));
}

}  // namespace
}  // namespace parallax
