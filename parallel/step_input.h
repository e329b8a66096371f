// What one step of the engine computes, as the leader plans it and every rank replays it: query
// rows, their positions, and the block tables they attend to. Torch-free; travels between ranks as
// flat bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/request.h"
#include "base/result.h"

namespace tailor::parallel {

/// A run of consecutive tokens of one sequence: a piece of its prompt, or the one token of a decode
/// step.
struct Chunk {
  int32_t first_row = 0;  ///< into StepInput::token_ids
  int32_t num_rows = 0;
  int32_t first_position =
      0;  ///< of first_row: as many tokens of the sequence are in the KV pool already
  int32_t first_block = 0;  ///< into StepInput::block_ids: the table that covers positions 0..last
  int32_t num_blocks = 0;
  int32_t wants_logits = 0;  ///< 1 = the last row's logits are wanted
};

struct StepInput {
  uint64_t step = 0;
  std::vector<TokenId> token_ids;  ///< [num_rows]
  std::vector<Chunk> chunks;
  std::vector<int32_t> block_ids;

  int32_t num_rows() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_logits() const;  ///< chunks that want logits
  void clear();
};

/// What an engine can take in one step.
struct StepBounds {
  int32_t max_rows = 0;
  int32_t max_context = 0;
  int32_t num_blocks = 0;
  int64_t block_tokens = 0;
  int64_t vocab_size = 0;
};
/// Nothing a plan says may reach memory unchecked. `room` = logits the caller has room for;
/// `wants_logits` = this rank writes them. Errors: InvalidArgument.
Result<void> check(const StepInput& input, const StepBounds& bounds, bool wants_logits,
                   size_t room);

/// Flat bytes (little-endian, the host's own); `decode` checks every length and index.
/// Errors of decode: Protocol.
void encode(const StepInput& input, std::vector<std::byte>& out);
Result<void> decode(std::span<const std::byte> bytes, StepInput& out);

}  // namespace tailor::parallel
