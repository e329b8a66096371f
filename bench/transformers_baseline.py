#!/usr/bin/env python3
"""What `transformers` generates one request at a time, greedy, fp32, on this machine: the peer of `tailor bench serve`.

Reads prompts as token ids (JSON lines with "token_ids") so that both sides run the same tokens, generates exactly
--max-tokens for each (no early end), and prints one JSON object: tokens, seconds, tokens_per_s.
The clock starts after loading and one warm-up prompt.
"""
import argparse
import json
import os
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder or a .gguf file")
    parser.add_argument("--prompts", required=True, help="JSON lines with token_ids")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    if args.model.endswith(".gguf"):
        folder, name = os.path.split(os.path.abspath(args.model))
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.eval()
    with open(args.prompts, encoding="utf-8") as file:
        prompts = [json.loads(line)["token_ids"] for line in file if line.strip()]

    def generate(ids, count):
        inputs = torch.tensor([ids])
        with torch.inference_mode():
            out = model.generate(inputs, attention_mask=torch.ones_like(inputs), do_sample=False,
                                 max_new_tokens=count, min_new_tokens=count, pad_token_id=0)
        return out.shape[1] - len(ids)

    generate(prompts[0], 8)
    start = time.monotonic()
    tokens = sum(generate(ids, args.max_tokens) for ids in prompts)
    elapsed = time.monotonic() - start
    print(json.dumps({"tokens": tokens, "seconds": elapsed, "tokens_per_s": tokens / elapsed,
                      "prompts": len(prompts), "threads": args.threads, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
