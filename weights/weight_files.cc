#include "weights/weight_files.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>

#include "base/check.h"
#include "base/clock.h"
#include "base/model_stamp.h"
#include "weights/config_json.h"
#include "weights/gguf_file.h"
#include "weights/mix.h"
#include "weights/safetensors_file.h"
#include "weights/tensor_map.h"

namespace tailor::weights {
namespace {

namespace fs = std::filesystem;

// Where a tensor's values come from: a file, or (data null, random_key set) the counter-based
// generator.
struct Source {
  StoredTensor stored;
  int64_t permuted_head_rows = 0;
  uint64_t random_key = 0;
  float random_center = 0.0f;
};

// Values [begin, end) of the random tensor `key`, each a pure function of (key, index). The sum of
// four uniform 16-bit numbers is close enough to normal for speed runs, and has no far outliers.
void random_values(uint64_t key, float center, int64_t begin, int64_t end, float* out) {
  constexpr float kScale = 0.02f / 37837.2f;  // 37837.2 = standard deviation of the sum
  for (int64_t i = begin; i < end; ++i) {
    const uint64_t bits = mix64(key + static_cast<uint64_t>(i));
    const int sum = static_cast<int>((bits & 0xFFFF) + (bits >> 16 & 0xFFFF) +
                                     (bits >> 32 & 0xFFFF) + (bits >> 48));
    *out++ = center + kScale * static_cast<float>(sum - 131070);
  }
}

class IndexedWeights : public WeightFiles {
 public:
  const ModelConfig& config() const override { return config_; }
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  uint64_t total_stored_bytes() const override { return total_stored_bytes_; }
  const std::string& fingerprint(const HashProgress& on_progress) const override {
    std::call_once(hashed_, [&] { fingerprint_ = hash_all(on_progress); });
    return fingerprint_;
  }
  std::string sampled_fingerprint() const override;
  const std::vector<std::string>& remarks() const override { return remarks_; }
  Result<void> check_unchanged() const override;
  const GgufVocabulary* vocabulary() const override {
    return vocabulary_ ? &*vocabulary_ : nullptr;
  }
  const std::string& path() const override { return path_; }

  const TensorInfo* find(const std::string& name) const override {
    const bool tied_head = config_.tie_embeddings && name == "lm_head.weight";
    const std::string& wanted = tied_head ? kEmbedding : name;
    const auto it = std::lower_bound(
        infos_.begin(), infos_.end(), wanted,
        [](const TensorInfo& info, const std::string& n) { return info.name < n; });
    return it != infos_.end() && it->name == wanted ? &*it : nullptr;
  }

  Result<void> read(const std::string& name, int64_t row_begin, int64_t row_end, int64_t col_begin,
                    int64_t col_end, std::span<float> out) const override {
    const TensorInfo* info = find(name);
    if (!info)
      return fail(ErrorCode::kNotFound, path_ + ": tensor " + printable(name) + " is not there");
    const bool two = info->shape.size() == 2;
    const int64_t rows = two ? info->shape[0] : 1, cols = two ? info->shape[1] : info->shape[0];
    const bool inside = 0 <= row_begin && row_begin <= row_end && row_end <= rows &&
                        0 <= col_begin && col_begin <= col_end && col_end <= cols;
    if (!inside ||
        out.size() != static_cast<uint64_t>((row_end - row_begin) * (col_end - col_begin))) {
      return fail(ErrorCode::kInvalidArgument,
                  path_ + ": tensor " + name + " of shape " + shape_string(info->shape) +
                      ": asked for rows " + std::to_string(row_begin) + " to " +
                      std::to_string(row_end) + ", columns " + std::to_string(col_begin) + " to " +
                      std::to_string(col_end) + " into " + std::to_string(out.size()) + " floats");
    }
    const Source& source = sources_[static_cast<size_t>(info - infos_.data())];
    float* to = out.data();
    for (int64_t row = row_begin; row < row_end; ++row, to += col_end - col_begin) {
      read_row(source, two, row, cols, col_begin, col_end, to);
    }
    return {};
  }

  const std::byte* stored_row(const std::string& name, int64_t row) const override {
    const TensorInfo* info = find(name);
    TAILOR_CHECK(info != nullptr && info->shape.size() == 2 && row >= 0 && row < info->shape[0],
                 "a stored row is asked for by a name and a number that exist");
    const Source& source = sources_[static_cast<size_t>(info - infos_.data())];
    return source.stored.data ? row_data(source, row, info->shape[1]) : nullptr;
  }

 private:
  friend class WeightsBuilder;
  static const std::string kEmbedding;

  static const std::byte* row_data(const Source& source, int64_t row, int64_t cols) {
    if (source.permuted_head_rows) row = gguf_row(row, source.permuted_head_rows);
    return source.stored.data +
           static_cast<uint64_t>(row) * row_bytes(source.stored.type, static_cast<uint64_t>(cols));
  }

  static void read_row(const Source& source, bool two, int64_t row, int64_t cols, int64_t begin,
                       int64_t end, float* to) {
    if (!source.stored.data) {
      return random_values(source.random_key, source.random_center, row * cols + begin,
                           row * cols + end, to);
    }
    const StoredTensor& stored = source.stored;
    if (source.permuted_head_rows && !two) {  // a bias: its values are what the weight's rows are
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = gguf_row(i, source.permuted_head_rows);
        dequantize_row(stored.type, stored.data, at, at + 1, to++);
      }
      return;
    }
    dequantize_row(stored.type, row_data(source, row, cols), begin, end, to);
  }

  std::string hash_all(const HashProgress& on_progress) const;

  // All constant after construction.
  std::string path_;
  ModelConfig config_;
  std::vector<TensorInfo> infos_;  // sorted by name
  std::vector<Source> sources_;    // same order
  uint64_t total_stored_bytes_ = 0;
  uint64_t seed_ = 0;  // of random weights
  std::vector<std::string> remarks_;
  std::optional<GgufVocabulary> vocabulary_;
  std::vector<std::shared_ptr<const MappedFile>> files_;  // what the sources point into
  std::shared_ptr<const MappedFile> tokenizer_;           // a folder's tokenizer.json; may be null
  // Made by the first who asks.
  mutable std::once_flag hashed_;
  mutable std::string fingerprint_;
  mutable std::vector<std::string> file_hashes_;  // of files_
  mutable int64_t hashed_at_ns_ = 0;              // wall clock, before they were
};
const std::string IndexedWeights::kEmbedding = "model.embed_tokens.weight";

// Never changed, as files carry what it gave; a field that a config gets later is added where it is
// set, behind these.
void hash_config(const ModelConfig& c, Hasher& hash) {
  for (int64_t v : {c.hidden_size, c.intermediate_size, c.num_layers, c.num_heads, c.num_kv_heads,
                    c.head_dim, c.vocab_size, c.max_position, c.rope_original_max_position,
                    static_cast<int64_t>(c.rope_scaling), static_cast<int64_t>(c.tie_embeddings),
                    static_cast<int64_t>(c.attention_bias), static_cast<int64_t>(c.mlp_bias)}) {
    hash.add(static_cast<uint64_t>(v));
  }
  for (float v : {c.rms_norm_eps, c.rope_theta, c.rope_factor, c.rope_low_freq_factor,
                  c.rope_high_freq_factor}) {
    hash.add(std::bit_cast<uint32_t>(v));
  }
  for (float v : c.rope_frequency_factors) hash.add(std::bit_cast<uint32_t>(v));
}

// The order of the files and of the tensors in them is part of the hash; their names are not.
std::string IndexedWeights::hash_all(const HashProgress& on_progress) const {
  Hasher config;
  hash_config(config_, config);
  std::string text = "tailor-model-1 " + config.hex() + " " + std::to_string(seed_) + "\n";
  for (size_t i = 0; i < infos_.size(); ++i) {
    text += infos_[i].name + " " + infos_[i].type + " " + shape_string(infos_[i].shape);
    for (size_t f = 0; f < files_.size(); ++f) {
      const auto bytes = files_[f]->bytes();
      const std::byte* data = sources_[i].stored.data;
      if (data < bytes.data() || data >= bytes.data() + bytes.size()) continue;
      text += " " + std::to_string(f) + " " + std::to_string(data - bytes.data());
    }
    text += "\n";
  }
  hashed_at_ns_ = wall_clock_ms() * 1'000'000;
  uint64_t all = 0, done = 0;
  for (const auto& file : files_) all += file->bytes().size();
  for (const auto& file : files_) {
    const uint64_t size = file->bytes().size();
    file_hashes_.push_back(file_hash(*file, size, [&](double part) {
      if (on_progress)
        on_progress((static_cast<double>(done) + part * static_cast<double>(size)) /
                    static_cast<double>(all));
    }));
    done += size;
    text += file_hashes_.back() + "\n";
  }
  if (tokenizer_) text += file_hash(*tokenizer_, tokenizer_->bytes().size()) + "\n";
  return std::string(kStampPrefix) + content_hash(std::as_bytes(std::span(text)));
}

Result<void> IndexedWeights::check_unchanged() const {
  fingerprint({});
  for (size_t i = 0; i < files_.size(); ++i) {
    const MappedFile& file = *files_[i];
    const bool same = file.is_unchanged() && (had_rested(file.identity(), hashed_at_ns_) ||
                                              content_hash(file.bytes()) == file_hashes_[i]);
    if (!same)
      return fail(ErrorCode::kDataLoss,
                  file.path() + " was changed while it was read: start again when it is whole");
  }
  return {};
}

// Reads at most four windows of 64 bytes of each tensor. Never changed: files carry what it gave.
std::string IndexedWeights::sampled_fingerprint() const {
  Hasher hash;
  if (files_.empty()) hash.add(seed_);
  hash_config(config_, hash);
  for (size_t i = 0; i < infos_.size(); ++i) {
    const TensorInfo& info = infos_[i];
    hash.add(info.name);
    hash.add(info.type);
    hash.add(info.stored_bytes);
    const StoredTensor& stored = sources_[i].stored;
    if (!stored.data) continue;
    const auto* bytes = reinterpret_cast<const char*>(stored.data);
    for (uint64_t window = 0; window < 4; ++window) {
      const uint64_t at = stored.bytes / 4 * window;
      hash.add(std::string_view(bytes + at, std::min<uint64_t>(64, stored.bytes - at)));
    }
  }
  return hash.hex();
}

std::optional<GgufVocabulary> read_vocabulary(const GgufFile& file) {
  const auto text = [&](const char* key) {
    const auto* value = file.find<std::string>(key);
    return value ? *value : std::string();
  };
  const auto token = [&](const char* key) {
    const auto* value = file.find<int64_t>(key);
    return value && *value >= 0 && *value <= INT32_MAX ? static_cast<TokenId>(*value) : TokenId{-1};
  };
  const auto* tokens = file.find<std::vector<std::string>>("tokenizer.ggml.tokens");
  if (!tokens) return std::nullopt;
  GgufVocabulary out;
  out.model = text("tokenizer.ggml.model");
  out.pre = text("tokenizer.ggml.pre");
  out.tokens = *tokens;
  if (const auto* scores = file.find<std::vector<double>>("tokenizer.ggml.scores")) {
    out.scores.assign(scores->begin(), scores->end());
  }
  if (const auto* types = file.find<std::vector<int64_t>>("tokenizer.ggml.token_type")) {
    constexpr int32_t kNoType = 0;  // a number that no kind of token has stays one
    for (const int64_t type : *types)
      out.types.push_back(type >= 0 && type <= INT32_MAX ? static_cast<int32_t>(type) : kNoType);
  }
  if (const auto* merges = file.find<std::vector<std::string>>("tokenizer.ggml.merges"))
    out.merges = *merges;
  out.bos = token("tokenizer.ggml.bos_token_id");
  out.eos = token("tokenizer.ggml.eos_token_id");
  out.unknown = token("tokenizer.ggml.unknown_token_id");
  // Where a file is silent, what llama.cpp takes for that kind of vocabulary.
  const bool pieces = out.model == "llama";
  const auto flag = [&](const char* key, bool otherwise) {
    const auto* value = file.find<bool>(key);
    return value ? *value : otherwise;
  };
  out.add_bos =
      flag("tokenizer.ggml.add_bos_token", pieces || out.pre == "llama-bpe" || out.pre == "llama3");
  out.add_eos = flag("tokenizer.ggml.add_eos_token", false);
  out.add_space_prefix = flag("tokenizer.ggml.add_space_prefix", pieces);
  out.chat_template = text("tokenizer.chat_template");
  return out;
}

// Fills an IndexedWeights from one of the three kinds of source.
class WeightsBuilder {
 public:
  using Opened = Result<std::unique_ptr<WeightFiles>>;

  explicit WeightsBuilder(const std::string& path) { out_->path_ = path; }

  Opened from_gguf() {
    TAILOR_ASSIGN(GgufFile file, GgufFile::open(out_->path_));
    TAILOR_ASSIGN(out_->config_, config_from_gguf(file));
    std::map<std::string, const StoredTensor*> by_name;
    for (const StoredTensor& tensor : file.tensors()) by_name.emplace(tensor.name, &tensor);
    for (const NeededTensor& needed : needed_tensors(out_->config_)) {
      const auto it = by_name.find(needed.gguf_name);
      TAILOR_TRY(add(needed, needed.gguf_name, it == by_name.end() ? nullptr : it->second,
                     needed.permuted_head_rows));
      by_name.erase(needed.gguf_name);
    }
    by_name.erase("rope_freqs.weight");  // part of the config
    TAILOR_TRY(check_unused(by_name, "blk."));
    if (const uint64_t bytes = file.trailing_bytes()) {
      out_->remarks_.push_back(out_->path_ + ": " + std::to_string(bytes) +
                               " bytes behind the last tensor are not used");
    }
    out_->vocabulary_ = read_vocabulary(file);
    out_->files_.push_back(file.file());
    return finish();
  }

  Opened from_folder(const std::string& folder) {
    TAILOR_ASSIGN(out_->config_, config_from_json(folder + "/config.json"));
    TAILOR_ASSIGN(const auto files, open_safetensors_folder(folder, &out_->remarks_));
    std::map<std::string, const StoredTensor*> by_name;
    std::map<std::string, std::string> unreadable;
    for (const SafetensorsFile& file : files) {
      for (const StoredTensor& tensor : file.tensors()) by_name.emplace(tensor.name, &tensor);
      for (const auto& tensor : file.unreadable()) unreadable.emplace(tensor.name, tensor.dtype);
      out_->files_.push_back(file.file());
    }
    for (const NeededTensor& needed : needed_tensors(out_->config_)) {
      if (const auto it = unreadable.find(needed.name); it != unreadable.end()) {
        return fail(ErrorCode::kInvalidArgument, out_->path_ + ": tensor " + needed.name +
                                                     ": expected type F32, F16 or BF16, found " +
                                                     it->second);
      }
      const auto it = by_name.find(needed.name);
      TAILOR_TRY(add(needed, needed.name, it == by_name.end() ? nullptr : it->second, 0));
      by_name.erase(needed.name);
    }
    for (const auto& [name, dtype] : unreadable) by_name.emplace(name, nullptr);
    if (const auto head = by_name.find("lm_head.weight"); head != by_name.end()) {
      const StoredTensor& embedding = out_->sources_[embedding_at()].stored;
      const StoredTensor* stored = head->second;
      if (stored && stored->bytes == embedding.bytes && stored->type == embedding.type &&
          std::memcmp(stored->data, embedding.data, embedding.bytes) == 0)
        by_name.erase(head);  // a tied head that was written out
    }
    TAILOR_TRY(check_unused(by_name, "model.layers."));
    if (auto tokenizer = MappedFile::open(folder + "/tokenizer.json"))
      out_->tokenizer_ = std::move(*tokenizer);
    return finish();
  }

  Opened random(ModelConfig config, std::optional<GgufVocabulary> vocabulary, uint64_t seed) {
    out_->config_ = std::move(config);
    out_->vocabulary_ = std::move(vocabulary);
    out_->seed_ = seed;
    for (const NeededTensor& needed : needed_tensors(out_->config_)) {
      Hasher key;
      key.add(seed);
      key.add(needed.name);
      const bool norm = needed.name.ends_with("norm.weight");
      out_->sources_.push_back({{}, 0, key.value(), norm ? 1.0f : 0.0f});
      out_->infos_.push_back({needed.name, needed.shape, "random", 0});
    }
    return finish();
  }

 private:
  Result<void> add(const NeededTensor& needed, const std::string& stored_name,
                   const StoredTensor* stored, int64_t permuted_head_rows) {
    const std::string what = out_->path_ + ": tensor " + stored_name;
    if (!stored) {
      return fail(ErrorCode::kInvalidArgument,
                  what + " is missing: expected shape " + shape_string(needed.shape));
    }
    if (stored->shape != needed.shape) {
      return fail(ErrorCode::kInvalidArgument,
                  what + ": expected shape " + shape_string(needed.shape) +
                      " from the config, found " + shape_string(stored->shape));
    }
    out_->total_stored_bytes_ += stored->bytes;
    out_->infos_.push_back(
        {needed.name, needed.shape, std::string(to_string(stored->type)), stored->bytes});
    out_->sources_.push_back({*stored, permuted_head_rows});
    return {};
  }

  size_t embedding_at() const {
    return static_cast<size_t>(out_->find(IndexedWeights::kEmbedding) - out_->infos_.data());
  }

  /// `unused`: the file's names of tensors that nothing asked for. In a layer that is computed such
  /// a tensor (a bias, a norm of another architecture) would change the answers: an error.
  Result<void> check_unused(const std::map<std::string, const StoredTensor*>& unused,
                            const std::string& layers) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : unused) {
      // Tables that follow from the config, and that older converters wrote out.
      if (name.ends_with("rotary_emb.inv_freq") || name.ends_with("attn_rot_embd")) continue;
      int64_t layer = -1;
      if (name.starts_with(layers))
        std::from_chars(name.data() + layers.size(), name.data() + name.size(), layer);
      if (layer >= 0 && layer < out_->config_.num_layers) {
        return fail(ErrorCode::kInvalidArgument,
                    out_->path_ + ": tensor " + printable(name) +
                        " has no place in a layer of this architecture (biases are read where the "
                        "config has attention_bias or mlp_bias)");
      }
      names.push_back(name);
    }
    if (!names.empty())
      out_->remarks_.push_back(out_->path_ + ": " + some_names(names) +
                               (names.size() == 1 ? " is" : " are") +
                               " not used: the model needs no such tensor");
    return {};
  }

  Opened finish() { return std::unique_ptr<WeightFiles>(std::move(out_)); }

  std::unique_ptr<IndexedWeights> out_ = std::make_unique<IndexedWeights>();
};

Result<std::unique_ptr<WeightFiles>> open_path(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return fail(ErrorCode::kNotFound, "no model at " + path);
  if (!fs::is_directory(path, ignored)) {
    const fs::path file(path);
    if (file.extension() == ".safetensors" || file.extension() == ".json") {
      return fail(
          ErrorCode::kInvalidArgument,
          path +
              ": expected the folder that holds config.json and the weights, found one file of it");
    }
    return WeightsBuilder(path).from_gguf();
  }
  if (fs::exists(path + "/config.json", ignored)) return WeightsBuilder(path).from_folder(path);
  std::vector<std::string> gguf_files;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".gguf") gguf_files.push_back(entry.path().string());
  }
  if (gguf_files.size() == 1) return WeightsBuilder(gguf_files.front()).from_gguf();
  return fail(ErrorCode::kNotFound,
              path + ": expected config.json or one .gguf file, found neither config.json nor " +
                  (gguf_files.empty() ? "a .gguf file"
                                      : "a single .gguf file (name one of the " +
                                            std::to_string(gguf_files.size()) + ")"));
}

Result<std::unique_ptr<WeightFiles>> dummy_path(const std::string& path, uint64_t seed) {
  if (path.ends_with(".gguf")) {
    TAILOR_ASSIGN(const GgufFile file, GgufFile::open(path));
    TAILOR_ASSIGN(ModelConfig config, config_from_gguf(file));
    return WeightsBuilder(path).random(std::move(config), read_vocabulary(file), seed);
  }
  std::error_code ignored;
  const bool folder = fs::is_directory(path, ignored);
  TAILOR_ASSIGN(ModelConfig config, config_from_json(folder ? path + "/config.json" : path));
  return WeightsBuilder(path).random(std::move(config), std::nullopt, seed);
}

// The door: what std throws (out of memory, file system) becomes an error that names the path.
template <class Open>
Result<std::unique_ptr<WeightFiles>> guarded(const std::string& path, Open open) {
  try {
    return open();
  } catch (const std::exception& e) {
    return fail(ErrorCode::kInternal, "opening " + path + " failed: " + e.what());
  }
}

}  // namespace

Result<std::unique_ptr<WeightFiles>> WeightFiles::open(const std::string& path) {
  return guarded(path, [&] { return open_path(path); });
}

Result<std::unique_ptr<WeightFiles>> WeightFiles::dummy(const std::string& path, uint64_t seed) {
  return guarded(path, [&] { return dummy_path(path, seed); });
}

}  // namespace tailor::weights
