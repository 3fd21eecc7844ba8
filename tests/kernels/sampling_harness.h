// Runs Sample on plain vectors.
#ifndef PARALLAX_TESTS_KERNELS_SAMPLING_HARNESS_H_
#define PARALLAX_TESTS_KERNELS_SAMPLING_HARNESS_H_

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/sampling.h"

namespace parallax::kernels {

// One row of logits for each sampling row. token_limit < 0 = the vocabulary's size.
std::vector<SampleResult> RunSample(const std::vector<std::vector<float>>& logits,
                                    const std::vector<SamplingRow>& rows, int64_t token_limit = -1,
                                    int threads = 2);

std::vector<float> RandomLogits(int vocab, float deviation, std::mt19937& rng);

}  // namespace parallax::kernels

#endif  // PARALLAX_TESTS_KERNELS_SAMPLING_HARNESS_H_
