// What a sentence encoder is, read from a Hugging Face config.json: BERT (also MiniLM and what else
// has model_type "bert") or DeBERTa-v2/v3. What we do not compute is refused at load, by name.
// Sources: BERT arXiv 1810.04805, DeBERTa arXiv 2006.03654, DeBERTaV3 arXiv 2111.09543; field names
// and defaults as in `transformers`.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace tailor::predict {

enum class EncoderKind { kBert, kDebertaV2 };
enum class Activation { kGelu, kGeluTanh, kRelu };

struct EncoderConfig {
  EncoderKind kind = EncoderKind::kBert;
  Activation activation = Activation::kGelu;
  int64_t hidden_size = 0, embedding_size = 0, intermediate_size = 0;
  int64_t num_layers = 0, num_heads = 0, head_dim = 0;
  int64_t vocab_size = 0, type_vocab_size = 0;
  int64_t max_position = 0;
  double layer_norm_eps = 1e-12;
  double dropout = 0.1;            ///< of hidden states, in training only
  double attention_dropout = 0.1;  ///< of attention weights, in training only
  bool absolute_positions = true;  ///< a position embedding is added to the input

  // DeBERTa only: attention between content and relative position.
  bool relative_attention = false;
  bool content_to_position = false, position_to_content = false;  ///< pos_att_type c2p, p2c
  bool share_att_key = false;       ///< positions go through the content's own projections
  bool norm_rel_embedding = false;  ///< norm_rel_ebd "layer_norm"
  int64_t max_relative_positions = 0;
  int64_t position_buckets = 0;  ///< 0 = no log buckets

  /// Distances (or buckets) to each side; the table of relative positions has twice as many rows.
  int64_t relative_span() const {
    return position_buckets > 0 ? position_buckets : max_relative_positions;
  }
};

/// `folder`: a Hugging Face folder. Errors: NotFound; DataLoss (no JSON object); InvalidArgument (a
/// model type or option that is not supported, a field of a wrong kind or size: names it).
Result<EncoderConfig> read_encoder_config(const std::string& folder);

}  // namespace tailor::predict
