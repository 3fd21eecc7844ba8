// InferenceService: the public service of proto/parallax/v1/inference.proto.
//
// Each method: authenticate, admit, validate, then hand over to the engine (Generate,
// GenerateStream) or answer at once. Tokenization runs on the gRPC thread of its call.
//
// Thread safety: safe; no state of its own.
#ifndef PARALLAX_SERVER_INFERENCE_SERVICE_H_
#define PARALLAX_SERVER_INFERENCE_SERVICE_H_

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "parallax/v1/inference.grpc.pb.h"
#include "server/call_environment.h"

namespace parallax::server {

class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  /// `environment` outlives the service.
  explicit InferenceService(const CallEnvironment* environment) : environment_(*environment) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* wire,
                                     v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<v1::GenerateChunk>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* wire) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;

 private:
  absl::Status DoTokenize(const grpc::CallbackServerContext& context,
                          const v1::TokenizeRequest& request, v1::TokenizeResponse* response) const;
  absl::Status DoDetokenize(const grpc::CallbackServerContext& context,
                            const v1::DetokenizeRequest& request,
                            v1::DetokenizeResponse* response) const;
  absl::Status DoGetModelInfo(const grpc::CallbackServerContext& context,
                              const v1::GetModelInfoRequest& request,
                              v1::GetModelInfoResponse* response) const;

  const CallEnvironment& environment_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_INFERENCE_SERVICE_H_
