#include "coordinator/client_sessions.h"

#include <algorithm>
#include <utility>

#include "base/bytes_held.h"
#include "base/check.h"

namespace tailor::coordinator {
namespace {

constexpr size_t kUsualEvents = 1024;  // of a message: room is made for so many at once

}  // namespace

// ---- what has changed ----

void ClientSessions::Changes::add(StoredRequest& request) {
  request.reader.changed = true;
  request.reader.change = first_ + static_cast<uint32_t>(list_.size());
  list_.push_back(&request);
}

void ClientSessions::Changes::remove(StoredRequest& request) {
  request.reader.changed = false;
  list_[request.reader.change - first_] = nullptr;
  ++holes_;
  for (; head_ < list_.size() && list_[head_] == nullptr; ++head_) --holes_;
  const size_t left = list_.size() - head_;
  if (2 * holes_ > left || head_ > left) tidy();
}

/// Closes the holes and forgets what has been passed. Cost: O(size), once per as many removals.
void ClientSessions::Changes::tidy() {
  first_ += static_cast<uint32_t>(head_);
  list_.erase(list_.begin(), list_.begin() + static_cast<std::ptrdiff_t>(head_));
  head_ = 0;
  if (std::exchange(holes_, 0) == 0) return;
  std::erase(list_, nullptr);
  for (size_t i = 0; i < list_.size(); ++i)
    list_[i]->reader.change = first_ + static_cast<uint32_t>(i);
}

void ClientSessions::Changes::check_integrity(uint32_t client) const {
  size_t holes = 0;
  for (size_t i = head_; i < list_.size(); ++i) {
    const StoredRequest* request = list_[i];
    holes += request == nullptr;
    TAILOR_CHECK(
        request == nullptr || (request->reader.client == client && request->reader.changed &&
                               request->reader.change == first_ + static_cast<uint32_t>(i)),
        "a changed request is its reader's, at its number");
  }
  const size_t left = list_.size() - head_;
  TAILOR_CHECK(holes == holes_ && 2 * holes <= left && head_ <= left, "holes are counted and few");
  TAILOR_CHECK(left == 0 || list_[head_] != nullptr, "the front one is no hole");
}

// ---- clients ----

void ClientSessions::heard(ClientId id, Time now) {
  const auto [it, is_new] = by_id_.try_emplace(id, static_cast<uint32_t>(clients_.size()));
  if (is_new) {
    if (free_.empty()) {
      clients_.emplace_back();
    } else {
      it->second = free_.back();
      free_.pop_back();
    }
    clients_[it->second].id = id;
    clients_[it->second].credit = options_.initial_credit;
  }
  Client& client = clients_[it->second];
  client.heard = now;
  if (client.reachable) return;
  client.reachable = true;  // it has connected anew, and what was on its way may be lost
  client.credit = options_.initial_credit;
  post(id, api::Forgotten{});
}

void ClientSessions::forgive(Duration pause) {
  for (Client& client : clients_) client.heard += pause;
}

void ClientSessions::grant(ClientId id, uint32_t messages) {
  Client* client = find(id);
  if (!client) return;
  client->credit = static_cast<uint32_t>(
      std::min<uint64_t>(uint64_t{client->credit} + messages, options_.max_credit));
  if (!client->posted.empty() || !client->changes.empty()) list(*client);
}

void ClientSessions::unreachable(ClientId id) {
  Client* client = find(id);
  if (!client) return;
  client->reachable = false;
  drop_posted(*client);
}

void ClientSessions::attach(ClientId id, StoredRequest& request, StreamCursor cursor) {
  const auto it = by_id_.find(id);
  TAILOR_CHECK(it != by_id_.end(), "a known client reads");
  if (!reads(id, request)) {
    if (request.reader.client != kNobody) {
      put(&clients_[request.reader.client],
          api::Rejected{std::string(request.name()),
                        Error{ErrorCode::kUnavailable,
                              "another connection reads this request now (by Resume)"},
                        {}});
      leave(request);
    }
    auto& requests = clients_[it->second].requests;
    request.reader.client = it->second;
    request.reader.place = static_cast<uint32_t>(requests.size());
    requests.push_back(&request);
    ++attached_;
  }
  request.reader.cursor = std::move(cursor);
  changed(request);
}

void ClientSessions::post(ClientId id, api::ServerEvent event) { put(find(id), std::move(event)); }

void ClientSessions::post_accepted(ClientId id, const StoredRequest& request) {
  put(find(id), request.weak_from_this());
}

void ClientSessions::put(Client* client, Posted posted) {
  if (!client || !client->reachable || client->overflowed) return;
  if (client->posted.size() >= options_.max_posted ||
      client->posted_bytes >= options_.max_posted_bytes) {
    client->overflowed = true;
    drop_posted(*client);
    return;
  }
  client->posted_bytes += bytes_of(posted);
  client->posted.push_back(std::move(posted));
  list(*client);
}

void ClientSessions::drop_posted(Client& client) {
  client.posted = std::vector<Posted>();  // its memory too
  client.posted_bytes = 0;
}

size_t ClientSessions::bytes_of(const Posted& posted) {
  const auto* event = std::get_if<api::ServerEvent>(&posted);
  return event == nullptr ? sizeof posted : api::bytes_held(*event);
}

void ClientSessions::changed(StoredRequest& request) {
  if (request.reader.client == kNobody || request.reader.changed) return;
  Client& client = clients_[request.reader.client];
  client.changes.add(request);
  list(client);
}

void ClientSessions::forgotten(const RequestStore::Forgotten& requests) {
  for (const auto& request : requests) {
    put(&clients_[request->reader.client],
        api::Rejected{
            std::string(request->name()),
            Error{ErrorCode::kNotFound, "the answer was not read in the time for which it is kept"},
            {}});
    leave(*request);
  }
}

ClientSessions::Client* ClientSessions::find(ClientId id) {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &clients_[it->second];
}

void ClientSessions::list(Client& client) {
  if (std::exchange(client.listed, true)) return;
  dirty_clients_.push_back(static_cast<uint32_t>(&client - clients_.data()));
}

/// Its reader no longer reads it.
void ClientSessions::leave(StoredRequest& request) {
  auto& reader = request.reader;
  Client& client = clients_[reader.client];
  if (reader.changed) client.changes.remove(request);
  client.requests[reader.place] = client.requests.back();
  client.requests[reader.place]->reader.place = reader.place;
  client.requests.pop_back();
  reader = {};
  --attached_;
}

std::vector<ClientSessions::Message>& ClientSessions::flush() {
  messages_.clear();
  flushed_clients_.clear();
  flushed_clients_.swap(dirty_clients_);
  for (const uint32_t place : flushed_clients_) {
    Client& client = clients_[place];
    client.listed = false;
    if (client.credit == 0 || !client.reachable || client.overflowed)
      continue;  // grant() lists it again
    Message message{client.id, {}};
    const bool more = tell(client, message);
    if (!message.events.empty()) {
      --client.credit;
      messages_.push_back(std::move(message));
    }
    if (more) list(client);
  }
  return messages_;
}

/// Adds what was posted, as much as finds room; the bytes of it.
size_t ClientSessions::tell_posted(Client& client, Message& message) const {
  size_t taken = 0, told = 0;
  for (; told < client.posted.size() && taken < options_.max_message_bytes; ++told) {
    Posted& posted = client.posted[told];
    client.posted_bytes -= bytes_of(posted);
    if (auto* event = std::get_if<api::ServerEvent>(&posted))
      message.events.push_back(std::move(*event));
    else if (const auto request = std::get<std::weak_ptr<const StoredRequest>>(posted).lock())
      message.events.emplace_back(request->accepted());
    else
      continue;  // forgotten since: its reader is told so
    taken += api::bytes_held(message.events.back());
  }
  if (told == client.posted.size())
    drop_posted(client);
  else
    client.posted.erase(client.posted.begin(),
                        client.posted.begin() + static_cast<ptrdiff_t>(told));
  return taken;
}

/// Adds what was posted, then the chunks and ends of the client's changed requests; true when some
/// did not find room.
bool ClientSessions::tell(Client& client, Message& message) {
  const size_t posted = tell_posted(client, message);
  if (!client.posted.empty()) return true;
  size_t room = options_.max_message_bytes - std::min(options_.max_message_bytes, posted);
  message.events.reserve(message.events.size() + std::min(client.changes.size(), kUsualEvents));
  while (!client.changes.empty() && room > 0) {
    StoredRequest& request = client.changes.front();
    room -= std::min(room, request.read(request.reader.cursor, room, message.events));
    if (!request.read_up(request.reader.cursor)) break;
    client.changes.remove(request);
    if (!request.ended()) continue;
    message.events.emplace_back(request.finished());
    leave(request);
  }
  return !client.changes.empty();
}

std::vector<ClientSessions::Gone> ClientSessions::gone(Time heard_until) const {
  std::vector<Gone> gone;
  for (const auto& [id, place] : by_id_) {
    const Client& client = clients_[place];
    if (client.heard + options_.lease > heard_until && !client.overflowed) continue;
    Gone one{id, {}};
    for (const StoredRequest* request : client.requests)
      if (!request->detached && !request->ended()) one.cancel.push_back(request->id);
    std::sort(one.cancel.begin(), one.cancel.end());
    gone.push_back(std::move(one));
  }
  std::sort(gone.begin(), gone.end(),
            [](const Gone& a, const Gone& b) { return a.client < b.client; });
  return gone;
}

std::vector<api::ServerEvent> ClientSessions::forget(ClientId id) {
  std::vector<api::ServerEvent> words;
  const auto it = by_id_.find(id);
  if (it == by_id_.end()) return words;
  const uint32_t place = it->second;
  Client& client = clients_[place];
  for (StoredRequest* request : client.requests) {
    if (request->ended()) words.emplace_back(request->finished());
    request->reader = {};
    --attached_;
  }
  words.emplace_back(api::Forgotten{});  // so that it asks for the others, should it live
  if (!client.reachable) words.clear();
  if (client.listed) std::erase(dirty_clients_, place);
  client = {};
  free_.push_back(place);
  by_id_.erase(it);
  return words;
}

void ClientSessions::check_integrity() const {
  size_t attached = 0;
  for (const auto& [id, place] : by_id_) {
    const Client& client = clients_[place];
    TAILOR_CHECK(client.id == id, "a client stands at its place");
    attached += client.requests.size();
    TAILOR_CHECK(client.posted.size() <= options_.max_posted, "bounded");
    size_t posted_bytes = 0;
    for (const Posted& posted : client.posted) posted_bytes += bytes_of(posted);
    TAILOR_CHECK(posted_bytes == client.posted_bytes, "posted bytes are counted");
    for (size_t i = 0; i < client.requests.size(); ++i) {
      const auto& reader = client.requests[i]->reader;
      TAILOR_CHECK(reader.client == place && reader.place == i,
                   "a request has the reader that lists it");
    }
    client.changes.check_integrity(place);
    const bool owes = client.reachable && !client.overflowed && client.credit > 0 &&
                      (!client.posted.empty() || !client.changes.empty());
    TAILOR_CHECK(!owes || client.listed, "a client that is owed something is listed");
  }
  TAILOR_CHECK(attached == attached_, "every reader is listed once");
  TAILOR_CHECK(by_id_.size() + free_.size() == clients_.size(), "every place is taken or free");
}

}  // namespace tailor::coordinator
