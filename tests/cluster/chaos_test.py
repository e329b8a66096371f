"""What is killed with SIGKILL comes back, or goes away without a trace; streams go on behind their last token."""
import contextlib
import os
import pathlib
import signal
import unittest

from cluster import PATIENCE_S, Cluster, freeze_main_thread, processes_under, wait_until
from tailor_client import Client, Finished, TokenChunk

STORY = "Tell me a long story about a lighthouse keeper and the sea."


class Chaos(unittest.TestCase):
    def stream(self, client, tokens_before, then, max_tokens=96):
        """Sends the story, calls `then` once `tokens_before` tokens are here; gives (token ids, end)."""
        client.submit(messages=[{"role": "user", "content": STORY}], max_tokens=max_tokens, temperature=0,
                      ignore_eos=True)
        ids, end, done = [], None, False
        for event in client.events():
            if isinstance(event, TokenChunk):
                self.assertEqual(event.first_index, len(ids), "a hole or a repeat")
                ids += event.token_ids
                if len(ids) >= tokens_before and not done:
                    done = True
                    then()
            elif isinstance(event, Finished):
                self.assertIsNone(end, "a second end")
                end = event
        return ids, end

    def test_a_killed_worker_costs_a_pause_not_a_token(self):
        with Cluster() as cluster, Client(cluster.endpoint) as client:
            alone, _ = self.stream(client, 1, lambda: None)
            (worker,) = cluster.workers()
            ids, end = self.stream(client, 10, lambda: os.kill(worker, signal.SIGKILL))
            self.assertIsNone(end.error)
            self.assertGreaterEqual(end.timings["attempts"], 2)
            self.assertEqual(ids, alone)
            wait_until(lambda: (cluster.status() or {}).get("ready"), PATIENCE_S, "ready again")
            self.assertNotEqual(cluster.workers(), [worker])

    def test_a_leader_that_is_stopped_and_never_continued_is_started_again(self):
        with Cluster() as cluster, Client(cluster.endpoint) as client:
            alone, _ = self.stream(client, 1, lambda: None)
            (worker,) = cluster.workers()
            ids, end = self.stream(client, 10, lambda: os.kill(worker, signal.SIGSTOP))
            self.assertIsNone(end.error)
            self.assertGreaterEqual(end.timings["attempts"], 2)
            self.assertEqual(ids, alone)
            self.assertNotEqual(cluster.workers(), [worker])

    def test_a_main_thread_that_stands_still_ends_its_process(self):
        with Cluster("--stuck-after-ms", 1500) as cluster, Client(cluster.endpoint) as client:
            (worker,) = cluster.workers()
            ids, end = self.stream(client, 10, lambda: freeze_main_thread(worker))
            self.assertIsNone(end.error)
            self.assertEqual(len(ids), 96)
            self.assertIn("the main thread has been stuck", cluster.output())
            (coordinator,) = cluster.coordinators()
            freeze_main_thread(coordinator)
            wait_until(lambda: (cluster.status() or {}).get("ready") and cluster.coordinators() != [coordinator], 60,
                       "ready again with another coordinator")

    def test_output_that_nobody_reads_keeps_the_supervisor_from_nothing(self):
        unread, full = os.pipe()
        self.addCleanup(os.close, unread)
        os.set_blocking(full, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(full, b"x")
        os.set_blocking(full, True)
        with Cluster(output=full) as cluster:
            os.close(full)
            (worker,) = cluster.workers()
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: cluster.workers() not in ([], [worker]), 60, "the worker is started again")
            cluster.process.send_signal(signal.SIGTERM)
            self.assertEqual(cluster.process.wait(10), 0)

    def test_a_killed_rank_of_a_tp_group_takes_its_group_down_and_the_group_comes_back(self):
        with Cluster(replicas=1, tp=2) as cluster, Client(cluster.endpoint) as client:
            old = cluster.workers()
            self.assertEqual(len(old), 2)
            ids, end = self.stream(client, 8, lambda: os.kill(old[1], signal.SIGKILL))
            self.assertIsNone(end.error)
            self.assertEqual(len(ids), 96)
            self.assertEqual(set(cluster.workers()) & set(old), set())

    def test_a_killed_coordinator_comes_back_at_the_same_endpoint(self):
        with Cluster() as cluster:
            (old,) = [p for p, line in processes_under(cluster.run_dir).items()
                      if line.split(" ", 1)[0].endswith("tailor-coordinator")]
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: old not in processes_under(cluster.run_dir), PATIENCE_S, "the old coordinator is gone")
            wait_until(lambda: (cluster.status() or {}).get("ready"), PATIENCE_S, "ready again")
            (answer,) = cluster.generate("--chat", "Hello", "--max-tokens", 4, "--temperature", 0)
            self.assertTrue(answer["token_ids"])

    def test_a_killed_mpirun_leaves_no_rank_behind(self):
        with Cluster() as cluster:
            (worker,) = cluster.workers()
            status = pathlib.Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()
            os.kill(int(status[1]), signal.SIGKILL)
            wait_until(lambda: worker not in cluster.workers(), PATIENCE_S, "the rank of the killed mpirun is gone")
            wait_until(lambda: (cluster.status() or {}).get("ready"), PATIENCE_S, "ready again")

    def test_a_killed_supervisor_leaves_no_process_and_no_shared_memory(self):
        with Cluster(replicas=1, tp=2) as cluster:
            self.assertTrue(processes_under(cluster.run_dir))
            shared = cluster.shared_memory()
            self.assertTrue(shared, "there is something to leave behind")
            cluster.process.kill()
            cluster.process.wait()
            wait_until(lambda: not processes_under(cluster.run_dir), PATIENCE_S, "no process left")
            wait_until(lambda: not any(map(os.path.exists, shared)), PATIENCE_S, "no shared memory left")


if __name__ == "__main__":
    unittest.main(verbosity=2)
