#include "coordinator/core_messages.h"

#include "base/describe.h"

namespace tailor::coordinator {

std::string describe(const CoreCommand& command) {
  return std::visit([](const auto& message) { return tailor::describe(message); }, command);
}
std::string describe(const CoreEvent& event) {
  return std::visit([](const auto& message) { return tailor::describe(message); }, event);
}

}  // namespace tailor::coordinator
