#include "engine/tokenizer/tokenizer_json.h"

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/bpe_model.h"
#include "engine/tokenizer/byte_level_alphabet.h"
#include "engine/tokenizer/byte_level_bpe.h"
#include "engine/tokenizer/unicode_nfc.h"

namespace parallax {
namespace {

using nlohmann::json;
using TokenIds = absl::flat_hash_map<std::string, int32_t>;

// What the sections of the file add up to.
struct Contents {
  std::vector<TokenEntry> entries;                      // [id]
  TokenIds model_ids;                                   // as spelt in $.model.vocab
  TokenIds added_ids;                                   // by content
  std::vector<std::pair<std::string, int32_t>> tokens;  // bytes and id of all that merges reach
  std::vector<BpeModel::Merge> merges;
  std::vector<AddedToken> added_tokens;
};

TokenEntry* EntryAt(int32_t id, Contents* contents) {
  if (contents->entries.size() <= static_cast<size_t>(id)) contents->entries.resize(id + 1);
  return &contents->entries[id];
}

void ReadVocabulary(const JsonCursor& vocabulary, Contents* contents) {
  if (!vocabulary.IsObject()) return vocabulary.Malformed("is not an object");
  for (const auto& [token, id_value] : vocabulary.value().items()) {
    const JsonCursor id_at = vocabulary.Field(token.c_str());
    const int32_t id = id_at.Integer(0, kMaxVocabSize - 1);
    if (!id_at.ok()) return;
    TokenEntry* entry = EntryAt(id, contents);
    if (entry->present) return id_at.Malformed("is the id of two tokens");
    entry->present = true;
    std::optional<std::string> bytes = BytesOfByteLevelToken(token);
    if (bytes.has_value()) contents->tokens.emplace_back(*bytes, id);
    entry->bytes = bytes.value_or(token);
    contents->model_ids.emplace(token, id);
  }
}

// The two sides of a merge, written as "a b" or as ["a", "b"]; empty if neither.
std::pair<std::string, std::string> SidesOfMerge(const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (!merge.is_string()) return {};
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return {};
  return {text.substr(0, space), text.substr(space + 1)};
}

void ReadMerges(const JsonCursor& merges, Contents* contents) {
  if (!merges.value().is_array()) return merges.Malformed("is not an array");
  const json& list = merges.value();
  contents->merges.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const auto refuse = [&](std::string_view why) {
      merges.Malformed(absl::StrCat("element ", i, ": ", std::string(why)));
    };
    const auto [left, right] = SidesOfMerge(list[i]);
    if (left.empty() || right.empty()) return refuse("is not a pair of tokens");
    const auto left_id = contents->model_ids.find(left);
    const auto right_id = contents->model_ids.find(right);
    const auto result_id = contents->model_ids.find(left + right);
    const auto none = contents->model_ids.end();
    if (left_id == none || right_id == none || result_id == none) {
      return refuse("names a token that is not in the vocabulary");
    }
    contents->merges.push_back({left_id->second, right_id->second, result_id->second});
  }
}

// Settings of the BPE model that byte-level tokenizers leave off.
void RefuseModelOptions(const JsonCursor& model) {
  const JsonCursor type = model.Field("type");
  if (!type.IsNull() && type.Text() != "BPE") type.Unsupported();
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonCursor affix = model.Field(name);
    if (!affix.IsNull() && !affix.IsEmptyString()) affix.Unsupported();
  }
  const JsonCursor dropout = model.Field("dropout");
  if (!dropout.IsNull() && dropout.value() != 0.0) dropout.Unsupported();
  const JsonCursor byte_fallback = model.Field("byte_fallback");
  if (byte_fallback.BoolOr(false)) byte_fallback.Unsupported();
}

AddedToken ReadAddedToken(const JsonCursor& at) {
  AddedToken token;
  token.id = at.Field("id").Integer(0, kMaxVocabSize - 1);
  token.content = at.Field("content").Text();
  token.single_word = at.Field("single_word").BoolOr(false);
  token.lstrip = at.Field("lstrip").BoolOr(false);
  token.rstrip = at.Field("rstrip").BoolOr(false);
  token.special = at.Field("special").BoolOr(false);
  token.normalized = at.Field("normalized").BoolOr(!token.special);
  return token;
}

void AddToken(const JsonCursor& at, AddedToken token, Contents* contents) {
  if (token.content.empty()) return at.Malformed("has no content");
  if (!contents->added_ids.emplace(token.content, token.id).second) {
    return at.Malformed("is listed twice");
  }
  const auto in_model = contents->model_ids.find(token.content);
  const bool known = in_model != contents->model_ids.end();
  if (known && in_model->second != token.id) {
    return at.Malformed(
        absl::StrCat("has id ", token.id, " but is ", in_model->second, " in the vocabulary"));
  }
  TokenEntry* entry = EntryAt(token.id, contents);
  if (entry->present && !known) return at.Malformed("has the id of another token");
  *entry = {.bytes = token.content, .present = true, .special = token.special};
  contents->added_tokens.push_back(std::move(token));
}

void ReadAddedTokens(const JsonCursor& list, bool nfc, Contents* contents) {
  if (list.IsNull()) return;
  absl::flat_hash_set<std::string> normalized;
  for (const JsonCursor& at : list.Elements()) {
    AddedToken token = ReadAddedToken(at);
    if (!at.ok()) return;
    const bool clash = token.normalized && nfc && !normalized.insert(ToNfc(token.content)).second;
    if (clash) return at.Malformed("equals another token once normalised");
    AddToken(at, std::move(token), contents);
  }
}

// The id that tokenizer_config.json means by a token's name.
std::optional<int32_t> FindToken(const std::optional<std::string>& name, const char* field,
                                 const Contents& contents, absl::Status* status) {
  if (!name.has_value()) return std::nullopt;
  for (const TokenIds* ids : {&contents.added_ids, &contents.model_ids}) {
    const auto found = ids->find(*name);
    if (found != ids->end()) return found->second;
  }
  if (status->ok()) {
    *status = absl::InvalidArgumentError(
        absl::StrCat("tokenizer_config.json: $.", field, " = \"", *name, "\" is not a token"));
  }
  return std::nullopt;
}

// Obeys an explicit add_bos_token or add_eos_token: `ids` then has, or has not, `id` at its
// outer end.
void ApplyAddToken(std::optional<bool> add, std::optional<int32_t> id, const char* field,
                   bool at_front, std::vector<int32_t>* ids, absl::Status* status) {
  if (!add.has_value()) return;
  if (*add && !id.has_value()) {
    *status = absl::InvalidArgumentError(
        absl::StrCat("tokenizer_config.json: $.", field, " = true without such a token"));
    return;
  }
  const bool has =
      id.has_value() && !ids->empty() && (at_front ? ids->front() : ids->back()) == *id;
  const auto outer_end = [&] { return at_front ? ids->begin() : ids->end(); };
  if (*add && !has) ids->insert(outer_end(), *id);
  if (!*add && has) ids->erase(at_front ? ids->begin() : ids->end() - 1);
}

absl::Status CheckTemplate(const TokenTemplate& around, const TokenTable& tokens) {
  for (const std::vector<int32_t>* ids : {&around.prefix, &around.suffix}) {
    for (const int32_t id : *ids) {
      if (!tokens.IsValid(id)) {
        return absl::InvalidArgumentError(
            absl::StrCat("$.post_processor adds token ", id, ", which does not exist"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view json_text,
                                                              const TokenizerConfig& config) {
  const absl::StatusOr<json> document = ParseJsonObjectText(json_text);
  if (!document.ok()) return document.status();
  absl::Status status;
  const JsonCursor root(*document, "$", &status);
  const JsonCursor model_at = root.Field("model");

  Contents contents;
  RefuseModelOptions(model_at);
  const bool ignore_merges = model_at.Field("ignore_merges").BoolOr(false);
  const bool nfc = ReadNormalizer(root.Field("normalizer"));
  PreTokenizer pre_tokenizer(ReadPreTokenizer(root.Field("pre_tokenizer")));
  TokenTemplate around = ReadPostProcessor(root.Field("post_processor"));
  ReadDecoder(root.Field("decoder"));
  ReadVocabulary(model_at.Field("vocab"), &contents);
  if (status.ok()) ReadMerges(model_at.Field("merges"), &contents);
  if (status.ok()) ReadAddedTokens(root.Field("added_tokens"), nfc, &contents);
  const auto bos_id = FindToken(config.bos_token, "bos_token", contents, &status);
  const auto eos_id = FindToken(config.eos_token, "eos_token", contents, &status);
  if (!status.ok()) return status;

  ApplyAddToken(config.add_bos_token, bos_id, "add_bos_token", true, &around.prefix, &status);
  ApplyAddToken(config.add_eos_token, eos_id, "add_eos_token", false, &around.suffix, &status);
  TokenTable tokens(contents.entries);
  status.Update(CheckTemplate(around, tokens));
  if (!status.ok()) return status;
  absl::StatusOr<BpeModel> model =
      BpeModel::Create(std::move(contents.tokens), contents.merges, ignore_merges);
  if (!model.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("$.model.vocab: ", std::string(model.status().message())));
  }
  return std::make_unique<ByteLevelBpeTokenizer>(
      ByteLevelBpeParts{.tokens = std::move(tokens),
                        .model = *std::move(model),
                        .pre_tokenizer = std::move(pre_tokenizer),
                        .nfc = nfc,
                        .added_tokens = std::move(contents.added_tokens),
                        .prefix = std::move(around.prefix),
                        .suffix = std::move(around.suffix),
                        .bos_id = bos_id,
                        .eos_id = eos_id});
}

}  // namespace parallax
