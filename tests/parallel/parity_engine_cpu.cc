#include "parallel/engine_cpu.h"
#include "tests/parallel/parity_engine.h"

namespace tailor::parallel::testing {

Result<std::unique_ptr<Engine>> make_parity_engine(const weights::WeightFiles& files,
                                                   const TpContext& tp) {
  EngineOptions options;
  options.dtype = "f32";
  options.kv_dtype = "f32";
  options.kv_bytes = 512ull << 20;
  return make_cpu_engine(files, tp, options);
}

}  // namespace tailor::parallel::testing
