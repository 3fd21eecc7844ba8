// ModelRunner: the seam between the engine and a backend (CPU, CUDA, null).
//
// A backend owns the weights, the KV pages and the per-slot sampler state, all of it
// allocated when it is created. The engine tells it which pages and slots to use.
//
// Thread safety: one thread (the engine's) calls Launch and Collect. limits() and
// description() are immutable and may be read from anywhere.
#ifndef PARALLAX_ENGINE_RUNNER_MODEL_RUNNER_H_
#define PARALLAX_ENGINE_RUNNER_MODEL_RUNNER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/runner/forward_batch.h"

namespace parallax {

// More tokens of context, or pages, than any machine serves; their products stay far from
// overflow.
inline constexpr int32_t kMostContextTokens = 1 << 28;
inline constexpr int32_t kMostPages = 1 << 28;

/// What a batch may ask of the backend; fixed at creation.
struct RunnerLimits {
  int32_t vocab_size = 0;              // logits columns
  int32_t max_context_tokens = 0;      // longest sequence, prompt plus output
  int32_t sliding_window = 0;          // 0 = none; else no layer looks further back than this
  int32_t max_num_seqs = 0;            // slots
  int32_t max_num_batched_tokens = 0;  // token rows a step
  int32_t num_pages = 0;               // KV pages, shared by all layers
  int64_t page_bytes = 0;              // one page, all layers
  int32_t max_steps_in_flight = 1;     // 1 on the CPU, 2 on a GPU
  int64_t probe_state_bytes = 0;       // capacity of the probe-state pool
  uint64_t weights_version = 0;        // part of the prefix cache's key
};

/// For operators and GetModelInfo.
struct ModelDescription {
  std::string name;
  std::string architecture;
  std::string weight_dtype;
  std::string kv_dtype;
  std::string device;
  int64_t num_parameters = 0;
  int64_t weight_bytes = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t hidden_size = 0;
  bool probe = false;  // Parallax (true) or plain softmax attention
};

/// What a GPU is used for; all zero on a backend without one.
struct DeviceStats {
  /// Reserved memory, by use.
  int64_t weight_bytes = 0;
  int64_t activation_bytes = 0;  // with logits, the sampler's lists and step buffers
  int64_t probe_state_bytes = 0;
  int64_t kv_cache_bytes = 0;
  int64_t graph_bytes = 0;

  /// Since the start.
  struct Work {
    int64_t steps = 0;
    double seconds = 0.0;  // of the device
    double bytes = 0.0;    // that the step cannot do without: weights once, keys and values
    double flops = 0.0;
  };
  Work graph_replays;  // decode steps that a captured graph ran
  Work eager_steps;    // all others: prefill, and decode mixed with it

  double peak_bytes_per_second = 0.0;  // of the device's memory
  double peak_flops_per_second = 0.0;  // of its matrix units, in the type of the weights

  /// How long the start took, by phase.
  struct Start {
    double load_seconds = 0.0;     // weights to the device
    double tune_seconds = 0.0;     // choosing how linear layers run
    double capture_seconds = 0.0;  // all graphs
  };
  Start start;
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual const RunnerLimits& limits() const = 0;
  virtual const ModelDescription& description() const = 0;

  /// Starts a step. `batch` stays alive and unchanged until the matching Collect. At most
  /// limits().max_steps_in_flight steps may be started and not collected.
  /// INVALID_ARGUMENT: the ops refuse what some request of the batch asks for. Slots are
  /// attached and detached as told, nothing is sampled, the step is not to be collected and the
  /// backend goes on. Any other error: the backend is broken.
  virtual absl::Status Launch(const ForwardBatch& batch) = 0;

  /// Waits for the oldest started step. The result is valid until the next-but-one Collect.
  virtual absl::StatusOr<const StepResult*> Collect() = 0;

  /// Probe-state bytes used by the last collected step, for metrics. 0 on a GPU: it decides by
  /// itself what to split, and does not tell.
  virtual int64_t probe_state_bytes_used() const { return 0; }

  /// Up to the last collected step, for metrics.
  virtual DeviceStats device_stats() const { return {}; }
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_RUNNER_MODEL_RUNNER_H_
