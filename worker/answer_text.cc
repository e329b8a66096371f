#include "worker/answer_text.h"

#include <utility>

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

void AnswerText::add(Entry& entry, text::StreamText::Piece&& piece) {
  if (entry.text.empty()) entry.text_offset = piece.offset;
  entry.text += piece.text;
}

void AnswerText::flush(Answer& answer, Entry& entry) {
  if (answer.text) add(entry, answer.text->finish());
}

void AnswerText::append(Entry&& entry, TextReport& out) {
  StepPayload& payload = out.payload;
  const auto place = static_cast<uint32_t>(out.report.progress.size());
  out.report.progress.push_back(entry.progress);
  if (entry.progress.num_tokens == 1) payload.token_ids.push_back(entry.token);
  payload.texts.push_back({entry.text_offset, static_cast<uint32_t>(entry.text.size()),
                           static_cast<uint32_t>(entry.logprobs.size())});
  payload.text += entry.text;
  for (LogprobEntry& logprob : entry.logprobs) payload.logprobs.push_back(std::move(logprob));
  if (entry.end.stop_match.empty() && entry.end.error.code == ErrorCode::kOk) return;
  entry.end.entry = place;
  payload.ends.push_back(std::move(entry.end));
}

void AnswerText::open(OpenAnswer open) {
  const SamplingParams& p = open.request->sampling;
  Answer answer{.attempt = open.attempt, .request = open.request};
  Entry entry;
  SequenceProgress& progress = entry.progress;
  progress = {.request = open.sequence.request,
              .sample = open.sequence.sample,
              .attempt = open.attempt,
              .first_index = static_cast<uint32_t>(open.generated.size())};
  std::string stop_match;
  bool stopped = false;
  if (tokenizer_) {
    answer.text = std::make_unique<text::StreamText>(tokenizer_, options_of(p));
    std::span<const TokenId> fed = open.generated;
    if (open.ended == FinishReason::kStop && !p.include_stop_in_output)
      fed = fed.first(fed.size() - 1);
    for (TokenId id : fed) {
      auto piece = answer.text->push(id);
      if (!piece.stopped) continue;
      stopped = true;
      stop_match = piece.stop_match;
      break;
    }
    entry.text_offset = answer.text->text_bytes();
  }
  if (open.ended == FinishReason::kNone && !stopped) {
    answers_.insert_or_assign(open.sequence, std::move(answer));
    return;
  }
  progress.finish = stopped ? FinishReason::kStop : open.ended;
  if (progress.finish == FinishReason::kFailed) entry.end.error = std::move(open.error);
  if (stopped) {
    entry.end.stop_match = stop_match;
  } else {
    flush(answer, entry);
    if (open.ended == FinishReason::kStop) entry.end.stop_match = token_name(open.generated.back());
  }
  if (open.ended == FinishReason::kNone) {  // the main thread does not know yet
    stops_.push_back({open.sequence, open.attempt});
    answer.stopped = true;
    answers_.insert_or_assign(open.sequence, std::move(answer));
  }
  pending_.push_back(std::move(entry));
}

void AnswerText::close(const CloseAnswer& close) {
  auto it = answers_.find(close.sequence);
  if (it != answers_.end() && it->second.attempt == close.attempt) answers_.erase(it);
}

TextReport AnswerText::step(StepOutput output) {
  TextReport out{std::move(output.report), {}};
  for (Entry& entry : std::exchange(pending_, {})) append(std::move(entry), out);
  for (AnswerToken& token : output.tokens) {
    auto it = answers_.find(token.sequence);
    if (it == answers_.end() || it->second.attempt != token.attempt) continue;
    Answer& answer = it->second;
    if (!answer.stopped) {
      Entry entry;
      entry.progress = {.request = token.sequence.request,
                        .sample = token.sequence.sample,
                        .attempt = token.attempt,
                        .first_index = token.index};
      if (answer.text) entry.text_offset = answer.text->text_bytes();
      take_token(answer, token, entry);
      append(std::move(entry), out);
    }
    if (token.finish != FinishReason::kNone) answers_.erase(it);
  }
  return out;
}

void AnswerText::take_token(Answer& answer, const AnswerToken& token, Entry& entry) {
  entry.progress.finish = token.finish;
  if (token.finish == FinishReason::kFailed) entry.end.error = token.error;
  if (token.token >= 0) {
    entry.progress.num_tokens = 1;
    entry.token = token.token;
    if (token.has_logprobs) entry.logprobs.push_back(token.logprobs);
    // An end token or stop token is no text of the answer.
    const bool ending = token.finish == FinishReason::kStop;
    if (ending) entry.end.stop_match = token_name(token.token);
    if (answer.text && (!ending || answer.request->sampling.include_stop_in_output)) {
      auto piece = answer.text->push(token.token);
      const bool stopped = piece.stopped;
      if (stopped) entry.end.stop_match = piece.stop_match;
      add(entry, std::move(piece));
      if (stopped) {
        entry.progress.finish = FinishReason::kStop;
        answer.stopped = true;
        if (token.finish == FinishReason::kNone) stops_.push_back({token.sequence, token.attempt});
        return;
      }
    }
  }
  if (token.finish != FinishReason::kNone) flush(answer, entry);
}

}  // namespace tailor::worker
