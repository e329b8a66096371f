// gpu-bench: what one GPU does, and what our engine makes of it, as lines of JSON on standard
// output: {"what": .., ..}. tools/gpu-check runs it, step by step, and judges. Plain C++ over the
// faces of parallel/cuda: gpu-bench measures a card; gpu-bench-fake rehearses the same over the
// fake device, where every time is meaningless.
//
// Times are of events in the device's stream, the median of several rounds, but for those of steps,
// which are the host's: from one collected step to the next.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "parallel/cuda/block_store_cuda.h"
#include "parallel/cuda/device.h"
#include "parallel/cuda/engine_cuda.h"
#include "parallel/cuda/gemm.h"
#include "weights/weight_files.h"

namespace tailor::bench {
namespace {

using kv::ValueType;
using parallel::gpu::Device;
using parallel::gpu::Gemm;
using parallel::gpu::Memory;
using parallel::gpu::OwnedEvent;
using parallel::gpu::Stream;
using Json = nlohmann::ordered_json;

constexpr Duration kPatience = seconds(60);  // of every wait for the device
constexpr int kSizes[] = {4 << 10, 64 << 10, 1 << 20, 16 << 20, 128 << 20};

void print(const Json& row) {
  std::printf("%s\n", row.dump().c_str());
  std::fflush(stdout);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Result<void> finish(Device& device, Stream stream) {
  TAILOR_ASSIGN(const OwnedEvent event, device.make_event());
  TAILOR_TRY(device.record(event.get(), stream));
  return device.wait_until(event.get(), kPatience, "a measurement");
}

/// Microseconds of one `work`, `calls` of them at a time, the median of `rounds` after one that
/// does not count.
Result<double> time_us(Device& device, Stream stream, int rounds, int calls,
                       const std::function<Result<void>(int)>& work) {
  TAILOR_ASSIGN(const OwnedEvent begin, device.make_event(true));
  TAILOR_ASSIGN(const OwnedEvent end, device.make_event(true));
  std::vector<double> us;
  for (int round = 0; round <= rounds; ++round) {
    TAILOR_TRY(device.record(begin.get(), stream));
    for (int call = 0; call < calls; ++call) TAILOR_TRY(work(call));
    TAILOR_TRY(device.record(end.get(), stream));
    TAILOR_TRY(device.wait_until(end.get(), kPatience, "a measurement"));
    TAILOR_ASSIGN(const Duration time, device.elapsed(begin.get(), end.get()));
    if (round > 0) us.push_back(to_seconds(time) * 1e6 / calls);
  }
  return median(us);
}

/// BF16 numbers between -1 and 1: products of zeros or of one number are faster than real ones.
Result<Memory> random_bf16(Device& device, size_t values) {
  const size_t piece = std::min<size_t>(values, 8 << 20);
  TAILOR_ASSIGN(const Memory host, device.allocate_pinned(piece * 2));
  TAILOR_ASSIGN(Memory out, device.allocate(values * 2));
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < piece; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    const auto mantissa_and_sign = static_cast<uint16_t>(state & 0x807f);
    const auto exponent = static_cast<uint16_t>(0x7e - (state >> 20) % 4);
    host.as<uint16_t>()[i] = static_cast<uint16_t>(mantissa_and_sign | exponent << 7);
  }
  for (size_t at = 0; at < values; at += piece)
    TAILOR_TRY(device.copy(device.stream(), out.data() + at * 2, host.data(),
                           std::min(piece, values - at) * 2));
  TAILOR_TRY(finish(device, device.stream()));
  return out;
}

// ---- the card -----------------------------------------------------------------------------------

struct CardOptions {
  size_t copy_bytes = size_t{2} << 30;
  size_t pinned_bytes_max = size_t{128} << 20;
  int64_t square = 8192;
  int rounds = 7;
};

/// Bytes read and written over a copy's time: what memory-bound work can reach.
Result<void> device_copy(Device& device, const CardOptions& o) {
  TAILOR_ASSIGN(const Memory from, device.allocate(o.copy_bytes));
  TAILOR_ASSIGN(const Memory to, device.allocate(o.copy_bytes));
  TAILOR_TRY(device.fill(device.stream(), from.data(), 0x5a, o.copy_bytes));
  TAILOR_ASSIGN(const double us, time_us(device, device.stream(), o.rounds, 2, [&](int) {
                  return device.copy(device.stream(), to.data(), from.data(), o.copy_bytes);
                }));
  print({{"what", "device_copy"},
         {"bytes", o.copy_bytes},
         {"us", us},
         {"gb_s", 2e-3 * static_cast<double>(o.copy_bytes) / us}});
  return {};
}

struct Product {
  std::string name;
  int64_t n = 0, k = 0, m = 0;
};

/// One product on random numbers. Weights are as many copies as the second-level cache does not
/// hold, in turn: an engine reads each once a step.
Result<void> product(Device& device, Gemm& gemm, const Product& p, int rounds) {
  const auto weight_values = static_cast<size_t>(p.n * p.k);
  const uint64_t cold = 3 * device.properties().l2_bytes;
  const auto copies = static_cast<int>(std::clamp<uint64_t>(1 + cold / (weight_values * 2), 1, 64));
  TAILOR_ASSIGN(const Memory w, random_bf16(device, weight_values * static_cast<size_t>(copies)));
  TAILOR_ASSIGN(const Memory x, random_bf16(device, static_cast<size_t>(p.m * p.k)));
  TAILOR_ASSIGN(const Memory y, device.allocate(static_cast<size_t>(p.m * p.n) * 2));
  TAILOR_ASSIGN(const int shape, gemm.prepare({p.n, p.k, ValueType::kBF16, ValueType::kBF16, p.m}));
  TAILOR_ASSIGN(
      const double us, time_us(device, device.stream(), rounds, std::max(4, copies), [&](int call) {
        const size_t which = static_cast<size_t>(call % copies);
        return gemm.run(shape, {x.data(), w.data() + which * weight_values * 2, y.data(), p.m});
      }));
  const double flop = 2.0 * static_cast<double>(p.m) * static_cast<double>(weight_values);
  const auto bytes = static_cast<double>(2 * (p.n * p.k + p.m * p.k + p.m * p.n));
  print({{"what", "product"},
         {"name", p.name},
         {"n", p.n},
         {"k", p.k},
         {"m", p.m},
         {"weight_copies", copies},
         {"us", us},
         {"tflop_s", 1e-6 * flop / us},
         {"gb_s", 1e-3 * bytes / us}});
  return {};
}

Result<void> ceilings(Device& device, const CardOptions& o) {
  TAILOR_TRY(device_copy(device, o));
  TAILOR_ASSIGN(const std::unique_ptr<Gemm> gemm, Gemm::make(device, device.stream()));
  return product(device, *gemm, {"square", o.square, o.square, o.square}, o.rounds);
}

/// Between pinned memory and the device, by size, one way and both ways at once.
Result<void> pinned_copies(Device& device, const CardOptions& o) {
  TAILOR_ASSIGN(const Memory down, device.allocate_pinned(o.pinned_bytes_max));
  TAILOR_ASSIGN(const Memory up, device.allocate_pinned(o.pinned_bytes_max));
  TAILOR_ASSIGN(const Memory there, device.allocate(o.pinned_bytes_max));
  TAILOR_ASSIGN(const Memory there_too, device.allocate(o.pinned_bytes_max));
  std::memset(down.data(), 1, o.pinned_bytes_max);
  TAILOR_ASSIGN(const auto other, device.make_stream());
  TAILOR_ASSIGN(const OwnedEvent joined, device.make_event());
  TAILOR_TRY(device.fill(device.stream(), there_too.data(), 2, o.pinned_bytes_max));
  for (const size_t bytes : kSizes) {
    if (bytes > o.pinned_bytes_max) break;
    const Stream stream = device.stream();
    const int calls = bytes < (1 << 20) ? 64 : 4;
    const auto to_device = [&](int) {
      return device.copy(stream, there.data(), down.data(), bytes);
    };
    const auto to_host = [&](int) {
      return device.copy(stream, up.data(), there_too.data(), bytes);
    };
    const auto both = [&](int call) -> Result<void> {
      TAILOR_TRY(to_device(call));
      TAILOR_TRY(device.copy(other.get(), up.data(), there_too.data(), bytes));
      if (call + 1 < calls) return {};
      TAILOR_TRY(device.record(joined.get(), other.get()));
      return device.wait(stream, joined.get());
    };
    Json row = {{"what", "pinned_copy"}, {"bytes", bytes}};
    const auto measure = [&](const char* name, const auto& work, double ways) -> Result<void> {
      TAILOR_ASSIGN(const double us, time_us(device, stream, o.rounds, calls, work));
      row[std::string(name) + "_us"] = us;
      row[std::string(name) + "_gb_s"] = 1e-3 * ways * static_cast<double>(bytes) / us;
      return {};
    };
    TAILOR_TRY(measure("to_device", to_device, 1));
    TAILOR_TRY(measure("to_host", to_host, 1));
    TAILOR_TRY(measure("both", both, 2));
    print(row);
  }
  return {};
}

Result<void> card(Device& device, const CardOptions& o) {
  const auto& p = device.properties();
  TAILOR_ASSIGN(const auto memory, device.memory());
  print({{"what", "device"},
         {"name", p.name},
         {"compute_capability", std::to_string(p.major) + "." + std::to_string(p.minor)},
         {"multiprocessors", p.multiprocessors},
         {"memory_bytes", p.memory_bytes},
         {"free_bytes", memory.free_bytes},
         {"l2_bytes", p.l2_bytes}});
  TAILOR_TRY(ceilings(device, o));
  return pinned_copies(device, o);
}

/// `text`: NAME:N:K, NAME:N:K, ..
Result<void> products(Device& device, const std::vector<std::string>& shapes,
                      const std::vector<int64_t>& rows, int rounds) {
  for (const std::string& text : shapes) {
    Product p;
    char name[64] = {};
    long long n = 0, k = 0;
    if (std::sscanf(text.c_str(), "%63[^:]:%lld:%lld", name, &n, &k) != 3)
      return fail(ErrorCode::kInvalidArgument, "a shape is NAME:N:K, found " + text);
    for (const int64_t m : rows) {
      // A Gemm for each: cuBLASLt's choice is made for the most rows of a shape.
      TAILOR_ASSIGN(const std::unique_ptr<Gemm> gemm, Gemm::make(device, device.stream()));
      TAILOR_TRY(product(device, *gemm, {name, n, k, m}, rounds));
    }
  }
  return {};
}

// ---- the engine ---------------------------------------------------------------------------------

struct ModelOptions {
  std::string model;
  bool random = false;  ///< random weights: only config.json is read
  std::string dtype = "bf16";
  int threads = 1;
  int context = 1024;  ///< tokens of each sequence before the first step
  int steps = 32, warm_up = 8;
  std::vector<int> batches = {1, 32, 256};
  int host_blocks = 0;
};

constexpr int32_t kBlockTokens = 16;

int32_t blocks_of(const ModelOptions& o) {
  return (o.context + 2 * (o.steps + o.warm_up) + kBlockTokens) / kBlockTokens;
}

struct Model {
  std::shared_ptr<kv::BlockStore> store;
  std::unique_ptr<parallel::Engine> engine;
};

/// The engine with a pool for the largest batch, `spare` blocks and as many of the host's as asked.
Result<Model> load(Device& device, const ModelOptions& o, int32_t spare) {
  TAILOR_ASSIGN(const auto files, o.random ? weights::WeightFiles::dummy(o.model, 1)
                                           : weights::WeightFiles::open(o.model));
  const weights::ModelConfig& config = files->config();
  const int most = *std::max_element(o.batches.begin(), o.batches.end());
  parallel::EngineOptions options;
  options.device = "cuda";
  options.dtype = o.dtype;
  options.threads = o.threads;
  options.max_context = blocks_of(o) * kBlockTokens;
  options.max_rows = std::max(most, 256);
  options.slots = most;
  options.block_tokens = kBlockTokens;
  options.kv_bytes =
      static_cast<uint64_t>(most * blocks_of(o) + spare) * kBlockTokens * 2 *
      static_cast<uint64_t>(config.num_layers * config.num_kv_heads * config.head_dim) *
      (o.dtype == "f32" ? 4 : 2);
  Model out;
  options.make_store = [&](const kv::BlockLayout& layout, int32_t num_blocks) {
    auto store = parallel::gpu::make_cuda_store(
        device, {.host_blocks = o.host_blocks, .deadline = kPatience}, layout, num_blocks);
    if (store) out.store = *store;
    return store;
  };
  const Time begin = now();
  TAILOR_ASSIGN(out.engine, parallel::make_cuda_engine(device, *files, {}, options));
  const parallel::EngineInfo& info = out.engine->info();
  print({{"what", "engine"},
         {"arithmetic", info.arithmetic_version},
         {"weight_bytes", info.weight_bytes},
         {"kv_bytes", info.kv_bytes},
         {"blocks", info.num_blocks},
         {"load_s", to_seconds(now() - begin)},
         {"summary", info.summary}});
  return out;
}

/// Greedy decode of `batch` sequences whose earlier keys and values are zeros: a step costs the
/// same whatever they are. As many steps are in flight as the engine takes.
class Decode {
 public:
  Decode(parallel::Engine& engine, const ModelOptions& o, int batch)
      : engine_(engine), o_(o), batch_(batch), position_(o.context) {
    request_ = std::make_shared<Request>(Request{.prompt = {1}});
    request_->sampling.temperature = 0;
    request_->sampling.ignore_eos = true;
    for (int i = 0; i < batch; ++i) {
      engine_.open_slot({.slot = i, .request = request_, .emitted = {}});
      slots_.push_back(i);
    }
  }
  ~Decode() {
    for (const parallel::SlotId slot : slots_) engine_.close_slot(slot);
  }

  struct Times {
    double step_us = 0, forward_us = 0, sample_us = 0;
    std::vector<double> all_us;
  };
  /// `between` is called before each step.
  Result<Times> run(int steps, const std::function<Result<void>()>& between = {}) {
    std::vector<double> step, forward, sample;
    Time last = now();
    int begun = 0;
    for (int collected = 0; collected < steps; ++collected) {
      while (begun < steps && begun - collected < engine_.depth()) {
        if (between) TAILOR_TRY(between());
        TAILOR_TRY(submit());
        ++begun;
      }
      TAILOR_ASSIGN(const parallel::StepOutcome outcome, engine_.collect());
      for (const Result<TokenId>& token : outcome.tokens)
        if (!token) return fail(token.error());
      const Time time = now();
      step.push_back(to_seconds(time - last) * 1e6);
      forward.push_back(to_seconds(outcome.forward_time) * 1e6);
      sample.push_back(to_seconds(outcome.sample_time) * 1e6);
      last = time;
    }
    return Times{median(step), median(forward), median(sample), step};
  }

 private:
  Result<void> submit() {
    input_.clear();
    input_.step = ++step_;
    for (int i = 0; i < batch_; ++i) {
      const int32_t blocks = position_ / kBlockTokens + 1;
      input_.chunks.push_back({.first_row = i,
                               .num_rows = 1,
                               .first_position = position_,
                               .first_block = static_cast<int32_t>(input_.block_ids.size()),
                               .num_blocks = blocks,
                               .wants_logits = 1});
      for (int32_t b = 0; b < blocks; ++b) input_.block_ids.push_back(i * blocks_of(o_) + b);
      input_.token_ids.push_back(step_ == 1 ? 1 + i % 32 : parallel::drawn_in_row(i));
    }
    ++position_;
    return engine_.submit(input_, {.slots = slots_, .logits = {}, .taps = {}});
  }

  parallel::Engine& engine_;
  const ModelOptions& o_;
  const int batch_;
  int32_t position_;
  uint64_t step_ = 0;
  std::shared_ptr<Request> request_;
  std::vector<parallel::SlotId> slots_;
  parallel::StepInput input_;
};

Result<void> decode(Device& device, const ModelOptions& o) {
  TAILOR_ASSIGN(const Model model, load(device, o, 0));
  for (const int batch : o.batches) {
    Decode decode(*model.engine, o, batch);
    TAILOR_TRY(decode.run(o.warm_up));
    TAILOR_ASSIGN(const auto times, decode.run(o.steps));
    const auto [least, most] = std::minmax_element(times.all_us.begin(), times.all_us.end());
    print({{"what", "decode"},
           {"batch", batch},
           {"context", o.context + o.warm_up + o.steps / 2},
           {"steps", o.steps},
           {"depth", model.engine->depth()},
           {"step_us", times.step_us},
           {"step_us_least", *least},
           {"step_us_most", *most},
           {"forward_us", times.forward_us},
           {"sample_us", times.sample_us},
           {"tokens_s", batch * 1e6 / times.step_us}});
  }
  return {};
}

/// Moves `count` blocks out and in again, over and over, as one is over the next is begun.
class Mover {
 public:
  Mover(kv::BlockStore& store, int32_t device_block, int32_t count)
      : store_(store), device_block_(device_block), count_(count) {}
  uint64_t begun() const { return begun_; }
  /// Begins the next move where none is on its way.
  Result<void> turn() {
    TAILOR_ASSIGN(const bool idle, done());
    if (!idle) return {};
    kv::BlockMove move{.from = device_block_,
                       .to = 0,
                       .count = count_,
                       .from_tier = kv::kDeviceTier,
                       .to_tier = parallel::gpu::kHostTier};
    if (begun_ % 2 == 1) std::swap(move.from, move.to), std::swap(move.from_tier, move.to_tier);
    ++begun_;
    return store_.begin(std::span(&move, 1));
  }
  Result<bool> done() {
    const kv::MoveStatus status = store_.status(agreed_);
    if (status.failed != 0)
      return fail(ErrorCode::kDeviceFailure, "move " + std::to_string(status.failed) + " failed");
    agreed_ = status.done;
    return status.done >= begun_;
  }
  Result<void> drain() {
    for (const Time until = now() + kPatience;;) {
      TAILOR_ASSIGN(const bool idle, done());
      if (idle) return {};
      if (now() > until) return fail(ErrorCode::kTimeout, "a move of blocks is not over");
    }
  }

 private:
  kv::BlockStore& store_;
  const int32_t device_block_, count_;
  uint64_t begun_ = 0, agreed_ = 0;
};

/// Steps alone, moves alone, and both at once.
Result<void> blocks(Device& device, const ModelOptions& o) {
  TAILOR_ASSIGN(const Model model, load(device, o, o.host_blocks));
  const int batch = o.batches.front();
  const double bytes = static_cast<double>(model.store->layout().block_bytes()) * o.host_blocks;
  Mover mover(*model.store, batch * blocks_of(o), o.host_blocks);
  const auto moved = [&](int moves) -> Result<double> {
    const Time begin = now();
    for (int i = 0; i < moves; ++i) {
      TAILOR_TRY(mover.turn());
      TAILOR_TRY(mover.drain());
    }
    return moves * bytes * 1e-9 / to_seconds(now() - begin);
  };
  TAILOR_TRY(moved(2));
  TAILOR_ASSIGN(const double alone_gb_s, moved(6));
  Decode decode(*model.engine, o, batch);
  TAILOR_TRY(decode.run(o.warm_up));
  TAILOR_ASSIGN(const auto alone, decode.run(o.steps));
  const uint64_t before = mover.begun();
  const Time begin = now();
  TAILOR_ASSIGN(const auto beside, decode.run(o.steps, [&] { return mover.turn(); }));
  TAILOR_TRY(mover.drain());
  const double beside_s = to_seconds(now() - begin);
  print({{"what", "blocks"},
         {"batch", batch},
         {"block_bytes", model.store->layout().block_bytes()},
         {"blocks_a_move", o.host_blocks},
         {"moves_beside", mover.begun() - before},
         {"alone_gb_s", alone_gb_s},
         {"beside_gb_s", static_cast<double>(mover.begun() - before) * bytes * 1e-9 / beside_s},
         {"step_us_alone", alone.step_us},
         {"step_us_beside", beside.step_us}});
  return {};
}

/// The logits behind a prompt and behind each of the tokens after it, as F32, row by row in a file.
Result<void> logits(Device& device, const ModelOptions& options, const std::vector<int>& tokens,
                    int prompt, const std::string& path) {
  ModelOptions o = options;
  o.batches = {1};
  o.context = static_cast<int>(tokens.size());
  TAILOR_ASSIGN(const Model model, load(device, o, 0));
  const auto vocab = static_cast<size_t>(model.engine->info().vocab_size);
  std::vector<float> row(vocab);
  std::ofstream file(path, std::ios::binary);
  int rows = 0;
  for (int done = 0; done < static_cast<int>(tokens.size()); ++rows) {
    const int count = done == 0 ? prompt : 1;
    parallel::StepInput input;
    input.step = static_cast<uint64_t>(rows) + 1;
    input.token_ids.assign(tokens.begin() + done, tokens.begin() + done + count);
    const int32_t blocks = (done + count - 1) / kBlockTokens + 1;
    for (int32_t b = blocks; b-- > 0;) input.block_ids.push_back(blocks - 1 - b);
    input.chunks = {{0, count, done, 0, blocks, 1}};
    TAILOR_TRY(parallel::forward(*model.engine, input, row));
    file.write(reinterpret_cast<const char*>(row.data()),
               static_cast<std::streamsize>(vocab * sizeof(float)));
    done += count;
  }
  if (!file.flush()) return fail(ErrorCode::kInvalidArgument, "cannot write " + path);
  print({{"what", "logits"}, {"rows", rows}, {"vocab", vocab}});
  return {};
}

int main_of(int argc, char** argv) {
  CardOptions c;
  ModelOptions m;
  std::string device_name = "cuda", out;
  std::vector<std::string> shapes;
  std::vector<int64_t> rows = {1, 32, 256};
  std::vector<int> tokens;
  int prompt = 1;
  CLI::App app("What one GPU does, and what our engine makes of it, in lines of JSON.");
  app.require_subcommand(1);
  app.add_option("--device", device_name, "cuda or cuda:N");
  std::function<Result<void>(Device&)> work;
  const auto command = [&](const char* name, const char* about, auto run) {
    CLI::App* sub = app.add_subcommand(name, about);
    sub->add_option("--rounds", c.rounds, "of each measurement")->check(CLI::PositiveNumber);
    sub->callback([&work, run] { work = run; });
    return sub;
  };
  const auto card_options = [&](CLI::App* sub) {
    sub->add_option("--copy-bytes", c.copy_bytes, "of the copy on the device");
    sub->add_option("--pinned-bytes", c.pinned_bytes_max, "of the largest copy from the host");
    sub->add_option("--square", c.square, "rows and columns of the large product");
  };
  const auto model_options = [&](CLI::App* sub) {
    sub->add_option("--model", m.model, "a folder")->required();
    sub->add_flag("--dummy-weights", m.random, "random weights: config.json is enough");
    sub->add_option("--dtype", m.dtype, "bf16 or f32");
    sub->add_option("--threads", m.threads, "that make the weights");
    sub->add_option("--batches", m.batches, "sequences at once")->delimiter(',');
    sub->add_option("--context", m.context, "tokens before the first step");
    sub->add_option("--steps", m.steps, "measured")->check(CLI::PositiveNumber);
    sub->add_option("--warm-up", m.warm_up, "steps before those");
  };
  card_options(command("card", "properties, ceilings, pinned copies by size",
                       [&](Device& device) { return card(device, c); }));
  card_options(command("ceilings", "copy bandwidth and BF16 rate",
                       [&](Device& device) { return ceilings(device, c); }));
  CLI::App* table = command("products", "matrix products by shape and rows", [&](Device& device) {
    return products(device, shapes, rows, c.rounds);
  });
  table->add_option("--shapes", shapes, "NAME:N:K, ..")->delimiter(',')->required();
  table->add_option("--rows", rows, "of x")->delimiter(',');
  model_options(
      command("decode", "a step by batch", [&](Device& device) { return decode(device, m); }));
  CLI::App* moves = command("blocks", "copies of KV blocks to the host and back, beside steps",
                            [&](Device& device) { return blocks(device, m); });
  model_options(moves);
  moves->add_option("--blocks", m.host_blocks, "of a move")->required();
  CLI::App* raw = command("logits", "behind a prompt and each token after it, to a file",
                          [&](Device& device) { return logits(device, m, tokens, prompt, out); });
  model_options(raw);
  raw->add_option("--tokens", tokens, "of prompt and answer")->delimiter(',')->required();
  raw->add_option("--prompt", prompt, "as many of them in the first step");
  raw->add_option("--out", out, "the file")->required();
  CLI11_PARSE(app, argc, argv);
  init_logging("gpu-bench", "warn");
  const auto run = [&]() -> Result<void> {
    TAILOR_ASSIGN(const std::unique_ptr<Device> device, Device::open(device_name));
    return work(*device);
  };
  const Result<void> done = run();
  if (done) return 0;
  std::fprintf(stderr, "gpu-bench: %s\n", to_string(done.error()).c_str());
  return 1;
}

}  // namespace
}  // namespace tailor::bench

int main(int argc, char** argv) { return tailor::bench::main_of(argc, argv); }
