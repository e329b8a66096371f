// SynchronousEngine: what engines share whose step is one blocking call (CPU, torch, those of
// tests): the face of parallel/engine.h at depth 1 around compute(). Checks every submission, keeps
// the slots, and draws with parallel/sampler.h from logits on the host. submit() does the work.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/request.h"
#include "base/result.h"
#include "parallel/engine.h"
#include "parallel/sampler.h"
#include "parallel/step_input.h"

namespace tailor::parallel {

class SynchronousEngine : public Engine {
 public:
  const EngineInfo& info() const final { return info_; }
  int depth() const final { return 1; }
  void open_slot(const OpenSlot& open) final;
  void close_slot(SlotId slot) final;
  Result<void> submit(const StepInput& input, const RowSampling& rows) final;
  Result<StepOutcome> collect() final;

 protected:
  struct Parts {
    EngineInfo info;
    int32_t max_rows = 0;
    bool leads = true;  ///< rank 0: draws, and takes logits
    int32_t slots = 0;
    std::vector<TokenId> end_tokens;
  };
  explicit SynchronousEngine(Parts parts);

  /// A checked step with at least one row, all of it. `logits` [wanted rows, vocab_size], on rank 0
  /// only. Errors: as submit.
  virtual Result<void> compute(const StepInput& input, std::span<float> logits,
                               const HiddenTaps& taps) = 0;

 private:
  struct Slot {
    std::shared_ptr<const Request> request;  // null = closed
    uint32_t sample = 0;
    uint64_t last_step = 0;  // in which it draws
    std::vector<TokenId> emitted;
  };
  Result<void> check_slots(std::span<const SlotId> slots);
  void draw(std::span<const SlotId> slots, std::span<const float> logits);

  const EngineInfo info_;
  const StepBounds bounds_;
  const bool leads_;
  Sampler sampler_;
  std::vector<Slot> slots_;
  std::unique_ptr<float[]> logits_;  // [slots, vocab_size], where the caller wants none
  uint64_t steps_ = 0;

  // The step that is not collected yet, and what became of it.
  bool uncollected_ = false;
  std::vector<Result<TokenId>> tokens_;
  std::vector<LogprobEntry> logprobs_;
  Duration forward_time_{}, sample_time_{};
};

}  // namespace tailor::parallel
