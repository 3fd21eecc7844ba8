// Inverse frequencies of the rotary position embedding, with context-extension scaling.
//
//   base     f_i = theta^(-2i / head_dim),  i < head_dim / 2         (arXiv 2104.09864)
//   linear   f_i / factor                                           (arXiv 2306.15595)
//   llama3   wavelengths above original/low_freq_factor are stretched by factor, those below
//            original/high_freq_factor are kept, the ones between are blended linearly in
//            original/wavelength (Llama 3.1's rope_type "llama3").
//
// Thread safety: pure function.
#ifndef PARALLAX_ENGINE_MODELS_ROPE_FREQUENCIES_H_
#define PARALLAX_ENGINE_MODELS_ROPE_FREQUENCIES_H_

#include <cstdint>
#include <vector>

#include "engine/models/model_config.h"

namespace parallax {

// Radians per position, [head_dim / 2].
std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_MODELS_ROPE_FREQUENCIES_H_
