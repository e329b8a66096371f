#include "launch/options/program_options.h"

namespace tailor::launch {
namespace {

constexpr int64_t kHour = 3600000;  // in ms

/// cpu, cuda or cuda:N
std::string check_device(const std::string& device) {
  const bool numbered = device.rfind("cuda:", 0) == 0 && device.size() > 5 && device.size() < 9 &&
                        device.find_first_not_of("0123456789", 5) == std::string::npos;
  return device == "cpu" || device == "cuda" || numbered
             ? ""
             : "a device is cpu, cuda or cuda:N, found " + device;
}

OptionTable<CoordinatorArguments> make_coordinator_options() {
  using A = CoordinatorArguments;
  OptionTable<A> row;
  row("--model", &A::model, "A Hugging Face folder, a .gguf file, or \"default\"").settled();
  row("--endpoint", &A::endpoint, "Where clients connect").settled();
  row("--control-endpoint", &A::control_endpoint, "Where workers connect").settled();
  row("--replicas", &A::replicas, "How many replicas are expected").within(1u, 4096u).settled();
  row("--policy", &A::policy, "Who runs next. " + coordinator::policies_help())
      .one_of(coordinator::served_policies())
      .settled();
  row("--run-dir", &A::run_dir, "Where coordinator.json is written").settled();
  row("--link-key", &A::link_key, "File with the secret of the control link").required().settled();
  row("--log-level", &A::log_level, "trace, debug, info, warn, error, off").settled();
  row("--queue-limit", &A::queue_limit, "Waiting requests; more are answered QueueFull")
      .within(1u, 1u << 24)
      .offered("Requests that may wait");
  row("--chat-template", &A::chat_template, "A Jinja file instead of the model's own")
      .offered("A Jinja file instead of the model's own chat template");
  row("--record", &A::record,
      "Write the scheduler's event log there (read it with: tailor replay); one that is there is "
      "kept as FILE.1, FILE.2, ...")
      .offered(
          "Write every scheduler event to this file, for replay; one that is there is kept as "
          "FILE.1, FILE.2, ...");
  row("--heartbeat-timeout-ms", &A::heartbeat_timeout_ms,
      "A replica with a rank silent for so long is lost")
      .within(int64_t{200}, kHour)
      .offered("A replica silent for that long is lost");
  row("--stuck-after-ms", &A::stuck_after_ms, "A main thread without progress for that long: leave")
      .within(int64_t{1000}, kHour)  // idle turns take up to 250 ms
      .offered("A process whose threads make no progress for that long leaves");
  row("--tokenizer-threads", &A::tokenizer_threads,
      "Threads that tokenize prompts, at least 2; 0 = a quarter of the host's cores, 2 to 8")
      .within(0u, 256u);
  return row;
}

OptionTable<WorkerArguments> make_worker_options() {
  using A = WorkerArguments;
  OptionTable<A> row;
  row("--model", &A::model, "A Hugging Face folder, a .gguf file, or \"default\"").settled();
  row("--control-endpoint", &A::control_endpoint, "Where the coordinator listens for workers")
      .required()
      .settled();
  row("--replica", &A::replica, "Number of this replica").within(0, 65535).settled();
  row("--tp", &A::tp, "Tensor-parallel ranks of this replica").within(1, 1024).settled();
  row("--engine", &A::engine, "Which engine computes").settled();
  row("--device", &A::device, "cpu, cuda, or cuda:N").check({check_device, ""}).settled();
  row("--threads", &A::threads, "Math threads of a rank").within(1, 1024).settled();
  row("--ranks-on-host", &A::ranks_on_host,
      "Worker processes that share this host's memory; 0 = --tp")
      .check(CLI::NonNegativeNumber)
      .settled();
  row("--run-dir", &A::run_dir, "Where load progress is shown (a file a replica)").settled();
  row("--link-key", &A::link_key, "File with the secret of the control link").required().settled();
  row("--log-level", &A::log_level, "trace, debug, info, warn, error, off").settled();
  row("--dtype", &A::dtype, "Type of weights (torch: and KV); auto = as stored (torch: F32)")
      .one_of({"auto", "f32", "bf16"})
      .offered("Type of weights: auto (as stored), f32 or bf16");
  row("--kv-dtype", &A::kv_dtype, "Type of keys and values in the cpu engine; auto = f16")
      .one_of({"auto", "f16", "f32"})
      .offered("Type of keys and values: auto, f16 or f32");
  row("--instruction-set", &A::instruction_set, "Kernels of the cpu engine; all give the same bits")
      .one_of({"auto", "avx512", "avx2", "scalar"})
      .offered("CPU kernels: auto, avx512, avx2 or scalar");
  row("--transport", &A::transport,
      "Between the ranks on CPU; auto = shared memory where they share a host")
      .one_of({"auto", "mpi", "shm"})
      .offered("Between a replica's CPU ranks; auto = shared memory where they share a host");
  row("--slots", &A::slots, "Sequences that run at once")
      .within(1, 1024)
      .offered("Sequences a replica runs at once");
  row("--kv-memory", &A::kv_memory, "KV pool of a rank, e.g. 512MiB; 0 = from free memory")
      .size()
      .offered("Memory for KV blocks per rank, e.g. 2GiB");
  row("--max-context", &A::max_context, "Tokens of prompt and answer; 0 = the model's")
      .check(CLI::NonNegativeNumber)
      .offered("Longest prompt and answer together, in tokens");
  row("--prefill-budget", &A::prefill_budget, "Rows of a step; 0 = measured at start")
      .within(0, kMostPrefillBudget)
      .offered("Prompt tokens per step");
  row("--stuck-after-ms", &A::stuck_after_ms, "A thread without progress for that long: leave")
      .within(int64_t{100}, kHour)
      .offered();
  row("--chat-template", &A::chat_template,
      "A Jinja file instead of the model's own: what it writes behind an answer ends one")
      .offered();
  row("--probe", &A::probe, "Folder with heads that read answer lengths from hidden states")
      .settled();
  row("--pin", &A::pin, "Math threads of the cpu engine each stay on a core of their own")
      .offered("Each math thread stays on a core of its own (cpu engine)");
  row("--dummy-weights", &A::dummy_weights, "Random weights of the model's config")
      .offered("Random weights: for speed, not for sense");
  row("--dummy-seed", &A::dummy_seed, "Their seed");
  return row;
}

OptionTable<PredictorArguments> make_predictor_options() {
  using A = PredictorArguments;
  OptionTable<A> row;
  row("--control-endpoint", &A::control_endpoint, "The coordinator's control address")
      .required()
      .settled();
  row("--link-key", &A::link_key, "File with the secret of the control link").required().settled();
  row("--predictor", &A::source, "A predictor's folder, constant:MU,SIGMA or prompt-length")
      .required()
      .settled();
  row("--log-level", &A::log_level, "trace, debug, info, warn, error, off").settled();
  row("--stuck-after-ms", &A::stuck_after_ms, "A main thread without progress for that long: leave")
      .within(int64_t{1000}, kHour)
      .offered();
  row("--threads", &A::threads, "Threads of the encoder").within(1, 1024);
  row("--nice", &A::nice, "How much this process steps back").within(0, 19);
  row("--max-batch", &A::max_batch, "Prompts per batch at most").within(1u, 4096u);
  row("--max-wait-ms", &A::max_wait_ms, "The longest a prompt waits for its batch")
      .within(0.0, 10000.0);
  row("--queue-limit", &A::queue_limit, "Prompts that may wait; more are dropped")
      .within(1u, 1u << 20);
  return row;
}

}  // namespace

const OptionTable<CoordinatorArguments>& coordinator_options() {
  static const OptionTable<CoordinatorArguments> table = make_coordinator_options();
  return table;
}

const OptionTable<WorkerArguments>& worker_options() {
  static const OptionTable<WorkerArguments> table = make_worker_options();
  return table;
}

const OptionTable<PredictorArguments>& predictor_options() {
  static const OptionTable<PredictorArguments> table = make_predictor_options();
  return table;
}

}  // namespace tailor::launch
