// Writes messages in protobuf's wire format (base/wire.h). Pure; any thread.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/wire.h"

namespace tailor {

/// Appends to a string. Cost: O(bytes).
class WireWriter {
 public:
  explicit WireWriter(std::string& out) : out_(out) {}

  template <WireNumber T>
  void number(uint32_t field, T value) {
    tag(field, wire_type<T>());
    bare(value);
  }
  template <Listed M>
  void message(uint32_t field, const M& value) {
    nested(field, [&] { fields(value); });
  }
  /// The message that `one` holds, as the field of its number.
  template <Listed... Ms>
  void alternative(const std::variant<Ms...>& one) {
    std::visit(
        [this](const auto& m) { message(Fields<std::remove_cvref_t<decltype(m)>>::number, m); },
        one);
  }
  template <Listed M>
  void fields(const M& message) {
    for_each_field(message, [this](const auto& field, const auto& value) {
      using F = std::remove_cvref_t<decltype(field)>;
      if constexpr (F::layout == Layout::kColumns) {
        if (!value.empty()) nested(F::number, [&] { columns(value); });
      } else {
        put(F::number, value);
      }
    });
  }

 private:
  template <class T>
  void put(uint32_t field, const T& value) {
    if constexpr (WireNumber<T>) {
      number(field, value);
    } else {
      message(field, value);
    }
  }
  void put(uint32_t field, const std::string& text) {
    if (text.empty()) return;
    tag(field, WireType::kBytes);
    varint(text.size());
    out_ += text;
  }
  template <size_t N>
  void put(uint32_t field, const std::array<float, N>& values) {
    if (values == std::array<float, N>{}) return;
    nested(field, [&] {
      for (const float value : values) bare(value);
    });
  }
  template <class T>
  void put(uint32_t field, const std::vector<T>& values) {
    if constexpr (WireNumber<T>) {
      if (!values.empty()) packed(field, values);
    } else {
      for (const T& value : values) {
        if constexpr (std::is_same_v<T, std::string>) {
          tag(field, WireType::kBytes);  // an empty one is one of the list, too
          varint(value.size());
          out_ += value;
        } else {
          put(field, value);
        }
      }
    }
  }
  void put(uint32_t field, const std::vector<std::vector<TokenId>>& lists) {
    for (const auto& ids : lists) nested(field, [&] { put(1, ids); });
  }
  void put(uint32_t field, const std::pair<TokenId, float>& bias) {
    nested(field, [&] {
      number(1, bias.first);
      number(2, bias.second);
    });
  }
  template <class T>
  void put(uint32_t field, const std::shared_ptr<const T>& value) {
    if (value) message(field, *value);
  }

  template <class T>
  void packed(uint32_t field, const std::vector<T>& values) {
    nested(field, [&] {
      for (const T& value : values) bare(value);
    });
  }
  template <class M>
  void columns(const std::vector<M>& entries) {
    std::apply(
        [&](const auto&... field) {
          (nested(field.number,
                  [&] {
                    for (const M& entry : entries) bare(field.of(entry));
                  }),
           ...);
        },
        Fields<M>::list);
  }

  template <class Body>
  void nested(uint32_t field, Body&& body) {
    tag(field, WireType::kBytes);
    const size_t at = out_.size();
    out_.push_back('\0');  // the length, should it fit into one byte
    body();
    const size_t size = out_.size() - at - 1;
    char length[10];
    const size_t bytes = to_varint(size, length);
    if (bytes > 1) out_.insert(at + 1, bytes - 1, '\0');
    std::memcpy(out_.data() + at, length, bytes);
  }
  void tag(uint32_t field, WireType type) { varint(field << 3 | static_cast<uint32_t>(type)); }

  template <WireNumber T>
  void bare(const T& value) {
    if constexpr (std::is_same_v<T, RequestId>) {
      fixed(value.value);
    } else if constexpr (std::is_floating_point_v<T>) {
      fixed(value);
    } else if constexpr (WireId<T>) {
      varint(value.value);
    } else if constexpr (std::is_same_v<T, Duration>) {
      varint(static_cast<uint64_t>(value.count()));
    } else if constexpr (std::is_same_v<T, Time>) {
      bare(value.time_since_epoch());
    } else {
      varint(static_cast<uint64_t>(value));  // negative numbers as protobuf's int32 and int64
    }
  }
  template <class T>
  void fixed(T value) {
    static_assert(std::endian::native == std::endian::little);
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out_.append(bytes, sizeof value);
  }
  void varint(uint64_t value) {
    char bytes[10];
    out_.append(bytes, to_varint(value, bytes));
  }
  static size_t to_varint(uint64_t value, char* bytes) {
    size_t count = 0;
    for (; value >= 0x80; value >>= 7) bytes[count++] = static_cast<char>(value | 0x80);
    bytes[count++] = static_cast<char>(value);
    return count;
  }

  std::string& out_;
};

}  // namespace tailor
