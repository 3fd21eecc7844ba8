#include "server/trace_context.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace parallax::server {
namespace {

const std::string kValid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContextTest, WhatTheRecommendationAllowsIsTaken) {
  EXPECT_TRUE(IsTraceparent(kValid));
  EXPECT_TRUE(IsTraceparent("01" + kValid.substr(2) + "-of-a-later-version"));
}

TEST(TraceContextTest, WhatItForbidsIsNot) {
  const std::string ids = kValid.substr(2);
  const std::vector<std::string> values = {
      "",
      kValid.substr(1),
      kValid + "0",
      kValid + "-x",
      "ff" + ids,
      "0G" + ids,
      "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
      "00-" + std::string(32, '0') + "-b7ad6b7169203331-01",
      "00-0af7651916cd43dd8448eb211c80319c-" + std::string(16, '0') + "-01",
      "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
      "01" + ids + "-a\nforged line",
      "01" + ids + std::string(300, '-'),
  };
  for (const std::string& value : values) {
    EXPECT_FALSE(IsTraceparent(value)) << value;
  }
}

}  // namespace
}  // namespace parallax::server
