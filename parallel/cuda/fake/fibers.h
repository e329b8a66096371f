// A GPU's blocks and threads on one CPU thread: what the kernel language (parallel/cuda/gpu.h)
// becomes where g++ compiles. Every thread of a block is a fiber that runs until it waits at a
// barrier or a warp's exchange; who goes on is drawn from a seed, anew each time or once for a
// block (then some run ahead as far as they can), and so is the order of the blocks. A missing
// barrier, which a card may forgive a thousand times, thus gives wrong results for most seeds.
// Shared memory lies on the heap in its exact size, filled with NaNs when a block begins: what is
// read before it is written shows, and under ASan an index beyond its end.
//
// Stricter than a card where that finds mistakes: the threads of a warp are not in step, all of a
// block must come to a barrier and all 32 lanes to an exchange (else the process aborts, and says
// who waits where), and a block has whole warps.
//
// Owner: whichever thread runs a launch; each has fibers of its own, kept for its next launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace tailor::parallel::gpu::fake {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

/// A kernel, ready to run.
struct Launch {
  const char* kernel = "";  ///< its name, for messages
  Dim3 grid, block;         ///< block: a multiple of 32 threads, at most 1,024
  size_t shared_bytes = 0;  ///< dynamic shared memory of a block
  std::function<void()> thread;
};

/// Runs all blocks to their end. The order of everything follows from `seed`.
/// Cost, for each thread: 40 to 90 ns a barrier or exchange, 150 to 400 ns under ASan (one core of
/// a shared 2-core machine).
void run(const Launch& launch, uint64_t seed);

/// Where seeds come from that nobody names: launches of this process take consecutive ones from
/// here on. Tests set it; any thread.
void set_next_seed(uint64_t seed);
uint64_t next_seed();

// ---- what a kernel's thread asks ----------------------------------------------------------------

struct Thread {
  Dim3 thread, block, block_dim, grid_dim;
  uint32_t index = 0;  ///< in its block
};
inline constinit thread_local const Thread* current = nullptr;  ///< null outside of kernels
inline const Thread& self() { return *current; }
inline int lane() { return static_cast<int>(current->index % 32); }

void sync_threads();

/// A collective of a warp: deposits 8 bytes or fewer, waits for all lanes, and takes what lane
/// `from` has deposited. `kind` must be the same for all lanes.
enum class Exchange { kSync, kShuffle, kBallot };
void exchange(Exchange kind, const void* value, size_t bytes, int from, void* out);
/// The lanes whose predicate holds.
uint32_t ballot(bool predicate);

/// The block's array that a declaration names by its `key`.
void* shared(const void* key, size_t bytes);
void* dynamic_shared();

}  // namespace tailor::parallel::gpu::fake
