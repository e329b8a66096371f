#include <cstdlib>

#include "parallel/engine_torch.h"
#include "tests/parallel/parity_engine.h"

namespace tailor::parallel::testing {

Result<std::unique_ptr<Engine>> make_parity_engine(const weights::WeightFiles& files,
                                                   const TpContext& tp) {
  EngineOptions options;
  if (const char* device = std::getenv("TAILOR_PARITY_DEVICE")) options.device = device;
  options.dtype = "f32";
  options.kv_dtype = "f32";
  options.kv_bytes = 512ull << 20;
  return make_torch_engine(files, tp, options);
}

}  // namespace tailor::parallel::testing
