// AnswerText: from drawn tokens to reports. Keeps a text::StreamText per open sequence, finds stop
// strings, and fills StepReport::progress. A plain state machine without a thread:
// worker/text_thread.h runs it beside the leader's main thread, tests run it directly.
//
// A stop string may be found while the main thread has already drawn further tokens: those are
// dropped here, before they are reported, and the main thread is told (StopFound) to end the
// sequence; its CloseAnswer lets us forget it. Tokens and text of an answer are a pure function of
// (request, ids): a resumed sequence is fed its earlier tokens first, which are not reported again.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "text/stream_text.h"
#include "text/tokenizer.h"

namespace tailor::worker {

/// A sequence begins (or is resumed behind `generated`). `ended` other than kNone: it ends right
/// there, and the only report of it says so.
struct OpenAnswer {
  SequenceId sequence;
  Attempt attempt;
  std::shared_ptr<const Request> request;  ///< shared, immutable
  std::vector<TokenId> generated;
  FinishReason ended = FinishReason::kNone;
  Error error;  ///< when ended == kFailed
};

/// The main thread has ended the sequence without a last token: cancelled, or after StopFound.
/// Nothing is reported.
struct CloseAnswer {
  SequenceId sequence;
  Attempt attempt;
};

/// One drawn token, or (`token` < 0) an end without one.
struct AnswerToken {
  SequenceId sequence;
  Attempt attempt;
  uint32_t index = 0;  ///< in the answer
  TokenId token = -1;
  bool has_logprobs = false;
  LogprobEntry logprobs;
  FinishReason finish =
      FinishReason::kNone;  ///< as the main thread sees it: stop strings are found here
  Error error;              ///< when finish == kFailed
};

/// What a step drew; `report` is complete but for `progress`.
struct StepOutput {
  StepReport report;
  std::vector<AnswerToken> tokens;
};
struct TextReport {
  StepReport report;
  StepPayload payload;
};

struct StopFound {
  SequenceId sequence;
  Attempt attempt;
};

class AnswerText {
 public:
  /// `tokenizer` null: answers are token ids without text, and stop strings are never found.
  explicit AnswerText(std::shared_ptr<const text::Tokenizer> tokenizer);

  void open(OpenAnswer open);
  void close(const CloseAnswer& close);
  /// The report of this step. Sequences that ended while being opened ride on it too.
  TextReport step(StepOutput output);
  /// Stops found since the last call.
  std::vector<StopFound> take_stops() { return std::exchange(stops_, {}); }

  size_t open_answers() const { return answers_.size(); }

 private:
  struct Answer {
    Attempt attempt;
    std::shared_ptr<const Request> request;
    std::unique_ptr<text::StreamText> text;  // null without a tokenizer
    bool stopped = false;                    // waits for CloseAnswer
  };
  /// An entry of a report and what its payload holds of it.
  struct Entry {
    SequenceProgress progress;
    TokenId token = -1;  // when progress.num_tokens == 1
    uint64_t text_offset = 0;
    std::string text;
    std::vector<LogprobEntry> logprobs;
    SequenceEnd end;
  };
  void take_token(Answer& answer, const AnswerToken& token, Entry& entry);
  void flush(Answer& answer, Entry& entry);
  static void add(Entry& entry, text::StreamText::Piece&& piece);
  static void append(Entry&& entry, TextReport& out);
  std::string token_name(TokenId id) const;

  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::unordered_map<SequenceId, Answer> answers_;
  std::vector<Entry> pending_;  // of opened sequences that ended at once
  std::vector<StopFound> stops_;
};

}  // namespace tailor::worker
