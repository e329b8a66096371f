"""A real cluster for tests: `tailor serve` on the default model, its real processes, its real sockets.

Everything waits for events with deadlines; nothing sleeps to let things happen.
"""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TAILOR_BIN", ROOT / "build/cpu/bin"))
sys.path.insert(0, str(ROOT / "comm/python"))

READY_S = 180
ENVIRONMENT = dict(os.environ)


def free_endpoint():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"


def run_tailor(*args, timeout=300, **kwargs):
    """Runs a `tailor` command to its end; gives the CompletedProcess."""
    return subprocess.run([str(BIN / "tailor"), *map(str, args)], capture_output=True, text=True, timeout=timeout,
                          **kwargs)


def wait_until(condition, timeout, what):
    """Polls `condition` until it holds; fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.02)


def shared_memory_files():
    names = set()
    for pattern in ("vader_segment*", "tailor*", "ompi*", "psm*", "sm_segment*"):
        names.update(str(p) for p in pathlib.Path("/dev/shm").glob(pattern))
    return names


def processes_under(marker):
    """Live processes whose command line or environment names `marker` (a run folder), as {pid: command line}."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if marker in line and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found[int(entry.name)] = line.strip()
    return found


class Cluster:
    def __init__(self, *args, model="default", replicas=1, tp=1, threads=1):
        self.endpoint = free_endpoint()
        self.folder = tempfile.TemporaryDirectory(prefix="tlr-")
        self.run_dir = os.path.join(self.folder.name, "run")
        self.shared_before = shared_memory_files()
        self.log = open(os.path.join(self.folder.name, "serve.log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [str(BIN / "tailor"), "serve", "--model", model, "--replicas", str(replicas), "--tp", str(tp),
             "--threads", str(threads), "--endpoint", self.endpoint, "--run-dir", self.run_dir, *map(str, args)],
            stdout=self.log, stderr=subprocess.STDOUT, env=ENVIRONMENT)

    def __enter__(self):
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        with contextlib.suppress(OSError):
            self.folder.cleanup()

    def output(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(encoding="utf-8", errors="replace")

    def status(self):
        done = run_tailor("status", "--endpoint", self.endpoint, "--json", timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.output()}")
            status = self.status()
            return status if status and status["ready"] else None

        return wait_until(ready, READY_S, f"ready; output so far:\n{self.output()}")

    def generate(self, *args, timeout=300):
        """`tailor generate --json`: the printed objects. Fails on a non-zero exit."""
        done = run_tailor("generate", "--endpoint", self.endpoint, "--json", *args, timeout=timeout)
        if done.returncode != 0:
            raise AssertionError(f"generate failed: {done.stderr}\nserve said:\n{self.output()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def workers(self):
        """pids of the rank processes, by (replica, command line order)."""
        return sorted(pid for pid, line in processes_under(self.run_dir).items()
                      if line.split(" ", 1)[0].endswith("tailor-worker"))
