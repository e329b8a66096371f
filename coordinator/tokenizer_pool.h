// The coordinator's tokenizer threads: a prompt of megabytes must stall neither the io thread nor
// the main thread, nor another client's short one. What waits is kept by the main thread, a line
// for each client, and given to the threads in batches: the clients alternate, one batch of each at
// a time (so a client's prompts stay in order), a large prompt or kBatchBytes of short ones; large
// ones leave a thread to the short ones. Batches go to the threads by one mailbox, results come
// back by another; between them nothing is shared but the immutable PromptText. Owner, but for what
// is said otherwise: the main thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
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
  size_t bytes = 0;   ///< of the job
  bool last = false;  ///< of its batch
};

struct TokenizerLimits {
  size_t max_jobs = 4096;         ///< whose results have not been taken, of all clients together,
  size_t max_bytes = 256u << 20;  ///< and the memory that they hold; one client may have half of it
};

class TokenizerPool {
 public:
  /// Starts `threads` threads, at least two: one is never given a large prompt.
  TokenizerPool(PromptText text, uint32_t max_context, uint32_t threads,
                const TokenizerLimits& limits);
  /// Drops what waits, joins.
  ~TokenizerPool();

  /// False when this client, or all together, have too much here: `job` is untouched.
  bool submit(TokenizeJob&& job);
  /// Takes a job back that no thread has been given; false when there is none such.
  bool withdraw(ClientId client, const std::string& request_id);
  /// What is done, in the order in which it was done; never more than was submitted.
  std::deque<TokenizeResult> take_results();
  /// Readable when there are results.
  int results_fd() const { return results_.fd(); }

  /// Prompt and answer together; follows the replicas that have joined. Any thread.
  void set_max_context(uint32_t tokens) { max_context_.store(tokens, std::memory_order_relaxed); }
  uint32_t max_context() const { return max_context_.load(std::memory_order_relaxed); }
  size_t jobs() const { return jobs_; }    ///< submitted, their results not taken
  size_t bytes() const { return bytes_; }  ///< held by them

  /// A prompt above it is large; short ones are given together up to it.
  static constexpr size_t kBatchBytes = 16u << 10;

 private:
  struct Job {
    TokenizeJob job;
    size_t bytes = 0;
  };
  using Batch = std::vector<Job>;
  struct Line {
    std::deque<Job> waiting;
    bool given = false;               // a batch of it is with the threads
    size_t jobs = 0, bytes_held = 0;  // waiting and given
  };
  void run() noexcept;
  void tokenize(Job& job, bool last);
  void hand_on();
  void leave(Line& line, size_t bytes);

  const PromptText text_;
  const TokenizerLimits limits_;
  const size_t num_threads_;
  std::map<ClientId, Line> lines_;
  std::deque<ClientId> turns_;  // those whose next batch may be given, the next one first
  size_t jobs_ = 0, bytes_ = 0;
  size_t large_given_ = 0, short_given_ = 0;  // batches

  // Shared.
  std::atomic<uint32_t> max_context_;
  std::atomic<bool> stopping_{false};
  Mailbox<Batch> given_;
  Mailbox<TokenizeResult> results_;
  std::vector<std::thread> threads_;
};

}  // namespace tailor::coordinator
