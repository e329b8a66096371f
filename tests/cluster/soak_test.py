"""Half an hour of everything at once: clients that come and go, cancel and resume, a coordinator that is paused, replicas
that are killed. Every request ends exactly once with its own tokens; memory stays flat and no file handle is lost.

SOAK_S shortens it (seconds).
"""
import collections
import os
import pathlib
import random
import signal
import statistics
import threading
import time
import unittest

from cluster import Cluster, processes_under, wait_until
from storm_test import prompts
from tailor_client import Accepted, Client, Finished, Rejected, TokenChunk

SOAK_S = float(os.environ.get("SOAK_S", 1800))
CLIENTS = 50
SILENCE_S = 180  # nothing at all for so long, and the request is called lost
TROUBLE_EVERY_S = min(60.0, SOAK_S / 8)
PAUSES_S = (3, 9, 15)
WORK = [dict(messages=[{"role": "user", "content": prompt}], max_tokens=4 + (i * i) % 150, temperature=0.8 * (i % 2), seed=i)
        for i, prompt in enumerate(prompts(48))]


class Book:
    """What all clients saw, together."""

    def __init__(self):
        self.lock = threading.Lock()
        self.answers = {}  # work -> the tokens of its first whole answer
        self.ends = collections.Counter()
        self.faults = []

    def whole(self, work, ids):
        with self.lock:
            if self.answers.setdefault(work, ids) != ids:
                self.faults.append(f"work {work}: {ids} and {self.answers[work]}")

    def part(self, work, ids):
        with self.lock:
            known = self.answers.get(work)
            if known is not None and known[:len(ids)] != ids:
                self.faults.append(f"work {work}: {ids} is no beginning of {known}")

    def ended(self, how):
        with self.lock:
            self.ends[how] += 1

    def fault(self, text):
        with self.lock:
            self.faults.append(text)


def one_request(client, work, dice, book):
    """Submits, reads to the end (or cancels on the way); checks that it ends once, without holes."""
    name = client.submit(**WORK[work])
    cancel_at = dice.randrange(1, 40) if dice.random() < 0.2 else None
    ids, cancelled, heard = [], False, time.monotonic()
    while True:
        events = client.poll(1.0)
        if events:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_S:
            return book.fault(f"{name}: nothing for {SILENCE_S} s after {len(ids)} tokens{', cancelled' * cancelled}")
        for event in events:
            if event.request_id != name:
                book.fault(f"{event.request_id}: {type(event).__name__} after its end")
            elif isinstance(event, TokenChunk):
                if event.first_index != len(ids):
                    book.fault(f"{name}: token {event.first_index} after {len(ids)}")
                ids += event.token_ids
                if cancel_at is not None and len(ids) >= cancel_at and not cancelled:
                    cancelled = True
                    client.cancel(name)
            elif isinstance(event, Finished):
                reason = event.samples[0]["reason"]
                if reason in ("stop", "length"):
                    book.whole(work, ids)
                elif reason == "cancelled" and cancelled:
                    book.part(work, ids)
                else:
                    book.fault(f"{name}: {reason}, {event.error}, asked to cancel: {cancelled}")
                return book.ended(reason)
            elif isinstance(event, Rejected):
                if event.error.retry_after_s <= 0 and not cancelled:
                    book.fault(f"{name}: {event.error}")
                return book.ended("rejected")
            elif not isinstance(event, Accepted):
                book.fault(f"{name}: {event}")


def client_life(endpoint, number, until, book):
    dice = random.Random(number)
    while time.monotonic() < until:
        try:
            with Client(endpoint) as client:  # a new connection now and then
                for _ in range(dice.randrange(1, 12)):
                    if time.monotonic() < until:
                        one_request(client, dice.randrange(len(WORK)), dice, book)
        except Exception as error:  # pylint: disable=broad-except
            book.fault(f"client {number}: {error!r}")


def memory_mb(pid):
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Pss"].split()[0]) / 1024


def handles(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Soak(unittest.TestCase):
    def pid_of(self, cluster, program):
        (pid,) = [p for p, line in processes_under(cluster.run_dir).items() if line.split(" ", 1)[0].endswith(program)]
        return pid

    def test_half_an_hour_of_everything(self):
        with Cluster("--slots", 16, replicas=2) as cluster:
            try:
                self.soak(cluster)
            except BaseException:
                log = pathlib.Path(cluster.run_dir, "logs", "coordinator.log").read_text(encoding="utf-8").splitlines()
                print("\n".join([cluster.output(), *log[-40:]]), flush=True)
                raise

    def soak(self, cluster):
        dice, book = random.Random(1), Book()
        coordinator, supervisor = self.pid_of(cluster, "tailor-coordinator"), cluster.process.pid
        cluster.generate("--chat", "Hello", "--max-tokens", 4)
        wait_until(lambda: cluster.status()["predictor"].startswith("ready"), 120, "the predictor's connection is there")
        handles_before = handles(coordinator), handles(supervisor)

        def handles_are_back():
            return handles(coordinator) <= handles_before[0] and handles(supervisor) <= handles_before[1]

        until = time.monotonic() + SOAK_S
        clients = [threading.Thread(target=client_life, args=(cluster.endpoint, i, until, book)) for i in range(CLIENTS)]
        for client in clients:
            client.start()
        memory, trouble = [], 0
        while time.monotonic() < until:
            next_trouble = time.monotonic() + TROUBLE_EVERY_S
            wait_until(lambda: time.monotonic() >= min(next_trouble, until), TROUBLE_EVERY_S + 60, "the clock")
            self.make_trouble(cluster, coordinator, trouble, dice)
            trouble += 1
            wait_until(lambda: (cluster.status() or {}).get("ready"), 120, "ready after trouble")
            memory.append(memory_mb(coordinator))
        for client in clients:
            client.join(SILENCE_S + 60)
            self.assertFalse(client.is_alive(), "a client waits for ever")
        print(f"{trouble} troubles; {dict(book.ends)}; coordinator {memory[0]:.0f} .. {memory[-1]:.0f} MB "
              f"(most {max(memory):.0f})", flush=True)
        self.assertEqual(book.faults, [])
        self.assertGreater(book.ends["stop"] + book.ends["length"], CLIENTS)
        self.assertGreater(book.ends["cancelled"], 0)
        wait_until(lambda: self.idle(cluster), 60, "idle, every block free")
        try:
            wait_until(handles_are_back, 60, f"{handles_before} handles as before")
        except AssertionError:
            for pid in (coordinator, supervisor):
                print(pid, sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")))
            raise
        self.assertEqual(self.pid_of(cluster, "tailor-coordinator"), coordinator, "the same coordinator all along")
        third = len(memory) // 3
        early, late = statistics.median(memory[third:2 * third] or memory), statistics.median(memory[2 * third:] or memory)
        self.assertLess(late, 1.1 * early + 8, f"memory grows: {memory}")

    def make_trouble(self, cluster, coordinator, number, dice):
        if number % 2 == 0:
            pause = PAUSES_S[number // 2 % len(PAUSES_S)]
            os.kill(coordinator, signal.SIGSTOP)
            try:
                resume_at = time.monotonic() + pause
                wait_until(lambda: time.monotonic() >= resume_at, pause + 60, "the pause")
            finally:
                os.kill(coordinator, signal.SIGCONT)
        else:
            os.kill(dice.choice(cluster.workers()), signal.SIGKILL)

    def idle(self, cluster):
        status = cluster.status()
        return status and status["ready"] and status["waiting_requests"] == status["active_requests"] == 0 and all(
            replica["free_blocks"] == replica["num_blocks"] for replica in status["replicas"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
