// Numbers among a program's options, read by base/numbers.h. CLI11 alone takes "010" as octal 8,
// "0x10" as 16, -1 as 2^64 - 1 where only numbers without sign fit, clips what is above 64 bits,
// and takes "nan" where seconds are asked for.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "base/numbers.h"

namespace tailor::launch {

/// Every number of `app` and its subcommands is decimal, whole where whole numbers are asked for,
/// finite, and as it was written; a size (512MiB) is read by its own. Call it after the last option
/// is added.
inline void check_number_options(CLI::App& app) {
  const auto exact = [](auto zero, const char* expected) {
    using Number = decltype(zero);
    return [expected](std::string& text) -> std::string {
      const auto number = parse_number<Number>(text);
      if (!number) return std::string("expected ") + expected + ", found " + text;
      if constexpr (std::is_integral_v<Number>) text = std::to_string(*number);  // "010" is 10
      return "";
    };
  };
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();  // "INT", or "INT:INT in [1 - 8]"
    if (type.find(":SIZE") != std::string::npos) continue;
    const auto is = [&](const std::string& name) { return type.substr(0, type.find(':')) == name; };
    if (is("INT")) {
      option->transform(CLI::Validator(exact(int64_t{}, "a whole number of 64 bits"), ""));
    } else if (is("UINT")) {
      option->transform(
          CLI::Validator(exact(uint64_t{}, "a whole number of 0..18446744073709551615"), ""));
    } else if (is("FLOAT")) {
      option->transform(CLI::Validator(exact(double{}, "a number"), ""));
    }
  }
  for (CLI::App* sub : app.get_subcommands({})) check_number_options(*sub);
}

/// Of an option that waits: seconds, of a length that a clock can count.
inline CLI::Validator wait_seconds() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        const auto seconds = parse_number<double>(text);
        return seconds && *seconds >= 0 && *seconds <= 1e9
                   ? ""
                   : "expected a number of seconds, 0..1e9, found " + text;
      },
      "");
}

/// `error` as one sentence. CLI11 does not say the range of a number that 64 bits hold and its
/// option does not.
inline std::string sentence_of(const CLI::App& app, const CLI::Error& error) {
  const std::string what = error.what(), start = "Could not convert: ";
  const size_t equals = what.find(" = ");
  if (what.rfind(start, 0) != 0 || equals == std::string::npos) return what;
  const std::string name = what.substr(start.size(), equals - start.size());
  const CLI::App* last = &app;  // the command that was named
  const CLI::Option* option = nullptr;
  for (; last && !(option = last->get_option_no_throw(name));) {
    const auto subs = last->get_subcommands();
    last = subs.empty() ? nullptr : subs.front();
  }
  const std::string type = option ? option->get_type_name().substr(0, 4) : "";
  const char* range = type == "UINT"               ? "a whole number of 0..4294967295"
                      : type.rfind("INT", 0) == 0  ? "a whole number of -2147483648..2147483647"
                      : type.rfind("FLOA", 0) == 0 ? "a number of -3.4e38..3.4e38"
                                                   : nullptr;
  if (!range) return what;
  return name + ": expected " + range + ", found " + what.substr(equals + 3);
}

}  // namespace tailor::launch
