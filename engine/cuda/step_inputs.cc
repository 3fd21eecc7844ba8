#include "engine/cuda/step_inputs.h"

#include <cstring>
#include <span>

namespace parallax {

StepInputs::StepInputs(const StepInputSizes& sizes)
    : block_(sizes.block_bytes, "step inputs"),
      block_tables_(sizes.table_bytes(), "block tables"),
      staged_block_(sizes.block_bytes, "step inputs"),
      staged_tables_(sizes.table_bytes(), "block tables"),
      mirror_({staged_tables_.as<int32_t>(), staged_tables_.size() / sizeof(int32_t)},
              sizes.max_blocks) {
  std::memset(staged_tables_.data(), 0, staged_tables_.size());  // as the device's
}

void StepInputs::Send(const ForwardBatch& batch, size_t block_bytes,
                      const kernels::Stream& stream) {
  kernels::cuda::CopyToDevice(block_.data(), staged_block_.data(), block_bytes, stream);
  const TableArea area = mirror_.Update(batch);
  if (area.rows > 0) {
    const size_t pitch = sizeof(int32_t) * mirror_.stride();
    const int32_t* const from = mirror_.at(area.first_row, area.first_column);
    kernels::cuda::CopyRowsToDevice(block_tables_.as<int32_t>() + (from - mirror_.at(0, 0)), pitch,
                                    from, pitch, sizeof(int32_t) * area.columns, area.rows, stream);
  }
  sent_.Record(stream);
}

}  // namespace parallax
