#include "engine/tokenizer/unicode_nfc.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>

#include "engine/tokenizer/utf8.h"
#include "nlohmann/json.hpp"
#include "tests/engine/tokenizer/testdata.h"

namespace parallax {
namespace {

TEST(ToNfc, AgreesWithPythonsUnicodedata) {
  for (const auto& pair : nlohmann::json::parse(ReadTestdata(TestdataFolder("nfc.json")))) {
    const std::string text = pair[0];
    EXPECT_EQ(ToNfc(text), pair[1].get<std::string>()) << testing::PrintToString(text);
  }
}

TEST(ToNfc, AgreesWithTheLibraryOnEveryCharacter) {
  for (char32_t c = 1; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text = "a";
    AppendUtf8(c, &text);
    text += "\xCC\xA3";  // a mark of a low class, to be sorted
    utf8proc_uint8_t* expected =
        utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
    ASSERT_EQ(ToNfc(text), reinterpret_cast<const char*>(expected)) << std::hex << uint32_t{c};
    std::free(expected);
  }
}

TEST(IsTriviallyNfc, NoFalsePositives) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_EQ(IsTriviallyNfc(text), c < 0x300) << std::hex << uint32_t{c};
  }
}

}  // namespace
}  // namespace parallax
