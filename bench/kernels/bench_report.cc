#include "bench/kernels/bench_report.h"

#include <cstdio>
#include <sstream>
#include <utility>

namespace parallax::bench {

void BenchReport::Add(std::string name, double value, std::string unit, std::string note) {
  measurements_.push_back({std::move(name), value, std::move(unit), std::move(note)});
}

void BenchReport::PrintTable() const {
  for (const Measurement& m : measurements_) {
    std::printf("%-44s %10.2f %-8s %s\n", m.name.c_str(), m.value, m.unit.c_str(), m.note.c_str());
  }
}

std::string BenchReport::ToJson() const {
  std::ostringstream json;
  json << "[";
  for (size_t i = 0; i < measurements_.size(); ++i) {
    const Measurement& m = measurements_[i];
    json << (i == 0 ? "\n" : ",\n") << R"(  {"name": ")" << m.name << R"(", "value": )" << m.value
         << R"(, "unit": ")" << m.unit << R"("})";
  }
  json << "\n]\n";
  return json.str();
}

}  // namespace parallax::bench
