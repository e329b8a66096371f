#include "client/open_requests.h"

#include "base/clock.h"
#include "base/endpoint.h"

namespace tailor::client {
namespace {
constexpr Duration kSilence = seconds(5);
constexpr Duration kStatusTimeout = seconds(5);

/// " --endpoint X" where a command needs it to find the same cluster.
std::string endpoint_option(const std::string& endpoint) {
  return endpoint == kDefaultEndpoint ? "" : " --endpoint " + endpoint;
}

}  // namespace

Error no_cluster_at(const std::string& endpoint) {
  return {ErrorCode::kUnavailable, "no cluster answers at " + endpoint +
                                       "; start one with: tailor serve" +
                                       endpoint_option(endpoint)};
}

Result<std::unique_ptr<Client>> connect_to_cluster(const std::string& endpoint, Duration timeout) {
  ClientOptions options;
  options.endpoint = endpoint;
  TAILOR_ASSIGN(std::unique_ptr<Client> client, Client::connect(options));
  if (auto status = client->status(timeout); !status) {
    if (status.error().code != ErrorCode::kTimeout) return fail(status.error());
    return fail(no_cluster_at(endpoint));
  }
  return client;
}

OpenRequests::OpenRequests(Client& client, std::string endpoint,
                           std::optional<Duration> request_timeout)
    : client_(client),
      endpoint_(std::move(endpoint)),
      request_timeout_(request_timeout),
      last_event_(now()) {}

Result<void> OpenRequests::submit(size_t tag, api::Submit submit) {
  if (submit.request_id.empty()) submit.request_id = new_request_id();
  if (open_.count(submit.request_id) > 0) {
    return fail(ErrorCode::kInvalidArgument, "request id " + submit.request_id + " is in use");
  }
  TAILOR_TRY(client_.submit(submit));
  if (open_.empty()) last_event_ = now();
  open_.emplace(submit.request_id, Open{tag, Answer(submit), now()});
  return {};
}

Result<std::vector<EndedAnswer>> OpenRequests::poll(Duration timeout) {
  std::vector<EndedAnswer> ended;
  TAILOR_ASSIGN(const std::vector<api::ServerEvent> events, client_.poll(timeout));
  for (const api::ServerEvent& event : events) take(event, ended);
  if (!events.empty()) last_event_ = now();
  end_overdue(ended);
  TAILOR_TRY(look_for_silent_server(ended));
  return ended;
}

void OpenRequests::end(std::map<std::string, Open>::iterator it, std::vector<EndedAnswer>& ended,
                       Duration retry_after) {
  ended.push_back({it->second.tag, std::move(it->second.answer), retry_after});
  open_.erase(it);
}

void OpenRequests::take(const api::ServerEvent& event, std::vector<EndedAnswer>& ended) {
  if (const auto* accepted = std::get_if<api::Accepted>(&event)) {
    if (auto it = open_.find(accepted->request_id); it != open_.end()) {
      it->second.answer.accept(*accepted);
    }
  } else if (const auto* chunk = std::get_if<api::TokenChunk>(&event)) {
    auto it = open_.find(chunk->request_id);
    if (it == open_.end()) return;
    Result<std::string_view> text = it->second.answer.add(*chunk);
    if (!text) {
      (void)client_.cancel(chunk->request_id);
      it->second.answer.fail(text.error());
      end(it, ended);
    } else if (on_text && !text->empty()) {
      on_text(it->second.tag, chunk->sample, *text);
    }
  } else if (const auto* finished = std::get_if<api::Finished>(&event)) {
    if (auto it = open_.find(finished->request_id); it != open_.end()) {
      it->second.answer.finish(*finished);
      end(it, ended);
    }
  } else if (const auto* rejected = std::get_if<api::Rejected>(&event)) {
    if (auto it = open_.find(rejected->request_id); it != open_.end()) {
      it->second.answer.fail(rejected->error);
      end(it, ended, rejected->retry_after);
    }
  }
}

void OpenRequests::end_overdue(std::vector<EndedAnswer>& ended) {
  if (!request_timeout_) return;
  const Time deadline = now() - *request_timeout_;
  for (auto it = open_.begin(); it != open_.end();) {
    auto next = std::next(it);
    if (it->second.submitted <= deadline) {
      (void)client_.cancel(it->first);
      it->second.answer.fail(
          {ErrorCode::kTimeout, "no complete answer within --timeout (" +
                                    std::to_string(to_seconds(*request_timeout_)) + " s)"});
      end(it, ended);
    }
    it = next;
  }
}

Result<void> OpenRequests::look_for_silent_server(std::vector<EndedAnswer>& ended) {
  if (open_.empty() || now() - last_event_ < kSilence) return {};
  const Result<api::StatusReport> status = client_.status(kStatusTimeout);
  if (!status) {
    return fail(ErrorCode::kUnavailable, "the cluster at " + endpoint_ +
                                             " has stopped answering (see: tailor status" +
                                             endpoint_option(endpoint_) + ")");
  }
  // A coordinator younger than our request has never heard of it.
  const Time started = now() - from_seconds(status->uptime_s);
  for (auto it = open_.begin(); it != open_.end();) {
    auto next = std::next(it);
    if (started > it->second.submitted + seconds(1)) {
      it->second.answer.fail(
          {ErrorCode::kUnavailable,
           "the coordinator was restarted and has lost this request; send it again"});
      end(it, ended);
    }
    it = next;
  }
  last_event_ = now();
  return {};
}

void OpenRequests::cancel_all(Duration wait) {
  for (const auto& [id, open] : open_) (void)client_.cancel(id);
  const Time until = now() + wait;
  std::vector<EndedAnswer> ended;
  while (!open_.empty() && now() < until) {
    auto events = client_.poll(milliseconds(50));
    if (!events) break;
    for (const api::ServerEvent& event : *events) take(event, ended);
  }
  open_.clear();
}

}  // namespace tailor::client
