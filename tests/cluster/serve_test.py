"""One cluster, end to end: the commands a user types, with the real model."""
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
import unittest

import zmq

from cluster import BIN, PATIENCE_S, ROOT, Cluster, processes_under, run_tailor, wait_until

CACHE = os.environ.get("TAILOR_CACHE", str(pathlib.Path.home() / ".cache/tailor"))
QUESTION = "Why are Christmas markets so popular in Germany?"


class TwoReplicas(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(replicas=2)
        cls.cluster.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__()

    def test_generate_prints_one_object_with_ids_text_and_timings(self):
        (answer,) = self.cluster.generate("--chat", QUESTION, "--max-tokens", 24, "--temperature", 0)
        self.assertEqual(len(answer["token_ids"]), 24)
        self.assertEqual(answer["finish_reason"], "length")
        self.assertGreater(len(answer["prompt_token_ids"]), 10)
        self.assertTrue(answer["text"])
        self.assertGreater(answer["timings"]["first_token"], 0)
        self.assertGreaterEqual(answer["timings"]["finished"], answer["timings"]["first_token"])
        self.assertEqual(answer["usage"], {"prompt_tokens": len(answer["prompt_token_ids"]), "completion_tokens": 24,
                                           "prompt_tokens_details": {"cached_tokens": 0}})

    def test_many_prompts_come_back_in_the_order_of_the_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for i in range(12):
                file.write(json.dumps({"prompt": f"{i} and one makes", "max_tokens": 2 + (7 * i) % 11,
                                       "temperature": 0, "ignore_eos": True}) + "\n")
            file.flush()
            answers = self.cluster.generate("--prompts", file.name)
        self.assertEqual([len(a["token_ids"]) for a in answers], [2 + (7 * i) % 11 for i in range(12)])

    def test_the_same_seed_gives_the_same_answer_and_another_seed_another(self):
        def ask(seed):
            (a,) = self.cluster.generate("--chat", QUESTION, "--max-tokens", 16, "--temperature", 0.9, "--seed", seed)
            return a["token_ids"]

        self.assertEqual(ask(7), ask(7))
        self.assertNotEqual(ask(7), ask(8))

    def test_n_samples_differ_and_their_prompt_is_counted_once(self):
        (answer,) = self.cluster.generate("--chat", QUESTION, "--max-tokens", 16, "--temperature", 1.0, "--n", 4,
                                          "--seed", 3)
        texts = [tuple(s["token_ids"]) for s in answer["samples"]]
        self.assertEqual(len(texts), 4)
        self.assertGreater(len(set(texts)), 1)

    def test_collect_gives_the_lengths_of_an_engine_of_its_own(self):
        with tempfile.TemporaryDirectory() as folder:
            prompts = pathlib.Path(folder, "prompts.jsonl")
            prompts.write_text("".join(json.dumps({"id": f"t/{i}", "text": text}) + "\n" for i, text in enumerate(
                [QUESTION, "Name three colours.", "Say hello in Japanese: \u3053\u3093\u306b\u3061\u306f"])), encoding="utf-8")
            found = []
            for name, where in (("cluster", ("--endpoint", self.cluster.endpoint)), ("offline", ("--threads", 1))):
                out = pathlib.Path(folder, name)
                done = run_tailor("collect", "--prompts", prompts, "--out", out, "--samples", 3, "--max-tokens", 60, *where)
                self.assertEqual(done.returncode, 0, done.stderr)
                header, *lines = map(json.loads, out.read_text(encoding="utf-8").splitlines())
                found.append((header["model_fingerprint"], header["arithmetic"], header["sampling"],
                              sorted(lines, key=lambda line: line["id"])))
            self.assertEqual(found[0], found[1])
            self.assertEqual([len(line["lengths"]) for line in found[0][3]], [3, 3, 3])

    def test_a_stop_string_ends_the_text_before_it(self):
        (plain,) = self.cluster.generate("--chat", QUESTION, "--max-tokens", 40, "--temperature", 0)
        word = plain["text"].split()[6]
        (cut,) = self.cluster.generate("--chat", QUESTION, "--max-tokens", 40, "--temperature", 0, "--stop", word)
        self.assertEqual(cut["finish_reason"], "stop")
        self.assertEqual(cut["text"], plain["text"][: plain["text"].index(word)])

    def test_chat_breaks_lines_between_words_on_a_terminal(self):
        command = [BIN / "tailor", "chat", "--endpoint", self.cluster.endpoint, "--temperature", "0", "--max-tokens", "60"]
        plain = subprocess.run(command, input=QUESTION + "\n", capture_output=True, text=True, timeout=PATIENCE_S).stdout
        terminal, its_end = pty.openpty()
        fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=its_end) as process:
            os.close(its_end)
            process.stdin.write(QUESTION.encode() + b"\n")
            process.stdin.close()
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the program is gone
                while piece := os.read(terminal, 4096):
                    shown += piece
        os.close(terminal)
        lines = shown.decode().replace("\r\n", "\n").split("\n")
        self.assertGreater(max(map(len, plain.split("\n"))), 40)
        self.assertLessEqual(max(map(len, lines)), 40)
        self.assertEqual(" ".join(" ".join(lines).split()), " ".join(plain.split()))

    def test_end_tokens_stop_and_special_tokens_of_users_are_words(self):
        end = {"token": 2, "text": "<|im_end|>"}
        self.assertEqual(self.cluster.status()["end_tokens"], [end])
        (answer,) = self.cluster.generate("--chat", "Say hi", "--max-tokens", 60, "--temperature", 0, "--ignore-eos",
                                          "--stop", end["text"])
        self.assertEqual((answer["finish_reason"], answer["token_ids"][-1]), ("stop", end["token"]))
        self.assertNotIn(end["text"], answer["text"])
        written = "x" + end["text"] + "y"
        counts = []
        for arguments in (("--chat", written), ("--chat", written, "--parse-special-tokens"), ("--prompt", written),
                          ("--prompt", written, "--no-parse-special-tokens")):
            (answer,) = self.cluster.generate(*arguments, "--max-tokens", 1)
            counts.append(answer["prompt_token_ids"].count(end["token"]))
        self.assertEqual(counts, [2, 3, 1, 0])  # the template itself ends two turns, one of its own system message

    def test_more_samples_than_slots_are_answered(self):
        (answer,) = self.cluster.generate("Hi", "--n", 64, "--max-tokens", 2, "--ignore-eos", "--seed", 1)
        self.assertEqual([len(sample["token_ids"]) for sample in answer["samples"]], [2] * 64)

    def test_status_names_both_replicas(self):
        status = self.cluster.status()
        self.assertTrue(status["ready"])
        self.assertEqual(len(status["replicas"]), 2)
        self.assertEqual(status["policy"], "tie")

    def test_nothing_stays_in_flight_to_an_idle_replica(self):
        def in_flight():
            return [replica["commands_in_flight"] for replica in self.cluster.status()["replicas"]]
        wait_until(lambda: in_flight() == [0, 0], PATIENCE_S, "nothing in flight")

    def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(self):
        done = run_tailor("generate", "--endpoint", self.cluster.endpoint, "--prompt", "many words " * 9000)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\d{5}.*\d{4}")
        self.assertEqual(len(done.stderr.strip().splitlines()), 1)

    def test_messages_far_too_large_disturb_nobody_and_their_memory_returns(self):
        def varint(n):
            return (bytes([n & 0x7F | 0x80]) + varint(n >> 7)) if n >= 0x80 else bytes([n])

        def field(number, content):
            return varint(number << 3 | 2) + varint(len(content)) + content

        coordinator = json.loads(pathlib.Path(self.cluster.run_dir, "coordinator.json").read_text())["pid"]

        def resident_mib():
            (line,) = [x for x in pathlib.Path(f"/proc/{coordinator}/status").read_text().splitlines() if x.startswith("VmRSS")]
            return int(line.split()[1]) / 1024

        epochs = [replica["epoch"] for replica in self.cluster.status()["replicas"]]
        before = resident_mib()
        with zmq.Context() as context, context.socket(zmq.DEALER) as client:
            client.linger, client.sndhwm = 0, 0
            client.connect(self.cluster.endpoint)
            # Empty logit_bias entries, a tenant, chat messages of a byte, a prompt that cannot fit the context.
            parts = ([field(6, field(8, b"") * 1_000_000), field(8, b"t" * 6_000_000)] * 15 +
                     [field(3, field(1, field(2, b"x")) * 60_000), field(2, b"1" * 4_000_000)] * 2)
            names = [f"large-{i:02}".encode() for i in range(len(parts))]
            for name, part in zip(names, parts):
                client.send(field(2, field(1, name) + field(2, b"Hi") + part))
            (answer,) = self.cluster.generate("--chat", QUESTION, "--max-tokens", 8, "--temperature", 0)
            self.assertEqual(len(answer["token_ids"]), 8)
            # Each is answered once, in as many messages as there is credit for.
            answers = b""
            while any(name not in answers for name in names):
                self.assertTrue(client.poll(1000 * PATIENCE_S), "every message is answered")
                answers += client.recv()
                client.send(field(4, b"\x08\x10"))
        wait_until(lambda: resident_mib() < before + 100, PATIENCE_S, f"{before} MiB again, not {resident_mib()}")
        self.assertEqual([replica["epoch"] for replica in self.cluster.status()["replicas"]], epochs)

    def test_a_stranger_on_the_control_port_is_not_heard_and_the_key_shows_nowhere(self):
        run_dir = pathlib.Path(self.cluster.run_dir)
        key = run_dir / "link.key"
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        secret = key.read_bytes().strip()
        for pid in processes_under(self.cluster.run_dir):
            self.assertNotIn(secret, pathlib.Path("/proc", str(pid), "cmdline").read_bytes())
            self.assertNotIn(secret, pathlib.Path("/proc", str(pid), "environ").read_bytes())
        control = json.loads((run_dir / "coordinator.json").read_text())["control_endpoint"]
        epochs = [replica["epoch"] for replica in self.cluster.status()["replicas"]]
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.linger = 0
            refusals = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
            stranger.connect(control)
            stranger.send(bytes.fromhex("08015200"))  # protocol version 1, a Hello as replica 0
            self.assertTrue(refusals.poll(1000 * PATIENCE_S), "the handshake is refused")
            (answer,) = self.cluster.generate("--chat", QUESTION, "--max-tokens", 8, "--temperature", 0)
            self.assertEqual(len(answer["token_ids"]), 8)
            stranger.disable_monitor()
            refusals.close()
        status = self.cluster.status()
        self.assertTrue(status["ready"])
        self.assertEqual([replica["epoch"] for replica in status["replicas"]], epochs)
        worker = subprocess.run(["mpirun", "-n", "1", BIN / "tailor-worker", "--control-endpoint", control, "--link-key",
                                 run_dir / "no.key"], capture_output=True, text=True, timeout=60,
                                env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
        self.assertNotEqual(worker.returncode, 0)
        self.assertIn("there is no link key", worker.stdout + worker.stderr)


class TensorParallel(unittest.TestCase):
    def test_tp_2_answers_as_tp_1_does_and_leaves_nothing_when_it_stops(self):
        with Cluster(replicas=1, tp=1) as one:
            (alone,) = one.generate("--chat", QUESTION, "--max-tokens", 48, "--temperature", 0)
        with Cluster(replicas=1, tp=2) as two:
            shared = two.shared_memory()
            self.assertTrue(shared, "there is something to leave behind")
            (split,) = two.generate("--chat", QUESTION, "--max-tokens", 48, "--temperature", 0)
            self.assertEqual(len(two.workers()), 2)
            self.assertEqual(split["prompt_token_ids"], alone["prompt_token_ids"])
            self.assertEqual(split["token_ids"], alone["token_ids"])
            self.assertEqual(two.stop(signal.SIGINT), 0, two.output())
            self.assertEqual(processes_under(two.run_dir), {})
        self.assertEqual([path for path in shared if os.path.exists(path)], [])


class Advice(unittest.TestCase):
    def test_generation_config_holds_where_a_request_says_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder, "model")
            model.mkdir()
            shutil.copy(ROOT / "tests/fixtures/models/llama31_small/config.json", model)
            (model / "generation_config.json").write_text(json.dumps({"do_sample": False}), encoding="utf-8")
            prompts = pathlib.Path(folder, "prompts.jsonl")
            prompts.write_text("".join(json.dumps(dict(token_ids=[1, 5, 9], max_tokens=24, ignore_eos=True, **says)) + "\n"
                                       for says in (dict(seed=1), dict(seed=2), dict(seed=2, temperature=1.0, top_p=1.0))),
                               encoding="utf-8")
            with Cluster("--predictor", "none", "--dummy-weights", model=model) as cluster:
                one, two, three = (answer["token_ids"] for answer in cluster.generate("--prompts", prompts))
        self.assertEqual(one, two)  # greedy: the seed does not matter
        self.assertNotEqual(two, three)


class BadOptions(unittest.TestCase):
    def test_what_a_program_refuses_is_the_reason_that_serve_gives(self):
        with tempfile.TemporaryDirectory(prefix="tlr-") as folder:
            launcher = pathlib.Path(folder, "mpirun")  # serve refuses what it knows to be wrong: this comes behind it
            launcher.write_text('#!/bin/sh\ncase "$*" in *tailor-worker*) set -- "$@" --slots 0 ;; esac\nexec mpirun "$@"\n',
                                encoding="utf-8")
            launcher.chmod(0o755)
            done = run_tailor("serve", "--predictor", "none", "--threads", 1, "--mpirun", launcher, "--run-dir",
                              f"{folder}/run", "--endpoint", "tcp://127.0.0.1:*")
        self.assertEqual(done.returncode, 1)
        self.assertIn("\n  tailor-worker: --slots: Value 0 not in range 1 to 1024\n  (log: ", done.stdout + done.stderr)


class SingleLine(unittest.TestCase):
    def test_one_mpmd_line_serves_and_stops(self):
        with Cluster("--single", replicas=2) as cluster:
            (answer,) = cluster.generate("--chat", QUESTION, "--max-tokens", 8, "--temperature", 0)
            self.assertEqual(len(answer["token_ids"]), 8)
            cluster.stop()
            self.assertEqual(processes_under(cluster.run_dir), {})

    def test_the_printed_lines_work_by_hand(self):
        with tempfile.TemporaryDirectory(prefix="tlr-") as folder:
            run_dir = pathlib.Path(folder, "run")
            printed = run_tailor("serve", "--single", "--print", "--replicas", 1, "--threads", 1, "--predictor", "none",
                                 "--endpoint", "tcp://127.0.0.1:*", "--run-dir", run_dir)
            self.assertEqual(printed.returncode, 0, printed.stderr)
            shell = subprocess.Popen(["bash", "-c", "set -euo pipefail\n" + printed.stdout], start_new_session=True,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                addresses = wait_until(lambda: (run_dir / "coordinator.json").exists() and
                                       json.loads((run_dir / "coordinator.json").read_text()), PATIENCE_S, "bound")
                ready = run_tailor("status", "--quiet", "--wait", PATIENCE_S, "--endpoint", addresses["api_endpoint"])
                self.assertEqual(ready.returncode, 0, ready.stderr)
            finally:
                os.killpg(shell.pid, signal.SIGTERM)
                shell.wait(PATIENCE_S)

    def test_a_rank_that_was_silent_for_a_while_costs_a_restart_and_no_more(self):
        with Cluster("--single") as cluster:
            (worker,) = cluster.workers()
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda: worker not in cluster.workers(), 30, "the stopped rank is ended")
            wait_until(lambda: (cluster.status() or {}).get("ready"), 60, "ready again")
            (answer,) = cluster.generate("--chat", QUESTION, "--max-tokens", 4, "--temperature", 0)
            self.assertEqual(len(answer["token_ids"]), 4)


class WithoutSupervisor(unittest.TestCase):
    """launch/mpirun-cluster: the printed lines, run as they stand."""

    @contextlib.contextmanager
    def started(self, *args, place="TMPDIR"):
        """`place`: the variable that names where its run folder lies."""
        self.endpoint = None
        command = [str(ROOT / "launch/mpirun-cluster"), "--threads", "1", "--predictor", "none", "--endpoint",
                   "tcp://127.0.0.1:*", *args]
        folder = tempfile.TemporaryDirectory(prefix="tlr-")
        self.addCleanup(folder.cleanup)
        self.marker = folder.name
        environment = {**os.environ, "TAILOR_BIN": str(BIN), "TAILOR_CACHE": CACHE, place: folder.name}
        with tempfile.TemporaryFile("w+") as log, subprocess.Popen(
                command, stdout=log, stderr=log, env=environment) as script:
            try:
                wait_until(lambda: script.poll() is None and self.status().get("ready"), 60, "ready")
                yield script
            except BaseException:
                log.seek(0)
                print(log.read())
                raise
            finally:
                if script.poll() is None:
                    script.terminate()
                    script.wait(20)
        wait_until(lambda: not processes_under(self.marker), 20, "no process is left")

    def status(self):
        for addresses in pathlib.Path(self.marker).glob("*/coordinator.json"):
            self.endpoint = json.loads(addresses.read_text(encoding="utf-8"))["api_endpoint"]
        if self.endpoint is None:
            return {}
        done = run_tailor("status", "--endpoint", self.endpoint, "--json", timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def test_an_mpirun_for_each_replica_serves(self):
        with self.started("--replicas", "2") as script:
            lines = pathlib.Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text(encoding="utf-8").split()
            said = "".join(pathlib.Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8") for pid in lines)
            shared = set(re.findall(r"/dev/shm/tailor-[^/]+", said))
            self.assertEqual(len(shared), 1, said)
            done = run_tailor("generate", "--endpoint", self.endpoint, "--chat", QUESTION, "--max-tokens", 4)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertFalse(pathlib.Path(shared.pop()).exists(), "what it made in shared memory goes with it")

    def test_help_is_printed_and_not_run(self):
        done = subprocess.run([ROOT / "launch/mpirun-cluster", "--help"], capture_output=True, text=True, check=False,
                              env={**os.environ, "TAILOR_BIN": str(BIN)})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("launch/mpirun-cluster [--single]", done.stdout)

    def test_only_lines_that_start_something_are_run(self):
        done = subprocess.run([ROOT / "launch/mpirun-cluster", "--write-config"], capture_output=True, text=True, check=False,
                              env={**os.environ, "TAILOR_BIN": str(BIN)})
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^mpirun-cluster: tailor serve --print was expected to print lines to run, found: .*\n$")

    def test_with_a_hostfile_the_key_lies_under_home_for_every_host_to_read(self):
        with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
            hosts.write("localhost slots=4\n")
            hosts.flush()
            with self.started("--hostfile", hosts.name, "--control-endpoint", "tcp://127.0.0.1:*", place="HOME"):
                self.assertEqual(len(list(pathlib.Path(self.marker).glob("*/link.key"))), 1)
            self.assertEqual(list(pathlib.Path(self.marker).glob("*/link.key")), [])

    def test_in_one_line_a_replica_that_was_given_up_ends_the_job(self):
        with self.started("--single") as script:
            (worker,) = (pid for pid, line in processes_under(self.marker).items()
                         if line.split(" ", 1)[0].endswith("tailor-worker"))
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda: not self.status().get("replicas"), 30, "the replica is given up")
            os.kill(worker, signal.SIGCONT)
            self.assertNotEqual(script.wait(30), 0)


class Surroundings(unittest.TestCase):
    def test_batch_systems_other_jobs_and_a_missing_home_do_not_matter(self):
        foreign = {"SLURM_JOB_ID": "1", "SLURM_JOBID": "1", "SLURM_NODELIST": "elsewhere", "SLURM_NNODES": "1",
                   "SLURM_TASKS_PER_NODE": "1", "SLURM_NTASKS": "1", "OMPI_MCA_plm": "slurm",
                   "OMPI_MCA_orte_ess_jobid": "1", "OMPI_COMM_WORLD_RANK": "3", "PMIX_RANK": "3", "PMIX_NAMESPACE": "x",
                   "OMPI_MCA_orte_default_hostfile": "/nonexistent",
                   "TAILOR_CACHE": CACHE}
        environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")} | foreign
        with Cluster("--predictor", "none", tp=2, environment=environment) as cluster:
            (answer,) = cluster.generate("--chat", QUESTION, "--max-tokens", 4, "--temperature", 0)
            self.assertEqual(len(answer["token_ids"]), 4)

    def test_names_that_do_not_resolve_and_a_host_name_that_mpirun_does_not_take(self):
        """Neither the host's name nor localhost can be looked up: hwloc asked for ten X displays at localhost."""
        within = "hostname " + "h" * 60 + " && mount --bind /dev/null /etc/hosts && exec \"$@\""
        prefix = ("unshare", "--uts", "--mount", "sh", "-c", within, "sh")
        if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
            self.skipTest("needs root for a host name of its own")
        with Cluster("--predictor", "none", prefix=prefix) as cluster:
            (answer,) = cluster.generate("--chat", QUESTION, "--max-tokens", 4, "--temperature", 0)
            self.assertEqual(len(answer["token_ids"]), 4)


class Idle(unittest.TestCase):
    def test_an_idle_2_by_2_cluster_uses_under_3_percent_of_a_core(self):
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        with Cluster("--oversubscribe", replicas=2, tp=2) as cluster:
            cluster.generate("--chat", "Hi", "--max-tokens", 4)  # it has worked, and now it idles

            def cpu_ticks():
                total = 0
                for pid in [*processes_under(cluster.run_dir), cluster.process.pid]:
                    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                    total += int(fields[11]) + int(fields[12])
                return total

            time.sleep(2)    # not a synchronisation: lets the answer's last work leave the window
            start, ticks = time.monotonic(), cpu_ticks()
            time.sleep(15)   # the window itself
            used = (cpu_ticks() - ticks) / ticks_per_s / (time.monotonic() - start)
            print(f"idle 2 x 2 cluster: {100 * used:.2f} % of one core")
            self.assertLess(used, 0.03)


class FullDisk(unittest.TestCase):
    def test_a_log_that_cannot_be_written_ends_no_cluster(self):
        with Cluster("--record", "/dev/full") as cluster:
            wait_until(lambda: "serving without recording" in cluster.output(), PATIENCE_S, cluster.output())
            (coordinator,) = cluster.coordinators()
            os.kill(coordinator, signal.SIGKILL)
            wait_until(lambda: cluster.coordinators() not in ([], [coordinator]), PATIENCE_S, cluster.output())
            cluster.wait_ready()
            (answer,) = cluster.generate("--prompt", "1 and one makes", "--max-tokens", 8)
            self.assertNotIn("error", answer)


class DrainedReplica(unittest.TestCase):
    def drain(self, cluster, *args):
        return run_tailor("drain", *args, "--endpoint", cluster.endpoint, "--run-dir", cluster.run_dir, timeout=PATIENCE_S)

    def test_it_finishes_what_it_runs_leaves_for_good_and_the_others_serve_on(self):
        with Cluster(replicas=2) as cluster, tempfile.NamedTemporaryFile("w+", suffix=".jsonl") as prompts:
            for i in range(8):
                prompts.write(json.dumps({"prompt": f"{i} and one makes", "max_tokens": 150, "temperature": 0,
                                          "ignore_eos": True}) + "\n")
            prompts.flush()
            workers = cluster.workers()
            ask = subprocess.Popen([BIN / "tailor", "generate", "--endpoint", cluster.endpoint, "--json", "--prompts",
                                    prompts.name], stdout=subprocess.PIPE, text=True)
            wait_until(lambda: all(r["running_sequences"] > 0 for r in cluster.status()["replicas"]), PATIENCE_S,
                       "both replicas run requests")
            begun = self.drain(cluster, 1, "--no-wait")
            self.assertEqual((begun.returncode, begun.stderr), (0, ""))
            self.assertRegex(begun.stdout, r"^replica 1 is draining: \d+ requests run on it; it leaves when they have ended\n$")
            over = self.drain(cluster, 1)  # said again it only waits
            # It may have been quicker than us; then it is not there any more.
            self.assertRegex(over.stdout + over.stderr, "replica 1 has drained after|no replica 1 is in the cluster")
            answers = [json.loads(line) for line in ask.communicate(timeout=PATIENCE_S)[0].splitlines()]
            self.assertEqual([len(a["token_ids"]) for a in answers], [150] * 8)
            self.assertEqual({a["timings"]["attempts"] for a in answers if a["timings"]["replica"] == 1}, {1})

            wait_until(lambda: "replica 1 has left for good" in cluster.output(), PATIENCE_S, cluster.output())
            status = cluster.status()
            self.assertEqual([r["replica"] for r in status["replicas"]], [0])
            self.assertEqual((status["ready"], status["expected_replicas"]), (True, 1))
            self.assertEqual((status["counters"]["replicas_drained"], status["counters"]["replicas_lost"]), (1, 0))
            (left,) = cluster.workers()
            self.assertIn(left, workers)
            # A replica that dies is still started again: by then the drained one would be back long ago.
            os.kill(left, signal.SIGKILL)
            wait_until(lambda: "replica 0 started again" in cluster.output(), PATIENCE_S, cluster.output())
            cluster.wait_ready()
            self.assertNotIn("replica 1 started again", cluster.output())
            (answer,) = cluster.generate("--prompt", "1 and one makes", "--max-tokens", 150, "--temperature", 0,
                                         "--ignore-eos")
            self.assertEqual(answer["token_ids"], answers[1]["token_ids"])

            none = self.drain(cluster, 7)
            self.assertEqual(none.returncode, 1)
            self.assertIn("no replica 7 is in the cluster", none.stderr)
            self.assertIn("its replicas: 0", none.stderr)

    def test_only_who_may_write_in_the_run_folder_drains(self):
        with Cluster() as cluster:
            orders = pathlib.Path(cluster.run_dir, "orders")
            self.assertEqual(orders.stat().st_mode & 0o777, 0o600)
            done = run_tailor("drain", 0, "--last", "--endpoint", cluster.endpoint)  # its folder is not where ours are looked for
            self.assertEqual(done.returncode, 1)
            self.assertIn("no cluster of yours", done.stderr)
            with tempfile.TemporaryDirectory() as other:  # the folder of a cluster elsewhere
                addresses = {"api_endpoint": "tcp://127.0.0.1:1", "control_endpoint": "tcp://127.0.0.1:2"}
                pathlib.Path(other, "coordinator.json").write_text(json.dumps(addresses))
                done = run_tailor("drain", 0, "--last", "--endpoint", cluster.endpoint, "--run-dir", other)
                self.assertEqual(done.returncode, 1)
                self.assertIn("is at tcp://127.0.0.1:1, not at " + cluster.endpoint, done.stderr)
            done = run_tailor("drain", 0, "--last", "--endpoint", cluster.endpoint, "--run-dir", "/nowhere")
            self.assertIn("no cluster runs in /nowhere", done.stderr)
            self.assertTrue(cluster.status()["ready"])
            cluster.stop()
            self.assertFalse(orders.exists())

    def test_the_last_one_leaves_only_where_that_is_said_and_nobody_waits_for_ever(self):
        with Cluster("--slots", 1) as cluster:
            refused = self.drain(cluster, 0)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("replica 0 is the last that serves", refused.stderr)
            self.assertIn("--last", refused.stderr)
            self.assertTrue(cluster.status()["ready"])

            with tempfile.NamedTemporaryFile("w+", suffix=".jsonl") as prompts:
                for i in range(6):
                    prompts.write(json.dumps({"prompt": f"{i} and", "max_tokens": 400, "ignore_eos": True}) + "\n")
                prompts.flush()
                ask = subprocess.Popen([BIN / "tailor", "generate", "--endpoint", cluster.endpoint, "--json",
                                        "--prompts", prompts.name], stdout=subprocess.PIPE, text=True)
                wait_until(lambda: cluster.status()["waiting_requests"] == 3, PATIENCE_S, "one runs, two are ahead")
                # Piece of a line that somebody left.
                with open(pathlib.Path(cluster.run_dir, "orders"), "w") as orders:
                    orders.write("dra")
                done = run_tailor("drain", 0, "--last", "--run-dir", cluster.run_dir, timeout=PATIENCE_S)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("replica 0 has drained", done.stdout)
                answers = [json.loads(line) for line in ask.communicate(timeout=PATIENCE_S)[0].splitlines()]
            self.assertEqual([len(a["token_ids"]) for a in answers if "error" not in a], [400])
            self.assertEqual([a["error"]["code"] for a in answers if "error" in a], ["Unavailable"] * 5)
            late = run_tailor("generate", "--endpoint", cluster.endpoint, "hello", timeout=PATIENCE_S)
            self.assertEqual(late.returncode, 1)
            self.assertIn("every replica drains or has drained", late.stderr)
            status = cluster.status()
            self.assertEqual((status["ready"], status["expected_replicas"], status["waiting_requests"]), (False, 0, 0))
            self.assertEqual([life["replica"] for life in status["drained"]], [0])
            (coordinator,) = cluster.coordinators()  # one that is started anew waits for nobody either
            os.kill(coordinator, signal.SIGKILL)
            wait_until(lambda: cluster.coordinators() not in ([], [coordinator]) and cluster.status(), PATIENCE_S,
                       cluster.output())
            late = run_tailor("generate", "--endpoint", cluster.endpoint, "hello", timeout=PATIENCE_S)
            self.assertIn("every replica drains or has drained", late.stderr)

    def test_one_of_a_single_launch_stays_idle_and_takes_nobody_down(self):
        with Cluster("--single", replicas=2) as cluster:
            workers = cluster.workers()
            done = self.drain(cluster, 0)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("replica 0 has drained", done.stdout)
            (answer,) = cluster.generate("--prompt", "1 and one makes", "--max-tokens", 8, "--temperature", 0)
            self.assertEqual(answer["timings"]["replica"], 1)
            self.assertEqual(cluster.workers(), workers)


class BadStarts(unittest.TestCase):
    def one_sentence(self, *args):
        done = run_tailor("serve", "--endpoint", "tcp://127.0.0.1:*", *args, timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        return done.stderr

    def test_a_model_that_is_not_there(self):
        self.assertIn("/nowhere/model", self.one_sentence("--model", "/nowhere/model"))

    def test_a_shape_that_does_not_fit_the_cores_names_the_way_out(self):
        self.assertIn("--oversubscribe", self.one_sentence("--replicas", 64, "--tp", 3))

    def test_an_endpoint_that_is_taken(self):
        with Cluster() as cluster:
            done = run_tailor("serve", "--endpoint", cluster.endpoint, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertIn(cluster.endpoint.rsplit(":", 1)[1], done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
