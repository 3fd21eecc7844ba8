#include "server/vllm/tokenizer_archive.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace parallax::server {
namespace {

// That unzip tools and the gateway read the archive is shown end to end, by Python's zipfile.
class TokenizerArchiveTest : public testing::Test {
 protected:
  TokenizerArchiveTest()
      : folder_(testing::TempDir() + "/tokenizer_archive_" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~TokenizerArchiveTest() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ + "/" + name) << content;
  }
  const std::string folder_;
};

TEST_F(TokenizerArchiveTest, OnlyTokenizerFilesLeaveTheFolder) {
  Write("tokenizer.json", "{}");
  Write("model.safetensors", "weights");
  Write("secret.key", "secret");
  const auto archive = TokenizerArchive::FromFolder(folder_);
  ASSERT_TRUE(archive.ok()) << archive.status();
  EXPECT_NE((*archive)->zip().find("tokenizer.json"), std::string_view::npos);
  EXPECT_EQ((*archive)->zip().find("weights"), std::string_view::npos);
  EXPECT_EQ((*archive)->zip().find("secret"), std::string_view::npos);
}

TEST_F(TokenizerArchiveTest, DependsOnTheFilesAlone) {
  Write("tokenizer.json", "{}");
  const auto first = TokenizerArchive::FromFolder(folder_);
  Write("tokenizer.json", "{}");
  const auto second = TokenizerArchive::FromFolder(folder_);
  EXPECT_EQ((*first)->sha256(), (*second)->sha256());
  EXPECT_EQ((*first)->sha256().size(), 64u);
  Write("tokenizer.json", "{ }");
  EXPECT_NE((*first)->sha256(), (*TokenizerArchive::FromFolder(folder_))->sha256());
}

TEST_F(TokenizerArchiveTest, AFolderWithoutTokenizerIsNotFound) {
  EXPECT_EQ(TokenizerArchive::FromFolder(folder_).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace parallax::server
