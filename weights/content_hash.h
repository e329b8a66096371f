// Hashes of whole files (XXH3, 128 bits; the xxhash library): they tell one model from another and
// a damaged file from a whole one; not meant against an attacker who makes collisions. The hash of
// a large file is kept in `cache_folder()/hashes`, so that a host reads each file once. What is
// kept is believed only for the same path, device, inode, size, mtime and ctime, only when the file
// had rested for kRestingTime before it was hashed (a change within the clock's tick leaves no
// trace), and only when the entry's own check is right, it is ours and nobody else can write it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "weights/mapped_file.h"

namespace tailor::weights {

/// 0..1, while bytes are read.
using HashProgress = std::function<void(double)>;

/// 32 hexadecimal digits. Cost: about 10 GB/s where the bytes are in memory.
std::string content_hash(std::span<const std::byte> bytes, const HashProgress& on_progress = {});

/// The same of the first `bytes` of a mapped file, from the cache where that can be believed.
std::string file_hash(const MappedFile& file, uint64_t bytes, const HashProgress& on_progress = {});

/// Whether the file had rested long enough before `read_at_ns` (wall clock) for its times to tell
/// any later change.
bool had_rested(const FileIdentity& file, int64_t read_at_ns);

/// A folder that this user alone can write to, made where it is not there (0700; group's and
/// others' right to write is taken away). Errors: Unavailable (why not).
Result<void> make_private_folder(const std::string& folder);

/// Whether an open file is a plain one of this user that nobody else can write to.
bool is_private_file(int descriptor);

inline constexpr int64_t kRestingTimeNs = 2'000'000'000;
/// Smaller files are hashed each time: that costs less than looking for them.
inline constexpr uint64_t kHashKeptFrom = 1 << 20;
/// Kept hashes; beyond, those not used for the longest time go.
inline constexpr size_t kHashesKept = 512;

}  // namespace tailor::weights
