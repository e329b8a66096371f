// A small random Llama as a GGUF file in any weight format, made of random quantization blocks with
// sane scales: 12 heads in 3 KV groups, so that it splits over 3 ranks, and sizes that are
// multiples of 256 for the K-quants; a vocabulary that no tile or rank divides.
#pragma once

#include <random>

#include "tests/weights/test_files.h"
#include "weights/dequantize.h"

namespace tailor::weights {

inline constexpr int64_t kRandomVocab = 331;

struct RandomFormat {
  const char* name;
  std::vector<uint32_t> ggml_types;  ///< taken in turn by the matrices
};
inline const std::vector<RandomFormat>& random_formats() {
  static const std::vector<RandomFormat> formats = {
      {"F32", {0}},   {"F16", {1}},   {"BF16", {30}}, {"Q4_0", {2}},
      {"Q4_1", {3}},  {"Q5_0", {6}},  {"Q5_1", {7}},  {"Q8_0", {8}},
      {"Q4_K", {12}}, {"Q5_K", {13}}, {"Q6_K", {14}}, {"mixed", {12, 1, 8, 3, 14, 0, 2, 30}}};
  return formats;
}

class RandomBlocks {
 public:
  explicit RandomBlocks(uint32_t seed) : random_(seed) {}

  /// `values` numbers of type `type`, about 0.05 large.
  std::string matrix(DataType type, int64_t values) {
    std::string out;
    const int64_t blocks = values / block_values(type), size = block_bytes(type);
    for (int64_t b = 0; b < blocks; ++b) {
      std::string block;
      while (static_cast<int64_t>(block.size()) < size) block += static_cast<char>(random_());
      switch (type) {
        case DataType::kF32: {
          const float value = std::normal_distribution<float>(0, 0.05f)(random_);
          block = raw(value);
          break;
        }
        case DataType::kF16:
          put(block, 0, -5, true);
          break;
        case DataType::kBF16: {
          const float value = std::normal_distribution<float>(0, 0.05f)(random_);
          block = raw(value).substr(2);
          break;
        }
        case DataType::kQ4_0:
        case DataType::kQ5_0:
        case DataType::kQ8_0:
          put(block, 0, type == DataType::kQ8_0 ? -10 : -7);
          break;
        case DataType::kQ4_1:
        case DataType::kQ5_1:
          put(block, 0, -7);
          put(block, 2, -4);
          block[3] = static_cast<char>(block[3] | 0x80);  // minima are negative
          break;
        case DataType::kQ4_K:
        case DataType::kQ5_K:
          put(block, 0, -13);
          put(block, 2, -10);
          break;
        case DataType::kQ6_K:
          put(block, 208, -15);
          break;
      }
      out += block;
    }
    return out;
  }
  std::string norm(int64_t values) {
    std::string out;
    for (int64_t i = 0; i < values; ++i)
      out += raw(std::uniform_real_distribution<float>(0.5f, 1.5f)(random_));
    return out;
  }

 private:
  /// A half between 2^exponent and 2^(exponent + 1) at byte `at`.
  void put(std::string& block, size_t at, int exponent, bool any_sign = false) {
    const auto bits = static_cast<uint16_t>((exponent + 15) << 10 | (random_() & 0x3FF) |
                                            (any_sign ? random_() & 0x8000 : 0));
    block.replace(at, 2, raw(bits));
  }
  std::mt19937 random_;
};

/// The bytes of the file.
inline std::string random_gguf(const RandomFormat& format, uint32_t seed = 7) {
  constexpr int64_t kHidden = 256, kIntermediate = 768, kLayers = 2, kHeads = 12, kGroups = 3,
                    kDim = 64;
  GgufWriter out;
  out.text("general.architecture", "llama");
  out.integer("llama.embedding_length", kHidden);
  out.integer("llama.feed_forward_length", kIntermediate);
  out.integer("llama.block_count", kLayers);
  out.integer("llama.attention.head_count", kHeads);
  out.integer("llama.attention.head_count_kv", kGroups);
  out.integer("llama.attention.key_length", kDim);
  out.integer("llama.attention.value_length", kDim);
  out.integer("llama.rope.dimension_count", kDim);
  out.integer("llama.context_length", 512);
  out.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  out.real("llama.rope.freq_base", 10000.0f);
  RandomBlocks blocks(seed);
  size_t turn = 0;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    const uint32_t number = format.ggml_types[turn++ % format.ggml_types.size()];
    out.tensor(name, {rows, cols}, number, blocks.matrix(*type_of_ggml(number), rows * cols));
  };
  const auto norm = [&](const std::string& name) {
    out.tensor(name, {kHidden}, 0, blocks.norm(kHidden));
  };
  matrix("token_embd.weight", kRandomVocab, kHidden);
  norm("output_norm.weight");
  matrix("output.weight", kRandomVocab, kHidden);
  for (int64_t l = 0; l < kLayers; ++l) {
    const std::string prefix = "blk." + std::to_string(l) + ".";
    norm(prefix + "attn_norm.weight");
    norm(prefix + "ffn_norm.weight");
    matrix(prefix + "attn_q.weight", kHeads * kDim, kHidden);
    matrix(prefix + "attn_k.weight", kGroups * kDim, kHidden);
    matrix(prefix + "attn_v.weight", kGroups * kDim, kHidden);
    matrix(prefix + "attn_output.weight", kHidden, kHeads * kDim);
    matrix(prefix + "ffn_gate.weight", kIntermediate, kHidden);
    matrix(prefix + "ffn_up.weight", kIntermediate, kHidden);
    matrix(prefix + "ffn_down.weight", kHidden, kIntermediate);
  }
  return out.bytes();
}

inline std::unique_ptr<WeightFiles> open_random(const ScratchFolder& folder,
                                                const RandomFormat& format) {
  const std::string path = folder / (std::string(format.name) + ".gguf");
  write_file(path, random_gguf(format));
  auto files = WeightFiles::open(path);
  EXPECT_TRUE(files.has_value()) << to_string(files.error());
  return files ? std::move(*files) : nullptr;
}

}  // namespace tailor::weights
