"""The predictor is advice: killed, stopped or absent, every answer has the same tokens and none is lost."""
import itertools
import os
import pathlib
import re
import signal
import unittest

from cluster import PATIENCE_S, Cluster, freeze_main_thread, wait_until
from storm_test import prompts
from tailor_client import Client, Finished, TokenChunk

RUNS = itertools.count()
WORK = [(f"r{i}", prompt, 12 + 5 * (i % 4)) for i, prompt in enumerate(prompts(10))]


def answers(cluster, then=lambda: None):
    """All of WORK at once; `then` is called at the first token. Gives {name: (token ids, ends)}."""
    found = {name: ([], []) for name, _, _ in WORK}
    run = f"{next(RUNS)}/"  # the coordinator remembers names for a while
    with Client(cluster.endpoint) as client:
        for name, prompt, max_tokens in WORK:
            client.submit(messages=[{"role": "user", "content": prompt}], request_id=run + name, max_tokens=max_tokens,
                          temperature=0.7, seed=7, ignore_eos=True)
        told = False
        for event in client.events(timeout_s=PATIENCE_S):
            name = event.request_id.removeprefix(run)
            if isinstance(event, TokenChunk):
                found[name][0].extend(event.token_ids)
                if not told:
                    told = True
                    then()
            elif isinstance(event, Finished):
                found[name][1].append(event)
    return found


class Predictor(unittest.TestCase):
    def check(self, found, reference=None):
        for name, _, max_tokens in WORK:
            ids, ends = found[name]
            self.assertEqual(len(ends), 1, name)
            self.assertIsNone(ends[0].error)
            self.assertEqual(len(ids), max_tokens)
            if reference is not None:
                self.assertEqual(ids, reference[name][0], name)

    def state(self, cluster):
        return (cluster.status() or {}).get("predictor", "")

    def pid(self, cluster):
        return int(re.search(r"pid (\d+)", self.state(cluster)).group(1))

    def wait_state(self, cluster, state):
        wait_until(lambda: self.state(cluster).startswith(state), PATIENCE_S, f"predictor {state}: {self.state(cluster)}")

    def wait_all_predicted(self, cluster):
        wait_until(lambda: cluster.status()["counters"]["predictor_open"] == 0, PATIENCE_S, "no question is open")

    def test_killed_stopped_or_absent_it_changes_no_answer(self):
        with Cluster("--slots", 2, "--policy", "fcfs", "--predictor", "none") as cluster:
            reference = answers(cluster)
            self.check(reference)
            self.assertEqual(self.state(cluster), "none")
        with Cluster("--slots", 2, "--policy", "tie", "--predictor", "none") as cluster:
            self.check(answers(cluster), reference)
            log = self.coordinator_log(cluster)
            self.assertEqual(log.count("no predictor is here"), 1, "said once")
        with Cluster("--slots", 2, "--predictor", "prompt-length") as cluster:
            self.assertEqual(cluster.status()["policy"], "tie")
            self.wait_state(cluster, "ready: prompt-length")
            self.check(answers(cluster), reference)
            self.wait_all_predicted(cluster)
            self.assertEqual(cluster.status()["counters"]["predictor_answered"], len(WORK))
            self.log_shows_law_key_and_place(cluster)

            old = self.pid(cluster)
            self.check(answers(cluster, then=lambda: os.kill(old, signal.SIGKILL)), reference)
            wait_until(lambda: self.state(cluster).startswith("ready") and self.pid(cluster) != old, PATIENCE_S,
                       "it is started again")
            before = cluster.status()["counters"]["predictor_answered"]
            self.check(answers(cluster), reference)
            self.wait_all_predicted(cluster)
            counters = cluster.status()["counters"]
            self.assertEqual(counters["predictor_answered"], before + len(WORK), "predictions are back")
            self.assertGreaterEqual(counters["predictor_losses"], 1)

            stopped = self.pid(cluster)
            os.kill(stopped, signal.SIGSTOP)
            try:
                self.check(answers(cluster), reference)
                self.wait_state(cluster, "lost")
            finally:
                os.kill(stopped, signal.SIGCONT)
            self.wait_state(cluster, "ready")
            self.assertEqual(self.pid(cluster), stopped)

    def test_one_whose_main_thread_stands_still_is_started_again(self):
        with Cluster("--predictor", "prompt-length", "--stuck-after-ms", 2000) as cluster:
            self.wait_state(cluster, "ready")
            old = self.pid(cluster)
            freeze_main_thread(old)
            wait_until(lambda: self.state(cluster).startswith("ready") and self.pid(cluster) != old, PATIENCE_S,
                       "another one is ready")

    def test_what_ships_for_the_default_model_reads_prompts_and_hidden_states(self):
        with Cluster("--slots", 2, "--policy", "fcfs", "--predictor", "none") as cluster:
            reference = answers(cluster)
        with Cluster("--slots", 2) as cluster:
            self.assertEqual(cluster.status()["policy"], "tie")
            self.wait_state(cluster, "ready: SmolLM2")
            self.check(answers(cluster), reference)
            self.wait_all_predicted(cluster)
            log = self.coordinator_log(cluster)
            law = r"request (\d+): %s law log-t mu (\S+) sigma (\S+) nu \S+, E \S+"
            predicted, probed = re.findall(law % "predicted", log), re.findall(law % "probed", log)
            self.assertEqual(len({request for request, *_ in probed}), len(WORK))
            self.assertGreater(len({mu for _, mu, _ in predicted}), 1, "prompts are told apart")
            self.assertEqual(len({mu for _, mu, _ in probed}), len(WORK))
            # Prompts that no encoder likes: predicted, or the population law; never an error.
            strange = ["", "\u3053\u3093\u306b\u3061\u306f " * 5, "word " * 900, "\u0000\uffff\u202e"]
            with Client(cluster.endpoint) as client:
                for i, text in enumerate(strange):
                    client.submit(messages=[{"role": "user", "content": text}], request_id=f"strange/{i}", max_tokens=4)
                ends = [event for event in client.events(timeout_s=PATIENCE_S) if isinstance(event, Finished)]
            self.assertEqual(len(ends), len(strange))
            self.assertTrue(all(end.error is None for end in ends))

    def coordinator_log(self, cluster):
        return pathlib.Path(cluster.run_dir, "logs", "coordinator.log").read_text(encoding="utf-8")

    def log_shows_law_key_and_place(self, cluster):
        lines = re.findall(r"request (\d+): predicted law log-t mu (\S+) sigma (\S+) nu \S+, E \S+, CVaR \S+, "
                           r"beta \S+, key \S+, (one of \d+ that wait|already on replica 0)",
                           self.coordinator_log(cluster))
        self.assertEqual(len(lines), len(WORK))
        self.assertEqual(len({request for request, *_ in lines}), len(WORK))
        self.assertTrue(any(place.startswith("one of") for *_, place in lines), "2 slots: some had to wait")


if __name__ == "__main__":
    unittest.main(verbosity=2)
