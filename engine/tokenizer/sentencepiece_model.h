// SentencePieceModel: Debian's SentencePiece library behind plain standard types.
//
// Its header declares absl::string_view in its own way and must not meet Abseil's headers in
// one file; this one and its .cc are where the library is known, and Abseil is not.
//
// Thread safety: immutable once loaded; const methods may be called from any thread.
#ifndef PARALLAX_ENGINE_TOKENIZER_SENTENCEPIECE_MODEL_H_
#define PARALLAX_ENGINE_TOKENIZER_SENTENCEPIECE_MODEL_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace parallax {

class SentencePieceModel {
 public:
  enum class PieceType { kText, kUnknown, kControl, kByte, kUnused };

  /// Null, with the library's message in `*error`, if `serialized` is not a usable model.
  static std::unique_ptr<SentencePieceModel> Load(std::string_view serialized, std::string* error);

  ~SentencePieceModel();
  SentencePieceModel(const SentencePieceModel&) = delete;
  SentencePieceModel& operator=(const SentencePieceModel&) = delete;

  /// Appends the ids of `text` (no BOS, no EOS). False, with a message, on failure.
  bool Encode(std::string_view text, std::vector<int>* ids, std::string* error) const;

  /// The library's own decoding of ids in [0, size()).
  std::string Decode(const std::vector<int>& ids) const;

  int size() const;
  const std::string& Piece(int id) const;
  PieceType Type(int id) const;

  /// -1 if the model has none.
  int bos_id() const;
  int eos_id() const;

 private:
  struct Library;

  explicit SentencePieceModel(std::unique_ptr<Library> library);

  std::unique_ptr<Library> library_;
};

}  // namespace parallax

#endif  // PARALLAX_ENGINE_TOKENIZER_SENTENCEPIECE_MODEL_H_
