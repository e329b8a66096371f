// What the coordinator tells whoever asks for its status: read from the parts that know it. Owner:
// the coordinator's main thread.
#pragma once

#include <string>
#include <vector>

#include "base/api.h"
#include "coordinator/client_door.h"
#include "coordinator/client_sessions.h"
#include "coordinator/predictor_link.h"
#include "coordinator/replica_door.h"
#include "coordinator/request_store.h"
#include "coordinator/scheduler_core.h"

namespace tailor::coordinator {

struct StatusView {
  const std::string& version;
  const std::string& model_name;
  const std::vector<api::EndToken>& end_tokens;
  const SchedulerCore& core;
  const RequestStore& store;
  const ClientSessions& sessions;
  const ClientDoor& clients;
  const ReplicaDoor& replicas;
  const PredictorLink& predictor;
  const comm::CoordinatorIoCounters& io;
  uint64_t worker_complaints = 0;
  Duration uptime{};
  bool stopping = false;
};

api::StatusReport status_of(const StatusView& view);

}  // namespace tailor::coordinator
