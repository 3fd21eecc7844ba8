// Stream: one GenerateStream call of a run, from start to recorded end.
//
// The call is made as a two-way stream of one request: only those tell when a request has been
// written. Until then it may wait in gRPC's transport, which no other clock of the client sees.
//
// Thread safety: Start and CutOff are the driver's; everything else happens on gRPC's threads.
// What is read comes one callback at a time; OnWriteDone may run beside it.
#ifndef PARALLAX_BENCH_SERVER_LOADGEN_STREAM_H_
#define PARALLAX_BENCH_SERVER_LOADGEN_STREAM_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "bench/server/loadgen/recorder.h"
#include "bench/server/loadgen/workload.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/client_callback.h"
#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::loadgen {

/// The steady clock, in nanoseconds.
inline int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

using StreamStub = grpc::TemplatedGenericStub<v1::GenerateRequest, v1::GenerateChunk>;

class Stream final : public grpc::ClientBidiReactor<v1::GenerateRequest, v1::GenerateChunk> {
 public:
  /// `on_done` is called last, once; it may destroy the stream.
  Stream(const PlannedRequest& plan, int64_t intended_ns, const std::string& bearer_token,
         Recorder* recorder, std::function<void(Stream*)> on_done);

  void Start(StreamStub* stub);
  /// Ends the call from outside: it is recorded as unfinished.
  void CutOff();

  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void Account(int64_t now_ns);

  Recorder* const recorder_;
  const std::function<void(Stream*)> on_done_;
  const std::optional<int32_t> cancel_after_;
  std::atomic<bool> cut_off_{false};
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateChunk chunk_;
  StreamRecord record_;
};

}  // namespace parallax::loadgen

#endif  // PARALLAX_BENCH_SERVER_LOADGEN_STREAM_H_
