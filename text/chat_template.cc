#include "text/chat_template.h"

#include <ctime>
#include <string_view>

#include "base/clock.h"
#include "text/rust_buffer.h"

namespace tailor::text {
namespace {

size_t format_local_time(const char* format, char* out, size_t capacity) {
  const std::time_t seconds = static_cast<std::time_t>(wall_clock_ms() / 1000);
  std::tm local{};
  if (localtime_r(&seconds, &local) == nullptr) return 0;
  return std::strftime(out, capacity, format, &local);
}

struct FreeTemplate {
  void operator()(tt_template* chat_template) const { tt_template_free(chat_template); }
};
using Handle = std::unique_ptr<tt_template, FreeTemplate>;

class RustTemplate final : public ChatTemplate {
 public:
  explicit RustTemplate(Handle handle) : handle_(std::move(handle)) {}

  Result<std::string> render(const std::vector<std::pair<std::string, std::string>>& messages,
                             bool add_generation_prompt) const override {
    std::vector<tt_str> roles, contents;
    roles.reserve(messages.size());
    contents.reserve(messages.size());
    for (const auto& [role, content] : messages) {
      roles.push_back(to_rust(role));
      contents.push_back(to_rust(content));
    }
    RustBuffer text, error;
    if (!tt_template_render(handle_.get(), roles.data(), contents.data(), messages.size(),
                            add_generation_prompt, text.out(), error.out())) {
      return fail(ErrorCode::kInvalidArgument, error.str());
    }
    return text.str();
  }

 private:
  Handle handle_;
};

}  // namespace

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::compile(const std::string& source,
                                                                  const std::string& bos_token,
                                                                  const std::string& eos_token) {
  RustBuffer error;
  Handle handle(tt_template_compile(to_rust(source), to_rust(bos_token), to_rust(eos_token),
                                    &format_local_time, error.out()));
  if (!handle) return fail(ErrorCode::kInvalidArgument, "chat template: " + error.str());
  return std::make_shared<const RustTemplate>(std::move(handle));
}

}  // namespace tailor::text
