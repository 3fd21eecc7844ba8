// What ParseTokenizerJson refuses, and that it says where.
#include "engine/tokenizer/tokenizer_json.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/engine/tokenizer/testdata.h"

namespace parallax {
namespace {

using nlohmann::json;

json ValidDocument(const std::string& name = "qwen") {
  return json::parse(ReadTestdata(TestdataFolder(name) / "tokenizer.json"));
}

struct Refusal {
  std::string name;
  std::function<void(json*)> edit;
  absl::StatusCode code;
  std::string message;  // part of it
};

void PrintTo(const Refusal& refusal, std::ostream* os) { *os << refusal.name; }

class TokenizerJsonRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(TokenizerJsonRefusal, NamesThePlaceAndTheValue) {
  json document = ValidDocument();
  GetParam().edit(&document);
  const absl::Status status = ParseTokenizerJson(document.dump()).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_NE(std::string(status.message()).find(GetParam().message), std::string::npos) << status;
}

constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
constexpr auto kMalformed = absl::StatusCode::kInvalidArgument;

std::vector<Refusal> Refusals() {
  return {
      {"WordPiece", [](json* d) { (*d)["model"]["type"] = "WordPiece"; }, kUnsupported,
       "$.model.type = \"WordPiece\""},
      {"NoModel", [](json* d) { d->erase("model"); }, kMalformed, "$.model.vocab = null"},
      {"Dropout", [](json* d) { (*d)["model"]["dropout"] = 0.1; }, kUnsupported,
       "$.model.dropout = 0.1"},
      {"SubwordPrefix", [](json* d) { (*d)["model"]["continuing_subword_prefix"] = "##"; },
       kUnsupported, "$.model.continuing_subword_prefix = \"##\""},
      {"WordSuffix", [](json* d) { (*d)["model"]["end_of_word_suffix"] = "</w>"; }, kUnsupported,
       "$.model.end_of_word_suffix"},
      {"ByteFallback", [](json* d) { (*d)["model"]["byte_fallback"] = true; }, kUnsupported,
       "$.model.byte_fallback = true"},
      {"IgnoreMergesType", [](json* d) { (*d)["model"]["ignore_merges"] = "yes"; }, kMalformed,
       "$.model.ignore_merges = \"yes\""},
      {"NegativeId", [](json* d) { (*d)["model"]["vocab"]["zzz"] = -1; }, kMalformed,
       "$.model.vocab.zzz = -1"},
      {"HugeId", [](json* d) { (*d)["model"]["vocab"]["zzz"] = 18446744073709551615u; }, kMalformed,
       "$.model.vocab.zzz = 18446744073709551615"},
      {"FractionalId", [](json* d) { (*d)["model"]["vocab"]["zzz"] = 1.5; }, kMalformed,
       "$.model.vocab.zzz = 1.5"},
      {"SharedId", [](json* d) { (*d)["model"]["vocab"]["zzz"] = 7; }, kMalformed,
       "is the id of two tokens"},
      {"MissingByte",
       [](json* d) {
         (*d)["model"]["vocab"].erase("A");
         (*d)["model"]["merges"] = json::array();
       },
       kMalformed, "no token stands for byte 0x41"},
      {"MergeOfStrangers", [](json* d) { (*d)["model"]["merges"].push_back("zz qq"); }, kMalformed,
       "names a token that is not in the vocabulary"},
      {"MergeOfThree", [](json* d) { (*d)["model"]["merges"][3] = "a b c"; }, kMalformed,
       "element 3: is not a pair"},
      {"MergeOfNumbers",
       [](json* d) {
         (*d)["model"]["merges"][0] = {1, 2};
       },
       kMalformed, "element 0: is not a pair"},
      {"MergesAbsent", [](json* d) { (*d)["model"].erase("merges"); }, kMalformed,
       "$.model.merges = null"},
      {"Lowercase",
       [](json* d) {
         (*d)["normalizer"] = {{"type", "Lowercase"}};
       },
       kUnsupported, "$.normalizer.type = \"Lowercase\""},
      {"LowercaseInSequence",
       [](json* d) {
         (*d)["normalizer"] = {{"type", "Sequence"},
                               {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}};
       },
       kUnsupported, "$.normalizer.normalizers[1].type = \"Lowercase\""},
      {"Metaspace",
       [](json* d) {
         (*d)["pre_tokenizer"] = {{"type", "Metaspace"}};
       },
       kUnsupported, "$.pre_tokenizer.type = \"Metaspace\""},
      {"NoPreTokenizer", [](json* d) { (*d)["pre_tokenizer"] = nullptr; }, kMalformed,
       "$.pre_tokenizer.type = null"},
      {"ByteLevelNotLast",
       [](json* d) {
         (*d)["pre_tokenizer"]["pretokenizers"].push_back({{"type", "Digits"}});
       },
       kUnsupported, "$.pre_tokenizer.pretokenizers"},
      {"Whitespace",
       [](json* d) { (*d)["pre_tokenizer"]["pretokenizers"][0]["type"] = "Whitespace"; },
       kUnsupported, "$.pre_tokenizer.pretokenizers[0].type = \"Whitespace\""},
      {"SplitBehavior",
       [](json* d) { (*d)["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"; },
       kUnsupported, "pretokenizers[0].behavior = \"MergedWithNext\""},
      {"SplitRegex",
       [](json* d) { (*d)["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "a\\w"; },
       kUnsupported, "pretokenizers[0].pattern.Regex = \"a\\\\w\": regular expression construct"},
      {"BrokenRegex",
       [](json* d) { (*d)["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; },
       kMalformed, "pretokenizers[0].pattern.Regex = \"(a\""},
      {"PostProcessor",
       [](json* d) {
         (*d)["post_processor"] = {{"type", "RobertaProcessing"}};
       },
       kUnsupported, "$.post_processor.type = \"RobertaProcessing\""},
      {"TemplateWithoutText",
       [](json* d) {
         (*d)["post_processor"] = {{"type", "TemplateProcessing"}, {"single", json::array()}};
       },
       kMalformed, "$.post_processor.single"},
      {"TemplateOfUnknownToken",
       [](json* d) {
         (*d)["post_processor"] = {
             {"type", "TemplateProcessing"},
             {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
             {"special_tokens", {{"<s>", {{"ids", {999999}}}}}}};
       },
       kMalformed, "adds token 999999"},
      {"Decoder",
       [](json* d) {
         (*d)["decoder"] = {{"type", "Metaspace"}};
       },
       kUnsupported, "$.decoder.type = \"Metaspace\""},
      {"NoDecoder", [](json* d) { (*d)["decoder"] = nullptr; }, kMalformed,
       "$.decoder.type = null"},
      {"AddedTokenTwice", [](json* d) { (*d)["added_tokens"].push_back((*d)["added_tokens"][0]); },
       kMalformed, "is listed twice"},
      {"AddedTokenWithForeignId", [](json* d) { (*d)["added_tokens"][0]["id"] = 5; }, kMalformed,
       "$.added_tokens[0]"},
      {"AddedTokenEmpty", [](json* d) { (*d)["added_tokens"][0]["content"] = ""; }, kMalformed,
       "$.added_tokens[0]"},
      {"AddedTokenEqualOnceNormalised",
       [](json* d) {
         json token = (*d)["added_tokens"][7];  // CAFE with a combining accent
         token["content"] = "CAF\u00c9";
         token["id"] = 5000;
         (*d)["added_tokens"].push_back(token);
       },
       kMalformed, "equals another token once normalised"},
  };
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerJsonRefusal, testing::ValuesIn(Refusals()),
                         [](const auto& info) { return info.param.name; });

TEST(TokenizerJson, WhatIsNotAnObjectIsRefused) {
  for (const char* text : {"", "{", "[]", "null", "\"x\"", "{\"a\": \"\xFF\"}"}) {
    EXPECT_EQ(ParseTokenizerJson(text).status().code(), kMalformed) << text;
  }
}

TEST(TokenizerJson, DeepNestingIsNoStackOverflow) {
  const std::string deep(200'000, '[');
  EXPECT_EQ(ParseTokenizerJson("{\"model\": " + deep).status().code(), kMalformed);
}

TEST(TokenizerJson, HolesBetweenIdsAreInvalid) {
  json document = ValidDocument();
  document["added_tokens"].push_back({{"id", 3000}, {"content", "<far>"}, {"special", true}});
  const auto tokenizer = ParseTokenizerJson(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->VocabSize(), 3001);
  EXPECT_FALSE((*tokenizer)->IsValidId(2999));
  EXPECT_TRUE((*tokenizer)->IsValidId(3000));
  EXPECT_TRUE((*tokenizer)->IsSpecial(3000));
}

TEST(TokenizerJson, MergesAsStringsAndAsPairsAreTheSame) {
  json document = ValidDocument("qwen");
  for (json& merge : document["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const auto tokenizer = ParseTokenizerJson(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const ExpectedEncoding& expected : LoadExpected("qwen")) {
    EXPECT_EQ(*(*tokenizer)->Encode(expected.text, false), expected.ids);
  }
}

TEST(TokenizerJson, ConfigDecidesOnBosAndEos) {
  const std::string document = ReadTestdata(TestdataFolder("llama3") / "tokenizer.json");
  const auto encode = [&](const TokenizerConfig& config) {
    return *(*ParseTokenizerJson(document, config))->Encode("Hello", true);
  };
  const auto bare = *(*ParseTokenizerJson(document))->Encode("Hello", false);
  const auto full = encode({});
  ASSERT_EQ(full.size(), bare.size() + 2);
  TokenizerConfig config{.bos_token = "<|begin|>", .eos_token = "<|im_end|>"};
  EXPECT_EQ((*ParseTokenizerJson(document, config))->bos_id(), full.front());
  EXPECT_EQ((*ParseTokenizerJson(document, config))->eos_id(), full.back());
  config.add_bos_token = config.add_eos_token = true;  // the template has them already
  EXPECT_EQ(encode(config), full);
  config.add_bos_token = config.add_eos_token = false;
  EXPECT_EQ(encode(config), bare);
  config.bos_token = "<|nobody|>";
  EXPECT_EQ(ParseTokenizerJson(document, config).status().code(), kMalformed);
  config = {.add_bos_token = true};
  EXPECT_EQ(ParseTokenizerJson(document, config).status().code(), kMalformed);
}

}  // namespace
}  // namespace parallax
