"""The steps of tools/gpu-check: what each runs, on a card or over the fake device, and what it makes of what was said."""
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sys

from gpu_check import limits
from gpu_check.runner import Command, Step, StepFailed, Verdict

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Place:
    """Where things are. `tests`: [{"name", "command": [..], "environment": {..}}] of the tests that take this device."""
    root: pathlib.Path
    programs: pathlib.Path
    work: pathlib.Path
    bench: str
    tests: list
    rehearse: bool
    full: bool
    threads: int
    mpirun: str = "mpirun"
    commit: str | None = None  # of packed programs
    environment: dict = dataclasses.field(default_factory=dict)  # of our programs; not for others: it names libraries

    def command(self, words, environment=None, cwd=None):
        return Command(words, {**self.environment, **(environment or {})}, cwd)

    def bench_command(self, *words):
        return self.command([self.programs / self.bench, *words])

    def model(self, name, config):
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder


def finite(row, *keys):
    """The numbers of a row; all of them there, finite and above zero."""
    values = []
    for key in keys:
        value = row.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise StepFailed(f"{row.get('what')}: {key} is {value}")
        values.append(value)
    return values


def ceilings_of(said):
    """(bytes a microsecond, operations a microsecond)"""
    copy, = finite(said.of("device_copy")[0], "gb_s")
    square = [row for row in said.of("product") if row["name"] == "square"]
    rate, = finite(square[0], "tflop_s")
    return copy * 1e3, rate * 1e6


def share(part, of):
    return round(part / of, 3)


# ---- the machine ----------------------------------------------------------------------------------------------------------
NVIDIA_SMI = ("name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,power.limit,"
              "memory.used,memory.total,pcie.link.gen.current,pcie.link.width.current,ecc.mode.current,mig.mode.current")


def judge_machine(smi, versions, card):
    if card.code != 0:
        raise StepFailed((card.text.strip().splitlines() or [f"ended with code {card.code}"])[-1][:300])
    figures = {"nvidia_smi": dict(zip(NVIDIA_SMI.split(","), (w.strip() for w in smi.text.splitlines()[0].split(","))))
               if smi.code == 0 and smi.text.strip() else None,
               "versions": versions.of("versions")[0], "device": card.of("device")[0], "rows": card.rows}
    bandwidth, rate = ceilings_of(card)
    copies = card.of("pinned_copy")
    for row in copies:
        finite(row, "to_device_gb_s", "to_host_gb_s", "both_gb_s")
    best = copies[-1]
    return Verdict(f"{figures['device']['name']}: copies {bandwidth / 1e3:.0f} GB/s, BF16 {rate / 1e6:.0f} TFLOP/s, pinned "
                   f"{best['to_device_gb_s']:.0f} GB/s in and {best['to_host_gb_s']:.0f} GB/s out", figures)


VERSIONS = """
import json, os, platform, sys
row = {"what": "versions", "python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()}
try:
    import torch
    row.update(torch=torch.__version__, cuda=torch.version.cuda, nccl=torch.cuda.is_available() and torch.cuda.nccl.version())
except (ImportError, OSError):
    row["torch"] = None
print(json.dumps(row))
"""


def machine(place):
    small = ["--copy-bytes", "65536", "--pinned-bytes", "65536", "--square", "16", "--rounds", "1"] if place.rehearse else []
    smi = ["true"] if shutil.which("nvidia-smi") is None else ["nvidia-smi", f"--query-gpu={NVIDIA_SMI}",
                                                              "--format=csv,noheader"]
    return Step("machine", "what the card is, and the ceilings that later steps are held against", 40,
                [Command(smi), Command([sys.executable, "-c", VERSIONS]), place.bench_command("card", *small)], judge_machine,
                any_code=True, least=10)


def judge_doctor(said):
    lines = [line for line in said.text.splitlines() if line.strip()]
    if said.code not in (0, 1) or len(lines) < 3:
        raise StepFailed(f"ended with code {said.code}: {' '.join(lines)[:200]}")
    return Verdict(f"{len(lines)} lines, code {said.code}", {"lines": lines, "code": said.code})


def doctor(place):
    return Step("doctor", "tailor doctor: what it makes of this machine", 30, [place.command([place.programs / "tailor", "doctor"])],
                judge_doctor, any_code=True, least=3)


# ---- tests ----------------------------------------------------------------------------------------------------------------
def judge_test(said):
    """A test program of GoogleTest: some passed, none failed; skipped ones are told."""
    if said.code == 77:  # tests/parallel/cuda/test_device_cuda.cc
        raise StepFailed("all of it was skipped: " + " ".join(said.text.strip().splitlines()[-1:])[:200])
    passed = len(re.findall(r"^\[       OK \] ", said.text, re.M))  # PASSED counts those that an environment skipped
    ended = "[  PASSED  ]" in said.text
    failed = re.findall(r"^\[  FAILED  \] ([\w/.]+)", said.text, re.M)
    skipped = sorted(set(re.findall(r"^\[  SKIPPED \] ([\w/.]+)", said.text, re.M)))
    if said.code != 0 or failed or not ended:
        first = re.search(r"^.*: Failure\n.*", said.text, re.M)
        what = "failed: " + ", ".join(sorted(set(failed))[:4]) if failed else f"ended with code {said.code}"
        raise StepFailed(what + (f" ({' '.join(first[0].split())[:200]})" if first else ""))
    if passed == 0:
        why = re.search(r": Skipped\n(.*)", said.text)
        raise StepFailed("all of it was skipped" + (f": {why[1].strip()[:200]}" if why else ""))
    return Verdict(f"{passed} tests passed" + (f", {len(skipped)} skipped" if skipped else ""),
                   {"passed": passed, "skipped": skipped})


# For a rehearsal: some of each, for fibers are slow.
REHEARSED = {"gpu_device_test": "*", "gpu_gemm_test": "*", "gpu_kernels_test": "JoinShards*:Blocks*",
             "engine_cuda_test": "*LogitsHidden*", "block_store_cuda_test": "*", "weights_cuda_test": "*",
             "parity_cuda_test": "*llama32_small*"}


def test_steps(place):
    for test in place.tests:
        environment = dict(test["environment"])
        if place.rehearse:
            if test["name"] not in REHEARSED:
                continue
            environment["GTEST_FILTER"] = REHEARSED[test["name"]]
            environment["TAILOR_PARITY_SMALL_ALONE"] = "1"
        yield Step("test " + test["name"], "a test program on the device", 90 if place.full else 45,
                   [place.command(test["command"], environment, str(place.root))], judge_test, any_code=True, least=4)


# ---- sanitizer ------------------------------------------------------------------------------------------------------------
STAND_IN = "import subprocess, sys; code = subprocess.run(sys.argv[4:]).returncode; " \
           "print('========= ERROR SUMMARY: 0 errors'); sys.exit(code)"


def judge_sanitizer(said):
    if "Device not supported" in said.text:
        return Verdict("the tool refuses this device", skipped=True)
    found = re.search(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", said.text)
    if not found:
        raise StepFailed(f"no summary, code {said.code}")
    count = int(found[1] or found[2] or 0)
    if count:  # the code is the tool's own then
        first = re.search(r"^========= (?!COMPUTE|Program|ERROR|RACE)(\S.*)", said.text, re.M)
        raise StepFailed(f"{count} findings, the first: {first[1] if first else '?'}")
    tests = judge_test(said)
    return Verdict(f"no finding; {tests.sentence}", {"findings": 0, **tests.figures})


def sanitizer_steps(place):
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    tests = {test["name"]: test for test in place.tests}
    programs = ["gpu_device_test"] if place.rehearse else ["gpu_kernels_cuda_test"] + (
        ["gpu_sampler_cuda_test"] if place.full else [])
    for check in ("memcheck", "racecheck"):
        for name in programs:
            label = check if name == programs[0] else f"{check} sampler"
            about = f"compute-sanitizer {check} on {name}"
            if name not in tests:
                yield Step(label, about, 0, [], judge_sanitizer, skip=f"{name} is not among the programs")
                continue
            if not tool and not place.rehearse:
                yield Step(label, about, 0, [], judge_sanitizer, skip="there is no compute-sanitizer on this machine")
                continue
            before = [sys.executable, "-c", STAND_IN] if place.rehearse else [tool]
            yield Step(label, about + (" (a stand-in that finds nothing)" if place.rehearse else ""), 120 if place.full else 40,
                       [place.command([*before, "--tool", check, "--error-exitcode=9", *tests[name]["command"]],
                                      tests[name]["environment"], str(place.root))], judge_sanitizer, any_code=True, least=10)


# ---- parity with torch ----------------------------------------------------------------------------------------------------
# Largest differences in shares of the logits' spread. F32: rounding alone, through all layers. BF16: no further from F32
# than twice torch's own BF16 is.
F32_LARGEST = 2e-3
BF16_MEAN_FACTOR = 2.0


def judge_oracle(said):
    for row in said.rows:
        if row.get("what") == "no_torch":
            return Verdict(f"there is no torch in this Python: {row['why']}", skipped=True)
    rows = {row["type"]: row for row in said.of("logits_against_torch")}
    f32, bf16 = rows["f32"], rows["bf16"]
    finite(f32, "largest_difference", "spread")
    finite(bf16, "largest_difference", "mean_difference_from_f32", "torch_mean_difference_from_f32")
    sentence = (f"F32 within {f32['largest_difference']:.1e} of the logits' spread; BF16 "
                f"{bf16['mean_difference_from_f32']:.1e} from F32 where torch's is "
                f"{bf16['torch_mean_difference_from_f32']:.1e} ({f32['device']}, torch {f32['torch']})")
    if f32["largest_difference"] > F32_LARGEST:
        raise StepFailed("too far from torch: " + sentence)
    if bf16["mean_difference_from_f32"] > BF16_MEAN_FACTOR * bf16["torch_mean_difference_from_f32"]:
        raise StepFailed("BF16 too far from F32: " + sentence)
    return Verdict(sentence, rows)


def torch_parity(place):
    config = limits.TINY if place.rehearse else limits.DEFAULT_MODEL
    about = "logits of the engine against torch on one random model" + ("" if place.rehearse else ", default-model shapes")
    folder = place.model("oracle", config)
    return Step("torch", about, 60, [Command([sys.executable, HERE / "torch_oracle.py", folder / "config.json", place.work,
                                             "env", *(f"{name}={value}" for name, value in place.environment.items()),
                                             place.programs / place.bench])], judge_oracle, least=15)


# ---- speed ----------------------------------------------------------------------------------------------------------------
def config_of(place):
    return limits.TINY if place.rehearse else limits.LLAMA_8B


def ceilings_command(place):
    small = ["--copy-bytes", "65536", "--square", "16", "--rounds", "1"] if place.rehearse else ["--rounds", "3"]
    return place.bench_command("ceilings", *small)


def products(place):
    shapes = limits.product_shapes(config_of(place))
    rows = [1, 3] if place.rehearse else [1, 32, 256, 2048] + ([4, 64, 128, 1024] if place.full else [])

    def judge(ceilings, table):
        bandwidth, rate = ceilings_of(ceilings)
        found = []
        for row in table.of("product"):
            us, = finite(row, "us")
            found.append({**row, "of_limit": share(limits.product_limit_us(row["n"], row["k"], row["m"], bandwidth, rate), us)})
        if len(found) != len(shapes) * len(rows):
            raise StepFailed(f"{len(found)} products of {len(shapes) * len(rows)}")
        parts = []
        for m in rows:
            of_limit = [row["of_limit"] for row in found if row["m"] == m]
            parts.append(f"{m} rows {min(of_limit):.2f} to {max(of_limit):.2f}")
        return Verdict("of the limit: " + ", ".join(parts), {"products": found})

    words = ["--shapes", ",".join(f"{name}:{n}:{k}" for name, n, k in shapes), "--rows", ",".join(map(str, rows)),
             "--rounds", "1" if place.rehearse else "5"]
    return Step("products", "matrix products of the 8B shape by rows", 45, [ceilings_command(place),
                place.bench_command("products", *words)], judge, least=12)


def decode(place):
    config = config_of(place)
    batches = [1, 3] if place.rehearse else [1, 32, 256]
    context = 20 if place.rehearse else 1024

    def judge(ceilings, table):
        bandwidth, rate = ceilings_of(ceilings)
        found, parts = [], []
        for row in table.of("decode"):
            us, _ = finite(row, "step_us", "forward_us")
            limit = limits.decode_limit_us(config, row["batch"], row["context"], bandwidth, rate)
            found.append({**row, "limit_us": limit, "of_limit": share(limit, us), "aim": limits.AIMS.get(row["batch"])})
            aim = "" if place.rehearse else f" (later aim {limits.AIMS[row['batch']]:.2f})"
            parts.append(f"batch {row['batch']}: {us / 1e3:.2f} ms, {found[-1]['of_limit']:.2f} of the limit{aim}")
        if len(found) != len(batches):
            raise StepFailed(f"{len(found)} batches of {len(batches)}")
        return Verdict("; ".join(parts), {"gb_s": bandwidth / 1e3, "tflop_s": rate / 1e6, "decode": found,
                                          "engine": table.of("engine")[0]})

    words = ["--model", place.model("decode", config), "--dummy-weights", "--threads", place.threads, "--batches",
             ",".join(map(str, batches)), "--context", context, "--steps", 3 if place.rehearse else 48, "--warm-up",
             2 if place.rehearse else 8]
    return Step("decode", "eager decode steps of the 8B shape, random weights, against the limit", 90 if place.full else 70,
                [ceilings_command(place), place.bench_command("decode", *words)], judge, least=30)


def blocks(place):
    config = config_of(place)

    def judge(said):
        row = said.of("blocks")[0]
        alone, beside, moves, a, b = finite(row, "step_us_alone", "step_us_beside", "moves_beside", "alone_gb_s", "beside_gb_s")
        return Verdict(f"{a:.1f} GB/s alone, {b:.1f} GB/s beside steps, which took {beside / alone:.2f} of their time "
                       f"({moves:.0f} moves of {row['blocks_a_move']} blocks)", row)

    words = ["--model", place.model("blocks", config), "--dummy-weights", "--threads", place.threads, "--batches",
             2 if place.rehearse else 32, "--context", 20 if place.rehearse else 1024, "--steps", 6 if place.rehearse else 64,
             "--blocks", 4 if place.rehearse else 256]
    return Step("blocks", "KV blocks moved to the host and back beside decode, 8B shape", 60,
                [place.bench_command("blocks", *words)], judge, least=20)


def serve(place):
    config = config_of(place)
    requests, prompt, answer = (5, 20, 8) if place.rehearse else (256, 512, 128) if place.full else (128, 256, 128)

    def judge(said):
        row = said.of("serve")[0]
        finite(row, "tokens_s", "ready_s")
        if row["errors"]:
            raise StepFailed(f"{len(row['errors'])} requests failed, the first: {row['errors'][0][:200]}")
        if row["output_tokens"] != requests * answer:
            raise StepFailed(f"{row['output_tokens']} tokens came of {requests * answer}")
        if row["stop_code"] != 0:
            raise StepFailed(f"serve stopped with code {row['stop_code']}")
        return Verdict(f"{requests} requests of {prompt} + {answer} tokens: {row['tokens_s']:.0f} tokens/s, ready after "
                       f"{row['ready_s']:.1f} s, stopped in {row['stop_s']:.1f} s", row)

    programs, environment = place.programs, {}
    if place.rehearse:  # `tailor` starts the workers beside it, and asks nvidia-smi for GPUs
        programs = place.work / "programs"
        shutil.rmtree(programs, ignore_errors=True)
        programs.mkdir()
        for name, found in (("tailor", "tailor"), ("tailor-coordinator", "tailor-coordinator"),
                            ("tailor-worker-cuda", "tailor-worker-fake")):
            if (place.programs / found).exists():
                shutil.copy(place.programs / found, programs / name)
        smi = programs / "nvidia-smi"
        smi.write_text("#!/bin/sh\necho '0, GPU-0, NVIDIA Fake, 999.1, 9.0, Disabled, 81559, 81000'\n", encoding="utf-8")
        smi.chmod(0o755)
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
    options = ["--engine", "cuda", "--threads", place.threads, "--mpirun", place.mpirun, "--slots",
               4 if place.rehearse else 256, "--max-context", 64 if place.rehearse else 1024]
    if place.rehearse:
        options += ["--oversubscribe", "--kv-memory", "1MiB"]
    else:
        options += ["--device", "cuda"]
    return Step("serve", "tailor serve with the 8B shape and random weights, a burst, a clean stop", 90 if place.full else 70,
                [place.command([sys.executable, HERE / "serve_burst.py", programs, place.work / "serve",
                                place.model("served", config), config["vocab_size"], requests, prompt, answer, *options],
                               environment)], judge, least=25)


def all_steps(place):
    return [machine(place), doctor(place), *test_steps(place), *sanitizer_steps(place), torch_parity(place), products(place),
            decode(place), blocks(place), serve(place)]
