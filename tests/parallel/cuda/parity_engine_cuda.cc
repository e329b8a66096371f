#include "tests/parallel/cuda/device_engine.h"
#include "tests/parallel/cuda/test_device.h"
#include "tests/parallel/parity_engine.h"

namespace tailor::parallel::testing {

Result<std::unique_ptr<Engine>> make_parity_engine(const weights::WeightFiles& files,
                                                   const TpContext& tp) {
  EngineOptions options;
  options.dtype = parity_in_bf16() ? "bf16" : "f32";
  options.kv_bytes = files.config().num_layers > 8 ? 512 << 20 : 32 << 20;
  options.max_rows = 1024;
  TAILOR_ASSIGN(std::unique_ptr<Engine> engine,
                DeviceEngine::make(gpu::open_test_device(), files, tp, options));
  return engine;
}

}  // namespace tailor::parallel::testing
