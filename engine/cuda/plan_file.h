// The file that keeps tuned plans of linear layers between starts. It is a cache: missing or
// unreadable means tuning again, and a failure to write it is no failure to start.
//
// Thread safety: pure functions; the file is written aside and renamed, so that two servers that
// start at once never read half of it.
#ifndef PARALLAX_ENGINE_CUDA_PLAN_FILE_H_
#define PARALLAX_ENGINE_CUDA_PLAN_FILE_H_

#include <string>

namespace parallax {

/// Empty when there is none, or `path` is.
std::string ReadPlanFile(const std::string& path);
void WritePlanFile(const std::string& path, const std::string& text);

}  // namespace parallax

#endif  // PARALLAX_ENGINE_CUDA_PLAN_FILE_H_
