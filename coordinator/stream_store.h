// StreamStore: what every request has said so far, sample by sample: tokens, text, logprobs, its
// end. Clients read it through cursors, so a slow client costs nothing but what the answer itself
// takes, and one that comes back (Resume) reads again from any token. An ended request is kept for
// a while, bounded by age, count and bytes. Pure: time is passed in. Owner: the coordinator's main
// thread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/api.h"
#include "base/ids.h"
#include "base/messages.h"
#include "base/payload.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor::coordinator {

struct StreamStoreOptions {
  Duration keep = seconds(60);          ///< an ended request stays readable for so long,
  size_t max_ended = 10'000;            ///< at most so many of them,
  size_t max_ended_bytes = 256u << 20;  ///< with at most so many bytes; the oldest go first
};

/// How far a client has read each sample.
struct StreamCursor {
  struct Place {
    uint32_t token = 0;
    uint64_t text = 0;
  };
  std::vector<Place> samples;
};

class StreamStore {
 public:
  explicit StreamStore(const StreamStoreOptions& options) : options_(options) {}

  /// A new live stream of `samples` samples. `accepted` names it and is told again to whoever asks
  /// again; `owner` may do so without its token.
  void open(RequestId id, uint32_t samples, api::Accepted accepted, ClientId owner);

  /// Takes a report's entry, without its first `skip` tokens (already here) and without text
  /// already here; its logprobs are moved from. Errors: DataLoss (its text does not join what is
  /// here); nothing is stored then.
  Result<void> append(const SequenceProgress& progress, const ProgressParts& parts, uint32_t skip);

  /// The stream's end. `reason` and `error` are for samples that have not ended by themselves.
  void close(RequestId id, FinishReason reason, Error error, uint32_t prompt_tokens,
             const api::Timings& timings, Time now);

  bool contains(RequestId id) const { return streams_.count(id) > 0; }
  bool ended(RequestId id) const { return streams_.at(id).ended; }
  const api::Accepted& accepted(RequestId id) const { return streams_.at(id).accepted; }
  ClientId owner(RequestId id) const { return streams_.at(id).owner; }
  void set_owner(RequestId id, ClientId owner) { streams_.at(id).owner = owner; }
  /// After close().
  const api::Finished& finished(RequestId id) const { return streams_.at(id).finished; }
  /// The request of a client's name for it; RequestId{0} when none is known (any more).
  RequestId find(const std::string& request_id) const;
  /// [samples]: the tokens so far, for a dispatch that continues behind them.
  std::vector<std::vector<TokenId>> generated(RequestId id) const;
  uint32_t num_tokens(RequestId id, uint32_t sample) const {
    return static_cast<uint32_t>(streams_.at(id).samples.at(sample).tokens.size());
  }

  /// A cursor from which reading gives token `from_token[s]` of each sample first, and the text
  /// that belongs to it (possibly a little more in front: clients drop repeats by text offset).
  /// Missing samples begin at 0; tokens beyond the end are cut to it.
  StreamCursor cursor(RequestId id, const std::vector<uint32_t>& from_token) const;

  /// Appends what lies behind `cursor` as chunks, about `max_bytes` at most, and moves the cursor.
  /// Returns the bytes taken.
  size_t read(RequestId id, StreamCursor& cursor, size_t max_bytes,
              std::vector<api::ServerEvent>& out) const;
  /// Nothing lies behind `cursor` now.
  bool read_up(RequestId id, const StreamCursor& cursor) const;

  /// Forgets ended requests that are too old or too many.
  void expire(Time now);

  size_t size() const { return streams_.size(); }
  size_t ended_count() const { return ended_.size(); }
  size_t bytes() const { return live_bytes_ + ended_bytes_; }
  size_t live_bytes() const { return live_bytes_; }  ///< of streams that have not ended

  /// Aborts when the books are wrong. Cost: O(everything).
  void check_integrity() const;

 private:
  struct Sample {
    std::vector<TokenId> tokens;
    std::string text;
    std::vector<LogprobEntry> logprobs;  // empty, or one per token
    /// Where each report began: a token index and the text offset that goes with it.
    std::vector<StreamCursor::Place> marks;
    FinishReason finish = FinishReason::kNone;
    std::string stop_match;
    Error error{ErrorCode::kOk, {}};
  };
  struct Stream {
    api::Accepted accepted;
    ClientId owner;
    std::vector<Sample> samples;
    bool ended = false;
    api::Finished finished;
    size_t bytes = 0;
  };
  struct Ended {
    Time at;
    RequestId id;
  };
  void forget_oldest();

  const StreamStoreOptions options_;
  std::unordered_map<RequestId, Stream> streams_;
  std::unordered_map<std::string, RequestId> by_name_;
  std::deque<Ended> ended_;  // oldest first
  size_t live_bytes_ = 0, ended_bytes_ = 0;
};

}  // namespace tailor::coordinator
