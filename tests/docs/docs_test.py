"""What README.md and docs/ tell a reader to type works (blocks.py says how a block is tagged).

    docs_test.py tags              every block is tagged, every option of `tailor` that it names exists
    docs_test.py run | nightly     runs the blocks of that tag, in the order of the documents, in an empty folder
                                   and HOME, beside one cluster that the README's own line starts

The text of a shell block is run as it stands: build/cpu/bin/tailor is there a script that adds a free port's
--endpoint where the documents rely on the default one. In other languages the port is replaced in the text.
"""
import contextlib
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import blocks
from blocks import ENDPOINT, ROOT

BIN = pathlib.Path(os.environ.get("TAILOR_BIN", ROOT / "build/cpu/bin"))
PATIENCE_S = {"run": 180, "nightly": 3600}  # for one line: ends a test that hangs
ASK_THE_CLUSTER = ("serve", "chat", "generate", "status", "doctor", "bench burst")
LACKS = os.environ.get("TAILOR_LACKS", "").split()  # commands that need libtorch, in a build without it
TYPED = "Say hello.\n"  # what the reader types where a command asks


def free_endpoint():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"


def tailor_calls(command):
    """The `tailor` commands in a line of shell, as lists of words: [["generate", "--chat", ...], ...]"""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    calls, call = [], None
    for word in lexer:
        if re.fullmatch(r"(build/cpu/bin/)?tailor", word):
            call = []
            calls.append(call)
        elif word[0] in "();<>|&":
            call = None
        elif call is not None:
            call.append(word)
    return calls


def lacks(call):
    return call[:1] != [] and call[0] in LACKS


class Tags(unittest.TestCase):
    def test_every_block_says_what_happens_to_it(self):
        for block in blocks.all_blocks():
            self.assertTrue(block.promise, f"{block}: the fence says {block.info!r}; expected a language and `run`, "
                                           "`nightly` or `show: REASON` (tests/docs/blocks.py)")

    def test_what_counts_as_a_tag(self):
        promises = {"sh run": "run", "cpp nightly": "nightly", "text show: a drawing": "show", "": "", "sh": "", "run": "",
                    "sh show": "", "sh show:": "", "text run": "", "sh runs": "", "show: a drawing": ""}
        for info, promise in promises.items():
            self.assertEqual(blocks.Block(ROOT / "README.md", 1, info).promise, promise, info)

    def test_every_option_of_tailor_that_a_block_names_exists(self):
        helps = {}
        for block in blocks.all_blocks():
            if block.language != "sh":
                continue
            for call in (call for line in block.commands() for call in tailor_calls(line)):
                words = call[:2] if call[:1] == ["bench"] else call[:1]
                if lacks(call):
                    print(f"not checked, for this build lacks it: {block}: tailor {words[0]}")
                    continue
                if tuple(words) not in helps:
                    helps[tuple(words)] = self.options_of(words)
                known = helps[tuple(words)]
                for word in call:
                    if word.startswith("--"):
                        self.assertIn(word.partition("=")[0], known, f"{block}: tailor {' '.join(words)}")

    def options_of(self, words):
        done = subprocess.run([BIN / "tailor", *words, "--help"], capture_output=True, text=True, timeout=PATIENCE_S["run"])
        self.assertEqual(done.returncode, 0, f"tailor {' '.join(words)} --help: {done.stderr}")
        return set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))


class Reader:
    """Follows the documents in a scratch folder that looks like the root of a checkout."""

    def __init__(self, patience_s):
        self.patience_s = patience_s
        self.endpoint = free_endpoint()
        self.folder = tempfile.TemporaryDirectory(prefix="tlr-docs-")
        self.cwd = pathlib.Path(self.folder.name, "tailor")
        self.serve = None
        home = pathlib.Path(self.folder.name, "home")
        cache = pathlib.Path(os.environ.get("TAILOR_CACHE") or pathlib.Path.home() / ".cache/tailor")
        (home / ".cache/tailor").mkdir(parents=True)
        for entry in cache.iterdir():  # what set-up keeps; what programs keep there begins anew
            if not entry.name.startswith(("packed", "tmp.")):
                (home / ".cache/tailor" / entry.name).symlink_to(entry)
        (self.cwd / "build/cpu/bin").mkdir(parents=True)
        for entry in ROOT.iterdir():
            if entry.name != "build":
                (self.cwd / entry.name).symlink_to(entry)
        for program in BIN.iterdir():
            if program.name != "tailor":
                (self.cwd / "build/cpu/bin" / program.name).symlink_to(program)
        if (ROOT / "build/rust").exists():
            (self.cwd / "build/rust").symlink_to(ROOT / "build/rust")
        cases = "|".join(f'"{words} "*' for words in ASK_THE_CLUSTER)
        wrapper = self.cwd / "build/cpu/bin/tailor"
        wrapper.write_text(f'#!/bin/sh\ncase "$* " in {cases}) set -- "$@" --endpoint {self.endpoint};; esac\n'
                           f'exec {shlex.quote(str(BIN / "tailor"))} "$@"\n', encoding="utf-8")
        wrapper.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TAILOR_", "XDG_"))}
        self.environment = dict(kept, HOME=str(home), PATH=f"{ROOT}/.deps/bin:{os.environ['PATH']}",
                                CARGO_HOME=os.environ.get("CARGO_HOME", str(pathlib.Path.home() / ".cargo")),
                                RUSTUP_HOME=os.environ.get("RUSTUP_HOME", str(pathlib.Path.home() / ".rustup")),
                                TAILOR_DOC_ENDPOINT=self.endpoint, PYTHONDONTWRITEBYTECODE="1",
                                OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        if "TAILOR_PYTHON_PROTO" in os.environ:
            self.environment["TAILOR_PYTHON_PROTO"] = os.environ["TAILOR_PYTHON_PROTO"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.serve is not None and self.serve.poll() is None:
            self.serve.kill()
            self.serve.wait()
        with contextlib.suppress(OSError):
            self.folder.cleanup()

    def run(self, words, name):
        """Runs to the end, with all it started; fails on a code that is not 0. Gives what it printed."""
        began = time.monotonic()
        log = pathlib.Path(self.folder.name, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(words, cwd=self.cwd, env=self.environment, stdin=subprocess.PIPE, stdout=out,
                                       stderr=subprocess.STDOUT, start_new_session=True)
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(TYPED.encode())
                    process.stdin.close()
                process.wait(self.patience_s)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # a job that it left in the background
                code = process.wait()
        text = log.read_text(encoding="utf-8", errors="replace")
        print(f"{time.monotonic() - began:6.1f} s  {name}", flush=True)
        if code != 0:
            raise AssertionError(f"{name}\nended with {code}:\n{text}")
        return text

    def shell(self, line):
        if any(call[:1] == ["serve"] for call in tailor_calls(line)):
            return self.start_cluster(line)
        if any(map(lacks, tailor_calls(line))):
            print(f"not run, for this build lacks it: {line}", flush=True)
            return ""
        return self.run(["bash", "-euo", "pipefail", "-c", line], line)

    def start_cluster(self, line):
        if self.serve is not None:
            raise AssertionError(f"a second cluster on the same port: {line}")
        self.log = pathlib.Path(self.folder.name, "serve.log")
        with self.log.open("wb") as out:
            self.serve = subprocess.Popen(["bash", "-c", "exec " + line], cwd=self.cwd, env=self.environment,
                                          stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        status = [str(BIN / "tailor"), "status", "--quiet", "--wait", "1", "--endpoint", self.endpoint]
        until = time.monotonic() + self.patience_s
        while subprocess.run(status, timeout=60).returncode != 0:
            if self.serve.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{line}\nis not ready; it said:\n{self.log.read_text(encoding='utf-8')}")
        print(f"  ready   {line}", flush=True)

    def stop_cluster(self):
        self.serve.send_signal(signal.SIGINT)  # Ctrl-C stops it
        return self.serve.wait(self.patience_s)

    def follow(self, block):
        if block.language == "sh":
            for line in block.commands():
                self.shell(line)
        elif block.language == "python":
            self.run([sys.executable, "-c", block.text.replace(ENDPOINT, self.endpoint)], f"{block} (python)")
        else:
            self.run([BIN.parent / "tests/docs_api_example"], f"{block} (C++)")


class Blocks(unittest.TestCase):
    promise = ""

    def test_blocks(self):
        wanted = [block for block in blocks.all_blocks() if block.promise == self.promise]
        self.assertTrue(wanted)
        with Reader(PATIENCE_S[self.promise]) as reader:
            start = [line for block in blocks.blocks_of(ROOT / "README.md") if block.promise == "run"
                     for line in block.commands() if any(call[:1] == ["serve"] for call in tailor_calls(line))]
            self.assertEqual(len(start), 1, "the README starts one cluster")
            if self.promise != "run":
                reader.start_cluster(start[0])
            failed = []
            for block in wanted:
                try:
                    reader.follow(block)
                except AssertionError as error:
                    failed.append(f"{block}: {error}")
            self.assertEqual(failed, [], "\n\n".join(failed))
            self.assertEqual(reader.stop_cluster(), 0, reader.log.read_text(encoding="utf-8"))


if __name__ == "__main__":
    what = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if what not in ("tags", *PATIENCE_S):
        sys.exit(__doc__)
    Blocks.promise = what
    unittest.main(verbosity=2, defaultTest="Tags" if what == "tags" else "Blocks")
