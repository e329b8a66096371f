#include "parallel/engine_torch.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "kv/block_store.h"
#include "parallel/attention_torch.h"
#include "parallel/block_store_torch.h"
#include "parallel/host_memory.h"
#include "parallel/layer_weights_torch.h"
#include "parallel/reduction.h"
#include "parallel/sharding.h"
#include "parallel/synchronous_engine.h"

namespace tailor::parallel {
namespace {

/// What is fixed before the weights are read; the same on all ranks.
struct Setup {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  Sharding sharding;
  uint64_t weight_bytes = 0;     ///< of this rank's matrices
  uint64_t available_bytes = 0;  ///< this rank's share, before the weights
};

std::string mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

std::span<std::byte> bytes_of(at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

/// The smallest `value` of all ranks, so that choices made from local memory agree.
Result<int64_t> smallest(const TpContext& tp, at::Device device, int64_t value) {
  if (tp.size == 1) return value;
  at::Tensor mine = at::full({1}, value, at::TensorOptions().dtype(at::kLong).device(device));
  at::Tensor all = at::empty({tp.size}, mine.options());
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
  TAILOR_TRY(tp.collective->all_gather(bytes_of(mine), bytes_of(all)));
  return all.min().item<int64_t>();
}

Result<at::Device> parse_device(const std::string& name) {
  if (name == "cpu") return at::Device(at::kCPU);
  if (name.rfind("cuda", 0) != 0) {
    return fail(ErrorCode::kInvalidArgument, "device must be cpu or cuda, found " + name);
  }
  if (!at::globalContext().hasCUDA()) {
    return fail(ErrorCode::kInvalidArgument,
                "device " + name + " asked for, but this program sees no CUDA device");
  }
  at::Device device(name);
  if (!device.has_index()) device.set_index(0);
  return device;
}

/// Bytes this rank may take of the device it is on.
uint64_t available_bytes(at::Device device, int ranks_on_host) {
  if (!device.is_cpu())
    return at::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).first;
  return available_memory_bytes() / static_cast<uint64_t>(std::max(1, ranks_on_host));
}

/// F32 where it is asked for or fits, else BF16; refused with the numbers where neither does.
Result<void> choose_dtype(const EngineOptions& options, const TpContext& tp, uint64_t values,
                          Setup& setup) {
  const uint64_t available = setup.available_bytes;
  const uint64_t f32_bytes = values * 4, bf16_bytes = values * 2;
  // A tenth stays for activations and everything else.
  const auto fits = [&](uint64_t bytes) { return available == 0 || bytes <= available / 10 * 9; };
  bool use_f32 = options.dtype == "f32";
  if (options.dtype == "auto") {
    const bool wanted = setup.device.is_cpu() && fits(f32_bytes);
    TAILOR_ASSIGN(const int64_t agreed, smallest(tp, setup.device, wanted ? 1 : 0));
    use_f32 = agreed == 1;
  } else if (options.dtype != "f32" && options.dtype != "bf16") {
    return fail(ErrorCode::kInvalidArgument,
                "dtype must be f32, bf16 or auto, found " + options.dtype);
  }
  setup.dtype = use_f32 ? at::kFloat : at::kBFloat16;
  setup.weight_bytes = use_f32 ? f32_bytes : bf16_bytes;
  if (!fits(setup.weight_bytes)) {
    return fail(ErrorCode::kLimitExceeded,
                "rank " + std::to_string(tp.rank) + "'s weights take " + mib(f32_bytes) +
                    " as F32 and " + mib(bf16_bytes) +
                    " as BF16, but its share of free memory is " + mib(available) +
                    "; use a larger tp over more hosts or a smaller model");
  }
  return {};
}

/// 256-column blocks where the row-parallel matrices are K-quants.
int64_t block_columns(const weights::WeightFiles& files) {
  const auto* info = files.find("model.layers.0.mlp.down_proj.weight");
  return info != nullptr && info->type.find("_K") != std::string::npos ? 256 : kBlockColumns;
}

class TorchEngine final : public SynchronousEngine {
 public:
  TorchEngine(const weights::ModelConfig& config, const TpContext& tp, const EngineOptions& options,
              Setup setup, ShardWeights weights, std::shared_ptr<kv::BlockStore> store,
              PagedPool pool, EngineInfo info)
      : SynchronousEngine(
            {std::move(info), options.max_rows, tp.rank == 0, options.slots, options.end_tokens}),
        config_(config),
        tp_(tp),
        progress_(options.progress != nullptr ? *options.progress : unseen_progress_),
        setup_(std::move(setup)),
        shard_(setup_.sharding.ranks[static_cast<size_t>(tp.rank)]),
        weights_(std::move(weights)),
        store_(std::move(store)),
        pool_(std::move(pool)),
        attention_plan_(make_reduction_plan(setup_.sharding.attention_runs(), tp.rank)),
        mlp_plan_(make_reduction_plan(setup_.sharding.mlp_runs(), tp.rank)) {
    std::vector<float> frequencies = weights::rope_inverse_frequencies(config);
    inverse_frequencies_ =
        at::from_blob(frequencies.data(), {static_cast<int64_t>(frequencies.size())}, at::kFloat)
            .clone()
            .to(setup_.device);
    std::vector<int64_t> ends;
    for (const RankShard& rank : setup_.sharding.ranks) {
      ends.push_back(rank.vocab.end);
      vocab_rows_max_ = std::max(vocab_rows_max_, rank.vocab.size());
    }
    vocab_ends_ = at::from_blob(ends.data(), {static_cast<int64_t>(ends.size())}, at::kLong)
                      .clone()
                      .to(setup_.device);
  }

 private:
  Result<void> compute(const StepInput& input, std::span<float> logits,
                       const HiddenTaps& taps) override {
    try {
      const c10::InferenceMode guard;
      return run(input, logits, taps);
    } catch (const std::exception& error) {
      return fail(ErrorCode::kDeviceFailure,
                  "engine step " + std::to_string(input.step) + ": " + error.what());
    }
  }

  Result<void> run(const StepInput& input, std::span<float> logits, const HiddenTaps& taps) {
    const StepLayout step = make_step_layout(input, pool_.layout().block_tokens, setup_.device);
    at::Tensor x;
    TAILOR_TRY(embed(step, x));
    // [rows, 1, head_dim / 2]; angles in F32, as the model was trained.
    const at::Tensor angles = (step.positions.unsqueeze(1) * inverse_frequencies_).unsqueeze(1);
    const at::Tensor cos = angles.cos(), sin = angles.sin();
    size_t tapped = 0;
    for (int64_t l = 0; l < config_.num_layers; ++l) {
      const LayerWeights& layer = weights_.layers[static_cast<size_t>(l)];
      at::Tensor attended =
          attention(step, l, layer, normalized(x, layer.attention_norm), cos, sin);
      TAILOR_TRY(add_row_parallel(attended, layer.attention_out, layer.attention_out_bias,
                                  attention_plan_, x));
      at::Tensor activated = gated(layer, normalized(x, layer.mlp_norm));
      TAILOR_TRY(add_row_parallel(activated, layer.down, layer.down_bias, mlp_plan_, x));
      if (tapped < taps.layers.size() && taps.layers[tapped] == l + 1)
        copy_hidden(x, taps, tapped++);
      progress_.fetch_add(1, std::memory_order_relaxed);
    }
    if (input.num_logits() == 0) return {};
    return head(x.index_select(0, step.logit_rows), logits);
  }

  static void copy_hidden(const at::Tensor& x, const HiddenTaps& taps, size_t layer) {
    for (size_t i = 0; i < taps.rows.size(); ++i) {
      const at::Tensor row = x[taps.rows[i]].to(at::kCPU, at::kFloat).contiguous();
      std::copy_n(row.const_data_ptr<float>(), row.numel(),
                  taps.out.data() + (i * taps.layers.size() + layer) * row.numel());
    }
  }

  /// RMSNorm in F32, result in the matrices' type.
  at::Tensor normalized(const at::Tensor& x, const at::Tensor& weight) const {
    const at::Tensor scale = x.square().mean(-1, true).add_(config_.rms_norm_eps).rsqrt_();
    return x.mul(scale).mul_(weight).to(setup_.dtype);
  }

  /// Rows of the vocabulary-parallel embedding: every rank looks up what it can, the owner's row
  /// counts. F32.
  Result<void> embed(const StepLayout& step, at::Tensor& x) {
    const at::Tensor local = (step.tokens - shard_.vocab.begin).clamp_(0, shard_.vocab.size() - 1);
    at::Tensor mine = weights_.embedding.index_select(1, local).t().to(at::kFloat).contiguous();
    if (tp_.size == 1) {
      x = std::move(mine);
      return {};
    }
    at::Tensor all = at::empty({tp_.size, mine.size(0), mine.size(1)}, mine.options());
    TAILOR_TRY(all_gather(mine, all));
    const at::Tensor owner = at::bucketize(step.tokens, vocab_ends_, false, /*right=*/true);
    x = all.index({owner, at::arange(mine.size(0), owner.options())});
    return {};
  }

  at::Tensor attention(const StepLayout& step, int64_t l, const LayerWeights& layer,
                       const at::Tensor& h, const at::Tensor& cos, const at::Tensor& sin) const {
    const int64_t rows = h.size(0), dim = config_.head_dim, half = dim / 2;
    const int64_t heads = shard_.heads.size(), groups = shard_.groups.size();
    at::Tensor qkv = h.mm(layer.qkv);
    if (layer.qkv_bias.defined()) qkv.add_(layer.qkv_bias);
    qkv = qkv.view({rows, heads + 2 * groups, dim});

    // Rotate-half RoPE of q and k in one go: (a, b) -> (a cos - b sin, b cos + a sin).
    const at::Tensor qk = qkv.narrow(1, 0, heads + groups).to(at::kFloat);
    const at::Tensor a = qk.narrow(2, 0, half), b = qk.narrow(2, half, half);
    at::Tensor rotated = at::empty(qk.sizes(), qk.options());
    at::Tensor ra = rotated.narrow(2, 0, half), rb = rotated.narrow(2, half, half);
    at::mul_out(ra, a, cos).addcmul_(b, sin, -1);
    at::mul_out(rb, b, cos).addcmul_(a, sin);

    write_kv(pool_, step, l, rotated.narrow(1, heads, groups).to(setup_.dtype),
             qkv.narrow(1, heads + groups, groups));
    const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
    const at::Tensor q = rotated.narrow(1, 0, heads).mul(scale).to(setup_.dtype);
    at::Tensor out = at::empty(q.sizes(), q.options());
    paged_attention(pool_, step, l, q, out);
    return out.view({rows, heads * dim});
  }

  at::Tensor gated(const LayerWeights& layer, const at::Tensor& h) const {
    at::Tensor both = h.mm(layer.gate_up);
    if (layer.gate_up_bias.defined()) both.add_(layer.gate_up_bias);
    at::Tensor gate = both.narrow(1, 0, shard_.columns.size());
    at::silu_(gate);
    return gate.mul_(both.narrow(1, shard_.columns.size(), shard_.columns.size()));
  }

  /// x += h @ W, W given in units: partials per unit, summed in the fixed tree, in F32.
  Result<void> add_row_parallel(const at::Tensor& h, const std::vector<at::Tensor>& units,
                                const at::Tensor& bias, const ReductionPlan& plan, at::Tensor& x) {
    std::vector<at::Tensor> sums;
    int64_t column = 0;
    for (const at::Tensor& unit : units) {
      sums.push_back(h.narrow(1, column, unit.size(0)).mm(unit).to(at::kFloat));
      column += unit.size(0);
    }
    for (const ReductionPlan::Subtree& subtree : plan.mine) {
      for (AddStep add : subtree.steps)
        sums[static_cast<size_t>(add.into)].add_(sums[static_cast<size_t>(add.from)]);
    }
    if (tp_.size == 1) {
      x.add_(sums[static_cast<size_t>(plan.mine.front().slot)]);
    } else {
      const int64_t rows = x.size(0), hidden = x.size(1);
      at::Tensor mine = at::zeros({plan.pieces_max, rows, hidden}, x.options());
      for (size_t i = 0; i < plan.mine.size(); ++i) {
        mine[static_cast<int64_t>(i)].copy_(sums[static_cast<size_t>(plan.mine[i].slot)]);
      }
      at::Tensor all = at::empty({tp_.size * plan.pieces_max, rows, hidden}, x.options());
      TAILOR_TRY(all_gather(mine, all));
      std::vector<at::Tensor> pieces;
      for (int32_t slot : plan.gathered_slots) pieces.push_back(all[slot]);
      for (AddStep add : plan.combine) {
        pieces[static_cast<size_t>(add.into)].add_(pieces[static_cast<size_t>(add.from)]);
      }
      x.add_(pieces.front());
    }
    if (bias.defined()) x.add_(bias);
    return {};
  }

  /// Vocabulary-parallel head; rank 0 gathers the shards' logits.
  Result<void> head(const at::Tensor& last_rows, std::span<float> logits) {
    const at::Tensor h = normalized(last_rows, weights_.final_norm);
    const int64_t rows = h.size(0);
    at::Tensor mine = h.mm(weights_.head).to(at::kFloat);
    at::Tensor host;
    if (tp_.rank == 0) host = at::from_blob(logits.data(), {rows, config_.vocab_size}, at::kFloat);
    if (tp_.size == 1) {
      host.copy_(mine);
      return {};
    }
    at::Tensor padded = at::zeros({rows, vocab_rows_max_}, mine.options());
    padded.narrow(1, 0, mine.size(1)).copy_(mine);
    at::Tensor all =
        at::empty({tp_.rank == 0 ? tp_.size : 0, rows, vocab_rows_max_}, mine.options());
    wait_for_device();
    TAILOR_TRY(tp_.collective->gather(bytes_of(padded), bytes_of(all), 0));
    if (tp_.rank != 0) return {};
    for (int r = 0; r < tp_.size; ++r) {
      const Range vocab = setup_.sharding.ranks[static_cast<size_t>(r)].vocab;
      host.narrow(1, vocab.begin, vocab.size()).copy_(all[r].narrow(1, 0, vocab.size()));
    }
    return {};
  }

  Result<void> all_gather(at::Tensor& mine, at::Tensor& all) {
    wait_for_device();
    return tp_.collective->all_gather(bytes_of(mine), bytes_of(all));
  }

  /// The collective works outside our stream: what it sends must be there first.
  void wait_for_device() const {
    if (setup_.device.is_cpu()) return;
    c10::impl::VirtualGuardImpl(setup_.device.type()).getStream(setup_.device).synchronize();
  }

  const weights::ModelConfig config_;
  const TpContext tp_;
  std::atomic<uint64_t> unseen_progress_{0};
  std::atomic<uint64_t>& progress_;
  const Setup setup_;
  const RankShard shard_;
  const ShardWeights weights_;
  const std::shared_ptr<kv::BlockStore> store_;
  const PagedPool pool_;
  const ReductionPlan attention_plan_, mlp_plan_;
  at::Tensor inverse_frequencies_, vocab_ends_;
  int64_t vocab_rows_max_ = 0;
};

Result<Setup> make_setup(const weights::WeightFiles& files, const TpContext& tp,
                         const EngineOptions& options) {
  Setup setup;
  TAILOR_ASSIGN(setup.device, parse_device(options.device));
  TAILOR_ASSIGN(setup.sharding, make_sharding(files.config(), tp.size, block_columns(files)));
  setup.available_bytes =
      available_bytes(setup.device, options.ranks_on_host > 0 ? options.ranks_on_host : tp.size);
  const RankShard& shard = setup.sharding.ranks[static_cast<size_t>(tp.rank)];
  TAILOR_TRY(
      choose_dtype(options, tp, shard_values(files.config(), shard, has_tied_head(files)), setup));
  return setup;
}

Result<std::unique_ptr<Engine>> make(const weights::WeightFiles& files, const TpContext& tp,
                                     const EngineOptions& options) {
  const weights::ModelConfig& config = files.config();
  TAILOR_ASSIGN(Setup setup, make_setup(files, tp, options));
  PoolSpace space;
  space.num_groups_local = setup.sharding.ranks[static_cast<size_t>(tp.rank)].groups.size();
  space.value_type = setup.dtype == at::kFloat ? kv::ValueType::kF32 : kv::ValueType::kBF16;
  space.available_bytes =
      setup.available_bytes > setup.weight_bytes ? setup.available_bytes - setup.weight_bytes : 0;
  space.whole_device = !setup.device.is_cpu();
  kv::BlockLayout layout;
  TAILOR_ASSIGN(kv::PoolSize size, size_pool(config, options, space, layout));
  TAILOR_ASSIGN(const int64_t agreed, smallest(tp, setup.device, size.max_context));
  size.max_context = static_cast<int32_t>(agreed);
  TAILOR_ASSIGN(ShardWeights weights, load_shard(files, setup.sharding, tp.rank, setup.dtype,
                                                 setup.device, options.on_load_progress));

  TAILOR_ASSIGN(auto store, options.make_store ? options.make_store(layout, size.num_blocks)
                            : setup.device.is_cpu()
                                ? kv::make_block_pool(layout, size.num_blocks)
                                : make_tensor_store(setup.device.str(), layout, size.num_blocks));
  at::Tensor memory = at::from_blob(store->device_data(), {layout.block_values() * size.num_blocks},
                                    at::TensorOptions().dtype(setup.dtype).device(setup.device));

  EngineInfo info;
  info.name = "torch";
  info.arithmetic_version = torch_arithmetic(!setup.device.is_cpu(), setup.dtype != at::kFloat);
  info.vocab_size = config.vocab_size;
  info.num_layers = config.num_layers;
  info.hidden_size = config.hidden_size;
  info.max_context = size.max_context;
  info.num_blocks = size.num_blocks;
  info.block_tokens = options.block_tokens;
  info.weight_bytes = setup.weight_bytes;
  info.kv_bytes =
      static_cast<uint64_t>(layout.block_bytes()) * static_cast<uint64_t>(size.num_blocks);
  info.summary = "rank " + std::to_string(tp.rank) + " of " + std::to_string(tp.size) + " on " +
                 setup.device.str() + ", weights " + mib(info.weight_bytes) + " as " +
                 (setup.dtype == at::kFloat ? "F32; " : "BF16; ") + size.sentence;
  PagedPool pool(std::move(memory), layout, size.num_blocks);
  return std::unique_ptr<Engine>(
      std::make_unique<TorchEngine>(config, tp, options, std::move(setup), std::move(weights),
                                    std::move(store), std::move(pool), std::move(info)));
}

}  // namespace

std::string torch_arithmetic(bool on_gpu, bool bf16) {
  return std::string(on_gpu ? "torch-cuda-" : "torch-") + (bf16 ? "bf16-1" : "f32-1");
}

Result<std::unique_ptr<Engine>> make_torch_engine(const weights::WeightFiles& files,
                                                  const TpContext& tp,
                                                  const EngineOptions& options) {
  try {
    const c10::InferenceMode guard;
    at::set_num_threads(std::max(1, options.threads));
    return make(files, tp, options);
  } catch (const std::exception& error) {
    return fail(ErrorCode::kDeviceFailure, std::string("making the torch engine: ") + error.what());
  }
}

}  // namespace tailor::parallel
