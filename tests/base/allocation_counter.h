// Counts every allocation of the program that includes it: replaces the global operators, so one
// source of a test binary at most includes it.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace tailor::testing {
inline std::atomic<int64_t> allocations{0};

inline void* counted(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes ? bytes : 1)) return p;
  throw std::bad_alloc();
}
}  // namespace tailor::testing

void* operator new(size_t bytes) { return tailor::testing::counted(bytes); }
void* operator new[](size_t bytes) { return tailor::testing::counted(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
