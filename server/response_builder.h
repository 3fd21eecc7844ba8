// From the engine's output to the wire's messages.
//
// Thread safety: pure functions of their arguments.
#ifndef PARALLAX_SERVER_RESPONSE_BUILDER_H_
#define PARALLAX_SERVER_RESPONSE_BUILDER_H_

#include <span>

#include "engine/token_sink.h"
#include "engine/tokenizer/tokenizer.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "parallax/v1/inference.pb.h"
#include "server/prompt_pieces.h"

namespace parallax::server {

/// Appends one TokenLogprobs a position. `tokenizer` gives the tokens' bytes; null: none.
void AppendLogprobs(std::span<const PositionLogprobs> positions, const Tokenizer* tokenizer,
                    google::protobuf::RepeatedPtrField<v1::TokenLogprobs>* wire);

void FillFinish(const ChoiceFinish& finish, v1::Finish* wire);

/// index, text, token_ids, logprobs and finish of `delta`. REQUIRES: `chunk` has none of them.
void FillChunk(OutputDelta delta, const Tokenizer* tokenizer, v1::GenerateChunk* chunk);

/// The same of a part of the prompt, or its prompt_logprobs. REQUIRES: `chunk` has none of them.
void FillPromptPiece(const PromptPiece& piece, const Tokenizer* tokenizer, v1::GenerateChunk* chunk);

/// Usage of all choices of one request: they share the prompt, so it counts once.
void AddUsage(const v1::Usage& choice, v1::Usage* total);

/// Each part the larger of both.
void MergeSlowest(const v1::Timings& choice, v1::Timings* slowest);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_RESPONSE_BUILDER_H_
