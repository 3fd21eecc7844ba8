#include "bench/kernels/cuda/bench_case.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>

#include "kernels/kv_cache_view.h"

namespace parallax::bench {
namespace {

constexpr size_t kBf16Bytes = 2;
constexpr size_t kColdBytes = size_t{512} << 20;  // several times the L2
constexpr size_t kTimedBytes = size_t{2} << 30;
constexpr size_t kMaxLaunches = 64;

size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }

// "<low>..<high>": log-uniform, the same every time.
std::vector<int32_t> LogUniformLengths(int sequences, double low, double high) {
  std::mt19937 generator(1);
  std::vector<int32_t> lengths;
  for (int i = 0; i < sequences; ++i) {
    const double u = generator() / 4294967296.0;
    lengths.push_back(static_cast<int32_t>(std::lround(low * std::pow(high / low, u))));
  }
  return lengths;
}

// "<low>-<high>": evenly spaced, the longest first, as a server orders them.
std::vector<int32_t> SpacedLengths(int sequences, double low, double high) {
  std::vector<int32_t> lengths;
  for (int i = 0; i < sequences; ++i) {
    const double share = sequences > 1 ? static_cast<double>(i) / (sequences - 1) : 0.0;
    lengths.push_back(static_cast<int32_t>(std::lround(high - (high - low) * share)));
  }
  return lengths;
}

// "<count>x<keys>+<count>x<keys>...".
std::vector<int32_t> ListedLengths(const std::string& text) {
  std::vector<int32_t> lengths;
  std::istringstream terms(text);
  for (std::string term; std::getline(terms, term, '+');) {
    const size_t times = term.find('x');
    lengths.insert(lengths.end(), std::stoi(term.substr(0, times)),
                   std::stoi(term.substr(times + 1)));
  }
  return lengths;
}

std::vector<int32_t> ParseLengths(int sequences, const std::string& text) {
  std::vector<int32_t> lengths;
  if (const size_t random = text.find(".."); random != std::string::npos) {
    lengths = LogUniformLengths(sequences, std::stod(text), std::stod(text.substr(random + 2)));
  } else if (const size_t spaced = text.find('-'); spaced != std::string::npos) {
    lengths = SpacedLengths(sequences, std::stod(text), std::stod(text.substr(spaced + 1)));
  } else {
    lengths = ListedLengths(text);
  }
  if (static_cast<int>(lengths.size()) != sequences) {
    throw std::invalid_argument("lengths: " + std::to_string(lengths.size()) + " given");
  }
  return lengths;
}

BenchCase Parse(const std::string& line) {
  std::istringstream words(line);
  words.exceptions(std::ios::failbit);
  BenchCase result;
  result.text = line;
  std::string kind;
  std::string lengths;
  std::string temperature = "cold";
  int sequences = 0;
  words >> kind >> sequences;
  if (kind == "prefill") {
    int cached = 0;
    words >> cached >> result.new_tokens;
    result.kind = BenchCase::Kind::kPrefill;
    result.context_len.assign(sequences, cached + result.new_tokens);
  } else if (kind == "decode") {
    int keys = 0;
    words >> keys;
    result.context_len.assign(sequences, keys);
  } else if (kind == "ragged") {
    words >> lengths;
    result.context_len = ParseLengths(sequences, lengths);
  } else {
    throw std::invalid_argument("kind: " + kind);
  }
  words >> result.query_heads >> result.kv_heads >> result.head_dim;
  if (result.kind == BenchCase::Kind::kDecode) words >> temperature;
  result.warm = temperature == "warm";
  return result;
}

}  // namespace

int32_t BenchCase::max_context() const {
  return *std::max_element(context_len.begin(), context_len.end());
}

size_t BenchCase::page_bytes() const {
  return 2 * kBf16Bytes * kernels::kPageSize * kv_heads * head_dim;
}

size_t BenchCase::kv_bytes() const {
  const auto keys = std::accumulate(context_len.begin(), context_len.end(), size_t{0});
  return keys * (page_bytes() / kernels::kPageSize);
}

int64_t BenchCase::pages() const {
  int64_t count = 0;
  for (int32_t keys : context_len) count += CeilDiv(keys, kernels::kPageSize);
  return count;
}

int BenchCase::copies(size_t pool_bytes) const {
  if (warm || kind == Kind::kPrefill) return 1;
  const size_t wanted =
      std::clamp<size_t>(CeilDiv(kColdBytes, kv_bytes()), size_t{2}, kMaxLaunches);
  return static_cast<int>(std::clamp<size_t>(pool_bytes / (pages() * page_bytes()), 1, wanted));
}

int BenchCase::launches(size_t pool_bytes) const {
  if (kind == Kind::kPrefill) return 2;
  const size_t wanted = std::min(CeilDiv(kTimedBytes, kv_bytes()), kMaxLaunches);
  return std::max(copies(pool_bytes), static_cast<int>(wanted));
}

BenchCase ParseBenchCase(const std::string& line) {
  try {
    return Parse(line);
  } catch (const std::exception& error) {
    throw std::invalid_argument("case \"" + line + "\": " + error.what());
  }
}

}  // namespace parallax::bench
