// What `--engine auto --device auto` come to on this machine, and which GPUs each replica is given.
// Pure.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "launch/gpus/gpus.h"

namespace tailor::launch {

struct EngineQuestion {
  std::string engine = "auto";  ///< auto, cpu, cuda or torch
  std::string device = "auto";  ///< auto, cpu or cuda
  int replicas = 1, tp = 1;
  bool several_hosts = false;  ///< other hosts' GPUs are not ours to count or to give
  bool has_cuda_worker = false;
  bool torch_takes_gpus = false;  ///< this build's tailor-worker-torch
};

struct EngineChoice {
  std::string engine, device;
  /// Replica r gets tp from r * tp on. Empty: its ranks take what they see.
  std::vector<std::string> gpus;
  /// One sentence where a GPU is there and the CPU serves; empty = nothing to say.
  std::string warning;
};

/// GPUs where this build has an engine for them, they can be used and were not declined; one rank
/// each. `find` is asked only where that matters. Errors: InvalidArgument (engine and device do not
/// go together), NotFound (no engine for GPUs in this build), Unavailable (GPUs were asked for and
/// none can be used: says why), LimitExceeded (fewer GPUs than ranks).
Result<EngineChoice> choose_engine(const EngineQuestion& question,
                                   const std::function<Gpus()>& find);

}  // namespace tailor::launch
