// Which tensors a Llama model consists of, by Hugging Face name, and what GGUF calls and does to
// them. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weights/model_config.h"

namespace tailor::weights {

struct NeededTensor {
  std::string name;  ///< Hugging Face name
  std::string gguf_name;
  std::vector<int64_t> shape;
  /// Rows per head if GGUF stores them permuted, else 0. GGUF's llama files interleave the two
  /// halves of each q and k head (llama.cpp rotates neighbouring pairs, Hugging Face rotates
  /// halves).
  int64_t permuted_head_rows = 0;
};

/// All tensors of the model, sorted by name. A tied head is not among them.
std::vector<NeededTensor> needed_tensors(const ModelConfig& config);

/// Where row `row` of a q or k weight in Hugging Face's order lies in GGUF's.
inline int64_t gguf_row(int64_t row, int64_t head_rows) {
  const int64_t head = row / head_rows, inside = row % head_rows, half = head_rows / 2;
  return head * head_rows + 2 * (inside % half) + inside / half;
}

}  // namespace tailor::weights
