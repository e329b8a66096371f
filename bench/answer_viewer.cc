#include "bench/answer_viewer.h"

#include <utility>

namespace tailor::bench {

AnswerViewer::AnswerViewer(std::vector<std::string> prompts, std::FILE* out) : out_(out) {
  for (auto& prompt : prompts) answers_.push_back({std::move(prompt), "", false, false});
}

void AnswerViewer::take(const api::ServerEvent& event, size_t index) {
  if (index >= answers_.size()) return;
  Answer& answer = answers_[index];
  if (const auto* chunk = std::get_if<api::TokenChunk>(&event)) {
    if (chunk->sample == 0) answer.unshown += chunk->text;
  } else if (const auto* rejected = std::get_if<api::Rejected>(&event)) {
    answer.unshown += "[" + to_string(rejected->error) + "]";
    answer.ended = true;
  } else if (std::holds_alternative<api::Finished>(event)) {
    answer.ended = true;
  }
  show_what_can_be_shown();
}

void AnswerViewer::show_what_can_be_shown() {
  while (current_ < answers_.size()) {
    Answer& answer = answers_[current_];
    if (answer.unshown.empty() && !answer.ended) return;
    if (!std::exchange(answer.started, true)) std::fprintf(out_, "\n> %s\n", answer.prompt.c_str());
    std::fputs(answer.unshown.c_str(), out_);
    answer.unshown.clear();
    std::fflush(out_);
    if (!answer.ended) return;
    std::fputs("\n", out_);
    ++current_;
  }
}

}  // namespace tailor::bench
