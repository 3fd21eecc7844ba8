#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/logger.h"
#include "server/request_ids.h"
#include "server/status_mapping.h"

namespace parallax::server {
namespace {

TEST(StatusMappingTest, EveryCodeHasItsOwn) {
  for (int code = 0; code < kNumStatusCodes; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status wire = ToGrpcStatus(status);
    EXPECT_EQ(static_cast<int>(wire.error_code()), code);
    EXPECT_EQ(StatusCodeName(wire.error_code()), absl::StatusCodeToString(status.code()));
    EXPECT_EQ(wire.error_message(), code == 0 ? "" : "why");
  }
}

TEST(StatusMappingTest, UnknownCodesBecomeUnknown) {
  EXPECT_EQ(ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(77), "x")).error_code(),
            grpc::StatusCode::UNKNOWN);
  EXPECT_EQ(StatusCodeName(static_cast<grpc::StatusCode>(77)), "UNKNOWN");
}

std::string Logged(LogLevel threshold, LogLevel level, const std::string& value) {
  int fds[2];
  EXPECT_EQ(pipe(fds), 0);
  Logger(threshold, fds[1]).Log(level, "event", {{"value", value}, {"count", 3}});
  close(fds[1]);
  char buffer[4096];
  const ssize_t size = read(fds[0], buffer, sizeof(buffer));
  close(fds[0]);
  return std::string(buffer, size > 0 ? size : 0);
}

TEST(LoggerTest, HostileValuesStayOneValidLine) {
  const std::string hostile = "a\"b\\c\nd\r\x01\x7f\xff{\"level\":\"forged\"}";
  const std::string line = Logged(LogLevel::kInfo, LogLevel::kWarning, hostile);
  ASSERT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["level"], "warning");
  EXPECT_EQ(json["event"], "event");
  EXPECT_EQ(json["count"], 3);
  EXPECT_EQ(json["value"].get<std::string>().substr(0, 7), "a\"b\\c\nd");
}

TEST(LoggerTest, LevelsBelowTheThresholdAreNotWritten) {
  EXPECT_EQ(Logged(LogLevel::kWarning, LogLevel::kInfo, "x"), "");
}

TEST(LoggerTest, KeepsTheLastProblemsWhateverTheThreshold) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  Logger logger(LogLevel::kError, fds[1]);
  for (int i = 0; i < 25; ++i) logger.Warning("warned", {{"i", i}});
  logger.Info("told", {});
  const std::string huge(100'000, 'x');
  logger.Warning("huge", {{"value", huge}});
  const auto kept = logger.RecentProblems();
  ASSERT_EQ(kept.size(), 20u);
  EXPECT_EQ(nlohmann::json::parse(kept.front())["i"], 6);
  const auto last = nlohmann::json::parse(kept.back());
  EXPECT_EQ(last["event"], "huge");
  EXPECT_EQ(last["truncated"], true);
  EXPECT_FALSE(last.contains("value"));
  close(fds[1]);
  char byte;
  EXPECT_EQ(read(fds[0], &byte, 1), 0) << "below the threshold, yet written";
  close(fds[0]);
}

// All that is in the pipe now, without waiting for more.
std::string Drain(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t size; (size = read(fd, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(size));
  }
  return text;
}

TEST(LoggerTest, AReaderThatStandsStillHoldsNobodyUp) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  ASSERT_EQ(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
  const Logger logger(LogLevel::kInfo, fds[1]);
  const std::string value(300, 'x');
  const std::string large(100'000, 'x');  // the pipe has room for a part of it
  std::future<void> logged = std::async(std::launch::async, [&] {
    for (int i = 0; i < 1000; ++i) logger.Info("told", {{"value", i == 3 ? large : value}});
  });
  const bool was_free = logged.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  EXPECT_TRUE(was_free);
  std::string text;
  while (logged.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
    text += Drain(fds[0]);
  }
  text += Drain(fds[0]);
  logger.Info("room again", {});
  text += Drain(fds[0]);
  close(fds[0]);
  close(fds[1]);

  int whole = 0, torn = 0, dropped = 0;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    (json.is_discarded() ? torn : whole) += 1;
    if (!json.is_discarded() && json["event"] == "log_lines_dropped") dropped = json["lines"];
  }
  EXPECT_EQ(torn, 1);
  EXPECT_EQ(whole + dropped, 1000 + 2) << "with the line of the room and that of the dropped";
}

TEST(RequestIdsTest, AreValidAndDiffer) {
  const RequestIdentity a = DrawRequestIdentity();
  const RequestIdentity b = DrawRequestIdentity();
  EXPECT_EQ(a.id.size(), 32u);
  EXPECT_EQ(a.id.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(a.id, b.id);
  EXPECT_NE(a.seed, b.seed);
}

}  // namespace
}  // namespace parallax::server
