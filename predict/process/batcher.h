// PredictorBatcher: gathers questions until a batch is worth running: `max_batch` of them, or the
// oldest has waited `max_wait`, whichever comes first. What finds `capacity` questions waiting is
// dropped and counted. Pure: time is passed in. Owner: the predictor's main thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "base/messages.h"
#include "base/time.h"

namespace tailor::predict {

class PredictorBatcher {
 public:
  struct Options {
    size_t max_batch = 32;
    Duration max_wait = milliseconds(3);
    size_t capacity = 4096;
  };
  explicit PredictorBatcher(const Options& options) : options_(options) {}

  void add(Predict question, Time now) {
    if (waiting_.size() >= options_.capacity) {
      ++dropped_;
      return;
    }
    waiting_.emplace_back(std::move(question), now);
  }
  /// When the next batch is due: in the past = now; Time::max() when nothing waits.
  Time due() const {
    if (waiting_.empty()) return Time::max();
    return waiting_.size() >= options_.max_batch ? Time{}
                                                 : waiting_.front().second + options_.max_wait;
  }
  /// The oldest questions, at most max_batch; empty when none is due.
  std::vector<Predict> take(Time now) {
    std::vector<Predict> batch;
    if (due() > now) return batch;
    const size_t count = std::min(waiting_.size(), options_.max_batch);
    batch.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      batch.push_back(std::move(waiting_.front().first));
      waiting_.pop_front();
    }
    return batch;
  }
  size_t waiting() const { return waiting_.size(); }
  uint64_t dropped() const { return dropped_; }

 private:
  const Options options_;
  std::deque<std::pair<Predict, Time>> waiting_;
  uint64_t dropped_ = 0;
};

}  // namespace tailor::predict
