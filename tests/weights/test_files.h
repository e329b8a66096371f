// Files for the weight tests: a scratch folder, small model folders made on the spot, and a GGUF
// writer.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "weights/weight_files.h"

namespace tailor::weights {

inline std::string fixtures(const std::string& path) {
  return std::string(TAILOR_SOURCE_DIR "/tests/fixtures/") + path;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

/// Removes the file first: ext4 flushes a file that is truncated and written anew, which makes
/// thousands of rewrites slow.
inline void write_file(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A folder of its own, gone with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = ::testing::TempDir() + "/weights_XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

template <class T>
std::string raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// Builds a GGUF version 3 file in memory.
class GgufWriter {
 public:
  static std::string string(const std::string& s) { return raw(uint64_t{s.size()}) + s; }

  void text(const std::string& key, const std::string& value) { add(key, 8, string(value)); }
  void integer(const std::string& key, uint32_t value) { add(key, 4, raw(value)); }
  void real(const std::string& key, float value) { add(key, 6, raw(value)); }
  void integers(const std::string& key, const std::vector<int32_t>& values) {
    std::string bytes = raw(uint32_t{5}) + raw(uint64_t{values.size()});
    for (const int32_t value : values) bytes += raw(value);
    add(key, 9, bytes);
  }
  void strings(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = raw(uint32_t{8}) + raw(uint64_t{values.size()});
    for (const auto& value : values) bytes += string(value);
    add(key, 9, bytes);
  }
  /// `shape` row-major, as we write it everywhere else.
  void tensor(const std::string& name, const std::vector<int64_t>& shape, uint32_t type,
              const std::string& data) {
    directory_ += string(name) + raw(static_cast<uint32_t>(shape.size()));
    for (auto it = shape.rbegin(); it != shape.rend(); ++it)
      directory_ += raw(static_cast<uint64_t>(*it));
    directory_ += raw(type) + raw(uint64_t{data_.size()});
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
    ++tensors_;
  }
  std::string bytes() const {
    std::string head =
        "GGUF" + raw(uint32_t{3}) + raw(tensors_) + raw(entries_) + metadata_ + directory_;
    head.resize((head.size() + 31) / 32 * 32);
    return head + data_;
  }

 private:
  void add(const std::string& key, uint32_t type, const std::string& value) {
    metadata_ += string(key) + raw(type) + value;
    ++entries_;
  }
  uint64_t tensors_ = 0, entries_ = 0;
  std::string metadata_, directory_, data_;
};

inline std::vector<float> read_all(const WeightFiles& files, const std::string& name) {
  const TensorInfo* info = files.find(name);
  if (!info) {
    ADD_FAILURE() << name << " is not there";
    return {};
  }
  const int64_t rows = info->shape.size() == 2 ? info->shape[0] : 1, cols = info->shape.back();
  std::vector<float> out(static_cast<size_t>(rows * cols));
  auto read = files.read(name, 0, rows, 0, cols, out);
  EXPECT_TRUE(read.has_value()) << read.error().message;
  return out;
}

/// Puts q and k rows into GGUF's order, written as llama.cpp's converter thinks of it: [heads, 2,
/// half, cols] with the two middle axes swapped (the reader computes with row numbers instead).
inline std::vector<float> interleave_halves(const std::vector<float>& rows, int64_t heads,
                                            int64_t head_dim) {
  const int64_t half = head_dim / 2, cols = static_cast<int64_t>(rows.size()) / (heads * head_dim);
  std::vector<float> out;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < half; ++i) {
      for (int64_t side = 0; side < 2; ++side) {
        const auto from = rows.begin() + ((h * 2 + side) * half + i) * cols;
        out.insert(out.end(), from, from + cols);
      }
    }
  }
  return out;
}

/// How a matrix is stored: its GGUF type number and bytes, from its values.
using StoreMatrix =
    std::function<std::pair<uint32_t, std::string>(const std::vector<float>& values)>;
inline std::pair<uint32_t, std::string> store_f32(const std::vector<float>& values) {
  return {0, {reinterpret_cast<const char*>(values.data()), values.size() * 4}};
}

/// The model `files` as a GGUF file, its matrices as `store` says; the caller may add to it before
/// taking its bytes.
inline GgufWriter as_gguf(const WeightFiles& files, const StoreMatrix& store = store_f32) {
  const ModelConfig& c = files.config();
  GgufWriter out;
  const auto u32 = [](int64_t v) { return static_cast<uint32_t>(v); };
  out.text("general.architecture", "llama");
  out.integer("llama.embedding_length", u32(c.hidden_size));
  out.integer("llama.feed_forward_length", u32(c.intermediate_size));
  out.integer("llama.block_count", u32(c.num_layers));
  out.integer("llama.attention.head_count", u32(c.num_heads));
  out.integer("llama.attention.head_count_kv", u32(c.num_kv_heads));
  out.integer("llama.attention.key_length", u32(c.head_dim));
  out.integer("llama.attention.value_length", u32(c.head_dim));
  out.integer("llama.rope.dimension_count", u32(c.head_dim));
  out.integer("llama.context_length", u32(c.max_position));
  out.real("llama.attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  out.real("llama.rope.freq_base", c.rope_theta);
  const std::pair<const char*, const char*> parts[] = {{"model.embed_tokens", "token_embd"},
                                                       {"model.norm", "output_norm"},
                                                       {"lm_head", "output"},
                                                       {"model.layers.", "blk."},
                                                       {"input_layernorm", "attn_norm"},
                                                       {"post_attention_layernorm", "ffn_norm"},
                                                       {"self_attn.q_proj", "attn_q"},
                                                       {"self_attn.k_proj", "attn_k"},
                                                       {"self_attn.v_proj", "attn_v"},
                                                       {"self_attn.o_proj", "attn_output"},
                                                       {"mlp.gate_proj", "ffn_gate"},
                                                       {"mlp.up_proj", "ffn_up"},
                                                       {"mlp.down_proj", "ffn_down"}};
  for (const TensorInfo& info : files.tensors()) {
    std::string name = info.name;
    for (const auto& [hf, gguf] : parts) {
      if (const auto at = name.find(hf); at != std::string::npos)
        name.replace(at, std::strlen(hf), gguf);
    }
    std::vector<float> values = read_all(files, info.name);
    if (info.name.find("q_proj") != std::string::npos)
      values = interleave_halves(values, c.num_heads, c.head_dim);
    if (info.name.find("k_proj") != std::string::npos)
      values = interleave_halves(values, c.num_kv_heads, c.head_dim);
    const auto [type, bytes] = info.shape.size() == 2 ? store(values) : store_f32(values);
    out.tensor(name, info.shape, type, bytes);
  }
  return out;
}

inline const char* kTinyConfig =
    R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 12,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
  "attention_bias": true})";

/// A folder's model.safetensors in F32 with the values of `files`.
inline std::string as_safetensors(const WeightFiles& files) {
  std::string header = "{", data;
  for (const TensorInfo& info : files.tensors()) {
    const std::vector<float> values = read_all(files, info.name);
    std::string shape;
    for (int64_t size : info.shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * 4);
    header += (header.size() > 1 ? "," : "") + ("\"" + info.name) +
              "\":{\"dtype\":\"F32\",\"shape\":[" + shape + "],\"data_offsets\":[" +
              std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  return raw(uint64_t{header.size()}) + header + data;
}

}  // namespace tailor::weights
