"""Runs the steps of tools/gpu-check one after the other, each in processes of its own, and keeps what they found as JSON.

A step can hang, crash, write garbage or leave processes behind: the next one begins all the same, and the results, replaced
whole after every step, say what happened. No step may use up the time of those behind it: `least` of each is kept for it.
"""
import ctypes
import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable

MAX_OUTPUT = 32 << 20  # bytes of a command; one that writes more is ended
MAX_LOGGED = 200_000   # characters of a command in the log, its begin and its end
TAIL = 4000            # characters of a failed command's output that the results keep
FORMAT = "tailor-gpu-check-1"


class StepFailed(Exception):
    """What a judge raises; its words are the step's sentence."""


@dataclasses.dataclass
class Command:
    argv: list
    env: dict = dataclasses.field(default_factory=dict)  # beside ours
    cwd: str | None = None


@dataclasses.dataclass
class Said:
    """What a command left: its exit code, its whole output, and the JSON objects among its lines."""
    code: int
    text: str
    rows: list

    def of(self, kind):
        """Rows of {"what": kind, ..}; at least one."""
        found = [row for row in self.rows if row.get("what") == kind]
        if not found:
            raise StepFailed(f"said nothing of {kind}")
        return found


@dataclasses.dataclass
class Verdict:
    sentence: str
    figures: dict = dataclasses.field(default_factory=dict)
    skipped: bool = False


@dataclasses.dataclass
class Step:
    """`judge` is called with what each command said, in order, all of them ended with code 0 (or with any, where `any_code`)."""
    name: str
    about: str
    seconds: float
    commands: list
    judge: Callable
    least: float = 5
    any_code: bool = False
    skip: str = ""  # why it cannot run here; then it has no commands


def whole(value):
    """`value` with what JSON cannot say (NaN, infinity, other types) made null or words."""
    if isinstance(value, dict):
        return {str(key): whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [whole(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def write_whole(path, results):
    """Replaces `path`: who reads it sees the old text or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(whole(results), file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def rows_of(text):
    rows = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


def adopt_orphans():
    """What the steps leave behind becomes our child, and can be ended."""
    prctl, set_child_subreaper = ctypes.CDLL(None, use_errno=True).prctl, 36
    prctl(set_child_subreaper, 1, 0, 0, 0)


def end_children():
    """Ends and reaps every process below us, whoever started it; gives how many there were."""
    ended = 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        children = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[1]) == os.getpid():
                    children.append((int(entry.name), fields[0]))
        if not children:
            break
        for pid, state in children:
            if state != "Z":
                ended += 1
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        time.sleep(0.02)
    return ended


class TimeIsUp(Exception):
    pass


def run_command(command, deadline, log):
    """Raises TimeIsUp at `deadline`, StepFailed where it cannot be started or writes without end."""
    with tempfile.TemporaryFile() as output:
        log.write(f"$ {' '.join(map(str, command.argv))}\n")
        try:
            process = subprocess.Popen([str(word) for word in command.argv], stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT, cwd=command.cwd, start_new_session=True,
                                       env={**os.environ, **{key: str(value) for key, value in command.env.items()}})
        except OSError as error:
            raise StepFailed(f"cannot start {command.argv[0]}: {error.strerror}") from None
        trouble = None
        while process.poll() is None and trouble is None:
            if time.monotonic() > deadline:
                trouble = TimeIsUp()
            elif os.fstat(output.fileno()).st_size > MAX_OUTPUT:
                trouble = StepFailed(f"wrote more than {MAX_OUTPUT >> 20} MiB and was ended")
            else:
                time.sleep(0.01)
        if trouble is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        text = output.read(MAX_OUTPUT).decode(errors="replace")
        if len(text) > MAX_LOGGED:
            log.write(f"{text[:MAX_LOGGED // 2]}\n[..]\n{text[-MAX_LOGGED // 2:]}\n")
        else:
            log.write(text if text.endswith("\n") or not text else text + "\n")
        if trouble is not None:
            trouble.text = text
            raise trouble
    return Said(process.returncode, text, rows_of(text))


def judged(step, deadline, log):
    """(state, sentence, figures, tail of the output where it matters)"""
    said, text = [], ""
    try:
        for command in step.commands:
            one = run_command(command, deadline, log)
            text = one.text
            if one.code != 0 and not step.any_code:
                how = f"code {one.code}" if one.code > 0 else f"signal {signal.Signals(-one.code).name}"
                lines = [line for line in text.splitlines() if line.strip() and not line.startswith("{")]
                last = ": " + lines[-1].strip()[:300] if lines else ""
                raise StepFailed(f"{os.path.basename(str(command.argv[0]))} ended with {how}{last}")
            said.append(one)
        verdict = step.judge(*said)
        return ("skipped" if verdict.skipped else "passed"), verdict.sentence, verdict.figures, ""
    except TimeIsUp as error:
        return "timed out", "was not over in its time", {}, error.text[-TAIL:]
    except StepFailed as error:
        return "failed", str(error), {}, getattr(error, "text", text)[-TAIL:]
    except Exception as error:  # whatever a judge trips over in garbage: pylint: disable=broad-except
        log.write(traceback.format_exc())
        return "failed", f"what it said makes no sense ({type(error).__name__}: {error})", {}, text[-TAIL:]


def leave(*_):
    raise SystemExit(143)


def run_steps(steps, out, seconds, facts, say=print):
    """Runs them within `seconds`; results are in `out`/results.json, all output in `out`/log.txt. Gives the results."""
    adopt_orphans()
    signal.signal(signal.SIGTERM, leave)
    began = time.monotonic()
    results = {"format": FORMAT, **facts, "passed": False, "seconds_allowed": seconds, "seconds": 0,
               "steps": [{"name": step.name, "about": step.about, "state": "not run"} for step in steps]}
    path = out / "results.json"
    write_whole(path, results)
    with open(out / "log.txt", "w", encoding="utf-8", errors="replace") as log:
        for i, step in enumerate(steps):
            row = results["steps"][i]
            if step.skip:
                row.update(state="skipped", sentence=step.skip)
            else:
                kept = sum(later.least for later in steps[i + 1:] if not later.skip)
                step_began = time.monotonic()
                allowed = min(step.seconds, seconds - (step_began - began) - kept)
                if allowed < min(step.least, step.seconds) / 2:
                    row.update(state="not run", sentence="no time was left for it")
                else:
                    try:
                        row.update(state="running", sentence="",
                                   commands=[" ".join(map(str, command.argv)) for command in step.commands])
                        write_whole(path, results)
                        log.write(f"\n==== {step.name}: {step.about}\n")
                        state, sentence, figures, tail = judged(step, step_began + allowed, log)
                    except BaseException:  # we are to end: SIGTERM, an interrupt
                        row.update(state="interrupted", seconds=round(time.monotonic() - step_began, 2))
                        write_whole(path, results)
                        raise
                    finally:
                        left_behind = end_children()
                    row.update(state=state, sentence=sentence, figures=figures, seconds=round(time.monotonic() - step_began, 2),
                               seconds_allowed=round(allowed, 1))
                    if tail:
                        row["output_tail"] = tail
                    if left_behind:
                        row["processes_left_behind"] = left_behind
                    log.flush()
            results["seconds"] = round(time.monotonic() - began, 2)
            write_whole(path, results)
            say(f"{row['state']:>9}  {step.name}: {row['sentence']}")
    results["passed"] = all(row["state"] in ("passed", "skipped") for row in results["steps"])
    results["over"] = True
    write_whole(path, results)
    return results


def table(results):
    lines = [f"{'step':<22} {'state':<10} {'s':>6}  what was found"]
    for row in results["steps"]:
        lines.append(f"{row['name']:<22} {row['state']:<10} {row.get('seconds', 0):>6.1f}  {row.get('sentence', '')}")
    return "\n".join(lines)
