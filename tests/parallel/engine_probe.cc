// Measures the torch engine by hand (not a test): load time, memory, milliseconds per decode step
// at several batch sizes and contexts, prompt tokens per second. Usage: engine_probe MODEL
// [threads] [dtype]
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "parallel/engine_torch.h"

namespace tailor::parallel {
namespace {

/// `rows` sequences of one decode row each at `position`, or one chunk of `rows` prompt tokens.
StepInput make_step(int32_t rows, int32_t position, bool prompt, int32_t num_blocks) {
  StepInput step;
  const int32_t chunks = prompt ? 1 : rows;
  for (int32_t c = 0; c < chunks; ++c) {
    Chunk chunk;
    chunk.first_row = step.num_rows();
    chunk.num_rows = prompt ? rows : 1;
    chunk.first_position = position;
    chunk.first_block = static_cast<int32_t>(step.block_ids.size());
    chunk.num_blocks = (position + chunk.num_rows + 15) / 16;
    chunk.wants_logits = 1;
    for (int32_t r = 0; r < chunk.num_rows; ++r) step.token_ids.push_back((c * 31 + r * 7) % 49152);
    for (int32_t b = 0; b < chunk.num_blocks; ++b)
      step.block_ids.push_back((c * chunk.num_blocks + b) % num_blocks);
    step.chunks.push_back(chunk);
  }
  return step;
}

int run(const std::string& path, int threads, const std::string& dtype) {
  const Time start = now();
  auto files = weights::WeightFiles::open(path);
  if (!files) return std::fprintf(stderr, "%s\n", to_string(files.error()).c_str()), 1;
  EngineOptions options;
  options.threads = threads;
  options.dtype = dtype;
  auto engine = make_torch_engine(**files, TpContext{}, options);
  if (!engine) return std::fprintf(stderr, "%s\n", to_string(engine.error()).c_str()), 1;
  log_ready((*engine)->info());
  std::printf("load %.2f s\n", to_seconds(now() - start));
  std::vector<float> logits;
  const auto time_step = [&](int32_t rows, int32_t position, bool prompt) {
    const StepInput step = make_step(rows, position, prompt, (*engine)->info().num_blocks);
    logits.resize(static_cast<size_t>(step.num_logits() * (*engine)->info().vocab_size));
    double best = 1e9;
    for (int i = 0; i < 5; ++i) {
      const Time begin = now();
      if (auto done = forward(**engine, step, logits); !done) {
        std::fprintf(stderr, "%s\n", to_string(done.error()).c_str());
        std::exit(1);
      }
      best = std::min(best, to_seconds(now() - begin));
    }
    return best;
  };
  for (int32_t context : {100, 1000}) {
    for (int32_t rows : {1, 8, 32}) {
      const double s = time_step(rows, context, false);
      std::printf("decode rows %2d context %4d: %7.1f ms/step  %7.1f tokens/s\n", rows, context,
                  s * 1e3, rows / s);
    }
  }
  for (int32_t rows : {64, 256, 512}) {
    const double s = time_step(rows, 0, true);
    std::printf("prompt rows %3d: %7.1f ms/step  %7.1f tokens/s\n", rows, s * 1e3, rows / s);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("peak RSS %ld MiB\n", usage.ru_maxrss / 1024);
  return 0;
}

}  // namespace
}  // namespace tailor::parallel

int main(int argc, char** argv) {
  tailor::init_logging("probe", "info");
  if (argc < 2) return std::fprintf(stderr, "usage: engine_probe MODEL [threads] [dtype]\n"), 2;
  return tailor::parallel::run(argv[1], argc > 2 ? std::atoi(argv[2]) : 1,
                               argc > 3 ? argv[3] : "auto");
}
