// What a stream is where there is no GPU: a queue of work. Kernels that g++ compiles put themselves
// into it (run_on), so that they need not know the fake device, and a test of kernels alone needs
// no device at all.
#pragma once

#include <functional>

#include "base/result.h"
#include "parallel/cuda/stream.h"

namespace tailor::parallel::gpu {

struct StreamHandle {
  virtual ~StreamHandle() = default;
  /// Runs `work` behind what was put in before, on the stream's own thread. An error of it stays in
  /// the stream: nothing behind it runs, and every wait for it says so. Errors: that of earlier
  /// work.
  virtual Result<void> put(std::function<Result<void>()> work) = 0;
};

/// Puts `work` into the stream; without one (null) runs it at once.
inline Result<void> run_on(Stream stream, std::function<Result<void>()> work) {
  return stream == nullptr ? work() : stream->put(std::move(work));
}

}  // namespace tailor::parallel::gpu
