#include "coordinator/client_sessions.h"

#include <algorithm>
#include <utility>

#include "base/bytes_held.h"
#include "base/check.h"

namespace tailor::coordinator {

void ClientSessions::heard(ClientId id, Time now) {
  const auto [it, is_new] = clients_.try_emplace(id);
  Client& client = it->second;
  if (is_new) client.credit = options_.initial_credit;
  client.heard = now;
  if (client.reachable) return;
  client.reachable = true;  // it has connected anew, and what was on its way may be lost
  client.credit = options_.initial_credit;
  post(id, api::Forgotten{});
}

void ClientSessions::forgive(Duration pause) {
  for (auto& [id, client] : clients_) client.heard += pause;
}

void ClientSessions::grant(ClientId id, uint32_t messages) {
  const auto it = clients_.find(id);
  if (it == clients_.end()) return;
  it->second.credit = static_cast<uint32_t>(
      std::min<uint64_t>(uint64_t{it->second.credit} + messages, options_.max_credit));
  if (!it->second.posted.empty() || !it->second.dirty.empty()) list(id, it->second);
}

void ClientSessions::unreachable(ClientId id) {
  const auto it = clients_.find(id);
  if (it == clients_.end()) return;
  it->second.reachable = false;
  it->second.posted.clear();
  it->second.posted_bytes = 0;
}

void ClientSessions::attach(ClientId id, RequestId request, bool detached, StreamCursor cursor) {
  const auto it = clients_.find(id);
  TAILOR_CHECK(it != clients_.end() && streams_.contains(request),
               "a known client reads a known stream");
  if (const auto known = readers_.find(request);
      known != readers_.end() && known->second.client == id) {
    known->second.detached = detached;
    known->second.cursor = std::move(cursor);
  } else {
    if (known != readers_.end())
      post(known->second.client,
           api::Rejected{known->second.name,
                         Error{ErrorCode::kUnavailable,
                               "another connection reads this request now (by Resume)"},
                         {}});
    detach(request);
    auto& requests = it->second.requests;
    readers_[request] = Reader{id,
                               detached,
                               false,
                               streams_.accepted(request).request_id,
                               std::move(cursor),
                               requests.size()};
    requests.push_back(request);
  }
  changed(request);
}

void ClientSessions::post(ClientId id, api::ServerEvent event) {
  const size_t bytes = api::bytes_held(event);
  put(id, std::move(event), bytes);
}

void ClientSessions::post_accepted(ClientId id, RequestId request) {
  put(id, request, sizeof(Posted));
}

void ClientSessions::put(ClientId id, Posted posted, size_t bytes) {
  const auto it = clients_.find(id);
  if (it == clients_.end() || !it->second.reachable || it->second.overflowed) return;
  Client& client = it->second;
  if (client.posted.size() >= options_.max_posted ||
      client.posted_bytes >= options_.max_posted_bytes) {
    client.overflowed = true;
    client.posted.clear();
    client.posted_bytes = 0;
    return;
  }
  client.posted.push_back(std::move(posted));
  client.posted_bytes += bytes;
  list(id, client);
}

void ClientSessions::changed(RequestId request) {
  const auto it = readers_.find(request);
  if (it == readers_.end() || it->second.dirty) return;
  it->second.dirty = true;
  Client& client = clients_.at(it->second.client);
  client.dirty.push_back(request);
  list(it->second.client, client);
}

void ClientSessions::list(ClientId id, Client& client) {
  if (client.listed) return;
  client.listed = true;
  dirty_clients_.push_back(id);
}

void ClientSessions::detach(RequestId request) {
  const auto it = readers_.find(request);
  if (it == readers_.end()) return;
  Client& client = clients_.at(it->second.client);
  if (it->second.dirty) std::erase(client.dirty, request);  // taken by another: rare
  const size_t place = it->second.place;
  client.requests[place] = client.requests.back();
  readers_.at(client.requests[place]).place = place;
  client.requests.pop_back();
  readers_.erase(it);
}

std::vector<ClientSessions::Message> ClientSessions::flush() {
  std::vector<Message> messages;
  std::vector<ClientId> again;
  for (const ClientId id : std::exchange(dirty_clients_, {})) {
    const auto it = clients_.find(id);
    if (it == clients_.end()) continue;
    Client& client = it->second;
    client.listed = false;
    if (client.credit == 0 || !client.reachable || client.overflowed)
      continue;  // grant() lists it again
    Message message{id, {}};
    const bool more = tell(client, message);
    if (!message.events.empty()) {
      --client.credit;
      messages.push_back(std::move(message));
    }
    if (more) again.push_back(id);
  }
  for (const ClientId id : again) list(id, clients_.at(id));
  return messages;
}

/// Adds what was posted, as much as finds room; the bytes of it.
size_t ClientSessions::tell_posted(Client& client, Message& message) const {
  size_t taken = 0;
  for (; !client.posted.empty() && taken < options_.max_message_bytes; client.posted.pop_front()) {
    if (auto* event = std::get_if<api::ServerEvent>(&client.posted.front())) {
      client.posted_bytes -= api::bytes_held(*event);
      message.events.push_back(std::move(*event));
    } else {
      client.posted_bytes -= sizeof(Posted);
      const RequestId request = std::get<RequestId>(client.posted.front());
      if (!streams_.contains(request)) continue;  // forgotten since: it is told so below
      message.events.emplace_back(streams_.accepted(request));
    }
    taken += api::bytes_held(message.events.back());
  }
  return taken;
}

/// Adds what was posted, then the chunks and ends of the client's dirty requests; true when some
/// did not find room.
bool ClientSessions::tell(Client& client, Message& message) {
  const size_t posted = tell_posted(client, message);
  if (!client.posted.empty()) return true;
  size_t room = options_.max_message_bytes - std::min(options_.max_message_bytes, posted);
  size_t done = 0;
  std::vector<RequestId> ended;
  for (; done < client.dirty.size() && room > 0; ++done) {
    const RequestId request = client.dirty[done];
    Reader& reader = readers_.at(request);
    if (!streams_.contains(request)) {  // it read so slowly that the stream has been forgotten
      message.events.emplace_back(api::Rejected{
          reader.name,
          Error{ErrorCode::kNotFound, "the answer was not read in the time for which it is kept"},
          {}});
      ended.push_back(request);
      continue;
    }
    room -= std::min(room, streams_.read(request, reader.cursor, room, message.events));
    if (!streams_.read_up(request, reader.cursor)) break;
    reader.dirty = false;
    if (streams_.ended(request)) {
      message.events.emplace_back(streams_.finished(request));
      ended.push_back(request);
    }
  }
  client.dirty.erase(client.dirty.begin(),
                     client.dirty.begin() + static_cast<std::ptrdiff_t>(done));
  for (const RequestId request : ended) {
    readers_.at(request).dirty = false;
    detach(request);
  }
  return !client.dirty.empty();
}

std::vector<ClientSessions::Gone> ClientSessions::gone(Time heard_until) const {
  std::vector<Gone> gone;
  for (const auto& [id, client] : clients_) {
    if (client.heard + options_.lease > heard_until && !client.overflowed) continue;
    Gone one{id, {}};
    for (const RequestId request : client.requests)
      if (!readers_.at(request).detached && streams_.contains(request) && !streams_.ended(request))
        one.cancel.push_back(request);
    std::sort(one.cancel.begin(), one.cancel.end());
    gone.push_back(std::move(one));
  }
  std::sort(gone.begin(), gone.end(),
            [](const Gone& a, const Gone& b) { return a.client < b.client; });
  return gone;
}

std::vector<api::ServerEvent> ClientSessions::forget(ClientId id) {
  std::vector<api::ServerEvent> words;
  const auto it = clients_.find(id);
  if (it == clients_.end()) return words;
  Client& client = it->second;
  for (const RequestId request : client.requests) {
    if (streams_.contains(request) && streams_.ended(request))
      words.emplace_back(streams_.finished(request));
    readers_.erase(request);
  }
  words.emplace_back(api::Forgotten{});  // so that it asks for the others, should it live
  if (!client.reachable) words.clear();
  if (client.listed) std::erase(dirty_clients_, id);
  clients_.erase(it);
  return words;
}

void ClientSessions::check_integrity() const {
  size_t attached = 0;
  for (const auto& [id, client] : clients_) {
    attached += client.requests.size();
    TAILOR_CHECK(client.posted.size() <= options_.max_posted, "bounded");
    size_t posted_bytes = 0;
    for (const Posted& posted : client.posted) {
      const auto* event = std::get_if<api::ServerEvent>(&posted);
      posted_bytes += event == nullptr ? sizeof(Posted) : api::bytes_held(*event);
    }
    TAILOR_CHECK(posted_bytes == client.posted_bytes, "posted bytes are counted");
    for (size_t i = 0; i < client.requests.size(); ++i) {
      const RequestId request = client.requests[i];
      const Reader& reader = readers_.at(request);
      TAILOR_CHECK(reader.client == id && reader.place == i,
                   "a request has the reader that lists it");
    }
    for (const RequestId request : client.dirty)
      TAILOR_CHECK(readers_.at(request).client == id && readers_.at(request).dirty,
                   "a dirty request is its reader's");
    const bool owes = client.reachable && !client.overflowed && client.credit > 0 &&
                      (!client.posted.empty() || !client.dirty.empty());
    TAILOR_CHECK(!owes || client.listed, "a client that is owed something is listed");
  }
  TAILOR_CHECK(attached == readers_.size(), "every reader is listed once");
}

}  // namespace tailor::coordinator
