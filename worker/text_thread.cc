#include "worker/text_thread.h"

#include <limits>
#include <utility>

namespace tailor::worker {

TextThread::TextThread(std::shared_ptr<const text::Tokenizer> tokenizer,
                       std::function<void(comm::ReportFrame)> report, Progress* progress)
    : report_(std::move(report)),
      progress_(progress ? *progress : unwatched_),
      answers_(std::move(tokenizer)),
      inbox_(std::numeric_limits<size_t>::max()),
      stops_(std::numeric_limits<size_t>::max()),
      thread_([this] { run(); }) {}

TextThread::~TextThread() {
  inbox_.close();
  thread_.join();
}

void TextThread::run() {
  for (;;) {
    progress_.busy = false;
    auto inputs = inbox_.drain_wait(seconds(10));
    progress_.busy = true;
    if (inputs.empty() && inbox_.closed()) break;
    for (TextInput& input : inputs) {
      ++progress_.counter;
      handle(input);
    }
  }
  progress_.busy = false;
}

void TextThread::handle(TextInput& input) {
  if (auto* word = std::get_if<FromReplica>(&input)) return report_({std::move(*word), {}});
  ReportDraft& draft = std::get<ReportDraft>(input);
  answers_.complete(draft);
  report_({{draft.envelope, std::move(draft.report)}, std::move(draft.payload)});
  for (const StopFound& stop : answers_.take_stops()) stops_.push_always(StopFound(stop));
}

}  // namespace tailor::worker
