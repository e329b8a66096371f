#include "launch/gpus/engine_choice.h"

namespace tailor::launch {
namespace {

Result<void> check_count(const EngineQuestion& q, const Gpus& gpus) {
  const size_t wanted = static_cast<size_t>(q.replicas) * static_cast<size_t>(q.tp);
  const std::string shape =
      "--replicas " + std::to_string(q.replicas) + " x --tp " + std::to_string(q.tp);
  if (wanted > gpus.usable.size())
    return fail(ErrorCode::kLimitExceeded,
                shape + " needs " + std::to_string(wanted) + " GPUs (one for each rank), and " +
                    std::to_string(gpus.usable.size()) +
                    " can be used here: ask for less, or compute on the CPU with --device cpu");
  for (size_t i = 0; i < wanted && q.tp > 1; ++i)
    if (gpus.of(gpus.usable[i])->mig)
      return fail(ErrorCode::kLimitExceeded,
                  shape + ": NCCL does not connect MIG instances; ask for --tp 1");
  return {};
}

}  // namespace

Result<EngineChoice> choose_engine(const EngineQuestion& q, const std::function<Gpus()>& find) {
  const EngineChoice on_cpu{q.engine == "auto" ? "cpu" : q.engine, "cpu", {}, ""};
  if (q.engine == "cpu" && q.device == "cuda")
    return fail(ErrorCode::kInvalidArgument,
                "--engine cpu computes on the CPU, found --device cuda; leave out one of the two");
  if (q.engine == "cuda" && q.device == "cpu")
    return fail(ErrorCode::kInvalidArgument,
                "--engine cuda computes on GPUs, found --device cpu; leave out one of the two");
  if (q.engine == "cpu" || q.device == "cpu") return on_cpu;

  const bool asked_for = q.device == "cuda" || q.engine == "cuda";
  const bool cuda = q.engine == "cuda" || (q.engine == "auto" && q.has_cuda_worker);
  if (!(cuda ? q.has_cuda_worker : q.torch_takes_gpus)) {
    if (!asked_for) return on_cpu;
    return fail(ErrorCode::kNotFound, std::string("this build has no ") +
                                          (q.engine == "torch" ? "libtorch for" : "engine for") +
                                          " GPUs; run launch/setup --build " +
                                          (q.engine == "torch" ? "cuda-torch" : "cuda"));
  }
  EngineChoice out{cuda ? "cuda" : "torch", "cuda", {}, ""};
  if (q.several_hosts) return out;
  const Gpus gpus = find();
  if (gpus.usable.empty()) {
    const std::string why = gpus.trouble.empty() ? "there is no NVIDIA GPU here" : gpus.trouble;
    if (asked_for) return fail(ErrorCode::kUnavailable, "no GPU can be used: " + why);
    EngineChoice instead = on_cpu;
    if (!gpus.trouble.empty()) instead.warning = "the CPU computes, no GPU can be used: " + why;
    return instead;
  }
  TAILOR_TRY(check_count(q, gpus));
  out.gpus.assign(gpus.usable.begin(), gpus.usable.begin() + q.replicas * q.tp);
  return out;
}

}  // namespace tailor::launch
