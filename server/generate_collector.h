// GenerateCollector: one unary Generate call. Collects the output of all choices and
// replies once.
//
// Bounded by max_response_bytes: over it the request ends with RESOURCE_EXHAUSTED.
//
// Lifetime: as GenerateReactor, shared between gRPC and the engine.
// Thread safety: safe.
#ifndef PARALLAX_SERVER_GENERATE_COLLECTOR_H_
#define PARALLAX_SERVER_GENERATE_COLLECTOR_H_

#include <memory>
#include <optional>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "grpcpp/support/server_callback.h"
#include "parallax/v1/inference.pb.h"
#include "server/generate_call.h"
#include "server/write_dispatcher.h"

namespace parallax::server {

class GenerateCollector final : public grpc::ServerUnaryReactor,
                                public TokenSink,
                                public Writable,
                                public std::enable_shared_from_this<GenerateCollector> {
 public:
  /// Submits the request; `response` is filled before the call ends. A refused request ends
  /// the call.
  static GenerateCollector* Start(GenerateCall call, Request request,
                                  v1::GenerateResponse* response);

  GenerateCollector(GenerateCall call, int num_choices, v1::GenerateResponse* response);

  // TokenSink, on the engine's thread.
  void OnStart(RequestStart start) override;
  void OnDelta(OutputDelta delta) override;
  void OnDone(absl::Status status) override;

  // Writable, on a dispatcher thread: builds the reply and sends it.
  void Write() override;

  // gRPC's reactions.
  void OnCancel() override;
  void OnDone() override;

 private:
  struct Output {
    RequestStart start;
    std::vector<OutputDelta> choices;
  };

  void CountLocked(size_t bytes) PARALLAX_REQUIRES(mutex_);
  void FillResponse(Output output);
  void FillChoice(const Echo* echo, OutputDelta choice, v1::Choice* wire);

  GenerateCall call_;
  v1::GenerateResponse* const response_;  // gRPC's; ours until Finish

  Mutex mutex_;
  std::shared_ptr<GenerateCollector> self_ PARALLAX_GUARDED_BY(mutex_);  // until gRPC's OnDone
  Output output_ PARALLAX_GUARDED_BY(mutex_);
  size_t bytes_ PARALLAX_GUARDED_BY(mutex_) = 0;
  bool cancelled_ PARALLAX_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> overflow_ PARALLAX_GUARDED_BY(mutex_);
  std::optional<absl::Status> done_ PARALLAX_GUARDED_BY(mutex_);
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GENERATE_COLLECTOR_H_
