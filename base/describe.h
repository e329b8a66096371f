// Any message as one line for people, and the form in which replays are compared: equal messages
// give equal lines. By the field lists of base/fields.h: "Dispatch request=7 attempt=1 samples=1
// prompt_tokens=20 max_tokens=64". Durations in microseconds; "none" for the longest. Text is
// another process's: what it could break the line or a terminal with is escaped.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/fields.h"

namespace tailor {

/// "log-t mu 5.020 sigma 0.610 nu 3.5", "histogram 1..2048", "none"
std::string describe(const LengthLaw& law);

/// `text` with each byte of a control character, each that is not of valid UTF-8, and each
/// backslash, as \xNN. Different texts stay different.
std::string on_one_line(std::string_view text);

template <Listed M>
std::string describe(const M& message);

namespace detail {

template <class T>
std::string text_of(const T& value) {
  if constexpr (std::is_same_v<T, FinishReason>) {
    return to_string(value);
  } else if constexpr (std::is_same_v<T, ErrorCode>) {
    return std::string(to_string(value));
  } else if constexpr (std::is_same_v<T, LengthLaw>) {
    return describe(value);
  } else if constexpr (std::is_same_v<T, Duration>) {
    return value == Duration::max() ? "none" : std::to_string(to_us(value)) + "us";
  } else if constexpr (std::is_same_v<T, Time>) {
    return text_of(value.time_since_epoch());
  } else if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<uint64_t>(value));
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "'" + on_one_line(value) + "'";
  } else if constexpr (std::is_arithmetic_v<T>) {
    return std::to_string(value);
  } else if constexpr (requires { typename T::rep; }) {
    return std::to_string(value.value);
  } else {
    return "{" + describe(value) + "}";
  }
}
template <class T>
std::string text_of(const std::vector<T>& values) {
  std::string line = "[";
  for (const T& value : values) line += (line.size() > 1 ? " " : "") + text_of(value);
  return line + "]";
}

}  // namespace detail

template <Listed M>
std::string describe(const M& message) {
  std::string line = Fields<M>::name;
  for_each_field(message, [&](const auto& field, const auto& value) {
    line += std::string(" ") + field.name + "=" + detail::text_of(value);
  });
  return line;
}

std::string describe(const ToReplica& message);
std::string describe(const FromReplica& message);

}  // namespace tailor
