#include "parallel/engine_cpu.h"

#include <algorithm>
#include <exception>
#include <string>

#include "parallel/cpu/llama_step.h"
#include "parallel/cpu/packed_model.h"
#include "parallel/host_memory.h"
#include "parallel/synchronous_engine.h"

namespace tailor::parallel {
namespace {

std::string mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

Result<std::vector<float>> read_vector(const weights::WeightFiles& files, const std::string& name,
                                       bool there = true) {
  if (!there) return std::vector<float>();
  const weights::TensorInfo* info = files.find(name);
  if (!info) return fail(ErrorCode::kNotFound, files.path() + ": tensor " + name + " is missing");
  std::vector<float> out(static_cast<size_t>(info->shape[0]));
  TAILOR_TRY(files.read(name, 0, 1, 0, info->shape[0], out));
  return out;
}

Result<cpu::LayerWeights> layer_weights(const weights::WeightFiles& files,
                                        const cpu::PackedModel& packed, int64_t index) {
  const weights::ModelConfig& config = files.config();
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  cpu::LayerWeights out;
  out.q = packed.find(attention + "q_proj.weight");
  out.k = packed.find(attention + "k_proj.weight");
  out.v = packed.find(attention + "v_proj.weight");
  out.out = packed.find(attention + "o_proj.weight");
  out.gate = packed.find(mlp + "gate_proj.weight");
  out.up = packed.find(mlp + "up_proj.weight");
  out.down = packed.find(mlp + "down_proj.weight");
  TAILOR_ASSIGN(out.attention_norm, read_vector(files, prefix + "input_layernorm.weight"));
  TAILOR_ASSIGN(out.mlp_norm, read_vector(files, prefix + "post_attention_layernorm.weight"));
  const bool biased = config.attention_bias;
  TAILOR_ASSIGN(out.q_bias, read_vector(files, attention + "q_proj.bias", biased));
  TAILOR_ASSIGN(out.k_bias, read_vector(files, attention + "k_proj.bias", biased));
  TAILOR_ASSIGN(out.v_bias, read_vector(files, attention + "v_proj.bias", biased));
  TAILOR_ASSIGN(out.out_bias, read_vector(files, attention + "o_proj.bias", biased));
  TAILOR_ASSIGN(out.gate_bias, read_vector(files, mlp + "gate_proj.bias", config.mlp_bias));
  TAILOR_ASSIGN(out.up_bias, read_vector(files, mlp + "up_proj.bias", config.mlp_bias));
  TAILOR_ASSIGN(out.down_bias, read_vector(files, mlp + "down_proj.bias", config.mlp_bias));
  return out;
}

/// What the kernels cannot take is said at start, with the way out.
Result<void> check_sizes(const weights::ModelConfig& config, const Sharding& sharding,
                         const EngineOptions& options, const cpu::ModelWeights& weights) {
  const auto refuse = [](const std::string& what) {
    return fail(ErrorCode::kInvalidArgument, "the cpu engine " + what + "; use --engine torch");
  };
  if (config.head_dim % 16 != 0 || config.head_dim > cpu::kMaxHeadDim)
    return refuse("takes head sizes that are multiples of 16 up to " +
                  std::to_string(cpu::kMaxHeadDim) + ", the model has " +
                  std::to_string(config.head_dim));
  if (options.block_tokens != cpu::kBlockSlots)
    return refuse("takes KV blocks of " + std::to_string(cpu::kBlockSlots) + " tokens, asked for " +
                  std::to_string(options.block_tokens));
  const int64_t unit_scale = config.heads_per_group() * config.head_dim;
  for (const cpu::LayerWeights& layer : weights.layers) {
    for (const Range& unit : sharding.units.attention)
      if (!cpu::is_plain(layer.out->kind) && unit.size() * unit_scale % cpu::kBlock != 0)
        return refuse(
            "splits attention output by whole quantization blocks of 32, a KV group has " +
            std::to_string(unit_scale) + " columns");
    for (const Range& unit : sharding.units.mlp)
      if (!cpu::is_plain(layer.down->kind) && unit.size() % cpu::kBlock != 0)
        return refuse("splits the MLP by whole quantization blocks of 32, a unit has " +
                      std::to_string(unit.size()) + " columns");
  }
  return {};
}

class CpuEngine final : public SynchronousEngine {
 public:
  CpuEngine(Parts own, std::unique_ptr<cpu::PackedModel> packed,
            std::shared_ptr<kv::BlockStore> store, cpu::StepParts parts,
            std::atomic<uint64_t>* progress)
      : SynchronousEngine(std::move(own)),
        packed_(std::move(packed)),
        store_(std::move(store)),
        progress_(progress != nullptr ? *progress : unseen_progress_),
        step_(std::move(parts)) {}

  static Parts parts_of(EngineInfo info, const TpContext& tp, const EngineOptions& options) {
    return {std::move(info), options.max_rows, tp.rank == 0, options.slots, options.end_tokens};
  }

 private:
  Result<void> compute(const StepInput& input, std::span<float> logits,
                       const HiddenTaps& taps) override {
    return step_.run(input, logits, taps, progress_);
  }

  const std::unique_ptr<cpu::PackedModel> packed_;
  const std::shared_ptr<kv::BlockStore> store_;
  std::atomic<uint64_t> unseen_progress_{0};
  std::atomic<uint64_t>& progress_;
  cpu::LlamaStep step_;
};

/// The smallest `value` of all ranks, so that choices made from local memory agree.
Result<int32_t> smallest(const TpContext& tp, int32_t value) {
  if (tp.size == 1) return value;
  std::vector<int32_t> all(static_cast<size_t>(tp.size));
  TAILOR_TRY(tp.collective->all_gather(std::as_bytes(std::span(&value, 1)),
                                       std::as_writable_bytes(std::span(all))));
  return *std::min_element(all.begin(), all.end());
}

Result<std::unique_ptr<Engine>> make(const weights::WeightFiles& files, const TpContext& tp,
                                     const EngineOptions& options) {
  const weights::ModelConfig& config = files.config();
  cpu::StepParts parts;
  parts.config = config;
  parts.tp = tp;
  TAILOR_ASSIGN(parts.sharding, make_sharding(config, tp.size));
  TAILOR_ASSIGN(parts.kernels, cpu::cpu_kernels(options.instruction_set));
  parts.max_rows = options.max_rows;
  parts.threads = std::max(1, options.threads);
  parts.first_core = options.first_core;
  if (options.kv_dtype != "auto" && options.kv_dtype != "f16" && options.kv_dtype != "f32")
    return fail(ErrorCode::kInvalidArgument,
                "kv dtype must be auto, f16 or f32, found " + options.kv_dtype);
  const bool kv_f32 = options.kv_dtype == "f32";

  const uint64_t available = available_memory_bytes();
  TAILOR_ASSIGN(auto packed, cpu::PackedModel::open(files, {options.packed_folder, options.dtype,
                                                            options.on_load_progress}));
  for (int64_t l = 0; l < config.num_layers; ++l) {
    TAILOR_ASSIGN(cpu::LayerWeights layer, layer_weights(files, *packed, l));
    parts.weights.layers.push_back(std::move(layer));
  }
  parts.weights.embedding = packed->find("model.embed_tokens.weight");
  parts.weights.head = packed->find("lm_head.weight");
  TAILOR_ASSIGN(parts.weights.final_norm, read_vector(files, "model.norm.weight"));
  parts.weights.inverse_frequencies = weights::rope_inverse_frequencies(config);
  TAILOR_TRY(check_sizes(config, parts.sharding, options, parts.weights));

  const int ranks = options.ranks_on_host > 0 ? options.ranks_on_host : tp.size;
  PoolSpace space;
  space.num_groups_local = parts.sharding.ranks[static_cast<size_t>(tp.rank)].groups.size();
  space.value_type = kv_f32 ? kv::ValueType::kF32 : kv::ValueType::kF16;
  space.key_plane = kv::KeyPlane::kByDimension;
  space.available_bytes = available > packed->bytes()
                              ? (available - packed->bytes()) / static_cast<uint64_t>(ranks)
                              : 0;
  kv::BlockLayout& layout = parts.layout;
  TAILOR_ASSIGN(kv::PoolSize size, size_pool(config, options, space, layout));
  TAILOR_ASSIGN(size.max_context, smallest(tp, size.max_context));
  TAILOR_ASSIGN(auto store, options.make_store ? options.make_store(layout, size.num_blocks)
                                               : kv::make_block_pool(layout, size.num_blocks));
  parts.pool = store->device_data();
  if (options.on_load_progress) options.on_load_progress(1.0);

  EngineInfo info;
  info.name = "cpu";
  info.arithmetic_version = "cpu-1-" + (options.dtype == "auto" ? "stored" : options.dtype) +
                            (kv_f32 ? "-kv32" : "-kv16");
  info.vocab_size = config.vocab_size;
  info.num_layers = config.num_layers;
  info.hidden_size = config.hidden_size;
  info.max_context = size.max_context;
  info.num_blocks = size.num_blocks;
  info.block_tokens = options.block_tokens;
  info.weight_bytes = packed->bytes();
  info.kv_bytes =
      static_cast<uint64_t>(layout.block_bytes()) * static_cast<uint64_t>(size.num_blocks);
  info.summary = "rank " + std::to_string(tp.rank) + " of " + std::to_string(tp.size) + ", " +
                 parts.kernels->name + " kernels, " + std::to_string(parts.threads) +
                 (parts.threads == 1 ? " thread" : " threads") + ", weights " +
                 mib(info.weight_bytes) + " " + packed->where() + "; KV in " +
                 (kv_f32 ? "F32, " : "F16, ") + size.sentence;
  return std::unique_ptr<Engine>(std::make_unique<CpuEngine>(
      CpuEngine::parts_of(std::move(info), tp, options), std::move(packed), std::move(store),
      std::move(parts), options.progress));
}

}  // namespace

Result<std::unique_ptr<Engine>> make_cpu_engine(const weights::WeightFiles& files,
                                                const TpContext& tp, const EngineOptions& options) {
  try {
    return make(files, tp, options);
  } catch (const std::exception& error) {
    return fail(ErrorCode::kInternal, std::string("making the cpu engine: ") + error.what());
  }
}

}  // namespace tailor::parallel
