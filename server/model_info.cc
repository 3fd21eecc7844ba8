#include "server/model_info.h"

namespace parallax::server {

void FillModelInfo(const ModelDescription& description, const ServedModel& model,
                   const RequestLimits& limits, v1::GetModelInfoResponse* info) {
  info->set_name(model.name);
  info->set_architecture(description.architecture);
  info->set_server_version(PARALLAX_SERVER_VERSION);
  info->set_device(description.device);
  info->set_weight_dtype(description.weight_dtype);
  info->set_kv_dtype(description.kv_dtype);
  info->set_num_parameters(description.num_parameters);
  info->set_vocab_size(model.vocab_size);
  info->set_max_context_tokens(model.max_context_tokens);
  info->set_max_prompt_tokens(limits.max_prompt_tokens);
  info->set_max_choices(limits.max_choices);
  info->set_max_concurrent_streams(limits.max_concurrent_streams);
  info->set_has_tokenizer(model.tokenizer != nullptr);
  info->mutable_eos_token_ids()->Assign(model.eos_token_ids.begin(), model.eos_token_ids.end());
  if (model.bos_token_id.has_value()) info->set_bos_token_id(*model.bos_token_id);
  info->set_probe(description.probe);
  v1::SamplingParams* defaults = info->mutable_default_sampling();
  defaults->set_temperature(model.default_sampling.temperature);
  defaults->set_top_k(model.default_sampling.top_k);
  defaults->set_top_p(model.default_sampling.top_p);
  defaults->set_min_p(model.default_sampling.min_p);
  defaults->set_repetition_penalty(model.default_sampling.repetition_penalty);
}

}  // namespace parallax::server
