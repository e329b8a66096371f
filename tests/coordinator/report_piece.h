// An entry of a report with what its payload holds of it, for tests that feed a RequestStore.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/request_store.h"

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

inline Result<void> append(RequestStore& store, StoredRequest& request, ReportPiece piece,
                           uint32_t skip) {
  piece.progress.request = request.id;
  return store.append(request, piece.progress,
                      {piece.ids, piece.offset, piece.text, piece.logprobs, &piece.end}, skip);
}

/// A live request "rID" at `slot`.
inline StoredRequest& open_request(RequestStore& store, uint64_t id, uint32_t slot,
                                   uint32_t samples = 1, ClientId owner = ClientId{1},
                                   bool detached = false, std::vector<TokenId> prompt = {1, 2}) {
  auto request = std::make_shared<Request>();
  request->id = RequestId{id};
  request->prompt = std::move(prompt);
  request->sampling.n = static_cast<int32_t>(samples);
  request->sampling.seed = 7;
  request->sampling.max_tokens = 64;
  return store.open(slot, {std::move(request), "r" + std::to_string(id), "", owner, detached});
}

}  // namespace tailor::coordinator
