// BatchPlanner: which sequences and tokens are in the next step, and who has to give its blocks
// back. A pure state machine over kv::BlockManager: no clock, no thread, no tensor, no token ids
// (it counts tokens; the loop knows them). Owner: the leader's main thread; the simulator drives
// the same object. Followers never run it.
//
// Continuous batching. Every sequence that decodes gets its row; what the token budget leaves goes
// to prompts, in chunks, in order. Admission is first come, first served in dispatch order, by
// slots and by blocks: a sequence gets the blocks of all its known tokens at once, and one block
// for each running sequence stays free (the watermark), so that an admitted sequence does not push
// another out at once. Out of blocks, the latest dispatched running sequence gives back everything
// (recompute): all tokens it knows are prefilled again when it is admitted again, in its old place
// in the order. A sequence that does not fit alone into the whole pool fails with OutOfBlocks.
//
// Pausing. A paused sequence is out of the race until it is resumed: it has left its slot and keeps
// its blocks, as long as there are tables beyond the slots (paused_tables). It may then wait, or
// run, behind sequences that were dispatched later. What holds blocks without a slot gives them
// back first when a sequence needs some, the latest dispatched first, and is prefilled again later.
//
// Progress. Let F be the first in dispatch order that is not paused.
//   - F runs: it advances in every plan. It is at the front of those that run, and whoever holds
//     blocks beside it gives them up for it: first those without a slot, then those that run, the
//     latest first. F itself is nobody's victim.
//   - F waits: nobody is admitted before it, and a victim goes back behind it. Those that run are
//     therefore only fewer with time, and the first of them advances as F would; so they end, and
//     at the latest when none runs all blocks are F's, or F does not fit alone and fails.
// Each needs finitely many tokens, so all that are not paused end, whatever the paused ones hold.
// Where nobody was ever paused, every running sequence precedes every waiting one.
//
// The n samples of a request are n sequences. The first that runs prefills the prompt; the others
// wait for it, share the prompt's full blocks (never the last: a shared block is never written) and
// prefill the rest themselves.
//
// Launch-ahead: a step may be planned while the step before is still computed. Steps are computed
// in the order of their plans, so the blocks of a victim go to others at once. Those of a sequence
// that has ended stay held while a step that names it is under way (retire, then release); until
// they come back nobody is pushed out or given up for the want of blocks, he waits one step. A
// sequence may be paused and resumed while its token is drawn; it is admitted again when that is
// known, as a slot is opened behind known tokens.
//
// Steady state: no allocation, hash or virtual call per sequence and step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kv/block_manager.h"

namespace tailor::worker {

/// A sequence's place in the planner, dense from 0; reused once it has ended.
using SequenceIndex = int32_t;

struct PlannerOptions {
  int32_t num_blocks = 0;
  int32_t block_tokens = kv::kBlockTokens;
  int32_t slots = 32;          ///< sequences that run at once
  int32_t paused_tables = 0;   ///< sequences that hold blocks beside those
  int32_t token_budget = 256;  ///< rows of a step; prompts always get at least one block of rows
};

/// The most rows a plan can have: what an engine needs room for.
int32_t max_rows(const PlannerOptions& options);

/// Tokens [first_position, first_position + num_tokens) of a sequence.
struct PlannedChunk {
  SequenceIndex index = 0;
  int32_t first_position = 0;
  int32_t num_tokens = 0;
  /// The chunk ends with the last known token: the next one is to be drawn.
  bool wants_logits = false;
};

/// Begins to run, in a slot of its own until it ends or is preempted.
struct AdmittedSequence {
  SequenceIndex index = 0;
  int32_t slot = 0;  ///< dense in [0, slots)
};

/// Has left its slot, if it had one (`reclaimed`: it had none).
struct PreemptedSequence {
  SequenceIndex index = 0;
  int32_t tokens_lost = 0;  ///< whose keys and values must be computed again
};

/// Does not fit alone; it has left the planner and its slot already, its index is free.
struct UnfitSequence {
  SequenceIndex index = 0;
  int32_t blocks_needed = 0;
};

/// Owned and reused by the planner; valid until the next call. Who leaves a slot does so before
/// others are admitted.
struct BatchPlan {
  std::vector<PlannedChunk> chunks;
  std::vector<PreemptedSequence> preempted;
  std::vector<PreemptedSequence> reclaimed;
  std::vector<UnfitSequence> unfit;
  std::vector<AdmittedSequence> admitted;
  std::vector<kv::BlockMove> moves;  ///< to be begun before the chunks are computed
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
};

class BatchPlanner {
 public:
  explicit BatchPlanner(const PlannerOptions& options);

  /// A dispatched request: `generated[s]` = tokens sample s has already; its size is the number of
  /// samples. Appends the new sequences' indexes to `out`. `prompt_tokens` >= 1.
  void add(RequestId request, int32_t prompt_tokens, std::span<const int32_t> generated,
           std::vector<SequenceIndex>& out);

  /// The next step's content. The caller computes every chunk and calls token_drawn() or finish()
  /// for each that wants logits. Sequences whose last token is not drawn yet are left out.
  /// `under_way`: an earlier step is still computed; nobody is unfit then, as blocks may come back.
  /// Cost: O(running + admitted).
  const BatchPlan& plan(bool under_way = false);

  /// The chunk's next token is known, or will be when the step that draws it has been computed: it
  /// may be planned. No effect on others.
  void token_drawn(SequenceIndex index);
  /// The sequence has ended, in whatever state it is (last token, stop found late, cancel): frees
  /// all it holds.
  void finish(SequenceIndex index);
  /// The same in two halves, for a sequence that a step under way names: it is planned no more, but
  /// keeps slot, blocks and index until release().
  void retire(SequenceIndex index);
  void release(SequenceIndex index);

  /// Out of the race until resume(). Tokens whose keys and values are lost: 0 where it keeps its
  /// blocks, all that were computed where no table is left for it.
  int32_t pause(SequenceIndex index);
  /// A paused sequence waits again, in its place in the order.
  void resume(SequenceIndex index);

  /// A move of blocks into the next plan, behind those ordered before. Neither side is of the
  /// device blocks planned here (checked): what fills and reads those is a step.
  void order(const kv::BlockMove& move);

  /// Indexes of a request's sequences that have not ended, appended to `out`. Cost: O(running +
  /// waiting).
  void find(RequestId request, std::vector<SequenceIndex>& out) const;

  /// Somebody runs or waits to, or a move is ordered that is in no plan yet.
  bool has_work() const { return !running_.empty() || !waiting_.empty() || !ordered_.empty(); }
  /// Nobody is here, not even paused.
  bool empty() const { return !has_work() && paused_.empty() && retired_ == 0; }
  int32_t running_sequences() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting_sequences() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t paused_sequences() const { return static_cast<int32_t>(paused_.size()); }
  int32_t retired_sequences() const { return retired_; }

  /// The blocks of a sequence; empty where it holds none.
  std::span<const kv::BlockId> block_table(SequenceIndex index) const;
  /// The slot of a running sequence; -1 for a waiting one.
  int32_t slot(SequenceIndex index) const { return sequences_[index].slot; }
  const kv::BlockManager& blocks() const { return blocks_; }
  SequenceId id(SequenceIndex index) const { return sequences_[index].id; }

  /// Errors: Internal (what does not add up). For tests; cost O(everything).
  Result<void> check_integrity() const;

 private:
  struct Sequence {
    SequenceId id;
    uint64_t order = 0;  // of dispatch; samples of one request share it
    int32_t prompt_tokens = 0;
    int32_t known = 0;       // prompt and answer so far
    int32_t computed = 0;    // of which in the KV pool
    kv::TableId table = -1;  // -1 = holds no blocks
    int32_t slot = -1;       // -1 = does not run
    uint64_t drawn_in = 0;   // the plan that draws its last known token; 0 = it came with it
    bool live = false;
    bool paused = false;
    bool retired = false;  // live, but in no list
  };
  bool before(SequenceIndex a, SequenceIndex b) const;
  void emit(SequenceIndex index, int32_t num_tokens, bool decode);
  bool make_room(size_t place, int32_t num_tokens);
  bool reclaim_last(SequenceIndex except);
  int32_t reclaimable_blocks(SequenceIndex except) const;
  void preempt_last();
  std::vector<SequenceIndex>& list_of(const Sequence& s) {
    return s.slot >= 0 ? running_ : s.paused ? paused_ : waiting_;
  }
  void insert(std::vector<SequenceIndex>& list, SequenceIndex index);
  void remove(std::vector<SequenceIndex>& list, SequenceIndex index);
  void drop_unfit(SequenceIndex index, int32_t num_tokens);
  bool find_source(SequenceIndex index, int32_t shareable, SequenceIndex& source) const;
  void admit(int32_t budget);
  void leave_slot(Sequence& s);
  void give_blocks_back(Sequence& s);

  const PlannerOptions options_;
  kv::BlockManager blocks_;
  std::vector<Sequence> sequences_;
  std::vector<SequenceIndex> free_indexes_;
  std::vector<int32_t> free_slots_;     // taken from the back
  std::vector<SequenceIndex> running_;  // by (order, sample)
  std::vector<SequenceIndex> waiting_;  // by (order, sample)
  std::vector<SequenceIndex> paused_;   // by (order, sample)
  int32_t held_ = 0;                    // tables without a slot, of waiting and paused ones
  bool ever_paused_ = false;
  int32_t retired_ = 0;
  bool under_way_ = false;  // while planning
  uint64_t plans_ = 0;
  uint64_t next_order_ = 0;
  std::vector<kv::BlockMove> ordered_;  // for the next plan
  BatchPlan plan_;
};

}  // namespace tailor::worker
