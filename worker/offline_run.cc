#include "worker/offline_run.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tailor::worker {

OfflineRun::OfflineRun(parallel::Engine& engine, const OfflineOptions& options)
    : engine_(engine),
      core_({.planner = options.planner,
             .limits = options.limits,
             .vocab_size = engine.info().vocab_size,
             .probe = {.prompt = !options.layers.empty(),
                       .every = options.layers.empty() ? 0 : options.tap_every}}),
      engine_step_(options.layers, options.planner.slots, engine.info().hidden_size),
      texts_(options.tokenizer) {
  TAILOR_CHECK(engine.info().block_tokens == options.planner.block_tokens,
               "the planner counts blocks of another size than the engine's");
}

void OfflineRun::add(Request request) {
  const Dispatch dispatch{request.id, Attempt{1}, static_cast<uint32_t>(request.sampling.n),
                          static_cast<uint32_t>(request.prompt.size()),
                          static_cast<uint32_t>(request.sampling.max_tokens)};
  for (uint32_t sample = 0; sample < dispatch.samples; ++sample)
    open_[{request.id, sample}] = {{request.id, sample}, dispatch.prompt_tokens, {}, {}};
  core_.apply({{}, dispatch}, {std::make_shared<const Request>(std::move(request)), {}});
}

Result<void> OfflineRun::step(std::vector<OfflineAnswer>& ended) {
  ReportDraft* draft = nullptr;
  if (const Step* step = core_.begin()) {
    TAILOR_ASSIGN(draft, compute(*step));
  } else if (core_.unreported()) {
    draft = &core_.report();
  } else {
    return {};
  }
  texts_.complete(*draft);
  for (const StopFound& stop : texts_.take_stops()) core_.apply(stop);
  move_slots(core_, nullptr, engine_, scratch_);
  return take(*draft, ended);
}

Result<ReportDraft*> OfflineRun::compute(const Step& step) {
  engine_step_.lay_out(core_, step);
  TAILOR_CHECK(step.moves.empty(), "an offline run has no store to move blocks in");
  move_slots(core_, &step, engine_, scratch_);
  TAILOR_TRY(engine_.submit(engine_step_.input(), engine_step_.rows()));
  TAILOR_ASSIGN(const parallel::StepOutcome drawn, engine_.collect());
  for (size_t i = 0; i < step.taps.size() && on_hidden; ++i)
    on_hidden(core_.sequence(step.taps[i].sequence).id, step.taps[i].generated,
              engine_step_.hidden(i));
  return &core_.end({.tokens = drawn.tokens, .logprobs = drawn.logprobs});
}

Result<void> OfflineRun::take(const ReportDraft& draft, std::vector<OfflineAnswer>& ended) {
  for (const SequenceEnd& end : draft.payload.ends)
    if (end.error.code != ErrorCode::kOk) return tl::unexpected(end.error);
  auto ids = draft.payload.token_ids.begin();
  for (const SequenceProgress& entry : draft.report.progress) {
    const auto answer = open_.find(entry.sequence());
    auto& tokens = answer->second.tokens;
    tokens.insert(tokens.end(), ids, ids + entry.num_tokens);
    ids += entry.num_tokens;
    if (entry.finish == FinishReason::kNone) continue;
    answer->second.finish = entry.finish;
    ended.push_back(std::move(answer->second));
    open_.erase(answer);
  }
  return {};
}

}  // namespace tailor::worker
