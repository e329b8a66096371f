"""`--engine cuda` as it is served, on the fake device: real clusters whose workers run the engine and the kernels of a
GPU, compiled for the CPU (tailor-worker-fake). Under a storm that pauses and cancels, every answer has the tokens that
a cluster of `--engine cpu` gives, both in F32."""
import os
import pathlib
import random
import tempfile
import threading
import unittest

import cluster
from cluster import BIN, PATIENCE_S, ROOT, Cluster, wait_until
from tailor_client import Client, Finished, TokenChunk

MODEL = ROOT / "tests/fixtures/models/llama31_small"  # its config: weights are random
OPTIONS = ("--predictor", "none", "--dummy-weights", "--dtype", "f32", "--kv-dtype", "f32", "--slots", 8,
           "--max-context", 256, "--prefill-budget", 40)


def requests(count, seed):
    rng = random.Random(seed)
    for i in range(count):
        says = dict(token_ids=[rng.randrange(3, 384) for _ in range(rng.randrange(1, 70))], ignore_eos=True,
                    max_tokens=rng.choice([1, 9, 24, 60]), temperature=0, seed=i)
        if i % 3 == 0:  # begins in one block and ends in six: eight of these never fit
            says.update(token_ids=says["token_ids"][:5], max_tokens=90)
        if i % 4 == 1:
            says.update(temperature=0.8, top_k=20)
        if i % 4 == 2:
            says.update(repetition_penalty=1.2, frequency_penalty=0.3)
        yield says


def answer_of(endpoint, says):
    with Client(endpoint) as client:
        client.submit(**says)
        tokens, ends = [], []
        for event in client.events():
            if isinstance(event, TokenChunk):
                tokens += event.token_ids
            elif isinstance(event, Finished):
                ends.append(event)
    return tokens, ends


def answers_of(endpoint, work):
    """All at once, each a client of its own."""
    found = [None] * len(work)

    def ask(i):
        found[i] = answer_of(endpoint, work[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return found


def change_minds(endpoint, stop):
    """Long answers that are cancelled on the way, and clients that vanish."""
    turn = 0
    while not stop.is_set():
        turn += 1
        client = Client(endpoint)
        request = client.submit(token_ids=[5, 6, 7 + turn % 100], max_tokens=180, temperature=0, ignore_eos=True)
        client.poll(0.2)
        if turn % 2:
            client.cancel(request)
            for _ in client.events():
                pass
        client.close()
        stop.wait(0.1)  # a rate, not a synchronisation


class FakeDevice(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = list(requests(28, 3))
        with Cluster("--engine", "cpu", *OPTIONS, model=MODEL) as oracle:
            cls.wanted = [tokens for tokens, _ in answers_of(oracle.endpoint, cls.work)]
        # `tailor` looks for its programs where it lies.
        cls.programs = tempfile.TemporaryDirectory(dir=BIN.parent, prefix="fake-bin-")
        folder = pathlib.Path(cls.programs.name)
        for name in ("tailor", "tailor-coordinator"):
            os.link(BIN / name, folder / name)
        os.link(BIN / "tailor-worker-fake", folder / "tailor-worker-cuda")
        cluster.BIN = folder
        # And for GPUs, one a rank, by nvidia-smi.
        smi = folder / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "".join(f"echo '{i}, GPU-{i}, NVIDIA Fake, 999.1, 9.0, Disabled, 81559, 81000'\n"
                                               for i in range(2)), encoding="utf-8")
        smi.chmod(0o755)
        cls.environment = {name: value for name, value in cluster.ENVIRONMENT.items() if name != "CUDA_VISIBLE_DEVICES"}
        cls.environment["PATH"] = f"{folder}:{cls.environment['PATH']}"

    @classmethod
    def tearDownClass(cls):
        cluster.BIN = BIN
        cls.programs.cleanup()

    def storm(self, replicas, tp):
        memory = {1: "576KiB", 2: "384KiB"}[tp]  # of a rank: 24 blocks, too few for 8 answers
        with Cluster("--engine", "cuda", "--oversubscribe", *OPTIONS, "--kv-memory", memory, model=MODEL,
                     replicas=replicas, tp=tp, environment=self.environment) as served:
            stop = threading.Event()
            company = threading.Thread(target=change_minds, args=(served.endpoint, stop))
            company.start()
            try:
                found = answers_of(served.endpoint, self.work)
            finally:
                stop.set()
                company.join()
            for says, wanted, (tokens, ends) in zip(self.work, self.wanted, found):
                self.assertEqual(len(ends), 1)
                self.assertIsNone(ends[0].error)
                self.assertEqual(tokens, wanted, says)
            wait_until(lambda: served.status()["active_requests"] == 0, PATIENCE_S, "those of the vanished are cancelled")
            status = served.status()
            self.assertGreater(status["counters"]["preemptions"], 0, "the storm was too mild to test anything")
            self.assertEqual({r["engine"] for r in status["replicas"]}, {"cuda"})
            wait_until(lambda: all(r["free_blocks"] == r["num_blocks"] for r in served.status()["replicas"]), PATIENCE_S,
                       "every replica has all its blocks back")

    def test_two_replicas_in_a_storm(self):
        self.storm(replicas=2, tp=1)

    def test_one_replica_of_two_ranks_in_a_storm(self):
        self.storm(replicas=1, tp=2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
