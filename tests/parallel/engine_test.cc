// The torch engine against itself, on a small random model: what may not change an answer's logits
// beyond float noise (chunks, company, tp), and what a plan may not do.
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "base/log.h"
#include "comm/collective_inprocess.h"
#include "kv/block_pool.h"
#include "parallel/block_store_torch.h"
#include "parallel/engine_cpu.h"
#include "parallel/engine_torch.h"
#include "tests/parallel/greedy.h"

namespace tailor::parallel::testing {
namespace {

constexpr int64_t kVocab = 384;

std::unique_ptr<weights::WeightFiles> small_model() {
  // 6 heads in 3 KV groups, 160 intermediate columns: uneven units and shards.
  auto files = weights::WeightFiles::open(std::string(TAILOR_SOURCE_DIR) +
                                          "/tests/fixtures/models/llama31_small");
  EXPECT_TRUE(files.has_value()) << to_string(files.error());
  return files ? std::move(*files) : nullptr;
}

EngineOptions small_options() {
  EngineOptions options;
  options.kv_bytes = 4 << 20;
  return options;
}

std::vector<Job> some_jobs() {
  std::vector<Job> jobs;
  for (int32_t length : {1, 3, 16, 17, 40, 150, 33, 64}) {
    Job job;
    for (int32_t i = 0; i < length; ++i) job.prompt.push_back((length * 37 + i * 101) % kVocab);
    job.max_tokens = 12;
    jobs.push_back(job);
  }
  return jobs;
}

/// One row of logits per (job, token), by rank 0 of `tp` ranks, each a thread.
std::vector<std::vector<float>> logits_of(int tp, const Schedule& schedule,
                                          EngineOptions options = small_options()) {
  const auto files = small_model();
  const std::vector<Job> jobs = some_jobs();
  std::vector<std::vector<float>> rows(jobs.size() * 12);
  comm::InProcessGroup group(tp, seconds(60));
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < tp; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto collective = group.join(rank);
      const TpContext context{rank, tp, collective.get()};
      std::atomic<uint64_t> progress{0};
      EngineOptions own = options;
      own.progress = &progress;
      auto engine = make_torch_engine(*files, context, own);
      ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
      GreedyServer server(**engine, context);
      auto answers = server.run(jobs, schedule,
                                [&](size_t job, size_t position, std::span<const float> logits) {
                                  rows[job * 12 + position].assign(logits.begin(), logits.end());
                                });
      ASSERT_TRUE(answers.has_value()) << to_string(answers.error());
      EXPECT_GE(progress.load(), 12u * 2u);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return rows;
}

double largest_difference(const std::vector<std::vector<float>>& a,
                          const std::vector<std::vector<float>>& b) {
  double worst = 0;
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].size(), static_cast<size_t>(kVocab));
    EXPECT_EQ(b[i].size(), a[i].size());
    for (size_t k = 0; k < std::min(a[i].size(), b[i].size()); ++k) {
      const double difference =
          std::abs(static_cast<double>(a[i][k]) - static_cast<double>(b[i][k]));
      worst = std::isfinite(difference) ? std::max(worst, difference) : 1e30;
    }
  }
  return worst;
}

TEST(TorchEngine, ChunksCompanyAndTpDoNotChangeLogits) {
  const auto alone = logits_of(1, {});
  double spread = 0;
  for (float value : alone[0]) spread = std::max(spread, std::abs(static_cast<double>(value)));
  EXPECT_GT(spread, 0.5);  // the tolerance below means something
  for (const Schedule& schedule :
       {Schedule{1, 1}, Schedule{1, 7}, Schedule{8, 1024}, Schedule{5, 9}}) {
    EXPECT_LT(largest_difference(alone, logits_of(1, schedule)), 2e-4)
        << schedule.batch << " " << schedule.chunk_rows;
  }
  for (int tp : {2, 3}) {
    EXPECT_LT(largest_difference(alone, logits_of(tp, {})), 2e-4) << "tp " << tp;
    EXPECT_LT(largest_difference(alone, logits_of(tp, {8, 5})), 2e-4) << "tp " << tp;
  }
}

TEST(TorchEngine, ThreadsDoNotChangeLogits) {
  const auto alone = logits_of(1, {});
  EngineOptions options = small_options();
  options.threads = 2;
  EXPECT_LT(largest_difference(alone, logits_of(1, {8, 11}, options)), 2e-4);
}

TEST(TorchEngine, ArithmeticOfGpuAndCpuHaveNamesOfTheirOwn) {
  EXPECT_EQ(torch_arithmetic(false, true), "torch-bf16-1");
  EXPECT_EQ(torch_arithmetic(true, true), "torch-cuda-bf16-1");
  EXPECT_EQ(torch_arithmetic(true, false), "torch-cuda-f32-1");
}

TEST(TorchEngine, Bf16RunsNearF32) {
  EngineOptions options = small_options();
  options.dtype = "bf16";
  const auto files = small_model();
  auto engine = make_torch_engine(*files, {}, options);
  ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
  EXPECT_EQ((*engine)->info().arithmetic_version, "torch-bf16-1");
  auto exact = make_torch_engine(*files, {}, small_options());
  ASSERT_TRUE(exact.has_value());
  StepInput step;
  for (TokenId t = 0; t < 20; ++t) step.token_ids.push_back(t * 11);
  step.block_ids = {2, 0};
  step.chunks = {{0, 20, 0, 0, 2, 1}};
  std::vector<float> a(kVocab), b(kVocab);
  ASSERT_TRUE(forward(**engine, step, a).has_value());
  ASSERT_TRUE(forward(**exact, step, b).has_value());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  EXPECT_LT(std::sqrt(difference / norm), 0.05);
  EXPECT_GT(difference, 0);
}

TEST(TorchEngine, HiddenStatesAreThoseOfTheCpuEngine) {
  const auto files = small_model();
  EngineOptions options = small_options();
  options.kv_dtype = "f32";
  options.dtype = "f32";
  auto torch = make_torch_engine(*files, {}, small_options());
  auto cpu = make_cpu_engine(*files, {}, options);
  ASSERT_TRUE(torch.has_value()) << to_string(torch.error());
  ASSERT_TRUE(cpu.has_value()) << to_string(cpu.error());
  StepInput step;
  for (TokenId t = 0; t < 20; ++t) step.token_ids.push_back(t * 11);
  step.block_ids = {2, 0};
  step.chunks = {{0, 20, 0, 0, 2, 0}};
  const auto depth = static_cast<int32_t>((*cpu)->info().num_layers);
  ASSERT_GT(depth, 1);
  const std::vector<int32_t> rows = {19, 3}, layers = {1, depth};
  std::vector<float> a(4 * static_cast<size_t>((*cpu)->info().hidden_size)), b(a.size());
  ASSERT_TRUE(forward(**torch, step, {}, {rows, layers, a}).has_value());
  ASSERT_TRUE(forward(**cpu, step, {}, {rows, layers, b}).has_value());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i], b[i], 1e-3) << i;
    largest = std::max(largest, std::abs(double{a[i]}));
  }
  EXPECT_GT(largest, 0.01);
}

TEST(TorchEngine, RefusesAPlanThatDoesNotFit) {
  const auto files = small_model();
  EngineOptions options = small_options();
  options.max_context = 64;
  options.max_rows = 32;
  auto engine = make_torch_engine(*files, {}, options);
  ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
  std::vector<float> logits(kVocab);
  StepInput good;
  good.token_ids = {1, 2, 3};
  good.block_ids = {0};
  good.chunks = {{0, 3, 0, 0, 1, 1}};
  ASSERT_TRUE(forward(**engine, good, logits).has_value());
  const int32_t blocks = (*engine)->info().num_blocks;
  const std::vector<std::function<void(StepInput&)>> changes = {
      [](StepInput& s) { s.token_ids[0] = kVocab; },
      [](StepInput& s) { s.token_ids[0] = -1; },
      [&](StepInput& s) { s.block_ids[0] = blocks; },
      [](StepInput& s) { s.chunks[0].first_position = 62; },
      [](StepInput& s) { s.chunks[0].first_position = 14; },  // beyond its one block
      [](StepInput& s) { s.chunks[0].num_rows = 2; },
      [](StepInput& s) { s.chunks[0].num_blocks = 2; },
      [](StepInput& s) { s.chunks[0].wants_logits = 0; },  // room for logits nobody wants
      [](StepInput& s) { s.token_ids.resize(33), s.chunks[0].num_rows = 33; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    StepInput step = good;
    changes[i](step);
    const auto refused = forward(**engine, step, logits);
    ASSERT_FALSE(refused.has_value()) << i;
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument) << i;
  }
  EXPECT_TRUE(forward(**engine, good, logits).has_value());
  EXPECT_TRUE(forward(**engine, {}, {}).has_value());
}

TEST(TorchEngine, RefusesWhatItCannotBecome) {
  const auto files = small_model();
  const auto refused = [&](TpContext tp, const std::function<void(EngineOptions&)>& change,
                           ErrorCode code) {
    EngineOptions options = small_options();
    change(options);
    auto engine = make_torch_engine(*files, tp, options);
    EXPECT_FALSE(engine.has_value());
    if (!engine) {
      EXPECT_EQ(engine.error().code, code) << engine.error().message;
    }
  };
  refused(
      {0, 4, nullptr}, [](EngineOptions&) {}, ErrorCode::kInvalidArgument);  // 3 groups
  refused(
      {}, [](EngineOptions& o) { o.device = "tpu"; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.dtype = "f64"; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.max_context = 1 << 20; }, ErrorCode::kInvalidArgument);
  refused(
      {}, [](EngineOptions& o) { o.max_context = 512, o.kv_bytes = 100000; },
      ErrorCode::kLimitExceeded);
}

TEST(TensorStore, MovesAndSumsAsTheBlockPoolDoes) {
  kv::BlockLayout layout;
  layout.num_layers = 2;
  layout.num_groups_local = 3;
  layout.head_dim = 16;
  auto tensor = make_tensor_store("cpu", layout, 6);
  auto pool = kv::make_block_pool(layout, 6);
  ASSERT_TRUE(tensor.has_value() && pool.has_value());
  for (const auto& store : {*tensor, *pool})
    for (int64_t i = 0; i < 6 * layout.block_bytes(); ++i)
      store->device_data()[i] = static_cast<std::byte>(i * 7 % 253);
  const std::vector<kv::BlockMove> moves = {{.from = 0, .to = 3, .count = 2}, {.from = 4, .to = 1}};
  const std::vector<kv::BlockMove> wrong = {{.from = 0, .to = 2}, {.from = 0, .to = 6}};
  for (const auto& store : {*tensor, *pool}) {
    ASSERT_TRUE(store->begin(moves).has_value());
    EXPECT_FALSE(store->begin(wrong).has_value());
    EXPECT_EQ(store->status(0).done, 2u);
    EXPECT_EQ(store->status(0).failed, 0u);
    EXPECT_EQ(store->num_blocks(kv::kDeviceTier), 6);
    EXPECT_EQ(store->num_blocks(1), 0);
    EXPECT_FALSE(store->checksum(0, 6, 0).has_value());
  }
  for (int32_t block = 0; block < 6; ++block)
    for (int32_t group = 0; group < 3; ++group)
      EXPECT_EQ(*(*tensor)->checksum(0, block, group), *(*pool)->checksum(0, block, group));
}

TEST(TorchEngine, LoadsWithProgressAndSaysWhatItTook) {
  const auto files = small_model();
  EngineOptions options = small_options();
  double last = 0;
  int calls = 0;
  options.on_load_progress = [&](double done) {
    EXPECT_GE(done, last);
    last = done;
    ++calls;
  };
  options.kv_bytes = 20 * 16 * 2 * 2 * 3 * 32 * 4;  // 20 blocks
  auto engine = make_torch_engine(*files, {}, options);
  ASSERT_TRUE(engine.has_value()) << to_string(engine.error());
  EXPECT_EQ(last, 1.0);
  EXPECT_GT(calls, 5);
  const EngineInfo& info = (*engine)->info();
  EXPECT_EQ(info.num_blocks, 20);
  EXPECT_EQ(info.max_context, 320);  // capped from 512
  EXPECT_EQ(info.arithmetic_version, "torch-f32-1");
  EXPECT_NE(info.summary.find("lowered from 512 to 320"), std::string::npos) << info.summary;
}

}  // namespace
}  // namespace tailor::parallel::testing
