#include "parallel/synchronous_engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace tailor::parallel {

SynchronousEngine::SynchronousEngine(Parts parts)
    : info_(std::move(parts.info)),
      bounds_{.max_rows = parts.max_rows,
              .max_context = info_.max_context,
              .num_blocks = info_.num_blocks,
              .block_tokens = info_.block_tokens,
              .vocab_size = info_.vocab_size},
      leads_(parts.leads),
      sampler_(leads_ ? info_.vocab_size : 0, std::move(parts.end_tokens)),
      slots_(static_cast<size_t>(leads_ ? parts.slots : 0)),
      // Not touched before it is needed.
      logits_(new float[slots_.size() * static_cast<size_t>(info_.vocab_size)]),
      logprobs_(slots_.size()) {
  tokens_.reserve(slots_.size());
}

void SynchronousEngine::open_slot(const OpenSlot& open) {
  TAILOR_CHECK(open.slot >= 0 && static_cast<size_t>(open.slot) < slots_.size(), "no such slot");
  TAILOR_CHECK(open.request != nullptr, "a slot is opened without a request");
  Slot& slot = slots_[static_cast<size_t>(open.slot)];
  TAILOR_CHECK(slot.request == nullptr, "a slot is opened twice");
  slot.request = open.request;
  slot.sample = open.sample;
  slot.emitted.assign(open.emitted.begin(), open.emitted.end());
  const int64_t most = std::min<int64_t>(open.request->sampling.max_tokens, info_.max_context);
  slot.emitted.reserve(static_cast<size_t>(std::max<int64_t>(most, 1)));
}

void SynchronousEngine::close_slot(SlotId id) {
  TAILOR_CHECK(id >= 0 && static_cast<size_t>(id) < slots_.size(), "no such slot");
  Slot& slot = slots_[static_cast<size_t>(id)];
  TAILOR_CHECK(slot.request != nullptr, "a slot is closed twice");
  slot.request.reset();
}

Result<void> SynchronousEngine::submit(const StepInput& input, const RowSampling& rows) {
  TAILOR_CHECK(!uncollected_, "a step is submitted before the last one was collected");
  const int32_t wanted = leads_ ? input.num_logits() : 0;
  TAILOR_TRY(check(input, bounds_));
  TAILOR_TRY(check(rows, input, info_, wanted));
  ++steps_;
  TAILOR_TRY(check_slots(rows.slots));

  const size_t values = static_cast<size_t>(wanted) * static_cast<size_t>(info_.vocab_size);
  const std::span<float> logits =
      rows.logits.empty() ? std::span<float>(logits_.get(), values) : rows.logits;
  const Time begin = now();
  if (input.num_rows() > 0) TAILOR_TRY(compute(input, logits, rows.taps));
  const Time computed = now();
  draw(rows.slots, logits);
  forward_time_ = computed - begin;
  sample_time_ = now() - computed;
  uncollected_ = true;
  return {};
}

Result<StepOutcome> SynchronousEngine::collect() {
  TAILOR_CHECK(uncollected_, "no step to collect");
  uncollected_ = false;
  return StepOutcome{tokens_, std::span(logprobs_).first(tokens_.size()), forward_time_,
                     sample_time_};
}

/// Each is open, and draws once.
Result<void> SynchronousEngine::check_slots(std::span<const SlotId> slots) {
  for (const SlotId id : slots) {
    const bool there = id >= 0 && static_cast<size_t>(id) < slots_.size() &&
                       slots_[static_cast<size_t>(id)].request != nullptr;
    if (!there || std::exchange(slots_[static_cast<size_t>(id)].last_step, steps_) == steps_)
      return fail(ErrorCode::kInvalidArgument,
                  "slot " + std::to_string(id) + (there ? " draws twice" : " is not open"));
  }
  return {};
}

void SynchronousEngine::draw(std::span<const SlotId> slots, std::span<const float> logits) {
  const auto vocab = static_cast<size_t>(info_.vocab_size);
  tokens_.clear();
  for (size_t row = 0; row < slots.size(); ++row) {
    Slot& slot = slots_[static_cast<size_t>(slots[row])];
    tokens_.push_back(sampler_.sample(*slot.request, slot.sample, slot.emitted,
                                      logits.subspan(row * vocab, vocab), &logprobs_[row]));
    if (tokens_.back()) slot.emitted.push_back(*tokens_.back());
  }
}

}  // namespace tailor::parallel
