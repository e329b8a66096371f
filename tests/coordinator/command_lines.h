// Commands of the core as short lines for tests: what a test compares and people read. They are the
// words in which version 2 of the event log was described, so that recordings of that time compare
// with today's core (old_log_test.cc).
#pragma once

#include <string>
#include <variant>

#include "coordinator/core_messages.h"

namespace tailor::coordinator {

class CommandLine {
 public:
  static std::string of(const CoreCommand& command) { return std::visit(CommandLine{}, command); }

  std::string operator()(const Accept& c) const { return "accept" + request(c.id); }
  std::string operator()(const Reject& c) const {
    return "reject" + request(c.id) + " retry_after_us=" + std::to_string(to_us(c.retry_after)) +
           " " + to_string(c.error);
  }
  std::string operator()(const ToReplica& c) const {
    const std::string at = " replica=" + std::to_string(c.envelope.replica.value) +
                           " epoch=" + std::to_string(c.envelope.epoch.value);
    if (std::holds_alternative<Welcome>(c.command)) return "welcome" + at;
    if (std::holds_alternative<Drain>(c.command)) return "drain" + at;
    if (std::holds_alternative<Shutdown>(c.command)) return "shutdown" + at;
    if (const auto* cancel = std::get_if<CancelRequest>(&c.command))
      return "cancel" + at + request(cancel->request) + attempt(cancel->attempt);
    const auto& dispatch = std::get<Dispatch>(c.command);
    return "dispatch" + at + request(dispatch.request) + attempt(dispatch.attempt);
  }
  std::string operator()(const Emit& c) const {
    return "emit index=" + std::to_string(c.entry) + " skip=" + std::to_string(c.skip);
  }
  std::string operator()(const Finish& c) const {
    return "finish" + request(c.id) + " reason=" + to_string(c.reason) +
           (c.error.code == ErrorCode::kOk ? std::string() : " " + to_string(c.error));
  }

 private:
  static std::string request(RequestId id) { return " request=" + std::to_string(id.value); }
  static std::string attempt(Attempt a) { return " attempt=" + std::to_string(a.value); }
};

}  // namespace tailor::coordinator
