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

void append(SequenceProgress& progress, text::StreamText::Piece&& piece) {
  if (progress.text.empty()) progress.text_offset = piece.offset;
  progress.text += piece.text;
}

}  // namespace

AnswerText::AnswerText(std::shared_ptr<const text::Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

std::string AnswerText::token_name(TokenId id) const {
  if (tokenizer_) return tokenizer_->token_bytes(id);
  return "token " + std::to_string(id);
}

void AnswerText::flush(Answer& answer, SequenceProgress& progress) {
  if (answer.text) append(progress, answer.text->finish());
}

void AnswerText::open(OpenAnswer open) {
  const SamplingParams& p = open.request->sampling;
  Answer answer{.attempt = open.attempt, .request = open.request};
  SequenceProgress progress{.sequence = open.sequence,
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
    progress.text_offset = answer.text->text_bytes();
  }
  if (open.ended == FinishReason::kNone && !stopped) {
    answers_.insert_or_assign(open.sequence, std::move(answer));
    return;
  }
  progress.finish = stopped ? FinishReason::kStop : open.ended;
  progress.error = std::move(open.error);
  if (stopped) {
    progress.stop_match = stop_match;
  } else {
    flush(answer, progress);
    if (open.ended == FinishReason::kStop) progress.stop_match = token_name(open.generated.back());
  }
  if (open.ended == FinishReason::kNone) {  // the main thread does not know yet
    stops_.push_back({open.sequence, open.attempt});
    answer.stopped = true;
    answers_.insert_or_assign(open.sequence, std::move(answer));
  }
  pending_.push_back(std::move(progress));
}

void AnswerText::close(const CloseAnswer& close) {
  auto it = answers_.find(close.sequence);
  if (it != answers_.end() && it->second.attempt == close.attempt) answers_.erase(it);
}

StepReport AnswerText::step(StepOutput output) {
  StepReport report = std::move(output.report);
  report.progress = std::exchange(pending_, {});
  report.progress.reserve(report.progress.size() + output.tokens.size());
  for (AnswerToken& token : output.tokens) {
    auto it = answers_.find(token.sequence);
    if (it == answers_.end() || it->second.attempt != token.attempt) continue;
    Answer& answer = it->second;
    if (!answer.stopped) {
      SequenceProgress progress{
          .sequence = token.sequence, .attempt = token.attempt, .first_index = token.index};
      if (answer.text) progress.text_offset = answer.text->text_bytes();
      take_token(answer, token, progress);
      report.progress.push_back(std::move(progress));
    }
    if (token.finish != FinishReason::kNone) answers_.erase(it);
  }
  return report;
}

void AnswerText::take_token(Answer& answer, const AnswerToken& token, SequenceProgress& progress) {
  progress.finish = token.finish;
  progress.error = token.error;
  if (token.token >= 0) {
    progress.token_ids.push_back(token.token);
    if (token.has_logprobs) progress.logprobs.push_back(token.logprobs);
    const bool ending =
        token.finish == FinishReason::kStop;  // an end token or stop token: no text of the answer
    if (ending) progress.stop_match = token_name(token.token);
    if (answer.text && (!ending || answer.request->sampling.include_stop_in_output)) {
      auto piece = answer.text->push(token.token);
      const bool stopped = piece.stopped;
      if (stopped) progress.stop_match = piece.stop_match;
      append(progress, std::move(piece));
      if (stopped) {
        progress.finish = FinishReason::kStop;
        answer.stopped = true;
        if (token.finish == FinishReason::kNone) stops_.push_back({token.sequence, token.attempt});
        return;
      }
    }
  }
  if (token.finish != FinishReason::kNone) flush(answer, progress);
}

}  // namespace tailor::worker
