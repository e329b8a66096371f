// IdTable: request id -> dense slot, as one flat array with linear probing. No node, no string, and
// no allocation once it has reached its size; never iterated, so it cannot bring an order into the
// core. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/ids.h"

namespace tailor::coordinator {

class IdTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  IdTable() : cells_(64) {}

  /// kNone when `id` is not inside.
  uint32_t find(RequestId id) const {
    for (size_t i = home(id.value);; i = next(i)) {
      if (cells_[i].slot == kNone) return kNone;
      if (cells_[i].id == id.value) return cells_[i].slot;
    }
  }
  void insert(RequestId id, uint32_t slot) {
    TAILOR_CHECK(find(id) == kNone, "a request id is inserted once");
    if ((count_ + 1) * 2 > cells_.size()) grow();
    place({id.value, slot});
    ++count_;
  }
  void erase(RequestId id) {
    size_t hole = home(id.value);
    while (cells_[hole].slot == kNone || cells_[hole].id != id.value) {
      TAILOR_CHECK(cells_[hole].slot != kNone, "an erased request id is inside");
      hole = next(hole);
    }
    // Close the hole: whatever probed over it moves back, so that no tombstone is needed.
    for (size_t i = next(hole); cells_[i].slot != kNone; i = next(i)) {
      const size_t want = home(cells_[i].id);
      const bool stays = hole <= i ? (hole < want && want <= i) : (hole < want || want <= i);
      if (stays) continue;
      cells_[hole] = cells_[i];
      hole = i;
    }
    cells_[hole] = {};
    --count_;
  }
  size_t size() const { return count_; }

 private:
  struct Cell {
    uint64_t id = 0;
    uint32_t slot = kNone;
  };
  size_t home(uint64_t id) const {
    return (id * 0x9E3779B97F4A7C15ull >> 20) & (cells_.size() - 1);
  }
  size_t next(size_t i) const { return (i + 1) & (cells_.size() - 1); }
  void place(const Cell& cell) {
    size_t i = home(cell.id);
    while (cells_[i].slot != kNone) i = next(i);
    cells_[i] = cell;
  }
  void grow() {
    std::vector<Cell> old(cells_.size() * 2);
    old.swap(cells_);
    for (const Cell& cell : old)
      if (cell.slot != kNone) place(cell);
  }

  std::vector<Cell> cells_;
  size_t count_ = 0;
};

}  // namespace tailor::coordinator
