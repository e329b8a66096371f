#include "bench/kernel_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/clock.h"
#include "bench/summary.h"
#include "parallel/cpu/arena.h"
#include "parallel/cpu/kernels_cpu.h"

namespace tailor::bench {
namespace {

using namespace parallel::cpu;

/// Seconds of one call, from enough calls to take a few milliseconds.
double seconds_of(const std::function<void()>& call) {
  constexpr Duration kLongEnough = milliseconds(4);
  for (int64_t calls = 1;; calls *= 2) {
    const Time begin = now();
    for (int64_t i = 0; i < calls; ++i) call();
    const Duration took = now() - begin;
    if (took >= kLongEnough) return to_seconds(took) / static_cast<double>(calls);
  }
}

/// One line of the report: work done, and which of the machine's rates bounds it.
struct Case {
  std::string name;
  int64_t rows = 0;
  double multiply_adds = 0, bytes = 0;
  bool integers = false;  ///< multiply-adds of bytes
  std::function<void()> call;
  std::vector<double> seconds;
};

double median(std::vector<double> values) { return statistics(std::move(values)).p50; }

/// A matrix of small random numbers with `rows` rows of inputs; kept alive by the cases.
struct Product {
  Product(const CpuKernels& kernels, PackedKind kind, int64_t outputs, int64_t cols, int64_t count)
      : memory(packed_bytes(kind, outputs, cols) + 64),
        arena(PanelSet::bytes(count, cols) + (1 << 16)),
        panels(arena, count, 0, cols, true, true),
        out(static_cast<size_t>(count * outputs)) {
    matrix.kind = kind;
    matrix.rows = outputs;
    matrix.cols = cols;
    matrix.layout = tile_layout(kind, cols);
    auto address = reinterpret_cast<uintptr_t>(memory.data());
    auto* data = reinterpret_cast<std::byte*>((address + 63) / 64 * 64);
    // 0x20 everywhere: a small positive number in F32, F16, BF16, and as scale and quant.
    std::memset(data, 0x20, packed_bytes(kind, outputs, cols));
    matrix.data = data;
    panels.set_rows(count);
    std::vector<float> x(static_cast<size_t>(cols));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8.0f;
    for (int64_t r = 0; r < count; ++r) panels.fill(kernels, x.data(), 0, cols, r);
  }
  void run(const CpuKernels& kernels) {
    constexpr int64_t kTiles = 4;
    for (int64_t tile = 0; tile < matrix.num_tiles(); tile += kTiles)
      for (int64_t panel = 0; panel < panels.num_panels(); ++panel)
        kernels.product(matrix, tile, std::min(kTiles, matrix.num_tiles() - tile), 0, matrix.cols,
                        panels.panel(panel),
                        out.data() + panel * kPanelRows * matrix.rows + tile * kTileOutputs,
                        matrix.rows);
  }
  std::vector<std::byte> memory;
  Arena arena;
  PanelSet panels;
  PackedMatrix matrix;
  std::vector<float> out;
};

/// The default model's layer (it fits the caches) and its head (it does not).
void add_products(const CpuKernels& kernels, std::vector<Case>& cases) {
  for (const auto kind :
       {PackedKind::kQ4_1, PackedKind::kQ4_0, PackedKind::kQ8_0, PackedKind::kQ4_K,
        PackedKind::kQ6_K, PackedKind::kF16, PackedKind::kBF16, PackedKind::kF32}) {
    const bool super = kind == PackedKind::kQ4_K || kind == PackedKind::kQ6_K;
    const int64_t cols = super ? 512 : 576;
    const auto add = [&](const char* place, int64_t outputs, int64_t rows) {
      auto product = std::make_shared<Product>(kernels, kind, outputs, cols, rows);
      Case c;
      c.name = std::string(to_string(kind)) + " product, " + place;
      c.rows = rows;
      c.multiply_adds = static_cast<double>(outputs * cols * rows);
      c.bytes = static_cast<double>(packed_bytes(kind, outputs, cols));
      c.integers = !is_plain(kind);
      c.call = [product, &kernels] { product->run(kernels); };
      cases.push_back(std::move(c));
    };
    for (const int64_t rows : {1, 8, 32}) add("in cache", 1536, rows);
    add("from memory", int64_t{1} << 17, 1);
  }
}

/// Decode rows of the default model's group against 512 tokens.
void add_attention(const CpuKernels& kernels, std::vector<Case>& cases) {
  constexpr int64_t kKeys = 512, kHeads = 3, kDim = 64;
  for (const bool halves : {true, false}) {
    struct State {
      std::vector<std::byte> pool;
      std::vector<int32_t> blocks;
      std::vector<float> queries, out;
      AttentionRow row;
    };
    auto state = std::make_shared<State>();
    const int64_t plane = kBlockSlots * kDim * (halves ? 2 : 4);
    state->pool.resize(static_cast<size_t>(2 * plane * (kKeys / kBlockSlots)));
    for (int32_t b = 0; b < kKeys / kBlockSlots; ++b) state->blocks.push_back(b);
    state->queries.assign(kHeads * kDim, 0.5f);
    state->out.resize(state->queries.size());
    state->row = {
        state->pool.data(),    2 * plane,        plane, state->blocks.data(), kKeys, kHeads, kDim,
        state->queries.data(), state->out.data()};
    Case c;
    c.name = std::string("attention, 3 heads, 512 keys in ") + (halves ? "F16" : "F32");
    c.rows = 1;
    c.multiply_adds = 2.0 * kKeys * kHeads * kDim;
    c.bytes = static_cast<double>(state->pool.size());
    c.call = [state, &kernels, halves] {
      (halves ? kernels.attend_f16 : kernels.attend_f32)(state->row);
    };
    cases.push_back(std::move(c));
  }
}

struct Rates {
  std::vector<double> fma, dot, bytes;  ///< per second
};

}  // namespace

Result<KernelReport> bench_kernels(const KernelBench& options) {
  TAILOR_ASSIGN(const CpuKernels* kernels, cpu_kernels(options.instruction_set));
  std::vector<Case> cases;
  add_products(*kernels, cases);
  add_attention(*kernels, cases);

  Rates rates;
  float sink[3] = {1.0001f, 0.5f, 0};
  std::vector<float> memory(size_t{64} << 20, 1.0f);
  const auto probe = [&] {
    constexpr int64_t kRounds = 20000;
    int64_t done = 0;
    double seconds = seconds_of([&] { done = kernels->probe_fma(kRounds, sink); });
    rates.fma.push_back(static_cast<double>(done) / seconds);
    seconds = seconds_of([&] { done = kernels->probe_dot(kRounds, sink); });
    rates.dot.push_back(static_cast<double>(done) / seconds);
    seconds = seconds_of(
        [&] { kernels->probe_read(memory.data(), static_cast<int64_t>(memory.size()), sink); });
    rates.bytes.push_back(static_cast<double>(memory.size() * sizeof(float)) / seconds);
  };
  for (int round = 0; round < options.rounds; ++round) {
    probe();
    for (Case& c : cases) c.seconds.push_back(seconds_of(c.call));
  }
  const double fma = median(rates.fma), dot = median(rates.dot), bytes = median(rates.bytes);
  KernelReport report;
  char line[200];
  std::snprintf(line, sizeof line,
                "%s kernels, one thread; this machine: %.1f GMAC/s in F32, %.1f GMAC/s of bytes, "
                "%.1f GB/s from memory\n\n%-40s %5s %9s %8s %9s %9s\n",
                kernels->name, fma / 1e9, dot / 1e9, bytes / 1e9, "kernel", "rows", "GMAC/s",
                "GB/s", "of rate", "of GB/s");
  report.table = line;
  nlohmann::json json;
  json["instruction_set"] = kernels->name;
  json["probe"] = {{"fma_gmacs", fma / 1e9}, {"dot_gmacs", dot / 1e9}, {"memory_gbs", bytes / 1e9}};
  for (const Case& c : cases) {
    const double seconds = median(c.seconds);
    const double macs = c.multiply_adds / seconds, read = c.bytes / seconds;
    const double of_rate = macs / (c.integers ? dot : fma), of_memory = read / bytes;
    const bool from_memory = c.name.find("memory") != std::string::npos;
    std::snprintf(line, sizeof line, "%-40s %5lld %9.1f %8.1f %9.2f %9s\n", c.name.c_str(),
                  static_cast<long long>(c.rows), macs / 1e9, read / 1e9, of_rate,
                  from_memory ? std::to_string(of_memory).substr(0, 4).c_str() : "");
    report.table += line;
    json["kernels"].push_back({{"name", c.name},
                               {"rows", c.rows},
                               {"gmacs", macs / 1e9},
                               {"gflops", 2 * macs / 1e9},
                               {"gbs", read / 1e9},
                               {"ratio_to_rate", of_rate},
                               {"ratio_to_memory", of_memory}});
  }
  report.json = json.dump(1);
  return report;
}

}  // namespace tailor::bench
