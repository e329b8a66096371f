#include "coordinator/tokenizer_pool.h"

#include <malloc.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "base/bytes_held.h"
#include "base/check.h"
#include "base/clock.h"

namespace tailor::coordinator {
namespace {

constexpr uint32_t kLeastThreads = 2;
// A prompt so large leaves hundreds of megabytes of small free pieces in this thread's part of the
// heap, which nobody else would use: they go back to the system.
constexpr size_t kGiveBackAboveBytes = 256u << 10;

/// Past its deadline nobody waits for it.
bool is_late(const TokenizeJob& job) {
  return job.submit.deadline && now() - job.arrival >= *job.submit.deadline;
}

}  // namespace

TokenizerPool::TokenizerPool(PromptText text, uint32_t max_context, uint32_t threads,
                             const TokenizerLimits& limits)
    : text_(with_longest_token(std::move(text))),
      limits_(limits),
      num_threads_(std::max(threads, kLeastThreads)),
      max_context_(max_context),
      given_(2 * num_threads_),
      results_(limits.max_jobs) {
  for (size_t i = 0; i < num_threads_; ++i) threads_.emplace_back([this] { run(); });
}

TokenizerPool::~TokenizerPool() {
  stopping_.store(true, std::memory_order_relaxed);
  given_.close();
  for (auto& thread : threads_) thread.join();
}

// ---- the main thread's side ----

bool TokenizerPool::submit(TokenizeJob&& job) {
  const size_t bytes = api::bytes_held(job.submit);
  const ClientId client = job.client;
  const auto known = lines_.find(client);
  const size_t own_jobs = known == lines_.end() ? 0 : known->second.jobs;
  const size_t own_bytes = known == lines_.end() ? 0 : known->second.bytes_held;
  const bool room = jobs_ < limits_.max_jobs && (jobs_ == 0 || bytes_ + bytes <= limits_.max_bytes);
  const bool own_room = own_jobs == 0 || (own_jobs < limits_.max_jobs / 2 &&
                                          own_bytes + bytes <= limits_.max_bytes / 2);
  if (!room || !own_room) return false;
  Line& line = lines_[client];
  line.waiting.push_back({std::move(job), bytes});
  ++line.jobs, ++jobs_;
  line.bytes_held += bytes, bytes_ += bytes;
  if (line.waiting.size() == 1 && !line.given) {
    turns_.push_back(client);
    hand_on();
  }
  return true;
}

bool TokenizerPool::withdraw(ClientId client, const std::string& request_id) {
  const auto line = lines_.find(client);
  if (line == lines_.end()) return false;
  auto& waiting = line->second.waiting;
  const auto found = std::find_if(waiting.begin(), waiting.end(), [&](const Job& job) {
    return job.job.submit.request_id == request_id;
  });
  if (found == waiting.end()) return false;
  const size_t bytes = found->bytes;
  waiting.erase(found);
  if (waiting.empty()) std::erase(turns_, client);
  leave(line->second, bytes);
  if (line->second.jobs == 0) lines_.erase(line);
  return true;
}

std::deque<TokenizeResult> TokenizerPool::take_results() {
  auto results = results_.drain();
  for (const TokenizeResult& result : results) {
    const auto line = lines_.find(result.client);
    TAILOR_CHECK(line != lines_.end() && line->second.given, "a result has its client's line");
    leave(line->second, result.bytes);
    if (!result.last) continue;
    --(result.bytes > kBatchBytes ? large_given_ : short_given_);
    line->second.given = false;
    if (line->second.jobs == 0)
      lines_.erase(line);
    else
      turns_.push_back(result.client);
  }
  hand_on();
  return results;
}

void TokenizerPool::leave(Line& line, size_t bytes) {
  --line.jobs, --jobs_;
  line.bytes_held -= bytes, bytes_ -= bytes;
}

/// Gives each client's next batch, in turn, where a thread is meant for it. Cost: O(clients in
/// line).
void TokenizerPool::hand_on() {
  const size_t most_short = num_threads_, most_large = num_threads_ - 1;
  for (size_t left = turns_.size();
       left > 0 && (short_given_ < most_short || large_given_ < most_large); --left) {
    const ClientId client = turns_.front();
    turns_.pop_front();
    Line& line = lines_.at(client);
    const bool large = line.waiting.front().bytes > kBatchBytes;
    if (large ? large_given_ == most_large : short_given_ == most_short) {
      turns_.push_back(client);  // its turn comes again, the others keep their order
      continue;
    }
    ++(large ? large_given_ : short_given_);
    line.given = true;
    Batch batch;
    size_t bytes = 0;
    do {
      bytes += line.waiting.front().bytes;
      batch.push_back(std::move(line.waiting.front()));
      line.waiting.pop_front();
    } while (!line.waiting.empty() && bytes + line.waiting.front().bytes <= kBatchBytes);
    given_.push_always(std::move(batch));  // bounded by the counts above
  }
}

// ---- the threads' side ----

void TokenizerPool::run() noexcept {
  while (!stopping_.load(std::memory_order_relaxed)) {
    auto batch = given_.pop_wait(std::chrono::hours(1));
    if (!batch && given_.closed()) return;
    if (!batch) continue;
    for (Job& job : *batch)
      if (!stopping_.load(std::memory_order_relaxed)) tokenize(job, &job == &batch->back());
  }
}

void TokenizerPool::tokenize(Job& given, bool last) {
  TokenizeJob& job = given.job;
  TokenizeResult result{job.client,  {},  job.arrival, fail(ErrorCode::kInternal, "not tokenized"),
                        given.bytes, last};
  try {
    if (is_late(job))
      result.prepared =
          fail(ErrorCode::kDeadlineExceeded, "the deadline passed before the prompt was tokenized");
    else
      result.prepared = prepare_prompt(text_, max_context(), job.submit);
  } catch (
      const std::exception& e) {  // std::bad_alloc above all; the request fails, the thread goes on
    result.prepared = fail(ErrorCode::kInternal, std::string("tokenizing failed: ") + e.what());
  }
  job.submit.prompt = std::string();
  if (given.bytes > kGiveBackAboveBytes) malloc_trim(0);
  result.submit = std::move(job.submit);
  results_.push_always(std::move(result));  // bounded by the jobs that were given
}

}  // namespace tailor::coordinator
