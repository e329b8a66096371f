#include "coordinator/tokenizer_pool.h"

#include <exception>
#include <utility>

namespace tailor::coordinator {

TokenizerPool::TokenizerPool(PromptText text, uint32_t max_context, uint32_t threads,
                             size_t max_jobs)
    : text_(std::move(text)), max_context_(max_context), jobs_(max_jobs), results_(max_jobs) {
  for (uint32_t i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
}

TokenizerPool::~TokenizerPool() {
  stopping_.store(true, std::memory_order_relaxed);
  jobs_.close();
  for (auto& thread : threads_) thread.join();
}

void TokenizerPool::run() noexcept {
  while (!stopping_.load(std::memory_order_relaxed)) {
    auto job = jobs_.pop_wait(std::chrono::hours(1));
    if (!job) {
      if (jobs_.closed()) return;
      continue;
    }
    TokenizeResult result{
        job->client, {}, job->arrival, fail(ErrorCode::kInternal, "not tokenized")};
    try {
      result.prepared = prepare_prompt(text_, max_context(), job->submit);
    } catch (const std::exception&
                 e) {  // std::bad_alloc above all; the request fails, the thread goes on
      result.prepared = fail(ErrorCode::kInternal, std::string("tokenizing failed: ") + e.what());
    }
    job->submit.prompt = std::string();
    result.submit = std::move(job->submit);
    results_.push_always(
        std::move(result));  // bounded by the jobs that were let in and what main has not drained
  }
}

}  // namespace tailor::coordinator
