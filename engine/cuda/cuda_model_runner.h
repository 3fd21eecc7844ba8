// CudaModelRunner: one GPU behind the ModelRunner interface.
//
// Owns the weights, the decoder, the KV pages of every layer and the per-slot sampler state, all
// of it in GPU memory and allocated by Create. Two steps may be in flight: Launch packs the batch
// into pinned memory and enqueues its copies and kernels, Collect waits for the oldest step's
// event. What a slot sampled last stays on the device, where the next step reads it.
//
// Nothing stands between the kernels of two steps. A step's inputs travel on a stream of their own
// to memory of their own while the step before it runs, and the sampler writes its results
// straight into pinned memory of the host.
//
// A step in which every sequence has one row replays a CUDA graph captured at start for the
// number of sequences, rounded up to a bucket, and for the inputs it reads; other steps enqueue
// their kernels one by one.
//
// Results vary with the batch, by rounding: the bits of a row's logits depend on its own sequence,
// on the step's number of rows (kernels/cuda/linear_plans.h) and on the number and the lengths of
// the other sequences in it, which decide where decode and prefill cut a sequence's keys
// (kernels/cuda/parallax_decode.h). At a near tie another token may follow. The same steps give
// the same bits; the CPU backend gives them whatever else is in the step.
//
// The GPU is the first that CUDA_VISIBLE_DEVICES shows.
//
// Thread safety: as ModelRunner.
// Errors: what kernels throw becomes INTERNAL. A fault on the device shows in the Collect of the
// step that caused it; after that the runner is of no further use.
#ifndef PARALLAX_ENGINE_CUDA_CUDA_MODEL_RUNNER_H_
#define PARALLAX_ENGINE_CUDA_CUDA_MODEL_RUNNER_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cuda/cuda_backend.h"
#include "engine/cuda/cuda_decoder.h"
#include "engine/cuda/device_weights.h"
#include "engine/cuda/sampler_memory.h"
#include "engine/cuda/step_cost.h"
#include "engine/cuda/step_inputs.h"
#include "engine/cuda/step_layout.h"
#include "engine/models/communicator.h"
#include "engine/models/model_config.h"
#include "engine/models/tensor_source.h"
#include "engine/runner/model_runner.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_properties.h"
#include "kernels/cuda/execution.h"
#include "kernels/cuda/paged_kv_cache.h"

namespace parallax {

class CudaModelRunner final : public ModelRunner {
 public:
  /// Errors: INVALID_ARGUMENT (a shape that the ops cannot serve, an option out of range),
  /// FAILED_PRECONDITION (no such GPU, no cuBLASLt), RESOURCE_EXHAUSTED (memory: what takes it and
  /// which option to change), those of `source`.
  static absl::StatusOr<std::unique_ptr<CudaModelRunner>> Create(
      const ModelConfig& config, TensorSource& source, const CudaModelRunnerOptions& options);

  const RunnerLimits& limits() const override { return limits_; }
  const ModelDescription& description() const override { return description_; }
  absl::Status Launch(const ForwardBatch& batch) override;
  absl::StatusOr<const StepResult*> Collect() override;
  DeviceStats device_stats() const override { return stats_; }

 private:
  static constexpr int kStepsInFlight = 2;

  /// A step between Launch and Collect, and the memory it reads and writes.
  struct Flight {
    std::unique_ptr<StepInputs> inputs;
    kernels::cuda::PinnedBuffer results;              // SampleResult, written by the device
    kernels::cuda::PinnedBuffer scores_beyond_limit;  // SampleResult a scored row, see ScorePrompts
    std::vector<int32_t> score_targets;               // of the scored rows
    std::map<int, kernels::cuda::Graph> decode_graphs;  // by bucket
    uint64_t step_id = 0;
    int samples = 0;
    StepCost cost;
  };

  CudaModelRunner(const ModelConfig& config, const CudaModelRunnerOptions& options,
                  const kernels::cuda::DeviceProperties& device);

  absl::Status Prepare(TensorSource& source);
  absl::Status PlanMemory();
  void AllocateSteps();
  void AllocatePages();
  void TuneLinearLayers();
  void CaptureDecodeGraphs();
  void Describe();
  absl::Status Rehearse();

  absl::Status LaunchChecked(const ForwardBatch& batch);
  void UpdateSlots(const ForwardBatch& batch);
  void RunStep(const ForwardBatch& batch, Flight& flight);
  void SendInputs(const ForwardBatch& batch, const StepShape& shape, bool all_logits,
                  const Flight& flight);
  void CopyPages(const StepShape& shape, const Flight& flight);
  void RunEagerly(const ForwardBatch& batch, const StepShape& shape, const Flight& flight);
  void ScorePrompts(const ForwardBatch& batch, const StepShape& shape, const Flight& flight);
  void SampleRows(const StepShape& shape, const Flight& flight);
  void EnqueueDecode(const StepShape& shape, const Flight& flight);
  DeviceStep Step(const Flight& flight) const;
  void ReadResults(const Flight& flight, StepResult& result) const;
  PromptLogprob ReadScore(const Flight& flight, int row, StepResult& result) const;
  void NoteStep(const Flight& flight);
  double DeviceSeconds(const Flight& flight) const;
  kernels::cuda::Event& ended(uint64_t step) { return ended_[step % ended_.size()]; }
  const kernels::cuda::Event& ended(uint64_t step) const { return ended_[step % ended_.size()]; }
  StepInputSizes InputSizes() const;
  StepShape LargestShape() const;
  SamplerMemoryOptions SamplerOptions() const;
  CudaDecoderOptions DecoderOptions() const;

  const ModelConfig config_;
  const CudaModelRunnerOptions options_;
  const kernels::cuda::DeviceProperties device_;
  kernels::cuda::OwnedStream stream_;
  kernels::cuda::OwnedStream input_stream_;
  SingleDeviceCommunicator communicator_;
  StepCostModel cost_model_;
  RunnerLimits limits_;
  ModelDescription description_;
  DeviceStats stats_;
  int max_blocks_ = 0;
  int max_logits_rows_ = 0;

  std::unique_ptr<const DeviceWeights> weights_;
  std::unique_ptr<CudaDecoder> decoder_;
  std::unique_ptr<SamplerMemory> sampler_;
  std::vector<kernels::cuda::DeviceBuffer> pages_;  // one a layer
  std::vector<kernels::cuda::PagedKvCache> caches_;
  std::vector<SlotState> slots_;

  std::array<Flight, kStepsInFlight> flights_;
  // Of the steps in flight, and of the one collected last: the next began no earlier.
  std::array<kernels::cuda::Event, kStepsInFlight + 1> ended_;
  // A result lives until the next-but-one Collect.
  std::array<StepResult, 3> results_;
  uint64_t launched_ = 0;
  uint64_t collected_ = 0;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_CUDA_MODEL_RUNNER_H_
