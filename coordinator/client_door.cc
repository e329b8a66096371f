#include "coordinator/client_door.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace tailor::coordinator {
namespace {

constexpr Duration kTokenizersBusy = seconds(1);
constexpr const char* kNotYours =
    "another client's request: only the token of its Accepted opens it";

/// In a time that does not tell where they differ.
bool same_secret(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

/// Whether it is the client's request: it submitted it, or resumed it last, or knows its token.
bool owns(ClientId client, const StoredRequest& request, const std::string& token) {
  return request.owner == client || same_secret(request.token(), token);
}

}  // namespace

ClientDoor::ClientDoor(const ClientDoorOptions& options, PromptText text, comm::CoordinatorIo& io,
                       RequestStore& store, ClientSessions& sessions, Outside outside)
    : options_(options),
      vocab_size_(text.vocab_size),
      sampling_defaults_(text.sampling),
      outside_(std::move(outside)),
      io_(io),
      store_(store),
      sessions_(sessions),
      pool_(std::move(text), options.max_context, options.tokenizer_threads, options.tokenizing),
      last_id_{options.first_request_id} {}

void ClientDoor::on(comm::FromClient& input, Time now) {
  const ClientId client = input.client;
  sessions_.heard(client, now);
  std::visit(
      [&](auto& message) {
        using T = std::decay_t<decltype(message)>;
        if constexpr (std::is_same_v<T, api::Submit>)
          on_submit(client, std::move(message), now);
        else if constexpr (std::is_same_v<T, api::Cancel>)
          on_cancel(client, message);
        else if constexpr (std::is_same_v<T, api::Credit>)
          sessions_.grant(client, message.messages);
        else if constexpr (std::is_same_v<T, api::Resume>)
          on_resume(client, message);
        else
          sessions_.post(client, outside_.status());
      },
      input.message);
}

void ClientDoor::reject(ClientId client, std::string request_id, ErrorCode code,
                        std::string message, Duration retry) {
  sessions_.post(client,
                 api::Rejected{std::move(request_id), Error{code, std::move(message)}, retry});
}

// ---- submit ----

void ClientDoor::on_submit(ClientId client, api::Submit&& submit, Time now) {
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
  const Time deadline = submit.deadline ? now + *submit.deadline : Time::max();
  if (!pool_.submit(TokenizeJob{client, std::move(submit), now}))
    return reject(client, name, ErrorCode::kQueueFull,
                  std::to_string(pool_.jobs()) + " prompts of " +
                      std::to_string(pool_.bytes() >> 20) + " MiB wait to be tokenized",
                  kTokenizersBusy);
  tokenizing_[name] = Tokenizing{client, deadline, false};
}

/// Answers a request whose prompt nobody needs any more; the next entry.
ClientDoor::TokenizingEntry ClientDoor::end_tokenizing(TokenizingEntry job, ErrorCode code,
                                                       const std::string& message) {
  reject(job->second.client, job->first, code, message);
  if (pool_.withdraw(job->second.client, job->first)) return tokenizing_.erase(job);
  job->second.over = true;
  return std::next(job);
}

void ClientDoor::take_tokenized() {
  for (auto& result : pool_.take_results()) on_tokenized(std::move(result));
}

void ClientDoor::on_tokenized(TokenizeResult&& result) {
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
  const SamplingParams& sampling = result.prepared->sampling;
  if (const uint64_t most = most_answer_bytes(sampling); most > options_.max_answer_bytes)
    return reject(
        state.client, name, ErrorCode::kLimitExceeded,
        "an answer of n " + std::to_string(sampling.n) + " x max_tokens " +
            std::to_string(sampling.max_tokens) +
            (sampling.logprobs < 0 ? std::string()
                                   : " with logprobs " + std::to_string(sampling.logprobs)) +
            " may come to hold " + std::to_string((most + (1 << 20) - 1) >> 20) +
            " MiB here, the limit is " + std::to_string(options_.max_answer_bytes >> 20) +
            " MiB; lower one of them");
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
  outside_.tell(arrived);
  arriving_.reset();
}

ClientDoor::Taken ClientDoor::take(const Accept& command, Time now) {
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
  StoredRequest& stored =
      store_.open(command.slot, {std::move(request), std::move(a.submit.request_id),
                                 options_.new_token(), a.client, a.submit.detach});
  stored.timings.tokenized = now - a.arrival;
  sessions_.post_accepted(a.client, stored);
  if (sessions_.known(a.client)) sessions_.attach(a.client, stored, {});
  return {stored, std::move(a.prompt.words)};
}

void ClientDoor::refuse(const Reject& command) {
  TAILOR_CHECK(arriving_ && arriving_->id == command.id, "what is rejected has just arrived");
  sessions_.post(arriving_->client,
                 api::Rejected{arriving_->submit.request_id, command.error, command.retry_after});
}

/// SplitMix64 of (entropy, counter).
uint64_t ClientDoor::draw_seed() {
  uint64_t z = options_.seed_entropy + ++seeds_drawn_ * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// ---- cancel and resume ----

void ClientDoor::on_cancel(ClientId client, const api::Cancel& cancel) {
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
  outside_.tell(Abandoned{request->id});  // one that has ended by itself stays as it is
  request = store_.find(cancel.request_id);
  if (request && !sessions_.reads(client, *request)) sessions_.post(client, request->finished());
}

void ClientDoor::on_resume(ClientId client, const api::Resume& resume) {
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

// ---- house ----

void ClientDoor::keep_house(Time heard_until, Time now) {
  for (const auto& gone : sessions_.gone(std::min(heard_until, now))) {
    LOG_INFO("client {} is gone; {} of its requests are cancelled", gone.client.value,
             gone.cancel.size());
    for (const RequestId id : gone.cancel) outside_.tell(Abandoned{id});
    auto words = sessions_.forget(gone.client);
    io_.send(comm::ForgetClient{gone.client});
    if (!words.empty()) io_.send(comm::ToClient{gone.client, std::move(words)});
  }
  for (auto job = tokenizing_.begin(); job != tokenizing_.end();)
    job = job->second.over || job->second.deadline > now
              ? std::next(job)
              : end_tokenizing(job, ErrorCode::kDeadlineExceeded,
                               "the deadline passed before the prompt was tokenized");
}

void ClientDoor::stop() {
  for (auto& [name, job] : tokenizing_)
    if (!job.over) reject(job.client, name, ErrorCode::kUnavailable, "the coordinator is stopping");
}

void ClientDoor::send() {
  if (!has_room()) return;
  for (auto& message : sessions_.flush())
    io_.send(comm::ToClient{message.client, std::move(message.events)});
}

}  // namespace tailor::coordinator
