// FeatureTable: what the trainer of a length head works on, in memory: one row of features for a
// prompt (or for a generated token), and the lengths that came of it. Rows keep the split that
// their prompt's id decides (predict/length_file.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "predict/length_file.h"

namespace tailor::predict {

struct FeatureRow {
  std::string id;  ///< of the prompt
  Split split = Split::kTrain;
  double limit = 0;               ///< tokens at which answers are cut
  std::vector<uint32_t> lengths;  ///< at least one; of a generated token: what was still to come
  std::vector<bool> censored;
};

struct FeatureTable {
  int width = 0;
  std::vector<float> features;  ///< [rows, width]
  std::vector<FeatureRow> rows;

  std::span<const float> of(size_t row) const {
    return std::span(features).subspan(row * static_cast<size_t>(width),
                                       static_cast<size_t>(width));
  }
  std::vector<size_t> rows_of(Split split) const {
    std::vector<size_t> out;
    for (size_t i = 0; i < rows.size(); ++i)
      if (rows[i].split == split) out.push_back(i);
    return out;
  }
};

}  // namespace tailor::predict
