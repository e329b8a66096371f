"""`tailor serve` and `tailor doctor` on machines with NVIDIA GPUs that are stand-ins: a nvidia-smi that prints, a driver's
library of ours, worker programs that do nothing."""
import json
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import unittest

BIN = pathlib.Path(os.environ["TAILOR_BIN"])
DRIVER = pathlib.Path(os.environ["FAKE_CUDA_DRIVER"])

SMI = """#!/bin/sh
case "$*" in
  -L) cat "$STAGE/list" ;;
  topo*) cat "$STAGE/topo" ;;
  *index,uuid*) cat "$STAGE/query" ;;
  --query-gpu=index,*) field=${1#--query-gpu=index,}; [ -e "$STAGE/$field" ] || { echo "Field is not a valid field"; exit 2; }
                       cat "$STAGE/$field" ;;
esac
"""
H200 = "{0}, GPU-{0}{0}, NVIDIA H200, {1}, 9.0, Disabled, 143771, {2}\n"


class GpuMachine(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.stage = pathlib.Path(folder.name)
        self.bin = self.stage / "bin"
        self.bin.mkdir()
        shutil.copy(BIN / "tailor", self.bin)
        for program in ("tailor-coordinator", "tailor-worker", "tailor-worker-cuda"):
            self.program(self.bin / program, "#!/bin/sh\n")
        (self.stage / "model.gguf").write_text("x", encoding="utf-8")
        self.program(self.stage / "tools/nvidia-smi", SMI)
        self.gpus(2)

    def program(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(stat.S_IRWXU)

    def gpus(self, count, driver="580.65.06", free=143000):
        (self.stage / "query").write_text("".join(H200.format(i, driver, free) for i in range(count)), encoding="utf-8")

    def tailor(self, *words, **more):
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment.update({"PATH": f"{self.stage}/tools:{os.environ['PATH']}", "STAGE": str(self.stage), "LC_ALL": "C"}, **more)
        return subprocess.run([self.bin / "tailor", *words], env=environment, text=True, timeout=100, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)

    def serve(self, *words, **more):
        return self.tailor("serve", "--print", "--oversubscribe", "--model", str(self.stage / "model.gguf"), *words, **more)

    # ---- serve ----

    def test_every_replica_is_given_gpus_of_its_own(self):
        self.gpus(4)
        for single in ((), ("--single",)):
            said = self.serve("--replicas", "2", "--tp", "2", *single).stdout
            self.assertIn("-x CUDA_VISIBLE_DEVICES=GPU-00,GPU-11 -x OMP", said)
            self.assertIn("-x CUDA_VISIBLE_DEVICES=GPU-22,GPU-33 -x OMP", said)
            self.assertIn("/tailor-worker-cuda --model", said)
            self.assertIn("--engine cuda --device cuda", said)

    def test_what_the_user_hid_is_not_given(self):
        said = self.serve(CUDA_VISIBLE_DEVICES="1").stdout
        self.assertIn("-x CUDA_VISIBLE_DEVICES=GPU-11 -x OMP", said)
        said = self.serve(CUDA_VISIBLE_DEVICES="").stdout
        self.assertIn("--engine cpu --device cpu", said)
        self.assertNotIn("CUDA_VISIBLE_DEVICES", said)
        self.assertNotIn("tailor: ", said)

    def test_more_ranks_than_gpus_are_refused_in_one_sentence(self):
        done = self.serve("--replicas", "3")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout, "tailor: --replicas 3 x --tp 1 needs 3 GPUs (one for each rank), and 2 can be used here: ask "
                                      "for less, or compute on the CPU with --device cpu\n")
        self.assertEqual(self.serve("--replicas", "3", "--device", "cpu").returncode, 0)

    def test_ranks_on_other_hosts_take_what_they_see(self):
        done = self.serve("--replicas", "8", "--hostfile", "hosts")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("--device cuda", done.stdout)
        self.assertNotIn("CUDA_VISIBLE_DEVICES", done.stdout)

    def test_an_old_driver_leaves_the_cpu_and_a_word_about_it(self):
        self.gpus(1, driver="550.54.15")
        done = self.serve()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("tailor: the CPU computes, no GPU can be used: the NVIDIA driver is 550.54.15", done.stdout)
        self.assertIn("--engine cpu --device cpu", done.stdout)
        done = self.serve("--device", "cuda")
        self.assertEqual(done.returncode, 1)
        self.assertIn("550.54.15", done.stdout)

    # ---- doctor ----

    def doctor(self, **more):
        """[(topic, verdict, found, change)]"""
        libraries = self.stage / "lib"
        libraries.mkdir(exist_ok=True)
        for name in ("libcuda.so.1", "libnccl.so.2"):
            shutil.copy(DRIVER, libraries / name)
        self.program(self.stage / "tools/ldd", f"#!/bin/sh\necho '\tlibnccl.so.2 => {libraries}/libnccl.so.2 (0x0000)'\n")
        done = self.tailor("doctor", "--json", "--endpoint", f"ipc://{self.stage}/x", "--model", str(self.stage / "model.gguf"),
                           LD_LIBRARY_PATH=str(libraries), **{"FAKE_CUDA_DEVICES": "2", **more})
        return [(f["topic"], f["verdict"], f["found"], f["change"]) for f in json.loads(done.stdout)["findings"]]

    def one(self, findings, topic, part=""):
        found = [f for f in findings if f[0] == topic and part in f[2]]
        self.assertEqual(len(found), 1, f"{topic} {part}: {findings}")
        return found[0]

    def test_doctor_looks_for_the_worker_that_would_serve(self):
        (self.bin / "tailor-worker").unlink()
        findings = self.doctor()
        self.assertEqual(self.one(findings, "tailor-worker-cuda")[1], "ok")
        self.assertEqual([f for f in findings if f[0] == "tailor-worker"], [])
        (self.bin / "tailor-worker-cuda").unlink()
        findings = self.doctor()
        self.assertEqual(self.one(findings, "tailor-worker")[1], "BLOCKS")
        self.assertIn("launch/setup --build cuda", self.one(findings, "CUDA", "this build computes on the CPU")[3])

    def test_doctor_on_a_good_machine(self):
        (self.stage / "topo").write_text("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV18\t0-15\nGPU1\tNV18\t X \t0-15\n")
        (self.stage / "clocks.sm").write_text("0, 345\n1, 345\n")
        (self.stage / "clocks.max.sm").write_text("0, 1980\n1, 1980\n")
        findings = self.doctor()
        for topic, part in (("driver", "580.65.06; CUDA"), ("GPU 0", "NVIDIA H200, compute capability 9.0, 149.95 GB of 150.75 GB"),
                            ("GPU 1", "clock 345 MHz now, 1980 MHz at most"), ("CUDA", "up to 13.0 and shows 2 device(s), 2 rank(s)"),
                            ("peer access", "every GPU"), ("NVLink", "between all GPUs"), ("NCCL", "2.28.9")):
            self.assertEqual(self.one(findings, topic, part)[1], "ok", (topic, part))

    def test_doctor_says_what_to_change(self):
        self.gpus(2, free=70000)
        (self.stage / "topo").write_text("\tGPU0\tGPU1\nGPU0\t X \tSYS\nGPU1\tSYS\t X \n")
        (self.stage / "compute_mode").write_text("0, Default\n1, Prohibited\n")
        (self.stage / "persistence_mode").write_text("0, Disabled\n1, Enabled\n")
        (self.stage / "clocks_throttle_reasons.hw_thermal_slowdown").write_text("0, Active\n1, Not Active\n")  # an older name
        (self.stage / "ecc.errors.uncorrected.volatile.total").write_text("0, 3\n1, [N/A]\n")
        findings = self.doctor(FAKE_CUDA_APART="1")
        for topic, part, change in (("GPU 0", "73.40 GB of 150.75 GB", "nvidia-smi names them"),
                                    ("GPU 0", "persistence mode", "nvidia-smi -pm 1"), ("GPU 0", "heat", "cooling"),
                                    ("GPU 0", "3 uncorrected", "nvidia-smi -r"), ("GPU 1", "Prohibited", "nvidia-smi -c DEFAULT"),
                                    ("peer access", "0-1 1-0", "ACS"), ("NVLink", "PCIe", "--replicas")):
            self.assertIn(change, self.one(findings, topic, part)[3])

    def test_doctor_knows_a_driver_that_is_not_ready(self):
        findings = self.doctor(FAKE_CUDA_CODE="802")
        self.assertIn("fabricmanager", self.one(findings, "CUDA", "CUDA_ERROR_SYSTEM_NOT_READY (802)")[3])

    def test_doctor_names_an_old_driver(self):
        self.gpus(1, driver="550.54.15")
        findings = self.doctor()
        self.assertEqual(self.one(findings, "driver")[3], "update the NVIDIA driver")
        self.assertIn("550.54.15", self.one(findings, "GPU", "CUDA")[2])


if __name__ == "__main__":
    unittest.main(verbosity=2)
