// ReportDraft: what ReplicaCore has to tell after a step: the report's numbers, the drawn ids, and
// which answers have been opened and closed. On its way out text is made of the ids
// (worker/answer_text.h), and that may find the end of an answer which the core cannot see: a stop
// string. ReportTrim cuts the draft there and drops what the core, which is ahead, draws until it
// has been told (StopFound) and closes the answer. Pure; owner: whoever sends the reports on (the
// leader's text thread). Without text no stop is found, and a draft is a report as it stands.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/messages.h"

namespace tailor::worker {

/// An answer is opened, or closed without a last token (cancelled, stopped, of another epoch).
struct AnswerChange {
  SequenceId sequence;
  Attempt attempt;
  std::shared_ptr<const Request> request;  ///< null = closed
  std::vector<TokenId> generated;          ///< opened behind these
  /// Other than kNone: it had ended with the last of `generated`; an entry of this draft says so.
  FinishReason ended = FinishReason::kNone;
};

/// Entries of report.progress and of payload.texts belong together; `texts` says how many
/// log-probabilities each has, `ends` why an entry failed. The changes come before the entries.
struct ReportDraft {
  Envelope envelope;
  std::vector<AnswerChange> changes;
  StepReport report;
  StepPayload payload;

  /// Empties what is gathered for a report; keeps the memory.
  void clear();
};

/// The answer has ended, behind a token that its text was made of: what ReplicaCore is told.
struct StopFound {
  SequenceId sequence;
  Attempt attempt;
};

class ReportTrim {
 public:
  /// A stop in a draft: the entry ends behind so many of its tokens.
  struct Stop {
    uint32_t entry = 0;
    uint32_t tokens = 0;
  };

  /// The tokens that an answer is opened behind hold a stop, which the core does not know: the next
  /// draft says so in an entry of its own, in front of the others.
  void stop_at_once(const AnswerChange& opened);
  /// Forgets answers that the draft closes, and drops the entries of those that have been stopped.
  /// Returns how many entries stop_at_once() has put in front. Cost: O(1) as long as none is.
  uint32_t drop_stopped(ReportDraft& draft);
  /// Cuts entries behind the `stops`, by entry, and ends them with kStop.
  void cut(ReportDraft& draft, std::span<const Stop> stops);

  /// What the core does not know yet, since the last call.
  std::vector<StopFound> take_stops() { return std::exchange(found_, {}); }
  /// Stopped answers that the core has not closed yet.
  size_t waiting() const { return stopped_.size(); }

 private:
  void stopped(const StopFound& stop);

  std::unordered_map<SequenceId, Attempt> stopped_;
  std::vector<StopFound> found_;
  std::vector<SequenceProgress> at_once_;
};

}  // namespace tailor::worker
