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
                       std::function<void(WorkerReport)> report)
    : report_(std::move(report)),
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
    auto inputs = inbox_.drain_wait(seconds(10));
    if (inputs.empty() && inbox_.closed()) return;
    for (TextInput& input : inputs) {
      std::visit(Match{[&](OpenAnswer& open) { answers_.open(std::move(open)); },
                       [&](CloseAnswer& close) { answers_.close(close); },
                       [&](StepOutput& output) { report_(answers_.step(std::move(output))); },
                       [&](WorkerReport& report) { report_(std::move(report)); }},
                 input);
      for (StopFound& stop : answers_.take_stops()) stops_.push_always(std::move(stop));
    }
  }
}

}  // namespace tailor::worker
