// What one step of the engine computes, as the leader plans it and every rank replays it: query
// rows, their positions, and the block tables they attend to. Torch-free; travels between ranks as
// flat bytes.
//
// A row may stand for a token that is not known yet: the one that a wanted row of the previous step
// draws (drawn_in_row). Engines that let steps be planned ahead put it in (parallel/engine.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/request.h"
#include "base/result.h"
#include "kv/block_moves.h"

namespace tailor::parallel {

/// A run of consecutive tokens of one sequence: a piece of its prompt, or the one token of a decode
/// step.
struct Chunk {
  int32_t first_row = 0;  ///< into StepInput::token_ids
  int32_t num_rows = 0;
  /// of first_row: as many tokens of the sequence are in the KV pool already
  int32_t first_position = 0;
  int32_t first_block = 0;  ///< into StepInput::block_ids: the table that covers positions 0..last
  int32_t num_blocks = 0;
  int32_t wants_logits = 0;  ///< 1 = the last row's logits are wanted
};

/// In place of a token id: the token that wanted row `row` of the previous step draws. Wanted rows
/// are counted in chunk order from 0.
constexpr TokenId drawn_in_row(int32_t row) { return -1 - row; }
/// The wanted row that such an id names.
constexpr int32_t drawing_row(TokenId id) { return -1 - id; }

struct StepInput {
  uint64_t step = 0;
  std::vector<TokenId> token_ids;  ///< [num_rows]; negative: drawn_in_row
  std::vector<Chunk> chunks;
  std::vector<int32_t> block_ids;
  /// Begun before the rows are computed, by the engine's owner (kv/block_store.h).
  std::vector<kv::BlockMove> moves;

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
  /// Wanted rows of the previous step whose tokens this one may name; 0 where the engine does not
  /// let steps be planned ahead.
  int32_t drawing_rows = 0;
};
/// Nothing a plan says may reach memory unchecked. Errors: InvalidArgument.
Result<void> check(const StepInput& input, const StepBounds& bounds);

/// Flat bytes (little-endian, the host's own); `decode` checks every length and index, and takes
/// drawn_in_row(0 .. drawing_rows - 1) as tokens. Errors of decode: Protocol.
void encode(const StepInput& input, std::vector<std::byte>& out);
Result<void> decode(std::span<const std::byte> bytes, StepInput& out, int32_t drawing_rows = 0);

}  // namespace tailor::parallel
