// An entry of a report with what its payload holds of it, for tests that feed a StreamStore.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "coordinator/stream_store.h"

namespace tailor::coordinator {

struct ReportPiece {
  SequenceProgress progress;
  std::vector<TokenId> ids;
  uint64_t offset = 0;
  std::string text;
  std::vector<LogprobEntry> logprobs;
  SequenceEnd end;
};

inline ReportPiece report_piece(uint32_t sample, uint32_t first, std::vector<TokenId> ids,
                                uint64_t offset, std::string text) {
  ReportPiece piece;
  piece.progress.sample = sample;
  piece.progress.first_index = first;
  piece.progress.num_tokens = static_cast<uint32_t>(ids.size());
  piece.ids = std::move(ids);
  piece.offset = offset;
  piece.text = std::move(text);
  return piece;
}

inline Result<void> append(StreamStore& store, RequestId id, ReportPiece piece, uint32_t skip) {
  piece.progress.request = id;
  return store.append(piece.progress,
                      {piece.ids, piece.offset, piece.text, piece.logprobs, &piece.end}, skip);
}

}  // namespace tailor::coordinator
