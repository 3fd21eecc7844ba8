#include "server/abort_request.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "server/admission.h"
#include "server/request_builder.h"
#include "server/unknown_fields.h"

namespace parallax::server {

absl::Status AbortRequests(const v1::AbortRequest& request,
                           const std::function<bool(const std::string& id)>& abort,
                           v1::AbortResponse* response) {
  constexpr int kMaxIds = 1024;
  if (absl::Status s = CheckNoUnknownFields(request); !s.ok()) return s;
  if (request.request_ids_size() < 1 || request.request_ids_size() > kMaxIds) {
    return absl::InvalidArgumentError(absl::StrCat("request_ids: ", request.request_ids_size(),
                                                   " ids, 1 to ", kMaxIds, " are allowed"));
  }
  for (const std::string& id : request.request_ids()) {
    if (absl::Status s = CheckRequestId("request_ids", id); !s.ok()) return s;
  }
  for (const std::string& id : request.request_ids()) {
    if (abort(id)) {
      response->add_aborted(id);
    } else {
      response->add_not_found(id);
    }
  }
  return absl::OkStatus();
}

absl::Status AbortOwnRequests(const v1::AbortRequest& request,
                              const grpc::ServerContextBase& context,
                              const CallEnvironment& environment, v1::AbortResponse* response) {
  const absl::StatusOr<std::shared_ptr<Principal>> principal =
      AuthenticateCall(context, environment);
  if (!principal.ok()) return principal.status();
  const auto abort = [&](const std::string& id) {
    return environment.engine->Abort(id, (*principal)->name(),
                                     absl::CancelledError("aborted by the caller"));
  };
  return AbortRequests(request, abort, response);
}

}  // namespace parallax::server
