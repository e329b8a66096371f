"""Which preset fits a machine (launch/machine-preset), by what its nvidia-smi says, and which CUDA toolkit a build takes
(cmake/CudaToolkit.cmake). Machines of stand-ins: a nvidia-smi that prints, folders that look like toolkits."""
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

SMI = """#!/bin/sh
case "$*" in
  -L) cat "$STAGE/list" ;;
  *compute_cap*) [ -z "$OLD" ] || { echo 'Field "compute_cap" is not a valid field to query.'; exit 2; }; cat "$STAGE/query" ;;
  *) cut -d, -f1-3 "$STAGE/query" ;;
esac
exit ${SMI_FAILS-0}
"""


class Staged(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.stage = pathlib.Path(folder.name)
        self.tools = self.stage / "tools"
        self.tools.mkdir()
        for tool in ("bash", "sh", "cat", "cut", "sed", "awk", "sort", "paste", "head", "timeout", "dirname"):
            (self.tools / tool).symlink_to(shutil.which(tool))

    def program(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(stat.S_IRWXU)


class Machine(Staged):
    def fits(self, gpus, listed="", **more):
        """What machine-preset prints on a machine of these lines of nvidia-smi, and what it says beside."""
        self.program(self.tools / "nvidia-smi", SMI)
        (self.stage / "query").write_text(gpus, encoding="utf-8")
        (self.stage / "list").write_text(listed, encoding="utf-8")
        done = subprocess.run([ROOT / "launch/machine-preset"], env={"PATH": str(self.tools), "STAGE": str(self.stage), **more},
                              capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip(), done.stderr.strip()

    def test_no_nvidia_smi_is_no_gpu(self):
        done = subprocess.run([ROOT / "launch/machine-preset"], env={"PATH": str(self.tools)}, capture_output=True, text=True,
                              timeout=60, check=True)
        self.assertEqual((done.stdout, done.stderr), ("cpu\n", ""))

    def test_gpus_are_compiled_for(self):
        self.assertEqual(self.fits("0, GPU-a, 580.65.06, 9.0, Disabled\n"), ("cuda 90a", ""))
        self.assertEqual(self.fits("0, GPU-a, 580.65.06, 8.0, [N/A]\n1, GPU-b, 580.65.06, 9.0, Disabled\n"
                                   "2, GPU-c, 580.65.06, 8.0, Disabled\n"), ("cuda 80;90a", ""))

    def test_an_old_driver_serves_on_the_cpu_and_says_so(self):
        preset, said = self.fits("0, GPU-a, 550.54.15, 9.0, Disabled\n")
        self.assertEqual(preset, "cpu")
        self.assertIn("its driver is 550.54.15", said)
        self.assertIn("needs 580 or newer: update the driver", said)
        preset, said = self.fits("0, GPU-a, 470.82\n", OLD="1")  # its nvidia-smi does not know what is asked
        self.assertEqual(preset, "cpu")
        self.assertIn("its driver is 470.82", said)

    def test_a_toolkit_of_the_system_takes_an_older_driver(self):
        self.program(self.tools / "cmake", "#!/bin/sh\necho '12.8 /usr/local/cuda-12.8'\n")
        self.assertEqual(self.fits("0, GPU-a, 550.54.15, 9.0, Disabled\n"), ("cuda 90a", ""))
        preset, said = self.fits("0, GPU-a, 520.1, 9.0, Disabled\n")
        self.assertEqual(preset, "cpu")
        self.assertIn("needs 525", said)

    def test_an_old_gpu_is_named(self):
        self.assertEqual(self.fits("0, GPU-a, 580.1, 7.0, [N/A]\n"), ("cpu", "machine-preset: no GPU is used: GPU 0 has compute "
                                                                   "capability 7.0, 8.0 or newer is needed (BF16)"))

    def test_a_driver_that_does_not_answer_is_quoted(self):
        preset, said = self.fits("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", SMI_FAILS="9")
        self.assertEqual(preset, "cpu")
        self.assertIn("couldn't communicate with the NVIDIA driver", said)

    def test_cuda_visible_devices_holds(self):
        two = "0, GPU-aaaa, 580.1, 8.0, Disabled\n1, GPU-bbbb, 580.1, 9.0, Disabled\n"
        for visible, preset in (("0", "cuda 80"), ("1", "cuda 90a"), ("GPU-bb", "cuda 90a"), ("1,0", "cuda 80;90a")):
            self.assertEqual(self.fits(two, CUDA_VISIBLE_DEVICES=visible), (preset, ""), visible)
        for hidden in ("", "-1", "7"):
            preset, said = self.fits(two, CUDA_VISIBLE_DEVICES=hidden)
            self.assertEqual(preset, "cpu", hidden)
            self.assertIn("hides all of them", said)

    def test_mig_counts_by_its_instances(self):
        gpu = "0, GPU-aaaa, 580.1, 9.0, Enabled\n"
        preset, said = self.fits(gpu, "GPU 0: NVIDIA H100 (UUID: GPU-aaaa)\n")
        self.assertEqual(preset, "cpu")
        self.assertIn("MIG mode and has no instance", said)
        cut = "GPU 0: NVIDIA H100 (UUID: GPU-aaaa)\n  MIG 1g.10gb     Device  0: (UUID: MIG-1111)\n"
        self.assertEqual(self.fits(gpu, cut), ("cuda 90a", ""))
        self.assertEqual(self.fits(gpu, cut, CUDA_VISIBLE_DEVICES="MIG-1111"), ("cuda 90a", ""))
        self.assertEqual(self.fits(gpu, cut, CUDA_VISIBLE_DEVICES="MIG-2222")[0], "cpu")


class TestsRun(Staged):
    def ran(self, *label, gpus="0, GPU-a, 580.1, 9.0, Disabled\n"):
        """What tests/run asks of set-up and ctest, and what it prints."""
        tree = self.stage / "tree"
        for part in ("tests/run", "launch/machine-preset"):
            (tree / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / part, tree / part)
        self.program(tree / "launch/setup", '#!/bin/sh\necho "setup $*"; mkdir -p build/"$2"\n')
        self.program(self.tools / "ctest", '#!/bin/sh\necho "ctest in ${PWD##*/}: $*"\n')
        for tool in ("nproc", "id", "mkdir"):
            (self.tools / tool).symlink_to(shutil.which(tool))
        self.program(self.tools / "nvidia-smi", SMI)
        (self.stage / "query").write_text(gpus, encoding="utf-8")
        done = subprocess.run([tree / "tests/run", *label], env={"PATH": str(self.tools), "STAGE": str(self.stage)}, cwd=tree,
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_builds_what_fits_the_machine(self):
        said = self.ran()
        self.assertIn("setup --build cuda\n", said)
        self.assertIn("ctest in cuda: --output-on-failure", said)
        for tool in ("nproc", "id", "mkdir"):
            (self.tools / tool).unlink()
        self.assertIn("setup --build cpu\n", self.ran(gpus=""))

    def test_gpu_is_skipped_in_one_sentence_without_one(self):
        self.assertEqual(self.ran("gpu", gpus=""), "tests/run: skipped (gpu), for no NVIDIA GPU can be used here\n")

    def test_gpu_runs_where_there_is_one(self):
        said = self.ran("gpu")
        self.assertIn("setup --build cuda cuda_tests\n", said)
        self.assertIn("-L ^gpu$", said)

    def test_cuda_needs_no_gpu(self):
        said = self.ran("cuda", gpus="")
        self.assertIn("setup --build cuda cuda_tests\n", said)
        self.assertIn("ctest in cuda", said)


class Toolkit(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.stage = pathlib.Path(folder.name)

    def toolkit(self, place, version, without=""):
        place = self.stage / place
        for file in ("include/cuda_runtime.h", "include/crt/host_defines.h", "include/cublasLt.h", "include/nv/target",
                     "include/nccl.h", "lib64/libcublasLt.so.13", "lib64/libcudart.so.13", "lib64/libnccl.so.2", "bin/nvcc"):
            if without and without in file:
                continue
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
            (place / file).chmod(stat.S_IRWXU)
        return str(place)

    def found(self, *system):
        done = subprocess.run(["cmake", f"-DCUDA_PLACES={';'.join(system)}", f"-DCUDA_ENVIRONMENT={self.stage}/env", "-P",
                               ROOT / "cmake/CudaToolkit.cmake"], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() or " ".join(done.stderr.split())

    def test_the_systems_toolkit_comes_before_the_wheels(self):
        wheels = self.toolkit("env/lib/python3.11/site-packages/nvidia/cu13", "13.0")
        system = self.toolkit("cuda", "12.8")
        self.assertEqual(self.found(system), f"12.8 {system}")
        self.assertEqual(self.found(), f"13.0 {wheels}")

    def test_no_build_takes_half_of_two(self):
        wheels = self.toolkit("env/lib/python3.11/site-packages/nvidia/cu13", "13.0")
        for without in ("nvcc", "cublasLt.h", "libcublasLt", "crt/host_defines.h"):
            self.assertEqual(self.found(self.toolkit(f"no-{without.replace('/', '-')}", "13.0", without)), f"13.0 {wheels}")
        self.assertEqual(self.found(self.toolkit("old", "11.8")), f"13.0 {wheels}")

    def test_what_is_missing_is_named(self):
        said = self.found(self.toolkit("old", "11.8"), self.toolkit("part", "13.0", "libcublasLt"))
        self.assertIn("nvcc 12.4 or newer (it is 11.8)", said)
        self.assertIn("lacks libcublasLt and libcudart", said)


if __name__ == "__main__":
    unittest.main(verbosity=2)
