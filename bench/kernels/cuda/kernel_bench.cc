// kernel_bench [--samples N] [--pool-gib X] FILE...
//
// Times own attention kernels on the cases of FILEs ("-" is standard input), one JSON object a
// line. Method, for each case:
//   * K and V are bf16 noise in 64-token pages dealt out in random order; several such caches
//     are rotated over, 512 MB in all or more, so that every launch reads from memory ("warm"
//     cases keep one);
//   * three rows are compared with fp64 on the CPU, and a case that differs is an error;
//   * a CUDA graph of up to 64 launches runs between two events after a sweep of L2; the median
//     of N samples counts. Parallax, softmax (the same kernel without r), a plain read of the
//     same bytes and Parallax with programmatic dependent launches are sampled in turn.
// peers.py runs this program beside the peers and prints the table.
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "bench/kernels/cuda/attention_bench.h"
#include "bench/kernels/cuda/bench_case.h"

namespace parallax::bench {
namespace {

constexpr double kGibibyte = 1024.0 * 1024.0 * 1024.0;

struct Options {
  int samples = 21;
  double pool_gib = 18.0;
  std::vector<std::string> files;
};

std::optional<Options> ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool has_value = i + 1 < arguments.size();
    if (arguments[i] == "--samples" && has_value) {
      options.samples = std::stoi(arguments[++i]);
    } else if (arguments[i] == "--pool-gib" && has_value) {
      options.pool_gib = std::stod(arguments[++i]);
    } else if (arguments[i].starts_with("--")) {
      return std::nullopt;
    } else {
      options.files.push_back(arguments[i]);
    }
  }
  if (options.files.empty() || options.samples < 1) return std::nullopt;
  return options;
}

// Times and errors as JSON; the case's text needs no escapes.
bool RunCase(AttentionBench& bench, const std::string& line) {
  std::cout << "{\"case\": \"" << line << "\", ";
  try {
    const BenchCase bench_case = ParseBenchCase(line);
    const AttentionTimes times = bench.Run(bench_case);
    std::cout << "\"us\": " << times.parallax_us << ", \"softmax_us\": " << times.softmax_us
              << ", \"read_us\": " << times.read_us;
    if (times.programmatic_us) {
      std::cout << ", \"programmatic_us\": " << *times.programmatic_us
                << ", \"held\": " << (times.held ? "true" : "false");
    }
    std::cout << ", \"kv_bytes\": " << bench_case.kv_bytes()
              << ", \"max_error\": " << times.parallax_error
              << ", \"softmax_max_error\": " << times.softmax_error << "}" << std::endl;
    return true;
  } catch (const std::exception& error) {
    std::cout << "\"error\": \"";
    for (const char c : std::string(error.what())) std::cout << (c == '"' ? '\'' : c);
    std::cout << "\"}" << std::endl;
    return false;
  }
}

bool RunCases(AttentionBench& bench, std::istream& cases) {
  bool all_ran = true;
  for (std::string line; std::getline(cases, line);) {
    if (line.empty() || line.front() == '#') continue;
    all_ran &= RunCase(bench, line);
  }
  return all_ran;
}

int Main(const std::vector<std::string>& arguments) {
  const auto options = ParseOptions(arguments);
  if (!options) {
    std::cerr << "usage: kernel_bench [--samples N] [--pool-gib X] FILE...\n";
    return 2;
  }
  AttentionBench bench(options->samples, static_cast<size_t>(options->pool_gib * kGibibyte));
  bool all_ran = true;
  for (const std::string& name : options->files) {
    if (name == "-") {
      all_ran &= RunCases(bench, std::cin);
      continue;
    }
    std::ifstream file(name);
    if (!file) {
      std::cerr << "kernel_bench: cannot read " << name << "\n";
      return 2;
    }
    all_ran &= RunCases(bench, file);
  }
  return all_ran ? 0 : 1;
}

}  // namespace
}  // namespace parallax::bench

int main(int argc, char** argv) {
  try {
    return parallax::bench::Main({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "kernel_bench: " << error.what() << "\n";
    return 1;
  }
}
