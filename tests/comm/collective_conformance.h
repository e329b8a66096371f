// What every Collective must do, as functions run by each rank of a group at once (threads, or
// processes under mpirun). Every byte is a pure function of (seed, call, rank, place), so each rank
// checks all it receives, and `transcript` returns all of it so that two transports can be compared
// bit by bit.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "comm/collective.h"

namespace tailor::comm {

using Bytes = std::vector<std::byte>;

/// What `rank` contributes to call number `call`.
inline Bytes contribution(uint64_t seed, uint64_t call, int rank, size_t size) {
  std::mt19937_64 random(seed * 1'000'003 + call * 1009 + static_cast<uint64_t>(rank));
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// Sizes that hit the edges of a transport: nothing, one byte, around eager limits, and anything
/// between.
inline size_t pick_size(std::mt19937_64& random) {
  constexpr size_t kEdges[] = {0, 1, 7, 64, 4095, 4096, 4097, 65536, 70'001};
  return random() % 3 == 0 ? kEdges[random() % std::size(kEdges)] : random() % 40'000;
}

/// `calls` random calls, the same on every rank; checks each and returns all received bytes.
inline Bytes transcript(Collective& group, uint64_t seed, int calls) {
  Bytes received;
  std::mt19937_64 random(seed);  // advanced alike on all ranks
  const int size = group.size();
  for (int call = 0; call < calls; ++call) {
    const size_t bytes = pick_size(random);
    const int root = static_cast<int>(random() % static_cast<uint64_t>(size));
    const Bytes mine = contribution(seed, call, group.rank(), bytes);
    Bytes all;
    for (int r = 0; r < size; ++r) {
      const Bytes part = contribution(seed, call, r, bytes);
      all.insert(all.end(), part.begin(), part.end());
    }
    Bytes out;
    Bytes expected;
    Result<void> result;
    switch (random() % 4) {
      case 0:
        out.resize(bytes * size);
        expected = all;
        result = group.all_gather(mine, out);
        break;
      case 1:
        out = mine;
        expected = contribution(seed, call, root, bytes);
        result = group.broadcast(out, root);
        break;
      case 2:
        if (group.rank() == root) {
          out.resize(bytes * size);
          expected = all;
        }
        result = group.gather(mine, out, root);
        break;
      default:
        result = group.barrier();
    }
    if (!result) {
      ADD_FAILURE() << "call " << call << ": " << to_string(result.error());
      return received;
    }
    EXPECT_EQ(out, expected) << "call " << call << " of " << bytes << " bytes, root " << root;
    received.insert(received.end(), out.begin(), out.end());
  }
  return received;
}

/// A few MB to every root: more than any transport buffers.
inline void check_large_gather(Collective& group) {
  const size_t bytes = 4'000'037;
  const Bytes mine = contribution(5, 0, group.rank(), bytes);
  for (int root = 0; root < group.size(); ++root) {
    Bytes out(group.rank() == root ? bytes * group.size() : 0);
    auto result = group.gather(mine, out, root);
    ASSERT_TRUE(result) << to_string(result.error());
    for (int r = 0; r < group.size() && group.rank() == root; ++r) {
      const Bytes expected = contribution(5, 0, r, bytes);
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), out.begin() + r * bytes))
          << "part of rank " << r;
    }
  }
}

/// A rank may gather into a buffer that already holds its own part in place.
inline void check_in_place_all_gather(Collective& group) {
  const size_t bytes = 3000;
  Bytes out(bytes * group.size());
  const Bytes mine = contribution(6, 0, group.rank(), bytes);
  const auto place = out.begin() + group.rank() * bytes;
  std::copy(mine.begin(), mine.end(), place);
  auto result =
      group.all_gather(std::span<const std::byte>(out).subspan(group.rank() * bytes, bytes), out);
  ASSERT_TRUE(result) << to_string(result.error());
  for (int r = 0; r < group.size(); ++r) {
    const Bytes expected = contribution(6, 0, r, bytes);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), out.begin() + r * bytes))
        << "part of rank " << r;
  }
}

/// Wrong arguments are refused before anything is sent: the group goes on.
inline void check_refusals(Collective& group) {
  Bytes some(10);
  Bytes wrong(10 * group.size() + 1);
  EXPECT_EQ(group.broadcast(some, group.size()).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(group.broadcast(some, -1).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(group.all_gather(some, wrong).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(group.gather(some, wrong, group.rank()).error().code, ErrorCode::kInvalidArgument);
  const std::span<const std::byte> huge(some.data(),
                                        size_t{1} << 31);  // never read: refused by its size
  EXPECT_EQ(group.gather(huge, {}, (group.rank() + 1) % group.size()).error().code,
            ErrorCode::kLimitExceeded);
  auto result = group.barrier();
  EXPECT_TRUE(result) << to_string(result.error());
}

}  // namespace tailor::comm
