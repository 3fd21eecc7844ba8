#include "engine/cuda/plan_file.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace parallax {

std::string ReadPlanFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

void WritePlanFile(const std::string& path, const std::string& text) {
  if (path.empty() || text == ReadPlanFile(path)) return;
  const std::string partial = path + "." + std::to_string(getpid()) + ".partial";
  std::ofstream file(partial, std::ios::binary);
  file << text;
  file.close();
  std::error_code ignored;
  if (file) std::filesystem::rename(partial, path, ignored);
  std::filesystem::remove(partial, ignored);
}

}  // namespace parallax
