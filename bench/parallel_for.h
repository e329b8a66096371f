// Runs body(0) .. body(count - 1) on a few threads, in any order. The results must not depend on
// it: each index writes its own slot.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace tailor::bench {

/// `progress(done)` is called from the calling thread only. The body must not throw.
inline void parallel_for(size_t count, int threads, const std::function<void(size_t)>& body,
                         const std::function<void(size_t)>& progress = {}) {
  std::atomic<size_t> next = 0, done = 0;
  const auto work = [&](bool reports) {
    for (size_t i = next++; i < count; i = next++) {
      body(i);
      const size_t now = ++done;
      if (reports && progress) progress(now);
    }
  };
  std::vector<std::jthread> helpers;
  for (int t = 1; t < std::max(1, threads); ++t) helpers.emplace_back(work, false);
  work(true);
}

}  // namespace tailor::bench
