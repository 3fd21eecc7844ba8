// The model that ships with the server, against what its training code computed: greedy
// continuations, token by token, and the likelihood of a held-out document.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/runner/model_runner_factory.h"
#include "engine/tokenizer/tokenizer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/runner/runner_driver.h"

namespace parallax {
namespace {

using nlohmann::json;
using testing::DrivenSequence;
using testing::RunnerDriver;

constexpr char kFolder[] = "models/parallax-stories-14m";

std::string ReadFile(const std::string& name) {
  std::ifstream file(std::string(kFolder) + "/testdata/" + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The text between the index-th and the next end mark, without the line break before the mark.
std::string Document(const std::string& text, int index) {
  constexpr std::string_view kEnd = "<|endoftext|>\n";
  size_t begin = 0;
  for (int i = 0; i < index; ++i) begin = text.find(kEnd, begin) + kEnd.size();
  std::string document = text.substr(begin, text.find(kEnd, begin) - begin);
  if (document.ends_with('\n')) document.pop_back();
  return document;
}

std::unique_ptr<ModelRunner> LoadDefaultModel() {
  ModelRunnerOptions options;
  options.model = kFolder;
  options.max_num_seqs = 16;
  options.num_kv_pages = 64;
  auto runner = CreateModelRunner(options);
  EXPECT_TRUE(runner.ok()) << runner.status();
  return *std::move(runner);
}

// All prompts in one batch, so that the continuations are also seen not to disturb each other.
TEST(DefaultModel, ContinuesAsItsTrainingCodeDid) {
  const json continuations = json::parse(ReadFile("golden.json"))["continuations"];
  ASSERT_FALSE(continuations.empty());
  const auto runner = LoadDefaultModel();
  RunnerDriver driver(*runner);
  std::vector<DrivenSequence> sequences(continuations.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].prompt = continuations[i]["prompt_ids"].get<std::vector<int32_t>>();
    sequences[i].params.temperature = 0;
    driver.Attach(sequences[i], static_cast<int32_t>(i));
  }
  for (bool unfinished = true; unfinished;) {
    unfinished = false;
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].generated.size() == continuations[i]["output_ids"].size()) continue;
      driver.Add(sequences[i], sequences[i].length() - sequences[i].computed);
      unfinished = true;
    }
    if (unfinished) driver.Step();
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(sequences[i].generated, continuations[i]["output_ids"].get<std::vector<int32_t>>())
        << continuations[i]["prompt"];
  }
}

// The shortest held-out document, as the training code scored it: ids = [<s>] + document.
TEST(DefaultModel, ScoresHeldOutTextAsItsTrainingCodeDid) {
  const json documents = json::parse(ReadFile("heldout.json"))["documents"];
  const auto shortest =
      std::min_element(documents.begin(), documents.end(),
                       [](const json& a, const json& b) { return a["scored"] < b["scored"]; });
  const auto tokenizer = LoadTokenizer(kFolder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)
                       ->Encode(Document(ReadFile("heldout.txt"),
                                         static_cast<int>(shortest - documents.begin())),
                                /*add_special_tokens=*/false);
  ASSERT_TRUE(ids.ok()) << ids.status();

  DrivenSequence sequence{.prompt = {*(*tokenizer)->bos_id()}};
  sequence.prompt.insert(sequence.prompt.end(), ids->begin(), ids->end());
  const int scored = (*shortest)["scored"].get<int>();
  ASSERT_EQ(sequence.length(), scored + 1);
  const auto runner = LoadDefaultModel();
  RunnerDriver driver(*runner);
  driver.Attach(sequence, 0);
  constexpr int kChunk = 300;  // more rows than the runner scores at once
  double nll = 0;
  for (int begin = 0; begin < scored; begin += kChunk) {
    const int count = std::min(kChunk, scored - begin);
    driver.Add(sequence, count);
    driver.ScorePrompt(sequence, 0, count, 0);
    for (const PromptLogprob& row : driver.Step().prompt_logprobs) nll -= row.logprob;
  }
  EXPECT_NEAR(nll / (*shortest)["nll"].get<double>(), 1, 1e-3);
}

}  // namespace
}  // namespace parallax
