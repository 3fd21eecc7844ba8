// Any text may claim to be a config.json: it must be refused or describe a sane model.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/models/model_config.h"
#include "engine/models/rope_frequencies.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = parallax::ParseModelConfig(text);
  if (config.ok()) {
    const bool sane = config->num_layers == static_cast<int64_t>(config->layer_windows.size()) &&
                      config->num_heads % config->num_kv_heads == 0 && config->head_dim > 0 &&
                      config->qrkv_rows() > 0 && config->intermediate_size > 0;
    if (!sane) std::abort();
    for (const double frequency :
         parallax::RopeInverseFrequencies(config->rope, config->head_dim)) {
      if (!(frequency > 0 && frequency <= 1)) std::abort();
    }
  }
  (void)parallax::ParseGenerationDefaults(text, 1000);
  return 0;
}
