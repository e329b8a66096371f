// How much memory this process may still take: the smaller of what the kernel calls available and
// what is left under the control group's limit. Read once at start.
#pragma once

#include <cstdint>

namespace tailor::parallel {

/// Bytes; 0 when the system does not say.
uint64_t available_memory_bytes();

}  // namespace tailor::parallel
