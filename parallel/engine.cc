#include "parallel/engine.h"

#include "base/log.h"

namespace tailor::parallel {

Result<kv::PoolSize> size_pool(const weights::ModelConfig& config, const EngineOptions& options,
                               const PoolSpace& space, kv::BlockLayout& layout) {
  if (options.block_tokens < 1 || options.max_rows < 1 || options.max_context < 0 ||
      options.max_context > config.max_position) {
    return fail(ErrorCode::kInvalidArgument,
                "block tokens " + std::to_string(options.block_tokens) + ", rows " +
                    std::to_string(options.max_rows) + ", context " +
                    std::to_string(options.max_context) +
                    ": each must be positive, and the context at most the model's " +
                    std::to_string(config.max_position));
  }
  layout.block_tokens = options.block_tokens;
  layout.num_layers = config.num_layers;
  layout.num_groups_local = space.num_groups_local;
  layout.head_dim = config.head_dim;
  layout.value_type = space.value_type;
  layout.key_plane = space.key_plane;

  kv::PoolRequest request;
  request.layout = layout;
  request.kv_bytes = options.kv_bytes;
  request.available_bytes = space.available_bytes;
  if (space.whole_device) {
    request.available_share = 0.8;
    request.ceiling_bytes = ~uint64_t{0};
  }
  request.max_context_given = options.max_context > 0;
  request.max_context =
      static_cast<int32_t>(request.max_context_given ? options.max_context : config.max_position);
  return kv::choose_pool_size(request);
}

namespace {

Result<void> check(const HiddenTaps& taps, const StepInput& input, const EngineInfo& info) {
  const auto bad = [](const std::string& what) {
    return fail(ErrorCode::kInvalidArgument, "hidden states: " + what);
  };
  for (const int32_t row : taps.rows)
    if (row < 0 || row >= input.num_rows())
      return bad("row " + std::to_string(row) + " of " + std::to_string(input.num_rows()));
  int32_t before = 0;
  for (const int32_t layer : taps.layers) {
    if (layer <= before || layer > info.num_layers)
      return bad("layer " + std::to_string(layer) + " after " + std::to_string(before) +
                 ", expected ascending layers up to " + std::to_string(info.num_layers));
    before = layer;
  }
  const size_t wanted =
      taps.rows.size() * taps.layers.size() * static_cast<size_t>(info.hidden_size);
  if (taps.out.size() != wanted)
    return bad("room for " + std::to_string(taps.out.size()) + " values, expected " +
               std::to_string(wanted));
  return {};
}

}  // namespace

Result<void> check(const RowSampling& rows, const StepInput& input, const EngineInfo& info,
                   int32_t wanted) {
  const auto bad = [&](const std::string& what) {
    return fail(ErrorCode::kInvalidArgument,
                "engine step " + std::to_string(input.step) + ": " + what);
  };
  const auto count = static_cast<size_t>(wanted);
  if (!rows.slots.empty() && rows.slots.size() != count)
    return bad(std::to_string(rows.slots.size()) + " slots for " + std::to_string(wanted) +
               " rows that draw");
  const size_t all = count * static_cast<size_t>(info.vocab_size);
  if (rows.logits.size() != all && (rows.slots.empty() || !rows.logits.empty()))
    return bad("room for " + std::to_string(rows.logits.size()) + " logits, expected " +
               std::to_string(all));
  return check(rows.taps, input, info);
}

Result<void> forward(Engine& engine, const StepInput& input, std::span<float> logits,
                     const HiddenTaps& taps) {
  TAILOR_TRY(engine.submit(input, {.logits = logits, .taps = taps}));
  TAILOR_TRY(engine.collect());
  return {};
}

void log_ready(const EngineInfo& info) { LOG_INFO("engine {}: {}", info.name, info.summary); }

}  // namespace tailor::parallel
