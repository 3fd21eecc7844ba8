// KvEventStream: one SubscribeKvEvents call; reads the log and writes, one batch at a time.
//
// Lifetime: shared between gRPC, the log's list of listeners and the dispatcher's queue.
// Thread safety: safe. Neither the log's lock nor its reading happens under the stream's: the
// engine's thread takes both.
#ifndef PARALLAX_SERVER_VLLM_KV_EVENT_STREAM_H_
#define PARALLAX_SERVER_VLLM_KV_EVENT_STREAM_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "engine/base/mutex.h"
#include "grpcpp/support/server_callback.h"
#include "server/call_environment.h"
#include "server/vllm/kv_event_log.h"
#include "server/write_dispatcher.h"
#include "vllm/common.pb.h"

namespace parallax::server {

class KvEventStream final : public grpc::ServerWriteReactor<::smg::grpc::common::KvEventBatch>,
                            public KvEventListener,
                            public Writable,
                            public std::enable_shared_from_this<KvEventStream> {
 public:
  /// REQUIRES: environment->model.kv_events is not null.
  static KvEventStream* Start(const CallEnvironment* environment, uint64_t start_sequence_number);

  KvEventStream(const CallEnvironment* environment, uint64_t next);

  void OnKvEvents() override;  // on the engine's thread
  void Write() override;       // on a dispatcher thread

  // gRPC's reactions.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void DispatchLocked() PARALLAX_REQUIRES(mutex_);
  void WriteNext();
  bool TakeTurn();
  bool GoesOn(KvEventLog::ReadResult read);
  std::optional<absl::Status> EndAfterLocked(KvEventLog::ReadResult read) const
      PARALLAX_REQUIRES(mutex_);

  const CallEnvironment& environment_;
  KvEventLog& log_;
  const int dispatch_queue_;
  // Of whoever has the turn (writing_).
  ::smg::grpc::common::KvEventBatch batch_;
  uint64_t next_;

  Mutex mutex_;
  std::shared_ptr<KvEventStream> self_ PARALLAX_GUARDED_BY(mutex_);  // until gRPC's OnDone
  bool dispatched_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool writing_ PARALLAX_GUARDED_BY(mutex_) = false;  // a thread reads the log, or gRPC writes
  bool news_ PARALLAX_GUARDED_BY(mutex_) = false;     // since the log was last looked at
  bool cancelled_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool finished_ PARALLAX_GUARDED_BY(mutex_) = false;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_KV_EVENT_STREAM_H_
