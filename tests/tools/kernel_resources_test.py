"""tools/kernel_resources reads what ptxas 13.0 writes. That it finds a spill which nvcc really made: preset cuda's
kernel_resources_finds_a_spill."""
import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools/kernel_resources"
loader = importlib.machinery.SourceFileLoader("kernel_resources", str(TOOL))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("kernel_resources", loader))
loader.exec_module(tool)

GOOD = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN6tailor4ropeIfEEvPT_i' for 'sm_90a'
ptxas info    : Function properties for _ZN6tailor4ropeIfEEvPT_i
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1056 bytes smem
ptxas info    : Compile time = 29.136 ms
"""


class KernelResources(unittest.TestCase):
    def run_on(self, text):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "a.cu.o.ptxas").write_text(text, encoding="utf-8")
            done = subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True, check=False, timeout=60)
            return done.returncode, done.stdout

    def test_reads_kernels(self):
        self.assertEqual(tool.read_report(GOOD), [("_ZN6tailor4ropeIfEEvPT_i", "sm_90a",
                         {"stack": 0, "spill stores": 0, "spill loads": 0, "registers": 40, "shared": 1056})])
        code, said = self.run_on(GOOD)
        self.assertEqual(code, 0, said)
        self.assertIn("40 registers   1056 B shared  rope<float>", said)

    def test_a_spill_is_out_of_bounds(self):
        code, said = self.run_on(GOOD + GOOD.replace("0 bytes spill stores", "8 bytes spill stores").replace("rope", "norm"))
        self.assertEqual(code, 1, said)
        self.assertIn("norm<float>  <- 8 bytes of spill stores", said)
        self.assertIn("2 kernels, 1 out of bounds", said)

    def test_local_memory_and_registers_are_bounded(self):
        self.assertEqual(self.run_on(GOOD.replace("0 bytes stack", "64 bytes stack"))[0], 1)
        self.assertEqual(self.run_on(GOOD.replace("Used 40", f"Used {tool.MAX_REGISTERS}"))[0], 0)
        self.assertEqual(self.run_on(GOOD.replace("Used 40", f"Used {tool.MAX_REGISTERS + 1}"))[0], 1)

    def test_a_build_without_kernels_is_no_success(self):
        self.assertEqual(self.run_on("")[0], 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
