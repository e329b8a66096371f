#include "coordinator/coordinator_loop.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/describe.h"
#include "base/log.h"

namespace tailor::coordinator {
namespace {

constexpr Duration kHouseEvery = milliseconds(250);
constexpr Duration kTokenizersBusy = seconds(1);
constexpr Duration kOutboundFull = milliseconds(5);  // then the io thread is looked at again

/// In a time that does not tell where they differ.
bool same_secret(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

constexpr const char* kNotYours =
    "another client's request: only the token of its Accepted opens it";

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
  if (text.vocab_size <= 0 || options.max_context == 0)
    return fail(ErrorCode::kInvalidArgument,
                "the coordinator needs a vocabulary size and a context length");
  if (!options.new_token)
    return fail(ErrorCode::kInvalidArgument, "the coordinator needs a source of request tokens");
  if (options.tokenizer_threads == 0)
    return fail(ErrorCode::kInvalidArgument, "the coordinator needs at least one tokenizer thread");
  std::unique_ptr<CoordinatorLoop> loop(new CoordinatorLoop(options, io, std::move(text)));
  if (!options.record_path.empty()) {
    TAILOR_ASSIGN(loop->log_, EventLogWriter::create(options.record_path, options.core));
  }
  return loop;
}

CoordinatorLoop::CoordinatorLoop(const CoordinatorOptions& options, comm::CoordinatorIo& io,
                                 PromptText text)
    : options_(options),
      io_(io),
      started_(now()),
      vocab_size_(text.vocab_size),
      sampling_defaults_(text.sampling),
      pool_(std::move(text), options.max_context, options.tokenizer_threads, options.tokenizing),
      core_(options.core),
      store_(options.requests),
      sessions_(options.sessions),
      links_(options.heartbeat_timeout),
      predictor_(options.predictor),
      now_(started_),
      last_id_{options.first_request_id} {}

// ---- turns
// -----------------------------------------------------------------------------------------

void CoordinatorLoop::run(int stop_fd) {
  bool stop_asked = false;
  while (!stop_asked) {
    if (options_.progress)
      ++options_.progress->counter;  // a turn waits for no longer than a moment
    wait(stop_fd, stop_asked);
    heard_until_ = io_.clients_heard_until();
    for (auto& input : io_.inbox().drain()) std::visit([this](auto& value) { on(value); }, input);
    for (auto& result : pool_.take_results()) on_tokenized(std::move(result));
    if (core_.next_deadline() <= now_) tell(Tick{});
    if (now_ >= next_house_) keep_house();
    send_to_clients();
  }
  stop();
}

void CoordinatorLoop::wait(int stop_fd, bool& stop) {
  pollfd fds[3] = {
      {io_.inbox().fd(), POLLIN, 0}, {pool_.results_fd(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
  const Duration timeout = time_to_wait();
  poll(fds, 3, static_cast<int>(std::chrono::ceil<milliseconds>(timeout).count()));
  const Time before = now_;
  now_ = now();
  stop = (fds[2].revents & POLLIN) != 0;
  // A machine that slept or starved this process has heard nobody: that is no silence of theirs.
  const Duration paused = now_ - before - timeout;
  if (paused > options_.heartbeat_timeout / 4) {
    links_.forgive(paused);
    predictor_.forgive(paused);
    sessions_.forgive(paused);
  }
}

Duration CoordinatorLoop::time_to_wait() const {
  if (sessions_.more())
    return io_.outbound_bytes() < options_.max_outbound_bytes ? Duration{0} : kOutboundFull;
  const Time due = std::min(core_.next_deadline(), next_house_);
  return std::clamp<Duration>(due - now(), Duration{0}, kHouseEvery);
}

void CoordinatorLoop::keep_house() {
  next_house_ = now_ + kHouseEvery;
  for (const auto& silent : links_.silent(now_))
    lose(silent.replica, "rank " + std::to_string(silent.rank) + " has been silent for " +
                             std::to_string(to_us(silent.silence) / 1000) + " ms");
  if (predictor_.fell_silent(now_)) predictor_lost("it says nothing");
  if (predictor_.fell_mute(now_)) predictor_lost("it lives, but answers no question");
  for (const auto& gone : sessions_.gone(std::min(heard_until_, now_))) {
    LOG_INFO("client {} is gone; {} of its requests are cancelled", gone.client.value,
             gone.cancel.size());
    for (const RequestId id : gone.cancel) tell(Abandoned{id});
    auto words = sessions_.forget(gone.client);
    io_.send(comm::ForgetClient{gone.client});
    if (!words.empty()) io_.send(comm::ToClient{gone.client, std::move(words)});
  }
  end_late_tokenizing();
  sessions_.forgotten(store_.expire(now_));
  if (log_) (void)log_->flush();
}

void CoordinatorLoop::stop() {
  stopping_ = true;
  LOG_INFO("stopping: {} live requests end, {} replicas are told to leave", store_.live_count(),
           links_.size());
  tell(Stop{});
  for (auto& [name, job] : tokenizing_)
    if (!job.over) reject(job.client, name, ErrorCode::kUnavailable, "the coordinator is stopping");
  send_to_clients();
  if (log_) (void)log_->flush();
}

void CoordinatorLoop::send_to_clients() {
  if (io_.outbound_bytes() >= options_.max_outbound_bytes) return;
  for (auto& message : sessions_.flush())
    io_.send(comm::ToClient{message.client, std::move(message.events)});
}

// ---- clients
// -----------------------------------------------------------------------------------------

void CoordinatorLoop::on(comm::FromClient& input) {
  const ClientId client = input.client;
  sessions_.heard(client, now_);
  std::visit(
      [&](auto& message) {
        using T = std::decay_t<decltype(message)>;
        if constexpr (std::is_same_v<T, api::Submit>)
          on_submit(client, std::move(message));
        else if constexpr (std::is_same_v<T, api::Cancel>)
          on_cancel(client, message);
        else if constexpr (std::is_same_v<T, api::Credit>)
          sessions_.grant(client, message.messages);
        else if constexpr (std::is_same_v<T, api::Resume>)
          on_resume(client, message);
        else
          sessions_.post(client, status());
      },
      input.message);
}

void CoordinatorLoop::on(comm::ClientGone& input) { sessions_.unreachable(input.client); }

void CoordinatorLoop::reject(ClientId client, std::string request_id, ErrorCode code,
                             std::string message, Duration retry) {
  sessions_.post(client,
                 api::Rejected{std::move(request_id), Error{code, std::move(message)}, retry});
}

void CoordinatorLoop::on_submit(ClientId client, api::Submit&& submit) {
  const std::string name = submit.request_id;
  if (name.empty() || name.size() > comm::kMaxRequestIdBytes)
    return reject(client, name.substr(0, comm::kMaxRequestIdBytes), ErrorCode::kInvalidArgument,
                  "request_id must have 1.." + std::to_string(comm::kMaxRequestIdBytes) +
                      " bytes, found " + std::to_string(name.size()));
  if (const auto job = tokenizing_.find(name); job != tokenizing_.end()) {
    if (job->second.over)
      reject(client, name, ErrorCode::kUnavailable,
             "this request_id was used a moment ago and its prompt is still being tokenized",
             kTokenizersBusy);
    else if (job->second.client != client)
      reject(client, name, ErrorCode::kInvalidArgument, "another client uses this request_id");
    return;  // said twice: one answer is on its way
  }
  if (const StoredRequest* known = store_.find(name)) {
    if (!known->ended() && known->owner == client) return sessions_.post_accepted(client, *known);
    return reject(client, name, ErrorCode::kInvalidArgument,
                  "this request_id is in use or was used a moment ago; Resume reads its answer");
  }
  // What is wrong is said at once: neither lists nor prompt wait for it in a queue.
  const auto sampling = submit.sampling.resolved(sampling_defaults_);
  if (auto valid = validate(sampling, vocab_size_); !valid)
    return reject(client, name, valid.error().code, valid.error().message);
  const Time deadline = submit.deadline ? now_ + *submit.deadline : Time::max();
  if (!pool_.submit(TokenizeJob{client, std::move(submit), now_}))
    return reject(client, name, ErrorCode::kQueueFull,
                  std::to_string(pool_.jobs()) + " prompts of " +
                      std::to_string(pool_.bytes() >> 20) + " MiB wait to be tokenized",
                  kTokenizersBusy);
  tokenizing_[name] = Tokenizing{client, deadline, false};
}

/// Answers a request whose prompt nobody needs any more; the next entry.
CoordinatorLoop::TokenizingEntry CoordinatorLoop::end_tokenizing(TokenizingEntry job,
                                                                 ErrorCode code,
                                                                 const std::string& message) {
  reject(job->second.client, job->first, code, message);
  if (pool_.withdraw(job->second.client, job->first)) return tokenizing_.erase(job);
  job->second.over = true;
  return std::next(job);
}

void CoordinatorLoop::end_late_tokenizing() {
  for (auto job = tokenizing_.begin(); job != tokenizing_.end();)
    job = job->second.over || job->second.deadline > now_
              ? std::next(job)
              : end_tokenizing(job, ErrorCode::kDeadlineExceeded,
                               "the deadline passed before the prompt was tokenized");
}

void CoordinatorLoop::on_cancel(ClientId client, const api::Cancel& cancel) {
  if (const auto job = tokenizing_.find(cancel.request_id);
      job != tokenizing_.end() && !job->second.over) {
    if (job->second.client != client)
      return reject(client, cancel.request_id, ErrorCode::kUnauthenticated, kNotYours);
    end_tokenizing(job, ErrorCode::kCancelled, "the request was cancelled");
    return;
  }
  const StoredRequest* request = store_.find(cancel.request_id);
  if (!request) return reject(client, cancel.request_id, ErrorCode::kNotFound, "no such request");
  if (!owns(client, *request, cancel.token))
    return reject(client, cancel.request_id, ErrorCode::kUnauthenticated, kNotYours);
  tell(Abandoned{request->id()});  // one that has ended by itself stays as it is
  request = store_.find(cancel.request_id);
  if (request && !sessions_.reads(client, *request)) sessions_.post(client, request->finished());
}

bool CoordinatorLoop::owns(ClientId client, const StoredRequest& request,
                           const std::string& token) {
  return request.owner == client || same_secret(request.token, token);
}

void CoordinatorLoop::on_resume(ClientId client, const api::Resume& resume) {
  if (const auto job = tokenizing_.find(resume.request_id);
      job != tokenizing_.end() && !job->second.over) {
    if (job->second.client != client)
      reject(client, resume.request_id, ErrorCode::kUnauthenticated, kNotYours);
    return;  // it hears from the first token on
  }
  StoredRequest* request = store_.find(resume.request_id);
  if (!request)
    return reject(client, resume.request_id, ErrorCode::kNotFound, "no such request (any more)");
  if (!owns(client, *request, resume.token))
    return reject(client, resume.request_id, ErrorCode::kUnauthenticated, kNotYours);
  request->owner = client;
  sessions_.post_accepted(client, *request);  // the first one may have been lost
  sessions_.attach(client, *request, request->cursor(resume.from_token));
}

void CoordinatorLoop::on_tokenized(TokenizeResult&& result) {
  const std::string& name = result.submit.request_id;
  const auto job = tokenizing_.find(name);
  TAILOR_CHECK(job != tokenizing_.end(), "what comes back from the pool was sent there");
  const Tokenizing state = job->second;
  tokenizing_.erase(job);
  if (state.over) return;
  if (!result.prepared)
    return reject(state.client, name, result.prepared.error().code,
                  result.prepared.error().message);
  if (!sessions_.known(state.client) && !result.submit.detach) return;  // gone while we worked
  if (store_.live_bytes() >= options_.max_live_bytes)
    return reject(state.client, name, ErrorCode::kQueueFull,
                  "the prompts and answers of " + std::to_string(store_.live_count()) +
                      " live requests hold " + std::to_string(store_.live_bytes() >> 20) +
                      " MiB, the limit is " + std::to_string(options_.max_live_bytes >> 20),
                  kTokenizersBusy);

  Arrived arrived;
  arrived.id = RequestId{++last_id_.value};
  arrived.priority = result.submit.priority;
  arrived.samples = static_cast<uint32_t>(result.prepared->sampling.n);
  arrived.prompt_tokens = static_cast<uint32_t>(result.prepared->tokens.size());
  arrived.max_tokens = static_cast<uint32_t>(result.prepared->sampling.max_tokens);
  arrived.arrival = result.arrival;
  arrived.deadline = result.submit.deadline.value_or(Duration::max());
  arriving_.emplace(Arriving{arrived.id, std::move(result.submit), state.client,
                             std::move(*result.prepared), result.arrival});
  tell(arrived);
  arriving_.reset();
}

// ---- replicas
// -----------------------------------------------------------------------------------------

void CoordinatorLoop::on(comm::FromWorker& input) {
  FromReplica& from = input.frame.from;
  std::visit([&](auto& report) { on(input.link, from.envelope, report, input.frame.payload); },
             from.report);
}

void CoordinatorLoop::on(comm::LinkId link, const Envelope& from, Hello& hello, StepPayload&) {
  const ReplicaId replica = from.replica;
  if (links_.repeated(link, replica, hello))
    return send_to_replica({{replica, links_.find(replica)->epoch}, Welcome{}});
  if (const auto objection = links_.objection(replica, hello)) {
    ++replicas_refused_;
    LOG_ERROR("replica {} (pid {} on {}) is refused: {}", replica.value, hello.info.pid,
              hello.info.host, *objection);
    io_.send(comm::ToWorker{link, {{{replica, Epoch{0}}, Shutdown{}}, {}}});
    return;
  }
  if (const auto* predecessor = links_.find(replica)) {
    ++replicas_lost_;
    LOG_WARN("replica {} says Hello again: what its predecessor ran is queued anew", replica.value);
    // A process that lost its number to another one may live on: it would compute for nobody.
    if (predecessor->info.pid != hello.info.pid || predecessor->info.host != hello.info.host)
      send_to_replica({{replica, predecessor->epoch}, Shutdown{}});
    links_.left(replica);
  }
  joining_.emplace(Joining{link, hello.info});
  tell(FromReplica{from, std::move(hello)});
  joining_.reset();
  pool_.set_max_context(links_.max_context(options_.max_context));
}

void CoordinatorLoop::on(comm::LinkId link, const Envelope& from, StepReport& report,
                         StepPayload& payload) {
  if (!links_.speaks(link, from.replica)) return;  // refused or given up
  links_.stepped(from.replica, report, now_);
  note_progress(report);
  parts_.clear();
  PayloadReader reader(payload);
  for (const SequenceProgress& progress : report.progress) parts_.push_back(reader.next(progress));
  const CoreEvent event = FromReplica{from, std::move(report)};
  report_ = &std::get<StepReport>(std::get<FromReplica>(event).report);
  tell(event);
  for (const LawProbed& probed : report_->laws)
    if (probed.generated == 0) log_standing(probed.request, "probed");
  report_ = nullptr;
}

void CoordinatorLoop::on(comm::LinkId link, const Envelope& from, Drained&, StepPayload&) {
  if (!links_.speaks(link, from.replica)) return;
  LOG_INFO("replica {} has drained", from.replica.value);
  links_.drained(from.replica);
  tell(FromReplica{from, Drained{}});
  pool_.set_max_context(links_.max_context(options_.max_context));
}

void CoordinatorLoop::on(comm::LinkId link, const Envelope& from, const Heartbeat& heartbeat,
                         StepPayload&) {
  links_.heard(from, heartbeat, link, now_);
  if (links_.is_stale(from, heartbeat))  // until it hears it: what it was sent may be lost
    io_.send(comm::ToWorker{link, {{from, Shutdown{}}, {}}});
}

/// Its books are closed and, should it live after all, it is told to leave; its launcher ends what
/// cannot hear that, and starts it anew.
void CoordinatorLoop::lose(ReplicaId replica, const std::string& why) {
  auto* link = links_.find(replica);
  ++replicas_lost_;
  LOG_WARN("replica {} is lost: {}; its {} requests are queued anew", replica.value, why,
           core_.replica(replica).requests);
  const Epoch epoch = link->epoch;
  send_to_replica({{replica, epoch}, Shutdown{}});
  if (options_.on_lost) options_.on_lost(link->info);
  links_.left(replica);
  tell(ReplicaLost{replica, epoch});
  pool_.set_max_context(links_.max_context(options_.max_context));
}

// ---- the predictor
// -----------------------------------------------------------------------------------------

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
    place = "already on replica " + std::to_string(store_.live(core_.slot_of(id)).timings.replica);
  else if (!log_enabled(LogLevel::kDebug))
    place = "one of " + std::to_string(core_.waiting()) + " that wait";
  else
    place = "place " + std::to_string(core_.place(id)) + " of " + std::to_string(core_.waiting());
  log_at(level, "request {}: {} law {}, E {:.1f}, CVaR {:.1f}, beta {:.3f}, key {:.4f}, {}",
         id.value, whose, describe(s.law), s.moments.expected, s.moments.cvar, core_.beta(), s.key,
         place);
}

// ---- the core
// -----------------------------------------------------------------------------------------

void CoordinatorLoop::tell(const CoreEvent& event) {
  if (log_) {
    if (auto written = log_->append(now_, event); !written) {
      LOG_ERROR("{}; recording ends here", to_string(written.error()));
      log_.reset();
    }
  }
  commands_.clear();
  core_.handle(now_, event, commands_);
  for (const auto& command : commands_) std::visit([this](const auto& c) { execute(c); }, command);
  while (!broken_.empty()) {
    const Abandoned next = broken_.back();
    broken_.pop_back();
    tell(next);
  }
}

void CoordinatorLoop::execute(const Accept& command) {
  TAILOR_CHECK(arriving_ && arriving_->id == command.id, "what is accepted has just arrived");
  Arriving& a = *arriving_;
  auto request = std::make_shared<Request>();
  request->id = command.id;
  request->prompt = std::move(a.prompt.tokens);
  request->sampling = std::move(a.prompt.sampling);
  if (!a.submit.has_seed) request->sampling.seed = draw_seed();
  request->priority = a.submit.priority;
  request->tenant = std::move(a.submit.tenant);
  request->arrival = a.arrival;
  request->deadline = a.submit.deadline.value_or(Duration::max());
  const auto max_tokens = static_cast<uint32_t>(request->sampling.max_tokens);
  StoredRequest& stored =
      store_.open(command.slot, {std::move(request), std::move(a.submit.request_id),
                                 options_.new_token(), a.client, a.submit.detach});
  stored.timings.tokenized = now_ - a.arrival;
  sessions_.post_accepted(a.client, stored);
  if (sessions_.known(a.client)) sessions_.attach(a.client, stored, {});
  ask_predictor(command.id, std::move(a.prompt.words), max_tokens);
}

void CoordinatorLoop::execute(const Reject& command) {
  TAILOR_CHECK(arriving_ && arriving_->id == command.id, "what is rejected has just arrived");
  sessions_.post(arriving_->client,
                 api::Rejected{arriving_->submit.request_id, command.error, command.retry_after});
}

void CoordinatorLoop::execute(const ToReplica& message) {
  if (std::holds_alternative<Welcome>(message.command)) joined(message.envelope);
  const auto* dispatch = std::get_if<Dispatch>(&message.command);
  send_to_replica(message, dispatch ? payload_of(message.envelope, *dispatch) : DispatchPayload{});
}

void CoordinatorLoop::joined(const Envelope& welcome) {
  TAILOR_CHECK(joining_.has_value(), "a welcome answers a Hello");
  links_.joined(welcome.replica, welcome.epoch, joining_->link, joining_->info, now_);
  const ReplicaInfo& info = joining_->info;
  LOG_INFO(
      "replica {} epoch {} joins: {} tp {} on {} (pid {}), {} slots, {} KV blocks of {} tokens, "
      "context {}",
      welcome.replica.value, welcome.epoch.value, info.engine, info.tp_size, info.host, info.pid,
      info.slots, info.num_blocks, info.block_tokens, info.max_context);
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

/// What a report says of requests beside their tokens; it may bring their ends.
void CoordinatorLoop::note_progress(const StepReport& report) {
  for (const SequencePreempted& preempted : report.preempted)
    if (const uint32_t slot = core_.slot_of(preempted.request); slot != SchedulerCore::kNoSlot)
      ++store_.live(slot).timings.preemptions;
}

void CoordinatorLoop::execute(const Emit& command) {
  const SequenceProgress& progress = report_->progress[command.entry];
  StoredRequest& request = store_.live(command.slot);
  TAILOR_CHECK(request.id() == progress.request,
               "a request stands at its slot in the core's books");
  if (request.broken) return;
  if (request.timings.first_token == Duration{} && progress.num_tokens > command.skip)
    request.timings.first_token = now_ - request.request->arrival;
  if (auto stored = store_.append(request, progress, parts_[command.entry], command.skip);
      !stored) {
    ++worker_complaints_;
    LOG_ERROR("request {}: {}; the request fails", request.id().value, stored.error().message);
    request.broken = true;
    broken_.push_back({request.id(), FinishReason::kFailed, stored.error().code});
  }
  sessions_.changed(request);
}

void CoordinatorLoop::execute(const Finish& command) {
  StoredRequest& request = store_.live(command.slot);
  TAILOR_CHECK(request.id() == command.id, "a live request ends once");
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

void CoordinatorLoop::send_to_replica(const ToReplica& message, DispatchPayload payload) {
  const auto* link = links_.find(message.envelope.replica);
  if (!link || link->epoch != message.envelope.epoch) return;  // it has just left
  io_.send(comm::ToWorker{link->link, {message, std::move(payload)}});
}

/// SplitMix64 of (entropy, counter).
uint64_t CoordinatorLoop::draw_seed() {
  uint64_t z = options_.seed_entropy + ++seeds_drawn_ * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// ---- status
// -----------------------------------------------------------------------------------------

api::StatusReport CoordinatorLoop::status() const {
  api::StatusReport s;
  s.version = options_.version;
  s.model = options_.model_name;
  s.policy = std::string(core_.policy().name);
  s.end_tokens = options_.end_tokens;
  s.waiting_requests = core_.waiting();
  s.active_requests = core_.live() - core_.waiting();
  s.predictor = predictor_.describe();
  s.queue_limit = options_.core.queue_limit;
  s.expected_replicas = options_.core.expected_replicas;
  s.uptime_s = to_seconds(now_ - started_);
  uint32_t ready = 0;
  for (const auto& [id, link] : links_.all()) {
    const auto view = core_.replica(id);
    api::ReplicaStatus r;
    r.replica = id;
    r.epoch = link.epoch;
    r.ready = view.joined && !view.draining;
    r.draining = view.draining;
    r.info = link.info;
    r.running_sequences = view.running_sequences;
    r.dispatched_requests = view.requests;
    r.free_blocks = view.free_blocks;
    r.steps = link.steps;
    r.tokens = link.tokens;
    r.busy_s = to_seconds(link.busy);
    r.forward_s = to_seconds(link.forward);
    r.sample_s = to_seconds(link.sample);
    r.step_ms = link.step_ms;
    r.forward_ms = link.forward_ms;
    if (link.step_ms > 0) r.tokens_per_s = link.step_tokens / link.step_ms * 1e3;
    ready += r.ready;
    s.replicas.push_back(std::move(r));
  }
  s.ready = !stopping_ && ready >= options_.core.expected_replicas;

  const auto add = [&](const char* name, auto value) {
    s.counters.emplace_back(name, static_cast<double>(value));
  };
  const CoreCounters& c = core_.counters();
  add("requests_accepted", c.accepted);
  add("requests_rejected", c.rejected);
  add("requests_finished", c.finished);
  add("requests_cancelled", c.cancelled);
  add("requests_failed", c.failed);
  add("dispatches", c.dispatches);
  add("requeues", c.requeues);
  add("preemptions", c.preemptions);
  add("tokens", c.tokens);
  add("stale_report_entries", c.stale_entries);
  add("gap_failures", c.gap_failures);
  add("worker_complaints", worker_complaints_);
  add("replicas_lost", replicas_lost_);
  add("replicas_refused", replicas_refused_);
  add("tokenizing", tokenizing_.size());
  add("clients", sessions_.size());
  add("streams", store_.size());
  add("stream_bytes", store_.bytes());
  const PredictorCounters& p = predictor_.counters();
  add("predictor_asked", p.asked);
  add("predictor_answered", p.answered);
  add("predictor_late", c.predicted_late);
  add("predictor_dropped", p.dropped);
  add("predictor_unasked", p.unasked);
  add("predictor_unanswered", p.unanswered);
  add("predictor_strays", p.strays);
  add("predictor_losses", p.losses);
  add("predictor_open", predictor_.open());
  add("laws_probed", c.probed);
  add("queue_rekeys", c.rekeyed_all);
  const auto& io = io_.counters();
  add("client_messages", io.client_messages.value());
  add("client_bad_messages", io.client_bad_messages.value());
  add("client_bytes_in", io.client_bytes_in.value());
  add("client_bytes_out", io.client_bytes_out.value());
  add("dropped_to_clients", io.dropped_to_clients.value());
  add("worker_messages", io.worker_messages.value());
  add("worker_bad_messages", io.worker_bad_messages.value());
  return s;
}

}  // namespace tailor::coordinator
