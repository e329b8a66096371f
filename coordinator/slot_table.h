// SlotTable: values by dense slot numbers, in pieces of memory that never move. It grows by one
// value at a time without copying the others, and no more than a piece of it is ever unused. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace tailor::coordinator {

template <class T>
class SlotTable {
 public:
  uint32_t size() const { return size_; }
  T& operator[](uint32_t slot) { return pieces_[slot / kPiece][slot % kPiece]; }
  const T& operator[](uint32_t slot) const { return pieces_[slot / kPiece][slot % kPiece]; }
  /// One more; its slot.
  uint32_t grow() {
    if (size_ % kPiece == 0) pieces_.push_back(std::make_unique<T[]>(kPiece));
    return size_++;
  }

 private:
  static constexpr uint32_t kPiece = 256;
  std::vector<std::unique_ptr<T[]>> pieces_;
  uint32_t size_ = 0;
};

}  // namespace tailor::coordinator
