// AnswerText: from drafts (worker/report_draft.h) to reports. Keeps a text::StreamText per open
// answer, makes text of the drawn ids and finds stop strings; where one is found, ReportTrim cuts
// the draft. A plain state machine without a thread: worker/text_thread.h runs it beside the
// leader's main thread, OfflineRun and tests run it directly. Text is a pure function of (request,
// ids): an answer that goes on elsewhere is fed its earlier tokens first, which are not reported
// again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "text/stream_text.h"
#include "text/tokenizer.h"
#include "worker/report_draft.h"

namespace tailor::worker {

class AnswerText {
 public:
  /// `tokenizer` null: answers are token ids without text, and stop strings are never found.
  explicit AnswerText(std::shared_ptr<const text::Tokenizer> tokenizer);

  /// Makes `draft` what is reported: adds the text and what people are told of an end, and cuts
  /// behind stops. Drafts come in the order in which ReplicaCore made them, all of them.
  void complete(ReportDraft& draft);
  /// For ReplicaCore: stops found since the last call.
  std::vector<StopFound> take_stops() { return trim_.take_stops(); }

  size_t open_answers() const { return answers_.size(); }

 private:
  struct Answer {
    Attempt attempt;
    std::shared_ptr<const Request> request;
    std::unique_ptr<text::StreamText> text;  // null without a tokenizer
    std::string stop_match;                  // stopped within the tokens it was opened behind
    TokenId last = -1;                       // of these
    bool stopped = false;
  };
  /// What an answer's tokens have given to its entry so far.
  struct Piece {
    ProgressText& text;
    std::string& out;
    size_t begin;
    void append(const text::StreamText::Piece& piece);
  };

  void follow(const AnswerChange& change);
  void open(const AnswerChange& change);
  void tell_stops_at_once(ReportDraft& draft, uint32_t count);
  uint32_t take_entry(Answer& answer, const SequenceProgress& entry, const TokenId* ids,
                      Piece& piece, std::string& stop_match);
  std::string token_name(TokenId id) const;

  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::unordered_map<SequenceId, Answer> answers_;
  ReportTrim trim_;
  std::vector<Answer> at_once_;  // stopped while they were opened
  std::vector<ReportTrim::Stop> found_;
};

}  // namespace tailor::worker
