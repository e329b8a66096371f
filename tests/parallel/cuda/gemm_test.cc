// parallel/cuda/gemm.h against sums in double, on whatever device is linked: the fake one
// (gpu_gemm_test) and, with an NVIDIA GPU, cuBLASLt's (gpu_gemm_cuda_test).
#include "parallel/cuda/gemm.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "tests/parallel/cuda/test_device.h"

namespace tailor::parallel::gpu {
namespace {

using kv::ValueType;

std::vector<std::byte> packed(const std::vector<float>& values, ValueType type) {
  std::vector<std::byte> out(values.size() * (type == ValueType::kF32 ? 4 : 2));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    if (type == ValueType::kF32) {
      std::memcpy(out.data() + 4 * i, &bits, 4);
    } else {
      const auto upper = static_cast<uint16_t>(bits >> 16);
      std::memcpy(out.data() + 2 * i, &upper, 2);
    }
  }
  return out;
}

float read(const std::byte* data, size_t i, ValueType type) {
  if (type == ValueType::kF32) {
    float value;
    std::memcpy(&value, data + 4 * i, 4);
    return value;
  }
  uint16_t upper;
  std::memcpy(&upper, data + 2 * i, 2);
  return std::bit_cast<float>(uint32_t{upper} << 16);
}

class GemmTest : public testing::TestWithParam<std::pair<ValueType, ValueType>> {
 protected:
  void SetUp() override {
    // Choices that were measured are a test's own.
    setenv("TAILOR_CACHE", testing::TempDir().c_str(), 1);
    device_ = open_test_device();
  }

  /// Device memory with these bytes.
  Memory on_device(const std::vector<std::byte>& bytes) {
    auto host = device_->allocate_pinned(bytes.size());
    auto out = device_->allocate(bytes.size());
    EXPECT_TRUE(host && out);
    std::memcpy(host->data(), bytes.data(), bytes.size());
    EXPECT_TRUE(device_->copy(device_->stream(), out->data(), host->data(), bytes.size()));
    finish();
    return std::move(*out);
  }
  void finish() {
    auto event = device_->make_event();
    ASSERT_TRUE(event);
    ASSERT_TRUE(device_->record(event->get(), device_->stream()));
    const auto over = device_->wait_until(event->get(), seconds(60), "the test");
    ASSERT_TRUE(over) << to_string(over.error());
  }

  std::unique_ptr<Device> device_;
};

TEST_P(GemmTest, IsTheProductForAnyNumberOfRows) {
  const auto [type, out] = GetParam();
  const GemmShape shape{.n = 72, .k = 136, .type = type, .out = out, .rows_max = 70};
  auto gemm = Gemm::make(*device_, device_->stream());
  ASSERT_TRUE(gemm) << to_string(gemm.error());
  const auto index = (*gemm)->prepare(shape);
  ASSERT_TRUE(index) << to_string(index.error());

  std::mt19937 random(7);
  std::uniform_int_distribution<int> steps(-128, 128);  // of 1/128: BF16 holds them
  std::vector<float> w(static_cast<size_t>(shape.n * shape.k));
  std::vector<float> x(static_cast<size_t>(shape.rows_max * shape.k));
  for (float& value : w) value = static_cast<float>(steps(random)) / 128;
  for (float& value : x) value = static_cast<float>(steps(random)) / 128;
  const Memory weights = on_device(packed(w, type)), input = on_device(packed(x, type));
  const size_t y_bytes =
      static_cast<size_t>(shape.rows_max * shape.n) * (out == ValueType::kF32 ? 4 : 2);
  auto y = device_->allocate(y_bytes);
  auto host = device_->allocate_pinned(y_bytes);
  ASSERT_TRUE(y && host);

  for (const int64_t m : {0, 1, 3, 8, 9, 33, 70}) {
    ASSERT_TRUE(device_->fill(device_->stream(), y->data(), 0xff, y_bytes));
    const auto ran = (*gemm)->run(*index, {input.data(), weights.data(), y->data(), m});
    ASSERT_TRUE(ran) << to_string(ran.error());
    ASSERT_TRUE(device_->copy(device_->stream(), host->data(), y->data(), y_bytes));
    finish();
    for (int64_t row = 0; row < shape.rows_max; ++row)
      for (int64_t column = 0; column < shape.n; ++column) {
        const float got = read(host->data(), static_cast<size_t>(row * shape.n + column), out);
        if (row >= m) {
          ASSERT_TRUE(std::isnan(got)) << m << " rows wrote to row " << row;
          continue;
        }
        double sum = 0;
        for (int64_t i = 0; i < shape.k; ++i)
          sum += static_cast<double>(x[static_cast<size_t>(row * shape.k + i)]) *
                 static_cast<double>(w[static_cast<size_t>(column * shape.k + i)]);
        const double tolerance = out == ValueType::kF32 ? 1e-4 : 2e-2 + std::abs(sum) / 200;
        ASSERT_NEAR(got, sum, tolerance) << m << " rows, row " << row << ", column " << column;
      }
  }
}

TEST_P(GemmTest, RefusesWhatNoBackendTakes) {
  auto gemm = Gemm::make(*device_, device_->stream());
  ASSERT_TRUE(gemm);
  const auto [type, out] = GetParam();
  for (const GemmShape& shape :
       {GemmShape{0, 8, type, out, 8}, GemmShape{8, 0, type, out, 8}, GemmShape{8, 8, type, out, 0},
        GemmShape{8, 8, ValueType::kF16, ValueType::kF16, 8}})
    EXPECT_EQ((*gemm)->prepare(shape).error().code, ErrorCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Types, GemmTest,
                         testing::Values(std::pair(ValueType::kF32, ValueType::kF32),
                                         std::pair(ValueType::kBF16, ValueType::kF32),
                                         std::pair(ValueType::kBF16, ValueType::kBF16)));

}  // namespace
}  // namespace tailor::parallel::gpu
