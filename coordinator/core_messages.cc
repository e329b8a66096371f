#include "coordinator/core_messages.h"

#include <cstdio>

namespace tailor::coordinator {
namespace {

std::string str(uint64_t value) { return std::to_string(value); }
std::string at(ReplicaId replica, Epoch epoch) {
  return " replica=" + str(replica.value) + " epoch=" + str(epoch.value);
}
std::string req(RequestId id) { return " request=" + str(id.value); }
std::string us(Duration d) { return d == Duration::max() ? "none" : std::to_string(to_us(d)); }

struct CommandLine {
  std::string operator()(const AcceptCommand& c) const { return "accept" + req(c.id); }
  std::string operator()(const RejectCommand& c) const {
    return "reject" + req(c.id) + " retry_after_us=" + us(c.retry_after) + " " + to_string(c.error);
  }
  std::string operator()(const WelcomeCommand& c) const {
    return "welcome" + at(c.replica, c.epoch);
  }
  std::string operator()(const DispatchCommand& c) const {
    return "dispatch" + at(c.replica, c.epoch) + req(c.id) + " attempt=" + str(c.attempt.value);
  }
  std::string operator()(const CancelCommand& c) const {
    return "cancel" + at(c.replica, c.epoch) + req(c.id) + " attempt=" + str(c.attempt.value);
  }
  std::string operator()(const DrainCommand& c) const { return "drain" + at(c.replica, c.epoch); }
  std::string operator()(const ShutdownCommand& c) const {
    return "shutdown" + at(c.replica, c.epoch);
  }
  std::string operator()(const EmitCommand& c) const {
    return "emit index=" + str(c.index) + " skip=" + str(c.skip);
  }
  std::string operator()(const FinishCommand& c) const {
    return "finish" + req(c.id) + " reason=" + to_string(c.reason) +
           (c.error.code == ErrorCode::kOk ? std::string() : " " + to_string(c.error));
  }
};

struct EventLine {
  std::string operator()(const Arrived& e) const {
    return "arrived" + req(e.id) + " class=" + str(static_cast<uint64_t>(e.priority)) +
           " n=" + str(e.samples) + " prompt_tokens=" + str(e.prompt_tokens) +
           " max_tokens=" + str(e.max_tokens) + " deadline_us=" + us(e.deadline);
  }
  std::string operator()(const Abandoned& e) const {
    return "abandoned" + req(e.id) + " reason=" + to_string(e.reason) +
           " code=" + std::string(to_string(e.code));
  }
  std::string operator()(const ReplicaJoined& e) const {
    return "joined replica=" + str(e.replica.value) + " slots=" + str(e.slots) +
           " blocks=" + str(e.num_blocks);
  }
  std::string operator()(const ReplicaLost& e) const { return "lost" + at(e.replica, e.epoch); }
  std::string operator()(const DrainReplica& e) const {
    return "drain replica=" + str(e.replica.value);
  }
  std::string operator()(const ReplicaDrained& e) const {
    return "drained" + at(e.replica, e.epoch);
  }
  std::string operator()(const Reported& e) const {
    std::string line = "reported" + at(e.replica, e.epoch) +
                       " running=" + str(e.running_sequences) +
                       " free_blocks=" + str(e.free_blocks);
    for (const auto& p : e.progress) {
      line += " [" + str(p.sequence.request.value) + "." + str(p.sequence.sample) + "/" +
              str(p.attempt.value) + " " + str(p.first_index) + "+" + str(p.num_tokens);
      if (p.finish != FinishReason::kNone) line += std::string(" ") + to_string(p.finish);
      line += "]";
    }
    return line;
  }
  std::string operator()(const PredictedLaw& e) const {
    return "predicted" + req(e.id) + " law=" + describe(e.law);
  }
  std::string operator()(const ProbedLaw& e) const {
    return "probed" + at(e.replica, e.epoch) + req(e.id) + " attempt=" + str(e.attempt.value) +
           " sample=" + str(e.sample) + " generated=" + str(e.generated) +
           " law=" + describe(e.law);
  }
  std::string operator()(const PopulationLaw& e) const {
    return "population law=" + describe(e.law);
  }
  std::string operator()(const Tick&) const { return "tick"; }
  std::string operator()(const Stop&) const { return "stop"; }
};

}  // namespace

std::string describe(const CoreCommand& command) { return std::visit(CommandLine{}, command); }
std::string describe(const LengthLaw& law) {
  char text[96];
  switch (law.kind) {
    case LengthLaw::Kind::kLogT:
      std::snprintf(text, sizeof text, "log-t mu %.3f sigma %.3f nu %.1f",
                    static_cast<double>(law.mu), static_cast<double>(law.sigma),
                    static_cast<double>(law.nu));
      return text;
    case LengthLaw::Kind::kHistogram:
      std::snprintf(text, sizeof text, "histogram %.4g..%.4g", static_cast<double>(law.low),
                    static_cast<double>(law.high));
      return text;
    case LengthLaw::Kind::kNone:
      break;
  }
  return "none";
}
std::string describe(const CoreEvent& event) { return std::visit(EventLine{}, event); }

}  // namespace tailor::coordinator
