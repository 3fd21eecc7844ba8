// An in-process server whose Generate calls follow a script, for tests of the client.
//
// Thread safety: the script is set before the calls; the records are read after them.
#ifndef PARALLAX_TESTS_CLIENTS_CPP_FAKE_SERVER_H_
#define PARALLAX_TESTS_CLIENTS_CPP_FAKE_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallax/v1/inference.grpc.pb.h"

namespace parallax::client {

/// What one attempt gets.
struct ScriptedAttempt {
  grpc::Status status = {};
  std::string retry_after_ms = {};       // trailing metadatum, if not empty
  std::vector<std::string> chunks = {};  // texts sent before the status
  bool hang = false;                     // then wait for the client's cancellation
};

class FakeService final : public v1::InferenceService::Service {
 public:
  void Script(std::vector<ScriptedAttempt> attempts) {
    const std::lock_guard<std::mutex> lock(mutex_);
    script_.assign(attempts.begin(), attempts.end());
  }

  int attempts() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return attempts_;
  }

  std::string last_authorization() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return authorization_;
  }

  /// Of all attempts that had one.
  std::vector<std::string> traceparents() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return traceparents_;
  }

  void AwaitAttempts(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return attempts_ >= count; });
  }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        v1::GenerateResponse* response) override {
    const ScriptedAttempt attempt = NextAttempt(context);
    if (attempt.hang) AwaitCancelled(context);
    if (request->output().has_prompt_logprobs()) {
      ScorePrompt(request->token_ids(), response);
      return grpc::Status::OK;
    }
    std::string text;
    for (const std::string& chunk : attempt.chunks) text += chunk;
    response->add_choices()->set_text(text);
    return attempt.status;
  }

  grpc::Status GenerateStream(grpc::ServerContext* context, const v1::GenerateRequest*,
                              grpc::ServerWriter<v1::GenerateChunk>* writer) override {
    const ScriptedAttempt attempt = NextAttempt(context);
    for (const std::string& text : attempt.chunks) {
      v1::GenerateChunk chunk;
      chunk.set_text(text);
      writer->Write(chunk);
    }
    if (attempt.hang) AwaitCancelled(context);
    return attempt.status;
  }

  // One token a byte, its id the byte, after a begin token 256.
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    response->add_token_ids(256);
    response->add_tokens("");
    for (const char c : request->text()) {
      response->add_token_ids(static_cast<unsigned char>(c));
      response->add_tokens(std::string(1, c));
    }
    return grpc::Status::OK;
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*,
                            v1::GetModelInfoResponse* response) override {
    response->set_max_context_tokens(65);
    response->set_max_prompt_tokens(64);
    response->add_eos_token_ids(257);
    return grpc::Status::OK;
  }

 private:
  ScriptedAttempt NextAttempt(grpc::ServerContext* context) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++attempts_;
    const auto& metadata = context->client_metadata();
    const auto authorization = metadata.find("authorization");
    authorization_ = authorization == metadata.end()
                         ? ""
                         : std::string(authorization->second.data(), authorization->second.size());
    const auto traceparent = metadata.find("traceparent");
    if (traceparent != metadata.end()) {
      traceparents_.emplace_back(traceparent->second.data(), traceparent->second.size());
    }
    ScriptedAttempt attempt;
    if (!script_.empty()) {
      attempt = script_.front();
      script_.pop_front();
    }
    if (!attempt.retry_after_ms.empty()) {
      context->AddTrailingMetadata("retry-after-ms", attempt.retry_after_ms);
    }
    changed_.notify_all();
    return attempt;
  }

  // The synchronous API has no event for it.
  static void AwaitCancelled(grpc::ServerContext* context) {
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  // -log p of a token is its id / 100.
  static void ScorePrompt(const v1::TokenIds& ids, v1::GenerateResponse* response) {
    for (int i = 0; i < ids.ids_size(); ++i) {
      auto* const chosen = response->add_prompt_logprobs()->mutable_chosen();
      chosen->set_token_id(ids.ids(i));
      if (i > 0) chosen->set_logprob(-ids.ids(i) / 100.0f);
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<ScriptedAttempt> script_;
  int attempts_ = 0;
  std::string authorization_;
  std::vector<std::string> traceparents_;
};

/// A FakeService behind a real port of the loopback interface.
class FakeServer {
 public:
  FakeServer() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

  FakeService& service() { return service_; }
  const std::string& address() const { return address_; }

 private:
  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace parallax::client

#endif  // PARALLAX_TESTS_CLIENTS_CPP_FAKE_SERVER_H_
