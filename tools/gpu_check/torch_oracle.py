#!/usr/bin/env python3
"""The engine's logits against torch's, on a model of random weights that both read from one file.

    torch_oracle.py CONFIG WORK ENGINE-COMMAND..     ENGINE-COMMAND: gpu-bench, and what goes before `logits`

Writes WORK/model (config.json, model.safetensors), lets the engine compute logits behind a prompt and behind each token
after it, computes them with torch from the same weights, in F32 on the CPU's or the card's own terms, and prints one line of
JSON for each type: the largest difference, in shares of the logits' own spread. Needs torch alone.
"""
import ctypes
import json
import pathlib
import struct
import subprocess
import sys

try:
    import torch
except (ImportError, OSError) as error:
    print(json.dumps({"what": "no_torch", "why": str(error)}))
    sys.exit(0)

PROMPT, ANSWER = 61, 12  # neither a multiple of a block


def random_model(config, device):
    """Weights in BF16, as an initialized model has them, but with norms that are not all ones."""
    generator = torch.Generator().manual_seed(11)
    hidden, dim, inner = config["hidden_size"], config["head_dim"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]

    def matrix(rows, columns):
        return (torch.randn(rows, columns, generator=generator) * columns ** -0.5).to(torch.bfloat16)

    def norm():
        return (1 + 0.1 * torch.randn(hidden, generator=generator)).to(torch.bfloat16)

    weights = {"model.embed_tokens.weight": torch.randn(config["vocab_size"], hidden, generator=generator).to(torch.bfloat16)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm()
        weights[prefix + "self_attn.q_proj.weight"] = matrix(heads * dim, hidden)
        weights[prefix + "self_attn.k_proj.weight"] = matrix(groups * dim, hidden)
        weights[prefix + "self_attn.v_proj.weight"] = matrix(groups * dim, hidden)
        weights[prefix + "self_attn.o_proj.weight"] = matrix(hidden, heads * dim)
        weights[prefix + "post_attention_layernorm.weight"] = norm()
        weights[prefix + "mlp.gate_proj.weight"] = matrix(inner, hidden)
        weights[prefix + "mlp.up_proj.weight"] = matrix(inner, hidden)
        weights[prefix + "mlp.down_proj.weight"] = matrix(hidden, inner)
    weights["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    return {name: tensor.to(device) for name, tensor in weights.items()}


def write_model(folder, config, weights):
    """The safetensors format: the length of a JSON header, the header, the tensors' bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header, at = {}, 0
    for name, tensor in weights.items():
        end = at + tensor.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in weights.values():
            here = tensor.cpu().contiguous()
            file.write(ctypes.string_at(here.data_ptr(), here.numel() * 2))


def inverse_frequencies(config, device):
    half = config["head_dim"] // 2
    frequencies = config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    scaling = config.get("rope_scaling")
    if not scaling:
        return frequencies
    wavelength = 2 * torch.pi / frequencies
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return frequencies * (smooth + (1 - smooth) / scaling["factor"])


def forward(config, weights, tokens, dtype, device):
    """Logits of every position, [tokens, vocab]; products in `dtype`, the rest in F32."""
    heads, groups, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    count, eps = len(tokens), config["rms_norm_eps"]
    angles = torch.arange(count, device=device, dtype=torch.float64)[:, None] * inverse_frequencies(config, device)[None]
    cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
    mask = torch.full((count, count), float("-inf"), device=device).triu(1)

    def times(x, name):
        return x.to(dtype) @ weights[name].to(dtype).T

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weights[name].float()

    def rotate(x):
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    x = weights["model.embed_tokens.weight"].float()[torch.tensor(tokens, device=device)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        y = norm(x, prefix + "input_layernorm.weight")
        q = rotate(times(y, prefix + "self_attn.q_proj.weight").view(count, heads, dim))
        k = rotate(times(y, prefix + "self_attn.k_proj.weight").view(count, groups, dim)).to(dtype).float()
        v = times(y, prefix + "self_attn.v_proj.weight").view(count, groups, dim).float()
        k, v = (z.repeat_interleave(heads // groups, 1) for z in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * dim ** -0.5 + mask
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(count, heads * dim)
        x = x + times(mixed, prefix + "self_attn.o_proj.weight").float()
        y = norm(x, prefix + "post_attention_layernorm.weight")
        gate, up = (times(y, prefix + f"mlp.{name}_proj.weight").float() for name in ("gate", "up"))
        x = x + times(torch.nn.functional.silu(gate) * up, prefix + "mlp.down_proj.weight").float()
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return times(norm(x, "model.norm.weight"), head).float()


def main():
    config = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    work, engine = pathlib.Path(sys.argv[2]), sys.argv[3:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    weights = random_model(config, device)
    write_model(work / "model", config, weights)
    tokens = [(7 + 31 * i * i) % config["vocab_size"] for i in range(PROMPT + ANSWER)]
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        out = work / f"logits-{name}"
        subprocess.run([*engine, "logits", "--model", work / "model", "--dtype", name, "--prompt", str(PROMPT), "--tokens",
                        ",".join(map(str, tokens)), "--out", out], check=True)
        found = torch.frombuffer(bytearray(out.read_bytes()), dtype=torch.float32).view(-1, config["vocab_size"])
        with torch.no_grad():
            wanted = forward(config, weights, tokens, dtype, device)[PROMPT - 1:].cpu()
            exact = forward(config, weights, tokens, torch.float32, device)[PROMPT - 1:].cpu()
        spread = wanted.std().item()
        row = {"what": "logits_against_torch", "type": name, "torch": torch.__version__, "device": device,
               "rows": found.shape[0], "spread": spread,
               "largest_difference": (found - wanted).abs().max().item() / spread,
               "mean_difference": (found - wanted).abs().mean().item() / spread,
               "mean_difference_from_f32": (found - exact).abs().mean().item() / spread,
               "torch_mean_difference_from_f32": (wanted - exact).abs().mean().item() / spread,
               "same_best": (found.argmax(1) == wanted.argmax(1)).float().mean().item()}
        print(json.dumps(row), flush=True)


main()
