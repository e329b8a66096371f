// How much memory this process may still take: the smaller of what the kernel calls available and
// what is left under the limits of our control group and of those above it. Read once at start.
#pragma once

#include <cstdint>
#include <string>

namespace tailor::parallel {

/// Bytes; 0 when the system does not say, or nothing is left. `root` ("" = the real one) lets a
/// test lay out its own /proc and /sys.
uint64_t available_memory_bytes(const std::string& root = "");

}  // namespace tailor::parallel
