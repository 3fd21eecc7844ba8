#include "tests/engine/tokenizer/testdata.h"

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <utility>

#include "nlohmann/json.hpp"

namespace parallax {

std::filesystem::path TestdataFolder(const std::string& name) {
  return std::filesystem::path("tests/engine/tokenizer/testdata") / name;
}

std::string ReadTestdata(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::cerr << path << " cannot be read; tests run in the repository's root\n";
    std::abort();
  }
  std::ostringstream contents;
  contents << file.rdbuf();
  return std::move(contents).str();
}

std::unique_ptr<Tokenizer> LoadTestTokenizer(const std::string& name) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(TestdataFolder(name));
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    std::abort();
  }
  return *std::move(tokenizer);
}

std::vector<ExpectedEncoding> LoadExpected(const std::string& name) {
  std::vector<ExpectedEncoding> expected;
  for (const auto& item :
       nlohmann::json::parse(ReadTestdata(TestdataFolder(name) / "expected.json"))) {
    ExpectedEncoding one;
    one.text = item.at("text");
    one.ids = item.at("ids").get<std::vector<int32_t>>();
    one.decoded = item.value("decoded", one.text);
    one.decoded_skip = item.value("decoded_skip", one.decoded);
    if (item.contains("with_special")) {
      one.with_special = item["with_special"].get<std::vector<int32_t>>();
    }
    expected.push_back(std::move(one));
  }
  return expected;
}

}  // namespace parallax
