// A model with random weights, and sequences that prefill and decode on it, step by step.
//
// Thread safety: none; one thread drives it.
#ifndef PARALLAX_BENCH_MODEL_MODEL_WORKLOAD_H_
#define PARALLAX_BENCH_MODEL_MODEL_WORKLOAD_H_

#include <cstdint>
#include <memory>

#include "engine/runner/model_runner.h"

namespace parallax::bench {

/// Shape of the model: the published 0.6B one, with fewer layers so that a run stays short.
struct WorkloadShape {
  int64_t layers = 8;
  int64_t hidden = 1024;
  int64_t heads = 16;
  int64_t kv_heads = 8;
  int64_t head_dim = 128;
  int64_t intermediate = 3072;
  int64_t vocab = 151936;

  /// Weights of the linear layers, the vocabulary projection apart.
  int64_t LayerParameters() const;
  int64_t HeadParameters() const { return vocab * hidden; }
};

class ModelWorkload {
 public:
  /// Makes the model; throws when it does not fit.
  ModelWorkload(const WorkloadShape& shape, int threads, int max_sequences, int max_context);

  /// Prefills `tokens` of a fresh sequence in this slot, in one step.
  void Prefill(int slot, int tokens);
  /// One decode step of the sequences in slots 0 .. count - 1, `context` tokens in already.
  void Decode(int count, int context);

  const ModelRunner& runner() const { return *runner_; }

 private:
  void AddSequence(int slot, int first_position, int tokens);
  void Run();

  const int pages_per_sequence_;
  std::unique_ptr<ModelRunner> runner_;
  SamplingParams params_;
  ForwardBatch batch_;
};

}  // namespace parallax::bench

#endif  // PARALLAX_BENCH_MODEL_MODEL_WORKLOAD_H_
