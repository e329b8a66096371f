#!/usr/bin/env python3
"""`tailor serve` with random weights, a burst of requests, and a clean stop: one line of JSON with what was seen.

    serve_burst.py PROGRAMS WORK MODEL VOCAB REQUESTS PROMPT-TOKENS MAX-TOKENS SERVE-OPTION..
"""
import json
import pathlib
import random
import signal
import subprocess
import sys
import time


def main():
    programs, work, model = map(pathlib.Path, sys.argv[1:4])
    vocab, requests, prompt_tokens, max_tokens = map(int, sys.argv[4:8])
    work.mkdir(parents=True, exist_ok=True)
    rng = random.Random(5)
    prompts = work / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"token_ids": [rng.randrange(3, vocab) for _ in range(prompt_tokens)]}) + "\n"
                               for _ in range(requests)), encoding="utf-8")
    run_dir, log_path = work / "run", work / "serve.log"
    began = time.monotonic()
    with open(log_path, "w", encoding="utf-8") as log:
        serve = subprocess.Popen([programs / "tailor", "serve", "--model", model, "--dummy-weights", "--predictor", "none",
                                  "--endpoint", "tcp://127.0.0.1:*", "--run-dir", run_dir, *sys.argv[8:]],
                                 stdout=log, stderr=subprocess.STDOUT)
    try:
        endpoint = None
        while endpoint is None or subprocess.run([programs / "tailor", "status", "--endpoint", endpoint, "--wait", "5"],
                                                 capture_output=True, check=False).returncode != 0:
            if serve.poll() is not None:
                raise SystemExit(f"serve ended with {serve.returncode}")
            try:
                endpoint = json.loads((run_dir / "coordinator.json").read_text(encoding="utf-8"))["api_endpoint"]
            except (OSError, ValueError, KeyError):
                time.sleep(0.1)
        ready_s = time.monotonic() - began
        report = work / "burst.json"
        burst = [programs / "tailor", "bench", "burst", "--endpoint", endpoint, "--prompts", prompts, "--ignore-eos",
                 "--json", report]
        subprocess.run([*burst, "--requests", "2", "--max-tokens", "4"], check=True)  # the first steps of a process are slow
        subprocess.run([*burst, "--max-tokens", str(max_tokens)], check=True)
        found = json.loads(report.read_text(encoding="utf-8"))
        errors = [row["error"] for row in found["rows"] if row.get("error")]
        began = time.monotonic()
        serve.send_signal(signal.SIGTERM)
        code = serve.wait(30)
        print(json.dumps({"what": "serve", "ready_s": ready_s, "requests": requests, "prompt_tokens": prompt_tokens,
                          "output_tokens": found["output_tokens"], "wall_s": found["wall_s"],
                          "tokens_s": found["tokens_per_s"], "errors": errors, "stop_code": code,
                          "stop_s": time.monotonic() - began,
                          **{key: found[key] for key in found if isinstance(found[key], dict) and "p50" in found[key]}}))
    finally:
        if serve.poll() is None:
            serve.send_signal(signal.SIGTERM)
            try:
                serve.wait(10)
            except subprocess.TimeoutExpired:
                serve.kill()
        for log in [log_path, *sorted(run_dir.glob("logs/*"))]:  # for who reads why
            if log.is_file():
                print(f"---- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}", file=sys.stderr)


main()
