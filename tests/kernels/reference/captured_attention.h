// Attention problems of a real model, in a file: trained queries and probes are unlike normal
// noise.
//
// The file that is committed beside this is of the default model's deep layers on held-out text;
// tests/engine/models/capture_attention.cc writes it, and a test there compares the two.
//
// Layout, little-endian: int32 problems, then for each int32 query_rows, context, query_heads,
// kv_heads, head_dim, and bfloat16 q, r, k, v in the shapes of AttentionProblem.
//
// Errors: std::runtime_error naming the file.
#ifndef PARALLAX_TESTS_KERNELS_REFERENCE_CAPTURED_ATTENTION_H_
#define PARALLAX_TESTS_KERNELS_REFERENCE_CAPTURED_ATTENTION_H_

#include <string>
#include <vector>

#include "tests/kernels/reference/attention_reference.h"

namespace parallax::reference {

// Tests run in the repository's root.
inline constexpr char kDefaultModelAttention[] =
    "tests/kernels/reference/default_model_attention.bin";

// The scale is 1 / sqrt(head_dim); there is no window.
std::vector<AttentionProblem> ReadCapturedAttention(const std::string& path);

// Values are bfloat16 already. A window and a scale are not kept.
void WriteCapturedAttention(const std::string& path, const std::vector<AttentionProblem>& problems);

// The same inputs without a probe: what its error is measured by.
std::vector<AttentionProblem> WithZeroProbes(std::vector<AttentionProblem> problems);

// Rows [begin, end) of the problem, the last of them as the last of its context.
AttentionProblem RowsOf(const AttentionProblem& problem, int begin, int end);

// A problem of every query row.
std::vector<AttentionProblem> SplitIntoRows(const AttentionProblem& problem);

}  // namespace parallax::reference

#endif  // PARALLAX_TESTS_KERNELS_REFERENCE_CAPTURED_ATTENTION_H_
