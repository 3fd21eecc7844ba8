// From the command line to a model: runner, tokenizer and what the front end knows of them.
//
// Thread safety: pure function; reads the model folder.
#ifndef PARALLAX_SERVER_MODEL_LOADING_H_
#define PARALLAX_SERVER_MODEL_LOADING_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/runner/model_runner.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/config.h"
#include "server/served_model.h"

namespace parallax::server {

struct LoadedModel {
  std::unique_ptr<Tokenizer> tokenizer;  // null: the folder has none
  std::unique_ptr<ModelRunner> runner;
  ServedModel served;  // points to `tokenizer`
};

/// Errors name the file and field, or the flag: what the folder, the model or the device
/// does not offer.
absl::StatusOr<LoadedModel> LoadModel(const ServerConfig& config);

/// What Application loads its model with: LoadModel, or a test's stand-in.
using ModelLoader = std::function<absl::StatusOr<LoadedModel>(const ServerConfig&)>;

EngineOptions MakeEngineOptions(const ServerConfig& config, const ServedModel& model);

/// INVALID_ARGUMENT if --max-prompt-tokens is more than the model's context leaves.
absl::StatusOr<RequestLimits> MakeRequestLimits(const ServerConfig& config,
                                                const ServedModel& model);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_MODEL_LOADING_H_
