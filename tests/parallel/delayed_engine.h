// DelayedEngine: launch-ahead for tests. Two submissions may be uncollected; a step is computed as
// late as the rules of parallel/engine.h allow, when it is collected, by an engine of depth 1, and
// everything takes effect in the order of the calls; what cannot be is refused when it is
// submitted. It puts in the tokens that rows name of the previous step; rank 0's reach the others
// through the collective.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/check.h"
#include "parallel/engine.h"

namespace tailor::parallel::testing {

class DelayedEngine : public Engine {
 public:
  /// `collective`: null at tensor-parallel size 1. `max_rows` as the inner engine's.
  DelayedEngine(Engine& inner, comm::Collective* collective, int32_t max_rows = 1 << 20)
      : inner_(inner), collective_(collective), max_rows_(max_rows) {
    TAILOR_CHECK(inner.depth() == 1, "only an engine of depth 1 can be delayed");
  }

  const EngineInfo& info() const override { return inner_.info(); }
  int depth() const override { return 2; }

  void open_slot(const OpenSlot& open) override {
    open_.insert(open.slot);
    calls_.push_back(Open{open, {open.emitted.begin(), open.emitted.end()}});
    run_slot_calls();
  }
  void close_slot(SlotId slot) override {
    open_.erase(slot);
    calls_.push_back(Close{slot});
    run_slot_calls();
  }

  Result<void> submit(const StepInput& input, const RowSampling& rows) override {
    TAILOR_CHECK(uncollected_ < depth(), "more than two steps in flight");
    TAILOR_TRY(check(input, {.max_rows = max_rows_,
                             .max_context = info().max_context,
                             .num_blocks = info().num_blocks,
                             .block_tokens = info().block_tokens,
                             .vocab_size = info().vocab_size,
                             .drawing_rows = drawing_rows_}));
    const bool leads = collective_ == nullptr || collective_->rank() == 0;
    TAILOR_TRY(check(rows, input, info(), leads ? input.num_logits() : 0));
    std::set<SlotId> drawing;
    for (const SlotId slot : rows.slots)
      if (open_.count(slot) == 0 || !drawing.insert(slot).second)
        return fail(ErrorCode::kInvalidArgument,
                    "slot " + std::to_string(slot) + " is not open, or draws twice");
    calls_.push_back(Step{input,
                          {rows.slots.begin(), rows.slots.end()},
                          rows.logits,
                          {rows.taps.rows.begin(), rows.taps.rows.end()},
                          {rows.taps.layers.begin(), rows.taps.layers.end()},
                          rows.taps.out});
    drawing_rows_ = input.num_logits();
    ++uncollected_;
    return {};
  }

  Result<StepOutcome> collect() override {
    TAILOR_CHECK(uncollected_ > 0, "no step to collect");
    --uncollected_;
    run_slot_calls();
    Step step = std::move(std::get<Step>(calls_.front()));
    calls_.pop_front();
    TAILOR_TRY(put_in_drawn(step.input));
    TAILOR_TRY(inner_.submit(
        step.input, {step.slots, step.logits, {step.tap_rows, step.tap_layers, step.tap_out}}));
    TAILOR_ASSIGN(const StepOutcome outcome, inner_.collect());
    drawn_.assign(static_cast<size_t>(step.input.num_logits()), 0);
    for (size_t row = 0; row < outcome.tokens.size(); ++row)
      drawn_[row] = outcome.tokens[row].value_or(0);
    if (uncollected_ == 0) run_slot_calls();
    return outcome;
  }

 private:
  struct Open {
    OpenSlot open;
    std::vector<TokenId> emitted;
  };
  struct Close {
    SlotId slot;
  };
  struct Step {
    StepInput input;
    std::vector<SlotId> slots;
    std::span<float> logits;
    std::vector<int32_t> tap_rows, tap_layers;
    std::span<float> tap_out;
  };

  /// Those that no uncollected step precedes.
  void run_slot_calls() {
    for (; !calls_.empty() && !std::holds_alternative<Step>(calls_.front()); calls_.pop_front()) {
      if (auto* open = std::get_if<Open>(&calls_.front())) {
        open->open.emitted = open->emitted;
        inner_.open_slot(open->open);
      } else {
        inner_.close_slot(std::get<Close>(calls_.front()).slot);
      }
    }
  }

  /// Every rank sees from the input whether there is anything to say.
  Result<void> put_in_drawn(StepInput& input) {
    std::vector<TokenId>& ids = input.token_ids;
    if (std::none_of(ids.begin(), ids.end(), [](TokenId id) { return id < 0; })) return {};
    if (collective_ != nullptr && collective_->size() > 1)
      TAILOR_TRY(collective_->broadcast(std::as_writable_bytes(std::span(drawn_)), 0));
    for (TokenId& id : ids)
      if (id < 0) id = drawn_[static_cast<size_t>(drawing_row(id))];
    return {};
  }

  Engine& inner_;
  comm::Collective* const collective_;
  const int32_t max_rows_;
  std::set<SlotId> open_;                              // as of the last call
  std::deque<std::variant<Open, Close, Step>> calls_;  // in order, not done yet
  int uncollected_ = 0;
  int32_t drawing_rows_ = 0;    // of the last submission
  std::vector<TokenId> drawn_;  // by wanted row of the last collected one
};

}  // namespace tailor::parallel::testing
