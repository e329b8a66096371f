// UTF-8 as a stream of bytes: which bytes are whole characters, which can no longer become one
// (shown as U+FFFD), and which still wait for more. Bad bytes are replaced as the Unicode Standard
// (3.9, "U+FFFD substitution of maximal subparts") recommends and as Python and Rust do, so the
// result does not depend on how the bytes were cut.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tailor {

/// Appends the whole characters of `bytes` to `out`, with U+FFFD for what cannot become a
/// character, and returns how many bytes were taken. The rest (at most 3 bytes) is the beginning of
/// a character; with `at_end` nothing can follow, so it becomes one U+FFFD and everything is taken.
/// Cost: O(bytes).
size_t append_utf8(std::string_view bytes, bool at_end, std::string& out);

/// Place of the first byte that is not part of valid UTF-8; npos when all is valid.
size_t find_invalid_utf8(std::string_view bytes);

}  // namespace tailor
