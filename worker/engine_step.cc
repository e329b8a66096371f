#include "worker/engine_step.h"

#include <utility>

namespace tailor::worker {

EngineStep::EngineStep(std::vector<int32_t> layers, int32_t slots, int64_t hidden_size)
    : layers_(std::move(layers)),
      each_(layers_.size() * static_cast<size_t>(hidden_size)),
      hidden_(static_cast<size_t>(slots) * each_) {
  slots_.reserve(static_cast<size_t>(slots));
  tapped_rows_.reserve(static_cast<size_t>(slots));
}

void EngineStep::lay_out(const ReplicaCore& core, const Step& step) {
  input_.clear();
  slots_.clear();
  tapped_rows_.clear();
  input_.step = step.number;
  input_.moves.assign(step.moves.begin(), step.moves.end());
  const int32_t block_tokens = core.planner().blocks().block_tokens();
  auto draw = step.draws.begin();
  auto tap = step.taps.begin();
  for (size_t i = 0; i < step.chunks.size(); ++i) {
    const PlannedChunk& c = step.chunks[i];
    const ReplicaSequence& s = core.sequence(c.index);
    const int32_t end = c.first_position + c.num_tokens;
    auto table = core.planner().block_table(c.index);
    table = table.first(static_cast<size_t>((end + block_tokens - 1) / block_tokens));
    input_.chunks.push_back({.first_row = input_.num_rows(),
                             .num_rows = c.num_tokens,
                             .first_position = c.first_position,
                             .first_block = static_cast<int32_t>(input_.block_ids.size()),
                             .num_blocks = static_cast<int32_t>(table.size()),
                             .wants_logits = c.wants_logits});
    input_.block_ids.insert(input_.block_ids.end(), table.begin(), table.end());
    for (int32_t position = c.first_position; position + 1 < end; ++position)
      input_.token_ids.push_back(s.token_at(position));
    const bool awaited = c.wants_logits && draw->drawn_in >= 0;
    input_.token_ids.push_back(awaited ? parallel::drawn_in_row(draw->drawn_in)
                                       : s.token_at(end - 1));
    if (!c.wants_logits) continue;
    slots_.push_back(s.slot);
    if (tap != step.taps.end() && tap->chunk == draw->chunk) {
      tapped_rows_.push_back(input_.num_rows() - 1);
      ++tap;
    }
    ++draw;
  }
}

parallel::RowSampling EngineStep::rows() {
  parallel::RowSampling rows{.slots = slots_};
  if (!tapped_rows_.empty())
    rows.taps = {tapped_rows_, layers_, std::span(hidden_).first(tapped_rows_.size() * each_)};
  return rows;
}

void move_slots(ReplicaCore& core, const Step* step, parallel::Engine& engine,
                std::vector<parallel::SlotId>& scratch) {
  scratch.clear();
  core.take_closed_slots(scratch);
  for (const parallel::SlotId slot : scratch) engine.close_slot(slot);
  if (step == nullptr) return;
  for (const AdmittedSequence& a : step->admitted) {
    const ReplicaSequence& s = core.sequence(a.index);
    engine.open_slot({a.slot, s.request, s.id.sample, s.emitted});
  }
}

}  // namespace tailor::worker
