// GetModelInfo's reply.
//
// Thread safety: pure function of its arguments.
#ifndef PARALLAX_SERVER_MODEL_INFO_H_
#define PARALLAX_SERVER_MODEL_INFO_H_

#include "engine/runner/model_runner.h"
#include "parallax/v1/inference.pb.h"
#include "server/served_model.h"

namespace parallax::server {

void FillModelInfo(const ModelDescription& description, const ServedModel& model,
                   const RequestLimits& limits, v1::GetModelInfoResponse* info);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_MODEL_INFO_H_
