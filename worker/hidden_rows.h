// HiddenRows: the rows of one step whose hidden states somebody wants, whose they are, and room for
// them. Reused from step to step: allocates once.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "parallel/engine.h"
#include "worker/batch_planner.h"

namespace tailor::worker {

class HiddenRows {
 public:
  /// At most `most` rows a step.
  HiddenRows(std::vector<int32_t> layers, int32_t most, int64_t hidden_size)
      : layers_(std::move(layers)),
        each_(layers_.size() * static_cast<size_t>(hidden_size)),
        values_(static_cast<size_t>(most) * each_) {
    if (layers_.empty()) return;
    rows_.reserve(static_cast<size_t>(most));
    indexes_.reserve(static_cast<size_t>(most));
  }

  void clear() {
    rows_.clear();
    indexes_.clear();
  }
  void add(int32_t row, SequenceIndex index) {
    rows_.push_back(row);
    indexes_.push_back(index);
  }
  parallel::HiddenTaps taps() {
    if (rows_.empty()) return {};
    return {rows_, layers_, std::span(values_).first(rows_.size() * each_)};
  }
  size_t size() const { return rows_.size(); }
  SequenceIndex index(size_t i) const { return indexes_[i]; }
  /// [layers, hidden_size]
  std::span<const float> values(size_t i) const {
    return std::span(values_).subspan(i * each_, each_);
  }
  std::span<const int32_t> layers() const { return layers_; }

 private:
  const std::vector<int32_t> layers_;
  const size_t each_;
  std::vector<int32_t> rows_;
  std::vector<SequenceIndex> indexes_;
  std::vector<float> values_;
};

}  // namespace tailor::worker
