"""tools/gpu-check's runner: steps that hang, fail, write garbage or leave processes behind stop no other, and the results are
whole JSON at every moment. And the limit that speeds are held against, on the reference's own numbers."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from gpu_check import limits, pack, steps  # pylint: disable=wrong-import-position
from gpu_check.runner import Said, StepFailed, Verdict, rows_of, whole  # pylint: disable=wrong-import-position

# The runner ends every process below it: it runs in a process of its own.
RUN = """
import sys
sys.path.insert(0, {tools!r})
from gpu_check.runner import *
python = sys.executable

def good(*said):
    return Verdict("fine", {{"value": said[-1].of("thing")[0]["value"]}})

def step(name, code, judge=good, seconds=20.0, **more):
    return Step(name, name, seconds, [Command([python, "-c", code])], judge, least=0.1, **more)

GOOD = 'print(\\'{{"what": "thing", "value": 7}}\\')'
steps = [{steps}]
results = run_steps(steps, pathlib.Path({out!r}), {seconds}, {{"commit": "none"}})
sys.exit(0 if results["passed"] else 1)
"""


class Runner(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name)

    def start(self, body, seconds=60):
        code = RUN.format(tools=str(ROOT / "tools"), steps=body, out=str(self.out), seconds=seconds)
        return subprocess.Popen([sys.executable, "-B", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def results(self):
        def refuse(name):
            raise AssertionError(f"{name} is no JSON")

        return json.loads((self.out / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)

    def run_all(self, body, seconds=60):
        """{name: row}"""
        process = self.start(body, seconds)
        self.said, _ = process.communicate(timeout=120)
        self.code = process.returncode
        self.found = self.results()
        return {row["name"]: row for row in self.found["steps"]}

    def test_one_that_hangs_fails_or_writes_garbage_stops_no_other(self):
        rows = self.run_all("""
            step("hangs", "import signal, time; signal.signal(15, signal.SIG_IGN); print('so far'); "
                 "sys = __import__('sys'); sys.stdout.flush(); time.sleep(600)", seconds=1.0),
            step("fails", "print('why'); raise SystemExit(3)"),
            step("dies", "import os; os.kill(os.getpid(), 11)"),
            step("garbage", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 99 + b'\\\\n{not json}\\\\n[1]\\\\n{')"),
            step("nan", "print('{\\"what\\": \\"thing\\", \\"value\\": NaN}')"),
            step("other shape", "print('{\\"what\\": \\"thing\\"}')"),
            step("floods", "while True: print('x' * 100000)"),
            Step("no program", "", 9.0, [Command(["/nowhere/at/all"])], good),
            Step("skipped", "", 9.0, [], good, skip="it cannot be here"),
            step("good", GOOD)""")
        states = {name: row["state"] for name, row in rows.items()}
        self.assertEqual(states, {"hangs": "timed out", "fails": "failed", "dies": "failed", "garbage": "failed",
                                  "nan": "passed", "other shape": "failed", "floods": "failed", "no program": "failed",
                                  "skipped": "skipped", "good": "passed"}, self.said)
        self.assertIn("code 3: why", rows["fails"]["sentence"])
        self.assertIn("SIGSEGV", rows["dies"]["sentence"])
        self.assertEqual(rows["garbage"]["sentence"], "said nothing of thing")
        self.assertIn("makes no sense (KeyError", rows["other shape"]["sentence"])
        self.assertIn("wrote more than", rows["floods"]["sentence"])
        self.assertIn("cannot start /nowhere/at/all", rows["no program"]["sentence"])
        self.assertEqual(rows["hangs"]["output_tail"], "so far\n")
        self.assertIsNone(rows["nan"]["figures"]["value"])
        self.assertEqual(rows["good"]["figures"], {"value": 7})
        self.assertEqual((self.code, self.found["passed"], self.found["over"]), (1, False, True))

    def test_all_good_is_exit_status_0(self):
        self.run_all('step("a", GOOD), step("b", GOOD), Step("c", "", 1.0, [], good, skip="no")')
        self.assertEqual((self.code, self.found["passed"]), (0, True))

    def test_processes_left_behind_are_ended(self):
        pid_file = self.out / "pid"
        rows = self.run_all(f"""
            step("leaves", "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
                 " start_new_session=True); open({str(pid_file)!r}, 'w').write(str(p.pid)); " + GOOD),
            step("good", GOOD)""")
        self.assertEqual([row["state"] for row in rows.values()], ["passed", "passed"], self.said)
        self.assertEqual(rows["leaves"]["processes_left_behind"], 1)
        self.assertFalse(os.path.exists(f"/proc/{pid_file.read_text()}"))

    def test_no_step_takes_the_time_of_those_behind_it(self):
        rows = self.run_all("""
            Step("hangs", "", 600.0, [Command([python, "-c", "import time; time.sleep(600)"])], good, least=0.1),
            Step("good", "", 600.0, [Command([python, "-c", GOOD])], good, least=6)""", seconds=8)
        self.assertEqual([row["state"] for row in rows.values()], ["timed out", "passed"], self.said)
        self.assertLess(rows["hangs"]["seconds"], 4)
        rows = self.run_all('Step("long", "", 600.0, [Command([python, "-c", GOOD])], good, least=30)', seconds=8)
        self.assertEqual(rows["long"]["state"], "not run")

    def test_what_is_found_is_there_before_the_next_step(self):
        process = self.start('step("good", GOOD), step("hangs", "import time; time.sleep(600)")')
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    states = [row["state"] for row in self.results()["steps"]]
                except FileNotFoundError:
                    states = []
                if states == ["passed", "running"]:
                    break
                time.sleep(0.02)
            self.assertEqual(states, ["passed", "running"])
        finally:
            process.terminate()
            process.communicate(timeout=60)
        self.assertEqual([row["state"] for row in self.results()["steps"]], ["passed", "interrupted"])
        self.assertNotIn("over", self.results())


class Judges(unittest.TestCase):
    def said(self, text, code=0):
        return Said(code, text, rows_of(text))

    def test_of_a_test_program(self):
        good = "[       OK ] A.A (0 ms)\n"
        passed = steps.judge_test(self.said(good + "[  SKIPPED ] A.B (0 ms)\n" + good + "[  PASSED  ] 2 tests.\n"))
        self.assertEqual((passed.sentence, passed.figures["skipped"]), ("2 tests passed, 1 skipped", ["A.B"]))
        for text, code in ((good + "[  PASSED  ] 1 test.\n[  FAILED  ] A.C (1 ms)\n", 1), ("[  PASSED  ] 0 tests.\n", 0),
                           (good + "[  PASSED  ] 1 test.\n", -6), ("", 0), (good, 0)):
            with self.assertRaises(StepFailed):
                steps.judge_test(self.said(text, code))

    def test_of_a_test_program_whose_environment_skips_all(self):
        # GoogleTest says that tests have passed which never ran.
        with self.assertRaisesRegex(StepFailed, "all of it was skipped: no driver is here"):
            steps.judge_test(self.said("rig.cc:11: Skipped\nno driver is here\n\n[----------] Global test environment tear-down\n"
                                       "[==========] 19 tests from 4 test suites ran. (0 ms total)\n[  PASSED  ] 19 tests.\n"))

    def test_of_the_sanitizer(self):
        tests = "[       OK ] A.A (0 ms)\n[  PASSED  ] 1 test.\n"
        self.assertEqual(steps.judge_sanitizer(self.said(tests + "========= ERROR SUMMARY: 0 errors")).figures["findings"], 0)
        with self.assertRaisesRegex(StepFailed, "2 findings, the first: Invalid __global__ read"):
            steps.judge_sanitizer(self.said("========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4\n" + tests +
                                            "========= ERROR SUMMARY: 2 errors", code=9))  # --error-exitcode
        with self.assertRaisesRegex(StepFailed, "no summary"):
            steps.judge_sanitizer(self.said(tests))

    def test_of_torch(self):
        def rows(f32, bf16):
            return self.said("".join(json.dumps({
                "what": "logits_against_torch", "type": name, "torch": "2", "device": "cpu", "spread": 1.0,
                "largest_difference": largest, "mean_difference_from_f32": mean, "torch_mean_difference_from_f32": 0.01})
                + "\n" for name, largest, mean in (("f32", f32, 1e-6), ("bf16", 0.1, bf16))))

        self.assertIsInstance(steps.judge_oracle(rows(1e-5, 0.012)), Verdict)
        for f32, bf16 in ((0.01, 0.012), (1e-5, 0.03)):
            with self.assertRaisesRegex(StepFailed, "too far"):
                steps.judge_oracle(rows(f32, bf16))


class Packing(unittest.TestCase):
    def test_tests_find_their_programs_and_mpirun_where_they_were_unpacked(self):
        folder = pathlib.Path("/there")
        alone = {"name": "a", "command": ["tests/a", "--x"], "program": 0, "environment": {}}
        ranks = {"name": "b", "command": ["/usr/bin/mpiexec", "-n", "1", "tests/b"], "program": 3, "environment": {}}
        self.assertEqual(pack.unpacked_test(alone, folder, "/there/mpirun")["command"], ["/there/tests/a", "--x"])
        self.assertEqual(pack.unpacked_test(ranks, folder, "/there/mpirun")["command"],
                         ["/there/mpirun", "-n", "1", "/there/tests/b"])
        self.assertEqual(ranks["command"][3], "tests/b")

    def test_the_machine_has_its_own_c_library_driver_and_cuda(self):
        for name in ("libc.so.6", "ld-linux-x86-64.so.2", "libcuda.so.1", "libcudart.so.13", "libcublasLt.so.13", "libnccl.so.2"):
            self.assertTrue(pack.THERE.match(name), name)
        for name in ("libmpi.so.40", "libzmq.so.5", "libstdc++.so.6", "libprotobuf.so.32", "libcom_err.so.2"):
            self.assertFalse(pack.THERE.match(name), name)
        self.assertTrue(pack.LEFT_OUT.match("libucp.so.0"))
        self.assertFalse(pack.LEFT_OUT.match("libpmix.so.2"))


class Values(unittest.TestCase):
    def test_results_are_json_whatever_was_found(self):
        self.assertEqual(whole({"a": float("nan"), 1: (float("inf"), pathlib.Path("x"), True, None)}),
                         {"a": None, "1": [None, "x", True, None]})

    def test_rows_are_the_lines_that_are_objects(self):
        self.assertEqual(rows_of('{"a": 1}\n[2]\n{broken\n {"b": 1}\nwords\n{"c": {}}'), [{"a": 1}, {"c": {}}])

    def test_the_limit_of_a_decode_step(self):
        # An H200's measured 4.3 TB/s and 790 TFLOP/s, 1024 tokens of context: 3.52, 4.49 and 12.9 ms.
        found = [limits.decode_limit_us(limits.LLAMA_8B, batch, 1024, 4.3e6, 790e6) for batch in (1, 32, 256)]
        self.assertEqual([round(us) for us in found], [3522, 4489, 12854])
        self.assertEqual(limits.kv_values_per_token(limits.LLAMA_8B) * 2, 128 << 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
