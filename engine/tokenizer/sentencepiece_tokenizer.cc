#include "engine/tokenizer/sentencepiece_tokenizer.h"

#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/tokenizer/utf8.h"

namespace parallax {
namespace {

using PieceType = SentencePieceModel::PieceType;

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, the library's " "

bool StartsWithSpaceMark(const SentencePieceModel& model, int id) {
  return model.Type(id) == PieceType::kText && model.Piece(id).starts_with(kSpaceMark);
}

// "<0x41>" is the byte 41.
std::string ByteOfPiece(const std::string& piece) {
  uint32_t byte = 0;
  const bool is_byte = piece.size() == 6 && absl::SimpleHexAtoi(piece.substr(1, 4), &byte);
  return is_byte ? std::string(1, static_cast<char>(byte)) : std::string();
}

TokenEntry EntryOf(const SentencePieceModel& model, int id) {
  const std::string& piece = model.Piece(id);
  TokenEntry entry{.bytes = piece, .present = true};
  switch (model.Type(id)) {
    case PieceType::kControl:
      entry.special = true;
      break;
    case PieceType::kUnknown:
      entry.bytes = model.Decode({id});  // the surface the model was given, usually " ⁇ "
      break;
    case PieceType::kByte:
      entry.bytes = ByteOfPiece(piece);
      break;
    case PieceType::kText:
    case PieceType::kUnused:
      entry.space_mark = piece.starts_with(kSpaceMark);
      entry.bytes = absl::StrReplaceAll(piece, {{std::string(kSpaceMark), " "}});
      break;
  }
  return entry;
}

std::vector<TokenEntry> EntriesOf(const SentencePieceModel& model) {
  std::vector<TokenEntry> entries;
  for (int id = 0; id < model.size(); ++id) entries.push_back(EntryOf(model, id));
  return entries;
}

// The library's interface does not tell the normaliser's settings, but its decoding shows them.
LeadingSpace LeadingSpaceOf(const SentencePieceModel& model) {
  std::optional<int> marked;  // the piece that is the mark alone, or else any that starts with it
  for (int id = 0; id < model.size(); ++id) {
    if (!StartsWithSpaceMark(model, id)) continue;
    marked = id;
    if (model.Piece(id) == kSpaceMark) break;
  }
  if (!marked.has_value()) return LeadingSpace::kKeep;
  if (model.Decode({*marked}).starts_with(' ')) return LeadingSpace::kKeep;
  if (model.Piece(*marked) != kSpaceMark) return LeadingSpace::kDropOnce;
  return model.Decode({*marked, *marked}).empty() ? LeadingSpace::kDropUntilText
                                                  : LeadingSpace::kDropOnce;
}

// The id of the piece that tokenizer_config.json names, else the model's own (-1: none).
absl::StatusOr<std::optional<int32_t>> ResolveToken(const SentencePieceModel& model,
                                                    const std::optional<std::string>& name,
                                                    int model_id, const char* field) {
  if (!name.has_value()) {
    return model_id >= 0 ? std::optional<int32_t>(model_id) : std::nullopt;
  }
  for (int id = 0; id < model.size(); ++id) {
    if (model.Piece(id) == *name) return id;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer_config.json: $.", field, " = \"", *name, "\" is not a piece"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Create(
    std::string_view serialized, const TokenizerConfig& config) {
  std::string error;
  std::unique_ptr<SentencePieceModel> model = SentencePieceModel::Load(serialized, &error);
  if (model == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("not a SentencePiece model: ", error));
  }
  const auto bos_id = ResolveToken(*model, config.bos_token, model->bos_id(), "bos_token");
  if (!bos_id.ok()) return bos_id.status();
  const auto eos_id = ResolveToken(*model, config.eos_token, model->eos_id(), "eos_token");
  if (!eos_id.ok()) return eos_id.status();
  const bool add_bos = config.add_bos_token.value_or(bos_id->has_value());
  const bool add_eos = config.add_eos_token.value_or(false);
  if ((add_bos && !bos_id->has_value()) || (add_eos && !eos_id->has_value())) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer_config.json: $.",
                     add_bos && !bos_id->has_value() ? "add_bos_token" : "add_eos_token",
                     " = true, but the model has no such piece"));
  }
  return std::unique_ptr<Tokenizer>(
      new SentencePieceTokenizer(std::move(model), *bos_id, *eos_id, add_bos, add_eos));
}

SentencePieceTokenizer::SentencePieceTokenizer(std::unique_ptr<SentencePieceModel> model,
                                               std::optional<int32_t> bos_id,
                                               std::optional<int32_t> eos_id, bool add_bos,
                                               bool add_eos)
    : Tokenizer(TokenTable(EntriesOf(*model)), LeadingSpaceOf(*model), bos_id, eos_id),
      model_(std::move(model)),
      add_bos_(add_bos),
      add_eos_(add_eos) {}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::Encode(std::string_view text,
                                                                    bool add_special_tokens) const {
  if (const std::optional<size_t> bad = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", *bad));
  }
  std::vector<int32_t> ids;
  if (add_special_tokens && add_bos_) ids.push_back(*bos_id());
  std::string error;
  if (!model_->Encode(text, &ids, &error)) {
    return absl::InternalError(absl::StrCat("SentencePiece could not encode: ", error));
  }
  if (add_special_tokens && add_eos_) ids.push_back(*eos_id());
  return ids;
}

}  // namespace parallax
