#include "tests/kernels/reference/captured_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <stdexcept>

namespace parallax::reference {
namespace {

static_assert(std::endian::native == std::endian::little);

int ReadInt(std::ifstream& file) {
  int32_t value = 0;
  file.read(reinterpret_cast<char*>(&value), sizeof(value));
  return value;
}

void WriteInt(std::ofstream& file, int32_t value) {
  file.write(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::vector<float> ReadValues(std::ifstream& file, size_t size) {
  std::vector<uint16_t> halves(size);
  file.read(reinterpret_cast<char*>(halves.data()),
            static_cast<std::streamsize>(size * sizeof(uint16_t)));
  std::vector<float> values(size);
  for (size_t i = 0; i < size; ++i) values[i] = std::bit_cast<float>(uint32_t{halves[i]} << 16);
  return values;
}

void WriteValues(std::ofstream& file, const std::vector<float>& values) {
  for (const float value : values) {
    const auto bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0xffff) != 0) throw std::runtime_error("captured attention: not a bfloat16");
    const auto half = static_cast<uint16_t>(bits >> 16);
    file.write(reinterpret_cast<const char*>(&half), sizeof(half));
  }
}

AttentionProblem ReadProblem(std::ifstream& file) {
  AttentionProblem problem;
  for (int* const field : {&problem.query_rows, &problem.context, &problem.query_heads,
                           &problem.kv_heads, &problem.head_dim}) {
    *field = ReadInt(file);
    if (!file || *field < 1 || *field > 4096) throw std::runtime_error("a shape out of range");
  }
  problem.scale = static_cast<float>(1.0 / std::sqrt(problem.head_dim));
  const size_t query_size = size_t(problem.query_rows) * problem.query_heads * problem.head_dim;
  const size_t kv_size = size_t(problem.context) * problem.kv_heads * problem.head_dim;
  problem.q = ReadValues(file, query_size);
  problem.r = ReadValues(file, query_size);
  problem.k = ReadValues(file, kv_size);
  problem.v = ReadValues(file, kv_size);
  if (!file) throw std::runtime_error("is cut short");
  return problem;
}

}  // namespace

std::vector<AttentionProblem> ReadCapturedAttention(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::vector<AttentionProblem> problems;
  try {
    for (int left = ReadInt(file); left > 0; --left) problems.push_back(ReadProblem(file));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
  if (problems.empty()) throw std::runtime_error(path + ": holds nothing");
  return problems;
}

void WriteCapturedAttention(const std::string& path,
                            const std::vector<AttentionProblem>& problems) {
  std::ofstream file(path, std::ios::binary);
  WriteInt(file, static_cast<int32_t>(problems.size()));
  for (const AttentionProblem& problem : problems) {
    for (const int field : {problem.query_rows, problem.context, problem.query_heads,
                            problem.kv_heads, problem.head_dim}) {
      WriteInt(file, field);
    }
    for (const auto* values : {&problem.q, &problem.r, &problem.k, &problem.v}) {
      WriteValues(file, *values);
    }
  }
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

std::vector<AttentionProblem> WithZeroProbes(std::vector<AttentionProblem> problems) {
  for (AttentionProblem& problem : problems) std::fill(problem.r.begin(), problem.r.end(), 0.0f);
  return problems;
}

AttentionProblem RowsOf(const AttentionProblem& problem, int begin, int end) {
  const int64_t row_size = int64_t{problem.query_heads} * problem.head_dim;
  const int64_t token_size = int64_t{problem.kv_heads} * problem.head_dim;
  AttentionProblem rows = problem;
  rows.query_rows = end - begin;
  rows.context = problem.context - problem.query_rows + end;
  rows.q.assign(problem.q.begin() + begin * row_size, problem.q.begin() + end * row_size);
  rows.r.assign(problem.r.begin() + begin * row_size, problem.r.begin() + end * row_size);
  rows.k.resize(rows.context * token_size);
  rows.v.resize(rows.context * token_size);
  return rows;
}

std::vector<AttentionProblem> SplitIntoRows(const AttentionProblem& problem) {
  std::vector<AttentionProblem> rows;
  for (int row = 0; row < problem.query_rows; ++row) {
    rows.push_back(RowsOf(problem, row, row + 1));
  }
  return rows;
}

}  // namespace parallax::reference
