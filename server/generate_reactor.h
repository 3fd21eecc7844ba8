// GenerateReactor: one GenerateStream call, from the engine's tokens to gRPC's writes.
//
//   engine thread      OnDelta, OnDone: into the outbox, mark the call as writable
//   dispatcher thread  Write: take a chunk, start gRPC's write
//   gRPC threads       OnWriteDone: write the next chunk; OnCancel: tell the engine
//
// At most one write is outstanding; what arrives meanwhile coalesces in the bounded outbox.
// Over its bound the request ends with RESOURCE_EXHAUSTED: the engine never waits.
//
// Lifetime: shared. The call holds a reference to itself until gRPC is done with it, the
// engine until the request ended; whichever is later frees it.
//
// Thread safety: safe; `mutex_` guards all state that several of those threads touch.
#ifndef PARALLAX_SERVER_GENERATE_REACTOR_H_
#define PARALLAX_SERVER_GENERATE_REACTOR_H_

#include <memory>
#include <optional>

#include "engine/base/mutex.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "grpcpp/support/server_callback.h"
#include "parallax/v1/inference.pb.h"
#include "server/chunk_outbox.h"
#include "server/generate_call.h"
#include "server/write_dispatcher.h"

namespace parallax::server {

class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateChunk>,
                              public TokenSink,
                              public Writable,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  /// Submits the request. The reactor keeps itself alive; a refused request ends the call.
  static GenerateReactor* Start(grpc::CallbackServerContext* context,
                                const CallEnvironment* environment, Request request, Permit permit);

  GenerateReactor(grpc::CallbackServerContext* context, const CallEnvironment* environment,
                  const Request& request, Permit permit);

  // TokenSink, on the engine's thread.
  void OnStart(RequestStart start) override;
  void OnDelta(OutputDelta delta) override;
  void OnDone(absl::Status status) override;

  // Writable, on a dispatcher thread.
  void Write() override;

  // gRPC's reactions.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void DispatchLocked() PARALLAX_REQUIRES(mutex_);
  void WriteNext();

  GenerateCall call_;
  const int dispatch_queue_;
  v1::GenerateChunk chunk_;  // gRPC's while a write is outstanding

  Mutex mutex_;
  std::shared_ptr<GenerateReactor> self_ PARALLAX_GUARDED_BY(mutex_);  // until gRPC's OnDone
  ChunkOutbox outbox_ PARALLAX_GUARDED_BY(mutex_);
  bool first_chunk_ PARALLAX_GUARDED_BY(mutex_) = true;
  bool dispatched_ PARALLAX_GUARDED_BY(mutex_) = false;  // waits in the dispatcher's queue
  bool writing_ PARALLAX_GUARDED_BY(mutex_) = false;     // a write is outstanding
  bool discarding_ PARALLAX_GUARDED_BY(mutex_) = false;  // reader gone or too slow
  bool finished_ PARALLAX_GUARDED_BY(mutex_) = false;    // gRPC was told the status
  std::optional<absl::Status> overflow_ PARALLAX_GUARDED_BY(mutex_);
  std::optional<absl::Status> done_ PARALLAX_GUARDED_BY(mutex_);  // no more output comes
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GENERATE_REACTOR_H_
