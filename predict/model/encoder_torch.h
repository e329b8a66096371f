// EncoderNet: the layers of a sentence encoder in libtorch, float32, for inference and for
// fine-tuning the last layers. Only the sources of predict/model include this; everyone else uses
// encoder.h. Tensors: ids [batch, tokens] int64, mask [batch, tokens] bool (true = real token, the
// first token of every row is real) or undefined when there is no padding, hidden [batch, tokens,
// hidden_size]. May throw c10::Error (out of memory). Owner: one thread.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/request.h"
#include "base/result.h"
#include "predict/model/encoder_config.h"

namespace tailor::predict {

struct TokenBatch {
  at::Tensor ids;
  at::Tensor mask;  ///< undefined when all rows have the same length
};

/// Pads on the right with token 0, which the mask hides. `rows` is not empty and no row is.
TokenBatch pad_tokens(std::span<const std::vector<TokenId>> rows);

/// CLS, mean and maximum over the real tokens: [batch, 3 * hidden_size]. Differentiable.
at::Tensor pool(const at::Tensor& hidden, const at::Tensor& mask);

/// y = x W^T + b, and a layer norm; undefined where the model has none.
struct Affine {
  at::Tensor weight, bias;
};

struct EncoderLayer {
  Affine query, key, value, attention_output, attention_norm, up, down, output_norm;
  Affine position_key, position_query;  ///< DeBERTa without share_att_key
};

class EncoderNet {
 public:
  /// Reads a folder's safetensors. Tensors may carry the prefix "bert." or "deberta.", and layer
  /// norms the old names gamma and beta. Errors: as open_safetensors_folder; InvalidArgument (a
  /// tensor is missing or has another shape than the config says).
  static Result<std::shared_ptr<EncoderNet>> load(const std::string& folder);

  const EncoderConfig& config() const { return config_; }
  /// Tells encoders apart: hash of the tensors' names, shapes and sampled contents (32 hex digits).
  const std::string& fingerprint() const { return fingerprint_; }

  /// The input of layer 0.
  at::Tensor embed(const at::Tensor& ids, const at::Tensor& mask, bool training = false) const;
  /// Runs layers [first, last) on `hidden`, the input of layer `first`; last = -1 means to the end.
  /// With `training` the config's dropout is drawn from torch's global generator. To fine-tune the
  /// last K layers: embed and forward_from(0, .., L - K) under at::NoGradGuard (or keep that result
  /// per prompt), then forward_from(L - K) with gradients.
  at::Tensor forward_from(int64_t first, at::Tensor hidden, const at::Tensor& mask,
                          bool training = false, int64_t last = -1) const;

  /// The parameters of layers [first, end), by Hugging Face name without prefix; first = -1: those
  /// of the embeddings too. The tensors share storage with the net: set requires_grad on them, hand
  /// them to an optimizer, write them to a safetensors file that overlay() reads back.
  std::vector<std::pair<std::string, at::Tensor>> parameters(int64_t first) const;
  /// Copies the tensors of a safetensors file over those of the same name. Changes the fingerprint.
  /// Errors: NotFound, DataLoss; InvalidArgument (unknown name, other shape; nothing is changed).
  Result<void> overlay(const std::string& safetensors);
  /// After parameters were changed in place; the same as after an overlay() of those.
  void update_fingerprint();

 private:
  class Reader;

  /// Relative positions of one batch shape: the table, and its rows by (query, key) and (key,
  /// query), [tokens, tokens]. Undefined without relative attention.
  struct Relative {
    at::Tensor embedding, of_query, of_key;
  };

  at::Tensor attend(const EncoderLayer& layer, const at::Tensor& hidden, const at::Tensor& mask,
                    const Relative& relative, bool training) const;
  at::Tensor position_bias(const EncoderLayer& layer, const at::Tensor& query,
                           const at::Tensor& key, const Relative& relative) const;
  Relative relative(int64_t tokens) const;
  at::Tensor relative_distance(int64_t tokens) const;
  at::Tensor heads(const at::Tensor& projected) const;
  at::Tensor norm(const Affine& affine, const at::Tensor& x) const;

  EncoderConfig config_;
  at::Tensor word_embedding_, position_embedding_, type_embedding_, embedding_projection_;
  Affine embedding_norm_;
  at::Tensor relative_embedding_;  ///< [2 * relative_span, hidden_size]
  Affine relative_norm_;
  std::vector<EncoderLayer> layers_;
  std::vector<std::pair<std::string, at::Tensor>> named_;  ///< all of the above, in reading order
  std::string fingerprint_;
};

}  // namespace tailor::predict
