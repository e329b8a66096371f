"""launch/setup itself, with stand-ins for what it downloads with and builds with: a machine's network is not ours to
break. That the real ones work together is proven by tools/fresh-machine."""
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "home = $3" >"$3/pyvenv.cfg" ;;
  *"pip install"*) echo "$TMPDIR" >>"$STAGE/pip-tmpdir"
    cuda=${0%/bin/python}/lib/python3.11/site-packages/nvidia/cu13/lib; mkdir -p "$cuda" && : >"$cuda/libx.so.13"; {pip} ;;
  *platform*) echo 3.11.7 ;;
esac
"""
# Compiles for longer than the downloads take, as the real one does on a new machine, with temporary files all along.
CARGO = """#!/bin/bash
if [ "$1" = --version ]; then echo "cargo 1.99.0"; exit; fi
{cargo}
first=$(mktemp) || exit 1
for ((i = 0; i < 600; i++)); do [ -e "$STAGE/build-began" ] && break; read -rt 0.1 <><(:); done
[ -e "$STAGE/build-began" ] && [ -e "$first" ] && rm "$first" && second=$(mktemp) && rm "$second" || exit 1
echo done >"$STAGE/cargo-ended"
"""
CMAKE = """#!/bin/sh
case "$*" in
  *CudaToolkit.cmake*) exit ${NO_SYSTEM_CUDA-1} ;;
  *--build*) : >"$STAGE/build-began" ;;
  *) echo "$*" >>"$STAGE/configured" ;;
esac
"""


class Setup(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.stage = pathlib.Path(folder.name)
        self.cache = self.stage / "cache"
        for part in ("launch/setup", "launch/machine-preset", "text/rust/Cargo.toml", "text/rust/Cargo.lock"):
            (self.stage / "tree" / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / part, self.stage / "tree" / part)
        # The models are there, by their sizes: what set-up looks at.
        text = (ROOT / "launch/setup").read_text(encoding="utf-8")
        sizes = dict(line.split("=", 1) for line in text.splitlines() if line.split("=")[0] in ("model_bytes", "encoder_bytes"))
        for path, size in (("models/default/SmolLM2-135M-Instruct.Q4_1.gguf", sizes["model_bytes"]),
                           ("models/minilm/model.safetensors", sizes["encoder_bytes"].split()[0])):
            (self.cache / path).parent.mkdir(parents=True)
            with open(self.cache / path, "wb") as file:
                file.truncate(int(size))

    def run_setup(self, *words, pip=":", cargo=":", **more):
        tools = self.stage / "tools"
        tools.mkdir(exist_ok=True)
        for name, text in (("python3", PYTHON.replace("{pip}", pip)), ("cargo", CARGO.replace("{cargo}", cargo)), ("cmake", CMAKE)):
            (tools / name).write_text(text, encoding="utf-8")
            (tools / name).chmod(stat.S_IRWXU)
        environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}", STAGE=str(self.stage), TAILOR_CACHE=str(self.cache),
                           TMPDIR=str(self.stage), **more)
        return subprocess.run([str(self.stage / "tree/launch/setup"), "--build", *(words or ["cpu"])], env=environment, text=True, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)

    def test_each_item_owns_its_scratch_for_as_long_as_it_runs(self):
        done = self.run_setup()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue((self.stage / "cargo-ended").exists())
        scratch = (self.stage / "pip-tmpdir").read_text(encoding="utf-8").splitlines()
        self.assertTrue(scratch and all(line.startswith(str(self.cache)) for line in scratch), "pip unpacks beside its result")
        self.assertEqual(list(self.cache.glob("tmp.*")), [], "nothing is left")

    def check_failure(self, done, *said):
        self.assertEqual(done.returncode, 1, done.stdout)
        for part in said:
            self.assertIn(part, done.stdout)
        if not any("network" in part for part in said):
            self.assertNotIn("network", done.stdout)
        self.assertEqual(list(self.cache.glob("tmp.*")), [], "nothing is left")

    def test_advice_fits_a_compiler_error(self):
        self.check_failure(self.run_setup(cargo="echo 'error: could not compile `onig_sys`' >&2; exit 101"),
                           "rust failed", "could not compile", 'The first "error" in that log says why')

    def test_advice_fits_a_full_disk(self):
        self.check_failure(self.run_setup(pip="echo 'OSError: [Errno 28] No space left on device' >&2; exit 1"),
                           "python failed", "A disk is full", "TAILOR_CACHE")

    def test_advice_fits_an_absent_network(self):
        self.check_failure(self.run_setup(pip="echo 'NewConnectionError: Connection refused' >&2; exit 1"),
                           "python failed", "The network did not give it")

    def test_no_preset_changes_what_another_was_built_with(self):
        tree = self.stage / "tree"
        self.assertEqual(self.run_setup("cpu").returncode, 0)
        cpu = os.readlink(tree / ".deps")
        for preset, what in (("cuda", "cuBLAS and NCCL"), ("cuda-torch", "libtorch with CUDA")):
            done = self.run_setup(preset)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn(what, done.stdout)
            self.assertEqual(os.readlink(tree / ".deps"), cpu)
            self.assertNotEqual(os.readlink(tree / f".deps-{preset}"), cpu)
        self.assertEqual(len(list(self.cache.glob("env-*"))), 3)

    def test_a_toolkit_of_the_system_is_not_fetched_again(self):
        done = self.run_setup("cuda", NO_SYSTEM_CUDA="0")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertFalse((self.stage / "tree/.deps-cuda").exists())

    def test_a_gpu_that_can_be_used_is_built_for(self):
        (self.stage / "tools").mkdir()
        smi = self.stage / "tools/nvidia-smi"
        smi.write_text("#!/bin/sh\necho '0, GPU-1, 580.1, 8.0, Disabled'\n", encoding="utf-8")
        smi.chmod(stat.S_IRWXU)
        done = self.run_setup("cuda")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("-DCMAKE_CUDA_ARCHITECTURES=80", (self.stage / "configured").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
