// Every kernel of the model against float64: random values of both types, sizes that do and do not
// allow whole runs, memory that begins at odd places, NaNs wherever nothing should be read, rows
// that are not there, and several orders of threads.
#include "parallel/cuda/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/parallel/cuda/kernel_rig.h"
#include "tests/parallel/cuda/kernel_values.h"
#include "weights/model_config.h"

namespace tailor::parallel::gpu {
namespace {

template <class T>
class Kernels : public testing::Test {
 protected:
  /// Calls `test(offset)` for memory at even and odd places, each with other orders of threads.
  template <class F>
  void everywhere(const F& test) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      shuffle_threads(seed);
      test(seed % 2 == 0 ? size_t{0} : size_t{1}, seed);
      rig.clear();
      if (this->HasFatalFailure()) return;
    }
  }
  KernelRig& rig = KernelRig::shared();
};
using Types = testing::Types<float, Bits16>;
TYPED_TEST_SUITE(Kernels, Types);

// ---- rows ---------------------------------------------------------------------------------------

TYPED_TEST(Kernels, EmbedTakesRowsThatAreHereAndDrawnTokens) {
  using T = TypeParam;
  for (const int64_t hidden : {1, 13, 64, 8 * 600}) {
    this->everywhere([&](size_t offset, uint64_t seed) {
      RandomValues random(seed);
      const int64_t begin = 100, vocab = 20, rows = 7;
      const auto table = random.normal<T>(vocab * hidden);
      // Here, the first and the last, drawn ones (here and elsewhere), elsewhere on both sides.
      const std::vector<int32_t> tokens = {105, 100, 119, -1 - 2, -1 - 0, 99, 120},
                                 drawn = {7, -1, 112};
      const std::vector<int64_t> taken = {5, 0, 19, 12, -1, -1, -1};
      float* out = this->rig.template room<float>(rows * hidden, offset);
      ASSERT_TRUE(embed(this->rig.stream(), {.type = kTypeOf<T>,
                                             .table = this->rig.put(table, offset),
                                             .tokens = this->rig.put(tokens),
                                             .drawn = this->rig.put(drawn),
                                             .vocab_begin = begin,
                                             .vocab_local = vocab,
                                             .rows = rows,
                                             .hidden = hidden,
                                             .out = out}));
      std::vector<double> expected;
      for (const int64_t row : taken)
        for (int64_t i = 0; i < hidden; ++i)
          expected.push_back(row < 0 ? 0 : value_of(table[row * hidden + i]));
      expect_near(this->rig.get(out, rows * hidden), expected, 0, 0, "embedding");
    });
  }
}

TYPED_TEST(Kernels, AddRmsNormAddsPartialsInOrderAndNorms) {
  using T = TypeParam;
  for (const int64_t hidden : {5, 64, 300, 8 * 520}) {
    for (const int64_t partials : {0, 1, 3}) {
      this->everywhere([&](size_t offset, uint64_t seed) {
        RandomValues random(seed);
        const int64_t all_rows = 5;
        const bool has_bias = seed > 2;
        const std::vector<int32_t> index = {3, 0, 4};
        const bool some = seed % 2 == 1;  // only rows of the index
        const int64_t rows = some ? 3 : all_rows;
        const auto x = random.normal<float>(all_rows * hidden, 3);
        const auto parts = random.normal<float>(partials * all_rows * hidden);
        const auto bias = random.normal<float>(hidden), weight = random.normal<float>(hidden);
        const float eps = 1e-5f;
        float* device_x = this->rig.put(x, offset);
        T* out = this->rig.template room<T>(rows * hidden, offset);
        ASSERT_TRUE(add_rms_norm(
            this->rig.stream(), {.type = kTypeOf<T>,
                                 .x = device_x,
                                 .partials = partials == 0 ? nullptr : this->rig.put(parts, offset),
                                 .num_partials = partials,
                                 .partial_rows = all_rows,
                                 .bias = has_bias ? this->rig.put(bias, offset) : nullptr,
                                 .weight = this->rig.put(weight, offset),
                                 .eps = eps,
                                 .row_index = some ? this->rig.put(index) : nullptr,
                                 .rows = rows,
                                 .hidden = hidden,
                                 .out = out}));
        std::vector<float> sums = x;  // added in the very order, so the same bits
        std::vector<double> normed;
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t row = some ? index[r] : r;
          double squares = 0;
          for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i) {
            for (int64_t p = 0; p < partials; ++p) sums[i] += parts[p * all_rows * hidden + i];
            if (has_bias) sums[i] += bias[i - row * hidden];
            squares += static_cast<double>(sums[i]) * sums[i];
          }
          const double scale = 1 / std::sqrt(squares / static_cast<double>(hidden) + eps);
          for (int64_t i = 0; i < hidden; ++i)
            normed.push_back(sums[row * hidden + i] * scale * weight[i]);
        }
        EXPECT_EQ(this->rig.get(device_x, all_rows * hidden), sums);
        expect_near(this->rig.get(out, rows * hidden), normed, 2e-6 + kRounding<T>, 0, "norm");
      });
    }
  }
}

TYPED_TEST(Kernels, AddRmsNormWithoutAWeightOnlyAdds) {
  const std::vector<float> x = {1, 2, 3}, parts = {10, 20, 30};
  float* device_x = this->rig.put(x);
  ASSERT_TRUE(add_rms_norm(this->rig.stream(), {.type = kTypeOf<TypeParam>,
                                                .x = device_x,
                                                .partials = this->rig.put(parts),
                                                .num_partials = 1,
                                                .partial_rows = 1,
                                                .rows = 1,
                                                .hidden = 3}));
  EXPECT_EQ(this->rig.get(device_x, 3), (std::vector<float>{11, 22, 33}));
}

TYPED_TEST(Kernels, SiluMulIsSiluTimesUp) {
  using T = TypeParam;
  for (const int64_t columns : {1, 24, 77, 8 * 700}) {
    this->everywhere([&](size_t offset, uint64_t seed) {
      RandomValues random(seed);
      const int64_t rows = 3;
      auto both = random.normal<T>(rows * 2 * columns, 4);
      both[0] = nearest<T>(-200);  // e^200 is infinite in F32: the result is 0
      const auto bias = random.normal<T>(2 * columns);
      const bool has_bias = seed > 2;
      T* out = this->rig.template room<T>(rows * columns, offset);
      ASSERT_TRUE(
          silu_mul(this->rig.stream(), {.type = kTypeOf<T>,
                                        .gate_up = this->rig.put(both, offset),
                                        .bias = has_bias ? this->rig.put(bias, offset) : nullptr,
                                        .rows = rows,
                                        .columns = columns,
                                        .out = out}));
      std::vector<double> expected;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < columns; ++i) {
          const double g = value_of(both[r * 2 * columns + i]) + (has_bias ? value_of(bias[i]) : 0);
          const double u = value_of(both[(r * 2 + 1) * columns + i]) +
                           (has_bias ? value_of(bias[columns + i]) : 0);
          expected.push_back(g / (1 + std::exp(-g)) * u);
        }
      }
      expect_near(this->rig.get(out, rows * columns), expected, 2e-6 + kRounding<T>, 2e-6, "silu");
    });
  }
}

TEST(JoinShards, MakesWholeRows) {
  KernelRig& rig = KernelRig::shared();
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    RandomValues random(seed);
    const std::vector<int64_t> begins = {0, 40, 40, 1075};  // one rank has none
    const int64_t ranks = 3, rows = 4, stride = 1100, columns = begins.back();
    std::vector<float> shards(ranks * rows * stride, poison<float>()), expected(rows * columns);
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = begins[r]; i < begins[r + 1]; ++i) {
          const auto value = static_cast<float>(random.between(0, 1000));
          shards[(r * rows + row) * stride + i - begins[r]] = value;
          expected[row * columns + i] = value;
        }
      }
    }
    float* out = rig.room<float>(rows * columns);
    ASSERT_TRUE(join_shards(rig.stream(), {.shards = rig.put(shards),
                                           .begins = rig.put(begins),
                                           .ranks = ranks,
                                           .rows = rows,
                                           .stride = stride,
                                           .columns = columns,
                                           .out = out}));
    EXPECT_EQ(rig.get(out, rows * columns), expected);
    rig.clear();
  }
}

// ---- products -----------------------------------------------------------------------------------

template <class T, class Out>
void check_gemv(KernelRig& rig, int64_t rows, int64_t inputs, int64_t outputs, size_t offset,
                uint64_t seed) {
  RandomValues random(seed);
  const auto w = random.normal<T>(outputs * inputs), x = random.normal<T>(kGemvRows * inputs);
  Gemv call{.type = kTypeOf<T>,
            .weights = rig.put(w, offset),
            .x = rig.put(std::vector<T>(x.begin(), x.begin() + rows * inputs), offset),
            .rows = rows,
            .inputs = inputs,
            .outputs = outputs,
            .out_type = kTypeOf<Out>,
            .out = rig.room<Out>(rows * outputs, offset)};
  ASSERT_TRUE(gemv(rig.stream(), call));
  const auto found = rig.get(static_cast<const Out*>(call.out), rows * outputs);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        const double product = value_of(w[o * inputs + i]) * value_of(x[r * inputs + i]);
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_LE(std::abs(value_of(found[r * outputs + o]) - sum),
                1e-6 * magnitude + kRounding<Out> * std::abs(sum))
          << rows << " rows, " << inputs << " inputs, output " << o;
    }
  }
  // A row alone has the same bits.
  const Gemv alone{.type = call.type,
                   .weights = call.weights,
                   .x = static_cast<const T*>(call.x) + (rows - 1) * inputs,
                   .rows = 1,
                   .inputs = inputs,
                   .outputs = outputs,
                   .out_type = call.out_type,
                   .out = rig.room<Out>(outputs, offset)};
  ASSERT_TRUE(gemv(rig.stream(), alone));
  EXPECT_EQ(rig.get(static_cast<const Out*>(alone.out), outputs),
            std::vector<Out>(found.end() - outputs, found.end()));
}

TYPED_TEST(Kernels, GemvIsTheProductForUpToFourRows) {
  for (const auto& [inputs, outputs] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 9}, {13, 1}, {1032, 35}, {8, 2}, {301, 17}}) {
    this->everywhere([&](size_t offset, uint64_t seed) {
      const auto rows = static_cast<int64_t>(seed);
      check_gemv<TypeParam, float>(this->rig, rows, inputs, outputs, offset, seed);
      check_gemv<TypeParam, Bits16>(this->rig, rows, inputs, outputs, offset, seed);
    });
  }
}

// ---- RoPE and the pool --------------------------------------------------------------------------

/// A pool in which sequences have random blocks, all else NaN.
struct Pool {
  kv::BlockLayout layout;
  int64_t num_blocks = 0;
  int64_t values() const { return num_blocks * layout.block_values(); }
  int64_t at(int64_t block, int64_t place, int64_t group, int64_t layer, int64_t kv) const {
    return block * layout.block_values() + layout.plane_offset(group, layer, kv) +
           place * layout.head_dim;
  }
};

TYPED_TEST(Kernels, RopeAppendRotatesAndFillsTheSlotsOfThePool) {
  using T = TypeParam;
  for (const int64_t dim : {2, 10, 64, 128}) {
    this->everywhere([&](size_t offset, uint64_t seed) {
      RandomValues random(seed);
      const int64_t heads = 4, groups = 2, rows = 4, half = dim / 2, layer = 1;
      Pool pool{{.block_tokens = 4,
                 .num_layers = 3,
                 .num_groups_local = groups,
                 .head_dim = dim,
                 .value_type = kTypeOf<T>},
                5};
      const std::vector<int32_t> positions = {0, 1, 8191, 100000}, slots = {17, 3, -1, 0};
      weights::ModelConfig config;
      config.head_dim = dim;
      config.rope_theta = 500000;
      config.rope_scaling = weights::RopeScaling::kLlama3;
      config.rope_factor = 8;
      const auto frequencies = weights::rope_inverse_frequencies(config);
      ASSERT_EQ(static_cast<int64_t>(frequencies.size()), half);
      const int64_t width = (heads + 2 * groups) * dim;
      const auto qkv = random.normal<T>(rows * width), bias = random.normal<T>(width);
      const bool has_bias = seed > 2;
      const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));

      float* angles = this->rig.template room<float>(rows * dim, offset);
      ASSERT_TRUE(
          rope_angles(this->rig.stream(), {.positions = this->rig.put(positions),
                                           .inverse_frequencies = this->rig.put(frequencies),
                                           .rows = rows,
                                           .half = half,
                                           .out = angles}));
      T* device_pool =
          this->rig.put(std::vector<T>(static_cast<size_t>(pool.values()), poison<T>()), offset);
      T* q = this->rig.template room<T>(rows * heads * dim, offset);
      ASSERT_TRUE(
          rope_append(this->rig.stream(), {.type = kTypeOf<T>,
                                           .qkv = this->rig.put(qkv, offset),
                                           .bias = has_bias ? this->rig.put(bias, offset) : nullptr,
                                           .angles = angles,
                                           .slots = this->rig.put(slots),
                                           .rows = rows,
                                           .heads = heads,
                                           .layer = layer,
                                           .layout = pool.layout,
                                           .pool = device_pool,
                                           .scale = scale,
                                           .q = q}));

      // Value d of head h of a row, rotated where it is a query or a key.
      const auto expected = [&](int64_t row, int64_t h, int64_t d) {
        const auto before = [&](int64_t i) {
          const int64_t at = h * dim + i;
          return value_of(qkv[row * width + at]) + (has_bias ? value_of(bias[at]) : 0);
        };
        if (h >= heads + groups) return before(d);
        const double angle =
            static_cast<float>(positions[row]) * frequencies[static_cast<size_t>(d % half)];
        const double c = std::cos(static_cast<double>(static_cast<float>(angle))),
                     s = std::sin(static_cast<double>(static_cast<float>(angle)));
        return d < half ? before(d) * c - before(d + half) * s
                        : before(d) * c + before(d - half) * s;
      };
      std::vector<double> queries;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t d = 0; d < dim; ++d) queries.push_back(expected(r, h, d) * scale);
      expect_near(this->rig.get(q, rows * heads * dim), queries, kRounding<T>, 2e-6, "queries");

      auto filled = this->rig.get(device_pool, pool.values());
      for (int64_t r = 0; r < rows; ++r) {
        if (slots[r] < 0) continue;
        for (int64_t group = 0; group < groups; ++group) {
          for (int64_t kv = 0; kv < 2; ++kv) {
            for (int64_t d = 0; d < dim; ++d) {
              T& found = filled[pool.at(slots[r] / 4, slots[r] % 4, group, layer, kv) + d];
              const double value = expected(r, heads + kv * groups + group, d);
              ASSERT_NEAR(value_of(found), value, kRounding<T> * std::abs(value) + 2e-6);
              found = poison<T>();
            }
          }
        }
      }
      for (const T value : filled) ASSERT_TRUE(std::isnan(value_of(value)));  // nothing else
    });
  }
}

// ---- attention ----------------------------------------------------------------------------------

struct AttentionCase {
  int64_t dim, heads, groups, block_tokens;
  std::vector<int32_t> positions;
};

template <class T>
void check_attention(KernelRig& rig, const AttentionCase& c, size_t offset, uint64_t seed) {
  RandomValues random(seed);
  const int64_t rows = static_cast<int64_t>(c.positions.size()), layer = 1;
  Pool pool{{.block_tokens = c.block_tokens,
             .num_layers = 2,
             .num_groups_local = c.groups,
             .head_dim = c.dim,
             .value_type = kTypeOf<T>},
            0};
  // Each row is a sequence of its own; blocks in random order, one unused.
  std::vector<int32_t> first_block, table;
  for (const int32_t position : c.positions) {
    first_block.push_back(static_cast<int32_t>(table.size()));
    for (int64_t b = 0; b <= position / c.block_tokens && position >= 0; ++b)
      table.push_back(static_cast<int32_t>(table.size()));
  }
  pool.num_blocks = static_cast<int64_t>(table.size()) + 1;
  std::shuffle(table.begin(), table.end(), random.engine());
  std::vector<T> memory(static_cast<size_t>(pool.values()), poison<T>());
  const auto slot = [&](int64_t row, int64_t key, int64_t group, int64_t kv) {
    return pool.at(table[static_cast<size_t>(first_block[row] + key / c.block_tokens)],
                   key % c.block_tokens, group, layer, kv);
  };
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t key = 0; key <= c.positions[row]; ++key)
      for (int64_t group = 0; group < c.groups; ++group)
        for (int64_t kv = 0; kv < 2; ++kv) {
          const auto values = random.normal<T>(c.dim);
          std::copy(values.begin(), values.end(), memory.begin() + slot(row, key, group, kv));
        }
  // Some scores are far apart, so that sums shrink more than once.
  const auto q = random.normal<T>(rows * c.heads * c.dim, seed % 2 == 0 ? 0.2f : 3.0f);
  T* out = rig.room<T>(rows * c.heads * c.dim, offset);
  const PagedAttention call{.type = kTypeOf<T>,
                            .q = rig.put(q, offset),
                            .pool = rig.put(memory, offset),
                            .layout = pool.layout,
                            .layer = layer,
                            .first_block = rig.put(first_block),
                            .positions = rig.put(c.positions),
                            .block_ids = rig.put(table),
                            .rows = rows,
                            .heads = c.heads,
                            .out = out};
  ASSERT_TRUE(paged_attention(rig.stream(), call));
  const auto found = rig.get(out, rows * c.heads * c.dim);

  std::vector<double> expected;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < c.heads; ++head) {
      const int64_t group = head / (c.heads / c.groups), keys = c.positions[row] + 1;
      std::vector<double> weights(static_cast<size_t>(keys));
      for (int64_t key = 0; key < keys; ++key)
        for (int64_t d = 0; d < c.dim; ++d)
          weights[key] += value_of(q[(row * c.heads + head) * c.dim + d]) *
                          value_of(memory[slot(row, key, group, 0) + d]);
      double top = -INFINITY, total = 0;
      for (const double w : weights) top = std::max(top, w);
      for (double& w : weights) total += w = std::exp(w - top);
      for (int64_t d = 0; d < c.dim; ++d) {
        double sum = 0;
        for (int64_t key = 0; key < keys; ++key)
          sum += weights[key] * value_of(memory[slot(row, key, group, 1) + d]);
        expected.push_back(keys > 0 ? sum / total : 0);
      }
    }
  }
  expect_near(found, expected, kRounding<T>, 5e-5, "attention");

  // The last row alone has the same bits.
  PagedAttention alone = call;
  alone.q = static_cast<const T*>(call.q) + (rows - 1) * c.heads * c.dim;
  alone.first_block += rows - 1;
  alone.positions += rows - 1;
  alone.rows = 1;
  alone.out = rig.room<T>(c.heads * c.dim, offset);
  ASSERT_TRUE(paged_attention(rig.stream(), alone));
  EXPECT_EQ(rig.get(static_cast<const T*>(alone.out), c.heads * c.dim),
            std::vector<T>(found.end() - c.heads * c.dim, found.end()));
}

TYPED_TEST(Kernels, AttentionIsSoftmaxOverTheKeysOfARow) {
  const std::vector<AttentionCase> cases = {
      {.dim = 64, .heads = 8, .groups = 2, .block_tokens = 16, .positions = {0, 70, -1, 31, 32}},
      {.dim = 10, .heads = 3, .groups = 3, .block_tokens = 4, .positions = {5, -1, 63, 100}},
      {.dim = 2, .heads = 1, .groups = 1, .block_tokens = 1, .positions = {33}},
      {.dim = 128, .heads = 9, .groups = 1, .block_tokens = 16, .positions = {40}},
      {.dim = 7, .heads = 4, .groups = 1, .block_tokens = 3, .positions = {3, 10}}};
  for (const AttentionCase& c : cases)
    this->everywhere([&](size_t offset, uint64_t seed) {
      check_attention<TypeParam>(this->rig, c, offset, seed);
    });
}

TYPED_TEST(Kernels, RowsThatAreNotThereAreNoLaunch) {
  const Stream stream = this->rig.stream();
  EXPECT_TRUE(embed(stream, {}));
  EXPECT_TRUE(add_rms_norm(stream, {}));
  EXPECT_TRUE(rope_angles(stream, {}));
  EXPECT_TRUE(rope_append(stream, {}));
  EXPECT_TRUE(paged_attention(stream, {}));
  EXPECT_TRUE(silu_mul(stream, {}));
  EXPECT_TRUE(gemv(stream, {}));
  EXPECT_TRUE(join_shards(stream, {}));
  EXPECT_TRUE(penalize(stream, {}));
  EXPECT_TRUE(draw(stream, {}));
  EXPECT_TRUE(log_probabilities(stream, {}));
  EXPECT_TRUE(copy_slabs(stream, {}));
  EXPECT_TRUE(checksum_slabs(stream, {}));
  this->rig.wait();
}

// ---- blocks -------------------------------------------------------------------------------------

std::vector<std::byte> random_bytes(RandomValues& random, size_t n) {
  std::vector<std::byte> bytes(n);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.between(0, 255));
  return bytes;
}

TEST(Blocks, CopiesLandWhereTheyAreToldAndNowhereElse) {
  KernelRig& rig = KernelRig::shared();
  for (const int64_t bytes : {1, 16, 100, 40000}) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      shuffle_threads(seed);
      RandomValues random(seed);
      const size_t offset = seed % 2;
      const auto source = random_bytes(random, 5 * bytes);
      std::vector<std::byte> expected(6 * bytes, std::byte{0xFF});
      const std::vector<int64_t> from = {4 * bytes, 0, 3 * bytes}, to = {bytes, 5 * bytes, 0};
      for (int i = 0; i < 3; ++i)
        std::copy_n(source.begin() + from[i], bytes, expected.begin() + to[i]);
      auto* target = rig.room<std::byte>(6 * bytes, offset);
      ASSERT_TRUE(copy_slabs(rig.stream(), {.from = rig.put(source, offset),
                                            .to = target,
                                            .bytes = bytes,
                                            .from_offsets = rig.put(from),
                                            .to_offsets = rig.put(to),
                                            .count = 3}));
      EXPECT_EQ(rig.get(target, 6 * bytes), expected);
      rig.clear();
    }
  }
}

TEST(Blocks, ChecksumsAreTheHosts) {
  KernelRig& rig = KernelRig::shared();
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    shuffle_threads(seed);
    RandomValues random(seed);
    const kv::BlockLayout layout{
        .block_tokens = random.between(1, 16),
        .num_layers = random.between(1, 6),
        .num_groups_local = random.between(1, 3),
        .head_dim = random.between(1, 20),
        .value_type = seed % 2 ? kv::ValueType::kBF16 : kv::ValueType::kF32};
    const int64_t blocks = 3;
    const auto pool = random_bytes(random, static_cast<size_t>(blocks * layout.block_bytes()));
    std::vector<int64_t> offsets;
    std::vector<uint64_t> expected;
    for (int64_t block = blocks - 1; block >= 0; --block) {
      for (int64_t group = 0; group < layout.num_groups_local; ++group) {
        offsets.push_back(layout.slab_offset(block, group));
        expected.push_back(kv::slab_checksum(
            layout, std::span(pool).subspan(static_cast<size_t>(offsets.back()),
                                            static_cast<size_t>(layout.slab_bytes()))));
      }
    }
    auto* out = rig.room<uint64_t>(offsets.size());
    ASSERT_TRUE(checksum_slabs(rig.stream(), {.pool = rig.put(pool, seed % 3),
                                              .slab_bytes = layout.slab_bytes(),
                                              .offsets = rig.put(offsets),
                                              .count = static_cast<int64_t>(offsets.size()),
                                              .seed = kv::slab_seed(layout),
                                              .out = out}));
    EXPECT_EQ(rig.get(out, offsets.size()), expected);
    rig.clear();
  }
}

}  // namespace
}  // namespace tailor::parallel::gpu
