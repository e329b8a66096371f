#include "coordinator/operator_door.h"

#include <unistd.h>

#include <optional>

#include "base/log.h"
#include "base/numbers.h"

namespace tailor::coordinator {
namespace {

constexpr size_t kMaxLineBytes = 64;
constexpr std::string_view kDrain = "drain ";

}  // namespace

void OperatorDoor::read() {
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
  const auto replica = line.rfind(kDrain, 0) == 0
                           ? parse_number<uint32_t>(line.substr(kDrain.size()))
                           : std::nullopt;
  if (!replica) return LOG_WARN("an order that nobody understands: {}", line);
  const ReplicaId id{*replica};
  const auto view = core_.replica(id);
  if (!view.joined) return LOG_WARN("replica {} is to drain, but it is not here", id.value);
  LOG_INFO("replica {} is to drain: {} requests are with it", id.value, view.requests);
  tell_(DrainReplica{id});
}

}  // namespace tailor::coordinator
