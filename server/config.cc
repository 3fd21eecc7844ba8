#include "server/config.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/flag_table.h"
#include "server/string_view.h"

namespace parallax::server {
namespace {

constexpr int32_t kMaxInt32 = 0x7fffffff;

void AddModelFlags(ServerConfig* config, FlagTable* flags) {
  flags->Section("Model");
  flags->String("model", "DIR", &config->model,
                "Folder of the checkpoint (config.json, *.safetensors, tokenizer), or null: a "
                "model that costs nothing, for load tests of everything but the model. Required.");
  flags->Duration("null-step-time", &config->null_step_time,
                  "How long a step of the null model takes, as one on a device would: tokens at a "
                  "pace that the processors do not set.");
  flags->String("model-name", "NAME", &config->model_name,
                "The name clients use. Unset: the folder's last component.");
  flags->Choice("load-format", {"auto", "dummy"}, &config->load_format,
                "dummy: random weights of the shapes in config.json; no weight file is read.");
  flags->Choice("device", {"auto", "cpu", "cuda"}, &config->device,
                "Where the model runs. auto: a GPU if there is one and the server was built "
                "with CUDA, else the CPU.");
  flags->Int("threads", 0, 1024, &config->threads, "CPU threads of the model. 0: one a core.");
  flags->Bytes("memory-bytes", 0, &config->memory_bytes,
               "Memory of weights, workspaces and KV cache together, all of it reserved at "
               "start. 0: 70 % of what is available, on a GPU --gpu-memory-percent.");
  flags->Int("gpu-memory-percent", 1, 100, &config->gpu_memory_percent,
             "Share of the GPU's memory that this server and whoever else uses it may fill.");
  flags->String("gpu-plan-file", "PATH", &config->gpu_plan_file,
                "Where the GPU's linear layers keep which of their algorithms was fastest, so that "
                "later starts need not time them. Unset: they are timed at every start.");
  flags->Bytes("kv-cache-bytes", 0, &config->kv_cache_bytes,
               "Of it, the paged KV cache. 0: what the rest leaves.");
  flags->Int("kv-cache-pages", 0, 1 << 30, &config->kv_cache_pages,
             "The same as a number of pages of 64 tokens.");
  flags->Choice("kv-cache-dtype", {"bf16", "fp16", "fp32"}, &config->kv_cache_dtype,
                "Element type of cached keys and values.");
  flags->Int("max-context-tokens", 0, kMaxInt32, &config->max_context_tokens,
             "Longest sequence, prompt plus output. 0: what config.json says.");
}

void AddSchedulingFlags(ServerConfig* config, FlagTable* flags) {
  flags->Section("Scheduling");
  flags->Int("max-num-seqs", 1, 65536, &config->max_num_seqs,
             "Sequences (choices) that run at once.");
  flags->Int("max-num-batched-tokens", 1, 1 << 20, &config->max_num_batched_tokens,
             "Token rows of one step, prompts and running sequences together. At least "
             "--max-num-seqs.");
  flags->Int("max-prefill-chunk", 0, 1 << 20, &config->max_prefill_chunk,
             "Most prompt tokens of one sequence in a step. 0: only the step's budget limits.");
  flags->Int("max-mixed-prefill-tokens", 0, 1 << 20, &config->max_mixed_prefill_tokens,
             "Most prompt tokens of a step in which others wait for their next token; bounds the "
             "gap between two tokens. Less is a steadier stream, more is more throughput. 0: only "
             "the step's budget limits.");
  flags->Int("max-queued-requests", 1, 1 << 20, &config->max_queued_requests,
             "Requests accepted and not yet running; one more is refused with "
             "RESOURCE_EXHAUSTED.");
  flags->Int("max-queued-tokens", 0, 1 << 30, &config->max_queued_tokens,
             "Prompt tokens of those requests, at 4 bytes each; one more is refused likewise, "
             "unless nobody waits. 0: only their number is limited.");
  flags->Switch("prefix-cache", &config->prefix_cache,
                "Keep the KV pages of finished prompts for requests that begin alike.");
}

void AddAddressFlags(ServerConfig* config, FlagTable* flags) {
  flags->Section("Addresses (host:port, [v6]:port or unix:path; port 0: any free port)");
  flags->String("listen", "ADDRESS", &config->listen,
                "InferenceService, health and reflection. Beyond loopback use --tls-cert and "
                "--auth-token-file: without them everyone who can reach the port is served.");
  flags->String("admin-listen", "ADDRESS", &config->admin_listen,
                "AdminService. Beyond loopback it is refused unless --tls-client-ca is set.");
  flags->String("metrics-listen", "ADDRESS", &config->metrics_listen,
                "Prometheus metrics at http://ADDRESS/metrics (host:port only). Empty: none.");
  flags->String("ready-file", "PATH", &config->ready_file,
                "Once serving, the line that is also printed on standard output, one JSON "
                "object with the ports in use, is written here (atomically).");
}

void AddAccessFlags(ServerConfig* config, FlagTable* flags) {
  flags->Section("Access");
  flags->String("tls-cert", "FILE", &config->tls.cert, "PEM certificate chain; turns TLS on.");
  flags->String("tls-key", "FILE", &config->tls.key, "PEM private key of --tls-cert.");
  flags->String("tls-client-ca", "FILE", &config->tls.client_ca,
                "PEM roots. Clients must present a certificate signed by one of them (mTLS).");
  flags->String(
      "auth-token-file", "FILE", &config->auth_token_file,
      "Bearer tokens, one a line: NAME TOKEN [max_concurrent=N] "
      "[max_requests_per_second=R]; a field that begins with # begins a comment. SIGHUP reads "
      "it again. Unset: every caller is served, as one anonymous principal.");
  flags->Switch("kv-events", &config->kv_events,
                "Serve VllmEngine.SubscribeKvEvents, by which a gateway routes prompts to the "
                "replica that has their prefix. Subscribers see the token ids of all callers' "
                "prompts. Off: UNIMPLEMENTED.");
}

void AddLimitFlags(ServerConfig* config, FlagTable* flags) {
  flags->Section("Limits");
  flags->Int("max-prompt-tokens", 0, kMaxInt32, &config->max_prompt_tokens,
             "Longest prompt. 0: the context less one token of output.");
  flags->Int("max-choices", 1, 64, &config->max_choices, "Largest n of a request.");
  flags->Bytes("max-message-bytes", 1024, &config->max_message_bytes,
               "Largest message a client may send.");
  flags->Bytes("max-response-bytes", 65536, &config->max_response_bytes,
               "Largest reply of Generate, Tokenize and Detokenize; a longer one ends with "
               "RESOURCE_EXHAUSTED. A stream has no such limit, but a prompt whose echo and "
               "log-probabilities take more, in all choices together, is refused.");
  flags->Bytes("outbox-bytes", 4096, &config->outbox_bytes,
               "Output that may wait for a slow reader of one stream; past it the request ends "
               "with RESOURCE_EXHAUSTED.");
  flags->Duration("read-timeout", &config->read_timeout,
                  "A call whose output is complete, or too much, is cancelled once its client has "
                  "taken nothing of it for this long. 0: never. Clients' libraries take some "
                  "megabytes ahead of who reads: not less than they last.");
  flags->Int("max-concurrent-streams", 1, 1 << 20, &config->max_concurrent_streams,
             "Open calls of one connection; the client queues further ones.");
  flags->Bytes("grpc-memory-bytes", 16 << 20, &config->grpc_memory_bytes,
               "gRPC's buffers, all connections together.");
  flags->Duration("min-ping-interval", &config->min_ping_interval,
                  "Keepalive pings may come this often, with or without a call open; a client "
                  "that pings more is disconnected. Timers jitter: set half of what clients use.");
}

void AddOperationFlags(ServerConfig* config, FlagTable* flags, std::string* log_level) {
  flags->Section("Operation");
  flags->Duration("grace-period", &config->grace_period,
                  "After SIGTERM or SIGINT running requests get this long to finish.");
  flags->Duration("stall-timeout", &config->stall_timeout,
                  "Health turns NOT_SERVING when there is work and no step was completed for "
                  "this long.");
  flags->Choice("log-level", {"debug", "info", "warning", "error"}, log_level,
                "Lines below it are not written. info: one line a request, and one a refused call; "
                "debug: one a call.");
  flags->Switch(
      "log-prompts", &config->log_prompts,
      "Write the beginning of every accepted prompt, too, at level info. Who reads the log "
      "then reads what callers wrote.");
  flags->Switch("help", &config->show_help, "Print this.");
}

FlagTable MakeFlags(ServerConfig* config, std::string* log_level) {
  FlagTable flags;
  AddModelFlags(config, &flags);
  AddSchedulingFlags(config, &flags);
  AddAddressFlags(config, &flags);
  AddAccessFlags(config, &flags);
  AddLimitFlags(config, &flags);
  AddOperationFlags(config, &flags, log_level);
  return flags;
}

LogLevel ParseLogLevel(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  return LogLevel::kInfo;
}

// "127.0.0.1" of "127.0.0.1:80", "::1" of "[::1]:80"; empty if it is not host:port.
std::string_view HostOf(std::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == address.npos || colon == 0) return {};
  int32_t port = -1;
  if (!absl::SimpleAtoi(ToAbsl(address.substr(colon + 1)), &port) || port < 0 || port > 65535) {
    return {};
  }
  std::string_view host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) return host.substr(1, host.size() - 2);
  return host.find(':') == host.npos ? host : std::string_view();
}

bool IsUnixAddress(std::string_view address) {
  return address.starts_with("unix:") && address.size() > 5;
}

absl::Status CheckAddress(std::string_view flag, std::string_view address, bool unix_allowed) {
  if (!HostOf(address).empty() || (unix_allowed && IsUnixAddress(address))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--", ToAbsl(flag), ": \"", ToAbsl(address), "\" is not host:port",
      unix_allowed ? ", [v6]:port or unix:path" : " or [v6]:port", ", with a port of 0 to 65535"));
}

absl::Status CheckAddresses(const ServerConfig& config) {
  if (absl::Status s = CheckAddress("listen", config.listen, true); !s.ok()) return s;
  if (absl::Status s = CheckAddress("admin-listen", config.admin_listen, true); !s.ok()) return s;
  if (!IsLoopbackAddress(config.admin_listen) && config.tls.client_ca.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--admin-listen: ", config.admin_listen,
                     " is reachable from other hosts, where anyone could drain the server; set "
                     "--tls-cert, --tls-key and --tls-client-ca, or listen on loopback"));
  }
  if (config.metrics_listen.empty()) return absl::OkStatus();
  return CheckAddress("metrics-listen", config.metrics_listen, false);
}

absl::Status CheckTls(const TlsFiles& tls) {
  if (tls.cert.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tls-cert: \"", tls.cert, "\" and --tls-key: \"", tls.key, "\" must be set together"));
  }
  if (!tls.client_ca.empty() && tls.cert.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls-client-ca: \"", tls.client_ca, "\" needs --tls-cert and --tls-key"));
  }
  return absl::OkStatus();
}

absl::Status Check(const ServerConfig& config) {
  if (config.model.empty()) {
    return absl::InvalidArgumentError("--model is required: a checkpoint's folder, or null");
  }
  if (config.max_num_batched_tokens < config.max_num_seqs) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-num-batched-tokens: ", config.max_num_batched_tokens,
                     " is less than --max-num-seqs: ", config.max_num_seqs,
                     "; every running sequence needs a row in every step"));
  }
  if (config.kv_cache_bytes > 0 && config.kv_cache_pages > 0) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-cache-bytes: ", config.kv_cache_bytes,
                                                   " and --kv-cache-pages: ", config.kv_cache_pages,
                                                   " exclude each other"));
  }
  if (config.model == "null" && config.kv_cache_bytes > 0) {
    return absl::InvalidArgumentError(
        "--kv-cache-bytes: the null model's pages take no memory; use --kv-cache-pages");
  }
  if (config.model != "null" && config.null_step_time != absl::ZeroDuration()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--null-step-time: ", absl::FormatDuration(config.null_step_time), " needs --model=null"));
  }
  if (config.stall_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--stall-timeout: must be more than 0");
  }
  if (config.min_ping_interval > absl::Hours(24)) {  // gRPC counts its milliseconds in an int
    return absl::InvalidArgumentError("--min-ping-interval: must be at most 24h");
  }
  if (config.max_message_bytes > kMaxInt32 || config.max_response_bytes > kMaxInt32) {
    return absl::InvalidArgumentError(
        "--max-message-bytes, --max-response-bytes: must be less than 2GiB, protobuf's limit");
  }
  if (absl::Status s = CheckTls(config.tls); !s.ok()) return s;
  return CheckAddresses(config);
}

std::string DefaultModelName(const std::string& model) {
  const std::filesystem::path path = std::filesystem::path(model).lexically_normal();
  const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  return name.empty() ? model : name;
}

}  // namespace

bool IsLoopbackAddress(std::string_view address) {
  if (IsUnixAddress(address)) return true;
  const std::string host(HostOf(address));
  if (host == "localhost") return true;
  // Parsed, not compared: a name may begin with "127.", too.
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::StatusOr<ServerConfig> ParseServerConfig(std::span<const std::string_view> args) {
  ServerConfig config;
  std::string log_level = "info";
  if (absl::Status s = MakeFlags(&config, &log_level).Parse(args); !s.ok()) return s;
  if (config.show_help) return config;
  config.log_level = ParseLogLevel(log_level);
  if (absl::Status s = Check(config); !s.ok()) return s;
  if (config.model_name.empty()) config.model_name = DefaultModelName(config.model);
  return config;
}

std::string ServerHelp() {
  ServerConfig config;
  std::string log_level = "info";
  return absl::StrCat(
      "parallax-server: serves completions of a Parallax (or softmax) language model over gRPC.\n"
      "\n"
      "  parallax-server --model=DIR [flags]\n"
      "\n"
      "Signals: SIGTERM or SIGINT stops after running requests (--grace-period); a second one\n"
      "aborts them; SIGHUP reads --auth-token-file again.\n"
      "Exit status: 0 stopped, every request finished; 1 could not start; 2 bad flags;\n"
      "3 stopped, requests were aborted or their output was not taken; 4 the backend (a GPU)\n"
      "failed: start again.\n",
      MakeFlags(&config, &log_level).Help());
}

}  // namespace parallax::server
