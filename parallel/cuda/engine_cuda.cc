#include "parallel/cuda/engine_cuda.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kv/block_store.h"
#include "parallel/cuda/block_store_cuda.h"
#include "parallel/cuda/llama_step_cuda.h"
#include "parallel/cuda/slots_cuda.h"
#include "parallel/cuda/weights_cuda.h"
#include "parallel/sharding.h"

namespace tailor::parallel {
namespace {

using gpu::Device;
using gpu::DrawnRows;
using gpu::LlamaStep;
using gpu::Memory;
using gpu::OwnedEvent;
using gpu::Slots;

constexpr int kDepth = 2;

std::string mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

/// What one submission needs of its own while it is uncollected. Everything on the device is
/// ordered by the stream, and so there once.
struct Flight {
  Memory rows;  ///< pinned int32: what make_rows() lays out
  std::optional<DrawnRows> drawn;
  Memory logits, taps;  ///< pinned F32; as large as was asked for so far
  OwnedEvent begun, computed, over;
  std::vector<OwnedEvent> layers;  ///< behind each but the last

  // Of the submission.
  bool empty = true;  ///< no row: nothing is in the stream
  size_t layers_passed = 0;
  size_t drawing = 0;
  std::span<float> logits_wanted, taps_wanted;
};

/// The arrays of a step's rows, one behind the other; offsets count values.
struct RowArrays {
  size_t tokens = 0, positions = 0, slots = 0, first_block = 0, block_ids = 0, wanted = 0,
         drawing = 0, end = 0;

  RowArrays(size_t rows, size_t blocks, size_t num_wanted, size_t num_drawing) {
    const auto behind = [&](size_t count) {
      const size_t at = end;
      end += (count + 3) / 4 * 4;
      return at;
    };
    tokens = behind(rows);
    positions = behind(rows);
    slots = behind(rows);
    first_block = behind(rows);
    block_ids = behind(blocks);
    wanted = behind(num_wanted);
    drawing = behind(num_drawing);
  }
};

void lay_out(const StepInput& input, std::span<const SlotId> drawing, int64_t block_tokens,
             const RowArrays& arrays, int32_t* out) {
  std::copy(input.token_ids.begin(), input.token_ids.end(), out + arrays.tokens);
  std::copy(input.block_ids.begin(), input.block_ids.end(), out + arrays.block_ids);
  std::copy(drawing.begin(), drawing.end(), out + arrays.drawing);
  int32_t* wanted = out + arrays.wanted;
  for (const Chunk& chunk : input.chunks) {
    for (int32_t i = 0; i < chunk.num_rows; ++i) {
      const auto row = static_cast<size_t>(chunk.first_row + i);
      const int64_t position = int64_t{chunk.first_position} + i;
      const int32_t block =
          input.block_ids[static_cast<size_t>(chunk.first_block + position / block_tokens)];
      out[arrays.positions + row] = static_cast<int32_t>(position);
      out[arrays.slots + row] =
          static_cast<int32_t>(block * block_tokens + position % block_tokens);
      out[arrays.first_block + row] = chunk.first_block;
    }
    if (chunk.wants_logits != 0) *wanted++ = chunk.first_row + chunk.num_rows - 1;
  }
}

struct EngineParts {
  EngineInfo info;
  TpContext tp;
  kv::BlockLayout layout;
  std::shared_ptr<kv::BlockStore> store;
  std::unique_ptr<LlamaStep> step;
  std::unique_ptr<Slots> slots;  ///< rank 0's
  int64_t logit_rows = 0;        ///< the step's
  size_t max_blocks = 0;         ///< entries of a step's block tables
};

class CudaEngine final : public Engine {
 public:
  CudaEngine(Device& device, EngineParts parts, const EngineOptions& options)
      : device_(device),
        parts_(std::move(parts)),
        leads_(parts_.tp.rank == 0),
        max_rows_(options.max_rows),
        deadline_(options.device_deadline),
        progress_(options.progress != nullptr ? *options.progress : unseen_progress_) {
    tokens_.reserve(static_cast<size_t>(parts_.logit_rows));
    logprobs_.resize(static_cast<size_t>(parts_.logit_rows));
    after_layer_ = [this](int64_t layer) { return after_layer(layer); };
  }

  /// Behind what is in the stream, which uses our memory.
  ~CudaEngine() override {
    const gpu::Event over = flights_[0].over.get();
    if (over != nullptr && device_.record(over, device_.stream()))
      (void)device_.wait_until(over, deadline_, "the last step");
  }

  Result<void> reserve() {
    const auto rows = static_cast<size_t>(max_rows_);
    const RowArrays most(rows, parts_.max_blocks, rows, rows);
    const size_t bytes = most.end * sizeof(int32_t);
    TAILOR_ASSIGN(rows_, device_.allocate(bytes));
    if (!leads_) {
      TAILOR_ASSIGN(drawn_, device_.allocate(static_cast<size_t>(parts_.logit_rows) * 4));
    }
    for (Flight& flight : flights_) {
      TAILOR_ASSIGN(flight.rows, device_.allocate_pinned(bytes));
      if (leads_) {
        TAILOR_ASSIGN(flight.drawn, parts_.slots->make_rows());
      }
      for (OwnedEvent* event : {&flight.begun, &flight.computed, &flight.over}) {
        TAILOR_ASSIGN(*event, device_.make_event(/*timed=*/true));
      }
      for (int64_t l = 1; l < parts_.info.num_layers; ++l) {
        TAILOR_ASSIGN(OwnedEvent event, device_.make_event());
        flight.layers.push_back(std::move(event));
      }
    }
    return {};
  }

  const EngineInfo& info() const override { return parts_.info; }
  int depth() const override { return kDepth; }

  void open_slot(const OpenSlot& open) override {
    TAILOR_CHECK(leads_, "only rank 0 opens slots");
    auto opened = parts_.slots->open(open);
    if (!opened && !failed_) failed_ = std::move(opened.error());
  }
  void close_slot(SlotId slot) override {
    TAILOR_CHECK(leads_, "only rank 0 closes slots");
    parts_.slots->close(slot);
  }

  Result<void> submit(const StepInput& input, const RowSampling& rows) override {
    TAILOR_CHECK(uncollected_ < kDepth, "more than two steps in flight");
    if (failed_) return fail(*failed_);
    TAILOR_TRY(check_all(input, rows));
    Flight& flight = flights_[submitted_ % kDepth];
    Result<void> put = make_room(flight, rows);
    if (put) put = put_step(flight, input, rows);
    if (!put) {
      failed_ = put.error();
      // Refused is what was not begun.
      if (failed_->code == ErrorCode::kInvalidArgument) failed_->code = ErrorCode::kInternal;
      return fail(*failed_);
    }
    drawing_rows_ = leads_ ? static_cast<int32_t>(rows.slots.size()) : input.num_logits();
    ++submitted_;
    ++uncollected_;
    return {};
  }

  Result<StepOutcome> collect() override {
    TAILOR_CHECK(uncollected_ > 0, "no step to collect");
    Flight& flight = flights_[(submitted_ - static_cast<uint64_t>(uncollected_)) % kDepth];
    --uncollected_;
    if (failed_) return fail(*failed_);
    tokens_.clear();
    if (flight.empty) return StepOutcome{};
    if (auto waited = wait_for(flight); !waited) {
      failed_ = waited.error();
      return fail(*failed_);
    }
    std::copy_n(flight.logits.as<float>(), flight.logits_wanted.size(),
                flight.logits_wanted.data());
    std::copy_n(flight.taps.as<float>(), flight.taps_wanted.size(), flight.taps_wanted.data());
    for (size_t row = 0; row < flight.drawing; ++row) take_token(*flight.drawn, row);
    StepOutcome out{tokens_, std::span(logprobs_).first(flight.drawing), {}, {}};
    TAILOR_ASSIGN(out.forward_time, device_.elapsed(flight.begun.get(), flight.computed.get()));
    TAILOR_ASSIGN(out.sample_time, device_.elapsed(flight.computed.get(), flight.over.get()));
    return out;
  }

 private:
  // ---- submit -----------------------------------------------------------------------------------

  Result<void> check_all(const StepInput& input, const RowSampling& rows) {
    const StepBounds bounds{.max_rows = max_rows_,
                            .max_context = parts_.info.max_context,
                            .num_blocks = parts_.info.num_blocks,
                            .block_tokens = parts_.layout.block_tokens,
                            .vocab_size = parts_.info.vocab_size,
                            .drawing_rows = drawing_rows_};
    TAILOR_TRY(check(input, bounds));
    TAILOR_TRY(check(rows, input, parts_.info, leads_ ? input.num_logits() : 0));
    if (input.block_ids.size() > parts_.max_blocks)
      return fail(ErrorCode::kInvalidArgument,
                  "engine step " + std::to_string(input.step) + ": block tables of " +
                      std::to_string(input.block_ids.size()) + " entries, at most " +
                      std::to_string(parts_.max_blocks));
    return leads_ ? parts_.slots->check_drawing(rows.slots) : Result<void>();
  }

  /// Grows once to what is asked for, and keeps it.
  Result<void> make_room(Flight& flight, const RowSampling& rows) {
    const std::pair<Memory*, size_t> wanted[] = {{&flight.logits, rows.logits.size_bytes()},
                                                 {&flight.taps, rows.taps.out.size_bytes()}};
    for (const auto& [memory, bytes] : wanted)
      if (memory->bytes() < bytes) {
        TAILOR_ASSIGN(*memory, device_.allocate_pinned(bytes));
      }
    flight.logits_wanted = rows.logits;
    flight.taps_wanted = rows.taps.out;
    flight.drawing = rows.slots.size();
    flight.layers_passed = 0;
    return {};
  }

  Result<void> put_step(Flight& flight, const StepInput& input, const RowSampling& rows) {
    flight.empty = input.num_rows() == 0;
    if (flight.empty) return {};
    const gpu::Stream stream = device_.stream();
    const auto num_wanted = static_cast<size_t>(input.num_logits());
    const RowArrays arrays(input.token_ids.size(), input.block_ids.size(), num_wanted,
                           rows.slots.size());
    lay_out(input, rows.slots, parts_.layout.block_tokens, arrays, flight.rows.as<int32_t>());
    TAILOR_TRY(device_.record(flight.begun.get(), stream));
    TAILOR_TRY(
        device_.copy(stream, rows_.data(), flight.rows.data(), arrays.end * sizeof(int32_t)));
    TAILOR_TRY(share_drawn(input));

    const auto* there = rows_.as<int32_t>();
    const gpu::StepRows step{.rows = input.num_rows(),
                             .tokens = there + arrays.tokens,
                             .positions = there + arrays.positions,
                             .slots = there + arrays.slots,
                             .first_block = there + arrays.first_block,
                             .block_ids = there + arrays.block_ids,
                             .drawn = drawn()};
    flying_ = &flight;
    taps_ = rows.taps;
    const bool last = !taps_.layers.empty() && taps_.layers.back() == parts_.info.num_layers;
    TAILOR_TRY(
        parts_.step->layers(step, parts_.layout, parts_.store->device_data(), last, after_layer_));
    TAILOR_TRY(put_logits(flight, there + arrays.wanted, num_wanted, rows));
    TAILOR_TRY(device_.record(flight.computed.get(), stream));
    if (!rows.slots.empty())
      TAILOR_TRY(parts_.slots->draw(rows.slots, there + arrays.drawing, parts_.step->logits(),
                                    *flight.drawn));
    return device_.record(flight.over.get(), stream);
  }

  /// Rank 0's tokens of the previous step, where a row names one. All ranks see it in the input.
  Result<void> share_drawn(const StepInput& input) {
    const auto& ids = input.token_ids;
    if (parts_.tp.size == 1 ||
        std::none_of(ids.begin(), ids.end(), [](TokenId id) { return id < 0; }))
      return {};
    return parts_.tp.collective->broadcast(
        {reinterpret_cast<std::byte*>(drawn()), static_cast<size_t>(drawing_rows_) * 4}, 0);
  }
  int32_t* drawn() const { return leads_ ? parts_.slots->drawn() : drawn_.as<int32_t>(); }

  /// The head, as many rows at once as there is room for. Rows that draw are never more.
  Result<void> put_logits(Flight& flight, const int32_t* wanted, size_t count,
                          const RowSampling& rows) {
    const auto most = static_cast<size_t>(parts_.logit_rows);
    const auto vocab = static_cast<size_t>(parts_.info.vocab_size);
    for (size_t begin = 0; begin < count; begin += most) {
      const size_t piece = std::min(most, count - begin);
      TAILOR_TRY(parts_.step->head(wanted + begin, static_cast<int64_t>(piece)));
      if (!rows.logits.empty())
        TAILOR_TRY(device_.copy(device_.stream(), flight.logits.as<float>() + begin * vocab,
                                parts_.step->logits(), piece * vocab * sizeof(float)));
    }
    return {};
  }

  /// The stream holds the residual stream after `layer` layers: what is wanted of it, and a mark of
  /// how far the device is.
  Result<void> after_layer(int64_t layer) {
    const gpu::Stream stream = device_.stream();
    const auto tapped = std::find(taps_.layers.begin(), taps_.layers.end(), layer);
    if (tapped != taps_.layers.end()) {
      const auto hidden = static_cast<size_t>(parts_.info.hidden_size);
      const auto place = static_cast<size_t>(tapped - taps_.layers.begin());
      for (size_t i = 0; i < taps_.rows.size(); ++i)
        TAILOR_TRY(device_.copy(
            stream, flying_->taps.as<float>() + (i * taps_.layers.size() + place) * hidden,
            parts_.step->x() + static_cast<size_t>(taps_.rows[i]) * hidden,
            hidden * sizeof(float)));
    }
    if (layer == parts_.info.num_layers) return {};
    TAILOR_TRY(device_.record(flying_->layers[static_cast<size_t>(layer) - 1].get(), stream));
    // A collective may have waited for the device: what it has done since shows.
    if (uncollected_ > 0) {
      Flight& before = flights_[(submitted_ - 1) % kDepth];
      TAILOR_TRY(count_layers(before, before.empty ? 0 : before.layers.size()));
    }
    return count_layers(*flying_, static_cast<size_t>(layer));
  }

  // ---- collect ----------------------------------------------------------------------------------

  /// Raises the progress counter by the layers passed of the first `put`. Waits for nothing.
  Result<void> count_layers(Flight& flight, size_t put) {
    while (flight.layers_passed < put) {
      TAILOR_ASSIGN(const bool passed, device_.passed(flight.layers[flight.layers_passed].get()));
      if (!passed) return {};
      ++flight.layers_passed;
      progress_.fetch_add(1, std::memory_order_relaxed);
    }
    return {};
  }

  Result<void> wait_for(Flight& flight) {
    TAILOR_ASSIGN(const bool over, device_.passed(flight.over.get()));
    if (!over) {
      while (flight.layers_passed < flight.layers.size()) {
        TAILOR_TRY(device_.wait_until(flight.layers[flight.layers_passed].get(), deadline_,
                                      "a layer of a step"));
        ++flight.layers_passed;
        progress_.fetch_add(1, std::memory_order_relaxed);
      }
      TAILOR_TRY(device_.wait_until(flight.over.get(), deadline_, "a step"));
    }
    const size_t rest = flight.layers.size() - flight.layers_passed + 1;
    progress_.fetch_add(rest, std::memory_order_relaxed);
    return {};
  }

  void take_token(const DrawnRows& drawn, size_t row) {
    const auto refuse = [&](ErrorCode code, const char* why) {
      tokens_.push_back(fail(code, why));
    };
    switch (drawn.status[row]) {
      case gpu::kDrawn:
        tokens_.push_back(drawn.tokens[row]);
        break;
      case gpu::kNoTokenPossible:
        refuse(ErrorCode::kInvalidArgument,
               "min_tokens and stop_token_ids leave no token that may be drawn");
        break;
      case gpu::kPenaltyOverflow:
        refuse(ErrorCode::kDeviceFailure, "penalties made a logit infinite");
        break;
      default:
        refuse(ErrorCode::kDeviceFailure, "the model gave a logit that is not a finite number");
    }
    const int32_t wanted = drawn.num_logprobs[row];
    if (wanted < 0 || !tokens_.back()) return;
    LogprobEntry& entry = logprobs_[row];
    entry.chosen = {drawn.tokens[row], drawn.chosen_logprobs[row]};
    entry.top.clear();
    const size_t first = row * gpu::kMaxLogprobs;
    const int64_t most = std::min<int64_t>(wanted, parts_.info.vocab_size);
    for (size_t i = first; i < first + static_cast<size_t>(most); ++i)
      entry.top.push_back({drawn.top_ids[i], drawn.top_logprobs[i]});
  }

  Device& device_;
  const EngineParts parts_;
  const bool leads_;
  const int32_t max_rows_;
  const Duration deadline_;
  std::atomic<uint64_t> unseen_progress_{0};
  std::atomic<uint64_t>& progress_;
  LlamaStep::AfterLayer after_layer_;

  Memory rows_;   // device int32: RowArrays of the step that computes
  Memory drawn_;  // device int32 [logit_rows], not on rank 0: the previous step's tokens
  std::array<Flight, kDepth> flights_;  // submission n in n % kDepth
  uint64_t submitted_ = 0;
  int uncollected_ = 0;
  int32_t drawing_rows_ = 0;     // of the last submission: those a row may name
  std::optional<Error> failed_;  // the rank must leave

  // While a submission is put into the stream.
  Flight* flying_ = nullptr;
  HiddenTaps taps_;

  // Of the step that was collected last.
  std::vector<Result<TokenId>> tokens_;
  std::vector<LogprobEntry> logprobs_;
};

// ---- making one ---------------------------------------------------------------------------------

/// The smallest `value` of all ranks, so that choices made from local memory agree.
Result<int64_t> smallest(Device& device, const TpContext& tp, Duration deadline, int64_t value) {
  if (tp.size == 1) return value;
  const auto size = static_cast<size_t>(tp.size);
  TAILOR_ASSIGN(const Memory here, device.allocate_pinned(size * sizeof(int64_t)));
  TAILOR_ASSIGN(const Memory there, device.allocate((size + 1) * sizeof(int64_t)));
  TAILOR_ASSIGN(const OwnedEvent event, device.make_event());
  const gpu::Stream stream = device.stream();
  *here.as<int64_t>() = value;
  TAILOR_TRY(device.copy(stream, there.data(), here.data(), sizeof(int64_t)));
  TAILOR_TRY(tp.collective->all_gather({there.data(), sizeof(int64_t)},
                                       {there.data() + sizeof(int64_t), size * sizeof(int64_t)}));
  TAILOR_TRY(
      device.copy(stream, here.data(), there.data() + sizeof(int64_t), size * sizeof(int64_t)));
  TAILOR_TRY(device.record(event.get(), stream));
  TAILOR_TRY(device.wait_until(event.get(), deadline, "the ranks' sizes"));
  return *std::min_element(here.as<int64_t>(), here.as<int64_t>() + size);
}

Result<kv::ValueType> choose_type(const EngineOptions& options) {
  const std::string& dtype = options.dtype;
  if (dtype != "auto" && dtype != "bf16" && dtype != "f32")
    return fail(ErrorCode::kInvalidArgument, "dtype must be f32, bf16 or auto, found " + dtype);
  const std::string chosen = dtype == "f32" ? "f32" : "bf16";
  if (options.kv_dtype != "auto" && options.kv_dtype != chosen)
    return fail(ErrorCode::kInvalidArgument, "the cuda engine keeps KV in the weights' type, " +
                                                 chosen + "; asked for " + options.kv_dtype);
  return chosen == "f32" ? kv::ValueType::kF32 : kv::ValueType::kBF16;
}

/// Refused with the numbers, before anything is read, where the weights alone do not fit.
Result<void> check_fits(const TpContext& tp, uint64_t weight_bytes, uint64_t step_bytes,
                        const gpu::DeviceMemoryInfo& memory) {
  if (weight_bytes + step_bytes <= memory.free_bytes) return {};
  return fail(ErrorCode::kLimitExceeded, "rank " + std::to_string(tp.rank) + "'s weights take " +
                                             mib(weight_bytes) + " and the buffers of a step " +
                                             mib(step_bytes) + ", but " + mib(memory.free_bytes) +
                                             " of the device's " + mib(memory.total_bytes) +
                                             " are free; use a larger tp or a smaller model");
}

Result<std::unique_ptr<Engine>> make(Device& device, const weights::WeightFiles& files,
                                     const TpContext& tp, const EngineOptions& options) {
  const weights::ModelConfig& config = files.config();
  TAILOR_ASSIGN(const kv::ValueType type, choose_type(options));
  gpu::LlamaStepParts parts;
  parts.config = config;
  parts.tp = tp;
  TAILOR_ASSIGN(parts.sharding, make_sharding(config, tp.size));
  parts.max_rows = options.max_rows;
  parts.logit_rows = std::max(1, options.slots);
  const RankShard shard = parts.sharding.ranks[static_cast<size_t>(tp.rank)];
  const gpu::LoadOptions load{.type = type,
                              .table_rows = LlamaStep::table_rows(parts.sharding),
                              .threads = options.threads,
                              .deadline = options.device_deadline,
                              .on_progress = options.on_load_progress};
  // The largest context there could be: it is not chosen yet.
  gpu::SlotsOptions slots{.slots = static_cast<int32_t>(parts.logit_rows),
                          .vocab_size = config.vocab_size,
                          .max_context = static_cast<int32_t>(config.max_position),
                          .end_tokens = options.end_tokens,
                          .deadline = options.device_deadline};
  const uint64_t weight_bytes = shard_bytes(files, shard, load);
  const uint64_t step_bytes =
      LlamaStep::bytes(parts, type) + (tp.rank == 0 ? Slots::bytes(slots) : 0);
  TAILOR_ASSIGN(const gpu::DeviceMemoryInfo memory, device.memory());
  TAILOR_TRY(check_fits(tp, weight_bytes, step_bytes, memory));

  PoolSpace space;
  space.num_groups_local = shard.groups.size();
  space.value_type = type;
  space.available_bytes = memory.free_bytes - weight_bytes - step_bytes;
  space.whole_device = true;
  EngineParts own;
  own.tp = tp;
  own.logit_rows = parts.logit_rows;
  TAILOR_ASSIGN(kv::PoolSize size, size_pool(config, options, space, own.layout));
  TAILOR_ASSIGN(const int64_t agreed,
                smallest(device, tp, options.device_deadline, size.max_context));
  size.max_context = static_cast<int32_t>(agreed);
  slots.max_context = size.max_context;
  const int64_t table = (size.max_context + own.layout.block_tokens - 1) / own.layout.block_tokens;
  own.max_blocks = static_cast<size_t>(parts.logit_rows * table);

  TAILOR_ASSIGN(parts.weights, load_shard(device, files, shard, load));
  TAILOR_ASSIGN(own.step, LlamaStep::make(device, std::move(parts)));
  if (tp.rank == 0) {
    TAILOR_ASSIGN(own.slots, Slots::make(device, slots));
  }
  TAILOR_ASSIGN(own.store, options.make_store
                               ? options.make_store(own.layout, size.num_blocks)
                               : make_cuda_store(device, {.deadline = options.device_deadline},
                                                 own.layout, size.num_blocks));

  EngineInfo& info = own.info;
  info.name = "cuda";
  info.arithmetic_version = type == kv::ValueType::kF32 ? "cuda-f32-1" : "cuda-bf16-1";
  info.vocab_size = config.vocab_size;
  info.num_layers = config.num_layers;
  info.hidden_size = config.hidden_size;
  info.max_context = size.max_context;
  info.num_blocks = size.num_blocks;
  info.block_tokens = options.block_tokens;
  info.weight_bytes = weight_bytes;
  info.kv_bytes =
      static_cast<uint64_t>(own.layout.block_bytes()) * static_cast<uint64_t>(size.num_blocks);
  info.summary = "rank " + std::to_string(tp.rank) + " of " + std::to_string(tp.size) + " on " +
                 device.properties().name + " " + std::to_string(device.properties().index) +
                 ", weights " + mib(info.weight_bytes) + " as " +
                 (type == kv::ValueType::kF32 ? "F32" : "BF16") + ", buffers " + mib(step_bytes) +
                 "; " + size.sentence;
  auto engine = std::make_unique<CudaEngine>(device, std::move(own), options);
  TAILOR_TRY(engine->reserve());
  return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace

Result<std::unique_ptr<Engine>> make_cuda_engine(gpu::Device& device,
                                                 const weights::WeightFiles& files,
                                                 const TpContext& tp,
                                                 const EngineOptions& options) {
  try {
    return make(device, files, tp, options);
  } catch (const std::exception& error) {
    return fail(ErrorCode::kInternal, std::string("making the cuda engine: ") + error.what());
  }
}

}  // namespace tailor::parallel
