"""What a decode step of a Llama costs at least on a card whose copy bandwidth and BF16 rate were measured: the weights are
read once, or the products computed, whichever takes longer; then keys and values of every sequence are read."""

# meta-llama/Llama-3.1-8B's config.json, what counts
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
    "mlp_bias": False, "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False, "bos_token_id": 128000,
    "eos_token_id": 128009, "torch_dtype": "bfloat16", "initializer_range": 0.02,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}
# HuggingFaceTB/SmolLM2-135M-Instruct: the default model
DEFAULT_MODEL = {
    **LLAMA_8B, "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192,
    "rope_theta": 100000.0, "rope_scaling": None, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}
# For the fake device: the same parts, as small as they can be.
TINY = {
    **LLAMA_8B, "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "bos_token_id": 1,
    "eos_token_id": 2,
}
AIMS = {1: 0.70, 32: 0.78, 256: 0.72}  # shares of the limit that later speed work aims at, by batch


def product_shapes(config):
    """(name, n, k) of a layer's products and the head's: y[m, n] = x[m, k] W[n, k]^T."""
    hidden, dim = config["hidden_size"], config["head_dim"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    return [("qkv", (heads + 2 * groups) * dim, hidden), ("attention_out", hidden, heads * dim),
            ("gate_up", 2 * config["intermediate_size"], hidden), ("down", hidden, config["intermediate_size"]),
            ("head", config["vocab_size"], hidden)]


def product_weights(config):
    """Values that a step multiplies by."""
    layers = config["num_hidden_layers"]
    return sum(n * k * (1 if name == "head" else layers) for name, n, k in product_shapes(config))


def kv_values_per_token(config):
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]


def decode_limit_us(config, batch, context, bytes_per_us, flop_per_us, value_bytes=2):
    """Microseconds of a step of `batch` sequences of `context` tokens each."""
    weights = product_weights(config)
    products = max(weights * value_bytes / bytes_per_us, 2 * weights * batch / flop_per_us)
    return products + kv_values_per_token(config) * value_bytes * context * batch / bytes_per_us


def product_limit_us(n, k, m, bytes_per_us, flop_per_us, value_bytes=2):
    moved = (n * k + m * k + m * n) * value_bytes
    return max(moved / bytes_per_us, 2 * n * k * m / flop_per_us)
