// Every linear layer of a model on one GPU: which kernel runs it for how many tokens.
//
// The fastest for each (layer shape, bucket of token counts), chosen by timing once at start: among
// the splits of TensorLinear for 2..128 tokens on Hopper, SkinnyLinear for up to 16 there,
// TileLinear for 129..1024, and cuBLASLt's algorithms for all but the fewest. A shape that was
// never tuned runs SkinnyLinear, or the first algorithm that cuBLASLt's heuristic proposes; so does
// a number of tokens that its bucket's algorithm refuses.
//
// cuBLASLt is loaded at run time (libcublasLt.so of the CUDA major version compiled against, by
// the dynamic linker's rules, so LD_LIBRARY_PATH counts): one binary serves with and without.
//
// Exactness: as linear.h where its kernels run. Of cuBLASLt, products accumulate in fp32 in an
// order that it chooses, and kSiluAndMul rounds gate and up to bf16 before the product. One plan
// repeats its bits, two plans may differ in the last ones. So a token's bits depend on the bucket
// of the batch, where TileLinear runs, which chooses its split by it, on the very number of its
// tokens, and Restore() makes one start of the program repeat another.
//
// Thread safety: one thread at a time. Run() never waits and can be captured in a CUDA graph. It
// allocates nothing on the GPU; on the host a little, to remember, for a shape or a number of
// tokens above 128 that it has not seen.
// Errors: KernelError for shapes and alignment, when cuBLASLt is missing, and when it refuses.
#ifndef PARALLAX_KERNELS_CUDA_LINEAR_PLANS_H_
#define PARALLAX_KERNELS_CUDA_LINEAR_PLANS_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/linear.h"
#include "kernels/stream.h"

namespace parallax::kernels::cuda {

class LinearPlans {
 public:
  explicit LinearPlans(const DeviceProperties& device);
  ~LinearPlans();
  LinearPlans(const LinearPlans&) = delete;
  LinearPlans& operator=(const LinearPlans&) = delete;

  // What Tune and Run need for up to max_tokens tokens of layers of which the widest with
  // kSiluAndMul has max_silu_outputs outputs (N; 0 = none).
  static size_t WorkspaceBytes(int max_tokens, int max_silu_outputs);

  // Times the candidates for token counts up to each layer's `tokens`. `layers` are the model's
  // layers as Run will see them, in its order: the best few candidates of each shape are compared
  // in a chain of the first layers, as what a layer costs depends on the ones beside it. Overwrites
  // their outputs and the workspace; waits for the stream. Shapes that Restore() brought are not
  // timed again, but run once: nothing is loaded later.
  void Tune(std::span<const LinearParams> layers, std::span<std::byte> workspace,
            const Stream& stream);

  // y = epilogue(x W^T + bias) for any number of tokens (0 does nothing). N a multiple of 8 (16
  // for kSiluAndMul), K of 8; x, weight, bias, y and the workspace 16-byte aligned; x_stride and
  // y_stride multiples of 8 elements. programmatic_launch counts where the kernels of linear.h run.
  void Run(const LinearParams& params, std::span<std::byte> workspace, const Stream& stream);

  // Whether Run gives a layer to SkinnyLinear, which alone can defer norms.
  bool RunsSkinny(const LinearParams& params) const;

  // The tuned plans as text, to be kept in a file; Restore takes it back. False, and nothing
  // changed, when the text is malformed or of another GPU model, cuBLASLt or kernel version.
  std::string Serialize() const;
  bool Restore(std::string_view text);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace parallax::kernels::cuda

#endif  // PARALLAX_KERNELS_CUDA_LINEAR_PLANS_H_
