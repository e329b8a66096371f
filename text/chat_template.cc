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

  Result<std::string> render(const ChatMessages& messages,
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

Result<std::vector<TokenId>> encode_chat(const Tokenizer& tokenizer,
                                         const ChatTemplate& chat_template,
                                         const ChatMessages& messages, bool parse_special_tokens,
                                         size_t max_bytes) {
  const auto too_long = [&](const std::string& rendered) {
    return fail(ErrorCode::kLimitExceeded, "the messages give a prompt of " +
                                               std::to_string(rendered.size()) +
                                               " bytes, the limit is " + std::to_string(max_bytes));
  };
  if (parse_special_tokens) {
    TAILOR_ASSIGN(const std::string rendered, chat_template.render(messages, true));
    if (rendered.size() > max_bytes) return too_long(rendered);
    return tokenizer.encode(rendered, false);
  }
  ChatMessages guarded;
  guarded.reserve(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    auto role = tokenizer.guard(messages[i].first), content = tokenizer.guard(messages[i].second);
    if (!role || !content)
      return fail_with("message " + std::to_string(i),
                       std::move(!role ? role.error() : content.error()));
    guarded.emplace_back(std::move(*role), std::move(*content));
  }
  TAILOR_ASSIGN(const std::string rendered, chat_template.render(guarded, true));
  if (rendered.size() > max_bytes) return too_long(rendered);
  return tokenizer.encode_guarded(rendered, false);
}

TokenId turn_end(const Tokenizer& tokenizer, const ChatTemplate& chat_template) {
  constexpr std::string_view kAnswer = "It is forty-two.";
  const auto rendered =
      chat_template.render({{"user", "What is it?"}, {"assistant", std::string(kAnswer)}}, false);
  if (!rendered) return -1;
  const size_t answer = rendered->rfind(kAnswer);
  if (answer == std::string::npos) return -1;
  const size_t behind = rendered->find_first_not_of(" \t\r\n", answer + kAnswer.size());
  if (behind == std::string::npos) return -1;
  const auto ids = tokenizer.encode(std::string_view(*rendered).substr(behind), false);
  if (!ids || ids->empty()) return -1;
  const std::string& mark = tokenizer.token_bytes(ids->front());
  const bool written_as_mark = mark.size() > 3 && mark.front() == '<' && mark.back() == '>';
  return tokenizer.is_special(ids->front()) || written_as_mark ? ids->front() : -1;
}

}  // namespace tailor::text
