// KvEventStream: one SubscribeKvEvents call; reads the log and writes, one batch at a time.
//
// Lifetime: shared between gRPC, the log's list of listeners and the dispatcher's queue.
// Thread safety: safe. Lock order: this stream's, then the log's.
#ifndef PARALLAX_SERVER_VLLM_KV_EVENT_STREAM_H_
#define PARALLAX_SERVER_VLLM_KV_EVENT_STREAM_H_

#include <cstdint>
#include <memory>

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

  const CallEnvironment& environment_;
  KvEventLog& log_;
  const int dispatch_queue_;
  ::smg::grpc::common::KvEventBatch batch_;  // gRPC's while a write is outstanding

  Mutex mutex_;
  std::shared_ptr<KvEventStream> self_ PARALLAX_GUARDED_BY(mutex_);  // until gRPC's OnDone
  uint64_t next_ PARALLAX_GUARDED_BY(mutex_);
  bool dispatched_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool writing_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool cancelled_ PARALLAX_GUARDED_BY(mutex_) = false;
  bool finished_ PARALLAX_GUARDED_BY(mutex_) = false;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_KV_EVENT_STREAM_H_
