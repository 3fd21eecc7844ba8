#include "engine/models/tensor_source.h"

#include <cmath>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/models/checkpoint_writer.h"

namespace parallax {
namespace {

using kernels::DType;
using ::testing::HasSubstr;
using testing::RawTensors;
using testing::SafetensorsBytes;
using testing::TempFolder;
using testing::WriteFile;

std::unique_ptr<CheckpointTensorSource> SourceOf(const TempFolder& folder,
                                                 const std::string& bytes) {
  WriteFile(folder.File("model.safetensors"), bytes);
  auto checkpoint = SafetensorsCheckpoint::Open(folder.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return std::make_unique<CheckpointTensorSource>(*std::move(checkpoint));
}

TEST(CheckpointTensorSource, ReadsEveryDType) {
  const TempFolder folder;
  // 1, -2, the smallest subnormal / 65504 in f16.
  const RawTensors tensors = {
      {"f32", {"F32", {2}, std::string("\0\0\x80\x3f\0\0\0\xc0", 8)}},
      {"bf16", {"BF16", {2}, std::string("\x80\x3f\0\xc0", 4)}},
      {"f16", {"F16", {4}, std::string("\0\x3c\0\xc0\1\0\xff\x7b", 8)}},
  };
  const auto source = SourceOf(folder, SafetensorsBytes(tensors));
  EXPECT_EQ(source->Get("f32", {2})->ToFloat(), (std::vector<float>{1, -2}));
  EXPECT_EQ(source->Get("bf16", {2})->ToFloat(), (std::vector<float>{1, -2}));
  EXPECT_EQ(source->Get("f16", {4})->ToFloat(),
            (std::vector<float>{1, -2, std::ldexp(1.0f, -24), 65504}));
  EXPECT_TRUE(source->CheckAllUsed().ok());
}

TEST(CheckpointTensorSource, AlignsWhatTheFileDoesNot) {
  const TempFolder folder;
  // A header of odd length puts every float at an odd address.
  std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  if (header.size() % 2 == 0) header += ' ';
  const auto source =
      SourceOf(folder, SafetensorsBytes(header, std::string("\0\0\x80\x3f\0\0\0\xc0", 8)));
  const auto tensor = source->Get("w", {2});
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->data) % alignof(float), 0u);
  EXPECT_EQ(tensor->ToFloat(), (std::vector<float>{1, -2}));
}

TEST(CheckpointTensorSource, RefusesByName) {
  const TempFolder folder;
  const RawTensors tensors = {{"ids", {"I64", {1}, std::string(8, '\0')}},
                              {"w", {"F32", {2, 1}, std::string(8, '\0')}}};
  const auto source = SourceOf(folder, SafetensorsBytes(tensors));
  EXPECT_THAT(std::string(source->Get("nope", {1}).status().message()),
              HasSubstr("tensor nope is missing"));
  EXPECT_THAT(std::string(source->Get("w", {1, 2}).status().message()),
              HasSubstr("tensor w: shape [2, 1], but config.json asks for [1, 2]"));
  EXPECT_THAT(std::string(source->Get("ids", {1}).status().message()),
              HasSubstr("tensor ids: dtype I64"));
  EXPECT_THAT(std::string(source->CheckAllUsed().message()), HasSubstr("2 tensors"));
  source->Ignore("ids");
  EXPECT_THAT(std::string(source->CheckAllUsed().message()), HasSubstr("no use for: w"));
}

TEST(DummyTensorSource, DependsOnSeedAndNameAlone) {
  DummyTensorSource a(1, DType::kBFloat16);
  DummyTensorSource b(1, DType::kBFloat16);
  DummyTensorSource c(2, DType::kBFloat16);
  (void)b.Get("other", {8, 8});
  EXPECT_EQ(a.Get("w", {8, 8})->ToFloat(), b.Get("w", {8, 8})->ToFloat());
  EXPECT_NE(a.Get("w", {8, 8})->ToFloat(), c.Get("w", {8, 8})->ToFloat());
  EXPECT_NE(a.Get("w", {8, 8})->ToFloat(), a.Get("v", {8, 8})->ToFloat());
}

// The sequence is one, though threads compute parts of it: SplitMix64, from a hash of the name.
TEST(DummyTensorSource, LargeTensorsAreOneSequence) {
  const std::vector<float> values =
      DummyTensorSource(1, DType::kFloat32).Get("w", {1500, 1000})->ToFloat();
  uint64_t state = (uint64_t{1} ^ 0xcbf29ce484222325u ^ 'w') * 0x100000001b3u;
  const auto spread = static_cast<float>(std::sqrt(3.0 / 1000));
  for (size_t i = 0; i < values.size(); ++i) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    const auto random = static_cast<int32_t>((z ^ z >> 31) >> 32);
    ASSERT_EQ(values[i], spread * static_cast<float>(random) * 0x1p-31f) << i;
  }
}

TEST(DummyTensorSource, MatricesHaveVarianceOneOverColumnsInEveryDType) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    DummyTensorSource source(3, dtype);
    const std::vector<float> values = source.Get("w", {300, 100})->ToFloat();
    double sum = 0;
    double squares = 0;
    for (const float value : values) {
      sum += value;
      squares += double{value} * value;
    }
    const auto count = static_cast<double>(values.size());
    EXPECT_NEAR(sum / count, 0, 3e-3);
    EXPECT_NEAR(squares / count * 100, 1, 0.05) << kernels::DTypeName(dtype);
  }
}

}  // namespace
}  // namespace parallax
