// The plain loop behind parallel/cuda/gemm.h: every sum in eight lanes, in F32, the same for any
// number of rows.
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "kv/block_layout.h"
#include "parallel/cuda/gemm.h"
#include "parallel/cuda/stream_fake.h"

namespace tailor::parallel::gpu {
namespace {

using kv::ValueType;

constexpr int64_t kLanes = 8;

float load(const float* at) { return *at; }
float load(const uint16_t* at) { return std::bit_cast<float>(uint32_t{*at} << 16); }
void store(float value, float* at) { *at = value; }
/// BF16, to nearest even.
void store(float value, uint16_t* at) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const bool nan = value != value;
  *at = static_cast<uint16_t>(nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
float dot(const T* a, const T* b, int64_t k) {
  std::array<float, kLanes> lanes{};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      lanes[static_cast<size_t>(lane)] += load(a + i + lane) * load(b + i + lane);
  float sum = 0;
  for (; i < k; ++i) sum += load(a + i) * load(b + i);
  for (const float lane : lanes) sum += lane;
  return sum;
}

template <class T, class Out>
void multiply(const GemmShape& shape, const GemmCall& call) {
  const auto* x = static_cast<const T*>(call.x);
  const auto* w = static_cast<const T*>(call.w);
  auto* y = static_cast<Out*>(call.y);
  for (int64_t n = 0; n < shape.n; ++n)
    for (int64_t m = 0; m < call.m; ++m)
      store(dot(x + m * shape.k, w + n * shape.k, shape.k), y + m * shape.n + n);
}

}  // namespace

struct Gemm::State {
  Stream stream = nullptr;
  std::vector<GemmShape> shapes;
};

Gemm::Gemm(std::unique_ptr<State> state) : state_(std::move(state)) {}
Gemm::~Gemm() = default;

Result<std::unique_ptr<Gemm>> Gemm::make(Device&, Stream stream) {
  auto state = std::make_unique<State>();
  state->stream = stream;
  return std::unique_ptr<Gemm>(new Gemm(std::move(state)));
}

Result<int> Gemm::prepare(const GemmShape& shape) {
  TAILOR_TRY(check(shape));
  state_->shapes.push_back(shape);
  return static_cast<int>(state_->shapes.size()) - 1;
}

Result<void> Gemm::run(int index, const GemmCall& call) {
  const GemmShape shape = state_->shapes.at(static_cast<size_t>(index));
  TAILOR_CHECK(call.m <= shape.rows_max, "a product has more rows than were named");
  if (call.m == 0) return {};
  return run_on(state_->stream, [=]() -> Result<void> {
    if (shape.type == ValueType::kF32)
      multiply<float, float>(shape, call);
    else if (shape.out == ValueType::kF32)
      multiply<uint16_t, float>(shape, call);
    else
      multiply<uint16_t, uint16_t>(shape, call);
    return {};
  });
}

}  // namespace tailor::parallel::gpu
