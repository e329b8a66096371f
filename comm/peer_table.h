// The connections of one ROUTER socket, as its io thread numbers them: ZeroMQ's identity <-> our
// id. Bounded by the caller; ids are never reused. Owner: the io thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/time.h"

namespace tailor::comm {

template <class PeerId>
class PeerTable {
 public:
  struct Peer {
    PeerId id;
    std::string identity;
    bool delimiter = false;    ///< a REQ socket: an empty frame precedes the payload
    bool complained = false;   ///< its wrong version was logged
    bool unreachable = false;  ///< nothing can be sent to it until it speaks again
    bool forgotten = false;    ///< its owner no longer needs it, unless it speaks again
    Time last_heard{};
    std::deque<std::string> unsent;  ///< encoded messages that ZeroMQ had no room for
    size_t unsent_bytes = 0;
  };

  Peer* find(const std::string& identity) {
    auto it = by_identity_.find(identity);
    return it == by_identity_.end() ? nullptr : it->second.get();
  }
  Peer* find(PeerId id) {
    auto it = by_id_.find(id);
    return it == by_id_.end() ? nullptr : it->second;
  }
  Peer& add(const std::string& identity, Time now) {
    auto peer = std::make_unique<Peer>();
    peer->id.value = ++last_id_;
    peer->identity = identity;
    peer->last_heard = now;
    Peer& added = *peer;
    by_id_[added.id] = &added;
    by_identity_[identity] = std::move(peer);
    return added;
  }
  void erase(PeerId id) {
    auto it = by_id_.find(id);
    if (it == by_id_.end()) return;
    const std::string identity = it->second->identity;
    by_id_.erase(it);
    by_identity_.erase(identity);
  }
  /// After a pause of this process, in which nobody could be heard. Cost: O(peers).
  void forgive(Duration pause) {
    for (auto& [id, peer] : by_id_) peer->last_heard += pause;
  }
  /// The peer silent for longest, if for longer than `at_least` or forgotten. Cost: O(peers).
  Peer* longest_silent(Time now, Duration at_least) {
    Peer* found = nullptr;
    for (auto& [id, peer] : by_id_)
      if ((peer->forgotten || now - peer->last_heard > at_least) &&
          (found == nullptr || peer->last_heard < found->last_heard))
        found = peer;
    return found;
  }
  size_t size() const { return by_id_.size(); }

 private:
  uint64_t last_id_ = 0;
  std::unordered_map<std::string, std::unique_ptr<Peer>> by_identity_;
  std::unordered_map<PeerId, Peer*> by_id_;
};

}  // namespace tailor::comm
