#include "coordinator/replica_links.h"

#include <algorithm>

#include "coordinator/replica_book.h"

namespace tailor::coordinator {
namespace {

constexpr double kMeanWeight = 0.1;

void mean(double& value, double sample, bool first) {
  value = first ? sample : value + kMeanWeight * (sample - value);
}

}  // namespace

std::optional<std::string> ReplicaLinks::objection(ReplicaId own, const Hello& hello) const {
  const ReplicaInfo& info = hello.info;
  const auto differs = [](const std::string& what, const std::string& mine,
                          const std::string& others) {
    return what + " is '" + mine + "', but that of the cluster is '" + others + "'";
  };
  if (info.protocol_version != kControlProtocolVersion)
    return "it speaks protocol version " + std::to_string(info.protocol_version) +
           ", this coordinator " + std::to_string(kControlProtocolVersion);
  if (own.value >= ReplicaBook::kMaxReplicas)
    return "its number is beyond the limit of " + std::to_string(ReplicaBook::kMaxReplicas);
  if (info.slots == 0 || info.num_blocks == 0 || info.max_context == 0 || info.tp_size == 0)
    return "it has no slots, no KV blocks, no context or no ranks";
  if (info.slots > ReplicaBook::kMaxSlots)
    return "it has " + std::to_string(info.slots) + " slots, the limit is " +
           std::to_string(ReplicaBook::kMaxSlots);
  for (const auto& [replica, link] : links_) {
    if (replica == own) continue;  // its successor may differ where it is alone
    if (info.model_fingerprint != link.info.model_fingerprint)
      return differs("its model fingerprint", info.model_fingerprint, link.info.model_fingerprint);
    if (info.arithmetic_version != link.info.arithmetic_version)
      return differs("its arithmetic version", info.arithmetic_version,
                     link.info.arithmetic_version);
  }
  return std::nullopt;
}

bool ReplicaLinks::repeated(comm::LinkId link, ReplicaId replica, const Hello& hello) const {
  const auto it = links_.find(replica);
  return it != links_.end() && it->second.link == link && it->second.info.pid == hello.info.pid &&
         it->second.steps == 0;
}

void ReplicaLinks::joined(ReplicaId replica, Epoch epoch, comm::LinkId link,
                          const ReplicaInfo& info, Time now) {
  Link& l = links_[replica] = Link{};
  l.link = link;
  l.epoch = epoch;
  l.info = info;
  l.heard.assign(std::clamp(info.tp_size, 1u, 1024u), now);
  const uint64_t in_blocks = uint64_t{info.num_blocks} * info.block_tokens;
  contexts_[replica] = in_blocks > 0
                           ? static_cast<uint32_t>(std::min<uint64_t>(info.max_context, in_blocks))
                           : info.max_context;
}

void ReplicaLinks::drained(ReplicaId replica) {
  links_.erase(replica);
  contexts_.erase(replica);
}

void ReplicaLinks::heard(const Envelope& from, const Heartbeat& heartbeat, comm::LinkId link,
                         Time now) {
  Link* l = find(from.replica);
  if (!l || heartbeat.rank >= l->heard.size()) return;
  if (heartbeat.rank == 0 && l->link != link) return;  // a predecessor's last words
  l->heard[heartbeat.rank] = now;
}

bool ReplicaLinks::is_stale(const Envelope& from, const Heartbeat& heartbeat) const {
  if (heartbeat.rank != 0 || from.epoch == Epoch{0}) return false;
  const auto it = links_.find(from.replica);
  return it == links_.end() || it->second.epoch != from.epoch;
}

void ReplicaLinks::stepped(ReplicaId replica, const StepReport& report, Time now) {
  Link* l = find(replica);
  if (!l) return;
  l->heard[0] = now;
  uint64_t tokens = 0;
  for (const auto& progress : report.progress) tokens += progress.num_tokens;
  l->tokens += tokens;
  if (report.step_time <= Duration{}) return;
  const bool first = l->steps++ == 0;
  l->busy += report.step_time;
  l->forward += report.forward_time;
  l->sample += report.sample_time;
  mean(l->step_ms, to_seconds(report.step_time) * 1e3, first);
  mean(l->forward_ms, to_seconds(report.forward_time) * 1e3, first);
  mean(l->step_tokens, static_cast<double>(tokens), first);
}

void ReplicaLinks::forgive(Duration pause) {
  for (auto& [replica, link] : links_)
    for (Time& heard : link.heard) heard += pause;
}

ReplicaLinks::Link* ReplicaLinks::find(ReplicaId replica) {
  const auto it = links_.find(replica);
  return it == links_.end() ? nullptr : &it->second;
}

bool ReplicaLinks::speaks(comm::LinkId link, ReplicaId replica) const {
  const auto it = links_.find(replica);
  return it != links_.end() && it->second.link == link;
}

std::vector<ReplicaLinks::Silent> ReplicaLinks::silent(Time now) const {
  std::vector<Silent> found;
  for (const auto& [replica, link] : links_) {
    const auto oldest = std::min_element(link.heard.begin(), link.heard.end());
    if (now - *oldest >= heartbeat_timeout_)
      found.push_back({replica, static_cast<uint32_t>(oldest - link.heard.begin()), now - *oldest});
  }
  return found;
}

uint32_t ReplicaLinks::max_context(uint32_t model_context) const {
  uint32_t least = model_context;
  for (const auto& [replica, context] : contexts_) least = std::min(least, context);
  return least;
}

}  // namespace tailor::coordinator
