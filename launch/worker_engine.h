// The engine of a worker program. Which of the sources is linked makes the program: tailor-worker
// computes with --engine cpu and loads no libtorch; tailor-worker-cuda with --engine cuda, on a
// GPU; tailor-worker-torch with --engine torch, the reference, on CPU or CUDA.
#pragma once

#include <memory>

#include "base/result.h"
#include "comm/collective.h"
#include "parallel/engine.h"

namespace tailor::launch {

/// The value of --engine that this program takes.
const char* worker_engine_name();

/// A rank's engine and what it stands on; what stands on the others goes first.
struct WorkerEngine {
  std::shared_ptr<void> device;                  ///< null: none that must be kept
  std::unique_ptr<comm::Collective> collective;  ///< of the engine; null: the transport serves
  std::shared_ptr<kv::BlockStore> store;
  std::unique_ptr<parallel::Engine> engine;
};

struct WorkerEngineParts {
  const weights::WeightFiles& files;
  comm::Collective& control;    ///< MPI's, of this replica's ranks
  comm::Collective& transport;  ///< what moves bytes of host memory between them
};

/// `options.device` as this rank has it ("cpu", "cuda:0"). Errors: those of the engine, of its
/// device and of the collective between the ranks.
Result<WorkerEngine> make_worker_engine(const WorkerEngineParts& parts,
                                        parallel::EngineOptions options);

}  // namespace tailor::launch
