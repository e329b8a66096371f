// Encoder: prompts to feature vectors, by a sentence encoder of the BERT or DeBERTa-v3 kind that a
// Hugging Face folder holds (config.json, tokenizer.json, model.safetensors). Features are the last
// layer's CLS vector, mean and maximum over the real tokens, side by side; the same as
// `transformers` within 1e-4, and within 1e-5 whatever else is in the batch. Owner: one thread.
// Cost, all-MiniLM-L6-v2, one thread of a Zen 4 core: 3,200 tokens/s, that is 245 prompts/s of 14
// tokens or 31 of 99; a prompt of 14 tokens alone 9 ms. tests/predict/encoder_speed.cc measures it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/request.h"
#include "base/result.h"

namespace tailor::text {
class Tokenizer;
}

namespace tailor::predict {

class EncoderNet;  // predict/model/encoder_torch.h

class Encoder {
 public:
  static constexpr int kMaxTokens = 512;

  /// `threads`: libtorch's math threads of this whole process; 0 leaves them as they are. Take 1
  /// where others use the cores: the threads wait spinning (245 prompts/s with one, 22 to 75 with
  /// two beside two busy compilers; 375 with two on nearly quiet cores).
  /// `max_tokens`: at most so many of a prompt, special tokens included; fewer where the model's
  /// position table is smaller. Errors: NotFound, DataLoss, InvalidArgument (config option, tensor
  /// or tokenizer that does not fit: names it).
  static Result<std::unique_ptr<Encoder>> load(const std::string& hf_folder, int threads,
                                               int max_tokens = kMaxTokens);
  ~Encoder();

  int feature_size() const;  ///< 3 * hidden size
  int max_tokens() const { return max_tokens_; }
  const std::string& name() const { return name_; }  ///< the folder's own name, e.g. "minilm"
  /// Hash of the weights: features kept on disk, and heads, belong to one.
  const std::string& fingerprint() const;

  /// prompts [n] -> features [n, feature_size()], row-major, in the prompts' order. Any bytes are
  /// welcome: invalid UTF-8 reads as U+FFFD, characters outside the vocabulary as its unknown
  /// token, an empty prompt as its special tokens alone; longer prompts are truncated. Errors:
  /// DeviceFailure (libtorch, out of memory).
  Result<std::vector<float>> encode(std::span<const std::string> prompts) const;

  /// Token ids of one prompt, [CLS] first and [SEP] last, at most max_tokens(). Looks at no more of
  /// the text than 64 bytes for each of max_tokens().
  Result<std::vector<TokenId>> tokenize(std::string_view prompt) const;

  /// For fine-tuning (sources of predict/model only).
  const std::shared_ptr<EncoderNet>& net() const { return net_; }

 private:
  Encoder() = default;
  Result<void> load_tokenizer(const std::string& path);
  Result<void> encode_sorted(std::span<const std::vector<TokenId>> rows,
                             std::span<const size_t> order, std::span<float> out) const;

  std::shared_ptr<EncoderNet> net_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::string name_;
  TokenId cls_ = -1, sep_ = -1;
  int max_tokens_ = kMaxTokens;
};

}  // namespace tailor::predict
