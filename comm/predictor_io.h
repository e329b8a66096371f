// The predictor's io thread: a DEALER to the coordinator's control socket. It says PredictorHello
// when its connection comes up and each second again (its sign of life), hands questions to the
// main thread and sends the answers. A coordinator that is silent or restarted is connected to
// again for as long as this process lives; answers to the old one are dropped with the connection.
#pragma once

#include <memory>
#include <string>

#include "base/mailbox.h"
#include "base/messages.h"
#include "base/result.h"
#include "comm/link_key.h"

namespace tailor::comm {

struct PredictorIoOptions {
  std::string control_endpoint;  ///< the coordinator's
  LinkKey link_key;              ///< of the control link
  PredictorHello hello;
  /// Questions that may wait for main; more are dropped (counted): they would be late anyway.
  size_t inbox_capacity = 8192, inbox_bytes = 64u << 20;
  Duration hello_every = seconds(1);
};

class PredictorIo {
 public:
  /// Starts the thread. Errors: Unavailable, InvalidArgument (the endpoint).
  static Result<std::unique_ptr<PredictorIo>> start(const PredictorIoOptions& options);
  virtual ~PredictorIo() = default;  ///< stops, joins; answers not sent yet are dropped

  virtual Mailbox<Predict>& inbox() = 0;
  /// Any thread; never blocks. Bounded: one answer per question.
  virtual void answer(Predicted predicted) = 0;
  virtual uint64_t dropped() const = 0;  ///< questions that found the inbox full
};

}  // namespace tailor::comm
