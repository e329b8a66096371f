#include "weights/tensor_map.h"

#include <algorithm>

namespace tailor::weights {

std::vector<NeededTensor> needed_tensors(const ModelConfig& c) {
  std::vector<NeededTensor> out;
  const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  out.push_back({"model.embed_tokens.weight", "token_embd.weight", {c.vocab_size, c.hidden_size}});
  out.push_back({"model.norm.weight", "output_norm.weight", {c.hidden_size}});
  if (!c.tie_embeddings) {
    out.push_back({"lm_head.weight", "output.weight", {c.vocab_size, c.hidden_size}});
  }
  struct Linear {
    const char *name, *gguf_name;
    int64_t rows, cols, permuted_head_rows;
    bool bias;
  };
  const Linear linears[] = {
      {"self_attn.q_proj", "attn_q", q, c.hidden_size, c.head_dim, c.attention_bias},
      {"self_attn.k_proj", "attn_k", kv, c.hidden_size, c.head_dim, c.attention_bias},
      {"self_attn.v_proj", "attn_v", kv, c.hidden_size, 0, c.attention_bias},
      {"self_attn.o_proj", "attn_output", c.hidden_size, q, 0, c.attention_bias},
      {"mlp.gate_proj", "ffn_gate", c.intermediate_size, c.hidden_size, 0, c.mlp_bias},
      {"mlp.up_proj", "ffn_up", c.intermediate_size, c.hidden_size, 0, c.mlp_bias},
      {"mlp.down_proj", "ffn_down", c.hidden_size, c.intermediate_size, 0, c.mlp_bias},
  };
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string hf = "model.layers." + std::to_string(layer) + ".";
    const std::string gguf = "blk." + std::to_string(layer) + ".";
    out.push_back({hf + "input_layernorm.weight", gguf + "attn_norm.weight", {c.hidden_size}});
    out.push_back(
        {hf + "post_attention_layernorm.weight", gguf + "ffn_norm.weight", {c.hidden_size}});
    for (const Linear& l : linears) {
      out.push_back({hf + l.name + ".weight",
                     gguf + l.gguf_name + ".weight",
                     {l.rows, l.cols},
                     l.permuted_head_rows});
      if (l.bias) {
        out.push_back(
            {hf + l.name + ".bias", gguf + l.gguf_name + ".bias", {l.rows}, l.permuted_head_rows});
      }
    }
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return out;
}

}  // namespace tailor::weights
