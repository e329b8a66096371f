// Every field of a value in one line of text, for comparison: equal lines, equal values; floats by
// their bits, so that NaN equals itself. Listed messages by their lists; other structs by a
// function `dump_fields(value, all)` beside them, which hands every field to `all`.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/fields.h"

namespace tailor::test {

class Dump {
 public:
  template <class T>
  static std::string of(const T& value) {
    Dump dump;
    dump.put(value);
    return dump.out_.str();
  }

 private:
  template <class T>
  void put(const T& value) {
    if constexpr (std::is_same_v<T, Request>) put(value.id);  // travels beside its fields
    if constexpr (Listed<T>) {
      out_ << '{';
      for_each_field(value, [this](const auto&, const auto& field) { put(field), out_ << ';'; });
      out_ << '}';
    } else if constexpr (std::is_enum_v<T>) {
      out_ << 'e' << static_cast<int>(value);
    } else if constexpr (std::is_same_v<T, float>) {
      out_ << std::bit_cast<uint32_t>(value);
    } else if constexpr (std::is_same_v<T, double>) {
      out_ << std::bit_cast<uint64_t>(value);
    } else if constexpr (std::is_arithmetic_v<T>) {
      out_ << +value;
    } else if constexpr (requires {
                           typename T::rep;
                           value.value;
                         }) {
      out_ << '#' << value.value;
    } else {
      dump_fields(value, [this](const auto&... fields) {
        out_ << '{';
        ((put(fields), out_ << ';'), ...);
        out_ << '}';
      });
    }
  }
  void put(const std::string& v) { out_ << '"' << v.size() << ':' << v << '"'; }
  void put(const Duration& v) { out_ << v.count() << "ns"; }
  template <class A, class B>
  void put(const std::pair<A, B>& v) {
    out_ << '{';
    put(v.first), out_ << ';', put(v.second);
    out_ << '}';
  }
  template <class T>
  void put(const std::optional<T>& v) {
    if (v) put(*v);
    out_ << '?';
  }
  template <class T>
  void put(const std::shared_ptr<T>& v) {
    if (v) put(*v);
    out_ << '*';
  }
  template <class T>
  void put(const std::vector<T>& v) {
    out_ << '[';
    for (const auto& item : v) put(item), out_ << ',';
    out_ << ']';
  }
  template <class T, size_t N>
  void put(const std::array<T, N>& v) {
    put(std::vector<T>(v.begin(), v.end()));
  }
  template <class... Ts>
  void put(const std::variant<Ts...>& v) {
    out_ << v.index() << '=';
    std::visit([this](const auto& value) { put(value); }, v);
  }

  std::ostringstream out_;
};

}  // namespace tailor::test
