// ClientSessions: who listens, how far each has read, and how much more each will take. There is no
// outbox: chunks are cut from the RequestStore when a client has credit, so that a slow client gets
// fewer, larger ones and costs no memory. Once a step `flush` gives at most ONE message per client,
// with everything new since its cursors, in order: what was posted (Accepted, Rejected, Status),
// then chunks, and a request's Finished behind its last chunk.
//
// Nothing is looked up for a token: clients stand in places, dense from 0, a request names the
// place of its one reader (StoredRequest::reader), and a client's list names its requests.
//
// Lease: any message of a client renews it; one silent for `lease` is gone. Its requests are then
// named, to be cancelled, unless they were submitted detached or have ended; its last message tells
// it so, for it may live after all. Pure: time is passed in. Owner: the coordinator's main thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/api.h"
#include "base/ids.h"
#include "base/time.h"
#include "coordinator/request_store.h"

namespace tailor::coordinator {

struct ClientSessionsOptions {
  Duration lease = seconds(10);
  uint32_t initial_credit = 16;  ///< messages a client gets before it has granted any
  uint32_t max_credit = 1u << 20;
  size_t max_posted = 16'384;  ///< events waiting for a client's credit, beside the answers,
  size_t max_posted_bytes = 1u << 20;   ///< with so many bytes; one that lets more pile up is gone
  size_t max_message_bytes = 1u << 20;  ///< about; the rest goes into the next message
};

class ClientSessions {
 public:
  explicit ClientSessions(const ClientSessionsOptions& options) : options_(options) {}

  /// A client has said something: known (and reachable) from now on, its lease runs anew.
  void heard(ClientId client, Time now);
  /// This process itself did not run for so long: nobody could be heard.
  void forgive(Duration pause);
  void grant(ClientId client, uint32_t messages);
  /// The transport cannot reach it: nothing is sent any more, the lease runs out.
  void unreachable(ClientId client);

  /// From now on `client` reads `request` from `cursor` on; whoever else read it before no longer
  /// does and is told so.
  void attach(ClientId client, StoredRequest& request, StreamCursor cursor);
  /// Says one thing that is not part of an answer, in order. Ignored for a client that is not
  /// known.
  void post(ClientId client, api::ServerEvent event);
  /// Says that a request is accepted, in order; the words are made when they are sent. Ignored
  /// likewise.
  void post_accepted(ClientId client, const StoredRequest& request);
  /// The request's answer has grown or ended. Cost O(1).
  void changed(StoredRequest& request);
  /// The store has forgotten these while somebody read them: he is told so.
  void forgotten(const RequestStore::Forgotten& requests);

  struct Message {
    ClientId client;
    std::vector<api::ServerEvent> events;
  };
  /// What each client is to be sent now, at most one message each; to be moved from, and there
  /// until the next flush. Cost: O(clients with something new).
  std::vector<Message>& flush();
  /// The last flush left something that may be sent at once.
  bool more() const { return !dirty_clients_.empty(); }

  struct Gone {
    ClientId client;
    std::vector<RequestId> cancel;  ///< live, not detached; by id
  };
  /// The clients whose lease has run out at `heard_until` (all that was said before it has been
  /// heard) or that let too much pile up, by id.
  std::vector<Gone> gone(Time heard_until) const;
  /// Forgets it. What it is told for the last time, whatever its credit: the ends of its ended
  /// requests, and Forgotten; nothing when it cannot be reached.
  std::vector<api::ServerEvent> forget(ClientId client);

  size_t size() const { return by_id_.size(); }
  bool known(ClientId client) const { return by_id_.count(client) > 0; }
  bool reads(ClientId client, const StoredRequest& request) const {
    return request.reader.client != kNobody && clients_[request.reader.client].id == client;
  }
  size_t attached() const { return attached_; }

  /// Aborts when the books are wrong. Cost: O(everything).
  void check_integrity() const;

 private:
  static constexpr uint32_t kNobody = StoredRequest::Reader::kNobody;
  /// An event of its own, or a request's Accepted (nothing where it has been forgotten since: it is
  /// told so).
  using Posted = std::variant<api::ServerEvent, std::weak_ptr<const StoredRequest>>;
  /// Requests with something new, in the order in which they changed. Each of them can be taken out
  /// at once, which leaves a hole; there are never more holes than requests.
  class Changes {
   public:
    bool empty() const { return head_ == list_.size(); }
    size_t size() const { return list_.size() - head_ - holes_; }
    StoredRequest& front() const { return *list_[head_]; }  ///< never a hole
    void add(StoredRequest& request);
    void remove(StoredRequest& request);
    void check_integrity(uint32_t client) const;

   private:
    void tidy();

    std::vector<StoredRequest*> list_;  // from head_ on; null: a hole
    size_t head_ = 0, holes_ = 0;
    uint32_t first_ = 0;  // the number of list_[0]; they may wrap
  };
  struct Client {
    ClientId id;
    Time heard;
    uint32_t credit = 0;
    bool reachable = true;
    bool overflowed = false;
    bool listed = false;         // in dirty_clients_
    std::vector<Posted> posted;  // no deque: it would hold memory where nothing is posted
    size_t posted_bytes = 0;
    Changes changes;
    std::vector<StoredRequest*> requests;  // all that it reads, unordered
  };
  Client* find(ClientId id);
  void list(Client& client);
  void leave(StoredRequest& request);
  void put(Client* client, Posted posted);
  static void drop_posted(Client& client);
  static size_t bytes_of(const Posted& posted);
  size_t tell_posted(Client& client, Message& message) const;
  bool tell(Client& client, Message& message);

  const ClientSessionsOptions options_;
  std::vector<Client> clients_;  // by place
  std::vector<uint32_t> free_;   // places
  std::unordered_map<ClientId, uint32_t> by_id_;
  std::vector<uint32_t> dirty_clients_;
  std::vector<uint32_t> flushed_clients_;  // during flush()
  std::vector<Message> messages_;          // of the last flush
  size_t attached_ = 0;
};

}  // namespace tailor::coordinator
