#include <string>
#include <utility>

#include "engine/tokenizer/tokenizer_json.h"

namespace parallax {
namespace {

// The split pattern that ByteLevel applies with use_regex (GPT-2's).
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using Stages = std::vector<PreTokenizerStage>;

void AddSplit(const JsonCursor& at, absl::StatusOr<SplitRegex> regex, bool drop_unmatched,
              Stages* stages) {
  if (regex.ok()) {
    stages->push_back({std::make_unique<SplitRegex>(*std::move(regex)), drop_unmatched});
  } else if (absl::IsUnimplemented(regex.status())) {
    at.Unsupported(std::string(regex.status().message()));
  } else {
    at.Malformed(std::string(regex.status().message()));
  }
}

void ReadSplit(const JsonCursor& split, Stages* stages) {
  const bool invert = split.Field("invert").BoolOr(false);
  const JsonCursor behavior = split.Field("behavior");
  // Isolated keeps matches and what lies between them alike, so invert changes nothing.
  const bool isolated = behavior.Text() == "Isolated";
  const bool drop_unmatched = behavior.Text() == "Removed" && invert;
  if (!isolated && !drop_unmatched) return behavior.Unsupported();
  const JsonCursor regex = split.Field("pattern").Field("Regex");
  const JsonCursor literal = split.Field("pattern").Field("String");
  if (regex.IsNull() && !literal.IsNull()) {
    AddSplit(literal, SplitRegex::CompileLiteral(literal.Text()), drop_unmatched, stages);
  } else {
    AddSplit(regex, SplitRegex::Compile(regex.Text()), drop_unmatched, stages);
  }
}

void ReadByteLevelPreTokenizer(const JsonCursor& byte_level, Stages* stages) {
  if (byte_level.Field("add_prefix_space").BoolOr(true)) stages->push_back({});
  const JsonCursor use_regex = byte_level.Field("use_regex");
  if (!use_regex.BoolOr(true)) return;
  AddSplit(use_regex, SplitRegex::Compile(kByteLevelPattern), /*drop_unmatched=*/false, stages);
}

// Stages in front of ByteLevel; behind it the text would be in the byte-level alphabet.
void ReadLeadingStage(const JsonCursor& stage, Stages* stages) {
  const JsonCursor type = stage.Field("type");
  if (type.Text() == "Split") {
    ReadSplit(stage, stages);
  } else if (type.Text() == "Digits") {
    const bool individual = stage.Field("individual_digits").BoolOr(false);
    AddSplit(type, SplitRegex::Compile(individual ? R"(\p{N})" : R"(\p{N}+)"),
             /*drop_unmatched=*/false, stages);
  } else {
    type.Unsupported();
  }
}

void PrependTo(std::vector<int32_t>* ids, const std::vector<int32_t>& front) {
  ids->insert(ids->begin(), front.begin(), front.end());
}

void AppendTo(std::vector<int32_t>* ids, const std::vector<int32_t>& back) {
  ids->insert(ids->end(), back.begin(), back.end());
}

std::vector<int32_t> ReadTemplateIds(const JsonCursor& processor, const std::string& name) {
  std::vector<int32_t> ids;
  const JsonCursor token = processor.Field("special_tokens").Field(name.c_str());
  for (const JsonCursor& id : token.Field("ids").Elements()) {
    ids.push_back(id.Integer(0, kMaxVocabSize - 1));
  }
  return ids;
}

TokenTemplate ReadTemplate(const JsonCursor& processor) {
  TokenTemplate result;
  bool past_text = false;
  const JsonCursor single = processor.Field("single");
  for (const JsonCursor& piece : single.Elements()) {
    const JsonCursor special = piece.Field("SpecialToken");
    if (!special.IsNull()) {
      AppendTo(past_text ? &result.suffix : &result.prefix,
               ReadTemplateIds(processor, special.Field("id").Text()));
      continue;
    }
    const JsonCursor sequence = piece.Field("Sequence").Field("id");
    if (sequence.Text() != "A") sequence.Unsupported();
    if (past_text) piece.Unsupported("the text stands twice in the template");
    past_text = true;
  }
  if (!past_text) single.Malformed("the text stands nowhere in the template");
  return result;
}

}  // namespace

bool ReadNormalizer(const JsonCursor& normalizer) {
  if (normalizer.IsNull()) return false;
  const JsonCursor type = normalizer.Field("type");
  if (type.Text() == "NFC") return true;
  if (type.Text() != "Sequence") {
    type.Unsupported();
    return false;
  }
  bool nfc = false;
  for (const JsonCursor& element : normalizer.Field("normalizers").Elements()) {
    const JsonCursor element_type = element.Field("type");
    if (element_type.Text() != "NFC") element_type.Unsupported();
    nfc = true;
  }
  return nfc;
}

std::vector<PreTokenizerStage> ReadPreTokenizer(const JsonCursor& pre_tokenizer) {
  Stages stages;
  const JsonCursor type = pre_tokenizer.Field("type");
  if (type.Text() == "ByteLevel") {
    ReadByteLevelPreTokenizer(pre_tokenizer, &stages);
    return stages;
  }
  if (type.Text() != "Sequence") {
    type.Unsupported();
    return stages;
  }
  const JsonCursor sequence = pre_tokenizer.Field("pretokenizers");
  const std::vector<JsonCursor> elements = sequence.Elements();
  if (elements.empty() || elements.back().Field("type").Text() != "ByteLevel") {
    sequence.Unsupported("does not end in ByteLevel");
    return stages;
  }
  for (size_t i = 0; i + 1 < elements.size(); ++i) ReadLeadingStage(elements[i], &stages);
  ReadByteLevelPreTokenizer(elements.back(), &stages);
  return stages;
}

TokenTemplate ReadPostProcessor(const JsonCursor& post_processor) {
  if (post_processor.IsNull()) return {};
  const JsonCursor type = post_processor.Field("type");
  if (type.Text() == "ByteLevel") return {};  // moves offsets only
  if (type.Text() == "TemplateProcessing") return ReadTemplate(post_processor);
  TokenTemplate all;
  if (type.Text() != "Sequence") {
    type.Unsupported();
    return all;
  }
  for (const JsonCursor& element : post_processor.Field("processors").Elements()) {
    const JsonCursor element_type = element.Field("type");
    if (element_type.Text() == "Sequence") {
      element_type.Unsupported();
      break;
    }
    const TokenTemplate outer = ReadPostProcessor(element);
    PrependTo(&all.prefix, outer.prefix);
    AppendTo(&all.suffix, outer.suffix);
  }
  return all;
}

void ReadDecoder(const JsonCursor& decoder) {
  const JsonCursor type = decoder.Field("type");
  if (type.Text() != "ByteLevel") type.Unsupported();
}

}  // namespace parallax
