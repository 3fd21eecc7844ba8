// BuildRequest on arbitrary messages, after the check that precedes it in the server: it must
// return a request that the engine accepts, or a status that names a field; never crash.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "parallax/v1/inference.pb.h"
#include "server/request_builder.h"
#include "server/unknown_fields.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parallax::v1::GenerateRequest wire;
  if (!wire.ParseFromArray(data, static_cast<int>(size))) return 0;
  if (!parallax::server::CheckNoUnknownFields(wire).ok()) return 0;
  parallax::server::ServedModel model;
  model.name = "tiny";
  model.vocab_size = 1000;
  model.max_context_tokens = 128;
  const parallax::server::RequestLimits limits{.max_prompt_tokens = 100, .max_choices = 4};
  const auto request = parallax::server::BuildRequest(
      wire, model, limits, {.principal = "fuzz", .fallback_id = "id", .fallback_seed = 1});
  if (!request.ok()) {
    if (request.status().message().empty()) std::abort();
    return 0;
  }
  // What the rest of the server takes for granted.
  const bool valid = !request->id.empty() && !request->prompt.empty() &&
                     request->prompt.size() <= 100 && request->sampling.n >= 1 &&
                     request->sampling.n <= 4 && request->sampling.max_tokens >= 1 &&
                     request->prompt.size() + request->sampling.max_tokens <= 128;
  if (!valid) std::abort();
  return 0;
}
