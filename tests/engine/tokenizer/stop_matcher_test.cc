#include "engine/tokenizer/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace parallax {
namespace {

struct Result {
  std::string text;  // released in all, Flush included
  std::optional<size_t> stop;
  friend bool operator==(const Result&, const Result&) = default;
};

void PrintTo(const Result& result, std::ostream* os) {
  *os << '"' << result.text << "\" stop " << (result.stop ? static_cast<int>(*result.stop) : -1);
}

Result Feed(StopMatcher matcher, const std::vector<std::string>& pieces) {
  Result result;
  for (const std::string& piece : pieces) {
    result.stop = matcher.Append(piece, &result.text);
    if (result.stop.has_value()) return result;
  }
  matcher.Flush(&result.text);
  return result;
}

// The definition, without cleverness: the first end of the text at which a stop string ends.
Result Reference(const std::vector<std::string>& stops, const std::string& text, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string prefix = text.substr(0, end);
    for (size_t i = 0; i < stops.size(); ++i) {
      if (!prefix.ends_with(stops[i])) continue;
      return {include ? prefix : prefix.substr(0, end - stops[i].size()), i};
    }
  }
  return {text, std::nullopt};
}

TEST(StopMatcher, WithoutStopStringsEverythingPasses) {
  StopMatcher matcher({}, false);
  std::string released;
  EXPECT_EQ(matcher.Append("text", &released), std::nullopt);
  EXPECT_EQ(released, "text");
}

TEST(StopMatcher, HoldsBackExactlyWhatMayBeginAStop) {
  const std::vector<std::string> stops = {"\n\nUser:", "</end>"};
  StopMatcher matcher(stops, false);
  std::string released;
  matcher.Append("one\n", &released);
  EXPECT_EQ(released, "one");
  matcher.Append("\n", &released);
  EXPECT_EQ(released, "one");
  matcher.Append("\n", &released);  // three newlines: the first can begin no stop any more
  EXPECT_EQ(released, "one\n");
  matcher.Append("Use", &released);
  EXPECT_EQ(released, "one\n");
  matcher.Append("d", &released);
  EXPECT_EQ(released, "one\n\n\nUsed");
}

TEST(StopMatcher, FlushReleasesWhatIsHeld) {
  const std::vector<std::string> stops = {"STOP"};
  EXPECT_EQ(Feed(StopMatcher(stops, false), {"abc ST", "O"}), (Result{"abc STO", std::nullopt}));
}

TEST(StopMatcher, IncludeStopKeepsTheMatchAndNothingBehindIt) {
  const std::vector<std::string> stops = {"END"};
  EXPECT_EQ(Feed(StopMatcher(stops, true), {"aE", "ND tail"}), (Result{"aEND", 0}));
  EXPECT_EQ(Feed(StopMatcher(stops, false), {"aE", "ND tail"}), (Result{"a", 0}));
}

TEST(StopMatcher, FirstToEndWinsThenFirstListed) {
  const std::vector<std::string> nested = {"abcd", "bc"};
  EXPECT_EQ(Feed(StopMatcher(nested, false), {"xabcd"}), (Result{"xa", 1}));
  const std::vector<std::string> suffix_last = {"ab", "b"};
  EXPECT_EQ(Feed(StopMatcher(suffix_last, false), {"xab"}), (Result{"x", 0}));
  const std::vector<std::string> suffix_first = {"b", "ab"};
  EXPECT_EQ(Feed(StopMatcher(suffix_first, false), {"xab"}), (Result{"xa", 0}));
}

TEST(StopMatcher, CopiesAreIndependent) {
  const std::vector<std::string> stops = {"ab"};
  const StopMatcher fresh(stops, false);
  StopMatcher first = fresh;
  StopMatcher second = fresh;
  std::string one, two;
  first.Append("a", &one);
  second.Append("b", &two);
  EXPECT_EQ(first.Append("b", &one), 0u);
  EXPECT_EQ(two, "b");
}

// Small alphabets make overlaps, restarts and nested stops; any cutting gives the same result.
TEST(StopMatcher, AgreesWithTheDefinitionHoweverTheTextIsCut) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto random_string = [&](size_t length) {
    std::string text;
    for (; length > 0; --length) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) stop = random_string(1 + random() % 7);
    const std::string text = random_string(random() % 30);
    const bool include = random() % 2 == 0;
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t length = random() % 5;
      pieces.push_back(text.substr(at, length));
      at += length;
    }
    ASSERT_EQ(Feed(StopMatcher(stops, include), pieces), Reference(stops, text, include))
        << "text " << text << " stops " << testing::PrintToString(stops);
  }
}

}  // namespace
}  // namespace parallax
