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

}  // namespace tailor::launch
