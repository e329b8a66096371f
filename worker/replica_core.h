// ReplicaCore: what a replica decides and remembers. A pure state machine over BatchPlanner: it is
// told the coordinator's commands (base/messages.h) and what each step drew, and says what the next
// step computes and what is reported. It knows the sequences (request, attempt, ids drawn), the
// epoch, the drain and the numbers of its reports; no clock, thread, tensor or socket. Its drivers
// are LeaderLoop, OfflineRun, the simulator and the leaders of tests; followers never run it.
//
// A driver's turn: apply() what has come; begin() a step and compute it; end() it with what was
// drawn, which gives a draft of the report (worker/report_draft.h); report() where something
// changed without a step; take_words() and send them behind that: every other report.
//
// Two steps under way (`depth` 2): begin() may be called again before end() of the step before. A
// sequence whose token is still being drawn is planned with a reference to it (drawn_in), unless
// that token is its last by max_tokens or by the context. When an end turns out only then (end
// token, stop, cancel), the rows that were computed beyond it are discarded, and the sequence keeps
// its blocks and slot until no step under way names it. Tokens, ends and their order within a
// sequence are the same at every depth.
//
// Steady state: no allocation, hash or virtual call per sequence and step. A draft that is moved
// out takes its memory along; the next one grows anew, a few allocations a step.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/messages.h"
#include "base/request.h"
#include "worker/batch_planner.h"
#include "worker/report_draft.h"

namespace tailor::worker {

/// What ends a sequence beside its request.
struct SequenceLimits {
  std::vector<TokenId> eos_tokens;
  int32_t max_context = 0;  ///< prompt and answer together
};

/// Whether token `last`, the `count`-th of an answer, ends it: kStop (stop_token_ids; end token
/// unless ignore_eos; neither within the first min_tokens), kLength (max_tokens, or the context is
/// full), else kNone. Stop strings are the text's (ReportTrim). A pure function of request and ids:
/// the same on the replica that resumes it. Cost: O(stop tokens).
FinishReason finish_reason(const SamplingParams& sampling, int64_t prompt_tokens, int64_t count,
                           TokenId last, const SequenceLimits& limits);

/// Which rows somebody looks at for a law of the answer's length: the one that ends a prompt (of
/// sample 0 only), and that of every `every`-th token of an answer.
struct ProbeMarks {
  bool prompt = false;
  uint32_t every = 0;  ///< 0 = none
};

struct ReplicaOptions {
  ReplicaId replica;
  PlannerOptions planner;
  SequenceLimits limits;
  int64_t vocab_size = 0;
  ProbeMarks probe;
  int32_t depth = 1;  ///< steps under way at once, 1 or 2
  /// False: lengths only (the simulator). Prompts may be empty, Dispatch::prompt_tokens counts;
  /// ids are neither kept nor told.
  bool token_ids = true;
};

/// One token stream, from its dispatch to its end.
struct ReplicaSequence {
  std::shared_ptr<const Request> request;
  SequenceId id;
  Attempt attempt;
  int32_t prompt_tokens = 0;
  uint32_t generated = 0;        ///< tokens known
  std::vector<TokenId> emitted;  ///< these; empty without token_ids
  int32_t slot = -1;             ///< of the engine, while it runs
  int32_t under_way = 0;         ///< steps that name it
  int32_t pending_row = -1;      ///< of Step::draws: draws its next token, in step `pending_step`
  uint64_t pending_step = 0;
  bool live = false;  ///< false: ended
  bool prefill_told = false;

  /// Of prompt and known tokens.
  TokenId token_at(int32_t position) const {
    return position < prompt_tokens ? request->prompt[static_cast<size_t>(position)]
                                    : emitted[static_cast<size_t>(position - prompt_tokens)];
  }
};

/// What is to be computed. Valid until its end().
struct Step {
  /// The last row of a chunk, from which the next token is drawn.
  struct Row {
    SequenceIndex sequence = 0;
    int32_t chunk = 0;
    uint32_t generated = 0;  ///< tokens of the answer in front of the one it draws
    /// The token that stands in this row is not known yet: it is drawn by this one of `draws` of
    /// the step before. Negative: known.
    int32_t drawn_in = -1;
  };
  uint64_t number = 0;
  std::vector<PlannedChunk> chunks;
  std::vector<kv::BlockMove> moves;  ///< to be begun before the chunks are computed
  /// To open in their slots, behind what they have emitted.
  std::vector<AdmittedSequence> admitted;
  std::vector<Row> draws;  ///< in the order of the chunks
  std::vector<Row> taps;   ///< those of `draws` that the probe wants
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
};

/// What a step drew.
struct StepResult {
  std::span<const Result<TokenId>> tokens;  ///< one per draw
  std::span<LogprobEntry> logprobs;         ///< the same, or none; moved out where wanted
  std::span<const LengthLaw> laws;          ///< one per tap, or none
};

/// A move that was ordered is over on every rank.
struct MoveOutcome {
  kv::BlockMove move;
  bool arrived = false;  ///< false: it failed on some rank, and its target holds nothing on any
};

class ReplicaCore {
 public:
  explicit ReplicaCore(const ReplicaOptions& options);
  ReplicaCore(const ReplicaCore&) = delete;  // steps and drafts are pointed to

  // ---- commands ----

  /// Commands of another epoch than ours, of an older attempt, or repeated, change nothing. A
  /// Welcome of a new epoch drops everything. What cannot run becomes a failed entry of the next
  /// report. Shutdown is the driver's. Cost: O(running + waiting).
  void apply(const ToReplica& command, DispatchPayload payload = {});
  /// The text of an answer ended behind a token; without effect when it has ended or been replaced.
  void apply(const StopFound& stop);

  // ---- block moves ----

  /// BatchPlanner::order(): begun with the next step, which may be nothing else. Of no epoch: a
  /// Welcome leaves it alone.
  void order(const kv::BlockMove& move);
  /// What the ranks agreed about the moves of earlier steps (worker/move_runner.h), in order
  /// (checked).
  void apply(const kv::MoveEvent& event);
  /// The moves that are over since the last call, in the order they were ordered in.
  std::vector<MoveOutcome> take_moved() { return std::exchange(moved_, {}); }

  // ---- steps ----

  /// The next step, or null: nothing to compute, or nothing more before the end() of a step that is
  /// under way. Cost: O(running + admitted).
  const Step* begin();
  /// Ends the oldest step under way and gives its report, to which the driver adds the durations.
  /// Valid until the next end() or report(); it may be moved out, and its memory is reused where it
  /// is not.
  ReportDraft& end(const StepResult& result);
  /// Something is to be told, if no step does it: at least that a command was taken into account.
  bool unreported() const { return unreported_; }
  ReportDraft& report();
  /// Reports that are not of a step, in order: to be sent behind the draft that was given last,
  /// before the next. Drained: once, when a drain was asked for and all has ended and been told.
  std::vector<FromReplica> take_words();

  /// Slots that running sequences have left since the last call (appended): to be closed before
  /// others are opened in them.
  void take_closed_slots(std::vector<int32_t>& out);

  bool has_work() const { return planner_.has_work() || under_way_ > 0 || moves_open(); }
  /// Moves are begun that the ranks have not agreed about.
  bool moves_open() const { return !moving_.empty(); }
  int32_t steps_under_way() const { return under_way_; }
  /// The step that end() ends next; one is under way.
  const Step& oldest() const {
    return steps_[(step_ - static_cast<uint64_t>(under_way_) + 1) % steps_.size()];
  }
  Epoch epoch() const { return epoch_; }
  const ReplicaSequence& sequence(SequenceIndex index) const {
    return sequences_[static_cast<size_t>(index)];
  }
  const BatchPlanner& planner() const { return planner_; }

  /// Errors: Internal (what does not add up). For tests; cost O(everything).
  Result<void> check_integrity() const;

 private:
  void welcome(const Envelope& envelope);
  void take_into_account(uint64_t sequence);
  void drop_draft();
  Envelope next_envelope();
  void start(const Dispatch& dispatch, DispatchPayload&& payload);
  Result<void> check(const Dispatch& dispatch, const DispatchPayload& payload) const;
  void open(SequenceIndex index, const Dispatch& dispatch, const DispatchPayload& payload,
            uint32_t sample);
  void cancel(RequestId request, const Attempt* attempt);
  void close(SequenceIndex index);
  void end_sequence(SequenceIndex index);
  void free_sequence(SequenceIndex index);
  void leave_slot(ReplicaSequence& s);

  void tell_plan(const BatchPlan& plan);
  void lay_out(Step& step, const BatchPlan& plan);
  void add_draw(Step& step, int32_t chunk, ReplicaSequence& s);
  void leave_step(const Step& step);
  void tell_laws(const Step& step, std::span<const LengthLaw> laws);
  void take_draw(const Step::Row& row, const Result<TokenId>& drawn, LogprobEntry* logprobs);
  void tell_prefill(const ReplicaSequence& s);
  void tell(const ReplicaSequence& s, uint32_t num_tokens, FinishReason finish);
  void tell_failure(SequenceId id, Attempt attempt, uint32_t behind, const Error& error);
  ReplicaSequence& at(SequenceIndex index) { return sequences_[static_cast<size_t>(index)]; }

  const ReplicaOptions options_;
  BatchPlanner planner_;
  std::vector<ReplicaSequence> sequences_;  // by SequenceIndex
  std::vector<int32_t> closed_slots_;
  std::vector<SequenceIndex> scratch_;

  std::array<Step, 2> steps_;  // step `number` at number % 2
  int32_t under_way_ = 0;
  bool stalled_ = false;              // the last plan was empty while a step is under way
  std::deque<kv::BlockMove> moving_;  // begun, not agreed about
  uint64_t moves_over_ = 0;           // of all that were begun
  std::vector<MoveOutcome> moved_;    // to be taken
  uint64_t step_ = 0;                 // number of the last step

  Epoch epoch_;
  uint64_t applied_ = 0;   // sequence number of the last command
  uint64_t reported_ = 0;  // of the last report
  bool draining_ = false, drained_ = false;
  bool unreported_ = false;
  std::vector<WorkerReport> words_;    // to be taken
  std::array<ReportDraft, 2> drafts_;  // the one that is gathered, and the last that was given
  ReportDraft* draft_ = &drafts_[0];   // the one that is gathered
};

}  // namespace tailor::worker
