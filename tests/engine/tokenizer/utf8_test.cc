#include "engine/tokenizer/utf8.h"

#include <gtest/gtest.h>

namespace parallax {
namespace {

TEST(DecodeUtf8, AcceptsExactlyTheScalarValues) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Char read = DecodeUtf8(text + "\x80");
    ASSERT_EQ(read.status, Utf8Status::kValid) << std::hex << uint32_t{c};
    ASSERT_EQ(read.code_point, c);
    ASSERT_EQ(read.length, static_cast<int>(text.size()));
  }
}

TEST(DecodeUtf8, IncompleteOnlyWhereMoreBytesCouldHelp) {
  // Every prefix of a character is incomplete; nothing that starts otherwise is.
  EXPECT_EQ(DecodeUtf8("\xE2\x82").status, Utf8Status::kIncomplete);
  EXPECT_EQ(DecodeUtf8("\xF0\x9F\x98").status, Utf8Status::kIncomplete);
  EXPECT_EQ(DecodeUtf8("\xF4").status, Utf8Status::kIncomplete);
  for (const char* bad :
       {"\x80", "\xC0", "\xC1", "\xF5", "\xFF", "\xE0\x80", "\xED\xA0", "\xF0\x80", "\xF4\x90"}) {
    EXPECT_EQ(DecodeUtf8(bad).status, Utf8Status::kInvalid) << testing::PrintToString(bad);
    EXPECT_EQ(DecodeUtf8(bad).length, 1) << testing::PrintToString(bad);
  }
}

TEST(DecodeUtf8, AnInvalidSubpartIsMaximal) {
  // Unicode 15, table 3-11: F0 80 80 41 gives four units, E1 80 E2 F0 91 92 F1 BF 41 five.
  EXPECT_EQ(DecodeUtf8("\xE1\x80\xE2").length, 2);
  EXPECT_EQ(DecodeUtf8("\xF0\x91\x92\xF1").length, 3);
  EXPECT_EQ(DecodeUtf8("\xF1\xBF\x41").length, 2);
}

TEST(FindInvalidUtf8, NamesTheFirstBadByte) {
  EXPECT_EQ(FindInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("plain text, longer than a word; caf\xC3\xA9"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("plain text\xFF"), 10u);
  EXPECT_EQ(FindInvalidUtf8("12345678\xC3"), 8u);
  EXPECT_EQ(FindInvalidUtf8("\xC3\xA9\xA9"), 2u);
}

TEST(IncompleteUtf8Suffix, IsWhatMoreBytesMayComplete) {
  EXPECT_EQ(IncompleteUtf8Suffix(""), "");
  EXPECT_EQ(IncompleteUtf8Suffix("abc"), "");
  EXPECT_EQ(IncompleteUtf8Suffix("\xE2\x82\xAC"), "");
  EXPECT_EQ(IncompleteUtf8Suffix("a\xE2\x82"), "\xE2\x82");
  EXPECT_EQ(IncompleteUtf8Suffix("\xF0\x9F\x98"), "\xF0\x9F\x98");
  EXPECT_EQ(IncompleteUtf8Suffix("\x80\x80\xF0"), "\xF0");
  EXPECT_EQ(IncompleteUtf8Suffix("\xF0\x80\x80"), "");
}

}  // namespace
}  // namespace parallax
