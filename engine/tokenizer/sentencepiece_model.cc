#include "engine/tokenizer/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <utility>

namespace parallax {

struct SentencePieceModel::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceModel::SentencePieceModel(std::unique_ptr<Library> library)
    : library_(std::move(library)) {}

SentencePieceModel::~SentencePieceModel() = default;

std::unique_ptr<SentencePieceModel> SentencePieceModel::Load(std::string_view serialized,
                                                             std::string* error) {
  auto library = std::make_unique<Library>();
  const auto status = library->processor.LoadFromSerializedProto(serialized);
  if (!status.ok()) {
    *error = status.ToString();
    return nullptr;
  }
  return std::unique_ptr<SentencePieceModel>(new SentencePieceModel(std::move(library)));
}

bool SentencePieceModel::Encode(std::string_view text, std::vector<int>* ids,
                                std::string* error) const {
  std::vector<int> encoded;  // the library replaces what its output holds
  const auto status = library_->processor.Encode(text, &encoded);
  if (!status.ok()) {
    *error = status.ToString();
    return false;
  }
  ids->insert(ids->end(), encoded.begin(), encoded.end());
  return true;
}

std::string SentencePieceModel::Decode(const std::vector<int>& ids) const {
  return library_->processor.DecodeIds(ids);
}

int SentencePieceModel::size() const { return library_->processor.GetPieceSize(); }

const std::string& SentencePieceModel::Piece(int id) const {
  return library_->processor.IdToPiece(id);
}

SentencePieceModel::PieceType SentencePieceModel::Type(int id) const {
  const auto& processor = library_->processor;
  if (processor.IsUnknown(id)) return PieceType::kUnknown;
  if (processor.IsControl(id)) return PieceType::kControl;
  if (processor.IsByte(id)) return PieceType::kByte;
  if (processor.IsUnused(id)) return PieceType::kUnused;
  return PieceType::kText;
}

int SentencePieceModel::bos_id() const { return library_->processor.bos_id(); }
int SentencePieceModel::eos_id() const { return library_->processor.eos_id(); }

}  // namespace parallax
