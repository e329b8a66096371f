// The weight formats against the values that the Python package `gguf` gives for the same bytes
// (tests/fixtures/quant, tools/make_quant_fixtures.py): equal bit for bit.
#include "weights/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>

#include "tests/weights/test_files.h"
#include "weights/gguf_file.h"

namespace tailor::weights {
namespace {

class Formats : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto opened = GgufFile::open(fixtures("quant/blocks.gguf"));
    ASSERT_TRUE(opened.has_value()) << opened.error().message;
    file_.emplace(std::move(*opened));
    for (const StoredTensor& tensor : file_->tensors()) by_name_[tensor.name] = &tensor;
    stored_ = by_name_[GetParam()];
    expected_ = by_name_[std::string(GetParam()) + ".expected"];
    ASSERT_TRUE(stored_ && expected_);
    ASSERT_EQ(to_string(stored_->type), GetParam());
    ASSERT_EQ(stored_->shape, (std::vector<int64_t>{2, 512}));
  }
  std::vector<float> piece(int64_t row, int64_t begin, int64_t end) const {
    std::vector<float> out(static_cast<size_t>(end - begin));
    dequantize_row(stored_->type,
                   stored_->data + row * static_cast<int64_t>(row_bytes(stored_->type, 512)), begin,
                   end, out.data());
    return out;
  }
  std::vector<float> expected(int64_t row, int64_t begin, int64_t end) const {
    std::vector<float> out(static_cast<size_t>(end - begin));
    std::memcpy(out.data(), expected_->data + (row * 512 + begin) * 4, out.size() * 4);
    return out;
  }
  std::optional<GgufFile> file_;
  std::map<std::string, const StoredTensor*> by_name_;
  const StoredTensor* stored_ = nullptr;
  const StoredTensor* expected_ = nullptr;
};

TEST_P(Formats, WholeRowsEqualTheReference) {
  for (int64_t row = 0; row < 2; ++row) EXPECT_EQ(piece(row, 0, 512), expected(row, 0, 512));
}

TEST_P(Formats, PiecesEqualTheSameValuesOfTheWhole) {
  for (int64_t begin : {0, 1, 16, 31, 32, 33, 255, 256, 300, 511}) {
    for (int64_t end : {1, 17, 32, 64, 65, 256, 257, 288, 511, 512}) {
      if (end > begin) {
        EXPECT_EQ(piece(1, begin, end), expected(1, begin, end)) << begin << " to " << end;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dequantize, Formats,
                         ::testing::Values("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
                                           "Q4_K", "Q5_K", "Q6_K"));

TEST(HalfToFloat, AllBitPatterns) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31),
              mantissa = static_cast<int>(bits & 1023);
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    const float value = half_to_float(static_cast<uint16_t>(bits));
    if (exponent == 31 && mantissa) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else if (exponent == 31) {
      ASSERT_EQ(value, sign * INFINITY) << bits;
    } else {
      const float expected =
          exponent == 0 ? std::ldexp(sign * static_cast<float>(mantissa), -24)
                        : std::ldexp(sign * static_cast<float>(1024 + mantissa), exponent - 25);
      ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(expected)) << bits;
    }
  }
}

}  // namespace
}  // namespace tailor::weights
