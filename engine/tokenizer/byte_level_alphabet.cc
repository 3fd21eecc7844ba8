#include "engine/tokenizer/byte_level_alphabet.h"

#include <array>
#include <cstdint>

#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

constexpr int kNotInAlphabet = -1;
constexpr int kAlphabetEnd = 0x100 + 68;

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// [code point] the byte it stands for.
constexpr std::array<int16_t, kAlphabetEnd> MakeByteOfCharacter() {
  std::array<int16_t, kAlphabetEnd> table{};
  table.fill(kNotInAlphabet);
  int next = 0x100;
  for (int byte = 0; byte < 0x100; ++byte) {
    table[StandsForItself(byte) ? byte : next++] = static_cast<int16_t>(byte);
  }
  return table;
}

constexpr std::array<int16_t, kAlphabetEnd> kByteOfCharacter = MakeByteOfCharacter();

}  // namespace

std::optional<std::string> BytesOfByteLevelToken(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Char next = DecodeUtf8(token);
    if (next.code_point >= kAlphabetEnd) return std::nullopt;
    const int byte = kByteOfCharacter[next.code_point];
    if (byte == kNotInAlphabet) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    token.remove_prefix(next.length);
  }
  return bytes;
}

}  // namespace parallax
