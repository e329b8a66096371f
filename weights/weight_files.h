// A model's weights on disk behind one face: a Hugging Face folder (safetensors, one file or a
// sharded index), a GGUF file, or random weights for a config alone. Memory-mapped: a rank touches
// only the rows and columns it asks for. Tensors go by their Hugging Face names
// ("model.layers.0.self_attn.q_proj.weight"), whatever the file calls them, in Hugging Face's
// layout (GGUF's permuted q and k rows are put back). Torch-free; owner: the loading thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "weights/content_hash.h"
#include "weights/model_config.h"

namespace tailor::weights {

struct TensorInfo {
  std::string name;            ///< Hugging Face name
  std::vector<int64_t> shape;  ///< row-major: [rows, cols] or [n]
  std::string type;            ///< "F32", "F16", "BF16", "Q4_1", ...
  uint64_t stored_bytes = 0;
};

/// A vocabulary and template as GGUF metadata carries them; handed to text/.
struct GgufVocabulary {
  std::string model;  ///< tokenizer.ggml.model: "gpt2" or "llama"
  std::string pre;    ///< tokenizer.ggml.pre: "smollm", "llama-bpe", "gpt-2", "qwen2", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;
  /// llama.cpp token types: 1 normal, 2 unknown, 3 control, 4 user, 5 unused, 6 byte
  std::vector<int32_t> types;
  std::vector<std::string> merges;
  TokenId bos = -1, eos = -1, unknown = -1;
  bool add_bos = false, add_eos = false, add_space_prefix = true;
  std::string chat_template;
};

class WeightFiles {
 public:
  /// Opens a folder or a .gguf file and checks that every tensor the architecture needs is there
  /// with the right shape, and that its layers hold no other. Errors: NotFound, InvalidArgument
  /// (architecture, shapes: names file, tensor, expected, found), DataLoss (truncated, damaged).
  static Result<std::unique_ptr<WeightFiles>> open(const std::string& path);

  /// Random weights (normal, scale 0.02, norms near 1) of the config in `path` (a folder or
  /// config.json), the same for the same seed whatever part of them is read.
  static Result<std::unique_ptr<WeightFiles>> dummy(const std::string& path, uint64_t seed);

  virtual ~WeightFiles() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const std::vector<TensorInfo>& tensors() const = 0;  ///< sorted by name
  virtual uint64_t total_stored_bytes() const = 0;
  /// "xxh3-" and 32 hexadecimal digits: a hash of the config, of every byte of the weight files
  /// (all shards) and of a folder's tokenizer.json. Replicas of one cluster compare it; packed
  /// weights, heads and length files are tied to a model by it (base/model_stamp.h). Cost: the
  /// first call of a host reads all files (content_hash.h), later ones look it up. Thread-safe.
  virtual const std::string& fingerprint(const HashProgress& on_progress = {}) const = 0;
  /// The fingerprint as it was before: of samples, 32 digits. For `tailor restamp` alone.
  virtual std::string sampled_fingerprint() const = 0;
  /// Whether the files are still those that were opened; what is read of files that are written to
  /// meanwhile is of no model. Cost: a look at each file, or its hash again where it was written
  /// within content_hash.h's kRestingTimeNs before. Errors: DataLoss (names the file).
  virtual Result<void> check_unchanged() const = 0;
  /// What a user should know of the files and is no error: tensors that are not used. A sentence
  /// each, with the file.
  virtual const std::vector<std::string>& remarks() const = 0;
  /// The vocabulary inside a GGUF file; null for a folder (its tokenizer.json is in `folder()`).
  virtual const GgufVocabulary* vocabulary() const = 0;
  virtual const std::string& path() const = 0;

  virtual const TensorInfo* find(const std::string& name) const = 0;

  /// Writes rows [row_begin, row_end) x columns [col_begin, col_end) of a 2-d tensor, dequantized
  /// to float, to `out` [rows, cols] row-major. A 1-d tensor of n values is read as one row. Cost:
  /// touches only those bytes (and whole quantization blocks). Thread-safe. Errors: NotFound,
  /// InvalidArgument (range), DataLoss.
  virtual Result<void> read(const std::string& name, int64_t row_begin, int64_t row_end,
                            int64_t col_begin, int64_t col_end, std::span<float> out) const = 0;

  /// The bytes of one row of a 2-d tensor as the file stores them, in the type its TensorInfo
  /// names; null where nothing is stored (random weights). `name` and `row` must exist.
  virtual const std::byte* stored_row(const std::string& name, int64_t row) const = 0;
};

}  // namespace tailor::weights
