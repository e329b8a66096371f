#include "tests/parallel/cuda/fake_engine.h"
#include "tests/parallel/parity_engine.h"

namespace tailor::parallel::testing {

Result<std::unique_ptr<Engine>> make_parity_engine(const weights::WeightFiles& files,
                                                   const TpContext& tp) {
  EngineOptions options;
  options.dtype = "f32";
  options.kv_bytes = 32 << 20;
  options.max_rows = 1024;
  TAILOR_ASSIGN(std::unique_ptr<Engine> engine, FakeDeviceEngine::make(files, tp, options));
  return engine;
}

}  // namespace tailor::parallel::testing
