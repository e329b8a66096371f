// Protobuf's wire format from the field lists of base/fields.h: what proto/control.proto describes,
// written and read without generated code. Numbers travel as columns (packed lists) where the list
// says so: a report of 250 sequences is a dozen packed lists, not 250 messages. Unknown fields are
// skipped, missing ones keep their defaults, so that two versions can talk and an older event log
// can be read. Pure; any thread. Here is what the writer (wire_writer.h) and the reader
// (wire_reader.h) share.
//
// A request id travels as fixed64 (its value comes from a wall clock: a varint would be longer),
// every other integer, id, enum, bool, duration and time (in ns) as varint, floats as they are,
// text and bytes as bytes. Numbers are always written, also where they are 0; empty lists and texts
// are not. Source: protobuf.dev, "Encoding".
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "base/fields.h"

namespace tailor {

enum class WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

template <class T>
concept WireId = requires(T id) {
  id.value;
};
template <class T>
concept WireNumber = std::is_arithmetic_v<T> || std::is_enum_v<T> || WireId<T> ||
    std::is_same_v<T, Duration> || std::is_same_v<T, Time>;

template <WireNumber T>
constexpr WireType wire_type() {
  if constexpr (std::is_same_v<T, RequestId> || std::is_same_v<T, double>) {
    return WireType::kFixed64;
  } else if constexpr (std::is_same_v<T, float>) {
    return WireType::kFixed32;
  } else {
    return WireType::kVarint;
  }
}

/// The largest value of an enum that this version knows; what is above becomes `unknown`. Where no
/// value can stand in, that is none of the enum's: whoever decodes the message refuses it.
template <class E>
struct WireEnum;
template <>
struct WireEnum<FinishReason> {
  static constexpr FinishReason last = FinishReason::kFailed, unknown = FinishReason::kFailed;
};
template <>
struct WireEnum<ErrorCode> {
  static constexpr ErrorCode last = ErrorCode::kInternal, unknown = ErrorCode::kInternal;
};
template <>
struct WireEnum<PriorityClass> {
  static constexpr PriorityClass last = PriorityClass::kBatch, unknown{UINT8_MAX};
};
template <>
struct WireEnum<LengthLaw::Kind> {
  static constexpr LengthLaw::Kind last = LengthLaw::Kind::kHistogram, unknown{UINT8_MAX};
};

}  // namespace tailor
