#!/usr/bin/env python3
"""Mean log-likelihood of the parity fixtures' prompts under transformers, for tests/parallel/cpu/likelihood_test.cc.

The default model in fp32 (its weights dequantized); the first 160 tokens of every prompt of
tests/fixtures/parity/default.jsonl; what a prompt has in common with one before it counts once. Run it with the
reference environment: launch/setup --reference, then CACHE/reference/bin/python3 tools/make_likelihood_fixture.py
"""
import json
import os
import pathlib

import torch
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures/parity"
MOST_TOKENS = 160


def cache_folder():
    if os.environ.get("TAILOR_CACHE"):
        return pathlib.Path(os.environ["TAILOR_CACHE"])
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "tailor"


def common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def main():
    torch.set_num_threads(os.cpu_count())
    model = AutoModelForCausalLM.from_pretrained(cache_folder() / "models/default",
                                                 gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", dtype=torch.float32)
    prompts = [json.loads(line)["prompt_token_ids"][:MOST_TOKENS] for line in (FIXTURES / "default.jsonl").open()]
    total, count = 0.0, 0
    for index, prompt in enumerate(prompts):
        first = max([1] + [common(prompt, other) for other in prompts[:index]])
        with torch.no_grad():
            scores = model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)
        for position in range(first, len(prompt)):
            total += scores[position - 1, prompt[position]].item()
            count += 1
    out = {"tokens": count, "mean_log_likelihood": total / count}
    (FIXTURES / "likelihood.json").write_text(json.dumps(out) + "\n")
    print(out)


if __name__ == "__main__":
    main()
