// Writes tests/kernels/reference/default_model_attention.bin anew. Run it in the repository's root:
//
//   build/.../capture_attention tests/kernels/reference/default_model_attention.bin
#include <exception>
#include <iostream>

#include "tests/engine/models/attention_capture.h"
#include "tests/kernels/reference/captured_attention.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: capture_attention FILE\n";
    return 2;
  }
  try {
    parallax::reference::WriteCapturedAttention(argv[1], parallax::testing::CaptureDefaultModel());
  } catch (const std::exception& error) {
    std::cerr << "capture_attention: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
