// RequestStore: the one place of everything the coordinator knows of a request beside the core's
// decisions: the Request, whose it is, what its samples have said so far, who reads that and how
// far, how long what took, its end. A live request stands at the slot that SchedulerCore gave it
// (Accept, Emit and Finish name it), so nothing is looked up for a token. An ended one leaves its
// slot to the next and stays readable for a while, bounded by age, count and bytes; there it is
// found by its client's name for it.
//
// Answers are read through cursors: a slow client costs nothing but what the answer itself takes,
// and one that comes back (Resume) reads again from any token. A prompt's ids exist once, in the
// Request; an api::Accepted is made when it is sent. Pure: time is passed in. Owner: the
// coordinator's main thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/api.h"
#include "base/ids.h"
#include "base/messages.h"
#include "base/payload.h"
#include "base/result.h"
#include "base/time.h"

namespace tailor::coordinator {

struct RequestStoreOptions {
  Duration keep = seconds(60);          ///< an ended request stays readable for so long,
  size_t max_ended = 10'000;            ///< at most so many of them,
  size_t max_ended_bytes = 256u << 20;  ///< with at most so many bytes; the oldest go first
};

/// How far somebody has read each sample. Most answers have one: its place stands here itself.
class StreamCursor {
 public:
  struct Place {
    uint32_t token = 0;
    uint64_t text = 0;
  };
  Place place(size_t sample) const {
    if (sample == 0) return first_;
    return others_ && sample <= others_->size() ? (*others_)[sample - 1] : Place{};
  }
  Place& place(size_t sample) {
    if (sample == 0) return first_;
    if (!others_) others_ = std::make_unique<std::vector<Place>>();
    if (sample > others_->size()) others_->resize(sample);
    return (*others_)[sample - 1];
  }

 private:
  Place first_;
  std::unique_ptr<std::vector<Place>> others_;
};

class StoredRequest : public std::enable_shared_from_this<StoredRequest> {
 public:
  // ---- constant ----
  const RequestId id;
  const std::shared_ptr<const Request> request;
  /// Its client's for it.
  std::string_view name() const { return std::string_view(words_).substr(0, name_bytes_); }
  /// Proves whose it is.
  std::string_view token() const { return std::string_view(words_).substr(name_bytes_); }

  // ---- the loop's and its doors' ----
  ClientId owner;         ///< may ask again without its token
  bool detached = false;  ///< stays when its client goes silent
  bool broken = false;    ///< its text did not join: it is about to fail
  /// Of the prompt, found in a prefix cache when it was first computed; nothing until then.
  std::optional<uint32_t> cached_tokens;
  api::Timings timings;

  // ---- ClientSessions' ----
  /// The one client to whom the answer is sent.
  struct Reader {
    static constexpr uint32_t kNobody = UINT32_MAX;
    uint32_t client = kNobody;  ///< its place among the sessions
    uint32_t place = 0;         ///< of this request in its list
    uint32_t change = 0;        ///< its number among its client's changes, where it is one
    bool changed = false;       ///< there is something new that has not been sent
    StreamCursor cursor;
  };
  Reader reader;

  // ---- the answer so far ----
  bool ended() const { return end_ != nullptr; }
  const api::Finished& finished() const { return *end_; }  ///< once it has ended
  api::Accepted accepted() const;
  uint32_t num_samples() const { return static_cast<uint32_t>(request->sampling.n); }
  uint32_t num_tokens(uint32_t sample) const {
    return sample < samples_.size() ? static_cast<uint32_t>(samples_[sample].tokens.size()) : 0;
  }
  /// [samples]: the tokens so far, for a dispatch that continues behind them; empty: none yet.
  std::vector<std::vector<TokenId>> generated() const;

  /// A cursor from which reading gives token `from_token[s]` of each sample first, and the text
  /// that belongs to it (possibly a little more in front: clients drop repeats by text offset).
  /// Missing samples begin at 0; tokens beyond the end are cut to it.
  StreamCursor cursor(const std::vector<uint32_t>& from_token) const;
  /// Appends what lies behind `cursor` as chunks, about `max_bytes` at most, and moves the cursor.
  /// Returns the bytes taken.
  size_t read(StreamCursor& cursor, size_t max_bytes, std::vector<api::ServerEvent>& out) const;
  /// Nothing lies behind `cursor` now.
  bool read_up(const StreamCursor& cursor) const;

 private:
  friend class RequestStore;
  struct Sample {
    std::vector<TokenId> tokens;
    std::string text;
    std::vector<LogprobEntry> logprobs;  // empty, or one per token
    /// Where each report began: a token index and the text offset that goes with it.
    std::vector<StreamCursor::Place> marks;
    std::unique_ptr<SequenceEnd> said;  // at its end, when there was something to say
    FinishReason finish = FinishReason::kNone;
  };
  StoredRequest(std::shared_ptr<const Request> request, const std::string& name,
                const std::string& token)
      : id(request->id),
        request(std::move(request)),
        words_(name + token),
        name_bytes_(static_cast<uint32_t>(name.size())) {}

  const std::string words_;  // name and token, in one piece of memory
  const uint32_t name_bytes_;

  std::vector<Sample> samples_;               // empty before the first token
  std::unique_ptr<const api::Finished> end_;  // null: live
  size_t bytes_ = 0;
};

/// What an answer may come to hold here, about: its tokens, their text (8 bytes each), and what is
/// asked of their probabilities.
uint64_t most_answer_bytes(const SamplingParams& sampling);

class RequestStore {
 public:
  using Forgotten = std::vector<std::shared_ptr<StoredRequest>>;

  explicit RequestStore(const RequestStoreOptions& options) : options_(options) {}

  struct Opening {
    std::shared_ptr<const Request> request;
    std::string name, token;
    ClientId owner;
    bool detached = false;
  };
  /// A new live request at `slot`, which is free. Its name is not in use.
  StoredRequest& open(uint32_t slot, Opening opening);
  /// The live request at `slot`.
  StoredRequest& live(uint32_t slot) const;

  /// Takes a report's entry, without its first `skip` tokens (already here) and without text
  /// already here; its logprobs are moved from. Errors: DataLoss (its text does not join what is
  /// here); nothing is stored then.
  Result<void> append(StoredRequest& request, const SequenceProgress& progress,
                      const ProgressParts& parts, uint32_t skip);

  /// The end of the live request at `slot`, whose timings are complete. `reason` and `error` are
  /// for samples that have not ended by themselves. Whatever has to be forgotten to make room for
  /// it and is still being read: its reader is to be told.
  [[nodiscard]] Forgotten end(uint32_t slot, FinishReason reason, Error error, Time now);
  /// Forgets ended requests that are too old; those still being read as above.
  [[nodiscard]] Forgotten expire(Time now);

  /// The request of a client's name for it, live or ended; null when none is known (any more).
  StoredRequest* find(std::string_view name) const;

  size_t size() const { return requests_.size(); }
  size_t live_count() const { return requests_.size() - ended_.size(); }
  size_t ended_count() const { return ended_.size(); }
  size_t bytes() const { return live_bytes_ + ended_bytes_; }
  size_t live_bytes() const { return live_bytes_; }  ///< of requests that have not ended

  /// Aborts when the books are wrong. Cost: O(everything).
  void check_integrity() const;

 private:
  using Owner = std::shared_ptr<StoredRequest>;
  struct ByName {
    using is_transparent = void;
    static std::string_view name(const Owner& one) { return one->name(); }
    static std::string_view name(std::string_view name) { return name; }
    size_t operator()(const auto& one) const { return std::hash<std::string_view>()(name(one)); }
    bool operator()(const auto& a, const auto& b) const { return name(a) == name(b); }
  };
  struct Ended {
    Time at;
    StoredRequest* request;
  };
  void forget_oldest(Forgotten& still_read);

  const RequestStoreOptions options_;
  std::unordered_set<Owner, ByName, ByName> requests_;
  std::vector<StoredRequest*> live_;  // by the core's slot; null: free
  std::deque<Ended> ended_;           // oldest first
  size_t live_bytes_ = 0, ended_bytes_ = 0;
};

}  // namespace tailor::coordinator
