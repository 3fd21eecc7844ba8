// Words for people: how a choice ended, durations, special characters.
//
// Thread safety: pure functions.
#ifndef PARALLAX_CLIENTS_CPP_CLI_FORMAT_H_
#define PARALLAX_CLIENTS_CPP_CLI_FORMAT_H_

#include <string>

#include "parallax/v1/inference.pb.h"

namespace parallax::client {

/// "stop at token 2 | 5 prompt tokens (0 cached), 20 completion tokens | queue 0.1 ms, ..."
std::string DescribeFinish(const v1::Finish& finish);

/// As a JSON-like literal: quotes, backslashes and control characters escaped, and bytes
/// that are not ASCII left as they are.
std::string Quoted(const std::string& bytes);

/// With `digits` after the point.
std::string Fixed(double value, int digits);

}  // namespace parallax::client

#endif  // PARALLAX_CLIENTS_CPP_CLI_FORMAT_H_
