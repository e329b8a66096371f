// The one door for JSON: every file, header and line that Tailor reads as JSON passes here first.
// The JSON library copies, compares and prints by recursion, so that a text nested 100,000 deep
// would end the process by a stack overflow; here it is an error like any other. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "base/result.h"

namespace tailor {

/// Lists and objects inside one another. What Tailor reads needs about ten.
inline constexpr int kMaxJsonDepth = 100;

/// Refuses text that opens more than kMaxJsonDepth lists and objects inside one another; says
/// nothing of its syntax. For text that another JSON reader parses. Cost: one look at each byte.
/// Errors: InvalidArgument (names the byte).
Result<void> check_json_depth(std::string_view text);

/// The value that `text` is. Errors: InvalidArgument (nested too deep; no JSON: names the byte).
Result<nlohmann::json> parse_json(std::string_view text);

}  // namespace tailor
