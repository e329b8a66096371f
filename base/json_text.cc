#include "base/json_text.h"

#include <nlohmann/json.hpp>
#include <string>

namespace tailor {

Result<void> check_json_depth(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth)
        return fail(ErrorCode::kInvalidArgument, "JSON nested deeper than " +
                                                     std::to_string(kMaxJsonDepth) +
                                                     " levels (at byte " + std::to_string(i) + ")");
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return {};
}

Result<nlohmann::json> parse_json(std::string_view text) {
  TAILOR_TRY(check_json_depth(text));
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    const auto* syntax = dynamic_cast<const nlohmann::json::parse_error*>(&error);
    return fail(ErrorCode::kInvalidArgument,
                "not valid JSON" + (syntax != nullptr && syntax->byte > 0
                                        ? " (at byte " + std::to_string(syntax->byte - 1) + ")"
                                        : ""));
  }
}

}  // namespace tailor
