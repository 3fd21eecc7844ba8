// parallax-server: reads the command line and serves.
#include <iostream>
#include <string_view>
#include <vector>

#include "server/config.h"
#include "server/serve.h"

namespace parallax::server {
namespace {

int Main(int argc, char** argv) {
  const std::vector<std::string_view> args(argv + 1, argv + argc);
  const auto config = ParseServerConfig(args);
  if (!config.ok()) {
    std::cerr << "parallax-server: " << config.status().message() << '\n';
    return kBadFlags;
  }
  if (config->show_help) {
    std::cout << ServerHelp();
    return kStopped;
  }
  return Serve(*config);
}

}  // namespace
}  // namespace parallax::server

int main(int argc, char** argv) { return parallax::server::Main(argc, argv); }
