// The tokenizers under testdata/ and what the reference packages make of the corpus with them.
#ifndef PARALLAX_TESTS_ENGINE_TOKENIZER_TESTDATA_H_
#define PARALLAX_TESTS_ENGINE_TOKENIZER_TESTDATA_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace parallax {

struct ExpectedEncoding {
  std::string text;
  std::vector<int32_t> ids;  // without special tokens around them
  std::string decoded;       // special tokens shown
  std::string decoded_skip;  // special tokens skipped
  std::optional<std::vector<int32_t>> with_special;
};

/// testdata/<name>; tests run in the repository's root.
std::filesystem::path TestdataFolder(const std::string& name);

std::string ReadTestdata(const std::filesystem::path& path);

/// The tokenizer in testdata/<name>; ends the test program if it does not load.
std::unique_ptr<Tokenizer> LoadTestTokenizer(const std::string& name);

std::vector<ExpectedEncoding> LoadExpected(const std::string& name);

}  // namespace parallax

#endif  // PARALLAX_TESTS_ENGINE_TOKENIZER_TESTDATA_H_
