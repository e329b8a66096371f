#include "worker/batch_planner.h"

#include <algorithm>
#include <string>

#include "base/check.h"

namespace tailor::worker {

int32_t max_rows(const PlannerOptions& options) {
  return std::max(options.token_budget, options.slots + options.block_tokens);
}

BatchPlanner::BatchPlanner(const PlannerOptions& options)
    : options_(options),
      blocks_({.tier_blocks = {options.num_blocks},
               .block_tokens = options.block_tokens,
               .max_tables = options.slots + options.paused_tables}) {
  TAILOR_CHECK(options.token_budget > 0, "the planner needs a token budget");
  running_.reserve(options.slots);
  waiting_.reserve(options.slots);
  paused_.reserve(options.slots + options.paused_tables);
  plan_.chunks.reserve(options.slots);
  plan_.preempted.reserve(options.slots);
  plan_.admitted.reserve(options.slots);
  free_slots_.reserve(options.slots);
  for (int32_t slot = options.slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
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
  ++plans_;
  plan_.chunks.clear();
  plan_.preempted.clear();
  plan_.reclaimed.clear();
  plan_.unfit.clear();
  plan_.admitted.clear();
  plan_.moves.clear();
  plan_.moves.swap(ordered_);
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
                          .wants_logits = s.computed + num_tokens == s.known});
  (decode ? plan_.decode_tokens : plan_.prefill_tokens) += num_tokens;
}

/// Blocks for `num_tokens` tokens of running_[place], taken from later sequences where none is
/// free. Chunks are planned in order, so a later sequence is not in the plan yet. False: the
/// sequence itself had to go (it was the last), or waits for what is held or under way.
bool BatchPlanner::make_room(size_t place, int32_t num_tokens) {
  SequenceIndex index = running_[place];
  while (blocks_.blocks_missing(sequences_[index].table, num_tokens) > blocks_.free_blocks()) {
    if (reclaim_last(index)) continue;
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

/// The latest dispatched that holds blocks without a slot gives them back. False: nobody does, but
/// `except`.
bool BatchPlanner::reclaim_last(SequenceIndex except) {
  if (held_ == 0) return false;
  SequenceIndex last = -1;
  for (const auto* list : {&waiting_, &paused_}) {
    const auto found = std::find_if(list->rbegin(), list->rend(), [&](SequenceIndex i) {
      return i != except && sequences_[i].table >= 0;
    });
    if (found != list->rend() && (last < 0 || before(last, *found))) last = *found;
  }
  if (last < 0) return false;
  plan_.reclaimed.push_back({last, sequences_[last].computed});
  give_blocks_back(sequences_[last]);
  return true;
}

/// At most what reclaim_last() can free.
int32_t BatchPlanner::reclaimable_blocks(SequenceIndex except) const {
  if (held_ == 0) return 0;
  size_t count = 0;
  for (const auto* list : {&waiting_, &paused_})
    for (SequenceIndex i : *list)
      if (i != except) count += block_table(i).size();
  return static_cast<int32_t>(count);
}

void BatchPlanner::preempt_last() {
  SequenceIndex index = running_.back();
  Sequence& s = sequences_[index];
  plan_.preempted.push_back({index, s.computed});
  running_.pop_back();
  leave_slot(s);
  give_blocks_back(s);
  insert(waiting_, index);
}

void BatchPlanner::drop_unfit(SequenceIndex index, int32_t num_tokens) {
  plan_.unfit.push_back({index, blocks_.blocks_for(num_tokens)});
  finish(index);
}

/// A running sample of the same request whose prompt is there to share, or none (`source` as it
/// was). False: one is still prefilling it, wait for that. Samples stand side by side in the order.
bool BatchPlanner::find_source(SequenceIndex index, int32_t shareable,
                               SequenceIndex& source) const {
  const uint64_t order = sequences_[index].order;
  auto place =
      std::upper_bound(running_.begin(), running_.end(), order,
                       [this](uint64_t of, SequenceIndex i) { return of < sequences_[i].order; });
  bool prefilling = false;
  for (; place != running_.begin() && sequences_[*(place - 1)].order == order; --place) {
    if (sequences_[*(place - 1)].computed >= shareable)
      source = *(place - 1);
    else
      prefilling = true;
  }
  return source >= 0 || !prefilling;
}

void BatchPlanner::admit(int32_t budget) {
  const size_t slots = static_cast<size_t>(options_.slots);
  while (!waiting_.empty() && running_.size() + retired_ < slots && budget > 0) {
    SequenceIndex index = waiting_.front();
    Sequence& s = sequences_[index];
    if (under_way_ && s.drawn_in + 1 == plans_) return;  // its token is still being drawn

    SequenceIndex source = -1;
    const int32_t shareable = (s.prompt_tokens - 1) / options_.block_tokens * options_.block_tokens;
    if (s.table < 0 && !find_source(index, shareable, source)) return;
    const int32_t shared = source < 0 ? 0 : shareable;

    const int32_t needed = s.table >= 0
                               ? blocks_.blocks_missing(s.table, s.known)
                               : blocks_.blocks_for(s.known) - shared / options_.block_tokens;
    const int32_t watermark = running_.empty() ? 0 : static_cast<int32_t>(running_.size()) + 1;
    if (needed + watermark > blocks_.free_blocks()) {
      const bool enough = needed + watermark <= blocks_.free_blocks() + reclaimable_blocks(index);
      if ((enough || running_.empty()) && reclaim_last(index)) continue;
      if (!running_.empty() || under_way_) return;
      drop_unfit(index, s.known);
      continue;
    }

    if (s.table < 0) {
      s.table = blocks_.open_table();
      if (source >= 0) s.computed = blocks_.fork(sequences_[source].table, s.table, shareable);
    } else {
      --held_;
    }
    auto extended = blocks_.extend(s.table, s.known);
    TAILOR_CHECK(extended.has_value(), "blocks vanished while admitting");
    waiting_.erase(waiting_.begin());
    insert(running_, index);
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
  s.drawn_in = plans_;
}

void BatchPlanner::finish(SequenceIndex index) {
  retire(index);
  release(index);
}

void BatchPlanner::retire(SequenceIndex index) {
  Sequence& s = sequences_[index];
  TAILOR_CHECK(s.live && !s.retired, "a sequence ends twice");
  remove(list_of(s), index);
  s.retired = true;
  ++retired_;
}

void BatchPlanner::release(SequenceIndex index) {
  Sequence& s = sequences_[index];
  TAILOR_CHECK(s.live && s.retired, "a sequence is released that has not ended");
  if (s.slot >= 0) leave_slot(s);
  give_blocks_back(s);
  s.live = s.retired = s.paused = false;
  --retired_;
  free_indexes_.push_back(index);
}

void BatchPlanner::insert(std::vector<SequenceIndex>& list, SequenceIndex index) {
  list.insert(std::upper_bound(list.begin(), list.end(), index,
                               [this](SequenceIndex a, SequenceIndex b) { return before(a, b); }),
              index);
}

void BatchPlanner::remove(std::vector<SequenceIndex>& list, SequenceIndex index) {
  auto place = std::lower_bound(list.begin(), list.end(), index,
                                [this](SequenceIndex a, SequenceIndex b) { return before(a, b); });
  TAILOR_CHECK(place != list.end() && *place == index, "a sequence is not in its list");
  list.erase(place);
}

/// Its blocks are held without a slot from then on.
void BatchPlanner::leave_slot(Sequence& s) {
  free_slots_.push_back(s.slot);
  s.slot = -1;
  ++held_;
}

void BatchPlanner::give_blocks_back(Sequence& s) {
  if (s.table < 0) return;
  blocks_.close_table(s.table);
  s.table = -1;
  s.computed = 0;
  --held_;
}

int32_t BatchPlanner::pause(SequenceIndex index) {
  Sequence& s = sequences_[index];
  TAILOR_CHECK(s.live && !s.retired && !s.paused, "only what runs or waits can be paused");
  remove(list_of(s), index);
  if (s.slot >= 0) leave_slot(s);
  s.paused = ever_paused_ = true;
  insert(paused_, index);
  if (held_ <= options_.paused_tables) return 0;
  const int32_t lost = s.computed;
  give_blocks_back(s);
  return lost;
}

void BatchPlanner::resume(SequenceIndex index) {
  Sequence& s = sequences_[index];
  TAILOR_CHECK(s.live && s.paused, "only what is paused can be resumed");
  remove(paused_, index);
  s.paused = false;
  insert(waiting_, index);
}

void BatchPlanner::order(const kv::BlockMove& move) {
  const auto ours = [this](kv::TierId tier, kv::BlockId block) {
    return tier == kv::kDeviceTier && block < options_.num_blocks;
  };
  TAILOR_CHECK(!ours(move.from_tier, move.from) && !ours(move.to_tier, move.to),
               "a move is ordered of blocks that are planned here");
  ordered_.push_back(move);
}

void BatchPlanner::find(RequestId request, std::vector<SequenceIndex>& out) const {
  for (SequenceIndex i : running_)
    if (sequences_[i].id.request == request) out.push_back(i);
  for (SequenceIndex i : waiting_)
    if (sequences_[i].id.request == request) out.push_back(i);
  for (SequenceIndex i : paused_)
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
  if (!std::is_sorted(paused_.begin(), paused_.end(), later))
    return wrong("paused is out of order");
  if (!ever_paused_ && !running_.empty() && !waiting_.empty() &&
      !before(running_.back(), waiting_.front()))
    return wrong("a running sequence follows a waiting one, and none was paused");
  int32_t live = 0, retired = 0, with_slot = 0, held = 0;
  std::vector<bool> taken(static_cast<size_t>(options_.slots), false);
  for (int32_t slot : free_slots_) taken[static_cast<size_t>(slot)] = true;
  for (const Sequence& s : sequences_) {
    live += s.live;
    retired += s.retired;
    with_slot += s.slot >= 0;
    held += s.slot < 0 && s.table >= 0;
    if (!s.live && s.table >= 0) return wrong("a table of nobody");
    if (s.table < 0 && (s.slot >= 0 || s.computed != 0)) return wrong("a slot without blocks");
    if (s.table >= 0 && blocks_.blocks_missing(s.table, s.computed) > 0)
      return wrong("computed tokens without a block");
    if (s.computed > s.known) return wrong("more computed than known");
    if (s.slot < 0) continue;
    if (taken[static_cast<size_t>(s.slot)]) return wrong("two in one slot");
    taken[static_cast<size_t>(s.slot)] = true;
  }
  if (retired != retired_) return wrong("the retired sequences are miscounted");
  if (held != held_ || held > options_.paused_tables)
    return wrong("the tables without a slot are miscounted");
  if (live != running_sequences() + waiting_sequences() + paused_sequences() + retired)
    return wrong("a sequence is in no list");
  if (blocks_.open_tables() != with_slot + held) return wrong("a table is lost");
  if (free_slots_.size() + static_cast<size_t>(with_slot) != taken.size())
    return wrong("a slot is lost");
  for (SequenceIndex i : running_)
    if (sequences_[i].slot < 0) return wrong("a running sequence has no slot");
  for (const auto* list : {&waiting_, &paused_})
    for (SequenceIndex i : *list)
      if (sequences_[i].slot >= 0) return wrong("a sequence that does not run has a slot");
  return {};
}

}  // namespace tailor::worker
