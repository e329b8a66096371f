#include "coordinator/operator_door.h"

#include <unistd.h>

#include <optional>
#include <string_view>

#include "base/describe.h"
#include "base/log.h"
#include "base/numbers.h"

namespace tailor::coordinator {
namespace {

constexpr size_t kMaxLineBytes = 64;
constexpr std::string_view kDrain = "drain ";
constexpr std::string_view kLast = " last";
constexpr Duration kComplainEvery = seconds(1);

}  // namespace

void OperatorDoor::read(Time now) {
  now_ = now;
  char buffer[1024];
  const ssize_t got = ::read(fd_, buffer, sizeof buffer);
  for (ssize_t i = 0; i < got; ++i) {
    if (buffer[i] == '\n')
      obey(std::exchange(line_, {}));
    else if (line_.size() < kMaxLineBytes)
      line_ += buffer[i];
  }
}

void OperatorDoor::obey(const std::string& line) {
  if (line.empty()) return;
  std::string_view replica = line;
  const bool last = replica.ends_with(kLast);
  if (last) replica.remove_suffix(kLast.size());
  const auto number = replica.starts_with(kDrain)
                          ? parse_number<uint32_t>(replica.substr(kDrain.size()))
                          : std::nullopt;
  if (!number) return complain("an order that nobody understands: '" + on_one_line(line) + "'");
  const ReplicaId id{*number};
  const std::string name = "replica " + std::to_string(*number);
  const auto view = core_.replica(id);
  if (!view.joined) return complain(name + " is to drain, but it is not here");
  if (view.draining) return;
  const char* alone = core_.is_last(id) ? "; it is the last that serves" : "";
  tell_(DrainReplica{id, !last});
  if (!core_.replica(id).draining)
    return complain(name + " stays: it is the last that serves, and the order does not say 'last'");
  LOG_INFO("{} is to drain: {} requests are with it{}", name, view.requests, alone);
}

/// Whoever writes there may write a lot.
void OperatorDoor::complain(const std::string& what) {
  ++unsaid_;
  if (now_ < quiet_until_) return;
  LOG_WARN("{}{}", what,
           unsaid_ > 1 ? " (and " + std::to_string(unsaid_ - 1) + " more since the last such line)"
                       : "");
  quiet_until_ = now_ + kComplainEvery;
  unsaid_ = 0;
}

}  // namespace tailor::coordinator
