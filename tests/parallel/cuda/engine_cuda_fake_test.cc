// The cuda engine on a device that counts its memory, has little of it, or hangs.
#include "parallel/cuda/device_fake.h"
#include "tests/parallel/cuda/engine_rig.h"

namespace tailor::parallel::testing {
namespace {

TEST(CudaEngine, AllocatesNothingAfterItsFirstSteps) {
  const auto files = small_model();
  std::atomic<uint64_t> progress{0};
  EngineOptions options = small_options();
  options.progress = &progress;
  const auto engine = cuda_engine(*files, {}, options);
  decode_greedily(*engine, 2, {2, 0, 5});
  const auto before = gpu::fake_device_use(engine->device());
  const uint64_t layers = progress;
  decode_greedily(*engine, 6, {2, 0, 5});
  const auto after = gpu::fake_device_use(engine->device());
  EXPECT_EQ(before.device_bytes, after.device_bytes);
  EXPECT_EQ(before.pinned_bytes, after.pinned_bytes);
  EXPECT_EQ(progress, layers + 6 * static_cast<uint64_t>(engine->info().num_layers));
}

TEST(CudaEngine, RefusesWhatItCannotBecome) {
  const auto files = small_model();
  const auto refused = [&](TpContext tp, const std::function<void(EngineOptions&)>& change,
                           ErrorCode code, uint64_t memory_bytes = 1 << 28) {
    EngineOptions options = small_options();
    change(options);
    const auto device = gpu::open_fake_device({.memory_bytes = memory_bytes});
    auto engine = make_cuda_engine(*device, *files, tp, options);
    EXPECT_FALSE(engine.has_value());
    if (!engine) {
      EXPECT_EQ(engine.error().code, code) << engine.error().message;
    }
  };
  const auto as_it_is = [](EngineOptions&) {};
  refused({0, 4, nullptr}, as_it_is, ErrorCode::kInvalidArgument);  // 3 groups
  refused(
      {}, [](EngineOptions& o) { o.dtype = "f64"; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.kv_dtype = "f16"; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.max_context = 1 << 20; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.max_context = 512, o.kv_bytes = 100000; },
      ErrorCode::kLimitExceeded);
  refused({}, as_it_is, ErrorCode::kLimitExceeded, 1 << 20);
}

TEST(CudaEngine, ADeviceThatHangsEndsTheRankAtTheDeadline) {
  const auto files = small_model();
  EngineOptions options = small_options();
  options.device_deadline = milliseconds(300);
  // Loading takes some pieces of work; the hang comes in the middle of a later step.
  const auto engine = cuda_engine(
      *files, {}, options, gpu::open_fake_device({.late_by = Duration(0), .hangs_after = 150}));
  std::vector<float> logits(kVocab);
  for (int i = 0; i < 100; ++i) {
    const auto done = forward(*engine, prompt_step(), logits);
    if (done) continue;
    EXPECT_EQ(done.error().code, ErrorCode::kTimeout) << done.error().message;
    const auto again = engine->submit(prompt_step(), {.logits = logits});
    EXPECT_EQ(again.error().code, ErrorCode::kTimeout);
    return;
  }
  ADD_FAILURE() << "a hang was not noticed";
}

}  // namespace
}  // namespace tailor::parallel::testing
