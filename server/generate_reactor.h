// GenerateReactor: one streaming call, from the engine's tokens to gRPC's writes.
//
//   engine thread      OnDelta, OnDone: into the outbox, mark the call as writable
//   dispatcher thread  Write: take a chunk, encode it, start gRPC's write
//   gRPC threads       OnWriteDone: write the next chunk; OnCancel: tell the engine
//
// At most one write is outstanding; what arrives meanwhile coalesces in the bounded outbox.
// Over its bound the request ends with RESOURCE_EXHAUSTED: the engine never waits. It does not
// wait for the encoder either, to which a chunk of log-probabilities is milliseconds of work:
// whoever writes takes a chunk under the lock, and encodes it and frees it outside.
//
// The messages are the Encoder's, so that every service streams through this one class. It is
// used by one thread at a time:
//   using Message;                             what is written
//   absl::Status Add(OutputChunk);             a chunk of the outbox; an error ends the request.
//                                              REQUIRES: empty()
//   bool Next(Message*);                       what those chunks became, message by message; the
//                                              one before is given back, for its buffers' sake
//   bool streams() const;                      whether tokens leave as they come; any thread
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
        encoder_(std::move(encoder)),
        outbox_(call_.environment().outbox_bytes, call_.environment().model.tokenizer) {
    call_.Open();
  }

  // TokenSink, on the engine's thread.
  void OnStart(RequestStart start) override {
    MutexLock lock(&mutex_);
    if (!discarding_) outbox_.Start(std::move(start));
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
    call_.AwaitReader();
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
      if (!ok) NoteGoneLocked();  // OnCancel tells the engine
      if (done_.has_value() || overflow_.has_value()) call_.AwaitReader();
    }
    WriteNext();
  }

  void OnCancel() override {
    MutexLock lock(&mutex_);
    NoteGoneLocked();
    if (!done_.has_value()) call_.Cancel(*this, call_.ClientGoneStatus());
  }

  void OnDone() override {
    std::shared_ptr<GenerateReactor> self;
    bool gone;
    {
      MutexLock lock(&mutex_);
      self = std::move(self_);
      gone = gone_;
    }
    call_.Close(gone);
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
    if (dispatched_ || finished_) return;
    if (writing_ && !discarding_) return;  // who writes goes on
    dispatched_ = true;
    call_.environment().dispatcher->Dispatch(dispatch_queue_, this->shared_from_this());
  }

  void NoteGoneLocked() PARALLAX_REQUIRES(mutex_) {
    gone_ = true;
    DiscardLocked();
  }

  // Nothing that waits is wanted. The dispatcher frees it, which may take a while.
  void DiscardLocked() PARALLAX_REQUIRES(mutex_) {
    discarding_ = true;
    DispatchLocked();
  }

  void OverflowLocked(absl::Status status) PARALLAX_REQUIRES(mutex_) {
    overflow_ = std::move(status);
    call_.AwaitReader();
    DiscardLocked();
    if (done_.has_value()) {
      done_ = *overflow_;
    } else {
      call_.Cancel(*this, *overflow_);
    }
  }

  // Writes what is next, if anything is and nobody is at it.
  void WriteNext() {
    if (!TakeTurn()) return;
    do {
      while (!encoder_.Next(&message_)) {
        OutputChunk chunk;
        if (!TakeChunk(&chunk)) return;
        if (absl::Status s = encoder_.Add(std::move(chunk)); !s.ok()) Overflow(std::move(s));
      }
    } while (!Send());
  }

  // Whether encoder and message are the caller's, until gRPC has written or TakeChunk fails.
  bool TakeTurn() {
    ChunkOutbox discarded(0, nullptr);  // freed after the lock is
    MutexLock lock(&mutex_);
    if (discarding_) std::swap(outbox_, discarded);
    if (writing_ || finished_) return false;
    writing_ = true;
    return true;
  }

  // False if no chunk waits: then the turn is over, and with the last one the call.
  bool TakeChunk(OutputChunk* chunk) {
    absl::Status end;
    {
      MutexLock lock(&mutex_);
      if (!discarding_ && !outbox_.empty()) {
        *chunk = outbox_.Take();
        return true;
      }
      writing_ = false;
      if (!done_.has_value()) return false;
      finished_ = true;
      end = EndLocked();
    }
    this->Finish(call_.End(end));
    return false;
  }

  void Overflow(absl::Status status) {
    encoder_.Clear();
    MutexLock lock(&mutex_);
    OverflowLocked(std::move(status));
  }

  // False if the message is not wanted any more.
  bool Send() {
    grpc::WriteOptions options;
    std::optional<absl::Status> end;
    bool wanted;
    {
      MutexLock lock(&mutex_);
      wanted = !discarding_;
      if (wanted && has_token_) call_.NoteFirstToken();
      // The next message is ready: one flush for both. Not for the first, whose write, with the
      // initial metadata in it, gRPC calls done only when it is flushed.
      if (announced_ && !encoder_.empty()) options.set_buffer_hint();
      if (wanted) AnnounceIdLocked();
      finished_ = wanted && IsLastLocked();
      if (finished_) end = EndLocked();
    }
    if (!wanted) {
      encoder_.Clear();
    } else if (end.has_value()) {
      this->StartWriteAndFinish(&message_, grpc::WriteOptions(), call_.End(*end));
    } else {
      this->StartWrite(&message_, options);
    }
    return wanted;
  }

  // Whether the message may be sent together with the call's end. A large one may wait for its
  // reader: the end is told once it has been taken.
  bool IsLastLocked() const PARALLAX_REQUIRES(mutex_) {
    if (!done_.has_value() || !outbox_.empty() || !encoder_.empty()) return false;
    return message_.ByteSizeLong() <= GenerateCall::kSmallAnswerBytes;
  }

  // How the call ends. REQUIRES: the request has.
  absl::Status EndLocked() const PARALLAX_REQUIRES(mutex_) {
    // The engine was done, but not its output with its way to the client.
    if (gone_ && done_->ok()) return call_.ClientGoneStatus();
    return *done_;
  }

  GenerateCall call_;
  const int dispatch_queue_;
  // Of whoever has the turn (writing_).
  Encoder encoder_;
  typename Encoder::Message message_;

  Mutex mutex_;
  std::shared_ptr<GenerateReactor> self_ PARALLAX_GUARDED_BY(mutex_);  // until gRPC's OnDone
  ChunkOutbox outbox_ PARALLAX_GUARDED_BY(mutex_);
  bool has_token_ PARALLAX_GUARDED_BY(mutex_) = false;  // a call may end, or write, without one
  // Waits in the dispatcher's queue; at first, for BeginWrites.
  bool dispatched_ PARALLAX_GUARDED_BY(mutex_) = true;
  bool announced_ PARALLAX_GUARDED_BY(mutex_) = false;   // the id is in the initial metadata
  bool writing_ PARALLAX_GUARDED_BY(mutex_) = false;     // a thread encodes, or gRPC writes
  bool gone_ PARALLAX_GUARDED_BY(mutex_) = false;        // the client is
  bool discarding_ PARALLAX_GUARDED_BY(mutex_) = false;  // reader gone or too slow
  bool finished_ PARALLAX_GUARDED_BY(mutex_) = false;    // gRPC was told the status
  std::optional<absl::Status> overflow_ PARALLAX_GUARDED_BY(mutex_);
  std::optional<absl::Status> done_ PARALLAX_GUARDED_BY(mutex_);  // no more output comes
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_GENERATE_REACTOR_H_
