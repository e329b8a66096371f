#include "parallel/cuda/slots_cuda.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "parallel/cuda/places.h"
#include "parallel/cuda/slot_state.h"

namespace tailor::parallel::gpu {
namespace {

/// What is the slots' on the device.
struct DevicePlaces {
  SamplerState state;
  int32_t *bias_ids, *stop_ids, *end_tokens, *tokens;
  float* bias_values;
  Sampling sampling;

  DevicePlaces(Places& places, const SlotsOptions& options) {
    const auto slots = static_cast<size_t>(options.slots);
    const auto vocab = static_cast<size_t>(options.vocab_size);
    state.slots = places.take<SlotState>(slots);
    state.counts = places.take<uint32_t>(slots * vocab);
    state.bias_ids = bias_ids = places.take<int32_t>(slots * kMaxBiases);
    state.bias_values = bias_values = places.take<float>(slots * kMaxBiases);
    state.stop_ids = stop_ids = places.take<int32_t>(slots * kMaxStops);
    state.end_tokens = end_tokens = places.take<int32_t>(options.end_tokens.size());
    state.num_end_tokens = static_cast<int32_t>(options.end_tokens.size());
    state.vocab = options.vocab_size;
    tokens = places.take<int32_t>(static_cast<size_t>(options.max_context));
    sampling.adjusted = places.take<float>(slots * vocab);
    sampling.scratch =
        places.take<float>(slots * static_cast<size_t>(sampling_scratch(options.vocab_size)));
    sampling.drawn = places.take<int32_t>(slots);
    sampling.status = places.take<int32_t>(slots);
    sampling.chosen_logprob = places.take<float>(slots);
    sampling.top_ids = places.take<int32_t>(slots * kMaxLogprobs);
    sampling.top_logprobs = places.take<float>(slots * kMaxLogprobs);
    sampling.state = state;
  }
};

void lay_out(Places& places, const SlotsOptions& options, DrawnRows& rows) {
  const auto slots = static_cast<size_t>(options.slots);
  rows.tokens = places.take<int32_t>(slots);
  rows.status = places.take<int32_t>(slots);
  rows.chosen_logprobs = places.take<float>(slots);
  rows.top_ids = places.take<int32_t>(slots * kMaxLogprobs);
  rows.top_logprobs = places.take<float>(slots * kMaxLogprobs);
}

/// What open() sends, in pinned memory.
struct StagedPlaces {
  SlotState* state;
  int32_t *bias_ids, *stop_ids, *tokens;
  float* bias_values;
  StagedPlaces(Places& places, const SlotsOptions& options) {
    state = places.take<SlotState>(1);
    bias_ids = places.take<int32_t>(kMaxBiases);
    bias_values = places.take<float>(kMaxBiases);
    stop_ids = places.take<int32_t>(kMaxStops);
    tokens = places.take<int32_t>(
        std::max(static_cast<size_t>(options.max_context), options.end_tokens.size()));
  }
};

}  // namespace

uint64_t Slots::bytes(const SlotsOptions& options) {
  Places places(nullptr);
  DevicePlaces counted(places, options);
  return places.used();
}

Result<std::unique_ptr<Slots>> Slots::make(Device& device, SlotsOptions options) {
  std::erase_if(options.end_tokens, [&](TokenId id) { return id < 0 || id >= options.vocab_size; });
  std::unique_ptr<Slots> out(new Slots(device, std::move(options)));
  TAILOR_TRY(out->reserve());
  return out;
}

Result<void> Slots::reserve() {
  slots_.resize(static_cast<size_t>(options_.slots));
  TAILOR_ASSIGN(memory_, device_.allocate(bytes(options_)));
  Places places(memory_.data());
  const DevicePlaces there(places, options_);
  state_ = there.state;
  bias_ids_ = there.bias_ids;
  bias_values_ = there.bias_values;
  stop_ids_ = there.stop_ids;
  tokens_ = there.tokens;
  drawn_ = there.sampling.drawn;
  sampling_ = there.sampling;

  Places counted(nullptr);
  const StagedPlaces size(counted, options_);
  for (Staged& staged : staged_) {
    TAILOR_ASSIGN(staged.memory, device_.allocate_pinned(counted.used()));
    TAILOR_ASSIGN(staged.sent, device_.make_event());
  }
  Places here(staged_[0].memory.data());
  const StagedPlaces first(here, options_);
  std::copy(options_.end_tokens.begin(), options_.end_tokens.end(), first.tokens);
  TAILOR_TRY(device_.copy(device_.stream(), there.end_tokens, first.tokens,
                          options_.end_tokens.size() * sizeof(int32_t)));
  return device_.record(staged_[0].sent.get(), device_.stream());
}

Result<DrawnRows> Slots::make_rows() {
  DrawnRows rows;
  Places counted(nullptr);
  lay_out(counted, options_, rows);
  TAILOR_ASSIGN(rows.memory, device_.allocate_pinned(counted.used()));
  Places places(rows.memory.data());
  lay_out(places, options_, rows);
  rows.num_logprobs.reserve(slots_.size());
  return rows;
}

Result<void> Slots::open(const OpenSlot& open) {
  TAILOR_CHECK(open.slot >= 0 && static_cast<size_t>(open.slot) < slots_.size(), "no such slot");
  TAILOR_CHECK(open.request != nullptr, "a slot is opened without a request");
  Slot& slot = slots_[static_cast<size_t>(open.slot)];
  TAILOR_CHECK(!slot.open, "a slot is opened twice");
  const Request& request = *open.request;
  const SamplingParams& p = request.sampling;
  Staged& staged = staged_[next_staged_];
  next_staged_ = (next_staged_ + 1) % staged_.size();
  TAILOR_TRY(device_.wait_until(staged.sent.get(), options_.deadline, "opening a slot"));
  Places places(staged.memory.data());
  const StagedPlaces here(places, options_);
  const Stream stream = device_.stream();
  const auto index = static_cast<size_t>(open.slot);

  const SlotState state =
      slot_state(request, open.sample, static_cast<int64_t>(open.emitted.size()),
                 {.bias_ids = {here.bias_ids, kMaxBiases},
                  .bias_values = {here.bias_values, kMaxBiases},
                  .stop_ids = {here.stop_ids, kMaxStops}});
  slot = {.open = true,
          .logprobs = p.logprobs,
          .changes_logits = state.counts_tokens() || state.num_biases > 0 || p.min_tokens > 0};
  *here.state = state;
  TAILOR_TRY(device_.copy(stream, state_.slots + index, here.state, sizeof(SlotState)));
  const auto send = [&](auto* there, auto* from, size_t count) {
    return device_.copy(stream, there, from, count * sizeof(*from));
  };
  if (state.num_biases > 0) {
    const auto biases = static_cast<size_t>(state.num_biases);
    TAILOR_TRY(send(bias_ids_ + index * kMaxBiases, here.bias_ids, biases));
    TAILOR_TRY(send(bias_values_ + index * kMaxBiases, here.bias_values, biases));
  }
  if (state.num_stops > 0) {
    const auto stops = static_cast<size_t>(state.num_stops);
    TAILOR_TRY(send(stop_ids_ + index * kMaxStops, here.stop_ids, stops));
  }
  if (state.counts_tokens()) {
    const size_t prompt = request.prompt.size(), all = prompt + open.emitted.size();
    if (all > static_cast<size_t>(options_.max_context))
      return fail(ErrorCode::kInternal, "a slot is opened with " + std::to_string(all) +
                                            " tokens in a context of " +
                                            std::to_string(options_.max_context));
    std::copy(open.emitted.begin(), open.emitted.end(),
              std::copy(request.prompt.begin(), request.prompt.end(), here.tokens));
    TAILOR_TRY(send(tokens_, here.tokens, all));
    TAILOR_TRY(count_tokens(stream, {.state = state_,
                                     .slot = open.slot,
                                     .tokens = tokens_,
                                     .prompt_tokens = static_cast<int32_t>(prompt),
                                     .answer_tokens = static_cast<int32_t>(all - prompt)}));
  }
  return device_.record(staged.sent.get(), stream);
}

void Slots::close(SlotId id) {
  TAILOR_CHECK(id >= 0 && static_cast<size_t>(id) < slots_.size(), "no such slot");
  Slot& slot = slots_[static_cast<size_t>(id)];
  TAILOR_CHECK(slot.open, "a slot is closed twice");
  slot.open = false;
}

Result<void> Slots::check_drawing(std::span<const SlotId> slots) {
  ++steps_;
  for (const SlotId id : slots) {
    const bool there =
        id >= 0 && static_cast<size_t>(id) < slots_.size() && slots_[static_cast<size_t>(id)].open;
    if (!there || std::exchange(slots_[static_cast<size_t>(id)].last_step, steps_) == steps_)
      return fail(ErrorCode::kInvalidArgument,
                  "slot " + std::to_string(id) + (there ? " draws twice" : " is not open"));
  }
  return {};
}

Result<void> Slots::draw(std::span<const SlotId> slots, const int32_t* device_slots,
                         const float* logits, DrawnRows& out) {
  const Stream stream = device_.stream();
  Sampling sampling = sampling_;
  sampling.logits = logits;
  sampling.slots = device_slots;
  sampling.rows = static_cast<int64_t>(slots.size());
  bool changes = false, tells = false;
  out.num_logprobs.clear();
  for (const SlotId id : slots) {
    const Slot& slot = slots_[static_cast<size_t>(id)];
    changes |= slot.changes_logits;
    tells |= slot.logprobs >= 0;
    out.num_logprobs.push_back(slot.logprobs);
  }
  if (changes) TAILOR_TRY(penalize(stream, sampling));
  TAILOR_TRY(gpu::draw(stream, sampling));
  const size_t rows = slots.size(), bytes = rows * sizeof(int32_t);
  TAILOR_TRY(device_.copy(stream, out.tokens, sampling.drawn, bytes));
  TAILOR_TRY(device_.copy(stream, out.status, sampling.status, bytes));
  if (!tells) return {};
  TAILOR_TRY(log_probabilities(stream, sampling));
  TAILOR_TRY(device_.copy(stream, out.chosen_logprobs, sampling.chosen_logprob, bytes));
  TAILOR_TRY(device_.copy(stream, out.top_ids, sampling.top_ids, bytes * kMaxLogprobs));
  return device_.copy(stream, out.top_logprobs, sampling.top_logprobs, bytes * kMaxLogprobs);
}

}  // namespace tailor::parallel::gpu
