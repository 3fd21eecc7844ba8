// ServerConfig: everything an operator can set, read from the command line once, in main.
//
// Thread safety: plain data; const after start.
#ifndef PARALLAX_SERVER_CONFIG_H_
#define PARALLAX_SERVER_CONFIG_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/logger.h"

namespace parallax::server {

struct TlsFiles {
  std::string cert;       // PEM chain of the server; empty: plaintext
  std::string key;        // PEM private key
  std::string client_ca;  // PEM roots that clients must present a certificate of: mTLS
};

struct ServerConfig {
  bool show_help = false;

  // Model.
  std::string model;                                     // folder of a checkpoint, or "null"
  absl::Duration null_step_time = absl::ZeroDuration();  // the null model's
  std::string model_name;  // as clients name it; empty: the folder's last component
  std::string load_format = "auto";
  std::string device = "auto";
  int32_t threads = 0;       // 0: one a core
  int64_t memory_bytes = 0;  // of everything; 0: 70 % of what is available, or of the GPU the next
  int32_t gpu_memory_percent = 90;
  std::string gpu_plan_file;   // empty: linear layers are tuned at every start
  int64_t kv_cache_bytes = 0;  // of the pages; 0: what memory_bytes leaves
  int32_t kv_cache_pages = 0;  // the same as a count
  std::string kv_cache_dtype = "bf16";
  int32_t max_context_tokens = 0;  // 0: the model's

  // Scheduling.
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 2048;
  int32_t max_prefill_chunk = 0;
  int32_t max_mixed_prefill_tokens = 384;
  int32_t max_queued_requests = 1024;
  int32_t max_queued_tokens = 16 << 20;  // of prompts: 64 MiB
  bool prefix_cache = true;

  // Addresses. Port 0: any free port.
  std::string listen = "127.0.0.1:50051";
  std::string admin_listen = "127.0.0.1:50052";
  std::string metrics_listen = "127.0.0.1:9464";  // empty: no metrics
  std::string ready_file;

  // Access.
  TlsFiles tls;
  std::string auth_token_file;
  bool kv_events = false;  // tell subscribers which token ids the prefix cache holds

  // Limits.
  int32_t max_prompt_tokens = 0;  // 0: what the context leaves
  int32_t max_choices = 16;
  int64_t max_message_bytes = int64_t{4} << 20;
  int64_t max_response_bytes = int64_t{64} << 20;
  int64_t outbox_bytes = int64_t{1} << 20;
  absl::Duration read_timeout = absl::Seconds(60);  // 0: none
  int32_t max_concurrent_streams = 1024;            // a connection
  int64_t grpc_memory_bytes = int64_t{1} << 30;
  absl::Duration min_ping_interval = absl::Seconds(5);

  // Operation.
  absl::Duration grace_period = absl::Seconds(30);
  absl::Duration stall_timeout = absl::Seconds(30);
  LogLevel log_level = LogLevel::kInfo;
  bool log_prompts = false;
};

/// Reads the arguments after the program's name. INVALID_ARGUMENT names the flag and the
/// value. With --help only `show_help` is meaningful.
absl::StatusOr<ServerConfig> ParseServerConfig(std::span<const std::string_view> args);

/// What --help prints.
std::string ServerHelp();

/// Whether `address` (host:port, [v6]:port or unix:path) is reachable from this host alone.
bool IsLoopbackAddress(std::string_view address);

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_CONFIG_H_
