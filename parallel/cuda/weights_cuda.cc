#include "parallel/cuda/weights_cuda.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <thread>

#include "base/check.h"
#include "parallel/cuda/places.h"

namespace tailor::parallel::gpu {
namespace {

using kv::value_bytes;
using kv::ValueType;

/// Of each of the two pinned buffers: a copy of this size runs at the bus's full speed.
constexpr size_t kStagedBytes = size_t{8} << 20;
/// Fewer are not worth a thread.
constexpr int64_t kValuesForThreads = 1 << 17;

/// To nearest even.
uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// Sends what it is given to the device, piece by piece through two buffers.
class Uploader {
 public:
  static Result<Uploader> make(Device& device, const LoadOptions& options, uint64_t total_bytes) {
    Uploader out(device, options, total_bytes);
    for (Buffer& buffer : out.buffers_) {
      TAILOR_ASSIGN(buffer.memory, device.allocate_pinned(kStagedBytes));
      TAILOR_ASSIGN(buffer.sent, device.make_event());
    }
    return out;
  }

  /// Room for the next piece, up to kStagedBytes; then send().
  Result<std::byte*> room() {
    Buffer& buffer = buffers_[next_];
    TAILOR_TRY(device_->wait_until(buffer.sent.get(), options_->deadline, "sending weights"));
    return buffer.memory.data();
  }
  Result<void> send(std::byte* to, size_t bytes) {
    Buffer& buffer = buffers_[next_];
    next_ = (next_ + 1) % buffers_.size();
    TAILOR_TRY(device_->copy(device_->stream(), to, buffer.memory.data(), bytes));
    TAILOR_TRY(device_->record(buffer.sent.get(), device_->stream()));
    done_bytes_ += bytes;
    const double done = static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_);
    if (options_->on_progress && done - reported_ >= 0.01)
      options_->on_progress(reported_ = std::min(done, 1.0));
    return {};
  }
  Result<void> finish() {
    for (Buffer& buffer : buffers_)
      TAILOR_TRY(device_->wait_until(buffer.sent.get(), options_->deadline, "sending weights"));
    return {};
  }

 private:
  struct Buffer {
    Memory memory;
    OwnedEvent sent;
  };
  Uploader(Device& device, const LoadOptions& options, uint64_t total_bytes)
      : device_(&device), options_(&options), total_bytes_(std::max<uint64_t>(total_bytes, 1)) {}

  Device* device_;
  const LoadOptions* options_;
  uint64_t total_bytes_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
  uint64_t done_bytes_ = 0;
  double reported_ = 0;
};

/// Lays the shard out, and fills it when it has an uploader.
class ShardReader {
 public:
  ShardReader(const weights::WeightFiles& files, ValueType type, Places places, Uploader* uploader,
              int threads)
      : files_(files),
        type_(type),
        places_(places),
        uploader_(uploader),
        threads_(std::max(1, threads)) {}

  size_t used() const { return places_.used(); }

  std::byte* matrix(int64_t rows, int64_t columns, ValueType type) {
    return places_.take_bytes(static_cast<size_t>(rows * columns) * value_bytes(type));
  }

  /// Rows x columns of a stored [out, in] matrix, to `to` on; `to` moves behind them.
  Result<void> read(const std::string& name, Range rows, Range columns, std::byte*& to) {
    if (uploader_ == nullptr) return {};
    const weights::TensorInfo* info = files_.find(name);
    if (info == nullptr)
      return fail(ErrorCode::kNotFound, files_.path() + ": tensor " + name + " is missing");
    const size_t row_bytes = static_cast<size_t>(columns.size()) * value_bytes(type_);
    const auto step = static_cast<int64_t>(std::max<size_t>(1, kStagedBytes / row_bytes));
    if (row_bytes > kStagedBytes)
      return fail(ErrorCode::kInvalidArgument, files_.path() + ": tensor " + name +
                                                   " has rows of more than " +
                                                   std::to_string(kStagedBytes) + " bytes");
    const bool as_stored = info->type == (type_ == ValueType::kF32 ? "F32" : "BF16") &&
                           files_.stored_row(name, rows.begin) != nullptr;
    for (int64_t begin = rows.begin; begin < rows.end; begin += step) {
      const int64_t end = std::min(rows.end, begin + step);
      TAILOR_ASSIGN(std::byte * room, uploader_->room());
      if (as_stored) {
        const auto skipped = static_cast<size_t>(columns.begin) * value_bytes(type_);
        for (int64_t row = begin; row < end; ++row)
          std::memcpy(room + static_cast<size_t>(row - begin) * row_bytes,
                      files_.stored_row(name, row) + skipped, row_bytes);
      } else {
        TAILOR_TRY(convert(name, {begin, end}, columns, type_, room));
      }
      const size_t bytes = static_cast<size_t>(end - begin) * row_bytes;
      TAILOR_TRY(uploader_->send(to, bytes));
      to += bytes;
    }
    return {};
  }

  /// Values [range) of a stored vector, as `type`.
  Result<void> read_vector(const std::string& name, Range range, ValueType type, std::byte*& to) {
    if (uploader_ == nullptr) return {};
    const auto step = static_cast<int64_t>(kStagedBytes / value_bytes(type));
    for (int64_t begin = range.begin; begin < range.end; begin += step) {
      const Range piece{begin, std::min(range.end, begin + step)};
      const size_t bytes = static_cast<size_t>(piece.size()) * value_bytes(type);
      TAILOR_ASSIGN(std::byte * room, uploader_->room());
      TAILOR_TRY(convert(name, {0, 1}, piece, type, room));
      TAILOR_TRY(uploader_->send(to, bytes));
      to += bytes;
    }
    return {};
  }
  /// A whole F32 vector in a place of its own.
  Result<const float*> vector(const std::string& name, int64_t size) {
    std::byte* at = matrix(1, size, ValueType::kF32);
    const auto* out = reinterpret_cast<const float*>(at);
    TAILOR_TRY(read_vector(name, {0, size}, ValueType::kF32, at));
    return out;
  }

 private:
  /// Values as floats, or rounded; many rows by several threads.
  Result<void> convert(const std::string& name, Range rows, Range columns, ValueType type,
                       std::byte* to) {
    const int64_t wanted = rows.size() * columns.size() < kValuesForThreads ? 1 : threads_;
    const std::vector<Range> parts = split_evenly(rows.size(), std::min(wanted, rows.size()));
    std::vector<Result<void>> done(parts.size());
    std::vector<std::thread> others;
    const auto run = [&](size_t part) {
      done[part] = convert_rows(
          name, {rows.begin + parts[part].begin, rows.begin + parts[part].end}, columns, type,
          to + static_cast<size_t>(parts[part].begin * columns.size()) * value_bytes(type));
    };
    for (size_t part = 1; part < parts.size(); ++part) others.emplace_back(run, part);
    run(0);
    for (std::thread& other : others) other.join();
    for (Result<void>& part : done) TAILOR_TRY(std::move(part));
    return {};
  }
  Result<void> convert_rows(const std::string& name, Range rows, Range columns, ValueType type,
                            std::byte* to) const {
    const auto count = static_cast<size_t>(columns.size());
    if (type == ValueType::kF32)
      return files_.read(name, rows.begin, rows.end, columns.begin, columns.end,
                         {reinterpret_cast<float*>(to), count * static_cast<size_t>(rows.size())});
    std::vector<float> floats(count);
    auto* out = reinterpret_cast<uint16_t*>(to);
    for (int64_t row = rows.begin; row < rows.end; ++row, out += count) {
      TAILOR_TRY(files_.read(name, row, row + 1, columns.begin, columns.end, floats));
      std::transform(floats.begin(), floats.end(), out, to_bf16);
    }
    return {};
  }

  const weights::WeightFiles& files_;
  const ValueType type_;
  Places places_;
  Uploader* const uploader_;
  const int64_t threads_;
};

Range times(Range range, int64_t scale) { return {range.begin * scale, range.end * scale}; }

Result<void> read_attention(ShardReader& reader, const weights::ModelConfig& config,
                            const RankShard& shard, const std::string& prefix, ValueType type,
                            LayerWeights& layer) {
  const int64_t hidden = config.hidden_size, dim = config.head_dim;
  const Range q = times(shard.heads, dim), kv = times(shard.groups, dim);
  const int64_t rows = q.size() + 2 * kv.size();
  const std::pair<const char*, Range> parts[] = {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}};
  std::byte* at = reader.matrix(rows, hidden, type);
  layer.qkv = at;
  for (const auto& [name, range] : parts)
    TAILOR_TRY(reader.read(prefix + name + ".weight", range, {0, hidden}, at));
  if (config.attention_bias) {
    layer.qkv_bias = at = reader.matrix(1, rows, type);
    for (const auto& [name, range] : parts)
      TAILOR_TRY(reader.read_vector(prefix + name + ".bias", range, type, at));
    TAILOR_ASSIGN(layer.attention_out_bias, reader.vector(prefix + "o_proj.bias", hidden));
  }
  layer.attention_out = at = reader.matrix(hidden, q.size(), type);
  return reader.read(prefix + "o_proj.weight", {0, hidden}, q, at);
}

Result<void> read_mlp(ShardReader& reader, const weights::ModelConfig& config,
                      const RankShard& shard, const std::string& prefix, ValueType type,
                      LayerWeights& layer) {
  const int64_t hidden = config.hidden_size, columns = shard.columns.size();
  std::byte* at = reader.matrix(2 * columns, hidden, type);
  layer.gate_up = at;
  for (const char* name : {"gate_proj", "up_proj"})
    TAILOR_TRY(reader.read(prefix + name + ".weight", shard.columns, {0, hidden}, at));
  if (config.mlp_bias) {
    layer.gate_up_bias = at = reader.matrix(1, 2 * columns, type);
    for (const char* name : {"gate_proj", "up_proj"})
      TAILOR_TRY(reader.read_vector(prefix + name + ".bias", shard.columns, type, at));
    TAILOR_ASSIGN(layer.down_bias, reader.vector(prefix + "down_proj.bias", hidden));
  }
  layer.down = at = reader.matrix(hidden, columns, type);
  return reader.read(prefix + "down_proj.weight", {0, hidden}, shard.columns, at);
}

Result<void> read_shard(ShardReader& reader, const weights::WeightFiles& files,
                        const RankShard& shard, int64_t table_rows, ShardWeights& out) {
  const weights::ModelConfig& config = files.config();
  const int64_t hidden = config.hidden_size;
  const auto table = [&](const char* name) -> Result<const void*> {
    std::byte* at = reader.matrix(std::max(table_rows, shard.vocab.size()), hidden, out.type);
    const void* begin = at;
    TAILOR_TRY(reader.read(name, shard.vocab, {0, hidden}, at));
    return begin;
  };
  TAILOR_ASSIGN(out.embedding, table("model.embed_tokens.weight"));
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    LayerWeights& layer = out.layers.emplace_back();
    TAILOR_ASSIGN(layer.attention_norm, reader.vector(prefix + "input_layernorm.weight", hidden));
    TAILOR_ASSIGN(layer.mlp_norm,
                  reader.vector(prefix + "post_attention_layernorm.weight", hidden));
    TAILOR_TRY(read_attention(reader, config, shard, prefix + "self_attn.", out.type, layer));
    TAILOR_TRY(read_mlp(reader, config, shard, prefix + "mlp.", out.type, layer));
  }
  TAILOR_ASSIGN(out.final_norm, reader.vector("model.norm.weight", hidden));
  out.head = out.embedding;
  if (!has_tied_head(files)) {
    TAILOR_ASSIGN(out.head, table("lm_head.weight"));
  }
  return {};
}

}  // namespace

uint64_t shard_bytes(const weights::WeightFiles& files, const RankShard& shard,
                     const LoadOptions& options) {
  ShardReader counted(files, options.type, Places(nullptr), nullptr, 1);
  ShardWeights none;
  none.type = options.type;
  TAILOR_CHECK(read_shard(counted, files, shard, options.table_rows, none).has_value(),
               "to count reads nothing");
  return counted.used();
}

Result<ShardWeights> load_shard(Device& device, const weights::WeightFiles& files,
                                const RankShard& shard, const LoadOptions& options) {
  const uint64_t bytes = shard_bytes(files, shard, options);
  ShardWeights out;
  out.type = options.type;
  TAILOR_ASSIGN(out.memory, device.allocate(bytes));
  TAILOR_TRY(device.fill(device.stream(), out.memory.data(), 0, bytes));
  TAILOR_ASSIGN(Uploader uploader, Uploader::make(device, options, bytes));
  ShardReader reader(files, options.type, Places(out.memory.data()), &uploader, options.threads);
  Result<void> read = read_shard(reader, files, shard, options.table_rows, out);
  // What is on its way must arrive before its buffer goes.
  TAILOR_TRY(uploader.finish());
  TAILOR_TRY(std::move(read));
  if (options.on_progress) options.on_progress(1.0);
  return out;
}

}  // namespace tailor::parallel::gpu
