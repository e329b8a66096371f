// EngineStep: a step of ReplicaCore on its way through an engine: its rows as parallel::StepInput,
// the slots that draw, and room for the hidden states that somebody wants. Reused from step to
// step: allocates once. Owner: the thread that drives the engine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/engine.h"
#include "worker/replica_core.h"

namespace tailor::worker {

class EngineStep {
 public:
  /// `layers` whose hidden states the core's probe marks are about; empty = none.
  EngineStep(std::vector<int32_t> layers, int32_t slots, int64_t hidden_size);

  void lay_out(const ReplicaCore& core, const Step& step);

  /// Valid until the next lay_out().
  const parallel::StepInput& input() const { return input_; }
  parallel::RowSampling rows();
  /// [layers, hidden_size] of tap `i`, once the step is collected.
  std::span<const float> hidden(size_t i) const {
    return std::span(hidden_).subspan(i * each_, each_);
  }

 private:
  const std::vector<int32_t> layers_;
  const size_t each_;  // values of one tap
  parallel::StepInput input_;
  std::vector<parallel::SlotId> slots_;
  std::vector<int32_t> tapped_rows_;
  std::vector<float> hidden_;
};

/// Tells the engine which sequences have left their slots and which ones `step` (null: none)
/// begins to run. Before the step is submitted. `scratch` is reused.
void move_slots(ReplicaCore& core, const Step* step, parallel::Engine& engine,
                std::vector<parallel::SlotId>& scratch);

}  // namespace tailor::worker
