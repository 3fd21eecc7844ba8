// libFuzzer target: any bytes as tokenizer.json. A tokenizer that loads must encode a short text
// without error and decode only to valid UTF-8.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/tokenizer/tokenizer_json.h"
#include "engine/tokenizer/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json_text(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = parallax::ParseTokenizerJson(json_text);
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode("It's 3 <s>caf\u00e9</s>\n  e\u0301 \U0001F600", true);
  if (!ids.ok()) {
    // The one error that a pattern may earn is that of its match limit.
    if (ids.status().code() != absl::StatusCode::kInvalidArgument) std::abort();
    return 0;
  }
  for (const int32_t id : *ids) {
    if (!(*tokenizer)->IsValidId(id)) std::abort();
  }
  if (parallax::FindInvalidUtf8((*tokenizer)->Decode(*ids, false)).has_value()) std::abort();
  return 0;
}
