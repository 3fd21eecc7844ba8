// What attention is given in the deep layers of a model, as the CPU's decoder computes it.
//
// Thread safety: none needed. Throws on failure.
#ifndef PARALLAX_TESTS_ENGINE_MODELS_ATTENTION_CAPTURE_H_
#define PARALLAX_TESTS_ENGINE_MODELS_ATTENTION_CAPTURE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/kernels/reference/attention_reference.h"

namespace parallax::testing {

/// One problem a layer, rounded to bfloat16: keys and values of all `tokens`, queries and probes of
/// the last `query_rows`.
std::vector<reference::AttentionProblem> CaptureAttention(const std::string& model_folder,
                                                          const std::vector<int32_t>& tokens,
                                                          const std::vector<int>& layers,
                                                          int query_rows);

/// The capture that is committed for tests of the kernels.
std::vector<reference::AttentionProblem> CaptureDefaultModel();

}  // namespace parallax::testing

#endif  // PARALLAX_TESTS_ENGINE_MODELS_ATTENTION_CAPTURE_H_
