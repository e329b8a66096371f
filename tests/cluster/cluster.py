"""A real cluster for tests: `tailor serve` on the default model, its real processes, its real sockets.

Everything waits for events with deadlines; nothing sleeps to let things happen. Several can run at once, beside
others of the user: a cluster has a port of the system's choice, and is asked about its own processes and files.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("TAILOR_BIN", ROOT / "build/cpu/bin"))
sys.path.insert(0, str(ROOT / "client/python"))

READY_S = 180
PATIENCE_S = 120  # for anything else: ends a test that hangs, and no machine is too busy for it
ENVIRONMENT = dict(os.environ)


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


def processes_under(marker):
    """Live processes whose command line names `marker` (a run folder), as {pid: command line}."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if marker in line and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found[int(entry.name)] = line.strip()
    return found


def freeze_main_thread(pid):
    """Stops the main thread of `pid` and no other, as a deadlock would."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    seize, interrupt = 0x4206, 0x4207
    for request in (seize, interrupt):
        if ptrace(request, pid, None, None) != 0:
            raise unittest.SkipTest(f"this machine lets nobody trace: {os.strerror(ctypes.get_errno())}")

    def see_its_end():  # until its tracer has, its parent does not
        while os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
            pass

    threading.Thread(target=see_its_end, daemon=True).start()


class Cluster:
    """`environment`: instead of ours; `prefix`: words before the command (unshare ...); `output`: where serve prints
    to, instead of the file that output() reads."""

    def __init__(self, *args, model="default", replicas=1, tp=1, threads=1, environment=None, prefix=(), output=None):
        self.endpoint = None  # known when the coordinator is bound
        self.folder = tempfile.TemporaryDirectory(prefix="tlr-")
        self.run_dir = os.path.join(self.folder.name, "run")
        self.log = open(os.path.join(self.folder.name, "serve.log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [*prefix, str(BIN / "tailor"), "serve", "--model", str(model), "--replicas", str(replicas), "--tp", str(tp),
             "--threads", str(threads), "--endpoint", "tcp://127.0.0.1:*", "--run-dir", self.run_dir, *map(str, args)],
            stdout=self.log if output is None else output, stderr=subprocess.STDOUT,
            env=ENVIRONMENT if environment is None else environment)

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
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        with contextlib.suppress(OSError):
            self.folder.cleanup()

    def output(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(encoding="utf-8", errors="replace")

    def shared_memory(self):
        """What this cluster has in /dev/shm: its folder, and what its processes have mapped by name."""
        found = {str(p) for p in [pathlib.Path(f"/dev/shm/tailor-{os.getuid()}-{self.process.pid}")] if p.exists()}
        for pid in processes_under(self.run_dir):
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
                    path = line.partition("/dev/shm/")[2]
                    if path and not path.endswith(" (deleted)"):
                        found.add("/dev/shm/" + path)
        return found

    def stop(self, signal_number=signal.SIGTERM):
        """Asks it to stop; gives its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(PATIENCE_S)

    def status(self):
        done = run_tailor("status", "--endpoint", self.endpoint, "--json", timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.output()}")
            if self.endpoint is None:
                with contextlib.suppress(OSError):  # not there yet
                    addresses = pathlib.Path(self.run_dir, "coordinator.json").read_text(encoding="utf-8")
                    self.endpoint = json.loads(addresses)["api_endpoint"]
                return None
            status = self.status()
            return status if status and status["ready"] else None

        return wait_until(ready, READY_S, f"ready; output so far:\n{self.output()}")

    def generate(self, *args, timeout=300):
        """`tailor generate --json`: the printed objects. Fails on a non-zero exit."""
        done = run_tailor("generate", "--endpoint", self.endpoint, "--json", *args, timeout=timeout)
        if done.returncode != 0:
            raise AssertionError(f"generate failed: {done.stderr}\nserve said:\n{self.output()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def programs(self, name):
        return sorted(pid for pid, line in processes_under(self.run_dir).items()
                      if line.split(" ", 1)[0].endswith(name))

    def workers(self):
        """pids of the rank processes, by (replica, command line order)."""
        return self.programs("tailor-worker")

    def coordinators(self):
        return self.programs("tailor-coordinator")
