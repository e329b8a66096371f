// Reads messages in protobuf's wire format (base/wire.h). Pure; any thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/wire.h"

namespace tailor {

/// Reads from bytes of anybody: whatever they are, it ends, and what it makes of N of them holds at
/// most kMemoryPerByte * N + kMemoryAnyway bytes, the room to grow of its vectors not counted; who
/// asks for more (a list of empty messages) is no message. Cost: O(bytes).
class WireReader {
 public:
  /// No message of ours comes near: the entries of an ending sequence, of 8 bytes, hold 80.
  static constexpr size_t kMemoryPerByte = 16, kMemoryAnyway = 4096;

  explicit WireReader(std::string_view in) : WireReader(in, &own_memory_) {
    own_memory_ = kMemoryPerByte * in.size() + kMemoryAnyway;
  }
  WireReader(const WireReader&) = delete;
  WireReader& operator=(const WireReader&) = delete;

  bool at_end() const { return at_ == end_; }
  bool good() const { return good_; }

  /// The next field's number and type; false at the end or when the bytes are no message.
  bool next(uint32_t& field, WireType& type) {
    if (at_ == end_ || !good_) return false;
    const uint64_t tag = varint();
    field = static_cast<uint32_t>(tag >> 3);
    type = static_cast<WireType>(tag & 7);
    if (tag > UINT32_MAX || field == 0) good_ = false;
    return good_;
  }
  void skip(WireType type) {
    switch (type) {
      case WireType::kVarint:
        varint();
        return;
      case WireType::kFixed64:
        take(8);
        return;
      case WireType::kFixed32:
        take(4);
        return;
      case WireType::kBytes:
        bytes();
        return;
    }
    good_ = false;  // groups are of another age
  }
  template <class T>
  void number(WireType type, T& value) {
    if (type != wire_type<T>()) return skip(type);
    value = bare<T>();
  }
  /// A nested message; its fields are added to what `value` holds.
  template <Listed M>
  void message(WireType type, M& value) {
    if (type != WireType::kBytes) return skip(type);
    within([&](WireReader& inner) { inner.fields(value); });
  }
  /// The message of `out`'s alternatives whose number is `field`; false, and nothing is read, when
  /// there is none.
  template <Listed... Ms>
  bool alternative(uint32_t field, WireType type, std::variant<Ms...>& out) {
    if (type != WireType::kBytes) return false;
    return ((Fields<Ms>::number == field && (message(type, out.template emplace<Ms>()), true)) ||
            ...);
  }
  template <Listed M>
  void fields(M& message) {
    uint32_t number = 0;
    WireType type{};
    while (next(number, type)) {
      const bool known = std::apply(
          [&](const auto&... field) {
            return ((field.number == number && (take_field(field, type, message), true)) || ...);
          },
          Fields<M>::list);
      if (!known) skip(type);
    }
  }

 private:
  WireReader(std::string_view in, size_t* memory)
      : at_(reinterpret_cast<const uint8_t*>(in.data())), end_(at_ + in.size()), memory_(memory) {}

  /// What `read` does with the bytes of the next field; they must be whole.
  template <class Read>
  void within(Read&& read) {
    WireReader inner(bytes(), memory_);
    read(inner);
    good_ = good_ && inner.good_;
  }

  template <class F, class M>
  void take_field(const F& field, WireType type, M& message) {
    auto& value = field.of(message);
    if constexpr (F::layout == Layout::kColumns) {
      if (type != WireType::kBytes) return skip(type);
      within([&](WireReader& inner) { inner.columns(value); });
    } else {
      get(type, value);
    }
  }

  template <class T>
  void get(WireType type, T& value) {
    if constexpr (WireNumber<T>) {
      number(type, value);
    } else {
      message(type, value);
    }
  }
  void get(WireType type, std::string& text) {
    if (type != WireType::kBytes) return skip(type);
    const std::string_view found = bytes();
    if (take_memory(found.size())) text = found;
  }
  /// A list of another length is none: the values stay as they are.
  template <size_t N>
  void get(WireType type, std::array<float, N>& values) {
    static_assert(std::endian::native == std::endian::little);
    if (type != WireType::kBytes) return skip(type);
    const std::string_view found = bytes();
    if (found.size() == sizeof values) std::memcpy(values.data(), found.data(), sizeof values);
  }
  template <class T>
  void get(WireType type, std::vector<T>& values) {
    if constexpr (WireNumber<T>) {
      numbers<T>(type, [&](size_t more) {
        const size_t before = values.size();
        if (take_memory(more * sizeof(T))) values.resize(before + more);
        return [&values, before](size_t i) -> T& { return values[before + i]; };
      });
    } else {
      if (type != WireType::kBytes) return skip(type);
      if (take_memory(sizeof(T))) get(type, values.emplace_back());
    }
  }
  void get(WireType type, std::vector<std::vector<TokenId>>& lists) {
    if (type != WireType::kBytes) return skip(type);
    if (!take_memory(sizeof(std::vector<TokenId>))) return;
    within([&ids = lists.emplace_back()](WireReader& inner) {
      uint32_t field = 0;
      WireType type{};
      while (inner.next(field, type)) field == 1 ? inner.get(type, ids) : inner.skip(type);
    });
  }
  void get(WireType type, std::pair<TokenId, float>& bias) {
    if (type != WireType::kBytes) return skip(type);
    within([&bias](WireReader& inner) {
      uint32_t field = 0;
      WireType type{};
      while (inner.next(field, type)) {
        if (field == 1) {
          inner.number(type, bias.first);
        } else if (field == 2) {
          inner.number(type, bias.second);
        } else {
          inner.skip(type);
        }
      }
    });
  }
  template <class T>
  void get(WireType type, std::shared_ptr<const T>& value) {
    if (type != WireType::kBytes) return skip(type);
    if (!take_memory(sizeof(T))) return;
    auto made = std::make_shared<T>();
    message(type, *made);
    value = std::move(made);
  }

  /// One number, or a packed list of them: all are counted before the first is read. `make_room`
  /// is told how many, and gives back what gives the i-th of them its place.
  template <class T, class MakeRoom>
  void numbers(WireType type, MakeRoom&& make_room) {
    if (type == wire_type<T>()) {
      const T value = bare<T>();
      const auto place = make_room(good_ ? 1 : 0);
      if (good_) place(0) = value;
    } else if (type == WireType::kBytes) {
      WireReader inner(bytes(), memory_);
      const size_t count = inner.template count<T>();
      const auto place = make_room(count);
      for (size_t i = 0; i < count && good_; ++i) place(i) = inner.template bare<T>();
      good_ = good_ && inner.good_ && inner.at_end();
    } else {
      skip(type);
    }
  }
  /// How many numbers the rest of a packed list can be.
  template <class T>
  size_t count() const {
    if constexpr (wire_type<T>() == WireType::kFixed64) return static_cast<size_t>(end_ - at_) / 8;
    if constexpr (wire_type<T>() == WireType::kFixed32) return static_cast<size_t>(end_ - at_) / 4;
    return static_cast<size_t>(std::count_if(at_, end_, [](uint8_t byte) { return byte < 0x80; }));
  }

  /// All columns that are there have one length; one that is missing leaves its field at the
  /// default.
  template <class M>
  void columns(std::vector<M>& entries) {
    constexpr auto list = Fields<M>::list;
    const size_t before = entries.size();
    std::array<size_t, std::tuple_size_v<decltype(list)>> rows{};  // read of each
    uint32_t number = 0;
    WireType type{};
    while (next(number, type)) {
      size_t at = 0;
      const auto is_it = [&](const auto& field) {
        if (field.number == number) {
          column(field, type, entries, before, rows[at]);
          return true;
        }
        ++at;
        return false;
      };
      if (!std::apply([&](const auto&... field) { return (is_it(field) || ...); }, list))
        skip(type);
    }
    for (const size_t read : rows) good_ = good_ && (read == 0 || read == entries.size() - before);
  }
  template <class F, class M>
  void column(const F& field, WireType type, std::vector<M>& entries, size_t before, size_t& rows) {
    using T = std::remove_cvref_t<decltype(field.of(std::declval<M&>()))>;
    numbers<T>(type, [&](size_t more) {
      const size_t first = std::exchange(rows, rows + more) + before;
      if (first + more > entries.size() && take_memory((first + more - entries.size()) * sizeof(M)))
        entries.resize(first + more);
      return [&entries, &field, first](size_t i) -> T& { return field.of(entries[first + i]); };
    });
  }

  template <class T>
  T bare() {
    if constexpr (std::is_same_v<T, RequestId>) {
      return RequestId{fixed<uint64_t>()};
    } else if constexpr (std::is_floating_point_v<T>) {
      return fixed<T>();
    } else if constexpr (WireId<T>) {
      return T{static_cast<typename T::rep>(varint())};
    } else if constexpr (std::is_same_v<T, Duration>) {
      return Duration(static_cast<int64_t>(varint()));
    } else if constexpr (std::is_same_v<T, Time>) {
      return Time(bare<Duration>());
    } else if constexpr (std::is_enum_v<T>) {
      const uint64_t value = varint();
      return value <= static_cast<uint64_t>(WireEnum<T>::last) ? static_cast<T>(value)
                                                               : WireEnum<T>::unknown;
    } else {
      return static_cast<T>(varint());
    }
  }
  template <class T>
  T fixed() {
    T value{};
    if (const uint8_t* from = take(sizeof value)) std::memcpy(&value, from, sizeof value);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) break;
      const uint8_t byte = *at_++;
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    good_ = false;
    at_ = end_;
    return 0;
  }
  const uint8_t* take(size_t size) {
    if (static_cast<size_t>(end_ - at_) < size) {
      good_ = false;
      at_ = end_;
      return nullptr;
    }
    return std::exchange(at_, at_ + size);
  }
  std::string_view bytes() {
    const uint64_t size = varint();
    const uint8_t* from = good_ ? take(size) : nullptr;
    return from ? std::string_view(reinterpret_cast<const char*>(from), size) : std::string_view();
  }

  /// Says whether so many bytes more may be held.
  bool take_memory(size_t bytes) {
    if (bytes > *memory_) {
      good_ = false;
      at_ = end_;
      return false;
    }
    *memory_ -= bytes;
    return true;
  }

  const uint8_t* at_;
  const uint8_t* const end_;
  size_t own_memory_ = 0;
  size_t* const memory_;  // of the whole message: what may still be held
  bool good_ = true;
};

}  // namespace tailor
