#include "worker/report_draft.h"

#include <algorithm>

#include "base/check.h"

namespace tailor::worker {
namespace {

/// Keeps the first `keep[entry]` tokens of each entry, and drops entries where it is negative.
template <class Keep>
void shorten(ReportDraft& draft, const Keep& keep) {
  StepPayload& p = draft.payload;
  std::vector<SequenceProgress>& progress = draft.report.progress;
  TAILOR_CHECK(p.texts.size() == progress.size(), "a draft without its payload is trimmed");
  size_t token = 0, logprob = 0, end = 0;                  // read
  size_t entries = 0, tokens = 0, logprobs = 0, ends = 0;  // written
  for (uint32_t entry = 0; entry < progress.size(); ++entry) {
    SequenceProgress& e = progress[entry];
    ProgressText& t = p.texts[entry];
    const size_t tokens_behind = token + e.num_tokens, logprobs_behind = logprob + t.num_logprobs;
    const int64_t kept = keep(entry);
    if (kept >= 0) {
      e.num_tokens = std::min(e.num_tokens, static_cast<uint32_t>(kept));
      t.num_logprobs = std::min(t.num_logprobs, e.num_tokens);
      for (uint32_t i = 0; i < e.num_tokens; ++i) p.token_ids[tokens++] = p.token_ids[token++];
      for (uint32_t i = 0; i < t.num_logprobs; ++i, ++logprobs, ++logprob)
        if (logprobs != logprob) p.logprobs[logprobs] = std::move(p.logprobs[logprob]);
    }
    token = tokens_behind;
    logprob = logprobs_behind;
    for (; end < p.ends.size() && p.ends[end].entry == entry; ++end) {
      if (kept < 0) continue;
      if (ends != end) p.ends[ends] = std::move(p.ends[end]);
      p.ends[ends++].entry = static_cast<uint32_t>(entries);
    }
    if (kept < 0) continue;
    progress[entries] = e;
    p.texts[entries++] = t;
  }
  progress.resize(entries);
  p.texts.resize(entries);
  p.token_ids.resize(tokens);
  p.logprobs.resize(logprobs);
  p.ends.erase(p.ends.begin() + static_cast<int64_t>(ends), p.ends.end());
}

}  // namespace

void ReportDraft::clear() {
  changes.clear();
  report.progress.clear();
  report.prefills.clear();
  report.preempted.clear();
  report.laws.clear();
  report.prefill_tokens = report.decode_tokens = 0;
  report.step_time = report.forward_time = report.sample_time = {};
  payload.token_ids.clear();
  payload.texts.clear();
  payload.text.clear();
  payload.logprobs.clear();
  payload.ends.clear();
}

void ReportTrim::stopped(const StopFound& stop) {
  found_.push_back(stop);
  stopped_[stop.sequence] = stop.attempt;
}

void ReportTrim::stop_at_once(const AnswerChange& opened) {
  const auto behind = static_cast<uint32_t>(opened.generated.size());
  stopped({opened.sequence, opened.attempt});
  at_once_.push_back({opened.sequence.request, opened.sequence.sample, opened.attempt, behind, 0,
                      FinishReason::kStop});
}

uint32_t ReportTrim::drop_stopped(ReportDraft& draft) {
  if (stopped_.empty() && at_once_.empty()) return 0;
  for (const AnswerChange& change : draft.changes) {
    const auto it = stopped_.find(change.sequence);
    if (it != stopped_.end() && it->second == change.attempt && !change.request) stopped_.erase(it);
  }
  shorten(draft, [&](uint32_t entry) -> int64_t {
    const SequenceProgress& e = draft.report.progress[entry];
    const auto it = stopped_.find(e.sequence());
    if (it == stopped_.end() || it->second != e.attempt) return e.num_tokens;
    if (e.finish != FinishReason::kNone) stopped_.erase(it);  // the core's own end
    return -1;
  });
  const auto front = static_cast<uint32_t>(at_once_.size());
  draft.report.progress.insert(draft.report.progress.begin(), at_once_.begin(), at_once_.end());
  draft.payload.texts.insert(draft.payload.texts.begin(), front, ProgressText{});
  for (SequenceEnd& end : draft.payload.ends) end.entry += front;
  at_once_.clear();
  return front;
}

void ReportTrim::cut(ReportDraft& draft, std::span<const Stop> stops) {
  if (stops.empty()) return;
  for (const Stop& stop : stops) {
    SequenceProgress& e = draft.report.progress[stop.entry];
    if (e.finish == FinishReason::kNone) stopped({e.sequence(), e.attempt});
    e.finish = FinishReason::kStop;
  }
  auto next = stops.begin();
  shorten(draft, [&](uint32_t entry) -> int64_t {
    if (next == stops.end() || next->entry != entry) return UINT32_MAX;
    return (next++)->tokens;
  });
}

}  // namespace tailor::worker
