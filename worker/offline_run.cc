#include "worker/offline_run.h"

#include <memory>
#include <string>
#include <utility>

namespace tailor::worker {

OfflineRun::OfflineRun(parallel::Engine& engine, const OfflineOptions& options)
    : engine_(engine),
      options_(options),
      planner_(options.planner),
      hidden_(options.layers, options.planner.slots, engine.info().hidden_size) {}

void OfflineRun::add(Request request) {
  const auto shared = std::make_shared<const Request>(std::move(request));
  const std::vector<int32_t> generated(static_cast<size_t>(shared->sampling.n), 0);
  added_.clear();
  planner_.add(shared->id, static_cast<int32_t>(shared->prompt.size()), generated, added_);
  for (uint32_t sample = 0; sample < added_.size(); ++sample) {
    const auto index = static_cast<size_t>(added_[sample]);
    if (index >= states_.size()) states_.resize(index + 1);
    states_[index] = SequenceState{shared, Attempt{1}, sample, {}, -1, false};
  }
}

bool OfflineRun::wants_hidden(const PlannedChunk& chunk) const {
  if (options_.layers.empty() || !chunk.wants_logits) return false;
  const SequenceState& state = states_[static_cast<size_t>(chunk.index)];
  if (state.emitted.empty()) return state.sample == 0;
  return options_.tap_every > 0 &&
         state.emitted.size() % static_cast<size_t>(options_.tap_every) == 0;
}

void OfflineRun::build_input(const BatchPlan& plan) {
  input_.clear();
  ++input_.step;
  hidden_.clear();
  drawing_.clear();
  for (const PlannedChunk& c : plan.chunks) {
    const SequenceState& state = states_[static_cast<size_t>(c.index)];
    if (wants_hidden(c)) hidden_.add(input_.num_rows() + c.num_tokens - 1, c.index);
    if (c.wants_logits) drawing_.push_back(state.slot);
    append_chunk(c, planner_.block_table(c.index), planner_.blocks().block_tokens(), state, input_);
  }
}

Result<void> OfflineRun::step(std::vector<OfflineAnswer>& ended) {
  const BatchPlan& plan = planner_.plan();
  if (!plan.unfit.empty())
    return fail(ErrorCode::kOutOfBlocks,
                "a sequence needs " + std::to_string(plan.unfit.front().blocks_needed) +
                    " KV blocks, the pool has " + std::to_string(planner_.blocks().capacity()));
  for (const PreemptedSequence& victim : plan.preempted) {
    SequenceState& state = states_[static_cast<size_t>(victim.index)];
    engine_.close_slot(std::exchange(state.slot, -1));
  }
  for (const AdmittedSequence& admitted : plan.admitted) {
    SequenceState& state = states_[static_cast<size_t>(admitted.index)];
    state.slot = admitted.slot;
    engine_.open_slot({state.slot, state.request, state.sample, state.emitted});
  }
  if (plan.chunks.empty()) return {};
  build_input(plan);
  TAILOR_TRY(engine_.submit(input_, {.slots = drawing_, .taps = hidden_.taps()}));
  TAILOR_ASSIGN(const parallel::StepOutcome drawn, engine_.collect());
  for (size_t i = 0; i < hidden_.size() && on_hidden; ++i) {
    const SequenceState& state = states_[static_cast<size_t>(hidden_.index(i))];
    on_hidden(state.id(), static_cast<uint32_t>(state.emitted.size()), hidden_.values(i));
  }
  return take_tokens(plan, drawn, ended);
}

Result<void> OfflineRun::take_tokens(const BatchPlan& plan, const parallel::StepOutcome& drawn,
                                     std::vector<OfflineAnswer>& ended) {
  size_t row = 0;
  for (const PlannedChunk& c : plan.chunks) {
    if (!c.wants_logits) continue;
    SequenceState& state = states_[static_cast<size_t>(c.index)];
    TAILOR_ASSIGN(const TokenId token, drawn.tokens[row]);
    ++row;
    state.emitted.push_back(token);
    const FinishReason finish = finish_reason(*state.request, state.emitted, options_.limits);
    if (finish == FinishReason::kNone) {
      planner_.token_drawn(c.index);
      continue;
    }
    planner_.finish(c.index);
    engine_.close_slot(state.slot);
    ended.push_back({state.id(), static_cast<uint32_t>(state.request->prompt.size()),
                     std::move(state.emitted), finish});
    state = SequenceState{};
  }
  return {};
}

}  // namespace tailor::worker
