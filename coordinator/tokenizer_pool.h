// The coordinator's tokenizer threads: a 10 MB prompt must stall neither the io thread nor the main
// thread. Jobs come in by one bounded mailbox, results leave by another; between them nothing is
// shared but the immutable PromptText.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/ids.h"
#include "base/mailbox.h"
#include "base/time.h"
#include "coordinator/prompt_text.h"

namespace tailor::coordinator {

struct TokenizeJob {
  ClientId client;
  api::Submit submit;
  Time arrival;
};
struct TokenizeResult {
  ClientId client;
  api::Submit submit;  ///< its prompt has been taken out
  Time arrival;
  Result<PreparedPrompt> prepared;
};

class TokenizerPool {
 public:
  /// Starts `threads` threads. `max_jobs` bounds what waits.
  TokenizerPool(PromptText text, uint32_t max_context, uint32_t threads, size_t max_jobs);
  /// Drops what waits, joins.
  ~TokenizerPool();

  /// False when full: `job` is untouched. Main thread.
  bool submit(TokenizeJob&& job) { return jobs_.push(std::move(job)); }
  /// What is done, in the order in which it was done; never more than was submitted. Main thread.
  Mailbox<TokenizeResult>& results() { return results_; }

  /// Prompt and answer together; follows the replicas that have joined. Any thread.
  void set_max_context(uint32_t tokens) { max_context_.store(tokens, std::memory_order_relaxed); }
  uint32_t max_context() const { return max_context_.load(std::memory_order_relaxed); }
  size_t waiting() const { return jobs_.size(); }

 private:
  void run() noexcept;

  const PromptText text_;
  std::atomic<uint32_t> max_context_;
  std::atomic<bool> stopping_{false};
  Mailbox<TokenizeJob> jobs_;
  Mailbox<TokenizeResult> results_;
  std::vector<std::thread> threads_;
};

}  // namespace tailor::coordinator
