#include "launch/predictor/serve.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "comm/predictor_io.h"
#include "launch/options/program_options.h"
#include "predict/process/batcher.h"
#include "predict/process/source.h"

namespace tailor::launch {
namespace {

using Options = PredictorArguments;

constexpr int kIdleMs = 250;  // a turn waits no longer: the watchdog counts turns

/// Predicts one batch and answers it; a failure is answered too (kind none), so that no question
/// stays open.
void answer(predict::PromptPredictor& predictor, const std::vector<Predict>& batch,
            comm::PredictorIo& io) {
  std::vector<std::string> prompts;
  prompts.reserve(batch.size());
  for (const Predict& question : batch) prompts.push_back(question.prompt);
  std::vector<LengthLaw> laws;
  try {
    laws = predictor.predict(prompts);
  } catch (const std::exception& error) {
    LOG_ERROR("a batch of {} prompts could not be predicted: {}", batch.size(), error.what());
  }
  laws.resize(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!well_formed(laws[i])) laws[i] = {};
    io.answer(Predicted{batch[i].request, laws[i]});
  }
}

void loop(predict::PromptPredictor& predictor, comm::PredictorIo& io,
          predict::PredictorBatcher& batcher, int stop_fd, Progress& progress) {
  uint64_t batches = 0, predicted = 0;
  for (;;) {
    ++progress.counter;
    const Duration left =
        batcher.due() == Time::max() ? milliseconds(kIdleMs) : batcher.due() - now();
    const auto wait =
        std::clamp<int64_t>(std::chrono::ceil<milliseconds>(left).count(), 0, kIdleMs);
    pollfd fds[2] = {{io.inbox().fd(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
    poll(fds, 2, static_cast<int>(wait));
    if (fds[1].revents & POLLIN) break;
    const Time at = now();
    for (Predict& question : io.inbox().drain()) batcher.add(std::move(question), at);
    const std::vector<Predict> batch = batcher.take(now());
    if (batch.empty()) continue;
    answer(predictor, batch, io);
    ++batches;
    predicted += batch.size();
    LOG_DEBUG("batch of {} in {:.2f} ms, {} wait", batch.size(), to_seconds(now() - at) * 1e3,
              batcher.waiting());
  }
  LOG_INFO("stopping: {} prompts predicted in {} batches, {} dropped", predicted, batches,
           batcher.dropped() + io.dropped());
}

Result<void> serve(const Options& o, int stop_fd, Progress& progress, Watchdog& watchdog) {
  TAILOR_ASSIGN(predict::PredictorSource source, predict::open_predictor(o.source, o.threads));
  comm::PredictorIoOptions io_options;
  io_options.control_endpoint = o.control_endpoint;
  TAILOR_ASSIGN(io_options.link_key, comm::read_link_key(o.link_key));
  io_options.hello = source.hello;
  io_options.hello.version = TAILOR_VERSION;
  io_options.hello.pid = getpid();
  io_options.inbox_capacity = o.queue_limit;
  TAILOR_ASSIGN(auto io, comm::PredictorIo::start(io_options));
  LOG_INFO("{} ({}, {}) answers {}", source.hello.name, source.hello.encoder, source.hello.head,
           o.control_endpoint);
  predict::PredictorBatcher batcher(
      {o.max_batch, from_seconds(o.max_wait_ms / 1e3), o.queue_limit});
  watchdog.started();
  loop(*source.predictor, *io, batcher, stop_fd, progress);
  return {};
}

int run(const Options& o) {
  // Blocked before any thread begins, so that every thread inherits it: signals come by a file
  // descriptor only.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  sigprocmask(SIG_BLOCK, &stop_signals, nullptr);
  const int stop_fd = signalfd(-1, &stop_signals, SFD_CLOEXEC);
  init_logging("predictor", o.log_level);
  Progress progress;
  progress.busy = true;
  Watchdog watchdog({{"main", &progress}}, {.stuck_after = milliseconds(o.stuck_after_ms)});
  // Advice yields to the answers themselves where both want the same cores.
  errno = 0;
  if (o.nice > 0 && nice(o.nice) == -1 && errno != 0)
    LOG_WARN("the predictor keeps its priority: {}", std::strerror(errno));
  Result<void> end = fail(ErrorCode::kInternal, "no reason given");
  try {
    end = serve(o, stop_fd, progress, watchdog);
  } catch (const std::exception& error) {
    end = fail(ErrorCode::kInternal, error.what());
  }
  close(stop_fd);
  if (end) return 0;
  LOG_ERROR("{}", end.error().message);
  return 1;
}

}  // namespace

std::function<int()> add_predictor_serve(CLI::App& parent) {
  auto o = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("serve", "Answer a coordinator's questions about prompts");
  predictor_options().add_to(*app, *o);
  return [o] { return run(*o); };
}

}  // namespace tailor::launch
