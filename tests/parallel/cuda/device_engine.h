// The cuda engine over a device of its own, with what it stands on: for tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "parallel/cuda/block_store_cuda.h"
#include "parallel/cuda/collective_staged.h"
#include "parallel/cuda/engine_cuda.h"

namespace tailor::parallel::testing {

class DeviceEngine final : public Engine {
 public:
  /// `tp.collective` is one on host memory.
  static Result<std::unique_ptr<DeviceEngine>> make(std::unique_ptr<gpu::Device> device,
                                                    const weights::WeightFiles& files, TpContext tp,
                                                    EngineOptions options,
                                                    int32_t host_blocks = 0) {
    auto out = std::unique_ptr<DeviceEngine>(new DeviceEngine);
    out->device_ = std::move(device);
    if (tp.collective != nullptr && tp.size > 1) {
      out->collective_ =
          gpu::make_staged_collective(*out->device_, *tp.collective, options.device_deadline);
      tp.collective = out->collective_.get();
    }
    options.make_store = [&](const kv::BlockLayout& layout, int32_t num_blocks) {
      auto store =
          gpu::make_cuda_store(*out->device_, {.host_blocks = host_blocks}, layout, num_blocks);
      if (store) out->store_ = *store;
      return store;
    };
    TAILOR_ASSIGN(out->engine_, make_cuda_engine(*out->device_, files, tp, options));
    return out;
  }

  gpu::Device& device() { return *device_; }
  kv::BlockStore& store() { return *store_; }

  const EngineInfo& info() const override { return engine_->info(); }
  int depth() const override { return engine_->depth(); }
  void open_slot(const OpenSlot& open) override { engine_->open_slot(open); }
  void close_slot(SlotId slot) override { engine_->close_slot(slot); }
  Result<void> submit(const StepInput& input, const RowSampling& rows) override {
    return engine_->submit(input, rows);
  }
  Result<StepOutcome> collect() override { return engine_->collect(); }

 private:
  DeviceEngine() = default;

  std::unique_ptr<gpu::Device> device_;
  std::unique_ptr<comm::Collective> collective_;
  std::shared_ptr<kv::BlockStore> store_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace tailor::parallel::testing
