#include "coordinator/coordinator_loop.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/describe.h"
#include "base/log.h"
#include "coordinator/status.h"

namespace tailor::coordinator {
namespace {

constexpr Duration kHouseEvery = milliseconds(250);
constexpr Duration kOutboundFull = milliseconds(5);  // then the io thread is looked at again

const char* meaning(ErrorCode code) {
  switch (code) {
    case ErrorCode::kCancelled:
      return "the request was cancelled";
    case ErrorCode::kDataLoss:
      return "a replica reported text that does not join the text before it";
    default:
      return "";
  }
}

}  // namespace

Result<std::unique_ptr<CoordinatorLoop>> CoordinatorLoop::create(const CoordinatorOptions& options,
                                                                 comm::CoordinatorIo& io,
                                                                 PromptText text) {
  if (text.vocab_size <= 0 || options.clients.max_context == 0)
    return fail(ErrorCode::kInvalidArgument,
                "the coordinator needs a vocabulary size and a context length");
  if (!options.clients.new_token)
    return fail(ErrorCode::kInvalidArgument, "the coordinator needs a source of request tokens");
  if (options.clients.tokenizer_threads == 0)
    return fail(ErrorCode::kInvalidArgument, "the coordinator needs at least one tokenizer thread");
  std::unique_ptr<CoordinatorLoop> loop(new CoordinatorLoop(options, io, std::move(text)));
  if (!options.record_path.empty()) {
    auto log = EventLogWriter::create(options.record_path, options.core);
    // A disk that is full ends no cluster, nor keeps a coordinator from starting again.
    if (!log && log.error().code == ErrorCode::kDataLoss)
      LOG_ERROR("{}; serving without recording", log.error().message);
    else if (!log)
      return fail(log.error());
    else
      loop->log_.emplace(std::move(*log));
  }
  return loop;
}

CoordinatorLoop::CoordinatorLoop(const CoordinatorOptions& options, comm::CoordinatorIo& io,
                                 PromptText text)
    : options_(options),
      io_(io),
      started_(now()),
      core_(options.core),
      store_(options.requests),
      sessions_(options.sessions),
      clients_(options.clients, std::move(text), io, store_, sessions_,
               {.tell = [this](const CoreEvent& event) { tell(event); },
                .status = [this] { return status(); }}),
      replicas_(options.heartbeat_timeout, core_, io,
                {.tell = [this](const CoreEvent& event) { tell(event); },
                 .contexts_changed =
                     [this] {
                       clients_.set_max_context(
                           replicas_.links().max_context(options_.clients.max_context));
                     },
                 .lost = options.on_lost,
                 .drained = options.on_drained}),
      operator_(options.orders_fd, core_, [this](const CoreEvent& event) { tell(event); }),
      predictor_(options.predictor),
      now_(started_) {}

// ---- turns ----

void CoordinatorLoop::run(int stop_fd) {
  bool stop_asked = false, ordered = false;
  while (!stop_asked) {
    if (options_.progress)
      ++options_.progress->counter;  // a turn waits for no longer than a moment
    wait(stop_fd, stop_asked, ordered);
    heard_until_ = io_.clients_heard_until();
    for (auto& input : io_.inbox().drain()) std::visit([this](auto& value) { on(value); }, input);
    clients_.take_tokenized();
    if (ordered) operator_.read(now_);
    if (core_.next_deadline() <= now_) tell(Tick{});
    if (now_ >= next_house_) keep_house();
    clients_.send();
  }
  stop();
}

void CoordinatorLoop::wait(int stop_fd, bool& stop, bool& ordered) {
  pollfd fds[4] = {{io_.inbox().fd(), POLLIN, 0},
                   {clients_.tokenized_fd(), POLLIN, 0},
                   {operator_.fd(), POLLIN, 0},
                   {stop_fd, POLLIN, 0}};
  const Duration timeout = time_to_wait();
  poll(fds, 4, static_cast<int>(std::chrono::ceil<milliseconds>(timeout).count()));
  const Time before = now_;
  now_ = now();
  ordered = (fds[2].revents & POLLIN) != 0;
  stop = (fds[3].revents & POLLIN) != 0;
  // A machine that slept or starved this process has heard nobody: that is no silence of theirs.
  const Duration paused = now_ - before - timeout;
  if (paused > options_.heartbeat_timeout / 4) {
    replicas_.forgive(paused);
    predictor_.forgive(paused);
    sessions_.forgive(paused);
  }
}

Duration CoordinatorLoop::time_to_wait() const {
  if (sessions_.more()) return clients_.has_room() ? Duration{0} : kOutboundFull;
  const Time due = std::min(core_.next_deadline(), next_house_);
  return std::clamp<Duration>(due - now(), Duration{0}, kHouseEvery);
}

void CoordinatorLoop::keep_house() {
  next_house_ = now_ + kHouseEvery;
  replicas_.keep_house(now_);
  if (predictor_.fell_silent(now_)) predictor_lost("it says nothing");
  if (predictor_.fell_mute(now_)) predictor_lost("it lives, but answers no question");
  clients_.keep_house(heard_until_, now_);
  sessions_.forgotten(store_.expire(now_));
  if (log_)
    if (auto written = log_->flush(); !written) end_recording(written.error());
}

void CoordinatorLoop::stop() {
  stopping_ = true;
  LOG_INFO("stopping: {} live requests end, {} replicas are told to leave", store_.live_count(),
           replicas_.links().size());
  tell(Stop{});
  clients_.stop();
  clients_.send();
  if (log_)
    if (auto written = log_->flush(); !written) end_recording(written.error());
}

void CoordinatorLoop::end_recording(const Error& why) {
  LOG_ERROR("{}; recording ends here, serving goes on", to_string(why));
  log_.reset();
}

// ---- the predictor ----

void CoordinatorLoop::on(comm::FromPredictor& input) {
  if (const auto* hello = std::get_if<PredictorHello>(&input.report)) {
    if (!predictor_.hello(input.link, *hello, now_)) return;
    absence_told_ = false;
    LOG_INFO("predictor: {}; population law {}", predictor_.describe(),
             describe(hello->population));
    tell(*hello);
    return;
  }
  const auto& predicted = std::get<Predicted>(input.report);
  const bool was_present = predictor_.present();
  const bool asked = predictor_.answered(input.link, predicted.request);
  if (!was_present && predictor_.present()) {
    absence_told_ = false;
    LOG_INFO("predictor: {}; it answers again", predictor_.describe());
  }
  if (!asked) return;
  tell(predicted);
  if (core_.standing(predicted.request).probed)
    LOG_DEBUG("request {}: predicted law {} comes behind the probe's, which stays",
              predicted.request.value, describe(predicted.law));
  else
    log_standing(predicted.request, "predicted");
}

void CoordinatorLoop::on(comm::PredictorGone& input) {
  if (predictor_.gone(input.link)) predictor_lost("its connection is gone");
}

void CoordinatorLoop::predictor_lost(const char* why) {
  absence_told_ = true;
  LOG_WARN("the predictor is lost ({}); requests run by the population law until it is back", why);
}

void CoordinatorLoop::ask_predictor(RequestId id, std::string words, uint32_t max_tokens) {
  if (words.empty()) return;  // token ids: nothing to read
  if (const auto link = predictor_.ask(id, now_))
    return io_.send(comm::ToPredictor{*link, Predict{id, std::move(words), max_tokens}});
  if (!predictor_.present() && core_.policy().needs.law && !std::exchange(absence_told_, true))
    LOG_WARN("no predictor is here: under policy {} requests run by the population law",
             core_.policy().name);
}

void CoordinatorLoop::log_standing(RequestId id, const char* whose) const {
  const auto level = core_.policy().needs.law ? LogLevel::kInfo : LogLevel::kDebug;
  if (!log_enabled(level)) return;
  const auto s = core_.standing(id);
  if (!s.live) return;
  // Its place costs a walk over all requests, and an answer of the predictor comes with each one.
  std::string place;
  if (!s.waiting)
    place = "already on replica " + std::to_string(store_.live(s.slot).timings.replica);
  else if (!log_enabled(LogLevel::kDebug))
    place = "one of " + std::to_string(core_.waiting()) + " that wait";
  else
    place = "place " + std::to_string(core_.place(id)) + " of " + std::to_string(core_.waiting());
  log_at(level, "request {}: {} law {}, E {:.1f}, CVaR {:.1f}, beta {:.3f}, key {:.4f}, {}",
         id.value, whose, describe(s.law), s.moments.expected, s.moments.cvar, core_.beta(), s.key,
         place);
}

// ---- the core ----

void CoordinatorLoop::tell(const CoreEvent& event) {
  if (log_)
    if (auto written = log_->append(now_, event); !written) end_recording(written.error());
  const auto* from = std::get_if<FromReplica>(&event);
  const auto* report = from ? std::get_if<StepReport>(&from->report) : nullptr;
  if (report) note_events(from->envelope, *report);  // before the ends that it may bring
  commands_.clear();
  core_.handle(now_, event, commands_);
  for (const auto& command : commands_) std::visit([this](const auto& c) { execute(c); }, command);
  if (report) log_probed(*report);
  while (!broken_.empty()) {
    const Abandoned next = broken_.back();
    broken_.pop_back();
    tell(next);
  }
}

void CoordinatorLoop::execute(const Accept& command) {
  auto taken = clients_.take(command, now_);
  ask_predictor(command.id, std::move(taken.words),
                static_cast<uint32_t>(taken.request.request->sampling.max_tokens));
}

void CoordinatorLoop::execute(const Reject& command) { clients_.refuse(command); }

void CoordinatorLoop::execute(const ToReplica& message) {
  const auto* dispatch = std::get_if<Dispatch>(&message.command);
  replicas_.send(message, dispatch ? payload_of(message.envelope, *dispatch) : DispatchPayload{},
                 now_);
}

DispatchPayload CoordinatorLoop::payload_of(const Envelope& to, const Dispatch& dispatch) {
  StoredRequest& request = store_.live(core_.slot_of(dispatch.request));
  api::Timings& timings = request.timings;
  if (timings.dispatched == Duration{}) timings.dispatched = now_ - request.request->arrival;
  timings.attempts = dispatch.attempt.value;
  timings.replica = to.replica.value;
  LOG_DEBUG("request {} goes to replica {} (attempt {})", dispatch.request.value, to.replica.value,
            dispatch.attempt.value);
  return {request.request, request.generated()};
}

void CoordinatorLoop::note_events(const Envelope& from, const StepReport& report) {
  const auto live = [&](const auto& message) -> StoredRequest* {
    const uint32_t slot = core_.slot_of(from, message.request, message.attempt);
    return slot == SchedulerCore::kNoSlot ? nullptr : &store_.live(slot);
  };
  for (const SequencePreempted& preempted : report.preempted)
    if (StoredRequest* request = live(preempted)) ++request->timings.preemptions;
  for (const PrefillDone& done : report.prefills)
    if (StoredRequest* request = live(done);
        request && !request->cached_tokens)  // computed again, it may find its own blocks
      request->cached_tokens =
          std::min(done.cached_tokens, static_cast<uint32_t>(request->request->prompt.size()));
}

void CoordinatorLoop::log_probed(const StepReport& report) const {
  for (const LawProbed& probed : report.laws)
    if (probed.generated == 0) log_standing(probed.request, "probed");
}

void CoordinatorLoop::execute(const Emit& command) {
  const auto [progress, parts] = replicas_.entry(command.entry);
  StoredRequest& request = store_.live(command.slot);
  TAILOR_CHECK(request.id == progress.request, "a request stands at its slot in the core's books");
  if (request.broken) return;
  if (request.timings.first_token == Duration{} && progress.num_tokens > command.skip)
    request.timings.first_token = now_ - request.request->arrival;
  if (auto stored = store_.append(request, progress, parts, command.skip); !stored) {
    ++worker_complaints_;
    LOG_ERROR("request {}: {}; the request fails", request.id.value, stored.error().message);
    request.broken = true;
    broken_.push_back({request.id, FinishReason::kFailed, stored.error().code});
  }
  sessions_.changed(request);
}

void CoordinatorLoop::execute(const Finish& command) {
  StoredRequest& request = store_.live(command.slot);
  TAILOR_CHECK(request.id == command.id, "a live request ends once");
  Error error = command.error;
  FinishReason reason = command.reason;
  if (request.broken) {
    reason = FinishReason::kFailed;
    error.code = ErrorCode::kDataLoss;
  }
  if (error.code != ErrorCode::kOk && error.message.empty()) error.message = meaning(error.code);
  if (error.code != ErrorCode::kOk && error.code != ErrorCode::kCancelled)
    LOG_WARN("request {} on replica {} failed: {}", command.id.value, request.timings.replica,
             to_string(error));
  request.timings.finished = now_ - request.request->arrival;
  sessions_.changed(request);
  sessions_.forgotten(store_.end(command.slot, reason, std::move(error), now_));
}

api::StatusReport CoordinatorLoop::status() const {
  return status_of({.version = options_.version,
                    .model_name = options_.model_name,
                    .end_tokens = options_.end_tokens,
                    .core = core_,
                    .store = store_,
                    .sessions = sessions_,
                    .clients = clients_,
                    .replicas = replicas_,
                    .predictor = predictor_,
                    .io = io_.counters(),
                    .worker_complaints = worker_complaints_,
                    .uptime = now_ - started_,
                    .stopping = stopping_});
}

}  // namespace tailor::coordinator
