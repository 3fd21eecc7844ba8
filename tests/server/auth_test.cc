#include "server/auth.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/time/time.h"
#include "engine/retry_after.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parallax::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class AuthTest : public testing::Test {
 protected:
  AuthTest() : path_(testing::TempDir() + "/tokens_" + std::to_string(getpid())) {}
  ~AuthTest() override { std::filesystem::remove(path_); }

  void Write(const std::string& text) { std::ofstream(path_) << text; }

  const std::string path_;
};

TEST(TokenFileTest, ParsesEntriesAndComments) {
  const auto entries = ParseTokenFile(
      "# tokens\n\nalice  secret-a max_concurrent=8 max_requests_per_second=0.5\r\n"
      "b.o_b-2\tsecret-b # no limits\n");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].name, "alice");
  EXPECT_EQ((*entries)[0].limits.max_concurrent, 8);
  EXPECT_EQ((*entries)[0].limits.max_requests_per_second, 0.5);
  EXPECT_EQ((*entries)[1].name, "b.o_b-2");
  EXPECT_FALSE((*entries)[1].limits.max_concurrent.has_value());
}

// A token can stand where none should, and whoever reads the log or the status page would have it.
TEST(TokenFileTest, RefusesBadLinesByNumberWithoutAWordOfThem) {
  for (const char* line : {"alice",
                           "al/ice secret-a",
                           "anonymous secret-a",
                           "alice short",
                           "secret-a",
                           "alice secret-a max_concurrent=0",
                           "alice secret-a max_concurrent=secret-x",
                           "alice secret-a max_requests_per_second=-1",
                           "alice secret-a max_requests_per_second=nan",
                           "alice secret-a maximum=1",
                           "alice smith-123 secret-a",
                           "alice secret-a secret-x",
                           "alice secret-a =secret-x",
                           "alice secret-a max_concurrent=1 secret-x",
                           "alice secret-a#secret-x",
                           "alice secret-a max_concurrent=1#secret-x",
                           "alice #secret-a",
                           "alice secret-a\x7f",
                           "bob secret-a",
                           "carol secret-z",
                           "secret-c secret-c"}) {
    const auto entries = ParseTokenFile(std::string("carol secret-c\n\nbob secret-b\n") + line);
    ASSERT_FALSE(entries.ok()) << line;
    const std::string message(entries.status().message());
    EXPECT_THAT(message, HasSubstr("line 4: "));
    EXPECT_THAT(message, Not(HasSubstr("secret-"))) << line;
    EXPECT_THAT(message, Not(HasSubstr("smith"))) << line;
  }
}

TEST(TokenFileTest, SaysWhichFieldIsWrong) {
  const auto message = [](const char* text) {
    return std::string(ParseTokenFile(text).status().message());
  };
  EXPECT_THAT(message("alice smith-123 secret-a\n"), HasSubstr("line 1: field 3: neither"));
  EXPECT_THAT(message("a secret-a max_concurrent=1 max_requests_per_second=0"),
              HasSubstr("field 4: max_requests_per_second must be"));
}

// One that ended at the # would be shorter than its owner believes, and easier to guess.
TEST(TokenFileTest, ATokenDoesNotEndAtAHash) {
  EXPECT_FALSE(ParseTokenFile("alice abcdefgh#rest-of-the-secret\n").ok());
  EXPECT_FALSE(ParseTokenFile("alice abcdefgh# comment\n").ok());
  const auto entries = ParseTokenFile("alice abcdefgh #comment # more\n#bob secret-b\n");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->size(), 1u);
}

TEST(TokenFileTest, RefusesOneTokenForTwoNamesAndOneNameTwice) {
  const auto tokens = ParseTokenFile("alice secret-a\n\nbob secret-a\n");
  ASSERT_FALSE(tokens.ok());
  EXPECT_EQ(tokens.status().message(), "line 3: the same token as in line 1");
  const auto names = ParseTokenFile("alice secret-a\nalice secret-b\n");
  ASSERT_FALSE(names.ok());
  EXPECT_EQ(names.status().message(), "line 2: the same name as in line 1");
}

TEST(AuthenticatorTest, AnonymousServesEveryone) {
  const auto authenticator = Authenticator::Anonymous();
  EXPECT_EQ((*authenticator->Authenticate(std::nullopt))->name(), "anonymous");
  EXPECT_EQ((*authenticator->Authenticate("Bearer whatever"))->name(), "anonymous");
}

TEST_F(AuthTest, AcceptsExactlyTheTokens) {
  Write("alice secret-a\nbob secret-b\n");
  const auto authenticator = Authenticator::FromFile(path_);
  ASSERT_TRUE(authenticator.ok()) << authenticator.status();
  EXPECT_EQ((*(*authenticator)->Authenticate("Bearer secret-a"))->name(), "alice");
  EXPECT_EQ((*(*authenticator)->Authenticate("Bearer secret-b"))->name(), "bob");
  for (const char* header : {"", "secret-a", "bearer secret-a", "Bearer  secret-a",
                             "Bearer secret-", "Bearer secret-aa", "Basic secret-a", "Bearer "}) {
    const auto principal = (*authenticator)->Authenticate(header);
    EXPECT_EQ(principal.status().code(), absl::StatusCode::kUnauthenticated) << header;
  }
  EXPECT_FALSE((*authenticator)->Authenticate(std::nullopt).ok());
}

TEST_F(AuthTest, RefusesFilesThatProtectNothing) {
  EXPECT_FALSE(Authenticator::FromFile(path_ + ".missing").ok());
  Write("# nobody\n");
  EXPECT_FALSE(Authenticator::FromFile(path_).ok());
}

TEST_F(AuthTest, ReloadKeepsRunningRequestsAndSurvivesErrors) {
  Write("alice secret-a max_concurrent=1\nbob secret-b\n");
  const auto authenticator = *Authenticator::FromFile(path_);
  auto permit = (*authenticator->Authenticate("Bearer secret-a"))->AdmitRequest(absl::Now());
  ASSERT_TRUE(permit.ok());

  Write("alice new-secret max_concurrent=1\n");
  ASSERT_TRUE(authenticator->Reload().ok());
  EXPECT_FALSE(authenticator->Authenticate("Bearer secret-a").ok());
  EXPECT_FALSE(authenticator->Authenticate("Bearer secret-b").ok());
  const auto alice = *authenticator->Authenticate("Bearer new-secret");
  EXPECT_FALSE(alice->AdmitRequest(absl::Now()).ok()) << "the old request still runs";
  EXPECT_THAT(authenticator->PrincipalNames(), ElementsAre("alice", "bob"));

  Write("alice\n");
  EXPECT_FALSE(authenticator->Reload().ok());
  EXPECT_TRUE(authenticator->Authenticate("Bearer new-secret").ok());
}

TEST(PrincipalTest, ConcurrencyLimitFollowsPermits) {
  const auto principal = std::make_shared<Principal>("alice", CallerLimits{.max_concurrent = 2});
  auto first = principal->AdmitRequest(absl::Now());
  auto second = principal->AdmitRequest(absl::Now());
  ASSERT_TRUE(first.ok() && second.ok());
  const auto third = principal->AdmitRequest(absl::Now());
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(GetRetryAfter(third.status()).has_value());
  Permit moved = *std::move(first);
  EXPECT_FALSE(principal->AdmitRequest(absl::Now()).ok());
  moved.Release();
  moved.Release();  // gives back one place, not two
  EXPECT_TRUE(principal->AdmitRequest(absl::Now()).ok());
}

TEST(PrincipalTest, RateIsATokenBucket) {
  const auto principal =
      std::make_shared<Principal>("alice", CallerLimits{.max_requests_per_second = 4.0});
  absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(principal->ChargeRate(now).ok()) << i;
  const absl::Status refused = principal->ChargeRate(now);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  const auto retry = GetRetryAfter(refused);
  ASSERT_TRUE(retry.has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*retry), 0.25, 0.002);
  now += absl::Milliseconds(251);
  EXPECT_TRUE(principal->ChargeRate(now).ok());
  EXPECT_FALSE(principal->ChargeRate(now).ok());
  now += absl::Hours(1);  // the burst is bounded, however long the pause
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(principal->ChargeRate(now).ok()) << i;
  EXPECT_FALSE(principal->ChargeRate(now).ok());
}

}  // namespace
}  // namespace parallax::server
