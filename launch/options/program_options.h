// The options of the programs that `tailor serve` starts, a table for each
// (launch/options/option_table.h). The order of rows is the order of the words in the lines that
// serve prints.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/ranking.h"
#include "launch/options/option_table.h"

namespace tailor::launch {

struct CoordinatorArguments {
  std::string model = "default", endpoint = "tcp://127.0.0.1:5555",
              control_endpoint = "tcp://127.0.0.1:*", record, run_dir, link_key, chat_template,
              log_level = "info";
  std::string policy{coordinator::row_of(coordinator::policy_without_laws()).name};
  uint32_t replicas = 1, queue_limit = 1024, tokenizer_threads = 0;
  int64_t heartbeat_timeout_ms = 2000, stuck_after_ms = 30000;
};

struct WorkerArguments {
  std::string model = "default", control_endpoint, engine, device = "cpu", dtype = "auto",
              kv_dtype = "auto", instruction_set = "auto", transport = "auto", run_dir, link_key,
              probe, chat_template, log_level = "info";
  int replica = 0, tp = 1, threads = 1, slots = 32, max_context = 0, prefill_budget = 0,
      ranks_on_host = 0;
  uint64_t kv_memory = 0, dummy_seed = 1;
  int64_t stuck_after_ms = 30000;
  bool dummy_weights = false, pin = false;
};

struct PredictorArguments {
  std::string control_endpoint, link_key, source, log_level = "info";
  int threads = 1, nice = 5;
  uint64_t max_batch = 32, queue_limit = 4096;
  double max_wait_ms = 3;
  int64_t stuck_after_ms = 30000;
};

constexpr int kMostPrefillBudget = 2048;  ///< worker/token_budget.h

const OptionTable<CoordinatorArguments>& coordinator_options();
/// But for the names that --engine takes: those are the program's own.
const OptionTable<WorkerArguments>& worker_options();
/// Of `tailor-predictor serve`.
const OptionTable<PredictorArguments>& predictor_options();

}  // namespace tailor::launch
