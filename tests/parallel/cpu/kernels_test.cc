// Every kernel on every instruction set of this machine: near a plain computation in double, and
// the same bits on all of them.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "parallel/cpu/arena.h"
#include "parallel/cpu/kernels_cpu.h"
#include "parallel/cpu/packed_model.h"
#include "tests/parallel/cpu/random_model.h"

namespace tailor::parallel::cpu {
namespace {

std::vector<const CpuKernels*> all_kernels() {
  std::vector<const CpuKernels*> out;
  for (const char* name : {"scalar", "avx2", "avx512"})
    if (auto kernels = cpu_kernels(name)) out.push_back(*kernels);
  return out;
}

std::vector<float> random_values(size_t count, uint32_t seed, float spread = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> out(count);
  for (float& value : out) value = normal(random);
  return out;
}

void expect_same_bits(const std::vector<float>& wanted, const std::vector<float>& found,
                      const std::string& what) {
  ASSERT_EQ(wanted.size(), found.size()) << what;
  for (size_t i = 0; i < wanted.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(wanted[i]), std::bit_cast<uint32_t>(found[i]))
        << what << " at " << i << ": " << wanted[i] << " and " << found[i];
}

TEST(CpuKernels, NamesAreChecked) {
  EXPECT_TRUE(cpu_kernels("auto").has_value());
  EXPECT_STREQ((*cpu_kernels("scalar"))->name, "scalar");
  auto unknown = cpu_kernels("sse9");
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code, ErrorCode::kInvalidArgument);
}

class Products : public ::testing::TestWithParam<weights::RandomFormat> {};

/// What a product means, in double: dequantized weights times the inputs as the panel holds them.
double reference(const PackedMatrix& matrix, int64_t output, int64_t k_begin, int64_t k_end,
                 const Panel& panel, int row, double& magnitude) {
  std::vector<float> weights(static_cast<size_t>(matrix.cols));
  matrix.read_row(output, weights);
  double sum = 0;
  magnitude = 0;
  for (int64_t k = k_begin; k < k_end; ++k) {
    double x;
    if (is_plain(matrix.kind)) {
      x = panel.values[k * panel.rows + row];
    } else {
      const int64_t at = k / kBlock * panel.rows + row;
      x = static_cast<double>(panel.scales[at]) * panel.quants[at * kBlock + k % kBlock];
    }
    sum += x * weights[static_cast<size_t>(k)];
    magnitude += std::abs(x * weights[static_cast<size_t>(k)]);
  }
  return sum;
}

TEST_P(Products, EqualOnEveryInstructionSetAndNearDouble) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, GetParam());
  auto packed = PackedModel::open(*files, {});
  ASSERT_TRUE(packed.has_value());
  for (const char* name : {"model.layers.0.mlp.down_proj.weight", "lm_head.weight"}) {
    const PackedMatrix& matrix = *(*packed)->find(name);
    for (int32_t rows = 1; rows <= kPanelRows; ++rows) {
      const std::vector<float> x = random_values(static_cast<size_t>(rows * matrix.cols), 3);
      Arena arena(PanelSet::bytes(rows, matrix.cols) + (1 << 16));
      PanelSet panels(arena, rows, 0, matrix.cols, true, true);
      panels.set_rows(rows);
      const Panel panel = panels.panel(0);
      const int64_t width = matrix.num_tiles() * kTileOutputs;
      // The whole row, and the second of three parts.
      for (const auto& [begin, end] :
           {std::pair<int64_t, int64_t>{0, matrix.cols}, {matrix.cols / 4, matrix.cols / 4 * 3}}) {
        std::vector<float> first;
        for (const CpuKernels* kernels : all_kernels()) {
          for (int32_t r = 0; r < rows; ++r)
            panels.fill(*kernels, x.data() + r * matrix.cols, 0, matrix.cols, r);
          std::vector<float> out(static_cast<size_t>(rows * width));
          kernels->product(matrix, 0, matrix.num_tiles(), begin, end, panel, out.data(), width);
          if (first.empty()) {
            first = out;
            for (int32_t r = 0; r < rows; r += 5)
              for (int64_t o = 0; o < matrix.rows; o += 37) {
                double magnitude;
                const double wanted = reference(matrix, o, begin, end, panel, r, magnitude);
                ASSERT_NEAR(wanted, out[static_cast<size_t>(r * width + o)], 2e-6 * magnitude)
                    << name << " output " << o << " row " << r;
              }
          } else {
            expect_same_bits(first, out,
                             std::string(name) + " " + kernels->name + " with " +
                                 std::to_string(rows) + " rows");
          }
        }
      }
    }
  }
}

/// One row's result does not depend on the rows beside it.
TEST_P(Products, RowsDoNotKnowEachOther) {
  weights::ScratchFolder folder;
  const auto files = weights::open_random(folder, GetParam());
  auto packed = PackedModel::open(*files, {});
  ASSERT_TRUE(packed.has_value());
  const PackedMatrix& matrix = *(*packed)->find("model.layers.1.mlp.gate_proj.weight");
  const std::vector<float> x = random_values(static_cast<size_t>(kPanelRows * matrix.cols), 5);
  const int64_t width = matrix.num_tiles() * kTileOutputs;
  for (const CpuKernels* kernels : all_kernels()) {
    std::vector<std::vector<float>> alone;
    for (int32_t rows = 1; rows <= kPanelRows; ++rows) {
      Arena arena(PanelSet::bytes(rows, matrix.cols) + (1 << 16));
      PanelSet panels(arena, rows, 0, matrix.cols, true, true);
      panels.set_rows(rows);
      for (int32_t r = 0; r < rows; ++r)
        panels.fill(*kernels, x.data() + r * matrix.cols, 0, matrix.cols, r);
      std::vector<float> out(static_cast<size_t>(rows * width));
      kernels->product(matrix, 0, matrix.num_tiles(), 0, matrix.cols, panels.panel(0), out.data(),
                       width);
      for (int32_t r = 0; r < rows; ++r) {
        std::vector<float> row(out.begin() + r * width, out.begin() + (r + 1) * width);
        if (r == rows - 1) alone.push_back(row);
        expect_same_bits(alone[static_cast<size_t>(r)], row, kernels->name);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Products, ::testing::ValuesIn(weights::random_formats()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CpuKernels, QuantsAreNearestAndASickValueStaysSick) {
  for (const CpuKernels* kernels : all_kernels()) {
    Arena arena(1 << 20);
    PanelSet panels(arena, 1, 0, 64, false, true);
    panels.set_rows(1);
    std::vector<float> x = random_values(64, 9);
    for (int i = 32; i < 64; ++i) x[i] = 0;
    panels.fill(*kernels, x.data(), 0, 64, 0);
    const Panel panel = panels.panel(0);
    int sum = 0;
    for (int i = 0; i < 32; ++i) {
      EXPECT_LE(std::abs(x[i] - panel.scales[0] * panel.quants[i]), panel.scales[0] * 0.5001f);
      sum += panel.quants[i];
    }
    EXPECT_EQ(-sum, panel.minus_sums[0] + panel.minus_sums[1]);
    EXPECT_EQ(panel.scaled_sums[0], panel.scales[0] * static_cast<float>(sum));
    EXPECT_EQ(panel.scales[1], 0);
    for (float sick : {std::nanf(""), -std::nanf(""), INFINITY, -INFINITY}) {
      x[3] = sick;
      panels.fill(*kernels, x.data(), 0, 64, 0);
      EXPECT_FALSE(std::isfinite(panel.scales[0])) << kernels->name << " " << sick;
    }
  }
}

TEST(CpuKernels, RowFunctionsAreEqualEverywhereAndNearDouble) {
  for (int64_t n : {16, 64, 96, 100, 576, 7}) {
    const std::vector<float> x = random_values(static_cast<size_t>(n), 11, 3);
    const std::vector<float> y = random_values(static_cast<size_t>(n), 13, 3);
    std::vector<float> norm_first, gated_first, rope_first;
    for (const CpuKernels* kernels : all_kernels()) {
      std::vector<float> normed(x.size());
      kernels->rms_norm(x.data(), y.data(), 1e-5f, n, normed.data());
      double squares = 0;
      for (float v : x) squares += static_cast<double>(v) * v;
      const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
      std::vector<float> gate = x;
      kernels->gated(gate.data(), y.data(), n);
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_NEAR(normed[i], x[i] * scale * y[i], 1e-5 * std::abs(x[i] * scale * y[i]) + 1e-7);
        const double silu = x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * y[i];
        EXPECT_NEAR(gate[i], silu, 1e-5 * std::abs(silu) + 1e-7);
      }
      std::vector<float> turned = x;
      const int64_t half = n / 2;
      std::vector<float> cos(static_cast<size_t>(half)), sin(static_cast<size_t>(half));
      for (int64_t i = 0; i < half; ++i) {
        cos[static_cast<size_t>(i)] = std::cos(static_cast<float>(i));
        sin[static_cast<size_t>(i)] = std::sin(static_cast<float>(i));
      }
      kernels->rope(turned.data(), 1, 2 * half, cos.data(), sin.data(), 0.25f);
      for (int64_t i = 0; i < half; ++i) {
        const double a = x[static_cast<size_t>(i)], b = x[static_cast<size_t>(half + i)];
        EXPECT_NEAR(turned[static_cast<size_t>(i)], 0.25 * (a * std::cos(i) - b * std::sin(i)),
                    1e-5);
        EXPECT_NEAR(turned[static_cast<size_t>(half + i)],
                    0.25 * (b * std::cos(i) + a * std::sin(i)), 1e-5);
      }
      if (norm_first.empty()) {
        norm_first = normed, gated_first = gate, rope_first = turned;
      } else {
        expect_same_bits(norm_first, normed, "norm");
        expect_same_bits(gated_first, gate, "gated");
        expect_same_bits(rope_first, turned, "rope");
      }
    }
  }
}

TEST(CpuKernels, GateOfAnySizeIsFinite) {
  std::vector<float> first;
  for (const CpuKernels* kernels : all_kernels()) {
    std::vector<float> gate = {-1e30f, -200, -88, -87, -1e-30f, 0, 87, 88, 200, 1e30f, 3, -3};
    const std::vector<float> up(gate.size(), 1.0f);
    kernels->gated(gate.data(), up.data(), static_cast<int64_t>(gate.size()));
    for (float value : gate) EXPECT_TRUE(std::isfinite(value));
    EXPECT_EQ(gate[9], 1e30f);
    if (first.empty())
      first = gate;
    else
      expect_same_bits(first, gate, kernels->name);
  }
}

TEST(CpuKernels, SamplingFunctionsAreEqualEverywhere) {
  for (int64_t n : {1, 63, 64, 65, 1000, 4096}) {
    std::vector<float> x = random_values(static_cast<size_t>(n), 31, 20);
    std::vector<float> first;
    for (const CpuKernels* kernels : all_kernels()) {
      const auto chunks = static_cast<size_t>((n + kVocabularyChunk - 1) / kVocabularyChunk);
      std::vector<float> maxima(chunks), weights(x.size()), sums(chunks);
      EXPECT_TRUE(kernels->chunk_maxima(x.data(), n, maxima.data()));
      const float top = *std::max_element(x.begin(), x.end());
      kernels->weigh(x.data(), n, top, 1.5f, weights.data(), sums.data());
      for (size_t c = 0; c < chunks; ++c) {
        const auto begin = x.begin() + static_cast<int64_t>(c) * kVocabularyChunk;
        const auto end = x.end() - begin < kVocabularyChunk ? x.end() : begin + kVocabularyChunk;
        EXPECT_EQ(maxima[c], *std::max_element(begin, end));
        double sum = 0;
        for (auto it = begin; it != end; ++it) {
          const double wanted = std::exp((static_cast<double>(*it) - top) * 1.5);
          const float found = weights[static_cast<size_t>(it - x.begin())];
          EXPECT_NEAR(found, wanted, 1e-5 * wanted + 1e-37);
          sum += found;
        }
        EXPECT_NEAR(sums[c], sum, 1e-6 * sum);
      }
      std::vector<float> all = maxima;
      all.insert(all.end(), weights.begin(), weights.end());
      all.insert(all.end(), sums.begin(), sums.end());
      if (first.empty())
        first = all;
      else
        expect_same_bits(first, all, std::string(kernels->name) + " " + std::to_string(n));
      for (float sick : {std::nanf(""), INFINITY, -INFINITY}) {
        std::vector<float> bad = x;
        bad.back() = sick;
        EXPECT_FALSE(kernels->chunk_maxima(bad.data(), n, maxima.data()));
      }
    }
  }
}

/// A KV pool of one layer and group, its blocks in random order, appended to token by token.
class Attention : public ::testing::TestWithParam<std::tuple<int, int, bool>> {};

TEST_P(Attention, EqualOnEveryInstructionSetAndNearDouble) {
  const auto [heads, dim, halves] = GetParam();
  const int64_t value_bytes = halves ? 2 : 4;
  const int64_t plane_bytes = kBlockSlots * dim * value_bytes;
  for (const int64_t keys : {1, 2, 15, 16, 17, 33, 160, 301}) {
    const int64_t blocks = (keys + 15) / 16;
    std::vector<int32_t> table(static_cast<size_t>(blocks));
    for (int64_t b = 0; b < blocks; ++b)  // backwards, with gaps
      table[static_cast<size_t>(b)] = static_cast<int32_t>((blocks - b) * 2);
    const std::vector<float> k = random_values(static_cast<size_t>(keys * dim), 17);
    const std::vector<float> v = random_values(static_cast<size_t>(keys * dim), 19);
    const std::vector<float> q = random_values(static_cast<size_t>(heads * dim), 23, 0.5f);
    std::vector<float> first;
    std::string first_pool;
    for (const CpuKernels* kernels : all_kernels()) {
      // What an earlier owner of a block left must not matter, not even if it is no number.
      std::string pool(static_cast<size_t>((2 * blocks + 1) * 2 * plane_bytes), '\xFF');
      for (int64_t t = 0; t < keys; ++t) {
        auto* plane = reinterpret_cast<std::byte*>(pool.data()) +
                      table[static_cast<size_t>(t / 16)] * 2 * plane_bytes;
        (halves ? kernels->append_f16 : kernels->append_f32)(k.data() + t * dim, v.data() + t * dim,
                                                             dim, static_cast<int32_t>(t % 16),
                                                             plane, plane + plane_bytes);
      }
      std::vector<float> out(q.size());
      AttentionRow row{reinterpret_cast<std::byte*>(pool.data()),
                       2 * plane_bytes,
                       plane_bytes,
                       table.data(),
                       keys,
                       heads,
                       dim,
                       q.data(),
                       out.data()};
      (halves ? kernels->attend_f16 : kernels->attend_f32)(row);
      if (!first.empty()) {
        EXPECT_EQ(first_pool, pool) << kernels->name;
        expect_same_bits(first, out, std::string(kernels->name) + ", " + std::to_string(keys));
        continue;
      }
      first = out;
      first_pool = pool;
      for (int h = 0; h < heads; ++h) {
        std::vector<double> weight(static_cast<size_t>(keys));
        double top = -1e300, total = 0;
        for (int64_t t = 0; t < keys; ++t) {
          double score = 0;
          for (int d = 0; d < dim; ++d)
            score += static_cast<double>(q[static_cast<size_t>(h * dim + d)]) *
                     k[static_cast<size_t>(t * dim + d)];
          weight[static_cast<size_t>(t)] = score;
          top = std::max(top, score);
        }
        for (double& w : weight) total += w = std::exp(w - top);
        for (int d = 0; d < dim; ++d) {
          double wanted = 0;
          for (int64_t t = 0; t < keys; ++t)
            wanted += weight[static_cast<size_t>(t)] / total * v[static_cast<size_t>(t * dim + d)];
          EXPECT_NEAR(wanted, out[static_cast<size_t>(h * dim + d)], halves ? 1e-2 : 2e-5)
              << keys << " keys, head " << h << ", " << d;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 7),
                                            ::testing::Values(16, 64, 80, 128), ::testing::Bool()));

}  // namespace
}  // namespace tailor::parallel::cpu
