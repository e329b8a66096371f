// Commands of the core as short lines for tests: what a test compares and people read. They are the
// words in which version 2 of the event log was described, so that recordings of that time compare
// with today's core (old_log_test.cc): a table says which message and which of its fields each word
// means today.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "base/describe.h"
#include "coordinator/core_messages.h"

namespace tailor::coordinator {

/// The verb of a message, and the names of its fields in the line and in base/fields.h. A field
/// without a name in the line stands bare, and only when it says something.
struct CommandWord {
  struct Name {
    std::string line, field;
  };
  std::string message, verb;
  std::vector<Name> names;
};

inline const std::vector<CommandWord>& command_words() {
  // clang-format off
  static const std::vector<CommandWord> words = {
      {"Accept", "accept", {{"request", "id"}}},
      {"Reject", "reject", {{"request", "id"}, {"retry_after_us", "retry_after"}, {"", "error"}}},
      {"Welcome", "welcome", {{"replica", "replica"}, {"epoch", "epoch"}}},
      {"Dispatch", "dispatch", {{"replica", "replica"}, {"epoch", "epoch"}, {"request", "request"},
                                {"attempt", "attempt"}}},
      {"CancelRequest", "cancel", {{"replica", "replica"}, {"epoch", "epoch"},
                                   {"request", "request"}, {"attempt", "attempt"}}},
      {"Drain", "drain", {{"replica", "replica"}, {"epoch", "epoch"}}},
      {"Shutdown", "shutdown", {{"replica", "replica"}, {"epoch", "epoch"}}},
      {"Emit", "emit", {{"index", "entry"}, {"skip", "skip"}}},
      {"Finish", "finish", {{"request", "id"}, {"reason", "reason"}, {"", "error"}}},
  };
  // clang-format on
  return words;
}

class CommandLine {
 public:
  static std::string of(const CoreCommand& command) {
    CommandLine of;
    std::visit([&](const auto& message) { of.read(message); }, command);
    for (const CommandWord& word : command_words())
      if (word.message == of.message_) return of.line(word);
    throw std::runtime_error(of.message_ + " has no word");
  }

 private:
  std::string line(const CommandWord& word) const {
    std::string out = word.verb;
    for (const CommandWord::Name& name : word.names) {
      const std::string& value = fields_.at(name.field);
      if (!name.line.empty())
        out += " " + name.line + "=" + value;
      else if (!value.empty())
        out += " " + value;
    }
    return out;
  }
  void read(const ToReplica& to) {
    read(to.envelope);
    std::visit([this](const auto& message) { read(message); }, to.command);
  }
  template <Listed M>
  void read(const M& message) {
    message_ = Fields<M>::name;
    for_each_field(message, [this](const auto& field, const auto& value) {
      fields_[field.name] = text(value);
    });
  }
  static std::string text(const Error& error) {
    return error.code == ErrorCode::kOk ? "" : to_string(error);
  }
  static std::string text(Duration duration) { return std::to_string(to_us(duration)); }
  template <class T>
  static std::string text(const T& value) {
    return detail::text_of(value);
  }

  std::string message_;
  std::map<std::string, std::string> fields_;
};

}  // namespace tailor::coordinator
