#include "worker/follower_loop.h"

#include <optional>

#include "base/log.h"
#include "worker/move_runner.h"
#include "worker/plan_channel.h"

namespace tailor::worker {
namespace {

/// Moves, submits and collects when the leader does.
Result<void> follow(parallel::Engine& engine, MoveRunner& moves, PlanKind kind,
                    const parallel::StepInput& input, int& uncollected) {
  switch (kind) {
    case PlanKind::kStep:
      TAILOR_TRY(moves.begin(input.moves));
      moves.take();  // the leader's affair
      TAILOR_TRY(engine.submit(input, {}));
      if (++uncollected < engine.depth()) return {};
      break;
    case PlanKind::kCollect:
      break;
    case PlanKind::kAgree:
      TAILOR_TRY(moves.begin({}));
      moves.take();
      return {};
    case PlanKind::kSleep:
    case PlanKind::kShutdown:
      return fail(ErrorCode::kInternal, "a plan that is no work");
  }
  --uncollected;
  TAILOR_TRY(engine.collect());
  return {};
}

/// Replays until kSleep (nothing returned) or the end.
std::optional<LoopExit> replay(const FollowerParts& parts, PlanChannel& channel, MoveRunner& moves,
                               parallel::StepInput& input) {
  for (int uncollected = 0;;) {
    parts.progress.busy = false;
    auto plan = channel.receive(input);
    parts.progress.busy = true;
    if (!plan) {
      LOG_ERROR("no plan from the leader: {}", to_string(plan.error()));
      return LoopExit{kExitDevice, false};
    }
    ++parts.progress.counter;
    if (plan->kind == PlanKind::kSleep) return std::nullopt;
    if (plan->kind == PlanKind::kShutdown) return LoopExit{plan->exit_code, true};
    if (auto done = follow(parts.engine, moves, plan->kind, input, uncollected); !done) {
      LOG_ERROR("step {} failed: {}", input.step, to_string(done.error()));
      return LoopExit{kExitDevice, false};
    }
  }
}

}  // namespace

LoopExit run_follower(const FollowerParts& parts, Duration idle_wait) {
  PlanChannel channel(&parts.control, parts.engine.depth() > 1);
  MoveRunner moves(parts.store, &parts.control);
  parallel::StepInput input;
  for (;;) {
    parts.progress.busy = false;
    auto inputs = parts.io.inbox().drain_wait(idle_wait);
    parts.progress.busy = true;
    ++parts.progress.counter;
    for (comm::WorkerInput& item : inputs) {
      if (std::holds_alternative<comm::Doorbell>(item)) {
        if (auto end = replay(parts, channel, moves, input)) return *end;
      } else if (std::holds_alternative<comm::LinkDown>(item)) {
        LOG_ERROR("the coordinator is silent: leaving");
        return {kExitCoordinatorLost, false};
      }
    }
  }
}

}  // namespace tailor::worker
