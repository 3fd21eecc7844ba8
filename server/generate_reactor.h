// GenerateReactor: one streaming call, from the engine's tokens to gRPC's writes.
//
//   engine thread      OnDelta, OnDone: into the outbox, mark the call as writable
//   dispatcher thread  Write: take a chunk, start gRPC's write
//   gRPC threads       OnWriteDone: write the next chunk; OnCancel: tell the engine
//
// At most one write is outstanding; what arrives meanwhile coalesces in the bounded outbox.
// Over its bound the request ends with RESOURCE_EXHAUSTED: the engine never waits.
//
// The messages are the Encoder's, so that every service streams through this one class:
//   using Message;                             what is written
//   void OnStart(const RequestStart&);         before the first chunk
//   absl::Status Add(OutputChunk);             a chunk of the outbox; an error ends the request.
//                                              REQUIRES: empty()
//   bool Next(Message*);                       what those chunks became, message by message; the
//                                              one before is given back, for its buffers' sake
//   bool streams() const;                      whether tokens leave as they come
//   bool empty() const; void Clear();          nothing is left for Next; drop what is
//
// Lifetime: shared. The call holds a reference to itself until gRPC is done with it, the
// engine until the request ended; whichever is later frees it.
//
// Thread safety: safe; `mutex_` guards all state that several of those threads touch.
#ifndef PARALLAX_SERVER_GENERATE_REACTOR_H_
#define PARALLAX_SERVER_GENERATE_REACTOR_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/base/mutex.h"
#include "engine/request.h"
#include "engine/token_sink.h"
#include "grpcpp/support/server_callback.h"
#include "server/chunk_outbox.h"
#include "server/generate_call.h"
#include "server/write_dispatcher.h"

namespace parallax::server {

template <typename Encoder>
class GenerateReactor final : public grpc::ServerWriteReactor<typename Encoder::Message>,
                              public TokenSink,
                              public Writable,
                              public std::enable_shared_from_this<GenerateReactor<Encoder>> {
 public:
  /// Submits the request. The reactor keeps itself alive; a refused request ends the call.
  static GenerateReactor* Start(GenerateCall call, Request request, Encoder encoder) {
    const CallEnvironment& environment = call.environment();
    auto reactor = std::make_shared<GenerateReactor>(std::move(call), std::move(encoder));
    {
      MutexLock lock(&reactor->mutex_);
      reactor->self_ = reactor;
    }
    const absl::Status submitted = environment.engine->Submit(std::move(request), reactor);
    if (!submitted.ok()) {
      reactor->OnDone(submitted);
    } else if (!reactor->call_.named_by_caller()) {
      // Sent at once, because a client that let the server name its request can only then abort
      // it. Not before Submit, and not for others: a call that ends before its first token must
      // have no other answer, or a gateway takes it for a stream that has begun, which it cannot
      // try elsewhere.
      reactor->AnnounceId();
      reactor->StartSendInitialMetadata();
    }
    reactor->BeginWrites();
    return reactor.get();
  }

  GenerateReactor(GenerateCall call, Encoder encoder)
      : call_(std::move(call)),
        dispatch_queue_(call_.environment().dispatcher->AssignQueue()),
        outbox_(call_.environment().outbox_bytes),
        encoder_(std::move(encoder)) {}

  // TokenSink, on the engine's thread.
  void OnStart(RequestStart start) override {
    MutexLock lock(&mutex_);
    encoder_.OnStart(start);
    if (discarding_ || start.prompt_logprobs.empty()) return;
    outbox_.AddPromptLogprobs(std::move(start.prompt_logprobs));
    DispatchLocked();
  }

  void OnDelta(OutputDelta delta) override {
    MutexLock lock(&mutex_);
    if (delta.finish.has_value()) call_.NoteFinish(*delta.finish);
    if (discarding_) return;
    has_token_ |= !delta.token_ids.empty();
    if (has_token_ && !encoder_.streams()) call_.NoteFirstToken();
    if (outbox_.Add(std::move(delta))) return DispatchLocked();
    OverflowLocked(absl::ResourceExhaustedError("the client reads too slowly: more than " +
                                                std::to_string(call_.environment().outbox_bytes) +
                                                " bytes of output were waiting for it"));
  }

  void OnDone(absl::Status status) override {
    MutexLock lock(&mutex_);
    // The engine may have finished before it saw our cancellation; output is missing all the
    // same.
    done_ = overflow_.has_value() ? *overflow_ : std::move(status);
    DispatchLocked();
  }

  // Writable, on a dispatcher thread.
  void Write() override {
    {
      MutexLock lock(&mutex_);
      dispatched_ = false;
    }
    WriteNext();
  }

  // gRPC's reactions.
  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) DiscardLocked();  // the client is gone; OnCancel tells the engine
    }
    WriteNext();
  }

  void OnCancel() override {
    MutexLock lock(&mutex_);
    DiscardLocked();
    if (!done_.has_value()) call_.Cancel(call_.ClientGoneStatus());
  }

  void OnDone() override {
    std::shared_ptr<GenerateReactor> self;  // freed after the lock is
    MutexLock lock(&mutex_);
    self = std::move(self_);
  }

 private:
  void AnnounceId() {
    MutexLock lock(&mutex_);
    AnnounceIdLocked();
  }

  void AnnounceIdLocked() PARALLAX_REQUIRES(mutex_) {
    if (!std::exchange(announced_, true)) call_.AnnounceId();
  }

  // Until here nothing is written: what the engine said during Submit waits in the outbox.
  void BeginWrites() {
    MutexLock lock(&mutex_);
    dispatched_ = false;
    if (!outbox_.empty() || done_.has_value()) DispatchLocked();
  }

  void DispatchLocked() PARALLAX_REQUIRES(mutex_) {
    if (writing_ || dispatched_) return;  // OnWriteDone, or the queued Write, goes on
    dispatched_ = true;
    call_.environment().dispatcher->Dispatch(dispatch_queue_, this->shared_from_this());
  }

  void DiscardLocked() PARALLAX_REQUIRES(mutex_) {
    discarding_ = true;
    outbox_.Clear();
    encoder_.Clear();
  }

  void OverflowLocked(absl::Status status) PARALLAX_REQUIRES(mutex_) {
    DiscardLocked();
    overflow_ = std::move(status);
    if (done_.has_value()) {
      done_ = *overflow_;
    } else {
      call_.Cancel(*overflow_);
    }
  }

  // Fills message_ with what is to be written next, if anything is.
  bool NextLocked() PARALLAX_REQUIRES(mutex_) {
    while (!encoder_.Next(&message_)) {
      if (outbox_.empty()) return false;
      if (absl::Status s = encoder_.Add(outbox_.Take()); !s.ok()) OverflowLocked(std::move(s));
    }
    return true;
  }

  void WriteNext() {
    bool has_message = false;
    grpc::WriteOptions options;
    std::optional<absl::Status> end;
    {
      MutexLock lock(&mutex_);
      if (writing_ || finished_) return;
      has_message = writing_ = NextLocked();
      if (has_message && has_token_) call_.NoteFirstToken();
      // The next message is ready: one flush for both. Not for the first, whose write, with the
      // initial metadata in it, gRPC calls done only when it is flushed.
      if (announced_ && !encoder_.empty()) options.set_buffer_hint();
      if (has_message) AnnounceIdLocked();
      if (outbox_.empty() && encoder_.empty() && done_.has_value()) {
        end = *done_;
        finished_ = true;
      }
    }
    if (has_message && end.has_value()) {
      this->StartWriteAndFinish(&message_, grpc::WriteOptions(), call_.End(*end));
    } else if (has_message) {
      this->StartWrite(&message_, options);
    } else if (end.has_value()) {
      this->Finish(call_.End(*end));
    }
  }

  GenerateCall call_;
  const int dispatch_queue_;
  typename Encoder::Message message_;  // gRPC's while a write is outstanding

  Mutex mutex_;
  std::shared_ptr<GenerateReactor> self_ PARALLAX_GUARDED_BY(mutex_);  // until gRPC's OnDone
  ChunkOutbox outbox_ PARALLAX_GUARDED_BY(mutex_);
  Encoder encoder_ PARALLAX_GUARDED_BY(mutex_);
  bool has_token_ PARALLAX_GUARDED_BY(mutex_) = false;  // a call may end, or write, without one
  // Waits in the dispatcher's queue; at first, for BeginWrites.
  bool dispatched_ PARALLAX_GUARDED_BY(mutex_) = true;
  bool announced_ PARALLAX_GUARDED_BY(mutex_) = false;   // the id is in the initial metadata
  bool writing_ PARALLAX_GUARDED_BY(mutex_) = false;     // a write is outstanding
  bool discarding_ PARALLAX_GUARDED_BY(mutex_) = false;  // reader gone or too slow
  bool finished_ PARALLAX_GUARDED_BY(mutex_) = false;    // gRPC was told the status
  std::optional<absl::Status> overflow_ PARALLAX_GUARDED_BY(mutex_);
  std::optional<absl::Status> done_ PARALLAX_GUARDED_BY(mutex_);  // no more output comes
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GENERATE_REACTOR_H_
