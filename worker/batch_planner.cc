#include "worker/batch_planner.h"

#include <algorithm>
#include <string>

#include "base/check.h"

namespace tailor::worker {

BatchPlanner::BatchPlanner(const PlannerOptions& options)
    : options_(options),
      blocks_({.tier_blocks = {options.num_blocks},
               .block_tokens = options.block_tokens,
               .max_tables = options.slots}) {
  TAILOR_CHECK(options.token_budget > 0, "the planner needs a token budget");
  running_.reserve(options.slots);
  waiting_.reserve(options.slots);
  plan_.chunks.reserve(options.slots);
  plan_.preempted.reserve(options.slots);
  plan_.admitted.reserve(options.slots);
  free_slots_.reserve(options.slots);
  for (int32_t slot = options.slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

int32_t BatchPlanner::max_rows() const {
  return std::max(options_.token_budget, options_.slots + options_.block_tokens);
}

bool BatchPlanner::before(SequenceIndex a, SequenceIndex b) const {
  const Sequence& x = sequences_[a];
  const Sequence& y = sequences_[b];
  return x.order != y.order ? x.order < y.order : x.id.sample < y.id.sample;
}

void BatchPlanner::add(RequestId request, int32_t prompt_tokens, std::span<const int32_t> generated,
                       std::vector<SequenceIndex>& out) {
  TAILOR_CHECK(prompt_tokens >= 1, "a request without a prompt reached the planner");
  for (uint32_t sample = 0; sample < generated.size(); ++sample) {
    SequenceIndex index;
    if (free_indexes_.empty()) {
      index = static_cast<SequenceIndex>(sequences_.size());
      sequences_.emplace_back();
    } else {
      index = free_indexes_.back();
      free_indexes_.pop_back();
    }
    sequences_[index] = Sequence{.id = {request, sample},
                                 .order = next_order_,
                                 .prompt_tokens = prompt_tokens,
                                 .known = prompt_tokens + generated[sample],
                                 .live = true};
    waiting_.push_back(index);
    out.push_back(index);
  }
  ++next_order_;
}

const BatchPlan& BatchPlanner::plan(bool under_way) {
  under_way_ = under_way;
  plan_.chunks.clear();
  plan_.preempted.clear();
  plan_.unfit.clear();
  plan_.admitted.clear();
  plan_.moves.clear();
  plan_.prefill_tokens = plan_.decode_tokens = 0;

  int32_t decoding = 0;
  for (SequenceIndex i : running_) decoding += sequences_[i].known - sequences_[i].computed == 1;
  int32_t budget = std::max(options_.token_budget - decoding, options_.block_tokens);

  for (size_t place = 0; place < running_.size(); ++place) {
    SequenceIndex index = running_[place];
    const Sequence& s = sequences_[index];
    int32_t remaining = s.known - s.computed;
    bool decode = remaining == 1;
    int32_t take = decode ? 1 : std::min(remaining, budget);
    if (take == 0) continue;
    if (!make_room(place, s.computed + take)) continue;  // it has left, or waits for blocks
    emit(index, take, decode);
    if (!decode) budget -= take;
  }
  if (plan_.preempted.empty()) admit(budget);

  // Only now: a sample that shares blocks may read them in the step after the one that writes them.
  for (const PlannedChunk& c : plan_.chunks) sequences_[c.index].computed += c.num_tokens;
  return plan_;
}

void BatchPlanner::emit(SequenceIndex index, int32_t num_tokens, bool decode) {
  const Sequence& s = sequences_[index];
  plan_.chunks.push_back({.index = index,
                          .first_position = s.computed,
                          .num_tokens = num_tokens,
                          .wants_logits = s.computed + num_tokens == s.known,
                          .decode = decode});
  (decode ? plan_.decode_tokens : plan_.prefill_tokens) += num_tokens;
}

/// Blocks for `num_tokens` tokens of running_[place], taken from later sequences where none is
/// free. Chunks are planned in order, so a later sequence is not in the plan yet. False: the
/// sequence itself had to go (it was the last), or waits for what is held or under way.
bool BatchPlanner::make_room(size_t place, int32_t num_tokens) {
  SequenceIndex index = running_[place];
  while (blocks_.blocks_missing(sequences_[index].table, num_tokens) > blocks_.free_blocks()) {
    if (retired_ > 0) return false;
    if (place + 1 < running_.size()) {
      preempt_last();
      continue;
    }
    if (place > 0) {
      preempt_last();
    } else if (!under_way_) {
      drop_unfit(index, num_tokens);
    }
    return false;
  }
  auto reserved = blocks_.extend(sequences_[index].table, num_tokens);
  TAILOR_CHECK(reserved.has_value(), "blocks vanished while planning");
  return true;
}

void BatchPlanner::preempt_last() {
  SequenceIndex index = running_.back();
  Sequence& s = sequences_[index];
  plan_.preempted.push_back({index, s.computed});
  stop_running(s);
  s.computed = 0;
  running_.pop_back();
  waiting_.insert(waiting_.begin(), index);
}

void BatchPlanner::drop_unfit(SequenceIndex index, int32_t num_tokens) {
  plan_.unfit.push_back({index, blocks_.blocks_for(num_tokens)});
  finish(index);
}

void BatchPlanner::admit(int32_t budget) {
  const size_t slots = static_cast<size_t>(options_.slots);
  while (!waiting_.empty() && running_.size() + retired_ < slots && budget > 0) {
    SequenceIndex index = waiting_.front();
    Sequence& s = sequences_[index];

    // Samples of one request stand side by side in the order, so running ones are at the end of
    // running_.
    const int32_t shareable = (s.prompt_tokens - 1) / options_.block_tokens * options_.block_tokens;
    SequenceIndex source = -1;
    bool prefilling = false;
    for (size_t i = running_.size(); i-- > 0 && sequences_[running_[i]].order == s.order;) {
      if (sequences_[running_[i]].computed >= shareable)
        source = running_[i];
      else
        prefilling = true;
    }
    if (source < 0 && prefilling) return;
    const int32_t shared = source < 0 ? 0 : shareable;

    const int32_t needed = blocks_.blocks_for(s.known) - shared / options_.block_tokens;
    const int32_t watermark = running_.empty() ? 0 : static_cast<int32_t>(running_.size()) + 1;
    if (needed + watermark > blocks_.free_blocks()) {
      if (!running_.empty() || under_way_) return;
      drop_unfit(index, s.known);
      continue;
    }

    s.table = blocks_.open_table();
    if (source >= 0) s.computed = blocks_.fork(sequences_[source].table, s.table, shareable);
    auto reserved = blocks_.extend(s.table, s.known);
    TAILOR_CHECK(reserved.has_value(), "blocks vanished while admitting");
    waiting_.erase(waiting_.begin());
    running_.push_back(index);
    s.slot = free_slots_.back();
    free_slots_.pop_back();
    plan_.admitted.push_back({index, s.slot});
    int32_t take = std::min(s.known - s.computed, budget);
    emit(index, take, false);
    budget -= take;
  }
}

void BatchPlanner::token_drawn(SequenceIndex index) {
  Sequence& s = sequences_[index];
  TAILOR_CHECK(s.live && s.table >= 0 && s.computed == s.known,
               "a token was drawn from a sequence that was not due");
  ++s.known;
}

void BatchPlanner::finish(SequenceIndex index) {
  retire(index);
  release(index);
}

void BatchPlanner::retire(SequenceIndex index) {
  Sequence& s = sequences_[index];
  TAILOR_CHECK(s.live && !s.retired, "a sequence ends twice");
  auto& list = s.table >= 0 ? running_ : waiting_;
  auto place = std::lower_bound(list.begin(), list.end(), index,
                                [this](SequenceIndex a, SequenceIndex b) { return before(a, b); });
  TAILOR_CHECK(place != list.end() && *place == index, "a sequence is not in its list");
  list.erase(place);
  s.retired = true;
  ++retired_;
}

void BatchPlanner::release(SequenceIndex index) {
  Sequence& s = sequences_[index];
  TAILOR_CHECK(s.live && s.retired, "a sequence is released that has not ended");
  if (s.table >= 0) stop_running(s);
  s.live = s.retired = false;
  --retired_;
  free_indexes_.push_back(index);
}

void BatchPlanner::stop_running(Sequence& s) {
  blocks_.close_table(s.table);
  s.table = -1;
  free_slots_.push_back(s.slot);
  s.slot = -1;
}

void BatchPlanner::find(RequestId request, std::vector<SequenceIndex>& out) const {
  for (SequenceIndex i : running_)
    if (sequences_[i].id.request == request) out.push_back(i);
  for (SequenceIndex i : waiting_)
    if (sequences_[i].id.request == request) out.push_back(i);
}

std::span<const kv::BlockId> BatchPlanner::block_table(SequenceIndex index) const {
  kv::TableId table = sequences_[index].table;
  return table < 0 ? std::span<const kv::BlockId>() : blocks_.table(table);
}

Result<void> BatchPlanner::check_integrity() const {
  auto wrong = [](const std::string& what) { return fail(ErrorCode::kInternal, what); };
  TAILOR_TRY(blocks_.check_integrity());
  auto later = [this](SequenceIndex a, SequenceIndex b) { return before(a, b); };
  if (!std::is_sorted(running_.begin(), running_.end(), later))
    return wrong("running is out of order");
  if (!std::is_sorted(waiting_.begin(), waiting_.end(), later))
    return wrong("waiting is out of order");
  if (!running_.empty() && !waiting_.empty() && !before(running_.back(), waiting_.front()))
    return wrong("a running sequence follows a waiting one");
  int32_t live = 0, retired = 0, holding = running_sequences();
  std::vector<bool> taken(static_cast<size_t>(options_.slots), false);
  for (int32_t slot : free_slots_) taken[static_cast<size_t>(slot)] = true;
  for (const Sequence& s : sequences_) {
    live += s.live;
    retired += s.retired;
    holding += s.retired && s.table >= 0;
    if ((s.slot >= 0) != (s.table >= 0)) return wrong("a slot without blocks, or blocks without");
    if (s.slot < 0) continue;
    if (taken[static_cast<size_t>(s.slot)]) return wrong("two in one slot");
    taken[static_cast<size_t>(s.slot)] = true;
  }
  if (retired != retired_) return wrong("the retired sequences are miscounted");
  if (live != running_sequences() + waiting_sequences() + retired)
    return wrong("a sequence is in no list");
  if (blocks_.open_tables() != holding) return wrong("a table without a running sequence");
  if (free_slots_.size() + static_cast<size_t>(holding) != taken.size())
    return wrong("a slot is lost");
  for (SequenceIndex i : running_) {
    const Sequence& s = sequences_[i];
    if (s.computed > s.known) return wrong("more computed than known");
    if (blocks_.blocks_missing(s.table, s.computed) > 0)
      return wrong("computed tokens without a block");
  }
  for (SequenceIndex i : waiting_)
    if (sequences_[i].table >= 0 || sequences_[i].computed != 0)
      return wrong("a waiting sequence holds blocks");
  return {};
}

}  // namespace tailor::worker
