// Random values of any message by its field list (base/fields.h): a field that is listed is filled.
// Numbers are small or anything their type can be; floats also NaN and infinities; text is UTF-8.
// Laws are well-formed unless `any_laws`.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/fields.h"

namespace tailor::test {

class RandomMessages {
 public:
  explicit RandomMessages(uint64_t seed) : engine_(seed) {}

  bool any_laws = false;  ///< laws too are numbers like others

  uint64_t number(uint64_t below) { return engine_() % below; }
  bool coin() { return number(2) == 1; }
  uint32_t u32() {
    return coin() ? static_cast<uint32_t>(number(100)) : static_cast<uint32_t>(engine_());
  }
  uint64_t u64() { return coin() ? number(100) : engine_(); }
  int32_t i32() { return static_cast<int32_t>(u32()); }
  float real() {
    return std::bit_cast<float>(static_cast<uint32_t>(engine_()));
  }  // NaN and infinities included
  std::string text() {
    static const char* const kPieces[] = {"a", "Zürich", "\xE2\x82\xAC", "\xF0\x9F\x8E\x84",
                                          " ", "\n",     "\"",           ""};
    std::string out;
    for (uint64_t i = number(6); i > 0; --i) out += kPieces[number(8)];
    if (coin()) out.push_back('\0');
    return out;
  }
  template <class Make>
  auto list(Make make) {
    std::vector<decltype(make())> out;
    for (uint64_t i = number(5); i > 0; --i) out.push_back(make());
    return out;
  }
  std::vector<TokenId> tokens() {
    return list([&] { return TokenId(i32()); });
  }
  LengthLaw law() {
    LengthLaw l;
    switch (number(3)) {
      case 0:
        break;
      case 1:
        l.kind = LengthLaw::Kind::kLogT;
        l.mu = static_cast<float>(number(900)) / 100 - 1;
        l.sigma = static_cast<float>(1 + number(200)) / 100;
        l.nu = static_cast<float>(3 + number(60)) / 2;
        break;
      default: {
        l.kind = LengthLaw::Kind::kHistogram;
        l.low = static_cast<float>(1 + number(10)) / 2;
        l.high = l.low + static_cast<float>(1 + number(4000));
        const auto at = number(LengthLaw::kBins);
        l.bins[at] = 0.25f;
        l.bins[(at + 1 + number(LengthLaw::kBins - 1)) % LengthLaw::kBins] = 0.75f;
      }
    }
    return l;
  }

  /// Any value that a field of a message can have.
  template <class T>
  T any() {
    T value{};
    fill(value);
    return value;
  }

 private:
  /// How many values it has, from 0.
  static constexpr uint64_t count(FinishReason) { return 5; }
  static constexpr uint64_t count(ErrorCode) { return 17; }
  static constexpr uint64_t count(PriorityClass) { return kNumPriorityClasses; }
  static constexpr uint64_t count(LengthLaw::Kind) { return 3; }

  template <class T>
  void fill(T& value) {
    if constexpr (std::is_same_v<T, LengthLaw>) {
      if (!any_laws) {
        value = law();
        return;
      }
    }
    if constexpr (Listed<T>) {
      for_each_field(value, [this](const auto&, auto& field) { fill(field); });
    } else if constexpr (std::is_enum_v<T>) {
      value = static_cast<T>(number(count(value)));
    } else if constexpr (std::is_same_v<T, bool>) {
      value = coin();
    } else if constexpr (std::floating_point<T>) {
      value = static_cast<T>(real());
    } else if constexpr (std::is_same_v<T, Duration>) {
      value = Duration(static_cast<int64_t>(u64()));
    } else if constexpr (std::integral<T>) {
      value = sizeof(T) == 8 ? static_cast<T>(u64()) : static_cast<T>(u32());
    } else {
      fill(value.value);  // an id
    }
  }
  void fill(std::string& value) { value = text(); }
  template <class T, size_t N>
  void fill(std::array<T, N>& values) {
    for (T& value : values) fill(value);
  }
  template <class T>
  void fill(std::vector<T>& values) {
    values = list([this] { return any<T>(); });
  }
  template <class A, class B>
  void fill(std::pair<A, B>& both) {
    fill(both.first);
    fill(both.second);
  }
  template <class T>
  void fill(std::shared_ptr<const T>& value) {
    value = std::make_shared<const T>(any<T>());
  }

  template <class... Ts>
  void fill(std::variant<Ts...>& one) {
    const uint64_t chosen = number(sizeof...(Ts));
    uint64_t at = 0;
    ((at++ == chosen ? static_cast<void>(one = any<Ts>()) : static_cast<void>(0)), ...);
  }

  std::mt19937_64 engine_;
};

}  // namespace tailor::test
