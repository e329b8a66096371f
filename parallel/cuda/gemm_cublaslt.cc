// parallel/cuda/gemm.h over cuBLASLt.
//
// A shape gets a plan for each of a few numbers of rows (kRows); a call takes the plan of the first
// that is not below its own. prepare() asks cuBLASLt's heuristic for candidates and times each of
// them on a cold second-level cache, as a step finds it: the weights of a layer are read once. The
// choice is logged and kept (parallel/cuda/gemm_choices.h).
//
// Row-major y[m, n] = x[m, k] W[n, k]^T is, in cuBLAS's columns, y^T[n, m] = (W as [k, n])^T x^T.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "kv/block_layout.h"
#include "parallel/cuda/gemm.h"
#include "parallel/cuda/gemm_choices.h"
#include "weights/default_model.h"

namespace tailor::parallel::gpu {
namespace {

using kv::ValueType;

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS advises for Hopper
constexpr std::array<int64_t, 9> kRows = {8, 16, 32, 64, 128, 256, 512, 1024, 2048};
constexpr int kMostCandidates = 24;
constexpr int kTimedRuns = 3;  // of each candidate, the best counts
/// Measuring stops there, and the heuristic's first is taken for what is left.
constexpr Duration kMeasuringBudget = seconds(20);
constexpr Duration kPatience = seconds(30);  // for one product
constexpr size_t kNoiseBytes = size_t{4} << 20;

Unexpected failed(const char* what, cublasStatus_t code) {
  return fail(ErrorCode::kDeviceFailure,
              std::string(what) + ": cuBLASLt says " + cublasLtGetStatusString(code));
}
Result<void> check(const char* what, cublasStatus_t code) {
  if (code == CUBLAS_STATUS_SUCCESS) return {};
  return failed(what, code);
}

cudaDataType_t type_of(ValueType type) {
  return type == ValueType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

/// What its clock and width allow.
double memory_bytes_per_second(int device) {
  int khz = 0, bits = 0;
  cudaDeviceGetAttribute(&khz, cudaDevAttrMemoryClockRate, device);
  cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device);
  return std::max(1.0, 2e3 * khz * bits / 8);  // double data rate
}

/// Descriptors of cuBLASLt, each given back at the end.
template <class T, cublasStatus_t (*Destroy)(T)>
class Owned {
 public:
  Owned() = default;
  Owned(Owned&& other) noexcept { std::swap(value_, other.value_); }
  ~Owned() {
    if (value_ != nullptr) Destroy(value_);
  }
  T get() const { return value_; }
  T* out() { return &value_; }

 private:
  T value_ = nullptr;
};
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

struct Plan {
  int64_t rows = 0;
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace_bytes = 0;
};

struct Prepared {
  GemmShape shape;
  Operation operation;
  Layout weights, input, output;  // input and output have the rows of the last call
  std::vector<Plan> plans;
};

Result<void> set_rows(Prepared& p, int64_t rows) {
  const auto columns = static_cast<uint64_t>(rows);
  for (const Layout* layout : {&p.input, &p.output})
    TAILOR_TRY(
        check("layout", cublasLtMatrixLayoutSetAttribute(layout->get(), CUBLASLT_MATRIX_LAYOUT_COLS,
                                                         &columns, sizeof columns)));
  return {};
}

}  // namespace

struct Gemm::State {
  State(Device& device, Stream stream) : device(device), stream(stream) {}
  ~State() {
    if (handle != nullptr) cublasLtDestroy(handle);
  }

  Result<void> describe(const GemmShape& shape, Prepared& out);
  Result<std::vector<cublasLtMatmulHeuristicResult_t>> candidates(const Prepared& p);
  Result<void> multiply(const Prepared& p, const Plan& plan, const GemmCall& call);
  Result<Duration> time(const Prepared& p, const Plan& plan, const GemmCall& call);
  Result<Plan> choose(Prepared& p, int64_t rows);
  /// Room to measure `shape` in, made when it is first asked for. False: the time for measuring is
  /// over, or there is no memory.
  Result<bool> can_measure(const GemmShape& shape);
  Result<void> make_scratch(const GemmShape& shape);
  /// Waits for what uses it.
  Result<void> drop_scratch();
  Result<void> fill_with_noise(std::byte* to, size_t bytes);
  bool may_measure() const { return measured < kMeasuringBudget; }

  Device& device;
  const Stream stream;
  cublasLtHandle_t handle = nullptr;
  Memory workspace;
  std::unique_ptr<GemmChoices> choices;
  std::vector<Prepared> shapes;
  Duration measured{};

  // While a shape is measured: operands, what drives them out of the cache, and random numbers.
  struct Scratch {
    Memory weights, input, output, flush, noise;
    OwnedEvent begin, end;
    bool tried = false;
  } scratch;
};

Result<void> Gemm::State::describe(const GemmShape& shape, Prepared& out) {
  out.shape = shape;
  const cudaDataType_t type = type_of(shape.type);
  // F32 sums of F32 products: no TF32, or parity would not hold.
  TAILOR_TRY(check("operation",
                   cublasLtMatmulDescCreate(out.operation.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F)));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  TAILOR_TRY(check("operation",
                   cublasLtMatmulDescSetAttribute(out.operation.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                                  &transposed, sizeof transposed)));
  const auto n = static_cast<uint64_t>(shape.n), k = static_cast<uint64_t>(shape.k);
  const auto rows = static_cast<uint64_t>(shape.rows_max);
  TAILOR_TRY(check("layout", cublasLtMatrixLayoutCreate(out.weights.out(), type, k, n, shape.k)));
  TAILOR_TRY(check("layout", cublasLtMatrixLayoutCreate(out.input.out(), type, k, rows, shape.k)));
  return check("layout",
               cublasLtMatrixLayoutCreate(out.output.out(), type_of(shape.out), n, rows, shape.n));
}

Result<std::vector<cublasLtMatmulHeuristicResult_t>> Gemm::State::candidates(const Prepared& p) {
  Preference preference;
  TAILOR_TRY(check("preference", cublasLtMatmulPreferenceCreate(preference.out())));
  const size_t most = kWorkspaceBytes;
  TAILOR_TRY(check("preference", cublasLtMatmulPreferenceSetAttribute(
                                     preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                     &most, sizeof most)));
  // Parts of a sum are added in F32, never in a narrower output.
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  if (p.shape.out == ValueType::kF32) reductions |= CUBLASLT_REDUCTION_SCHEME_INPLACE;
  TAILOR_TRY(check("preference", cublasLtMatmulPreferenceSetAttribute(
                                     preference.get(), CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                     &reductions, sizeof reductions)));
  std::vector<cublasLtMatmulHeuristicResult_t> found(kMostCandidates);
  int count = 0;
  TAILOR_TRY(check("heuristic",
                   cublasLtMatmulAlgoGetHeuristic(
                       handle, p.operation.get(), p.weights.get(), p.input.get(), p.output.get(),
                       p.output.get(), preference.get(), kMostCandidates, found.data(), &count)));
  found.resize(static_cast<size_t>(count));
  std::erase_if(found, [](const auto& f) {
    return f.state != CUBLAS_STATUS_SUCCESS || f.workspaceSize > kWorkspaceBytes;
  });
  return found;
}

Result<void> Gemm::State::multiply(const Prepared& p, const Plan& plan, const GemmCall& call) {
  const float one = 1, zero = 0;
  return check("product",
               cublasLtMatmul(handle, p.operation.get(), &one, call.w, p.weights.get(), call.x,
                              p.input.get(), &zero, call.y, p.output.get(), call.y, p.output.get(),
                              &plan.algorithm, workspace.data(), plan.workspace_bytes,
                              reinterpret_cast<cudaStream_t>(stream)));
}

/// The best of some runs, each on a second-level cache that holds none of the operands.
Result<Duration> Gemm::State::time(const Prepared& p, const Plan& plan, const GemmCall& call) {
  Duration best = Duration::max();
  for (int run = 0; run <= kTimedRuns; ++run) {
    TAILOR_TRY(device.fill(stream, scratch.flush.data(), static_cast<uint8_t>(run),
                           scratch.flush.bytes()));
    TAILOR_TRY(device.record(scratch.begin.get(), stream));
    TAILOR_TRY(multiply(p, plan, call));
    TAILOR_TRY(device.record(scratch.end.get(), stream));
    TAILOR_TRY(device.wait_until(scratch.end.get(), kPatience, "a measured product"));
    TAILOR_ASSIGN(const Duration took, device.elapsed(scratch.begin.get(), scratch.end.get()));
    if (run > 0) best = std::min(best, took);  // the first loads the kernel
  }
  return best;
}

/// Numbers as activations are: a product of zeros draws less power and runs faster.
Result<void> Gemm::State::fill_with_noise(std::byte* to, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kNoiseBytes)
    TAILOR_TRY(
        device.copy(stream, to + at, scratch.noise.data(), std::min(kNoiseBytes, bytes - at)));
  return {};
}

Result<bool> Gemm::State::can_measure(const GemmShape& shape) {
  if (!may_measure()) return false;
  if (!scratch.tried) {
    if (auto made = make_scratch(shape); !made) {
      if (made.error().code != ErrorCode::kLimitExceeded) return fail(made.error());
      LOG_WARN("GEMM {} x {}: not measured, {}", shape.n, shape.k, made.error().message);
      scratch = {};
    }
    scratch.tried = true;
  }
  return scratch.weights.data() != nullptr;
}

Result<void> Gemm::State::drop_scratch() {
  if (scratch.end.get() != nullptr) {
    TAILOR_TRY(device.record(scratch.end.get(), stream));
    TAILOR_TRY(device.wait_until(scratch.end.get(), kPatience, "the end of measuring"));
  }
  scratch = {};
  return {};
}

Result<void> Gemm::State::make_scratch(const GemmShape& shape) {
  const auto size = [](int64_t rows, int64_t columns, ValueType type) {
    return static_cast<size_t>(rows * columns) * kv::value_bytes(type);
  };
  TAILOR_ASSIGN(scratch.weights, device.allocate(size(shape.n, shape.k, shape.type)));
  TAILOR_ASSIGN(scratch.input, device.allocate(size(shape.rows_max, shape.k, shape.type)));
  TAILOR_ASSIGN(scratch.output, device.allocate(size(shape.rows_max, shape.n, shape.out)));
  const size_t cache = std::max<size_t>(device.properties().l2_bytes, size_t{32} << 20);
  TAILOR_ASSIGN(scratch.flush, device.allocate(2 * cache));
  TAILOR_ASSIGN(scratch.noise, device.allocate_pinned(kNoiseBytes));
  TAILOR_ASSIGN(scratch.begin, device.make_event(true));
  TAILOR_ASSIGN(scratch.end, device.make_event(true));
  uint32_t bits = 1;
  const auto next = [&] {  // in [-1, 1): a linear generator will do
    bits = bits * 1664525 + 1013904223;
    return static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f;
  };
  if (shape.type == ValueType::kF32) {
    for (size_t i = 0; i < kNoiseBytes / 4; ++i) scratch.noise.as<float>()[i] = next();
  } else {
    for (size_t i = 0; i < kNoiseBytes / 2; ++i)
      scratch.noise.as<uint16_t>()[i] =
          static_cast<uint16_t>(std::bit_cast<uint32_t>(next()) >> 16);
  }
  TAILOR_TRY(fill_with_noise(scratch.weights.data(), scratch.weights.bytes()));
  return fill_with_noise(scratch.input.data(), scratch.input.bytes());
}

Result<Plan> Gemm::State::choose(Prepared& p, int64_t rows) {
  TAILOR_TRY(set_rows(p, rows));
  const GemmChoiceKey key{p.shape.n, p.shape.k, rows, static_cast<int32_t>(p.shape.type),
                          static_cast<int32_t>(p.shape.out)};
  if (const auto kept = choices->find(key)) {
    Plan plan{rows, {}, kept->workspace_bytes};
    static_assert(sizeof plan.algorithm == sizeof kept->algorithm);
    std::memcpy(&plan.algorithm, kept->algorithm.data(), sizeof plan.algorithm);
    cublasLtMatmulHeuristicResult_t result{};
    if (cublasLtMatmulAlgoCheck(handle, p.operation.get(), p.weights.get(), p.input.get(),
                                p.output.get(), p.output.get(), &plan.algorithm,
                                &result) == CUBLAS_STATUS_SUCCESS &&
        result.workspaceSize <= kWorkspaceBytes) {
      plan.workspace_bytes = result.workspaceSize;
      return plan;
    }
  }
  TAILOR_ASSIGN(const auto found, candidates(p));
  if (found.empty())
    return fail(ErrorCode::kInvalidArgument, "cuBLASLt has no product of " + std::to_string(rows) +
                                                 " rows with " + std::to_string(p.shape.n) + " x " +
                                                 std::to_string(p.shape.k));
  Plan best{rows, found[0].algo, found[0].workspaceSize};
  // Where there is no room to measure in, the heuristic decides.
  TAILOR_ASSIGN(const bool measures, can_measure(p.shape));
  if (!measures) return best;

  const Time began = now();
  Duration best_time = Duration::max(), first_time{};
  size_t best_index = 0;
  const GemmCall call{scratch.input.data(), scratch.weights.data(), scratch.output.data(), rows};
  for (size_t i = 0; i < found.size(); ++i) {
    const Plan plan{rows, found[i].algo, found[i].workspaceSize};
    const auto took = time(p, plan, call);
    if (!took && took.error().code == ErrorCode::kTimeout) return fail(took.error());
    if (!took) continue;  // the heuristic named it, the library does not run it
    if (i == 0) first_time = *took;
    if (*took >= best_time) continue;
    best_time = *took;
    best_index = i;
    best = plan;
  }
  measured += now() - began;
  if (best_time == Duration::max())
    return fail(ErrorCode::kDeviceFailure, "none of cuBLASLt's candidates for a product ran");
  GemmChoice choice{{}, best.workspace_bytes, to_seconds(best_time) * 1e6};
  std::memcpy(choice.algorithm.data(), &best.algorithm, sizeof best.algorithm);
  choices->put(key, choice);
  const double bytes = static_cast<double>(static_cast<size_t>(p.shape.n * p.shape.k) *
                                           kv::value_bytes(p.shape.type));
  const double per_second = bytes / to_seconds(best_time);
  LOG_INFO(
      "GEMM {} x {} x {}: candidate {} of {}, {:.1f} us: weights at {:.0f} GB/s, {:.0f} % of what "
      "the memory can; the heuristic's first {:.1f} us",
      rows, p.shape.n, p.shape.k, best_index, found.size(), to_seconds(best_time) * 1e6,
      per_second / 1e9, 100 * per_second / memory_bytes_per_second(device.properties().index),
      to_seconds(first_time) * 1e6);
  return best;
}

Gemm::Gemm(std::unique_ptr<State> state) : state_(std::move(state)) {}
Gemm::~Gemm() = default;

Result<std::unique_ptr<Gemm>> Gemm::make(Device& device, Stream stream) {
  auto state = std::make_unique<State>(device, stream);
  TAILOR_TRY(check("cublasLtCreate", cublasLtCreate(&state->handle)));
  TAILOR_ASSIGN(state->workspace, device.allocate(kWorkspaceBytes));
  const DeviceProperties& is = device.properties();
  state->choices = std::make_unique<GemmChoices>(
      weights::cache_folder().empty() ? "" : weights::cache_folder() + "/gemm",
      is.name + " " + std::to_string(is.multiprocessors) + " " +
          std::to_string(cublasLtGetVersion()));
  return std::unique_ptr<Gemm>(new Gemm(std::move(state)));
}

Result<int> Gemm::prepare(const GemmShape& shape) {
  TAILOR_TRY(check(shape));
  State& state = *state_;
  Prepared prepared;
  TAILOR_TRY(state.describe(shape, prepared));
  for (const int64_t rows : kRows) {
    if (!prepared.plans.empty() && prepared.plans.back().rows >= shape.rows_max) break;
    TAILOR_ASSIGN(Plan plan, state.choose(prepared, std::min(rows, shape.rows_max)));
    prepared.plans.push_back(plan);
  }
  if (prepared.plans.back().rows < shape.rows_max) {
    TAILOR_ASSIGN(Plan plan, state.choose(prepared, shape.rows_max));
    prepared.plans.push_back(plan);
  }
  TAILOR_TRY(state.drop_scratch());
  if (auto saved = state.choices->save(); !saved)
    LOG_WARN("GEMM choices are not kept: {}", saved.error().message);
  state.shapes.push_back(std::move(prepared));
  return static_cast<int>(state.shapes.size()) - 1;
}

Result<void> Gemm::run(int index, const GemmCall& call) {
  Prepared& prepared = state_->shapes.at(static_cast<size_t>(index));
  TAILOR_CHECK(call.m <= prepared.shape.rows_max, "a product has more rows than were named");
  if (call.m == 0) return {};
  const auto plan = std::find_if(prepared.plans.begin(), prepared.plans.end(),
                                 [&](const Plan& candidate) { return candidate.rows >= call.m; });
  TAILOR_TRY(set_rows(prepared, call.m));
  return state_->multiply(prepared, *plan, call);
}

}  // namespace tailor::parallel::gpu
