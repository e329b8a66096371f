// The one way to read a number that is written as text (an option, a key of a JSON object): decimal
// and nothing else, the whole text, inside the type's range. What the standard's older readers let
// through is refused: "0x10", "1e3" and "+5" as whole numbers, blanks, "-1" for a type without
// sign, values that do not fit, "nan" and "inf". Zeros in front do not mean octal: "010" is 10.
#pragma once

#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <system_error>
#include <type_traits>

namespace tailor {

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) return std::nullopt;
  }
  return value;
}

}  // namespace tailor
