#include "server/vllm/vllm_service.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "engine/kv_cache/page.h"
#include "server/abort_request.h"
#include "server/admission.h"
#include "server/generate_reactor.h"
#include "server/refused_stream.h"
#include "server/vllm/kv_event_stream.h"
#include "server/vllm/tokenizer_archive.h"
#include "server/vllm/tokenizer_stream.h"
#include "server/vllm/vllm_encoder.h"
#include "server/vllm/vllm_request.h"

namespace parallax::server {
namespace {

namespace wire = ::vllm::grpc::engine;
namespace common = ::smg::grpc::common;

absl::StatusOr<Request> Admit(const wire::GenerateRequest& request, GenerateCall* call) {
  if (absl::Status s = call->Admit(); !s.ok()) return s;
  const absl::StatusOr<v1::GenerateRequest> own = FromVllmRequest(request);
  if (!own.ok()) return own.status();
  absl::StatusOr<Request> built = call->Build(*own);
  if (!built.ok()) return WithVllmFieldNames(built.status());
  return built;
}

}  // namespace

VllmService::VllmService(const CallEnvironment* environment)
    : environment_(*environment), started_(absl::Now()), sampled_(started_) {}

void VllmService::EndSubscriptions() {
  if (environment_.model.kv_events != nullptr) environment_.model.kv_events->Close();
}

grpc::ServerUnaryReactor* VllmService::End(const absl::Status& status,
                                           grpc::CallbackServerContext* context) const {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(EndCall(RpcMethod::kVllmControl, status, environment_, context));
  return reactor;
}

grpc::ServerWriteReactor<wire::GenerateResponse>* VllmService::Generate(
    grpc::CallbackServerContext* context, const wire::GenerateRequest* request) {
  last_receive_us_ = absl::ToUnixMicros(absl::Now());
  GenerateCall call(RpcMethod::kVllmGenerate, context, &environment_, request->request_id());
  absl::StatusOr<Request> admitted = Admit(*request, &call);
  if (!admitted.ok()) {
    return new RefusedStream<wire::GenerateResponse>(call.End(admitted.status()));
  }
  VllmEncoder encoder(*admitted, request->stream(), environment_.limits.max_response_bytes);
  return GenerateReactor<VllmEncoder>::Start(std::move(call), *std::move(admitted),
                                             std::move(encoder));
}

grpc::ServerUnaryReactor* VllmService::Embed(grpc::CallbackServerContext* context,
                                             const wire::EmbedRequest* request,
                                             wire::EmbedResponse* response) {
  return End(absl::UnimplementedError("the model gives no embeddings"), context);
}

grpc::ServerUnaryReactor* VllmService::HealthCheck(grpc::CallbackServerContext* context,
                                                   const wire::HealthCheckRequest* request,
                                                   wire::HealthCheckResponse* response) {
  const bool serving = serving_;
  response->set_healthy(serving);
  response->set_message(serving ? "serving" : "not serving: starting, draining or stalled");
  return End(absl::OkStatus(), context);
}

grpc::ServerUnaryReactor* VllmService::Abort(grpc::CallbackServerContext* context,
                                             const wire::AbortRequest* request,
                                             wire::AbortResponse* response) {
  v1::AbortRequest own;
  *own.mutable_request_ids() = request->request_ids();
  v1::AbortResponse ignored;  // the contract does not say which ids were live
  return End(AbortOwnRequests(own, *context, environment_, &ignored), context);
}

grpc::ServerUnaryReactor* VllmService::GetModelInfo(grpc::CallbackServerContext* context,
                                                    const wire::GetModelInfoRequest* request,
                                                    wire::GetModelInfoResponse* response) {
  const auto principal = AuthenticateCall(*context, environment_);
  if (principal.ok()) FillModelInfo(response);
  return End(principal.status(), context);
}

void VllmService::FillModelInfo(wire::GetModelInfoResponse* info) const {
  const ServedModel& model = environment_.model;
  info->set_model_path(model.name);
  info->set_served_model_name(model.name);
  info->set_is_generation(true);
  info->set_model_type("parallax");
  info->add_architectures(environment_.engine->model().architecture);
  info->set_max_context_length(static_cast<uint32_t>(model.max_context_tokens));
  info->set_max_req_input_len(environment_.limits.max_prompt_tokens);
  info->set_vocab_size(static_cast<uint32_t>(model.vocab_size));
  info->mutable_eos_token_ids()->Assign(model.eos_token_ids.begin(), model.eos_token_ids.end());
  info->set_bos_token_id(model.bos_token_id.value_or(-1));
  info->set_pad_token_id(-1);
}

grpc::ServerUnaryReactor* VllmService::GetServerInfo(grpc::CallbackServerContext* context,
                                                     const wire::GetServerInfoRequest* request,
                                                     wire::GetServerInfoResponse* response) {
  const auto principal = AuthenticateCall(*context, environment_);
  if (principal.ok()) FillServerInfo(response);
  return End(principal.status(), context);
}

void VllmService::FillServerInfo(wire::GetServerInfoResponse* info) const {
  const EngineStats stats = environment_.engine->Stats();
  info->set_active_requests(
      static_cast<uint32_t>(stats.requests_submitted - stats.requests_finished));
  info->set_is_paused(stats.draining);
  info->set_last_receive_timestamp(static_cast<double>(last_receive_us_.load()) * 1e-6);
  info->set_uptime_seconds(absl::ToDoubleSeconds(absl::Now() - started_));
  info->set_server_type("parallax-server");
  info->set_data_parallel_size(1);
  info->set_block_size(kPageTokens);
  info->set_max_num_seqs(environment_.engine->limits().max_num_seqs);
}

grpc::ServerUnaryReactor* VllmService::GetLoads(grpc::CallbackServerContext* context,
                                                const wire::GetLoadsRequest* request,
                                                wire::GetLoadsResponse* response) {
  const auto principal = AuthenticateCall(*context, environment_);
  if (!principal.ok()) return End(principal.status(), context);
  response->set_timestamp(
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()));
  response->set_version(PARALLAX_SERVER_VERSION);
  response->set_dp_rank_count(1);
  if (request->dp_rank() == 0) FillLoad(environment_.engine->Stats(), response->add_loads());
  return End(absl::OkStatus(), context);
}

void VllmService::FillLoad(const EngineStats& stats, wire::SchedulerLoad* load) {
  const EngineGauges& gauges = stats.gauges;
  const int32_t slots = environment_.engine->limits().max_num_seqs;
  load->set_num_running_reqs(gauges.requests_running);
  load->set_num_waiting_reqs(gauges.requests_waiting);
  load->set_num_total_reqs(gauges.requests_running + gauges.requests_waiting);
  const auto tokens = [](int64_t pages) {
    return static_cast<int32_t>(
        std::min<int64_t>(pages * kPageTokens, std::numeric_limits<int32_t>::max()));
  };
  load->set_num_used_tokens(tokens(gauges.pages_used));
  load->set_max_total_num_tokens(tokens(gauges.pages_total));
  if (gauges.pages_total > 0) {
    load->set_token_usage(static_cast<double>(gauges.pages_used) / gauges.pages_total);
  }
  load->set_gen_throughput(Throughput(stats.tokens_generated));
  if (stats.prefix_cache_query_tokens > 0) {
    load->set_cache_hit_rate(static_cast<double>(stats.prefix_cache_hit_tokens) /
                             static_cast<double>(stats.prefix_cache_query_tokens));
  }
  load->set_max_running_requests(slots);
  if (slots > 0) load->set_utilization(static_cast<double>(gauges.requests_running) / slots);
}

double VllmService::Throughput(uint64_t tokens_generated) {
  constexpr absl::Duration kShortest = absl::Seconds(1);
  const absl::Time now = absl::Now();
  MutexLock lock(&mutex_);
  if (now - sampled_ < kShortest) return throughput_;
  throughput_ = static_cast<double>(tokens_generated - sampled_tokens_) /
                absl::ToDoubleSeconds(now - sampled_);
  sampled_ = now;
  sampled_tokens_ = tokens_generated;
  return throughput_;
}

grpc::ServerWriteReactor<common::GetTokenizerChunk>* VllmService::GetTokenizer(
    grpc::CallbackServerContext* context, const common::GetTokenizerRequest* request) {
  absl::Status status = AuthenticateCall(*context, environment_).status();
  const auto& archive = environment_.model.tokenizer_archive;
  if (status.ok() && archive == nullptr) {
    status = absl::FailedPreconditionError("the model has no tokenizer");
  }
  grpc::Status end = EndCall(RpcMethod::kVllmControl, status, environment_, context);
  if (!end.ok()) return new RefusedStream<common::GetTokenizerChunk>(std::move(end));
  return new TokenizerStream(archive);
}

grpc::ServerWriteReactor<common::KvEventBatch>* VllmService::SubscribeKvEvents(
    grpc::CallbackServerContext* context, const common::SubscribeKvEventsRequest* request) {
  absl::Status status = AuthenticateCall(*context, environment_).status();
  if (status.ok() && environment_.model.kv_events == nullptr) {
    status = absl::UnimplementedError("KV events are off: start the server with --kv-events");
  }
  grpc::Status end = EndCall(RpcMethod::kVllmControl, status, environment_, context);
  if (!end.ok()) return new RefusedStream<common::KvEventBatch>(std::move(end));
  return KvEventStream::Start(&environment_, request->start_sequence_number());
}

}  // namespace parallax::server
