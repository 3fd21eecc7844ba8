#include "clients/cpp/perplexity.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <numbers>
#include <thread>
#include <utility>

namespace parallax::client {
namespace {

using Window = std::vector<int32_t>;

grpc::Status ResolveWindow(const v1::GetModelInfoResponse& info, int32_t* window_tokens) {
  // The server generates at least one token after a prompt.
  const int32_t longest = std::min(info.max_prompt_tokens(), info.max_context_tokens() - 1);
  if (*window_tokens == 0) *window_tokens = longest;
  if (*window_tokens < 2 || *window_tokens > longest) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "window: " + std::to_string(*window_tokens) +
                                                    " tokens is outside [2, " +
                                                    std::to_string(longest) + "]"};
  }
  return grpc::Status::OK;
}

void AppendWindows(const std::vector<int32_t>& ids, int32_t window_tokens,
                   std::vector<Window>* windows) {
  const size_t size = window_tokens;
  for (size_t start = 0; start + 1 < ids.size(); start += size - 1) {
    const size_t end = std::min(ids.size(), start + size);
    windows->emplace_back(ids.begin() + start, ids.begin() + end);
  }
}

grpc::Status ScoreWindow(Client* client, const Window& window, const CallOptions& call_options,
                         double* nll) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Assign(window.begin(), window.end());
  request.mutable_stopping()->set_max_tokens(1);
  request.mutable_output()->set_prompt_logprobs(0);
  v1::GenerateResponse response;
  if (auto status = client->Generate(request, call_options, &response); !status.ok()) {
    return status;
  }
  if (response.prompt_logprobs_size() != static_cast<int>(window.size())) {
    return {grpc::StatusCode::INTERNAL, "the server scored " +
                                            std::to_string(response.prompt_logprobs_size()) +
                                            " of " + std::to_string(window.size()) + " tokens"};
  }
  *nll = 0;
  for (int i = 1; i < response.prompt_logprobs_size(); ++i) {
    *nll -= response.prompt_logprobs(i).chosen().logprob();
  }
  return grpc::Status::OK;
}

// Scores every window, `concurrency` at once. The sum is taken in the windows' order, so
// that it does not depend on which one ended first.
grpc::Status ScoreWindows(Client* client, const std::vector<Window>& windows, int32_t concurrency,
                          const CallOptions& call_options, double* nll) {
  std::vector<double> scores(windows.size());
  std::atomic<size_t> next{0};
  std::mutex mutex;
  grpc::Status first_failure;  // guarded by mutex
  const auto work = [&] {
    for (size_t i; (i = next.fetch_add(1)) < windows.size();) {
      const auto status = ScoreWindow(client, windows[i], call_options, &scores[i]);
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (first_failure.ok()) first_failure = status;
      next = windows.size();
    }
  };
  const size_t count = std::min<size_t>(std::max(concurrency, 1), windows.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  for (const double score : scores) *nll += score;
  return first_failure;
}

}  // namespace

double PerplexityResult::Perplexity() const {
  return scored_tokens > 0 ? std::exp(nll / scored_tokens) : 0;
}

double PerplexityResult::BitsPerByte() const {
  return bytes > 0 ? nll / std::numbers::ln2 / bytes : 0;
}

grpc::Status MeasurePerplexity(Client* client, std::span<const std::string> documents,
                               const PerplexityOptions& options, const CallOptions& call_options,
                               PerplexityResult* result) {
  v1::GetModelInfoResponse info;
  if (auto status = client->GetModelInfo(call_options, &info); !status.ok()) return status;
  int32_t window_tokens = options.window_tokens;
  if (auto status = ResolveWindow(info, &window_tokens); !status.ok()) return status;

  *result = {};
  std::vector<Window> windows;
  for (const std::string& document : documents) {
    v1::TokenizeRequest request;
    request.set_text(document);
    v1::TokenizeResponse tokens;
    if (auto status = client->Tokenize(request, call_options, &tokens); !status.ok()) {
      return status;
    }
    std::vector<int32_t> ids(tokens.token_ids().begin(), tokens.token_ids().end());
    if (options.score_end && info.eos_token_ids_size() > 0) ids.push_back(info.eos_token_ids(0));
    AppendWindows(ids, window_tokens, &windows);
    result->bytes += static_cast<int64_t>(document.size());
    ++result->documents;
    result->scored_tokens += std::max<int64_t>(static_cast<int64_t>(ids.size()) - 1, 0);
  }
  result->windows = static_cast<int64_t>(windows.size());
  return ScoreWindows(client, windows, options.concurrency, call_options, &result->nll);
}

std::vector<std::string> SplitDocuments(const std::string& text, const std::string& separator) {
  std::vector<std::string> documents;
  size_t start = 0;
  while (start <= text.size()) {
    size_t end = separator.empty() ? std::string::npos : text.find(separator, start);
    if (end == std::string::npos) end = text.size();
    std::string document = text.substr(start, end - start);
    if (document.find_first_not_of(" \t\r\n") != std::string::npos) {
      documents.push_back(std::move(document));
    }
    start = end + std::max<size_t>(separator.size(), 1);
  }
  return documents;
}

}  // namespace parallax::client
