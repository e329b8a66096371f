#include "worker/answer_text.h"

#include <span>
#include <utility>

#include "base/check.h"

namespace tailor::worker {
namespace {

text::StreamTextOptions options_of(const SamplingParams& p) {
  return {.stop = p.stop,
          .include_stop_in_output = p.include_stop_in_output,
          .skip_special_tokens = p.skip_special_tokens,
          .min_tokens = p.min_tokens};
}

}  // namespace

AnswerText::AnswerText(std::shared_ptr<const text::Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

std::string AnswerText::token_name(TokenId id) const {
  if (tokenizer_) return tokenizer_->token_bytes(id);
  return "token " + std::to_string(id);
}

void AnswerText::Piece::append(const text::StreamText::Piece& piece) {
  if (out.size() == begin) text.offset = piece.offset;
  out += piece.text;
}

void AnswerText::follow(const AnswerChange& change) {
  if (change.request) return open(change);
  const auto it = answers_.find(change.sequence);
  if (it != answers_.end() && it->second.attempt == change.attempt) answers_.erase(it);
}

void AnswerText::open(const AnswerChange& change) {
  const SamplingParams& p = change.request->sampling;
  Answer answer{.attempt = change.attempt, .request = change.request};
  if (!change.generated.empty()) answer.last = change.generated.back();
  if (tokenizer_) {
    answer.text = std::make_unique<text::StreamText>(tokenizer_, options_of(p));
    std::span<const TokenId> fed = change.generated;
    if (change.ended == FinishReason::kStop && !p.include_stop_in_output)
      fed = fed.first(fed.size() - 1);
    for (const TokenId id : fed) {
      auto piece = answer.text->push(id);
      if (!piece.stopped) continue;
      answer.stopped = true;
      answer.stop_match = piece.stop_match;
      break;
    }
  }
  if (answer.stopped && change.ended == FinishReason::kNone) {
    trim_.stop_at_once(change);
    at_once_.push_back(std::move(answer));
  } else {
    answers_.insert_or_assign(change.sequence, std::move(answer));
  }
}

/// The draft's first entries: answers whose earlier tokens held a stop.
void AnswerText::tell_stops_at_once(ReportDraft& draft, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    draft.payload.texts[i].offset = at_once_[i].text->text_bytes();
    draft.payload.ends.insert(draft.payload.ends.begin() + i,
                              {i, at_once_[i].stop_match, {ErrorCode::kOk, {}}});
  }
  at_once_.clear();
}

void AnswerText::complete(ReportDraft& draft) {
  for (const AnswerChange& change : draft.changes) follow(change);
  const uint32_t first = trim_.drop_stopped(draft);
  tell_stops_at_once(draft, first);
  StepPayload& payload = draft.payload;
  std::vector<SequenceEnd> ends;
  ends.swap(payload.ends);
  auto end = ends.begin();
  found_.clear();
  const TokenId* ids = payload.token_ids.data();
  for (uint32_t i = 0; i < draft.report.progress.size(); ++i) {
    const SequenceProgress& entry = draft.report.progress[i];
    std::string stop_match;
    const auto it = answers_.find(entry.sequence());
    const bool open = it != answers_.end() && it->second.attempt == entry.attempt;
    TAILOR_CHECK(open || entry.num_tokens == 0, "tokens of an answer that is not open");
    if (i >= first && open) {
      Piece piece{payload.texts[i], payload.text, payload.text.size()};
      if (it->second.text) piece.text.offset = it->second.text->text_bytes();
      const uint32_t kept = take_entry(it->second, entry, ids, piece, stop_match);
      piece.text.bytes = static_cast<uint32_t>(payload.text.size() - piece.begin);
      if (it->second.stopped) found_.push_back({i, kept});
      if (it->second.stopped || entry.finish != FinishReason::kNone) answers_.erase(it);
    }
    if (end != ends.end() && end->entry == i) {
      payload.ends.push_back(std::move(*end++));
    } else if (!stop_match.empty()) {
      payload.ends.push_back({i, std::move(stop_match), {ErrorCode::kOk, {}}});
    }
    ids += entry.num_tokens;
  }
  trim_.cut(draft, found_);
}

/// Text of an entry's tokens. Returns how many of them the answer has: fewer behind a stop.
uint32_t AnswerText::take_entry(Answer& answer, const SequenceProgress& entry, const TokenId* ids,
                                Piece& piece, std::string& stop_match) {
  if (answer.stopped) {  // when it was opened, and the core knew its end too
    stop_match = answer.stop_match;
    return 0;
  }
  if (entry.finish == FinishReason::kStop)
    stop_match = token_name(entry.num_tokens > 0 ? ids[entry.num_tokens - 1] : answer.last);
  for (uint32_t i = 0; i < entry.num_tokens; ++i) {
    // An end token or stop token is no text of the answer.
    const bool ending = entry.finish == FinishReason::kStop && i + 1 == entry.num_tokens;
    if (!answer.text || (ending && !answer.request->sampling.include_stop_in_output)) continue;
    const auto next = answer.text->push(ids[i]);
    piece.append(next);
    if (!next.stopped) continue;
    answer.stopped = true;
    stop_match = next.stop_match;
    return i + 1;
  }
  if (entry.finish != FinishReason::kNone && answer.text) piece.append(answer.text->finish());
  return entry.num_tokens;
}

}  // namespace tailor::worker
