#!/usr/bin/env python3
"""Makes the greedy reference fixtures that Tailor's engine is compared with, from Hugging Face transformers in fp32.

    make_parity_fixtures.py default            the default model (dequantized GGUF): prompts.jsonl -> default.jsonl
    make_parity_fixtures.py small              small random-weight models and their fixtures
    make_parity_fixtures.py --check N          makes N randomly chosen fixtures anew and compares (exit 1 on a
                                               difference, 77 where the reference is not installed)

Needs torch, transformers, gguf, safetensors and numpy: development only, the product never runs this.

A fixture is one JSON object a line: id, model, prompt_token_ids, token_ids (greedy; the end token is kept), finish
("stop" or "length"), per answer token the runner-up (second_ids) and the distance of the two best logits (gaps), and
for some positions the best logits: {"position": p, "ids": [...], "values": [...]}, where position p is the logits
that chose token_ids[p]. For the small models these are all logits, in vocabulary order.

A first difference from token_ids counts as equal where gaps[position] < 0.01: two correct programs may round there
either way, and what follows differs then.
"""
import argparse
import json
import os
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARITY = ROOT / "tests/fixtures/parity"
MODELS = ROOT / "tests/fixtures/models"
MAX_TOKENS = 64
SMALL_TOKENS = 32
TIE_GAP = 0.01
SKIPPED = 77  # exit status: the reference is not installed
TOP_LOGITS = 50

# Sizes chosen so that each feature shows: a head size apart from hidden / heads, three KV groups, wavelengths on both
# sides of and inside the llama3 scaling band, a tied head, a sharded index, and F16, BF16 and F32 files.
SMALL = {
    "llama2_small": dict(hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=4, vocab_size=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "llama31_small": dict(hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=6,
                          num_key_value_heads=3, head_dim=32, vocab_size=384, rms_norm_eps=1e-5,
                          tie_word_embeddings=False,
                          rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                                           "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                           "original_max_position_embeddings": 64}),
    "llama32_small": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
                          num_key_value_heads=2, vocab_size=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
                          rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 32.0,
                                           "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                           "original_max_position_embeddings": 32}),
}
SMALL_DTYPE = {"llama2_small": "float16", "llama31_small": "bfloat16", "llama32_small": "float32"}


def cache_folder():
    cache = os.environ.get("TAILOR_CACHE")
    if not cache:
        cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tailor")
    return pathlib.Path(cache)


def default_model_file():
    return cache_folder() / "models/default/SmolLM2-135M-Instruct.Q4_1.gguf"


def load_default(path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    return model, tokenizer


def load_small(name):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(MODELS / name), dtype=torch.float32).eval()


def encode(tokenizer, messages):
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def greedy(model, prompt, max_tokens):
    """One token at a time with the model's KV cache: (token_ids, second_ids, gaps, all logits per position, finish)."""
    import torch

    eos = model.generation_config.eos_token_id
    eos = set(eos if isinstance(eos, list) else [eos] if eos is not None else [])
    tokens, seconds, gaps, rows = [], [], [], []
    cache, step = None, torch.tensor([prompt])
    with torch.no_grad():
        while len(tokens) < max_tokens:
            out = model(step, past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1].float()
            best = torch.topk(logits, 2)
            tokens.append(int(best.indices[0]))
            seconds.append(int(best.indices[1]))
            gaps.append(round(float(best.values[0] - best.values[1]), 5))
            rows.append(logits)
            if tokens[-1] in eos:
                return tokens, seconds, gaps, rows, "stop"
            step = torch.tensor([[tokens[-1]]])
    return tokens, seconds, gaps, rows, "length"


def make(model, model_name, fixture_id, prompt, max_tokens, positions, all_logits, extra=None):
    import torch

    tokens, seconds, gaps, rows, finish = greedy(model, prompt, max_tokens)
    logits = []
    for p in positions:
        if p >= len(rows):
            continue
        if all_logits:
            values, ids = rows[p], torch.arange(rows[p].numel())
        else:
            values, ids = torch.topk(rows[p], TOP_LOGITS)
        logits.append({"position": p, "ids": ids.tolist(), "values": [round(v, 4) for v in values.tolist()]})
    return {"id": fixture_id, "model": model_name, **(extra or {}), "prompt_token_ids": prompt, "token_ids": tokens,
            "finish": finish, "second_ids": seconds, "gaps": gaps, "logits": logits}


def default_fixture(model, tokenizer, index, row):
    positions = (0, 1, 31) if index % 4 == 0 else ()
    return make(model, "default", row["id"], encode(tokenizer, row["messages"]), MAX_TOKENS, positions, False)


def read_lines(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(rows)} fixtures, {path.stat().st_size} bytes, "
          f"{sum(g < TIE_GAP for r in rows for g in r['gaps'])} positions with a gap below {TIE_GAP}")


def make_default(path):
    model, tokenizer = load_default(path)
    rows = []
    for index, row in enumerate(read_lines(PARITY / "prompts.jsonl")):
        rows.append(default_fixture(model, tokenizer, index, row))
        print(f"{row['id']}: {len(rows[-1]['prompt_token_ids'])} + {len(rows[-1]['token_ids'])} tokens", flush=True)
    write_lines(PARITY / "default.jsonl", rows)


def make_small_model(name):
    """Random weights far larger than an untrained model's, so that greedy choices are clear ones."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(list(SMALL).index(name))
    model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=512, bos_token_id=1, eos_token_id=2, **SMALL[name]))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if key.endswith("norm.weight"):
                parameter.copy_(1.0 + 0.1 * noise)
            elif "embed" in key:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1.2 * noise / parameter.shape[1] ** 0.5)
    shard = {"max_shard_size": "130KB"} if name == "llama2_small" else {}
    model.to(getattr(torch, SMALL_DTYPE[name])).save_pretrained(str(MODELS / name), **shard)


def make_small():
    for number, name in enumerate(SMALL):
        make_small_model(name)
        model = load_small(name)
        rng = random.Random(number)
        rows = []
        for index, length in enumerate([1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64, 100, 150]):
            prompt = [rng.randrange(3, SMALL[name]["vocab_size"]) for _ in range(length)]
            positions = (0, 1, 20) if index % 3 == 0 else ()
            rows.append(make(model, name, f"{name}-{index:02d}", prompt, SMALL_TOKENS, positions, True))
        write_lines(PARITY / f"{name}.jsonl", rows)


def same(stored, made):
    """None, or what differs."""
    if stored["prompt_token_ids"] != made["prompt_token_ids"]:
        return "prompt_token_ids differ"
    for p, (a, b) in enumerate(zip(stored["token_ids"], made["token_ids"])):
        if a != b:
            return None if stored["gaps"][p] < TIE_GAP else f"token {p}: stored {a}, made {b}, gap {stored['gaps'][p]}"
    if len(stored["token_ids"]) != len(made["token_ids"]) or stored["finish"] != made["finish"]:
        return f"lengths {len(stored['token_ids'])} and {len(made['token_ids'])}"
    for a, b in zip(stored["logits"], made["logits"]):
        values = dict(zip(b["ids"], b["values"]))
        worst = max((abs(v - values[i]) for i, v in zip(a["ids"], a["values"]) if i in values), default=0.0)
        if worst > 0.01:
            return f"logits at position {a['position']} differ by {worst}"
    return None


def check(count, path, seed):
    print(f"seed {seed}")
    rng = random.Random(seed)
    failed = 0

    def compare(stored, made):
        nonlocal failed
        what = same(stored, made)
        failed += what is not None
        print(f"{stored['id']}: {what or 'same'}", flush=True)

    model, tokenizer = load_default(path)
    stored = read_lines(PARITY / "default.jsonl")
    prompts = read_lines(PARITY / "prompts.jsonl")
    for index in rng.sample(range(len(stored)), min(count, len(stored))):
        compare(stored[index], default_fixture(model, tokenizer, index, prompts[index]))
    for name in SMALL:
        model = load_small(name)
        for fixture in rng.sample(read_lines(PARITY / f"{name}.jsonl"), min(count, 16)):
            positions = [l["position"] for l in fixture["logits"]]
            compare(fixture, make(model, name, fixture["id"], fixture["prompt_token_ids"], SMALL_TOKENS, positions, True))
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["default", "small", []], help="which fixtures to make")
    parser.add_argument("--check", type=int, metavar="N", help="make N random fixtures of each kind anew and compare")
    parser.add_argument("--seed", type=int, default=None, help="of --check; random if not given, and printed")
    parser.add_argument("--model", type=pathlib.Path, default=default_model_file(), help="the default model's GGUF file")
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 = torch's choice")
    args = parser.parse_args()
    if not args.what and args.check is None:
        parser.error("say default, small or --check N")
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as missing:
        reference = cache_folder() / "reference/bin/python"
        if reference.exists() and "TAILOR_REFERENCE" not in os.environ:
            os.execve(reference, [str(reference), *sys.argv], {**os.environ, "TAILOR_REFERENCE": "1"})
        print(f"skipped: {missing} (launch/setup --reference installs torch, transformers and gguf)")
        sys.exit(SKIPPED)
    if args.threads:
        torch.set_num_threads(args.threads)
    if "default" in args.what or args.check:
        if not args.model.exists():
            sys.exit(f"{args.model} is not there: run launch/setup, or name the file with --model")
    if "small" in args.what:
        make_small()
    if "default" in args.what:
        make_default(args.model)
    if args.check:
        seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), "little")
        sys.exit(check(args.check, args.model, seed))


if __name__ == "__main__":
    main()
