#include "bench/load_run.h"

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/clock.h"
#include "predict/length_file.h"

namespace tailor::bench {

double RequestRow::time_per_output_token_s() const {
  return output_tokens > 1 ? (finished_s - first_token_s) / (output_tokens - 1) : 0;
}

double RequestRow::per_token_latency_s() const {
  return output_tokens > 0 ? finished_s / output_tokens : 0;
}

uint64_t LoadResult::output_tokens() const {
  uint64_t sum = 0;
  for (const auto& row : rows) sum += row.output_tokens;
  return sum;
}

namespace {

/// The run's book: which requests are open, and what has been seen of each.
class Run {
 public:
  Run(const std::vector<api::Submit>& requests, const LoadOptions& options) : options_(options) {
    result_.rows.resize(requests.size());
    sent_.resize(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      result_.rows[i].index = i;
      by_id_[requests[i].request_id] = i;
    }
  }

  void sent(size_t index) {
    sent_[index] = now();
    ++open_;
  }
  size_t open() const { return open_; }
  LoadResult take() { return std::move(result_); }

  Result<void> take_event(const api::ServerEvent& event) {
    if (const auto* chunk = std::get_if<api::TokenChunk>(&event)) {
      if (auto* row = find(chunk->request_id)) {
        if (row->first_token_s == 0) row->first_token_s = since_sent(row->index);
        hash_new_tokens(*row, *chunk);
        note(event, row->index);
      }
    } else if (const auto* accepted = std::get_if<api::Accepted>(&event)) {
      if (auto* row = find(accepted->request_id)) {
        row->prompt_tokens = static_cast<uint32_t>(accepted->prompt_token_ids.size());
        note(event, row->index);
      }
    } else if (const auto* finished = std::get_if<api::Finished>(&event)) {
      return end(finished->request_id, event, [&](RequestRow& row) {
        row.replica = finished->timings.replica;
        row.prompt_tokens = finished->prompt_tokens;
        row.queue_wait_s = to_seconds(finished->timings.dispatched);
        for (const auto& sample : finished->samples) {
          row.output_tokens += sample.completion_tokens;
          row.finish_reason = to_string(sample.reason);
        }
        if (finished->error.code != ErrorCode::kOk) row.error = to_string(finished->error);
      });
    } else if (const auto* rejected = std::get_if<api::Rejected>(&event)) {
      return end(rejected->request_id, event, [&](RequestRow& row) {
        row.finish_reason = "rejected";
        row.error = to_string(rejected->error);
      });
    }
    return {};
  }

 private:
  RequestRow* find(const std::string& id) {
    auto it = by_id_.find(id);
    return it == by_id_.end() ? nullptr : &result_.rows[it->second];
  }
  /// A chunk may repeat tokens that have been seen (docs/api.md): each place counts once.
  void hash_new_tokens(RequestRow& row, const api::TokenChunk& chunk) {
    uint32_t& next = next_token_[{row.index, chunk.sample}];
    for (size_t i = 0; i < chunk.token_ids.size(); ++i) {
      const auto place = chunk.first_index + static_cast<uint32_t>(i);
      if (place < next) continue;
      next = place + 1;
      const uint32_t token[] = {chunk.sample, place, static_cast<uint32_t>(chunk.token_ids[i])};
      row.tokens_hash +=  // a sum: samples may come in any order
          predict::id_hash({reinterpret_cast<const char*>(token), sizeof token});
    }
  }
  double since_sent(size_t index) const { return to_seconds(now() - sent_[index]); }
  void note(const api::ServerEvent& event, size_t index) {
    if (options_.on_event) options_.on_event(event, index);
  }

  template <class Fill>
  Result<void> end(const std::string& id, const api::ServerEvent& event, Fill fill) {
    RequestRow* row = find(id);
    if (row == nullptr || row->finished_s != 0)
      return fail(ErrorCode::kProtocol, "the server ended request '" + id + "', which is not open");
    row->finished_s = since_sent(row->index);
    fill(*row);
    note(event, row->index);
    --open_;
    return {};
  }

  const LoadOptions& options_;
  std::unordered_map<std::string, size_t> by_id_;
  std::map<std::pair<size_t, uint32_t>, uint32_t> next_token_;  // by request and sample
  std::vector<Time> sent_;
  size_t open_ = 0;
  LoadResult result_;
};

}  // namespace

Result<LoadResult> run_load(client::Client& client, const std::vector<api::Submit>& requests,
                            const LoadOptions& options) {
  Run run(requests, options);
  if (!options.arrivals.empty() && options.arrivals.size() != requests.size())
    return fail(ErrorCode::kInvalidArgument,
                "there are " + std::to_string(options.arrivals.size()) + " arrival times for " +
                    std::to_string(requests.size()) + " requests");
  const size_t limit = options.concurrency > 0 ? options.concurrency : requests.size();
  const Time start = now();
  Time last_event = start;
  size_t next = 0;
  /// Until the next request may be sent; nothing while all are sent or `concurrency` are open.
  const auto until_next = [&]() -> std::optional<Duration> {
    if (next == requests.size() || run.open() >= limit) return std::nullopt;
    if (options.arrivals.empty()) return Duration{};
    return start + options.arrivals[next] - now();
  };
  while (next < requests.size() || run.open() > 0) {
    std::optional<Duration> wait;
    while ((wait = until_next()) && *wait <= Duration{}) {
      run.sent(next);
      TAILOR_TRY(client.submit(requests[next]));
      ++next;
    }
    const Duration longest = seconds(1);
    TAILOR_ASSIGN(auto events, client.poll(wait ? std::min(*wait, longest) : longest));
    for (const auto& event : events) TAILOR_TRY(run.take_event(event));
    if (!events.empty() || run.open() == 0) last_event = now();
    if (now() - last_event > options.timeout)
      return fail(ErrorCode::kTimeout, "no event for " +
                                           std::to_string(to_seconds(options.timeout)) + " s; " +
                                           std::to_string(run.open()) + " of " +
                                           std::to_string(requests.size()) + " requests are open");
  }
  LoadResult result = run.take();
  result.wall_s = to_seconds(now() - start);
  return result;
}

}  // namespace tailor::bench
