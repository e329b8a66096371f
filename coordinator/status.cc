#include "coordinator/status.h"

#include <algorithm>
#include <utility>

namespace tailor::coordinator {
namespace {

api::ReplicaStatus status_of(ReplicaId id, const ReplicaLinks::Link& link,
                             const SchedulerCore::ReplicaView& view) {
  api::ReplicaStatus r;
  r.replica = id;
  r.epoch = link.epoch;
  r.ready = view.joined && !view.draining;
  r.draining = view.draining;
  r.info = link.info;
  r.running_sequences = view.running_sequences;
  r.dispatched_requests = view.requests;
  r.free_blocks = view.free_blocks;
  r.commands_in_flight = view.commands_in_flight;
  r.steps = link.steps;
  r.tokens = link.tokens;
  r.busy_s = to_seconds(link.busy);
  r.forward_s = to_seconds(link.forward);
  r.sample_s = to_seconds(link.sample);
  r.step_ms = link.step_ms;
  r.forward_ms = link.forward_ms;
  if (link.step_ms > 0) r.tokens_per_s = link.step_tokens / link.step_ms * 1e3;
  return r;
}

CounterSnapshot counters_of(const StatusView& view) {
  CounterSnapshot counters;
  const auto add = [&](const char* name, auto value) {
    counters.emplace_back(name, static_cast<double>(value));
  };
  const CoreCounters& c = view.core.counters();
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
  add("worker_complaints", view.worker_complaints);
  add("replicas_lost", view.replicas.lost());
  add("replicas_refused", view.replicas.refused());
  add("replicas_drained", view.replicas.drained());
  add("tokenizing", view.clients.tokenizing());
  add("clients", view.sessions.size());
  add("streams", view.store.size());
  add("stream_bytes", view.store.bytes());
  const PredictorCounters& p = view.predictor.counters();
  add("predictor_asked", p.asked);
  add("predictor_answered", p.answered);
  add("predictor_late", c.predicted_late);
  add("predictor_dropped", p.dropped);
  add("predictor_unasked", p.unasked);
  add("predictor_unanswered", p.unanswered);
  add("predictor_strays", p.strays);
  add("predictor_losses", p.losses);
  add("predictor_open", view.predictor.open());
  add("laws_probed", c.probed);
  add("queue_rekeys", c.rekeyed_all);
  const auto& io = view.io;
  add("client_messages", io.client_messages.value());
  add("client_bad_messages", io.client_bad_messages.value());
  add("client_bytes_in", io.client_bytes_in.value());
  add("client_bytes_out", io.client_bytes_out.value());
  add("dropped_to_clients", io.dropped_to_clients.value());
  add("worker_messages", io.worker_messages.value());
  add("worker_bad_messages", io.worker_bad_messages.value());
  return counters;
}

}  // namespace

api::StatusReport status_of(const StatusView& view) {
  api::StatusReport s;
  s.version = view.version;
  s.model = view.model_name;
  s.policy = std::string(view.core.policy().name);
  s.end_tokens = view.end_tokens;
  s.waiting_requests = view.core.waiting();
  s.active_requests = view.core.live() - view.core.waiting();
  s.predictor = view.predictor.describe();
  s.queue_limit = view.core.options().queue_limit;
  s.uptime_s = to_seconds(view.uptime);
  uint32_t ready = 0;
  for (const auto& [id, link] : view.replicas.links().all()) {
    s.replicas.push_back(status_of(id, link, view.core.replica(id)));
    ready += s.replicas.back().ready;
  }
  for (uint32_t number = 0; number < view.core.known_replicas(); ++number)
    if (const auto r = view.core.replica(ReplicaId{number}); r.drained != Epoch{})
      s.drained.push_back({ReplicaId{number}, r.drained});
  const uint32_t configured = view.core.options().expected_replicas;
  s.expected_replicas = configured - std::min(configured, view.core.leaving_replicas());
  s.ready = !view.stopping && ready >= std::max(s.expected_replicas, 1u);

  s.counters = counters_of(view);
  return s;
}

}  // namespace tailor::coordinator
