#!/usr/bin/env python3
"""Makes tests/fixtures/quant/: reference values for the weight formats, from the Python package `gguf` and from
transformers. Development only (needs numpy, gguf, torch, transformers).

  blocks.gguf       for each type T a tensor "T" [2, 512] stored as T and a tensor "T.expected" with its F32 values.
                    What `gguf` cannot quantize (the K types) is random bytes with finite scales.
  rope.json         inverse frequencies of several RoPE settings, as transformers computes them.
  small_weights.json  for each small model (tests/fixtures/models) and tensor: shape and some values by flat index.
"""
import json
import pathlib

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/fixtures/quant"
MODELS = ROOT / "tests/fixtures/models"
ROWS, COLS = 2, 512
TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
# Where the half-precision scales of a K block lie.
K_SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}

ROPE = [
    dict(head_dim=64, rope_theta=10000.0, rope_type="default"),
    dict(head_dim=64, rope_theta=100000.0, rope_type="default"),
    dict(head_dim=128, rope_theta=10000.0, rope_type="linear", factor=4.0),
    dict(head_dim=128, rope_theta=500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0,
         high_freq_factor=4.0, original_max_position_embeddings=8192),
    dict(head_dim=64, rope_theta=500000.0, rope_type="llama3", factor=32.0, low_freq_factor=1.0,
         high_freq_factor=4.0, original_max_position_embeddings=8192),
    dict(head_dim=32, rope_theta=500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0,
         high_freq_factor=4.0, original_max_position_embeddings=64),
]


def stored_bytes(name, rng):
    kind = gguf.GGMLQuantizationType[name]
    if name not in K_SCALES:
        values = (rng.standard_normal((ROWS, COLS)) * rng.uniform(0.01, 2.0, (ROWS, 1))).astype(np.float32)
        return gguf.quants.quantize(values, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * COLS // block, size), dtype=np.uint8)
    for at in K_SCALES[name]:
        scale = rng.uniform(-0.1, 0.1, len(blocks)).astype(np.float16)
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def make_blocks():
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "blocks")
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        data = stored_bytes(name, rng)
        expected = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(ROWS, COLS)
        assert np.isfinite(expected).all()
        if name == "F16":
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, data.view(np.uint8), raw_dtype=kind)
        writer.add_tensor(name + ".expected", expected)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_rope():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rows = []
    for setting in ROPE:
        parameters = {k: v for k, v in setting.items() if k != "head_dim"}
        config = LlamaConfig(hidden_size=4 * setting["head_dim"], num_attention_heads=4, head_dim=setting["head_dim"],
                             max_position_embeddings=131072, rope_parameters=parameters)
        inverse = LlamaRotaryEmbedding(config).inv_freq
        rows.append({**setting, "inverse_frequencies": [float(v) for v in inverse]})
    (OUT / "rope.json").write_text(json.dumps(rows, indent=1) + "\n")


def make_small_weights():
    from transformers import AutoModelForCausalLM
    import torch

    out = {}
    for folder in sorted(p for p in MODELS.iterdir() if (p / "config.json").exists()):
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        out[folder.name] = {}
        for name, tensor in model.state_dict().items():
            flat = tensor.reshape(-1)
            at = [i * (flat.numel() - 1) // 7 for i in range(8)]
            out[folder.name][name] = {"shape": list(tensor.shape), "at": at, "values": [float(flat[i]) for i in at]}
    (OUT / "small_weights.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    make_blocks()
    make_rope()
    make_small_weights()
