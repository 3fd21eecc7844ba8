#include "bench/server/loadgen/stream.h"

#include <utility>

namespace parallax::loadgen {
namespace {

constexpr char kMethod[] = "/parallax.v1.InferenceService/GenerateStream";

}  // namespace

Stream::Stream(const PlannedRequest& plan, int64_t intended_ns, const std::string& bearer_token,
               Recorder* recorder, std::function<void(Stream*)> on_done)
    : recorder_(recorder), on_done_(std::move(on_done)), cancel_after_(plan.cancel_after) {
  record_.intended_ns = intended_ns;
  record_.asked_prompt_tokens = static_cast<int32_t>(plan.prompt.size());
  request_.mutable_token_ids()->mutable_ids()->Add(plan.prompt.begin(), plan.prompt.end());
  request_.mutable_stopping()->set_max_tokens(plan.output_tokens);
  request_.mutable_stopping()->set_ignore_eos(true);
  if (!bearer_token.empty()) context_.AddMetadata("authorization", "Bearer " + bearer_token);
}

void Stream::Start(StreamStub* stub) {
  stub->PrepareBidiStreamingCall(&context_, kMethod, {}, this);
  StartWriteLast(&request_, {});
  StartRead(&chunk_);
  // Hold: without it a fast call could finish, and free this object, inside StartCall.
  AddHold();
  record_.cancelled_by_us = cancel_after_ == 0;
  record_.sent_ns = NowNs();  // what making the call took was the client's time
  recorder_->RecordStart(record_.sent_ns, record_.intended_ns);
  StartCall();  // from here on the record is the callbacks'
  if (cancel_after_ == 0) context_.TryCancel();
  RemoveHold();
}

void Stream::CutOff() {
  cut_off_.store(true);
  context_.TryCancel();
}

// A write that failed counts if we cut it off, still waiting; else the call's end says why.
void Stream::OnWriteDone(bool ok) {
  if (ok || cut_off_.load()) recorder_->RecordWrite(record_.intended_ns, NowNs() - record_.sent_ns);
}

void Stream::OnReadDone(bool ok) {
  if (!ok) return;
  Account(NowNs());
  if (cancel_after_.has_value() && !record_.cancelled_by_us && record_.tokens >= *cancel_after_) {
    record_.cancelled_by_us = true;
    context_.TryCancel();
  }
  StartRead(&chunk_);
}

void Stream::Account(int64_t now_ns) {
  if (chunk_.has_finish()) {
    const v1::Finish& finish = chunk_.finish();
    record_.prompt_tokens = finish.usage().prompt_tokens();
    record_.cached_tokens = finish.usage().cached_tokens();
    record_.server_ttft_ns = 1000 * (finish.timings().queue_us() + finish.timings().prefill_us());
  }
  const int32_t tokens = chunk_.token_ids_size();
  if (tokens == 0) return;
  const bool first = record_.first_token_ns == 0;
  if (first) record_.first_token_ns = now_ns;
  recorder_->RecordChunk(now_ns, record_.intended_ns, first ? -1 : now_ns - record_.last_token_ns,
                         tokens);
  record_.last_token_ns = now_ns;
  record_.tokens += tokens;
  ++record_.chunks;
}

void Stream::OnDone(const grpc::Status& status) {
  record_.done_ns = NowNs();
  record_.code = status.error_code();
  record_.message = status.error_message();
  record_.unfinished = cut_off_.load() && !status.ok();
  recorder_->RecordDone(record_);
  const std::function<void(Stream*)> on_done = on_done_;  // outlives this object
  on_done(this);
}

}  // namespace parallax::loadgen
