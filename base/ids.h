// Strong ids: integers that do not mix. Dense where the cores index by them.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace tailor {

template <class Tag, class Rep = uint64_t>
struct Id {
  using rep = Rep;
  Rep value = 0;
  friend constexpr auto operator<=>(const Id&, const Id&) = default;
};

/// Given by the coordinator at acceptance, in order of acceptance, never reused; orders ties.
using RequestId = Id<struct RequestTag>;
/// The n-th dispatch of a request (1, 2, ...): a late report of an earlier attempt is ignored.
using Attempt = Id<struct AttemptTag, uint32_t>;
/// A full model copy; dense from 0.
using ReplicaId = Id<struct ReplicaTag, uint32_t>;
/// Grows each time a replica's leader says Hello: a restarted replica is never taken for its
/// predecessor.
using Epoch = Id<struct EpochTag, uint32_t>;
/// Where KV is kept: 0 is the device, the others are slower and larger.
using TierId = uint8_t;
inline constexpr TierId kDeviceTier = 0;
/// One connection identity of a client, as the coordinator's io thread numbers it.
using ClientId = Id<struct ClientTag>;

/// One token stream of a request: sample 0..n-1.
struct SequenceId {
  RequestId request;
  uint32_t sample = 0;
  friend constexpr auto operator<=>(const SequenceId&, const SequenceId&) = default;
};

}  // namespace tailor

template <class Tag, class Rep>
struct std::hash<tailor::Id<Tag, Rep>> {
  size_t operator()(const tailor::Id<Tag, Rep>& id) const { return std::hash<Rep>()(id.value); }
};
template <>
struct std::hash<tailor::SequenceId> {
  size_t operator()(const tailor::SequenceId& id) const {
    return std::hash<uint64_t>()(id.request.value * 0x9E3779B97F4A7C15ull + id.sample);
  }
};
