#include "worker/offline_run.h"

#include <memory>
#include <string>
#include <utility>

namespace tailor::worker {

OfflineRun::OfflineRun(parallel::Engine& engine, const OfflineOptions& options)
    : engine_(engine),
      options_(options),
      planner_(options.planner),
      sampler_(engine.info().vocab_size, options.limits.eos_tokens),
      logits_(static_cast<size_t>(options.planner.slots) *
              static_cast<size_t>(engine.info().vocab_size)),
      hidden_(options.layers, options.planner.slots, engine.info().hidden_size) {}

void OfflineRun::add(Request request) {
  const auto shared = std::make_shared<const Request>(std::move(request));
  const std::vector<int32_t> generated(static_cast<size_t>(shared->sampling.n), 0);
  added_.clear();
  planner_.add(shared->id, static_cast<int32_t>(shared->prompt.size()), generated, added_);
  for (uint32_t sample = 0; sample < added_.size(); ++sample) {
    const auto index = static_cast<size_t>(added_[sample]);
    if (index >= states_.size()) states_.resize(index + 1);
    states_[index] = SequenceState{shared, Attempt{1}, sample, {}, false};
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
  for (const PlannedChunk& c : plan.chunks) {
    const SequenceState& state = states_[static_cast<size_t>(c.index)];
    if (wants_hidden(c)) hidden_.add(input_.num_rows() + c.num_tokens - 1, c.index);
    append_chunk(c, planner_.block_table(c.index), planner_.blocks().block_tokens(), state, input_);
  }
}

Result<void> OfflineRun::step(std::vector<OfflineAnswer>& ended) {
  const BatchPlan& plan = planner_.plan();
  if (!plan.unfit.empty())
    return fail(ErrorCode::kOutOfBlocks,
                "a sequence needs " + std::to_string(plan.unfit.front().blocks_needed) +
                    " KV blocks, the pool has " + std::to_string(planner_.blocks().capacity()));
  if (plan.chunks.empty()) return {};
  build_input(plan);
  const auto vocab = static_cast<size_t>(engine_.info().vocab_size);
  TAILOR_TRY(engine_.forward(
      input_, std::span(logits_).first(static_cast<size_t>(input_.num_logits()) * vocab),
      hidden_.taps(), progress_));
  for (size_t i = 0; i < hidden_.size() && on_hidden; ++i) {
    const SequenceState& state = states_[static_cast<size_t>(hidden_.index(i))];
    on_hidden(state.id(), static_cast<uint32_t>(state.emitted.size()), hidden_.values(i));
  }
  return draw_tokens(plan, ended);
}

Result<void> OfflineRun::draw_tokens(const BatchPlan& plan, std::vector<OfflineAnswer>& ended) {
  const auto vocab = static_cast<size_t>(engine_.info().vocab_size);
  size_t row = 0;
  for (const PlannedChunk& c : plan.chunks) {
    if (!c.wants_logits) continue;
    SequenceState& state = states_[static_cast<size_t>(c.index)];
    TAILOR_ASSIGN(
        const TokenId token,
        sampler_.sample(*state.request, state.sample, state.emitted,
                        std::span<const float>(logits_).subspan(row * vocab, vocab), nullptr));
    ++row;
    state.emitted.push_back(token);
    const FinishReason finish = finish_reason(*state.request, state.emitted, options_.limits);
    if (finish == FinishReason::kNone) {
      planner_.token_drawn(c.index);
      continue;
    }
    planner_.finish(c.index);
    ended.push_back({state.id(), static_cast<uint32_t>(state.request->prompt.size()),
                     std::move(state.emitted), finish});
    state = SequenceState{};
  }
  return {};
}

}  // namespace tailor::worker
