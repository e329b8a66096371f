// TextThread: the leader's text thread. Runs an AnswerText: the main thread sends it the draft of
// each step's report and goes on with the next step; reports leave from here, in order. One
// producer (main); bounded by the main thread, which starts no step while `backlog()` is above its
// limit.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <variant>

#include "base/mailbox.h"
#include "base/messages.h"
#include "base/watchdog.h"
#include "comm/codec_control.h"
#include "text/tokenizer.h"
#include "worker/answer_text.h"
#include "worker/report_draft.h"

namespace tailor::worker {

/// In order: FromReplica is passed on behind all reports before it.
using TextInput = std::variant<ReportDraft, FromReplica>;

class TextThread {
 public:
  /// `report` is called on the text thread, which also writes `progress` (null: nobody watches).
  TextThread(std::shared_ptr<const text::Tokenizer> tokenizer,
             std::function<void(comm::ReportFrame)> report, Progress* progress);
  ~TextThread();  ///< handles what was sent, then joins

  void send(TextInput input) { inbox_.push_always(std::move(input)); }
  size_t backlog() const { return inbox_.size(); }
  /// Sequences to end, for the main thread to drain before each step.
  Mailbox<StopFound>& stops() { return stops_; }

 private:
  void run();
  void handle(TextInput& input);

  const std::function<void(comm::ReportFrame)> report_;
  Progress unwatched_;
  Progress& progress_;
  AnswerText answers_;  // the text thread's
  Mailbox<TextInput> inbox_;
  Mailbox<StopFound> stops_;  // at most one for each open sequence
  std::thread thread_;        // last: starts when all else is there
};

}  // namespace tailor::worker
