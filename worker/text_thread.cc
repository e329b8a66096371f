#include "worker/text_thread.h"

#include <exception>
#include <limits>
#include <utility>

#include "base/check.h"

namespace tailor::worker {
namespace {

template <class... F>
struct Match : F... {
  using F::operator()...;
};
template <class... F>
Match(F...) -> Match<F...>;

}  // namespace

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
      std::visit(
          Match{[&](OpenAnswer& open) { answers_.open(std::move(open)); },
                [&](CloseAnswer& close) { answers_.close(close); },
                [&](ToReport& step) {
                  TextReport made = answers_.step(std::move(step.output));
                  report_({{step.envelope, std::move(made.report)}, std::move(made.payload)});
                },
                [&](comm::ReportFrame& report) { report_(std::move(report)); }},
          input);
      for (StopFound& stop : answers_.take_stops()) stops_.push_always(std::move(stop));
    }
  }
  progress_.busy = false;
}

}  // namespace tailor::worker
