// Options and arguments of parallax-client.
#include "clients/cpp/cli/arg_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "clients/cpp/cli/command.h"
#include "clients/cpp/cli/format.h"
#include "clients/cpp/cli/generate_options.h"

namespace parallax::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Outcome = ArgParser::Outcome;

struct Parsed {
  Outcome outcome;
  std::string error;
  std::string name = "default";
  int32_t count = 7;
  std::optional<int64_t> limit;
  bool loud = false;
  std::vector<std::string> rest;
};

Parsed Parse(std::vector<std::string> arguments) {
  Parsed parsed;
  ArgParser parser("test [options]", "A test.");
  parser.Section("Things");
  parser.Option("name", "TEXT", &parsed.name, "A name.");
  parser.Option("count", "N", &parsed.count, "A count.");
  parser.Option("limit", "N", &parsed.limit, "A limit.");
  parser.Flag("loud", &parsed.loud, "A flag.");
  parser.Positional(&parsed.rest, 2);
  parsed.outcome = parser.Parse(arguments, &parsed.error);
  return parsed;
}

TEST(ArgParserTest, ReadsBothForms) {
  const Parsed parsed = Parse({"--name", "a b", "--count=-3", "--limit=5", "--loud", "x", "-"});
  ASSERT_EQ(parsed.outcome, Outcome::kRun) << parsed.error;
  EXPECT_EQ(parsed.name, "a b");
  EXPECT_EQ(parsed.count, -3);
  EXPECT_EQ(parsed.limit, 5);
  EXPECT_TRUE(parsed.loud);
  EXPECT_THAT(parsed.rest, ElementsAre("x", "-"));
}

TEST(ArgParserTest, KeepsDefaults) {
  const Parsed parsed = Parse({});
  EXPECT_EQ(parsed.name, "default");
  EXPECT_EQ(parsed.count, 7);
  EXPECT_EQ(parsed.limit, std::nullopt);
}

TEST(ArgParserTest, NegatesFlags) { EXPECT_FALSE(Parse({"--loud", "--no-loud"}).loud); }

TEST(ArgParserTest, DoubleDashEndsOptions) {
  EXPECT_THAT(Parse({"--", "--name", "x"}).rest, ElementsAre("--name", "x"));
}

TEST(ArgParserTest, NamesWhatIsWrong) {
  const struct {
    std::vector<std::string> arguments;
    std::string error;
  } kCases[] = {
      {{"--nome", "x"}, "unknown option --nome"},
      {{"--count", "3x"}, "--count: \"3x\" is not a valid N"},
      {{"--count="}, "--count: \"\" is not a valid N"},
      {{"--count", "3000000000"}, "\"3000000000\""},
      {{"--count"}, "--count needs a value"},
      {{"--loud=yes"}, "--loud takes no value"},
      {{"--no-count"}, "unknown option --no-count"},
      {{"a", "b", "c"}, "unexpected argument \"c\""},
  };
  for (const auto& c : kCases) {
    const Parsed parsed = Parse(c.arguments);
    EXPECT_EQ(parsed.outcome, Outcome::kError);
    EXPECT_THAT(parsed.error, HasSubstr(c.error));
  }
}

TEST(ArgParserTest, HelpWins) { EXPECT_EQ(Parse({"--help"}).outcome, Outcome::kHelp); }

TEST(TokenIdsTest, ReadsLists) {
  std::vector<int32_t> ids;
  ASSERT_TRUE(ParseTokenIds("[1, 2,3]\n4", &ids));
  EXPECT_THAT(ids, ElementsAre(1, 2, 3, 4));
  EXPECT_FALSE(ParseTokenIds("1,two", &ids));
}

TEST(GenerateOptionsTest, SetsOnlyWhatIsGiven) {
  GenerateOptions options;
  ArgParser parser("test", "A test.");
  options.RegisterPrompt(&parser);
  options.RegisterParameters(&parser);
  const std::vector<std::string> arguments = {
      "--temperature", "0",      "--logit-bias",        "5:-2.5", "--stop", "\n", "--stop",
      "END",           "--seed", "18446744073709551615"};
  std::string error;
  ASSERT_EQ(parser.Parse(arguments, &error), Outcome::kRun) << error;
  v1::GenerateRequest request;
  ASSERT_TRUE(options.BuildRequest("Hello", nullptr, &request, &error)) << error;
  EXPECT_EQ(request.text(), "Hello");
  EXPECT_TRUE(request.sampling().has_temperature());
  EXPECT_FALSE(request.sampling().has_top_p());
  EXPECT_EQ(request.sampling().logit_bias().at(5), -2.5f);
  EXPECT_EQ(request.sampling().seed(), 18446744073709551615u);
  EXPECT_THAT(request.stopping().stop(), ElementsAre("\n", "END"));
  EXPECT_FALSE(request.stopping().has_ignore_eos());
}

TEST(GenerateOptionsTest, WantsOnePrompt) {
  GenerateOptions options;
  v1::GenerateRequest request;
  std::string error;
  EXPECT_FALSE(options.BuildRequest(std::nullopt, nullptr, &request, &error));
  EXPECT_THAT(error, HasSubstr("one prompt"));
}

TEST(FormatTest, QuotesWhatTerminalsInterpret) {
  EXPECT_EQ(Quoted("a\"\\\n\t\x1b\xc3\xa9"), "\"a\\\"\\\\\\n\\t\\x1b\xc3\xa9\"");
}

}  // namespace
}  // namespace parallax::client
