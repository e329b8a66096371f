// PredictorLink: which connection the predictor speaks on, whether it lives, and which questions it
// has not answered. Its hello, said again each second, is its sign of life; but the thread that
// says it is not the one that predicts, so a question that finds no answer within `answer_within`
// is closed, and a predictor that has answered nothing since it was asked counts as mute: lost, but
// for one question at a time, until it answers. Nothing waits for it: when it is absent, silent,
// mute or too far behind (`max_open` questions), requests are simply not asked about and run by the
// population law. A predictor that comes (back) is asked about new requests only. Pure: time is
// passed in. Owner: the coordinator's main thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/ids.h"
#include "base/messages.h"
#include "base/time.h"
#include "comm/coordinator_io.h"

namespace tailor::coordinator {

struct PredictorLinkOptions {
  size_t max_open = 4096;                ///< questions; beyond, requests are not asked about
  Duration silent_after = seconds(4);    ///< four hellos missed: it is lost
  Duration answer_within = seconds(30);  ///< then a question is closed without an answer
};

struct PredictorCounters {
  uint64_t asked = 0;
  uint64_t answered = 0;
  uint64_t unasked = 0;  ///< requests while no predictor was there
  uint64_t dropped = 0;  ///< requests not asked about because max_open questions were open
  /// questions closed by their deadline, or taken along by a lost predictor
  uint64_t unanswered = 0;
  uint64_t strays = 0;  ///< answers nobody (any longer) waits for
  uint64_t losses = 0;
};

class PredictorLink {
 public:
  explicit PredictorLink(const PredictorLinkOptions& options) : options_(options) {}

  /// True when this is a new predictor (or one that was lost): what it says of itself is news.
  bool hello(comm::LinkId link, const PredictorHello& hello, Time now);
  /// Notes a question about `request` and says where to send it; nothing = not asked.
  std::optional<comm::LinkId> ask(RequestId request, Time now);
  /// False for an answer to no open question: it is to be ignored. Any answer ends muteness.
  bool answered(comm::LinkId link, RequestId request);
  /// The transport lost this connection. True when it was the predictor's.
  bool gone(comm::LinkId link);
  /// True when the predictor has just been found silent for too long; it counts as gone from then
  /// on.
  bool fell_silent(Time now);
  /// Closes the questions whose deadline has passed. True when the predictor has just been found
  /// mute.
  bool fell_mute(Time now);
  /// This process itself did not run for so long: nobody could be heard.
  void forgive(Duration pause);

  bool present() const { return link_.has_value() && !mute_; }
  size_t open() const { return open_.size(); }
  const PredictorCounters& counters() const { return counters_; }
  /// One line: "ready: NAME (ENCODER, HEAD, pid N)", "lost: ...", "none".
  std::string describe() const;

 private:
  void lose();

  const PredictorLinkOptions options_;
  std::optional<comm::LinkId> link_;
  PredictorHello hello_;
  bool ever_ = false;
  bool mute_ = false;
  Time heard_{};
  struct Question {
    Time asked;
    uint64_t answers_before = 0;
  };
  std::unordered_map<RequestId, Question> open_;
  uint64_t answers_ = 0;  // of all predictors so far, strays included
  PredictorCounters counters_;
};

}  // namespace tailor::coordinator
