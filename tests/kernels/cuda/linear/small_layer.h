// Layers for racecheck, under which a kernel takes hundreds of times as long and whole test
// programs do not end: TensorLinear's and TileLinear's.
#ifndef PARALLAX_TESTS_KERNELS_CUDA_LINEAR_SMALL_LAYER_H_
#define PARALLAX_TESTS_KERNELS_CUDA_LINEAR_SMALL_LAYER_H_

#include <utility>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear/tensor_split.h"
#include "tests/kernels/cuda/linear/linear_problem.h"

namespace parallax::kernels::cuda {

// What tells a width's kernels apart.
struct LinearOutput {
  LinearEpilogue epilogue;
  DType y_dtype;
};

template <int... kValues>
std::vector<int> ValuesOf(std::integer_sequence<int, kValues...>) {
  return {kValues...};
}

// Without operands. Neither the last tile of `rows` nor the last step is whole.
inline LinearParams SmallLayer(const LinearOutput& output, int tokens, int rows, int steps) {
  LinearParams layer;
  layer.epilogue = output.epilogue;
  layer.y_dtype = output.y_dtype;
  layer.tokens = tokens;
  layer.num_outputs = rows - 16;
  layer.num_inputs = steps * kTensorStepInputs - 8;
  return layer;
}

// One launch, of random operands. `Oracle` looks at every 7th column.
template <typename Oracle, typename Split>
void ExpectSmallRight(const LinearParams& layer, const Split& split, unsigned seed) {
  LinearProblem problem(layer.tokens, layer.num_outputs, layer.num_inputs, layer.epilogue, seed);
  problem.params.y_dtype = layer.y_dtype;
  Oracle(problem, 7).ExpectRight(split);
}

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_TESTS_KERNELS_CUDA_LINEAR_SMALL_LAYER_H_
